#!lua
-- Puts dead letters back into their users' lines, as if they had not been tried.
-- KEYS  messages, lines, users, dead, meta, wake
-- ARGV  now in ms ('': the server's), ttl in ms (0: none), then the ids
-- Returns how many were dead letters.
-- Cost: O(log N) each.
local messages, lines, users, dead, meta, wake = unpack(KEYS)
local now, ttl = tonumber(ARGV[1]), tonumber(ARGV[2])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local replayed = 0
for n = 3, #ARGV do
  local id = ARGV[n]
  local packed = redis.call('ZREM', dead, id) == 1 and redis.call('HGET', messages, id)
  local message = message_of(packed)
  if message then
    message[5] = ttl > 0 and now + ttl or 0
    message[6], message[8], message[9] = 0, '', 0
    redis.call('HSET', messages, id, cmsgpack.pack(message))
    redis.call('ZADD', lines, 0, message[1] .. ':' .. id)
    redis.call('ZADD', users, 'NX', now, message[1])
    replayed = replayed + 1
  end
end
if replayed > 0 then
  bump(meta, 'replayed', replayed)
  redis.call('LPUSH', wake, 1)
end
return replayed
