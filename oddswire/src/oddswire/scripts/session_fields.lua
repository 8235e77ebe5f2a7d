-- Read a session's fields whether it lives, has ended or is damaged; changes nothing.
-- KEYS: main. Returns the fields of main; one without a name for a key of another type, so
-- that it can be deleted. Cost: O(fields).
local all = redis.pcall('HGETALL', KEYS[1])
return all.err and {'', ''} or all
