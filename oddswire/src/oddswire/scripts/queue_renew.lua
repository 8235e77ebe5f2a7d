#!lua flags=allow-oom
-- Prolongs leases.
-- KEYS  users, leases, messages
-- ARGV  now in ms ('': the server's), lease in ms, then user and token:id of each
-- Returns 1 for each that was prolonged, 0 for one that somebody else has.
-- Cost: O(log N) each.
local users, leases, messages = KEYS[1], KEYS[2], KEYS[3]
local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local kept = {}
for n = 3, #ARGV, 2 do
  local ours = redis.call('HGET', leases, ARGV[n]) == ARGV[n + 1]
  if ours then
    redis.call('ZADD', users, now + tonumber(ARGV[2]), ARGV[n])
  else
    -- It is being handled all the same, and may be delivered: it says so when it comes
    -- again, also where the server has forgotten that it was handed out.
    local id = string.sub(ARGV[n + 1], -16)
    local message = message_of(redis.call('HGET', messages, id))
    if message and message[7] == 0 then
      message[7] = 1
      redis.call('HSET', messages, id, cmsgpack.pack(message))
    end
  end
  kept[#kept + 1] = ours and 1 or 0
end
return kept
