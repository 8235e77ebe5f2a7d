-- Publish a message of a VOLATILE or LOG topic.
--
-- Each message names its predecessor by id and by random bits (a link), so that a reader
-- sees every kind of loss: a counter alone continues after a failover that lost some.
--
-- KEYS  1 head, 2 stream, 3 dedup (only with a dedup id)
-- ARGV  1 channel, 2 key, 3 payload, 4 sixteen random hex digits,
--       5 history (0: keep none), 6 retention ms, 7 life of the head ms
-- Returns {number, link, 1 if the id was known, subscribers}.
-- Cost  two reads, up to four writes, one PUBLISH; constant, but for trimming.
if KEYS[3] then
  local first = redis.call('GET', KEYS[3])
  if first then
    local n, link = string.match(first, '^(%d+) (%S+)$')
    return {n, link, 1, 0}
  end
end
local head = redis.call('GET', KEYS[1])
local n, prev, epoch
if head then n, prev, epoch = string.match(head, '^(%d+) (%S+) (%S+)$') end
if not n then n, prev, epoch = 0, '0-0-' .. ARGV[4], ARGV[4] end
n = string.format('%.0f', n + 1)
local id
if ARGV[5] == '0' then
  local now = redis.call('TIME')
  id = string.format('%.0f-%s', now[1] * 1000 + math.floor(now[2] / 1000), n)
else
  id = redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[5], '*',
    'n', n, 'x', ARGV[4], 'p', prev, 'k', ARGV[2], 'd', ARGV[3])
  redis.call('PEXPIRE', KEYS[2], ARGV[6])
end
local link = id .. '-' .. ARGV[4]
redis.call('SET', KEYS[1], n .. ' ' .. link .. ' ' .. epoch, 'PX', ARGV[7])
if KEYS[3] then redis.call('SET', KEYS[3], n .. ' ' .. link, 'PX', ARGV[6]) end
local heard = redis.call('PUBLISH', ARGV[1],
  n .. ' ' .. link .. ' ' .. prev .. ' ' .. ARGV[2] .. ' ' .. ARGV[3])
return {n, link, 0, heard}
