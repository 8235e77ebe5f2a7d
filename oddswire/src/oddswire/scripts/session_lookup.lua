-- Find the active users of an index's value; changes nothing.
-- KEYS: index set, off. ARGV: 1 most to return. Returns names, or their number when there
-- are more. Cost: O(names).
local n = redis.call('SCARD', KEYS[1])
if n > tonumber(ARGV[1]) then return n end
return redis.call('SDIFF', KEYS[1], KEYS[2])
