-- Find sessions that have ended and are still stored; changes nothing.
-- KEYS: expiry. ARGV: 1 clock offset, 2 at most so many. Returns names. Cost: O(log n + names).
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', text(clock(ARGV[1]) / 1000),
  'LIMIT', 0, ARGV[2])
