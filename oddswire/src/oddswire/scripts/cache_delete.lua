-- Delete an entry and void the load that runs.
-- KEYS: 1 entry, 2 load lease (one slot).
-- ARGV: 1 milliseconds for which the version of a deleted entry is remembered.
-- Returns 1 if there was an entry, else 0.
-- Cost: O(1). Of an entry with a version 18 bytes stay for that time: else a load from
--   a source that lags could bring back an older one.
local head = redis.pcall('GETRANGE', KEYS[1], 0, 17)
redis.call('UNLINK', KEYS[2])
if type(head) == 'string' and #head == 18
  and string.find(head, '^\193[\3\4]') and string.sub(head, 11) ~= string.rep('\0', 8) then
  local rest = string.char(193, 4) .. string.rep('\0', 8) .. string.sub(head, 11)
  redis.call('SET', KEYS[1], rest, 'PX', ARGV[1])
  return string.byte(head, 2) == 4 and 0 or 1
end
return redis.call('UNLINK', KEYS[1])
