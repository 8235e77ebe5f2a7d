-- Keep the load lease for longer.
-- KEYS: 1 load lease.
-- ARGV: 1 token, 2 what the lease holds from now on (the token and a count, so that
--   waiters see that its owner lives), 3 lease in milliseconds.
-- Returns 1, or 0: the lease was voided or taken, nothing changed.
-- Cost: O(1).
redis.call('EXISTS', KEYS[1])
local holder = redis.pcall('GET', KEYS[1])
if type(holder) ~= 'string' or string.sub(holder, 1, #ARGV[1]) ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
redis.call('EXISTS', KEYS[1])
return 1
