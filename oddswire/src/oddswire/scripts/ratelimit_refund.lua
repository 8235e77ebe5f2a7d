-- Releases what one admitted request took, as far as it still counts.
--
-- KEYS    for each rule three: its state, its block, its changed limit
-- ARGV    1  for each rule 22 bytes, as in ratelimit_hit.lua
--         2  when it was admitted, microseconds of the server's clock
--         3  the lease
-- Returns how much was released, over all rules
-- Cost    O(rules)

local RULE = '>c1I4I8I4I4B'
local STATE, HEAD, AGES = '>I6I5I4I4', 19, 20 -- as in ratelimit_hit.lua
local OWN = 15

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local given = 0

-- From the sub-window it was counted in and no other, or others would be let in twice.
local function window(key, cost)
  local raw = redis.call('GET', key)
  local size = raw and (#raw - HEAD) / AGES
  if size ~= 1 and size ~= 2 and size ~= 4 then return end
  local last, width, older, count = struct.unpack(STATE, raw)
  local age = last - math.floor(tonumber(ARGV[2]) / width)
  if age < 0 or age > AGES then return end
  local at, form = OWN, '>I4'
  if age > 0 then
    at, form = HEAD + (age - 1) * size, '>I' .. size
    count = struct.unpack(form, raw, at + 1)
  end
  local back = math.min(count, cost)
  given = given + back
  local head = string.sub(raw, 1, at)
  if age > 0 then
    head = struct.pack('>I6I5I4', last, width, older - back) .. string.sub(head, OWN + 1)
  end
  -- Not SETRANGE: Valkey then keeps the value apart from its key, in more bytes.
  local own = struct.pack(form, count - back)
  redis.call('SET', key, head .. own .. string.sub(raw, at + #own + 1), 'KEEPTTL')
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

local at = 1
for rule = 1, #KEYS / 3 do
  local key = KEYS[rule * 3 - 2]
  local kind, limit, width, cost, hold, watches
  kind, limit, width, cost, hold, watches, at = struct.unpack(RULE, ARGV[1], at)
  if kind == 'w' then
    window(key, cost)
  elseif kind == 'b' then
    local changed = redis.call('GET', KEYS[rule * 3])
    if changed then width = tonumber(string.match(changed, '^%d+ (%d+)$')) end
    bucket(key, width, cost)
  else
    for i = 1, cost do given = given + redis.call('ZREM', key, ARGV[3] .. ':' .. i) end
  end
end
return given
