-- Read a session; changes nothing.
-- KEYS: main, expiring. ARGV: clock offset.
-- Returns {} for none, else {now ms, fields of main, fields of expiring or false}, and 1 behind
-- them when it has ended; only with sealing, where a session that somebody stripped of its
-- fields looks so, and the caller can tell. Cost: O(fields).
local now = clock(ARGV[1])
local r = read(KEYS[1])
if not r then return {} end
local ms = math.floor(now / 1000)
if r.damaged then return {ms, redis.call('HGETALL', KEYS[1]), {}} end
if ended(KEYS[1], r, now) then
  return r.sealed and {ms, redis.call('HGETALL', KEYS[1]), false, 1} or {}
end
local live = r.e > ms
return {ms, redis.call('HGETALL', KEYS[1]), live and redis.call('HGETALL', KEYS[2])}
