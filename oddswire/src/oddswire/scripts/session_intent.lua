-- Begin an intent: a session's record in the source is about to change, or to be read into
-- here. An intent is a text: version for the source, microseconds when it began, token.
-- KEYS: main, intents, known versions, stats.
-- ARGV: 1 clock offset, 2 name, 3 token, 4 version read ("": any, "0": there was none),
-- 5 microseconds for which an intent keeps others out, 6 blinding check.
-- Returns {"begun" or "taken", intent, version for the source, version known here} (taken:
-- its owner did not come back) | {"busy"} | {"conflict"} | {"names"}. Cost: O(1).
local now = clock(ARGV[1])
local main, intents, known, stats = unpack(KEYS)
if (redis.call('HGET', stats, 'names') or ARGV[6]) ~= ARGV[6] then return {'names'} end
local name = ARGV[2]
local v, kind = now, 'begun'
local held = redis.call('HGET', intents, name)
if held then
  -- Junk is as good as an intent whose owner does not come back.
  local was, at = string.match(held, '^(%d+) (%d+) ')
  if at and math.abs(now - tonumber(at)) < tonumber(ARGV[5]) then return {'busy'} end
  kind, v = 'taken', math.max(v, (tonumber(was) or 0) + 1)
elseif ARGV[4] ~= '' then
  local r = read(main)
  local there = r and (r.damaged and '?' or not ended(main, r, now) and text(r.v))
  if (there or '0') ~= ARGV[4] then return {'conflict'} end
end
local s = string.match(redis.call('HGET', known, name) or '0', '^%d+') or '0'
v = math.max(v, tonumber(s) + 1)
local intent = text(v) .. ' ' .. text(now) .. ' ' .. ARGV[3]
redis.call('HSET', intents, name, intent)
return {kind, intent, text(v), s}
