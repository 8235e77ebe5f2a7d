-- Remove sessions that have ended; each is looked at again, so any number of sweepers
-- may run, and be killed.
-- KEYS: activity, expiry, off, stats, then main and expiring of each session.
-- ARGV: 1 clock offset, then the names. Returns how many were removed.
-- Cost: O(sessions * log sessions).
local now = clock(ARGV[1])
local removed = 0
for i = 2, #ARGV do
  local main, expiring = KEYS[2 * i + 1], KEYS[2 * i + 2]
  local r = read(main)
  -- No index has it: a user in an index has asked for something.
  if not r or (not r.damaged and ended(main, r, now)) then
    removed = removed
      + forget(main, expiring, KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV[i], r)
  elseif not r.damaged then
    settle(main, KEYS[2], ARGV[i], r)
  else
    redis.call('ZREM', KEYS[2], ARGV[i])
  end
end
return removed
