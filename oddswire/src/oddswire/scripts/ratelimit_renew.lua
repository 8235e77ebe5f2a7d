-- Renews the leases of an owner: their time begins now.
--
-- KEYS    1  the slots
-- ARGV    1  the lease, 2  how many of it, 3  their time in microseconds
-- Returns how many of them had been lost, and are there again
-- Cost    O(log leases)

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local lost = 0
for i = 1, tonumber(ARGV[2]) do
  lost = lost + redis.call('ZADD', KEYS[1], now, ARGV[1] .. ':' .. i)
end
redis.call('PEXPIRE', KEYS[1], math.ceil(ARGV[3] / 1000) + 1)
return lost
