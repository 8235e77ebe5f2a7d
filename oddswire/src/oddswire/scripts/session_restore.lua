-- Have here what the source of record has of a session, if the caller's intent still holds.
-- KEYS: main, expiring, activity, expiry, off, stats, log, intents, known versions, then the
-- index sets to add to, then those to remove from.
-- ARGV: 1 clock offset, 2 name, 3 intent, 4 header read ("" for none), 5 "whole", "replace"
-- (whole, and what is here is thrown away), "evicted" (its index entries only) or "gone",
-- 6 version in the source, 7 schema, 8 generation, 9 created us, 10 last active ms, 11 active
-- or not, 12 cap, 13 id of the log's entry, 14 index adds and 15 index removes as text for the
-- log, 16 all index entries as text, 17 blinding check, then counts: 18 index adds, 19 index
-- removes, 20 fields, 21 collections, with sealing 22 caller's time, 23 sealed header, else
-- ''; then fields as pairs, collections with 1 or -1.
-- Returns {"saved"} | {"lost"} | {"conflict"} | {"full"} | {"names"} | {"header", now us,
-- newest version of what was deleted, header}.
-- Cost: O(log sessions + arguments).
local now = clock(ARGV[1], ARGV[22])
local main, expiring, activity, expiry, off, stats, log, intents, known = unpack(KEYS, 1, 9)
local name, mode, on = ARGV[2], ARGV[5], ARGV[11]
if redis.call('HGET', intents, name) ~= ARGV[3] then return {'lost'} end
if header(main) ~= ARGV[4] then return {'conflict'} end
redis.call('HSETNX', stats, 'names', ARGV[17])
if redis.call('HGET', stats, 'names') ~= ARGV[17] then return {'names'} end
local r = read(main)
local whole, v, was = mode == 'whole' or mode == 'replace', 0, nil
if r and mode == 'replace' then r.damaged = true end
if whole and not r and redis.call('ZCARD', activity) >= tonumber(ARGV[12]) then
  return {'full'}
end
if whole then
  if not r or r.damaged then
    was, r = r, {v = newest(stats), c = tonumber(ARGV[9]),
                 a = tonumber(ARGV[10]), e = 0, x = 0, g = ARGV[8], begins = true}
  elseif r.s ~= ARGV[7] then
    -- What was sealed for another schema does not open under this one.
    r.e = 0
  end
  r.s, r.o = ARGV[7], on
  v = math.max(r.v + 1, now)
  r.v = v
  if not agreed(main, r, ARGV[4], ARGV[23]) then return disagreed(main, stats, ARGV[1]) end
end
local index_adds, index_removes = tonumber(ARGV[18]), tonumber(ARGV[19])
for i = 1, index_adds do redis.call('SADD', KEYS[9 + i], name) end
for i = 1, index_removes do redis.call('SREM', KEYS[9 + index_adds + i], name) end
local at = 24 + 2 * tonumber(ARGV[20])
for i = 1, tonumber(ARGV[21]) do
  bump(stats, 'with:' .. ARGV[at], ARGV[at + 1]); at = at + 2
end
if whole then
  if was then forget(main, expiring, activity, expiry, off, stats, name, was) end
  if r.begins then
    unlisted(activity, stats, name)
    bump(stats, 'created', text(math.floor(ARGV[9] / 1000)))
  end
  if r.e == 0 then redis.call('UNLINK', expiring) end
  redis.call('UNLINK', main)
  at = 24
  for i = 1, tonumber(ARGV[20]) do
    redis.call('HSET', main, ARGV[at], ARGV[at + 1]); at = at + 2
  end
  redis.call('ZADD', activity, text(r.a), name)
  write(main, r, ARGV[23])
  settle(main, expiry, name, r)
  redis.call('HSET', known, name, ARGV[6])
else
  forget(main, expiring, activity, expiry, off, stats, name, r)
  if mode == 'evicted' then redis.call('HSET', known, name, ARGV[6] .. ' ' .. ARGV[16])
  else redis.call('HDEL', known, name) end
end
redis.call(on == '0' and mode ~= 'gone' and 'SADD' or 'SREM', off, name)
redis.call('HDEL', intents, name)
announce(log, stats, ARGV[13], name, v, mode == 'gone' and '1' or on, ARGV[14], ARGV[15])
return {'saved'}
