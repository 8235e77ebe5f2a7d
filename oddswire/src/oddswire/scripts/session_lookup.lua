-- Find the active users of an index's value; changes nothing.
-- KEYS: index set, off, and with a source of record stats. ARGV: 1 most to return.
-- Returns names, their number when there are more, or -1 when the indexes were not built
-- from the source yet. Cost: O(names).
if KEYS[3] and redis.call('HEXISTS', KEYS[3], 'source') == 0 then return -1 end
local n = redis.call('SCARD', KEYS[1])
if n > tonumber(ARGV[1]) then return n end
return redis.call('SDIFF', KEYS[1], KEYS[2])
