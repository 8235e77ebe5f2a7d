-- Give up a lock, or a place in its queue, and wake the waiters.
-- KEYS: 1 queue, 2 waiting, 3 released, then the holder of each seat. ARGV: token.
-- Returns 1 if the lock was the caller's. Cost: O(log waiters + seats).
local queue, waiting, released = unpack(KEYS, 1, 3)
local held = false
for n = 4, #KEYS do
  if redis.call('GET', KEYS[n]) == ARGV[1] then
    redis.call('DEL', KEYS[n])
    held = true
  end
end
if not redis.call('ZRANGE', queue, 0, 0)[1] then return held and 1 or 0 end
local left = redis.call('ZREM', queue, ARGV[1])
redis.call('ZREM', waiting, ARGV[1])
if (held or left == 1) and redis.call('ZRANGE', queue, 0, 0)[1] then
  redis.call('XADD', released, 'MAXLEN', 1, '*', 'by', ARGV[1])
  -- A waiter asks for the last id again each few seconds.
  redis.call('PEXPIRE', released, 60000)
end
return held and 1 or 0
