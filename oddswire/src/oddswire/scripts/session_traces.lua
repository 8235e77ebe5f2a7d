-- One page of the search for a user in every index; changes nothing.
--
-- The keys are found by SCAN, so they are not declared: those of one deployment are in
-- one slot, and the search asks the node that has it.
--
-- KEYS: expiry (names the slot). ARGV: 1 cursor, 2 pattern of index keys, 3 name of the
--   user, 4 keys to look at.
-- Returns {cursor, keys that name the user}; cursor "0": that was all.
-- Cost: O(keys looked at), so that a page blocks the server for about a millisecond.
local page = redis.call('SCAN', ARGV[1], 'MATCH', ARGV[2], 'COUNT', ARGV[4])
local found = {}
for _, key in ipairs(page[2]) do
  if redis.pcall('SISMEMBER', key, ARGV[3]) == 1 then found[#found + 1] = key end
end
return {page[1], found}
