-- Gives a lock back and wakes who waits for it; a holder that lost it changes nothing.
--
-- KEYS    1  the lock
-- ARGV    1  the holder's token, 2  the channel of those who wait
-- Returns 1; 0 if the holder had lost it
-- Cost    O(subscribers of the channel)

if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('DEL', KEYS[1])
-- Without the right to publish, those who wait look again by themselves.
redis.pcall('PUBLISH', ARGV[2], '')
return 1
