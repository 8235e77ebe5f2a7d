-- Keeps an update that is still being handled, unless another process has it by now.
-- KEYS: 1 update. ARGV: 1 token of the process, 2 lease in milliseconds.
-- Returns 1, or 0: it was not the process's any more, nothing changed.
-- Cost: O(1).
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
