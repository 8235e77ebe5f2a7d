-- Move a session to another user id, if nothing changed since it was read and nobody has
-- that id.
-- KEYS: old main, old expiring, new main, new expiring, activity, expiry, off, stats, log, then
-- the index sets it is in.
-- ARGV: 1 clock offset, 2 old name, 3 new name, 4 version read, 5 generation, 6 and 7 links,
-- 8 index entries as text for the log, 9 fields of main, 10 of expiring, 11 schema, with
-- sealing 12 caller's time, 13 header read, 14 sealed header, else '', then the fields as
-- pairs.
-- Returns {"saved", header} | {"conflict"} | {"gone"} | {"taken"} | {"header", now us,
-- newest version of what was deleted, header}.
-- Cost: O(log sessions + fields).
local now = clock(ARGV[1], ARGV[12])
local old, oldexpiring, new, newexpiring, activity, expiry, off, stats, log = unpack(KEYS, 1, 9)
local r = read(old)
if not r or r.damaged or ended(old, r, now) then return {'gone'} end
if text(r.v) ~= ARGV[4] then return {'conflict'} end
local other = read(new)
if other and (other.damaged or not ended(new, other, now)) then return {'taken'} end
if other then forget(new, newexpiring, activity, expiry, off, stats, ARGV[3], other) end
local last = math.max(newest(stats), r.v)
r.v = math.max(last + 1, now)
r.g = ARGV[5]
r.s = ARGV[11]
if not agreed(old, r, ARGV[13], ARGV[14]) then return disagreed(old, stats, ARGV[1]) end
-- The old session's time of creation goes on in the new one, so it stays in the sum.
redis.call('UNLINK', old, oldexpiring)
redis.call('ZREM', activity, ARGV[2])
redis.call('ZREM', expiry, ARGV[2])
redis.call('HSET', stats, 'v', text(last))
local at = 15
for i = 1, tonumber(ARGV[9]) do
  redis.call('HSET', new, ARGV[at], ARGV[at + 1]); at = at + 2
end
-- A conversation that ended meanwhile is left behind.
if r.e > now / 1000 then
  for i = 1, tonumber(ARGV[10]) do
    redis.call('HSET', newexpiring, ARGV[at], ARGV[at + 1]); at = at + 2
  end
  redis.call('PEXPIREAT', newexpiring, text(r.e - tonumber(ARGV[1]) / 1000))
end
if redis.call('SREM', off, ARGV[2]) == 1 then redis.call('SADD', off, ARGV[3]) end
for i = 10, #KEYS do
  redis.call('SREM', KEYS[i], ARGV[2])
  redis.call('SADD', KEYS[i], ARGV[3])
end
redis.call('ZADD', activity, text(r.a), ARGV[3])
write(new, r, ARGV[14])
settle(new, expiry, ARGV[3], r)
announce(log, stats, ARGV[6], ARGV[2], 0, '1', '', ARGV[8])
announce(log, stats, ARGV[7], ARGV[3], r.v, r.o, ARGV[8], '')
return {'saved', redis.call('HGET', new, 'h')}
