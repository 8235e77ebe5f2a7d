-- Add a member to a collection, or remove one, whatever else changes meanwhile; not with
-- sealing, where a header stands for every field.
-- KEYS: main, expiring, activity, expiry, stats, log, and the index set if there is one.
-- ARGV: 1 clock offset, 2 name, 3 ttl ms, 4 absolute ms, 5 whether this is activity, 6 link,
-- 7 schema, 8 generation (anything to remove), 9 collection, 10 field, 11 limit,
-- 12 index and name of the value as text for the log, 13 the sealed member; absent to
-- remove it.
-- Returns {"saved", header, 1 or 0 for whether it was added or removed} | {"gone"} |
-- {"full"} | {"schema"} | {"generation", the right one} | {"damaged"}.
-- Cost: O(log sessions + fields of the session).
local now = clock(ARGV[1])
local main, expiring, activity, expiry, stats, log, index = unpack(KEYS)
local name, field, member = ARGV[2], ARGV[10], ARGV[13]
local r = read(main)
if not r or (not r.damaged and ended(main, r, now)) then return {'gone'} end
if r.damaged then return {'damaged'} end
if member and r.s ~= ARGV[7] then return {'schema'} end
if member and r.g ~= ARGV[8] then return {'generation', r.g} end
local start, count = ARGV[9] .. ':', 0
for _, each in ipairs(redis.call('HKEYS', main)) do
  if string.sub(each, 1, #start) == start then count = count + 1 end
end
local there = redis.call('HEXISTS', main, field)
if member and there == 0 and count >= tonumber(ARGV[11]) then return {'full'} end
if not member and there == 0 then return {'saved', redis.call('HGET', main, 'h'), 0} end
if ARGV[5] == '1' then
  active(expiring, activity, name, r, renew(r, now, ARGV[3], ARGV[4]), ARGV[1])
end
local index_adds, index_removes = '', ''
if member then
  redis.call('HSET', main, field, member)
  if there == 0 then index_adds = ARGV[12] end
  if index then redis.call('SADD', index, name) end
  if count == 0 then bump(stats, 'with:' .. ARGV[9], 1) end
else
  redis.call('HDEL', main, field)
  index_removes = ARGV[12]
  if index then redis.call('SREM', index, name) end
  if count == 1 then bump(stats, 'with:' .. ARGV[9], -1) end
end
r.v = math.max(r.v + 1, now)
write(main, r, '')
settle(main, expiry, name, r)
announce(log, stats, ARGV[6], name, r.v, r.o, index_adds, index_removes)
return {'saved', redis.call('HGET', main, 'h'), (member and 1 - there) or 1}
