-- Empty the log of changes if it names a user; without a link, only count.
-- The new log begins with an entry that names nobody and continues the chain of links: a
-- process that has read the last change reads on, any other finds a gap and builds its
-- indexes again.
-- KEYS: log, stats. ARGV: 1 name, 2 link of the new log, "" to change nothing.
-- Returns how many entries name the user. Cost: O(entries), about a thousand.
local log, stats = unpack(KEYS)
local entries, found = redis.call('XRANGE', log, '-', '+'), 0
for _, entry in ipairs(entries) do
  local words = entry[2]
  for i = 1, #words, 2 do
    -- A version or a switch may read like the number of a user.
    if words[i] ~= 'v' and words[i] ~= 'o' and words[i + 1] == ARGV[1] then
      found = found + 1
      break
    end
  end
end
if found > 0 and ARGV[2] ~= '' then
  local ms, seq = string.match(entries[#entries][1], '^(%d+)-(%d+)$')
  redis.call('UNLINK', log)
  -- Behind the last entry, or a process that waits there would never be woken.
  announce(log, stats, ARGV[2], '', 0, '1', '', '', ms .. '-' .. text(seq + 1))
end
return found
