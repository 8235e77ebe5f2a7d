#!lua flags=allow-oom
-- Reads what a queue holds and what became of everything.
-- KEYS  messages, lines, users, leases, delayed, parked, dead, meta, paused
-- ARGV  now in ms ('': the server's)
-- Returns {lines, delayed, parked, dead, leases, users, lag in ms, paused labels,
-- counters as name and value}.
-- Cost: O(paused labels).
local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local first = redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')
return {
  redis.call('ZCARD', KEYS[2]),
  redis.call('ZCARD', KEYS[5]),
  redis.call('ZCARD', KEYS[6]),
  redis.call('ZCARD', KEYS[7]),
  redis.call('HLEN', KEYS[4]),
  redis.call('ZCARD', KEYS[3]),
  math.max(0, now - (tonumber(first[2]) or now)),
  redis.call('SMEMBERS', KEYS[9]),
  redis.call('HGETALL', KEYS[8]),
}
