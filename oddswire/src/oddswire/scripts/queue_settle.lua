#!lua flags=allow-oom
-- Ends a lease: the message is done, comes again, or is dead.
-- KEYS  messages, lines, users, leases, dead, meta
-- ARGV  now in ms ('': the server's), user, id, token, what (done, retry, wait,
--       release, dead), delay in ms, uncertain (0 or 1), reason, most dead letters
-- Returns 1, or 0: another worker has it, or had it and settled it.
-- Cost: O(log N).
local messages, lines, users, leases, dead, meta = unpack(KEYS)
local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local user, id, token, what = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local delay, uncertain, reason = tonumber(ARGV[6]), ARGV[7], ARGV[8]

local packed = redis.call('HGET', messages, id)
local message = message_of(packed)
if redis.call('HGET', leases, user) ~= token .. ':' .. id then
  -- 1. The caller does not own the line any more, perhaps since a server forgot it. The
  -- message comes again: it is uncertain.
  if message and message[7] == 0 and (what == 'done' or uncertain == '1') then
    message[7] = 1
    redis.call('HSET', messages, id, cmsgpack.pack(message))
  end
  return 0
end
-- 2. The lease ends, and the message leaves its line, or stays at its head.
redis.call('HDEL', leases, user)
if what == 'done' then
  redis.call('HDEL', messages, id)
  redis.call('ZREM', lines, user .. ':' .. id)
  bump(meta, 'delivered', 1)
elseif message then
  if what == 'retry' or what == 'dead' then
    message[6] = message[6] + 1
    message[8] = reason
  end
  if uncertain == '1' then
    message[7] = 1
  end
  if what == 'dead' then
    message[9] = now
    redis.call('ZREM', lines, user .. ':' .. id)
    redis.call('ZADD', dead, 0, id)
    bump(meta, 'dead', 1)
    for _ = tonumber(ARGV[9]) + 1, redis.call('ZCARD', dead) do
      local oldest = redis.call('ZPOPMIN', dead)[1]
      redis.call('HDEL', messages, oldest)
      bump(meta, 'dropped', 1)
    end
  elseif what == 'retry' then
    bump(meta, 'retried', 1)
  end
  if redis.call('HEXISTS', messages, id) == 1 then
    redis.call('HSET', messages, id, cmsgpack.pack(message))
  end
end
-- 3. The line is due again: at once, or after the delay.
local first = redis.call(
  'ZRANGE', lines, '[' .. user .. ':', '(' .. user .. ';', 'BYLEX', 'LIMIT', 0, 1
)[1]
if not first then
  redis.call('ZREM', users, user)
elseif what == 'retry' or what == 'wait' then
  -- The user waits, not only the message: what follows must not overtake it.
  redis.call('ZADD', users, now + delay, user)
else
  redis.call('ZADD', users, now, user)
end
return 1
