#!lua flags=allow-oom
-- Hands out the first message of some users' lines, each under a lease.
-- KEYS  messages, lines, users, leases, delayed, paused, parked, meta, wake
-- ARGV  now in ms ('': the server's), how many, token, lease in ms, most steps
-- Returns {now, ms until there may be more (-1: unknown), expired, reclaimed, taken},
-- each taken one {id, user, kind, key, due, expires, attempts, uncertain, value}.
-- Cost: O(log N) a step; a step is a message handed out, expired, parked or moved.
local messages, lines, users, leases = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local delayed, paused, parked = KEYS[5], KEYS[6], KEYS[7]
local meta, wake = KEYS[8], KEYS[9]
local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local want, token = tonumber(ARGV[2]), ARGV[3]
local lease_end, steps = now + tonumber(ARGV[4]), tonumber(ARGV[5])
local more = false

local function read(id)
  local packed = redis.call('HGET', messages, id)
  return message_of(packed)
end

local function join_line(user, id)
  redis.call('ZADD', lines, 0, user .. ':' .. id)
  -- NX: a user who waits out a retry, or is being served, stays so.
  redis.call('ZADD', users, 'NX', now, user)
end

local any_paused = redis.call('SCARD', paused) > 0
local function is_paused(message)
  return any_paused and (
    redis.call('SISMEMBER', paused, 'kind:' .. message[2]) == 1
    or redis.call('SISMEMBER', paused, 'key:' .. message[3]) == 1
  )
end

-- 1. Delayed messages that became due join their lines.
local due = redis.call('ZRANGE', delayed, '-inf', now, 'BYSCORE', 'LIMIT', 0, steps)
for _, id in ipairs(due) do
  redis.call('ZREM', delayed, id)
  local message = read(id)
  if message then
    join_line(message[1], id)
  end
end
more = #due == steps

-- 2. Messages that were resumed go back to their places in their lines. Each take does a
-- part of it, so no resume ends half way.
local from = redis.call('HGET', meta, 'resuming')
if from then
  local members = redis.call(
    'ZRANGE', parked, from, '+', 'BYLEX', 'LIMIT', 0, steps
  )
  for _, member in ipairs(members) do
    local user, id = string.match(member, '^(.*):(%x+)$')
    local message = read(id)
    if not message then
      redis.call('ZREM', parked, member)
    elseif not is_paused(message) then
      redis.call('ZREM', parked, member)
      join_line(user, id)
    end
  end
  if #members < steps then
    redis.call('HDEL', meta, 'resuming')
  else
    redis.call('HSET', meta, 'resuming', '(' .. members[#members])
    more = true
  end
end

-- 3. A pause of everything hands out nothing.
local taken, expired, reclaimed = {}, 0, 0
if redis.call('SISMEMBER', paused, '*') == 1 then
  return { now, -1, 0, 0, taken }
end

-- 4. The lines that are due, the longest waiting first. A line under a lease is due when
-- its lease ends: nobody needs to notice that its worker died.
local ready = redis.call('ZRANGE', users, '-inf', now, 'BYSCORE', 'LIMIT', 0, want)
more = more or #ready == want
for _, user in ipairs(ready) do
  -- 4a. Another program wrote this member: no user has this name.
  local foreign = not string.match(user, '^-?%d+$') or #user > 20
  if foreign then
    redis.call('ZREM', users, user)
    redis.call('HDEL', leases, user)
    for _, member in ipairs(redis.call('ZRANGE', lines, '[' .. user .. ':',
      '(' .. user .. ';', 'BYLEX', 'LIMIT', 0, 1000)) do
      redis.call('ZREM', lines, member)
    end
    bump(meta, 'foreign', 1)
  end
  -- 4b. A lease is left: its worker died with that message, and may have delivered it. The
  -- message is uncertain from here on, also where it is not the next one to be handed out:
  -- it was paused since, or another became due that goes before it.
  local before = not foreign and redis.call('HGET', leases, user)
  local lost = before and string.sub(before, -16)
  local message = lost and read(lost)
  if message and message[7] == 0 then
    message[7] = 1
    redis.call('HSET', messages, lost, cmsgpack.pack(message))
  end
  -- 4c. The first message of the line that is neither expired nor paused is handed out, and
  -- the line moves to the end of its lease.
  while not foreign do
    if steps == 0 then
      more = true
      break
    end
    steps = steps - 1
    local member = redis.call(
      'ZRANGE', lines, '[' .. user .. ':', '(' .. user .. ';', 'BYLEX', 'LIMIT', 0, 1
    )[1]
    if not member then
      redis.call('ZREM', users, user)
      redis.call('HDEL', leases, user)
      break
    end
    local id = string.sub(member, -16)
    local message = read(id)
    if not message then
      redis.call('ZREM', lines, member)
      if redis.call('HDEL', messages, id) == 1 then bump(meta, 'foreign', 1) end
    elseif message[5] > 0 and message[5] <= now then
      redis.call('ZREM', lines, member)
      redis.call('HDEL', messages, id)
      expired = expired + 1
    elseif is_paused(message) then
      redis.call('ZREM', lines, member)
      redis.call('ZADD', parked, 0, member)
    else
      if lost == id then reclaimed = reclaimed + 1 end
      redis.call('HSET', leases, user, token .. ':' .. id)
      redis.call('ZADD', users, lease_end, user)
      taken[#taken + 1] = {
        id, user, message[2], message[3], message[4], message[5], message[6],
        message[7], message[10],
      }
      break
    end
  end
end
if expired > 0 then
  bump(meta, 'expired', expired)
end
if reclaimed > 0 then
  bump(meta, 'reclaimed', reclaimed)
end
if more then
  return { now, 0, expired, reclaimed, taken }
end
-- 5. Nothing is left to do now, and a later message adds its own wake-up.
redis.call('DEL', wake)
local next_at = math.huge
local user = redis.call('ZRANGE', users, 0, 0, 'WITHSCORES')
local later = redis.call('ZRANGE', delayed, 0, 0, 'WITHSCORES')
next_at = math.min(tonumber(user[2]) or next_at, tonumber(later[2]) or next_at)
if next_at == math.huge then
  return { now, -1, expired, reclaimed, taken }
end
return { now, math.max(0, next_at - now), expired, reclaimed, taken }
