-- Note how far the indexes were built from the source, if nobody emptied this meanwhile.
-- A primary that was deposed may have acknowledged changes to processes that had not
-- left it yet. So what was built in another server process is compared again when that
-- cannot be any more, a minute later, and then each hour.
-- KEYS: stats. ARGV: 1 run, 2 last user done, 3 server process when all are, else "",
-- 4 clock offset, 5 seconds until the first comparison, 6 seconds to the next note.
-- Returns 1, or 0 when the run is not the one that is under way. Cost: O(1).
local under_way = redis.call('HGET', KEYS[1], 'rebuild')
if not under_way or string.match(under_way, '^%S+') ~= ARGV[1] then
  -- Another process of the same run was first.
  return redis.call('HGET', KEYS[1], 'rebuilt') == ARGV[1] and 1 or 0
end
local now = math.floor(clock(ARGV[4]) / 1000000)
if ARGV[3] == '' then
  redis.call('HSET', KEYS[1], 'rebuild', ARGV[1] .. ' ' .. ARGV[2],
             'due', text(now + tonumber(ARGV[6])))
else
  local compared = 0
  if redis.call('HGET', KEYS[1], 'source') == ARGV[3] then
    compared = (tonumber(redis.call('HGET', KEYS[1], 'compared') or 0) or 0) + 1
  end
  local pause = compared == 0 and tonumber(ARGV[5]) or compared == 1 and 60 or 3600
  redis.call('HDEL', KEYS[1], 'rebuild')
  redis.call('HSET', KEYS[1], 'source', ARGV[3], 'rebuilt', ARGV[1],
             'compared', text(compared), 'due', text(now + pause))
end
return 1
