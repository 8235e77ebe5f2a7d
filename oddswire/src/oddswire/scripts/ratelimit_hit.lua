-- Decides all rules of a request together: each is counted, or none is.
--
-- KEYS    for each rule three: its state, its block, its changed limit
-- ARGV    1  "take", or "look": count nothing, or "book": count, whatever the limit
--         2  the lease, for slots
--         then for each rule six: "window", "bucket" or "slots"; its limit; its width in
--         microseconds (of a sub-window, between two tokens, of a lease); the cost; what
--         has to stay free; "1" for a rule that only watches
-- Returns 1 or 0, the time, then for each rule five: whether it admits, its limit,
--         what remains, microseconds until it is unused, and until a retry (-1: never)
-- Cost    O(rules), a window O(22) when its sub-window changes or it denies; slots
--         O(log leases)
--
-- Times are whole microseconds of the server's clock. They are never concatenated: Lua
-- prints them with 14 digits.

local SUBS = 21 -- sub-windows: 20 make the window, so any interval of it lies in 21
local HEAD = 15 -- bytes of '>I6I5I4': number of the newest sub-window, width, sum of the
-- older ones: while a sub-window lasts, only its own counter changes

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local found = redis.call('MGET', unpack(KEYS))
local mode = ARGV[1]

-- By far the most: one window, in the same sub-window as the last time or in the next one,
-- with room. Before all else is even defined, for that would be half of the work.
local raw = found[1]
if raw and #KEYS == 3 and ARGV[3] == 'window' and mode == 'take'
  and not found[2] and not found[3] then
  local limit, width, cost = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
  local last, was, older = struct.unpack('>I6I5I4', raw)
  local number, size = math.floor(now / width), (#raw - HEAD) / SUBS
  local form = size == 1 and '>I1' or size == 2 and '>I2' or size == 4 and '>I4'
  local step = number - last
  if form and was == width and limit < 256 ^ size and (step == 0 or step == 1) then
    local at = HEAD + number % SUBS * size
    local count = struct.unpack(form, raw, at + 1)
    if step == 1 then
      -- The counter of the oldest becomes that of the newest.
      older = older - count + struct.unpack(form, raw, HEAD + last % SUBS * size + 1)
      count = 0
    end
    local left = limit - older - count - cost
    if left >= tonumber(ARGV[7]) then
      local reset = (number + SUBS) * width - now
      local counters = struct.pack(form, count + cost) .. string.sub(raw, at + size + 1)
      if step == 0 then
        redis.call('SET', KEYS[1], string.sub(raw, 1, at) .. counters, 'KEEPTTL')
      else
        redis.call('SET', KEYS[1], struct.pack('>I6I5I4', number, width, older)
          .. string.sub(raw, HEAD + 1, at) .. counters,
          'PX', math.ceil(reset / 1000) + 1)
      end
      return {1, now, 1, limit, left, reset, 0}
    end
  end
end

local function size_for(most)
  return most < 256 and 1 or most < 65536 and 2 or 4
end

local function keep(key, state, microseconds)
  redis.call('SET', key, state, 'PX', math.ceil(microseconds / 1000) + 1)
end

local function packed(number, width, sum, counters, size)
  return struct.pack('>I6I5I4' .. string.rep('I' .. size, SUBS),
    number, width, sum - counters[number % SUBS + 1], unpack(counters))
end

-- The counters by number % SUBS, as they count in sub-window `newest`, and their sum.
local function unrolled(raw, newest, width)
  local counters, sum = {}, 0
  for i = 1, SUBS do counters[i] = 0 end
  if not raw then return counters, 0 end
  local last, was, older = struct.unpack('>I6I5I4', raw)
  local size = (#raw - HEAD) / SUBS
  local old = {struct.unpack('>' .. string.rep('I' .. size, SUBS), raw, HEAD + 1)}
  if was ~= width then
    -- Another window's: as if it had all been now, which never admits too much.
    local all = older + old[last % SUBS + 1]
    counters[newest % SUBS + 1] = all
    return counters, all
  end
  for age = 0, SUBS - 1 do
    local number = last - age
    local count = old[number % SUBS + 1]
    -- The clock went back: what was counted is put into the sub-windows before now, one
    -- younger than it was, for it may have been at that edge.
    if last > newest then number = newest - math.max(age - 1, 0) end
    if number > newest - SUBS then
      local at = number % SUBS + 1
      counters[at] = counters[at] + count
      sum = sum + count
    end
  end
  return counters, sum
end

-- What a rule of this name kept when it was of another kind counts for nothing.
local function is_window(raw)
  local size = raw and (#raw - HEAD) / SUBS
  return size == 1 or size == 2 or size == 4
end

local function window(raw, key, limit, width, cost, hold)
  if not is_window(raw) then raw = nil end
  local number = math.floor(now / width)
  local counters, used = unrolled(raw, number, width)
  if raw and struct.unpack('>I6', raw) > number and mode ~= 'look' then
    -- The clock went back. Kept also if this is denied, or denials would find it anew
    -- each time, and what was used would not wear off before the clock is there again.
    keep(key, packed(number, width, used, counters, size_for(math.max(limit, used))),
      (number + SUBS) * width - now)
  end
  local over = used + cost + hold - limit
  if mode == 'look' or over > 0 and mode ~= 'book' then
    local retry, reset = 0, 0
    for age = SUBS - 1, 0, -1 do
      local count = counters[(number - age) % SUBS + 1]
      if count > 0 then
        reset = (number - age + SUBS) * width - now
        if over > 0 then retry = reset end
        over = over - count
      end
    end
    return used + cost + hold <= limit, limit - used, reset, retry
  end
  local at = number % SUBS + 1
  counters[at] = counters[at] + cost
  local state = packed(number, width, used + cost, counters,
    size_for(math.max(limit, used + cost)))
  return true, limit - used - cost, (number + SUBS) * width - now, 0, state
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
    return false, math.floor(free / width), arrival - now, need - free
  end
  if mode == 'look' then return true, math.floor(free / width), arrival - now, 0 end
  arrival = math.min(arrival + cost * width, now + full)
  return true, math.floor(free / width) - cost, arrival - now, 0,
    string.format('%.0f', arrival)
end

-- A sorted set of leases by their beginning, so that a clock that goes back is seen.
local function slots(raw, key, limit, width, cost, hold)
  if raw and mode ~= 'look' then redis.call('DEL', key) end
  local alive = string.format('(%.0f', now - width)
  local used = raw and 0 or redis.call('ZCOUNT', key, alive, '+inf')
  local over = used + cost + hold - limit
  local reset = used > 0 and width or 0
  if over <= 0 then
    if mode == 'look' then return true, limit - used, reset, 0 end
    return true, limit - used - cost, width, 0, 'lease'
  end
  local ahead = redis.call('ZRANGEBYSCORE', key, string.format('(%.0f', now), '+inf')
  if mode ~= 'look' then
    for i = 1, #ahead do redis.call('ZADD', key, 'XX', now, ahead[i]) end
  end
  local first = redis.call('ZRANGEBYSCORE', key, alive, '+inf', 'WITHSCORES',
    'LIMIT', over - 1, 1)
  local retry = first[2] and math.min(first[2], now) + width - now or width
  return false, limit - used, reset, retry
end

-- Microseconds that a block still lasts; one that a clock gone back made longer than it
-- was asked for begins again.
local function blocked(raw, key)
  local ends, length = string.match(raw, '^(%d+) (%d+)$')
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

local all = true
local reply, states = {1, now}, {}
for rule = 1, #KEYS / 3 do
  local key, arg = rule * 3 - 2, rule * 6 - 3
  local kind, limit, width = ARGV[arg], tonumber(ARGV[arg + 1]), tonumber(ARGV[arg + 2])
  local cost, hold = tonumber(ARGV[arg + 3]), tonumber(ARGV[arg + 4])
  if found[key + 2] then
    local changed = found[key + 2]
    limit, width = string.match(changed, '^(%d+) (%d+)$')
    limit, width = tonumber(limit), tonumber(width)
    hold = math.max(math.min(hold, limit - cost), 0)
  end
  local admits, remaining, reset, retry, state
  if kind == 'window' then
    admits, remaining, reset, retry, state =
      window(found[key], KEYS[key], limit, width, cost, hold)
  elseif kind == 'bucket' then
    admits, remaining, reset, retry, state =
      bucket(found[key], KEYS[key], limit, width, cost, hold)
  else
    admits, remaining, reset, retry, state =
      slots(found[key], KEYS[key], limit, width, cost, hold)
  end
  if cost > limit and mode ~= 'book' then admits, retry = false, -1 end
  if found[key + 1] and mode ~= 'book' then
    local left = blocked(found[key + 1], KEYS[key + 1])
    if left > 0 then
      admits, remaining = false, 0
      reset = math.max(reset, left)
      if retry >= 0 then retry = math.max(retry, left) end
    end
  end
  if admits then
    states[rule] = state
  elseif ARGV[arg + 5] ~= '1' then
    all = false
  end
  local out = rule * 5 - 2
  reply[out], reply[out + 1] = admits and 1 or 0, limit
  reply[out + 2] = math.max(remaining, 0)
  reply[out + 3], reply[out + 4] = reset, retry
end
if not all then
  reply[1] = 0
  return reply
end
if mode == 'look' then return reply end

for rule = 1, #KEYS / 3 do
  local state, key, arg = states[rule], KEYS[rule * 3 - 2], rule * 6 - 3
  if state == 'lease' then
    local width = tonumber(ARGV[arg + 2])
    redis.call('ZREMRANGEBYSCORE', key, '-inf', now - width)
    for i = 1, tonumber(ARGV[arg + 3]) do
      redis.call('ZADD', key, now, ARGV[2] .. ':' .. i)
    end
    redis.call('PEXPIRE', key, math.ceil(width / 1000) + 1)
  elseif state then
    keep(key, state, reply[rule * 5 + 1])
  end
end
return reply
