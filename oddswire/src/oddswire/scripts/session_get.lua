-- Read a session; changes nothing.
-- KEYS: main, short. ARGV: shift, version that the caller has (0: none).
-- Returns {} for none; {now ms} when its version is the caller's and the conversation
-- lives; else {now ms, fields of main, fields of short or false}. Cost: O(fields).
local now = clock(ARGV[1])
local r = read(KEYS[1])
if not r then return {} end
local ms = math.floor(now / 1000)
if r.damaged then return {ms, redis.call('HGETALL', KEYS[1]), {}} end
if ended(KEYS[1], r, now) then return {} end
local live = r.e > ms
if live and text(r.v) == ARGV[2] then return {ms} end
return {ms, redis.call('HGETALL', KEYS[1]), live and redis.call('HGETALL', KEYS[2])}
