#!lua flags=allow-oom
-- Removes the messages of a user, a kind or a key, in any state but being handled.
-- KEYS  messages, lines, leases, delayed, parked, dead, meta
-- ARGV  cursor, how many to look at, user ('': any), kind ('': any), key ('': any)
-- Returns {cursor, removed}; all were looked at when the cursor is '0' again.
-- Cost: O(how many).
local messages, lines, leases, delayed, parked, dead, meta = unpack(KEYS)
local user, kind, key = ARGV[3], ARGV[4], ARGV[5]
local page = redis.call('HSCAN', messages, ARGV[1], 'COUNT', ARGV[2])
local removed = 0
for n = 1, #page[2], 2 do
  local id = page[2][n]
  local message = cmsgpack.unpack(page[2][n + 1])
  local matches = (user == '' or message[1] == user)
    and (kind == '' or message[2] == kind)
    and (key == '' or message[3] == key)
  local lease = matches and redis.call('HGET', leases, message[1])
  if matches and not (lease and string.sub(lease, -16) == id) then
    local member = message[1] .. ':' .. id
    redis.call('HDEL', messages, id)
    redis.call('ZREM', lines, member)
    redis.call('ZREM', parked, member)
    redis.call('ZREM', delayed, id)
    redis.call('ZREM', dead, id)
    removed = removed + 1
  end
end
if removed > 0 then
  redis.call('HINCRBY', meta, 'purged', removed)
end
return { page[1], removed }
