-- Store a value of the caller; a load that runs is voided.
-- KEYS: 1 entry, 2 load lease (one slot).
-- ARGV: 1 record, 2 its life in milliseconds, 3 its version (8 bytes) or "".
-- Returns 1: stored; 0: the stored entry has a newer version, nothing changed.
-- Cost: O(size of the record).
-- The lease is not read: the server tracks a key that was read until it changes, and
-- most leases never do.
redis.call('EXISTS', KEYS[1])
if ARGV[3] ~= '' then
  local head = redis.pcall('GETRANGE', KEYS[1], 0, 17)
  if type(head) == 'string' and #head == 18
    and string.find(head, '^\193[\3\4]') and string.sub(head, 11) > ARGV[3] then
    return 0
  end
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('UNLINK', KEYS[2])
redis.call('EXISTS', KEYS[1])
return 1
