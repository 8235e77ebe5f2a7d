-- Takes a lock, or takes it again: a repeated call of the same holder succeeds.
--
-- KEYS    1  the lock
-- ARGV    1  the holder's token, 2  its lease in milliseconds
-- Returns 0: the holder has it; else milliseconds after which it is free at the latest
-- Cost    O(1)

local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  return math.max(1, redis.call('PTTL', KEYS[1]))
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 0
