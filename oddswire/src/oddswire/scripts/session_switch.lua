-- Switch a session on or off.
-- KEYS: main, expiry, off, stats, log. ARGV: 1 shift, 2 name, 3 "1" or "0", 4 link.
-- Returns 1, or 0 when there is no session. Cost: O(log sessions).
local now = clock(ARGV[1])
local main, expiry, off, stats, log = unpack(KEYS)
local r = read(main)
if not r or r.damaged or ended(main, r, now) then return 0 end
if r.o == ARGV[3] then return 1 end
r.o = ARGV[3]
r.v = math.max(r.v + 1, now)
redis.call(r.o == '1' and 'SREM' or 'SADD', off, ARGV[2])
write(main, r)
settle(main, expiry, ARGV[2], r)
announce(log, stats, ARGV[4], ARGV[2], r.v, r.o, '', '')
return 1
