-- Note how far the indexes were built from the source, if nobody emptied this meanwhile.
-- KEYS: stats. ARGV: 1 run, 2 last user done, 3 server process when all are, else "".
-- Returns 1, or 0 when the run is not the one that is under way. Cost: O(1).
local under_way = redis.call('HGET', KEYS[1], 'rebuild')
if not under_way or string.match(under_way, '^%S+') ~= ARGV[1] then
  -- Another process of the same run was first.
  return redis.call('HGET', KEYS[1], 'rebuilt') == ARGV[1] and 1 or 0
end
if ARGV[3] == '' then
  redis.call('HSET', KEYS[1], 'rebuild', ARGV[1] .. ' ' .. ARGV[2])
else
  redis.call('HDEL', KEYS[1], 'rebuild')
  redis.call('HSET', KEYS[1], 'source', ARGV[3], 'rebuilt', ARGV[1])
end
return 1
