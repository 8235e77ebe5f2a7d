-- Claim the comparison with the source, if it is due: one process makes it.
-- KEYS: stats. ARGV: 1 clock offset, 2 seconds after which another may, if this one is gone.
-- Returns 1 when it is the caller's, else 0. Cost: O(1).
local now = clock(ARGV[1]) / 1000000
local due = tonumber(redis.call('HGET', KEYS[1], 'due') or 0) or 0
-- Further off than it is ever set to: the clock went back.
if due > now and due < now + 7200 then return 0 end
redis.call('HSET', KEYS[1], 'due', text(math.floor(now) + tonumber(ARGV[2])))
return 1
