-- Writes state and data of a conversation together, and begins its lifetime again.
--
-- The state is the field 's', each value of the data a field 'd' .. name. A value is
-- '@' .. place .. ':' .. JSON: the data is a dictionary, and its order is kept. A value
-- that is merged over another keeps its place, a new one comes last. A field 'x' says
-- that the data of another storage could not be read; 'replace' is the way out of it.
--
-- KEYS    1  the conversation
-- ARGV    1  its lifetime in milliseconds, 0 for ever
--         2  bytes that it may have, names and values
--         3  'merge' the data below into what is there, 'replace' it, or 'keep' it
--         4  'set' the state, 'drop' or 'keep' it, 5  the state
--         6, 7 ...  field and value of the data, in turns
-- Returns the fields and values it has now, in turns; for 'keep' none; or the number of
--         bytes, when they are too many and nothing was written
-- Cost    O(fields); 'keep' O(1)

local key, ttl, data, state = KEYS[1], ARGV[1], ARGV[3], ARGV[4]
local now = {}
if data ~= 'keep' then
  local last = 0
  if data == 'merge' then
    local was = redis.call('HGETALL', key)
    for i = 1, #was, 2 do
      now[was[i]] = was[i + 1]
      local place = was[i] ~= 's' and tonumber(string.match(was[i + 1], '^@(%d+):'))
      if place and place > last and place < 1e15 then last = place end
    end
  elseif state == 'keep' then
    -- What is there may be no conversation at all: then there is no state to keep.
    local kept = redis.pcall('HGET', key, 's')
    if type(kept) == 'string' then now['s'] = kept end
  end
  for i = 6, #ARGV, 2 do
    local field, place = ARGV[i], nil
    if now[field] then
      -- Without a place it was written before there were any: those come first.
      place = string.match(now[field], '^@(%d+):') or '0'
    else
      last = last + 1
      place = string.format('%d', last)
    end
    now[field] = '@' .. place .. ':' .. ARGV[i + 1]
  end
  if state == 'set' then now['s'] = ARGV[5] end
  if state == 'drop' then now['s'] = nil end
  local size = 0
  for name, value in pairs(now) do size = size + #name + #value end
  if size > tonumber(ARGV[2]) then return size end
end
if data == 'replace' then
  redis.call('DEL', key)
  for name, value in pairs(now) do redis.call('HSET', key, name, value) end
else
  for i = 6, #ARGV, 2 do redis.call('HSET', key, ARGV[i], now[ARGV[i]]) end
  if state == 'set' then redis.call('HSET', key, 's', ARGV[5]) end
  if state == 'drop' then redis.call('HDEL', key, 's') end
end
if ttl == '0' then
  redis.call('PERSIST', key)
else
  redis.call('PEXPIRE', key, ttl)
end
local answer = {}
for name, value in pairs(now) do
  answer[#answer + 1] = name
  answer[#answer + 1] = value
end
return answer
