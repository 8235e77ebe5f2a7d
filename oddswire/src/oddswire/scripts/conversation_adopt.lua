-- Takes over a conversation that another storage wrote, once.
--
-- KEYS    1  the conversation, 2  the mark that it was taken over
-- ARGV    1  its lifetime in milliseconds, 0 for ever
--         2  the mark's: as long as the other record lives, 0 for ever
--         3, 4 ...  field and value, in turns
-- Returns 1; 0 if it was taken over before
-- Cost    O(fields)

if redis.call('EXISTS', KEYS[2]) == 1 then
  return 0
end
if ARGV[2] == '0' then
  redis.call('SET', KEYS[2], 1)
else
  redis.call('SET', KEYS[2], 1, 'PX', ARGV[2])
end
-- What was written here already is newer.
if redis.call('EXISTS', KEYS[1]) == 0 then
  for i = 3, #ARGV, 2 do
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
  end
  if ARGV[1] ~= '0' then
    redis.call('PEXPIRE', KEYS[1], ARGV[1])
  end
end
return 1
