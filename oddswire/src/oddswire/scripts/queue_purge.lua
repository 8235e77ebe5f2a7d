#!lua flags=allow-oom
-- Removes the messages of a user, a kind or a key, in any state but being handled.
-- KEYS  messages, lines, users, leases, delayed, parked, dead, meta
-- ARGV  now in ms ('': the server's), cursor, how many to look at, user ('': any), kind ('': any), key ('': any)
-- Returns {cursor, removed}; all were looked at when the cursor is '0' again.
-- Cost: O(how many).
local messages, lines, users, leases, delayed, parked, dead, meta = unpack(KEYS)
local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local user, kind, key = ARGV[4], ARGV[5], ARGV[6]
local page = redis.call('HSCAN', messages, ARGV[2], 'COUNT', ARGV[3])
local removed = 0
for n = 1, #page[2], 2 do
  local id = page[2][n]
  local message = message_of(page[2][n + 1])
  local matches = message and (user == '' or message[1] == user)
    and (kind == '' or message[2] == kind)
    and (key == '' or message[3] == key)
  local lease = matches and redis.call('HGET', leases, message[1])
  if matches and not (lease and string.sub(lease, -16) == id) then
    local owner = message[1]
    local member = owner .. ':' .. id
    local first = redis.call(
      'ZRANGE', lines, '[' .. owner .. ':', '(' .. owner .. ';', 'BYLEX', 'LIMIT', 0, 1
    )[1]
    if first == member and not lease then
      -- Its user may be waiting for its next attempt, which the others need not.
      redis.call('ZADD', users, 'XX', now, owner)
    end
    redis.call('HDEL', messages, id)
    redis.call('ZREM', lines, member)
    redis.call('ZREM', parked, member)
    redis.call('ZREM', delayed, id)
    redis.call('ZREM', dead, id)
    removed = removed + 1
  end
end
if removed > 0 then
  bump(meta, 'purged', removed)
end
return { page[1], removed }
