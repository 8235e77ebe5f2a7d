-- Remember which keys were used.
-- KEYS: 1 sorted set of keys by use.
-- ARGV: 1 how many to keep, 2 milliseconds for which they are remembered, then pairs of
--   uses and key.
-- Returns how many are remembered.
-- Cost: O(n log n), n at most what is kept and what comes. Old uses count for less each
--   time, so what was hot yesterday makes room.
redis.call('ZUNIONSTORE', KEYS[1], 1, KEYS[1], 'WEIGHTS', '0.95')
for at = 3, #ARGV, 2 do
  redis.call('ZINCRBY', KEYS[1], ARGV[at], ARGV[at + 1])
end
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -1 - tonumber(ARGV[1]))
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return redis.call('ZCARD', KEYS[1])
