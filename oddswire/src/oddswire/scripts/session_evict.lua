-- Have a session leave; its index entries stay, and the source of record has the rest.
-- KEYS: main, expiring, activity, expiry, off, stats, intents, known.
-- ARGV: 1 name, 2 header read, 3 its index entries as text, then collections with members.
-- Returns 1, or 0 when it changed, is about to, or is not in the source.
-- Cost: O(log sessions).
local main, expiring, activity, expiry, off, stats, intents, known = unpack(KEYS)
local name = ARGV[1]
local s = string.match(redis.call('HGET', known, name) or '', '^%d+')
if not s or redis.call('HEXISTS', intents, name) == 1 then return 0 end
if redis.call('HGET', main, 'h') ~= ARGV[2] then return 0 end
local r = read(main)
for i = 4, #ARGV do bump(stats, 'with:' .. ARGV[i], -1) end
forget(main, expiring, activity, expiry, off, stats, name, r)
if r.o == '0' then redis.call('SADD', off, name) end
redis.call('HSET', known, name, s .. ' ' .. ARGV[3])
return 1
