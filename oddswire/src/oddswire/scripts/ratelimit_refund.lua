-- Gives back what one admitted request took, as far as it still counts.
--
-- KEYS    for each rule three: its state, its block, its changed limit
-- ARGV    1  when it was admitted, microseconds of the server's clock
--         2  the lease
--         then for each rule three: "window", "bucket" or "slots"; its width in
--         microseconds; the cost
-- Returns how much was given back, over all rules
-- Cost    O(rules)

local SUBS, HEAD = 21, 15 -- as in ratelimit_hit.lua

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local given = 0

-- From the sub-window it was counted in and no other, or others would be let in twice.
local function window(key, cost)
  local raw = redis.call('GET', key)
  if not raw or (#raw - HEAD) % SUBS ~= 0 then return end
  local last, width, older = struct.unpack('>I6I5I4', raw)
  local number = math.floor(tonumber(ARGV[1]) / width)
  if number > last or number <= last - SUBS then return end
  local size = (#raw - HEAD) / SUBS
  local at = HEAD + number % SUBS * size
  local count = struct.unpack('>I' .. size, raw, at + 1)
  local back = math.min(count, cost)
  given = given + back
  if number < last then older = older - back end
  redis.call('SET', key, struct.pack('>I6I5I4', last, width, older)
    .. string.sub(raw, HEAD + 1, at)
    .. struct.pack('>I' .. size, count - back)
    .. string.sub(raw, at + size + 1), 'KEEPTTL')
end

local function bucket(key, width, cost)
  local arrival = tonumber(redis.call('GET', key) or 0) or 0
  if arrival <= now then return end
  local back = math.min(math.ceil((arrival - now) / width), cost)
  given = given + back
  local rest = arrival - back * width
  if rest > now then
    redis.call('SET', key, string.format('%.0f', rest), 'KEEPTTL')
  else
    redis.call('DEL', key)
  end
end

for rule = 1, #KEYS / 3 do
  local key, arg = KEYS[rule * 3 - 2], rule * 3
  local kind, width, cost = ARGV[arg], tonumber(ARGV[arg + 1]), tonumber(ARGV[arg + 2])
  if kind == 'window' then
    window(key, cost)
  elseif kind == 'bucket' then
    local changed = redis.call('GET', KEYS[rule * 3])
    if changed then width = tonumber(string.match(changed, '^%d+ (%d+)$')) end
    bucket(key, width, cost)
  else
    for i = 1, cost do given = given + redis.call('ZREM', key, ARGV[2] .. ':' .. i) end
  end
end
return given
