-- Announce that a session's record in the source is about to change, or be read into here.
-- KEYS: main, marks, noted, stats. ARGV: 1 shift, 2 name, 3 token, 4 version read ("": any, "0":
-- there was none), 5 microseconds that a mark keeps others out, 6 who names.
-- Returns {"marked" or "taken", mark, version for the source, version noted here} (taken:
-- from one who did not come back) | {"busy"} | {"conflict"} | {"names"}. Cost: O(1).
local now = clock(ARGV[1])
local main, marks, noted, stats = unpack(KEYS)
if (redis.call('HGET', stats, 'names') or ARGV[6]) ~= ARGV[6] then return {'names'} end
local name = ARGV[2]
local v, kind = now, 'marked'
local held = redis.call('HGET', marks, name)
if held then
  -- What is no mark is as good as one whose owner does not come back.
  local was, at = string.match(held, '^(%d+) (%d+) ')
  if at and math.abs(now - tonumber(at)) < tonumber(ARGV[5]) then return {'busy'} end
  kind, v = 'taken', math.max(v, (tonumber(was) or 0) + 1)
elseif ARGV[4] ~= '' then
  local r = read(main)
  local there = r and (r.damaged and '?' or not ended(main, r, now) and text(r.v))
  if (there or '0') ~= ARGV[4] then return {'conflict'} end
end
local s = string.match(redis.call('HGET', noted, name) or '0', '^%d+') or '0'
v = math.max(v, tonumber(s) + 1)
local mark = text(v) .. ' ' .. text(now) .. ' ' .. ARGV[3]
redis.call('HSET', marks, name, mark)
return {kind, mark, text(v), s}
