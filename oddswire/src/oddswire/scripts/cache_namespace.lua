-- Return the nonce of a namespace, and a new one where the server is not the process it
-- was made under: one that restarted from disk, or was promoted, has old entries and old
-- nonces back.
-- KEYS: 1 nonce, 2 name of the server process (one slot).
-- ARGV: 1 a random nonce, 2 milliseconds it must live at most, 3 name of the server
--   process: its run id, or where INFO may not be asked a mark (KEYS 2 is another then).
-- Returns {nonce, 1 if the key was written else 0}.
-- Cost: O(1).
redis.call('EXISTS', KEYS[1], KEYS[2])
local nonce = redis.pcall('GET', KEYS[1])
local run = redis.pcall('GET', KEYS[2])
if type(nonce) == 'string' and #nonce == 8 and run == ARGV[3] then
  if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) / 2 then
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
    redis.call('PEXPIRE', KEYS[2], ARGV[2])
    redis.call('EXISTS', KEYS[1])
    return {nonce, 1}
  end
  return {nonce, 0}
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[2])
redis.call('EXISTS', KEYS[1])
return {ARGV[1], 1}
