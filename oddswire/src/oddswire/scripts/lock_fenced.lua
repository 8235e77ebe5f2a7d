-- The beginning of a script that only the newest holder of a lock may run.
-- KEYS: the lock's fence, then those of the script. ARGV: the caller's fencing number,
-- then those of the script. Returns an error that begins with FENCED to anybody else.
-- Cost: O(1).
if redis.call('GET', table.remove(KEYS, 1)) ~= table.remove(ARGV, 1) then
  return redis.error_reply('FENCED a newer holder has the lock')
end
