-- What a reader of a LOG topic missed, if the log can prove it has all of it.
--
-- KEYS  1 head, 2 stream
-- ARGV  1 stream id to read after, 2 link of the message read last (empty: none, read
--       from that id on, it included), 3 most entries, 4 sixteen random hex digits,
--       5 life of the head ms
-- Returns {head, 1 if the entries follow the link and 0 if they do not, entries}.
-- Cost  one read of the head, one XRANGE of at most that many entries.
local head = redis.call('GET', KEYS[1])
if not head or not string.match(head, '^%d+ %S+ %S+ ?%S*$') then
  -- A random root, so that the loss of this head would be seen too.
  head = '0 0-0-' .. ARGV[4] .. ' ' .. ARGV[4]
  redis.call('SET', KEYS[1], head, 'PX', ARGV[5])
end
if ARGV[2] == '' then
  return {head, 1, redis.call('XRANGE', KEYS[2], ARGV[1], '+', 'COUNT', ARGV[3])}
end
if string.match(head, '^%d+ (%S+) ') == ARGV[2] then return {head, 1, {}} end
local function field(entry, name)
  for i = 1, #entry[2], 2 do
    if entry[2][i] == name then return entry[2][i + 1] end
  end
end
local entries = redis.call('XRANGE', KEYS[2], ARGV[1], '+', 'COUNT', ARGV[3] + 1)
local first = entries[1]
if first and first[1] .. '-' .. (field(first, 'x') or '') == ARGV[2] then
  table.remove(entries, 1)
  return {head, 1, entries}
end
if first and field(first, 'p') == ARGV[2] then return {head, 1, entries} end
return {head, 0, {}}
