-- Take a lock, or a place in its queue.
-- KEYS: lock, fence, queue, waiting, released.
-- ARGV: 1 token, 2 ttl ms, 3 for how long the number is remembered, 4 for how long the
-- caller is believed to be waiting, ms.
-- Returns {1, fencing number as text}, or {0, ms until it is worth trying again, id of the
-- last release}. Cost: O(log waiters).
local lock, fence, queue, waiting, released = unpack(KEYS)
local token, patience = ARGV[1], tonumber(ARGV[4])
local t = redis.call('TIME')
local us = t[1] * 1000000 + t[2]
local ms = math.floor(us / 1000)
local holder = redis.call('GET', lock)
local head = redis.call('ZRANGE', queue, 0, 0)[1]
if head then
  -- Who was killed while it waited must not hold up the others.
  for _, gone in ipairs(redis.call('ZRANGEBYSCORE', waiting, '-inf', '(' .. ms)) do
    redis.call('ZREM', waiting, gone)
    redis.call('ZREM', queue, gone)
  end
  head = redis.call('ZRANGE', queue, 0, 0)[1]
end
if (not holder or holder == token) and (not head or head == token) then
  redis.call('SET', lock, token, 'PX', ARGV[2])
  if head then
    redis.call('ZREM', queue, token)
    redis.call('ZREM', waiting, token)
  end
  -- By the clock too: a number that was forgotten is not given out again.
  local number = math.max((tonumber(redis.call('GET', fence) or 0) or 0) + 1, us)
  -- Nor is somebody else's: a double counts no further than that.
  if number >= 2 ^ 53 then number = us end
  local text = string.format('%.0f', number)
  redis.call('SET', fence, text, 'PX', ARGV[3])
  return {1, text}
end
if not redis.call('ZSCORE', queue, token) then
  local last = redis.call('ZRANGE', queue, -1, -1, 'WITHSCORES')[2] or 0
  redis.call('ZADD', queue, last + 1, token)
end
redis.call('ZADD', waiting, ms + patience, token)
redis.call('PEXPIRE', queue, 2 * patience)
redis.call('PEXPIRE', waiting, 2 * patience)
local wait
if holder and holder ~= token then wait = redis.call('PTTL', lock)
else wait = tonumber(redis.call('ZSCORE', waiting, head)) - ms end
local last = redis.call('XREVRANGE', released, '+', '-', 'COUNT', 1)[1]
return {0, math.max(1, math.min(wait + 1, math.floor(patience / 3))),
        last and last[1] or '0-0'}
