#!lua
-- Adds one message for each of some users, unless one of that id was added before.
-- KEYS  messages, lines, users, delayed, dedup, meta, wake
-- ARGV  now in ms ('': the server's), dedup id ('': none), dedup window in ms,
--       due in ms since 1970 (0: now), ttl in ms (0: none), kind, key,
--       identity that the server must have ('': any), 1 if uncertain (else 0),
--       then user and value for each message, each user once, 1,000 at most
-- Returns the ids, '' for a duplicate; nil, and nothing was done, for another identity.
-- Cost: O(log N) a message.
local messages, lines, users, delayed, dedup, meta, wake = unpack(KEYS)
local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local dedup_id, due, ttl = ARGV[2], tonumber(ARGV[4]), tonumber(ARGV[5])
local forget_at = now + tonumber(ARGV[3])
local kind, key, uncertain = ARGV[6], ARGV[7], tonumber(ARGV[9])
local wanted = (#ARGV - 9) / 2
if ARGV[8] ~= '' and identity_of(meta) ~= ARGV[8] then
  return nil
end

-- More than are added, so that the set stays as small as the ids that still count.
local old = redis.call(
  'ZRANGE', dedup, '-inf', now, 'BYSCORE', 'LIMIT', 0, 2 * wanted + 100
)
if #old > 0 then
  redis.call('ZREM', dedup, unpack(old))
end

local known = {}
if dedup_id ~= '' then
  local members = {}
  for n = 1, wanted do
    members[n] = ARGV[8 + 2 * n] .. ':' .. dedup_id
  end
  local scores = redis.call('ZMSCORE', dedup, unpack(members))
  local added = {}
  for n = 1, wanted do
    known[n] = scores[n] and tonumber(scores[n]) > now
    if not known[n] then
      added[#added + 1] = forget_at
      added[#added + 1] = members[n]
    end
  end
  if #added > 0 then
    redis.call('ZADD', dedup, unpack(added))
  end
end

local starts = math.max(due, now)
local expires = ttl > 0 and starts + ttl or 0
local last = redis.pcall('HINCRBY', meta, 'last', wanted)
if type(last) == 'table' then
  -- Somebody else's. Above every id that was given: they count, and this is a time.
  last = now * 4096 + wanted
  redis.call('HSET', meta, 'last', string.format('%.0f', last))
end
last = last - wanted
local ids, packed, joining, waiting = {}, {}, {}, {}
for n = 1, wanted do
  ids[n] = ''
  if not known[n] then
    local user, id = ARGV[8 + 2 * n], string.format('%016x', last + n)
    ids[n] = id
    packed[#packed + 1] = id
    -- user, kind, key, due, expires, attempts, uncertain, reason, died, value
    packed[#packed + 1] = cmsgpack.pack(
      { user, kind, key, starts, expires, 0, uncertain, '', 0, ARGV[9 + 2 * n] }
    )
    joining[#joining + 1] = due > now and due or 0
    joining[#joining + 1] = due > now and id or user .. ':' .. id
    waiting[#waiting + 1] = now
    waiting[#waiting + 1] = user
  end
end
local added = #packed / 2
bump(meta, 'enqueued', added)
bump(meta, 'duplicates', wanted - added)
if added == 0 then
  return ids
end
redis.call('HSET', messages, unpack(packed))
if due > now then
  redis.call('ZADD', delayed, unpack(joining))
  return ids
end
redis.call('ZADD', lines, unpack(joining))
-- NX: a user who is being served, or waits for a next attempt, goes on doing so.
redis.call('ZADD', users, 'NX', unpack(waiting))
-- A few tokens are enough: who wakes up takes what there is.
for _ = redis.call('LLEN', wake) + 1, math.min(added, 32) do
  redis.call('LPUSH', wake, 1)
end
return ids
