-- Entries of a LOG topic's stream, whatever protocol the connection speaks.
--
-- KEYS  1 stream
-- ARGV  1 "forward" or "back", 2 first id, 3 last id (as XRANGE or XREVRANGE takes
--       them), 4 most entries
-- Returns entries: {id, {field, value, ...}}.
-- Cost  one XRANGE or XREVRANGE of at most that many entries.
local command = ARGV[1] == 'back' and 'XREVRANGE' or 'XRANGE'
return redis.call(command, KEYS[1], ARGV[2], ARGV[3], 'COUNT', ARGV[4])
