#!lua
-- Adds one message for each of some users, unless one of that id was added before.
-- KEYS  messages, lines, users, delayed, dedup, meta, wake
-- ARGV  now in ms ('': the server's), dedup id ('': none), dedup window in ms,
--       due in ms since 1970 (0: now), ttl in ms (0: none), kind, key,
--       then user and value for each message
-- Returns the ids, '' for a duplicate.
-- Cost: O(log N) a message.
local messages, lines, users, delayed, dedup, meta, wake = unpack(KEYS)
local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local dedup_id, due, ttl = ARGV[2], tonumber(ARGV[4]), tonumber(ARGV[5])
local forget_at = now + tonumber(ARGV[3])
local kind, key = ARGV[6], ARGV[7]
local wanted = (#ARGV - 7) / 2

-- Before the look-up, and more than are added, so that the set stays as small as the
-- ids that still count.
local old = redis.call(
  'ZRANGE', dedup, '-inf', now, 'BYSCORE', 'LIMIT', 0, 2 * wanted + 100
)
for first = 1, #old, 1000 do
  redis.call('ZREM', dedup, unpack(old, first, math.min(first + 999, #old)))
end

local ids, added, ready = {}, 0, 0
for n = 1, wanted do
  local user, value = ARGV[6 + 2 * n], ARGV[7 + 2 * n]
  local known = false
  if dedup_id ~= '' then
    local member = user .. ':' .. dedup_id
    local until_ = redis.call('ZSCORE', dedup, member)
    known = until_ and tonumber(until_) > now
    if not known then
      redis.call('ZADD', dedup, forget_at, member)
    end
  end
  if known then
    ids[n] = ''
  else
    local id = string.format('%016x', redis.call('HINCRBY', meta, 'last', 1))
    local starts = math.max(due, now)
    local expires = ttl > 0 and starts + ttl or 0
    -- user, kind, key, due, expires, attempts, uncertain, reason, died, value
    redis.call('HSET', messages, id, cmsgpack.pack(
      { user, kind, key, starts, expires, 0, 0, '', 0, value }
    ))
    if due > now then
      redis.call('ZADD', delayed, due, id)
    else
      redis.call('ZADD', lines, 0, user .. ':' .. id)
      redis.call('ZADD', users, 'NX', now, user)
      ready = ready + 1
    end
    ids[n] = id
    added = added + 1
  end
end
redis.call('HINCRBY', meta, 'enqueued', added)
redis.call('HINCRBY', meta, 'duplicates', wanted - added)
if ready > 0 then
  -- A few tokens are enough: who wakes up takes what there is.
  for _ = redis.call('LLEN', wake) + 1, math.min(ready, 32) do
    redis.call('LPUSH', wake, 1)
  end
end
return ids
