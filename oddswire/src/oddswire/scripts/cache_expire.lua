-- Make an entry stale: it is refreshed at the next use, and may serve until then.
-- KEYS: 1 entry, 2 load lease (one slot).
-- ARGV: none.
-- Returns 1 if there was an entry, else 0.
-- Cost: O(1). Bytes 2 to 9 are the time until which it is fresh. Without the look at
--   the head, SETRANGE would make a key without a life of its own.
redis.call('UNLINK', KEYS[2])
local head = redis.pcall('GETRANGE', KEYS[1], 0, 9)
if type(head) ~= 'string' or #head < 10 or string.sub(head, 1, 2) ~= '\193\3' then
  return 0
end
redis.call('SETRANGE', KEYS[1], 2, string.rep('\0', 8))
return 1
