-- Invalidate softly: entries that carry these tags are stale from now on.
-- KEYS: nonces of tags (one slot).
-- ARGV: 1 eight random bytes.
-- Returns how many of the tags were in use.
-- Cost: O(number of keys). Where memory is full and SET is refused, the script removes
--   them: gone is more than stale. The new soft nonce is made of the old one and of
--   chance: a repeated call makes yet another, so none ever comes back.
local found = 0
for _, key in ipairs(KEYS) do
  local nonces = redis.pcall('GET', key)
  if type(nonces) == 'string' and #nonces == 16 then
    local hex = string.sub(redis.sha1hex(nonces .. ARGV[1]), 1, 16)
    local soft = string.gsub(hex, '..', function(byte)
      return string.char(tonumber(byte, 16))
    end)
    local set = redis.pcall('SET', key, string.sub(nonces, 1, 8) .. soft, 'KEEPTTL')
    if set.err then
      redis.call('UNLINK', key)
    end
    found = found + 1
  end
end
return found
