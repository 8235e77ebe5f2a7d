-- Look for an entry and, where there is none, take the right to load it.
-- KEYS: 1 entry, 2 load lease (one slot).
-- ARGV: 1 token of the caller, 2 lease in milliseconds, 3 beginning of a record that the
--   caller has no use for, 4 "1" if there is such a record, 5 beginning of a holder whose
--   lease may be stolen (a dead one), or "".
-- Returns the record; or {holder}: another load has the lease; or 1: the caller has it
--   already; or 2: the caller has it now.
-- Cost: O(size of the record). The lease is read before it is written, so that the
--   tracking connection gets exactly one echo, and only where there is no entry: a key
--   that was read takes memory of the server until it changes.
local value = redis.pcall('GET', KEYS[1])
if type(value) == 'string'
  and not (ARGV[4] == '1' and string.sub(value, 1, #ARGV[3]) == ARGV[3]) then
  return value
end
local holder = redis.pcall('GET', KEYS[2])
if type(holder) == 'string' then
  if string.sub(holder, 1, #ARGV[1]) == ARGV[1] then
    return 1
  end
  if ARGV[5] == '' or string.sub(holder, 1, #ARGV[5]) ~= ARGV[5] then
    return {holder}
  end
end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
redis.call('EXISTS', KEYS[2])
return 2
