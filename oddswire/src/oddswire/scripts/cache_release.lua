-- Give the load lease back without a value.
-- KEYS: 1 load lease.
-- ARGV: 1 token.
-- Returns 1, or 0: it was not held any more, nothing changed.
-- Cost: O(1).
redis.call('EXISTS', KEYS[1])
local holder = redis.pcall('GET', KEYS[1])
if type(holder) ~= 'string' or string.sub(holder, 1, #ARGV[1]) ~= ARGV[1] then
  return 0
end
redis.call('UNLINK', KEYS[1])
return 1
