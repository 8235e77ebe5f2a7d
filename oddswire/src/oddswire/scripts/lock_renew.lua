-- Hold a lock for longer, if it still is the caller's.
-- KEYS: lock, fence. ARGV: 1 token, 2 ttl ms. Returns 1, or 0. Cost: O(1).
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PEXPIRE', KEYS[2], math.max(86400000, 2 * tonumber(ARGV[2])))
return 1
