-- Publish a message of a VOLATILE or LOG topic.
--
-- Each message names its predecessor by id and by random bits (a link), so that a reader
-- sees every kind of loss: a counter alone continues after a failover that lost some.
--
-- The last 16 digits of a LOG's link are a mark (4 digits: how many server processes have
-- continued this chain, 6 random) and 6 random digits. One process writes one history, so
-- messages of one mark are ordered by their ids for good; a server that was restored from
-- an older dump, or promoted, goes on under a new mark. The process is known by its run
-- id, which no client has to tell. Where a publisher may not run INFO the mark is zeros.
--
-- KEYS  1 head, 2 stream (with history 0 the head again), 3 dedup (only with a dedup id)
-- ARGV  1 channel, 2 key, 3 payload, 4 sixteen random hex digits,
--       5 history (0: keep none), 6 retention ms, 7 life of the head ms,
--       8 PUBLISH or SPUBLISH
-- Returns {number, link, 1 if the id was known, subscribers}.
-- Cost  two reads, up to four writes, one PUBLISH, for a LOG one INFO server (3 us of the
--       server's time); constant, but for trimming.
if KEYS[3] then
  local first = redis.call('GET', KEYS[3])
  if first then
    local n, link = string.match(first, '^(%d+) (%S+)$')
    if n then return {n, link, 1, 0} end
  end
end
local head = redis.call('GET', KEYS[1])
local n, prev, epoch, run
if head then n, prev, epoch, run = string.match(head, '^(%d+) (%S+) (%S+) ?(%S*)$') end
-- A number that counts no further, or a mark that is none: somebody's.
if n and #n > 15 then n = nil end
if not n then n, prev, epoch, run = 0, '0-0-' .. ARGV[4], ARGV[4], '' end
local tail, goes_on = ARGV[4], ''
if ARGV[5] ~= '0' then
  local info = redis.pcall('INFO', 'server')
  local here = type(info) == 'string' and string.match(info, 'run_id:(%x+)') or '-'
  here = string.sub(here, 1, 16)
  local mark = string.sub(prev, -16, -7)
  if run == '-' or here == '-' then
    run, mark = '-', '0000000000'
  elseif run ~= here or not string.match(mark, '^%x%x%x%x%x%x%x%x%x%x$') then
    local count = run == '' and 0 or tonumber(string.sub(mark, 1, 4), 16) or 0
    mark = string.format('%04x', math.min(count + 1, 65535)) .. string.sub(ARGV[4], 1, 6)
    run = here
  end
  tail = mark .. string.sub(ARGV[4], 11)
  goes_on = ' ' .. run
end
n = string.format('%.0f', n + 1)
local id
if ARGV[5] == '0' then
  local now = redis.call('TIME')
  id = string.format('%.0f-%s', now[1] * 1000 + math.floor(now[2] / 1000), n)
else
  id = redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[5], '*',
    'n', n, 'x', tail, 'p', prev, 'k', ARGV[2], 'd', ARGV[3])
  redis.call('PEXPIRE', KEYS[2], ARGV[6])
end
local link = id .. '-' .. tail
redis.call('SET', KEYS[1], n .. ' ' .. link .. ' ' .. epoch .. goes_on, 'PX', ARGV[7])
if KEYS[3] then redis.call('SET', KEYS[3], n .. ' ' .. link, 'PX', ARGV[6]) end
local heard = redis.call(ARGV[8], ARGV[1],
  n .. ' ' .. link .. ' ' .. prev .. ' ' .. ARGV[2] .. ' ' .. ARGV[3])
return {n, link, 0, heard}
