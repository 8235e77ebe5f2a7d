-- Take a lock, one of its seats, or a place in its queue.
-- KEYS: 1 fence, 2 queue, 3 waiting, 4 released, then the holder of each seat.
-- ARGV: 1 token, 2 ttl ms, 3 for how long the number is remembered, 4 for how long the
-- caller is believed to be waiting, ms.
-- Returns {1, fencing number as text, seat from 0}, or {0, ms until it is worth trying
-- again, id of the last release}. Cost: O(log waiters + seats).
local fence, queue, waiting, released = unpack(KEYS, 1, 4)
local token, patience = ARGV[1], tonumber(ARGV[4])
local t = redis.call('TIME')
local us = t[1] * 1000000 + t[2]
local ms = math.floor(us / 1000)
-- 1. A waiter that was killed must not hold up the others.
if redis.call('ZRANGE', queue, 0, 0)[1] then
  for _, gone in ipairs(redis.call('ZRANGEBYSCORE', waiting, '-inf', '(' .. ms)) do
    redis.call('ZREM', waiting, gone)
    redis.call('ZREM', queue, gone)
  end
end
-- 2. The seat that the caller has (its last answer was lost), else those that are free.
local free, seat = {}, nil
for n = 5, #KEYS do
  local holder = redis.call('GET', KEYS[n])
  -- No lease of ours is without an end: other software wrote it, and will not release it.
  if holder and redis.call('PTTL', KEYS[n]) == -1 then holder = false end
  if holder == token then seat = n end
  if not holder then free[#free + 1] = n end
end
-- 3. A free seat is for the caller when fewer wait before it than seats are free.
local first = #free > 0 and redis.call('ZRANGE', queue, 0, #free - 1) or {}
if not seat then
  local admitted = #first < #free
  for _, each in ipairs(first) do admitted = admitted or each == token end
  if admitted then seat = free[1] end
end
if seat then
  redis.call('SET', KEYS[seat], token, 'PX', ARGV[2])
  if first[1] then
    redis.call('ZREM', queue, token)
    redis.call('ZREM', waiting, token)
  end
  -- By the clock too: a number that was forgotten is not given out again.
  local number = math.max((tonumber(redis.call('GET', fence) or 0) or 0) + 1, us)
  -- Nor is somebody else's: a double counts no further than that.
  if number >= 2 ^ 53 then number = us end
  local text = string.format('%.0f', number)
  redis.call('SET', fence, text, 'PX', ARGV[3])
  return {1, text, seat - 5}
end
-- 4. Else a place at the end of the queue, or the one that the caller has.
if not redis.call('ZSCORE', queue, token) then
  local last = redis.call('ZRANGE', queue, -1, -1, 'WITHSCORES')[2] or 0
  redis.call('ZADD', queue, last + 1, token)
end
redis.call('ZADD', waiting, ms + patience, token)
-- For the waiter that is believed in for the longest.
for _, key in ipairs({queue, waiting}) do
  if redis.call('PTTL', key) < 2 * patience then redis.call('PEXPIRE', key, 2 * patience) end
end
-- 5. The next change that nobody announces: a lease or a waiter before it ends.
local wait = math.huge
for _, each in ipairs(first) do
  wait = math.min(wait, (tonumber(redis.call('ZSCORE', waiting, each)) or ms) - ms)
end
for n = 5, #KEYS do
  local left = #free == 0 and redis.call('PTTL', KEYS[n]) or -1
  if left >= 0 then wait = math.min(wait, left) end
end
local last = redis.call('XREVRANGE', released, '+', '-', 'COUNT', 1)[1]
return {0, math.max(1, math.min(wait + 1, math.floor(patience / 3))),
        last and last[1] or '0-0'}
