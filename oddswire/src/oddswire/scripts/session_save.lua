-- Write what changed of a session, if it is still what the caller read.
-- KEYS: main, expiring, activity, expiry, off, stats, log, then the index sets to add to, then
-- those to remove from; with a source of record, intents and known versions at last.
-- ARGV: 1 clock offset, 2 name, 3 version read (0: there was none), 4 whether the conversation
-- lived then, 5 ttl ms, 6 absolute ms (0: none), 7 cap, 8 schema, 9 generation (for a new
-- one), 10 whether this is activity, 11 id of the log's entry, 12 index adds and 13 index
-- removes as text for the log, 14 blinding check (for a new one), then counts: 15 index adds,
-- 16 index removes, 17 fields of main to set, 18 to delete, 19 of expiring to set, 20 to
-- delete, 21 collections whose emptiness changed; 22 intent of the caller ('-': nobody may
-- have one, '': there is no source), 23 version in the source; with sealing 24 caller's time,
-- 25 header read, 26 sealed header, else ''; then those, fields to set as pairs, collections
-- with 1 or -1.
-- Returns {"saved", header, now ms} | {"conflict", now ms, main, expiring or false} | {"gone"}
-- | {"full"} | {"names"} | {"damaged"} | {"busy"} | {"lost"} | {"header", now us, newest
-- version of what was deleted, header}. Cost: O(log sessions + arguments).
local now = clock(ARGV[1], ARGV[24])
local ms = math.floor(now / 1000)
local main, expiring, activity, expiry, off, stats, log = unpack(KEYS, 1, 7)
local clock_offset, name = ARGV[1], ARGV[2]
local intent, intents, known = ARGV[22], KEYS[#KEYS - 1], KEYS[#KEYS]
if intent ~= '' then
  local held = redis.call('HGET', intents, name)
  if intent == '-' and held then return {'busy'} end
  if intent ~= '-' and held ~= intent then return {'lost'} end
end
local r = read(main)
if r and r.damaged then return {'damaged'} end
if r and ended(main, r, now) then
  if ARGV[3] == '0' then forget(main, expiring, activity, expiry, off, stats, name, r) end
  r = nil
end
if not r and ARGV[3] ~= '0' then return {'gone'} end
local begins = not r
if r then
  local live = r.e > ms
  -- What was part of a conversation when it was read must not begin the next one.
  if text(r.v) ~= ARGV[3] or (ARGV[4] == '1' and not live) then
    return {'conflict', ms, redis.call('HGETALL', main),
            live and redis.call('HGETALL', expiring)}
  end
  r.v = math.max(r.v + 1, now)
else
  redis.call('HSETNX', stats, 'names', ARGV[14])
  if redis.call('HGET', stats, 'names') ~= ARGV[14] then return {'names'} end
  if redis.call('ZCARD', activity) >= tonumber(ARGV[7]) then return {'full'} end
  local last = newest(stats)
  local v = math.max(last + 1, now)
  r = {v = v, c = now, a = 0, e = 0, x = 0, o = '1', g = ARGV[9]}
end
r.s = ARGV[8]
local acts, over = ARGV[10] == '1' or r.e == 0, false
if acts then over = renew(r, now, ARGV[5], ARGV[6]) end
if not agreed(main, r, ARGV[25], ARGV[26]) then return disagreed(main, stats, clock_offset) end
if begins then
  unlisted(activity, stats, name)
  bump(stats, 'created', text(math.floor(now / 1000)))
  bump(stats, 'creations', 1)
end
if acts then active(expiring, activity, name, r, over, clock_offset) end
local at = 27
local index_adds, index_removes = tonumber(ARGV[15]), tonumber(ARGV[16])
for i = 1, index_adds do redis.call('SADD', KEYS[7 + i], name) end
for i = 1, index_removes do redis.call('SREM', KEYS[7 + index_adds + i], name) end
for i = 1, tonumber(ARGV[17]) do
  redis.call('HSET', main, ARGV[at], ARGV[at + 1]); at = at + 2
end
for i = 1, tonumber(ARGV[18]) do redis.call('HDEL', main, ARGV[at]); at = at + 1 end
for i = 1, tonumber(ARGV[19]) do
  redis.call('HSET', expiring, ARGV[at], ARGV[at + 1]); at = at + 2
end
for i = 1, tonumber(ARGV[20]) do redis.call('HDEL', expiring, ARGV[at]); at = at + 1 end
for i = 1, tonumber(ARGV[21]) do
  bump(stats, 'with:' .. ARGV[at], ARGV[at + 1]); at = at + 2
end
write(main, r, ARGV[26])
redis.call('PEXPIREAT', expiring, text(r.e - tonumber(clock_offset) / 1000))
settle(main, expiry, name, r)
if intent ~= '' and intent ~= '-' then
  redis.call('HDEL', intents, name)
  redis.call('HSET', known, name, ARGV[23])
end
announce(log, stats, ARGV[11], name, r.v, r.o, ARGV[12], ARGV[13])
return {'saved', redis.call('HGET', main, 'h'), ms}
