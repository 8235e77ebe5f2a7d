-- Hold a lock for longer, if it still is the caller's.
-- KEYS: lock, fence. ARGV: 1 token, 2 ttl ms, 3 for how long the number is
-- remembered, ms. Returns 1, or 0. Cost: O(1).
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return 1
