#!lua flags=allow-oom
-- Reads dead letters, the oldest message first.
-- KEYS  messages, dead
-- ARGV  the id to begin after ('': the beginning), how many
-- Returns {id, user, kind, key, due, attempts, uncertain, reason, died, value}
-- for each.
-- Cost: O(log N + how many).
local messages, dead = KEYS[1], KEYS[2]
local from = ARGV[1] == '' and '-' or '(' .. ARGV[1]
local ids = redis.call('ZRANGE', dead, from, '+', 'BYLEX', 'LIMIT', 0, ARGV[2])
local letters = {}
for _, id in ipairs(ids) do
  local packed = redis.call('HGET', messages, id)
  if packed then
    local message = message_of(packed)
    letters[#letters + 1] = message and string.match(message[1], '^%-?%d+$') and {
      id, message[1], message[2], message[3], message[4], message[6], message[7],
      message[8], message[9], message[10],
    }
  end
end
return letters
