-- Count sessions; changes nothing.
-- KEYS: activity, expiry, off, stats. ARGV: 1 clock offset, 2 ttl ms, then windows in ms.
-- Returns {now ms, total, off, sum of creation times ms (text), conversations, creations,
-- fields of stats, count for each window}. Cost: O(log sessions) and the counters.
local ms = math.floor(clock(ARGV[1]) / 1000)
local windows = {}
for i = 3, #ARGV do
  windows[i - 2] = redis.call('ZCOUNT', KEYS[1], text(ms - tonumber(ARGV[i])), '+inf')
end
return {ms, redis.call('ZCARD', KEYS[1]), redis.call('SCARD', KEYS[3]),
        redis.call('HGETALL', KEYS[4]),
        redis.call('ZCOUNT', KEYS[1], '(' .. text(ms - tonumber(ARGV[2])), '+inf'), windows}
