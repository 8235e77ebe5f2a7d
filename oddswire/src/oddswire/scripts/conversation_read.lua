-- Reads a conversation, and begins its lifetime again.
--
-- KEYS    1  the conversation
-- ARGV    1  its lifetime in milliseconds, 0 for ever, 2  one field of it; none: all
-- Returns the field's value or nil; or fields and values in turns
-- Cost    O(1) for a field, O(fields) for all

if ARGV[1] ~= '0' then
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
end
if ARGV[2] then
  return redis.call('HGET', KEYS[1], ARGV[2])
end
return redis.call('HGETALL', KEYS[1])
