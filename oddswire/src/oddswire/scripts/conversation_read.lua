-- Reads a conversation, and begins its lifetime again.
--
-- KEYS    1  the conversation
-- ARGV    1  its lifetime in milliseconds, 0 for ever, 2 ...  fields of it; none: all
-- Returns the fields' values or nil; for all, fields and values in turns
-- Cost    O(1) for a few fields, O(fields) for all

if ARGV[1] ~= '0' then
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
end
if ARGV[2] then
  return redis.call('HMGET', KEYS[1], unpack(ARGV, 2))
end
return redis.call('HGETALL', KEYS[1])
