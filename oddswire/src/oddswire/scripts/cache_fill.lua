-- Store a loaded value, if the caller still has the load lease.
-- KEYS: 1 entry, 2 load lease (one slot).
-- ARGV: 1 token, 2 record, 3 its life in milliseconds, 4 its version (8 bytes) or "".
-- Returns 1: stored; 0: the lease was voided or taken, nothing changed; -1: the stored
--   entry has a newer version and stays, the lease is given back.
-- Cost: O(size of the record).
redis.call('EXISTS', KEYS[1])
local holder = redis.pcall('GET', KEYS[2])
if type(holder) ~= 'string' or string.sub(holder, 1, #ARGV[1]) ~= ARGV[1] then
  return 0
end
if ARGV[4] ~= '' then
  local head = redis.pcall('GETRANGE', KEYS[1], 0, 17)
  if type(head) == 'string' and #head == 18
    and string.find(head, '^\193[\3\4]') and string.sub(head, 11) > ARGV[4] then
    redis.call('UNLINK', KEYS[2])
    return -1
  end
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
redis.call('UNLINK', KEYS[2])
-- A SET alone does not register the key with the tracking connection, a read does.
redis.call('EXISTS', KEYS[1])
return 1
