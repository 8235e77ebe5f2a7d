-- Delete a session, if its header is still what the caller read; for whatever is stored,
-- also what is damaged, and a key of another type.
-- KEYS: main, expiring, activity, expiry, off, stats, log, then the index sets it is in.
-- ARGV: 1 name, 2 header read, 3 link, 4 index removes as text for the log, then collections
-- that have members.
-- Returns 1, or 0 when the header is another one. Cost: O(log sessions + index sets).
local main, expiring, activity, expiry, off, stats, log = unpack(KEYS, 1, 7)
local name = ARGV[1]
if header(main) ~= ARGV[2] then return 0 end
local r = read(main)
for i = 8, #KEYS do redis.call('SREM', KEYS[i], name) end
for i = 5, #ARGV do bump(stats, 'with:' .. ARGV[i], -1) end
forget(main, expiring, activity, expiry, off, stats, name, r)
announce(log, stats, ARGV[3], name, 0, '1', '', ARGV[4])
return 1
