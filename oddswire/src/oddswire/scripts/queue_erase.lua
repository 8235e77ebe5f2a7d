#!lua flags=allow-oom
-- Removes what a user has in a queue, also what is being handled, or looks for it.
-- KEYS  messages, lines, users, leases, delayed, parked, dead, dedup, meta
-- ARGV  'erase' or 'look', user, 'messages' or 'ids', cursor, how many to look at
-- Returns {cursor, found}; all were looked at when the cursor is '0' again.
-- Cost: O(how many).
local messages, lines, users, leases, delayed, parked, dead, dedup, meta = unpack(KEYS)
local erases, user = ARGV[1] == 'erase', ARGV[2]
local found = 0
if ARGV[3] == 'ids' then
  local page = redis.call('ZSCAN', dedup, ARGV[4], 'COUNT', ARGV[5])
  for n = 1, #page[2], 2 do
    if string.sub(page[2][n], 1, #user + 1) == user .. ':' then
      if erases then redis.call('ZREM', dedup, page[2][n]) end
      found = found + 1
    end
  end
  return { page[1], found }
end
local page = redis.call('HSCAN', messages, ARGV[4], 'COUNT', ARGV[5])
for n = 1, #page[2], 2 do
  local id = page[2][n]
  local message = message_of(page[2][n + 1])
  if message and message[1] == user then
    if erases then
      redis.call('HDEL', messages, id)
      redis.call('ZREM', lines, user .. ':' .. id)
      redis.call('ZREM', parked, user .. ':' .. id)
      redis.call('ZREM', delayed, id)
      redis.call('ZREM', dead, id)
    end
    found = found + 1
  end
end
if erases then
  -- With the lease gone, its worker settles nothing of the message.
  redis.call('HDEL', leases, user)
  redis.call('ZREM', users, user)
  if found > 0 then bump(meta, 'purged', found) end
elseif redis.call('HGET', leases, user) or redis.call('ZMSCORE', users, user)[1] then
  found = found + 1
end
return { page[1], found }
