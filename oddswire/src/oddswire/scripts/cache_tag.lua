-- Return the nonces of a tag, the hard and the soft one, made where there are none.
-- KEYS: 1 nonces.
-- ARGV: 1 random nonces, new for each attempt, 2 milliseconds it must live at most.
-- Returns {nonces, 1 if the key was written else 0}.
-- Cost: O(1). It is written only when less than half of its life is left, for PEXPIRE
--   tells every process that the key has changed.
local nonce = redis.pcall('GET', KEYS[1])
if type(nonce) == 'string' and #nonce == 16 then
  if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) / 2 then
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
    redis.call('EXISTS', KEYS[1])
    return {nonce, 1}
  end
  return {nonce, 0}
end
redis.call('EXISTS', KEYS[1])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('EXISTS', KEYS[1])
return {ARGV[1], 1}
