-- Return the nonce of a tag, making one where there is none.
-- KEYS: 1 nonce.
-- ARGV: 1 a random nonce, new for each attempt, 2 milliseconds it must live at most.
-- Returns {nonce, 1 if the key was written else 0}.
-- Cost: O(1). It is written only when less than half of its life is left, for PEXPIRE
--   tells every process that the key has changed.
local nonce = redis.pcall('GET', KEYS[1])
if type(nonce) == 'string' and #nonce == 8 then
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
