-- Switch a session on or off.
-- KEYS: main, expiry, off, stats, log. ARGV: 1 clock offset, 2 name, 3 "1" or "0", 4 link;
-- with sealing 5 caller's time, 6 header read, 7 sealed header, else ''.
-- Returns {"saved", header} | {"gone"} | {"header", now us, newest version of what was
-- deleted, header}. Cost: O(log sessions).
local now = clock(ARGV[1], ARGV[5])
local main, expiry, off, stats, log = unpack(KEYS)
local r = read(main)
if not r or r.damaged or ended(main, r, now) then return {'gone'} end
if r.o == ARGV[3] then return {'saved', redis.call('HGET', main, 'h')} end
r.o = ARGV[3]
r.v = math.max(r.v + 1, now)
if not agreed(main, r, ARGV[6], ARGV[7]) then return disagreed(main, stats, ARGV[1]) end
redis.call(r.o == '1' and 'SREM' or 'SADD', off, ARGV[2])
write(main, r, ARGV[7])
settle(main, expiry, ARGV[2], r)
announce(log, stats, ARGV[4], ARGV[2], r.v, r.o, '', '')
return {'saved', redis.call('HGET', main, 'h')}
