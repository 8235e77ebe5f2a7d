-- Publish a value of a LATEST topic, unless its key has a version as new.
--
-- KEYS  1 head, 2 newest values (hash: key -> "version link payload")
-- ARGV  1 channel, 2 key, 3 payload, 4 sixteen random hex digits,
--       5 version (empty: later than the stored one, from the server's clock in us),
--       6 life of the values ms, 7 life of the head ms, 8 PUBLISH or SPUBLISH
-- Returns {number, link, 1 if the version was outdated, subscribers}; outdated: the
--         number of the head and the link of the stored value.
-- Cost  two reads, four writes, one PUBLISH; constant.
local old = redis.call('HGET', KEYS[2], ARGV[2])
local stored, stored_link
if old then stored, stored_link = string.match(old, '^(%d+) (%S+) ') end
local head = redis.call('GET', KEYS[1])
local n, prev, epoch
if head then n, prev, epoch = string.match(head, '^(%d+) (%S+) (%S+)$') end
if not n then n, prev, epoch = 0, '0-0-' .. ARGV[4], ARGV[4] end
local now = redis.call('TIME')
local version = ARGV[5]
if version == '' then
  local clock = now[1] * 1000000 + now[2]
  version = string.format('%.0f', math.max(clock, (tonumber(stored) or 0) + 1))
elseif stored and tonumber(version) <= tonumber(stored) then
  return {tostring(n), stored_link, 1, 0}
end
n = string.format('%.0f', n + 1)
local link = string.format('%.0f-%s-%s',
  now[1] * 1000 + math.floor(now[2] / 1000), n, ARGV[4])
redis.call('HSET', KEYS[2], ARGV[2], version .. ' ' .. link .. ' ' .. ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[6])
redis.call('SET', KEYS[1], n .. ' ' .. link .. ' ' .. epoch, 'PX', ARGV[7])
local heard = redis.call(ARGV[8], ARGV[1],
  n .. ' ' .. link .. ' ' .. prev .. ' ' .. ARGV[2] .. ' ' .. version .. ' ' .. ARGV[3])
return {n, link, 0, heard}
