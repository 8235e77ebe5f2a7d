-- Note that the user did something.
-- KEYS: main, expiring, activity, expiry, stats. ARGV: 1 clock offset, 2 name, 3 ttl ms,
-- 4 absolute ms; with sealing 5 caller's time, 6 header read, 7 sealed header, else ''.
-- Returns {"saved", header} | {"gone"} | {"header", now us, newest version of what was
-- deleted, header}. Cost: O(log sessions).
local now = clock(ARGV[1], ARGV[5])
local r = read(KEYS[1])
if not r or r.damaged or ended(KEYS[1], r, now) then return {'gone'} end
local over = renew(r, now, ARGV[3], ARGV[4])
if not agreed(KEYS[1], r, ARGV[6], ARGV[7]) then
  return disagreed(KEYS[1], KEYS[5], ARGV[1])
end
active(KEYS[2], KEYS[3], ARGV[2], r, over, ARGV[1])
write(KEYS[1], r, ARGV[7])
settle(KEYS[1], KEYS[4], ARGV[2], r)
return {'saved', redis.call('HGET', KEYS[1], 'h')}
