-- Withdraw an intent: nothing changed in the source.
-- KEYS: intents. ARGV: 1 name, 2 intent. Returns 1, or 0 when it is not the caller's any more.
-- Cost: O(1).
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
return redis.call('HDEL', KEYS[1], ARGV[1])
