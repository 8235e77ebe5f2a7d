-- The newest values of a LATEST topic.
--
-- KEYS  1 newest values (hash: key -> "version link payload")
-- Returns the fields and values in turn, whatever protocol the connection speaks.
-- Cost  proportional to the number of keys.
return redis.call('HGETALL', KEYS[1])
