-- Begins the lease of a lock again, for its holder.
--
-- KEYS    1  the lock
-- ARGV    1  the holder's token, 2  its lease in milliseconds
-- Returns 1; 0 if the holder had lost it
-- Cost    O(1)

if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
