-- Note that the user did something.
-- KEYS: main, short, activity, expiry. ARGV: 1 shift, 2 name, 3 ttl ms, 4 absolute ms.
-- Returns 1, or 0 when there is no session. Cost: O(log sessions).
local now = clock(ARGV[1])
local r = read(KEYS[1])
if not r or r.damaged or ended(KEYS[1], r, now) then return 0 end
active(KEYS[2], KEYS[3], ARGV[2], r, now, ARGV[3], ARGV[4], ARGV[1])
write(KEYS[1], r)
settle(KEYS[1], KEYS[4], ARGV[2], r)
return 1
