-- Denies everything of one rule and subject for some time; never shortens a penalty.
--
-- KEYS    1  the block
-- ARGV    1  its length in microseconds
-- Returns microseconds that it lasts now
-- Cost    O(1)

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local length = tonumber(ARGV[1])
local raw = redis.call('GET', KEYS[1])
if raw then
  local ends, was = string.match(raw, '^(%d+) (%d+)$')
  -- Longer than it was asked for: the clock went back. No block at all: somebody else's.
  if ends and #ends <= 16 and #was <= 16 then
    length = math.max(length, math.min(ends - now, tonumber(was)))
  end
end
redis.call('SET', KEYS[1], string.format('%.0f %.0f', now + length, length),
  'PX', math.ceil(length / 1000))
return length
