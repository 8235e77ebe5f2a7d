-- Invalidate: remove nonces.
-- KEYS: nonces (one slot).
-- ARGV: none.
-- Returns how many there were.
-- Cost: O(number of keys).
return redis.call('UNLINK', unpack(KEYS))
