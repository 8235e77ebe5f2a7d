-- Decides all rules of a request together: each is counted, or none is.
--
-- KEYS    for each rule three: its state, its block, its changed limit
-- ARGV    1  for each rule 22 bytes, big-endian: "w" window, "b" bucket or "s" slots; its
--            limit (4 bytes); its width in microseconds (8: of a sub-window, between two
--            tokens, of a lease); the cost (4); what has to stay free (4); 1 for a rule
--            that only watches
--         2  "take" (so it is if absent), or "look": count nothing, or "book": the usage
--            that a process reports after an outage, counted whatever the limit
--         3  the lease, for slots
-- Returns the time, then for each rule four: its limit, what remains, microseconds until
--         it is unused, and until a retry (0: it admits; -1: never). Where only the count
--         of a window's present sub-window grew: the time and what remains, which say all
-- Cost    O(rules), a window O(20) when its sub-window changes or it denies; slots
--         O(log leases)
--
-- Times are whole microseconds of the server's clock. They are never concatenated: Lua
-- prints them with 14 digits.

local RULE = '>c1I4I8I4I4B'
-- A window's state: the number of its newest sub-window, the width, the sum of the 20
-- before it, its own count; then those 20, the newest first, in 1, 2 or 4 bytes each. 21
-- in all: any interval as long as a window lies in them. While a sub-window lasts, only
-- its own count changes.
local STATE, HEAD, AGES = '>I6I5I4I4', 19, 20
local OWN = 15 -- where its own count begins

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local found = redis.call('MGET', unpack(KEYS))

-- By far the most: one window with room, in the same sub-window as the last time. Before
-- all else is even defined, for that would be a tenth of the work.
local raw = found[1]
if raw and #raw >= HEAD + AGES and #KEYS == 3 and not ARGV[2]
  and not found[2] and not found[3] then
  local kind, limit, width, cost, hold = struct.unpack(RULE, ARGV[1])
  local last, was, older, count = struct.unpack(STATE, raw)
  local left, since = limit - older - count - cost, now - last * width
  if kind == 'w' and was == width and since >= 0 and since < width and left >= hold then
    redis.call('SET', KEYS[1], string.sub(raw, 1, OWN) .. struct.pack('>I4', count + cost)
      .. string.sub(raw, HEAD + 1), 'KEEPTTL')
    return {now, left}
  end
end

local mode = ARGV[2] or 'take'

local function keep(key, state, microseconds)
  redis.call('SET', key, state, 'PX', math.ceil(microseconds / 1000) + 1)
end

local function counts(ages, size)
  return struct.unpack('>' .. string.rep('I' .. size, AGES), ages)
end

