-- Read a session's fields whether it lives, has ended or is damaged; changes nothing.
-- KEYS: main. Returns the fields of main. Cost: O(fields).
return redis.call('HGETALL', KEYS[1])
