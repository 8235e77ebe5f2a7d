-- The beginning of every session script, not a script of its own.
--
-- A session is two hashes. `main` has the header `h`, the durable section `D`, the index
-- entries `i` and a field `<collection>:<name>` for each member; it has no expiry. `expiring`
-- has what expires: the conversation `T` and the authentication state `A`.
-- h = "v c a e x s o g": version (us), created (us), last active (ms), expiry of `expiring`
-- (ms), deadline of it (ms, 0 none), schema, active (0 or 1), generation. With sealing a
-- space and a seal follow. The caller makes the seal over the header that a script will
-- write and over the fields that will be stored, so it computes that header beforehand:
-- it gives its time, the header that it read and the sealed one to write. The script
-- computes the header too, and writes nothing when it comes out otherwise.
-- A session with nothing in `main` but `h`, and not switched off, ends at its expiry:
-- nobody asked for anything. Only those are in the sorted set of expiries.
local function text(x) return string.format('%.0f', x) end
-- Microseconds. The offset is 0 but in tests that step the clock. With `at` the caller's
-- time is taken instead, if it is right to a second.
local function clock(clock_offset, at)
  local t = redis.call('TIME')
  local now = t[1] * 1000000 + t[2] + tonumber(clock_offset)
  if at and at ~= '' and math.abs(tonumber(at) - now) <= 1000000 then now = tonumber(at) end
  return now
end
-- The header as it is stored; '' for none, and for a key of another type, which is damage.
local function header(main)
  local h = redis.pcall('HGET', main, 'h')
  local foreign = type(h) == 'table'
  -- Another error is no damage: a missing right, say.
  if foreign and not string.find(h.err, 'WRONGTYPE', 1, true) then error(h) end
  return not foreign and h or '', foreign
end
local function read(main)
  local h, foreign = header(main)
  if foreign then return {damaged = true} end
  if h == '' and redis.call('HEXISTS', main, 'h') == 0 then
    -- Fields without their header: somebody took it away.
    return redis.call('HLEN', main) > 0 and {damaged = true} or nil
  end
  local v, c, a, e, x, s, o, g, seal =
    string.match(h, '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) ([01]) (%w+)( ?.*)$')
  if not v or math.max(#v, #c, #a, #e, #x, #s) > 16
    or (seal ~= '' and string.sub(seal, 1, 1) ~= ' ') then return {damaged = true} end
  return {v = tonumber(v), c = tonumber(c), a = tonumber(a), e = tonumber(e),
          x = tonumber(x), s = s, o = o, g = g, sealed = seal ~= ''}
end
local function head(r)
  return text(r.v) .. ' ' .. text(r.c) .. ' ' .. text(r.a) .. ' '
    .. text(r.e) .. ' ' .. text(r.x) .. ' ' .. r.s .. ' ' .. r.o .. ' ' .. r.g
end
-- Whether what is stored is still `before`, and what is to be stored is what was sealed.
local function agreed(main, r, before, sealed)
  if sealed == '' then return true end
  local plain = head(r) .. ' '
  return header(main) == before
    and string.sub(sealed, 1, #plain) == plain
end
-- Count; what is no number there, by somebody else, begins again.
local function bump(stats, name, by)
  local done = redis.pcall('HINCRBY', stats, name, by)
  if type(done) == 'table' and done.err then
    if not string.find(done.err, 'not an integer', 1, true) then error(done) end
    redis.call('HSET', stats, name, by)
  end
end
local function newest(stats) return tonumber(redis.call('HGET', stats, 'v') or 0) or 0 end
-- What the caller needs to seal the right header.
local function disagreed(main, stats, clock_offset)
  return {'header', text(clock(clock_offset)), text(newest(stats)), (header(main))}
end
local function write(main, r, sealed)
  redis.call('HSET', main, 'h', sealed ~= '' and sealed or head(r))
end
local function durable(main, r) return r.o == '0' or redis.call('HLEN', main) > 1 end
local function ended(main, r, now) return r.e <= now / 1000 and not durable(main, r) end
-- Have the sweeper know what may end, and nothing else.
local function settle(main, expiry, name, r)
  if durable(main, r) then redis.call('ZREM', expiry, name)
  else redis.call('ZADD', expiry, text(r.e), name) end
end
-- The user did something. Returns whether the conversation before it has ended.
local function renew(r, now, ttl, absolute)
  local ms = math.floor(now / 1000)
  local over = r.e <= ms
  if over then r.x = tonumber(absolute) > 0 and ms + tonumber(absolute) or 0 end
  r.a = ms
  r.e = ms + tonumber(ttl)
  if r.x > 0 and r.x < r.e then r.e = r.x end
  return over
end
-- Store what `renew` made: a conversation that has ended must not come back with it.
local function active(expiring, activity, name, r, over, clock_offset)
  if over then redis.call('UNLINK', expiring) end
  redis.call('PEXPIREAT', expiring, text(r.e - tonumber(clock_offset) / 1000))
  redis.call('ZADD', activity, text(r.a), name)
end
-- Append to the changes that other processes follow; each names the one before it.
local function announce(log, stats, link, name, v, on, index_adds, index_removes, id)
  local before = redis.call('HGET', stats, 'link') or ''
  redis.call('XADD', log, 'MAXLEN', '~', '1000', id or '*', 'p', before, 'x', link, 'u', name,
    'v', text(v), 'o', on, 'j', index_adds, 'l', index_removes)
  redis.call('HSET', stats, 'link', link)
end
-- A session begins that is registered already: somebody else took its hash away, and with
-- it the list of its index entries. `erase` searches all indexes from then on.
local function unlisted(activity, stats, name)
  if redis.call('ZSCORE', activity, name) then bump(stats, 'unlisted', 1) end
end
-- Forget a session that has no index entries (or whose entries the caller removes).
-- Returns 1 if it was registered.
local function forget(main, expiring, activity, expiry, off, stats, name, r)
  redis.call('UNLINK', main, expiring)
  local had = redis.call('ZREM', activity, name)
  redis.call('ZREM', expiry, name)
  redis.call('SREM', off, name)
  if r and not r.damaged then
    bump(stats, 'created', text(-math.floor(r.c / 1000)))
    -- A session that is created again goes on above this, whatever the clock says.
    if r.v > newest(stats) then redis.call('HSET', stats, 'v', text(r.v)) end
  end
  return had
end