-- A window as it is at sub-window `newest`: the sum of the older ones, its own count, the
-- older ones, their bytes each, and whether the clock went back.
local function moved(raw, newest, width)
  local size = raw and (#raw - HEAD) / AGES
  -- What a rule of this name kept when it was of another kind counts for nothing.
  if size ~= 1 and size ~= 2 and size ~= 4 then return 0, 0 end
  local last, was, older, count = struct.unpack(STATE, raw)
  local step = newest - last
  -- Another window's: as if it had all been now, which never admits too much.
  if was ~= width then return 0, older + count end
  if step > AGES then return 0, 0 end
  local ages = string.sub(raw, HEAD + 1)
  if step == 0 then return older, count, ages, size end
  if step < 0 then
    -- The clock went back: what was counted is put into the sub-windows before now, one
    -- younger than it was, for it may have been at that edge.
    local first = struct.unpack('>I' .. size, ages)
    ages = string.sub(ages, size + 1) .. string.rep('\0', size)
    return older - first, count + first, ages, size, true
  end
  if count >= 256 ^ size then
    ages = struct.pack('>' .. string.rep('I4', AGES), counts(ages, size))
    size = 4
  end
  local kept = (AGES - step) * size
  older = older + count
  for at = kept + 1, #ages, size do
    older = older - struct.unpack('>I' .. size, ages, at)
  end
  ages = string.rep('\0', (step - 1) * size) .. struct.pack('>I' .. size, count)
    .. string.sub(ages, 1, kept)
  return older, 0, ages, size
end

local function window(raw, key, limit, width, cost, hold)
  local number = math.floor(now / width)
  local older, count, ages, size, back = moved(raw, number, width)
  if not ages then
    size = limit < 256 and 1 or limit < 65536 and 2 or 4
    ages = string.rep('\0', AGES * size)
  end
  if back and mode ~= 'look' then
    -- Kept also if this is denied, or denials would find it anew each time, and what was
    -- used would not wear off before the clock is there again.
    keep(key, struct.pack(STATE, number, width, older, count) .. ages,
      (number + AGES + 1) * width - now)
  end
  local used = older + count
  local over = used + cost + hold - limit
  if mode == 'look' or over > 0 and mode ~= 'book' then
    local retry, reset = 0, 0
    local each = {counts(ages, size)}
    each[0] = count
    for age = AGES, 0, -1 do
      if each[age] > 0 then
        reset = (number - age + AGES + 1) * width - now
        if over > 0 then retry = reset end
        over = over - each[age]
      end
    end
    return limit - used, reset, retry
  end
  return limit - used - cost, (number + AGES + 1) * width - now, 0,
    struct.pack(STATE, number, width, older, count + cost) .. ages
end

-- GCRA: the state is the theoretical arrival time, when the bucket will be full again.
local function bucket(raw, key, limit, width, cost, hold)
  local full = limit * width
  local arrival = math.max(tonumber(raw or 0) or 0, now)
  if arrival > now + full then
    -- The clock went back: an empty bucket, not an hour of waiting. Kept, as above.
    arrival = now + full
    if mode ~= 'look' then keep(key, string.format('%.0f', arrival), full) end
  end
  local free = full - (arrival - now)
  local need = (cost + hold) * width
  if mode ~= 'book' and need > free then
    return math.floor(free / width), arrival - now, need - free
  end
  if mode == 'look' then return math.floor(free / width), arrival - now, 0 end
  arrival = math.min(arrival + cost * width, now + full)
  return math.floor(free / width) - cost, arrival - now, 0, string.format('%.0f', arrival)
end

-- A sorted set of leases by their beginning, so that a clock that goes back is seen.
local function slots(raw, key, limit, width, cost, hold)
  if raw and mode ~= 'look' then redis.call('DEL', key) end
  local alive = string.format('(%.0f', now - width)
  local used = raw and 0 or redis.call('ZCOUNT', key, alive, '+inf')
  local over = used + cost + hold - limit
  local reset = used > 0 and width or 0
  if over <= 0 then
    if mode == 'look' then return limit - used, reset, 0 end
    return limit - used - cost, width, 0, 'lease'
  end
  local ahead = redis.call('ZRANGEBYSCORE', key, string.format('(%.0f', now), '+inf')
  if mode ~= 'look' then
    for i = 1, #ahead do redis.call('ZADD', key, 'XX', now, ahead[i]) end
  end
  local first = redis.call('ZRANGEBYSCORE', key, alive, '+inf', 'WITHSCORES',
    'LIMIT', over - 1, 1)
  local retry = first[2] and math.min(first[2], now) + width - now or width
  return limit - used, reset, retry
end

-- Microseconds that a block still lasts; one that a clock gone back made longer than it
-- was asked for begins again.
local function blocked(raw, key)
  local ends, length = string.match(raw, '^(%d+) (%d+)$')
  -- What is no block, by somebody else, blocks nothing.
  if not ends or #ends > 16 or #length > 16 then return 0 end
  local left = ends - now
  if left > tonumber(length) then
    left = tonumber(length)
    if mode ~= 'look' then
      redis.call('SET', key, string.format('%.0f %.0f', now + left, left),
        'PX', math.ceil(left / 1000))
    end
  end
  return math.max(left, 0)
end

local all, reply, kept, at = true, {now}, {}, 1
for rule = 1, #KEYS / 3 do
  local key = rule * 3 - 2
  local kind, limit, width, cost, hold, watches
  kind, limit, width, cost, hold, watches, at = struct.unpack(RULE, ARGV[1], at)
  if found[key + 2] then
    local changed, wide = string.match(found[key + 2], '^(%d+) (%d+)$')
    changed, wide = tonumber(changed), tonumber(wide)
    -- Somebody else's is no change of the limit.
    if changed and changed < 2 ^ 32 and wide > 0 and wide < 2 ^ 53 then
      limit, width = changed, wide
      hold = math.max(math.min(hold, limit - cost), 0)
    end
  end
  local of = kind == 'w' and window or kind == 'b' and bucket or slots
  local remaining, reset, retry, state = of(found[key], KEYS[key], limit, width, cost, hold)
  if mode ~= 'book' then
    if cost > limit then retry = -1 end
    local left = found[key + 1] and blocked(found[key + 1], KEYS[key + 1]) or 0
    if left > 0 then
      remaining = 0
      reset = math.max(reset, left)
      if retry >= 0 then retry = math.max(retry, left) end
    end
  end
  if retry == 0 then
    kept[rule] = {key = KEYS[key], state = state, width = width, cost = cost}
  elseif watches == 0 then
    all = false
  end
  local out = rule * 4 - 2
  reply[out], reply[out + 1] = limit, math.max(remaining, 0)
  reply[out + 2], reply[out + 3] = reset, retry
end
if not all or mode == 'look' then return reply end

for rule, one in pairs(kept) do
  if one.state == 'lease' then
    redis.call('ZREMRANGEBYSCORE', one.key, '-inf', now - one.width)
    for i = 1, one.cost do redis.call('ZADD', one.key, now, ARGV[3] .. ':' .. i) end
    redis.call('PEXPIRE', one.key, math.ceil(one.width / 1000) + 1)
  elseif one.state then
    keep(one.key, one.state, reply[rule * 4])
  end
end
return reply
