#!lua flags=allow-oom
-- Pauses or resumes what has a label.
-- KEYS  paused, meta, wake
-- ARGV  'pause' or 'resume', label ('*', 'kind:...' or 'key:...')
-- Returns 1, or 0: it was so already.
-- Cost: O(1).
local paused, meta, wake = unpack(KEYS)
if ARGV[1] == 'pause' then
  return redis.call('SADD', paused, ARGV[2])
end
local changed = redis.call('SREM', paused, ARGV[2])
-- From the first one on, also when a resume is under way; queue_take.lua does it.
redis.call('HSET', meta, 'resuming', '-')
redis.call('LPUSH', wake, 1)
return changed
