-- The beginning of scripts that read messages, not a script of its own.
-- What somebody else wrote in the place of a message is none, and harms no other one.
local TYPES = { 'string', 'string', 'string', 'number', 'number', 'number', 'number',
  'string', 'number', 'string' }
local function message_of(packed)
  if not packed then return nil end
  local read, message = pcall(cmsgpack.unpack, packed)
  if not read or type(message) ~= 'table' then return nil end
  for n = 1, #TYPES do
    if type(message[n]) ~= TYPES[n] then return nil end
  end
  return message
end
-- Name the server process and the data in it: its run id, which changes with a restart
-- and a failover, and a mark that is gone with the data. Without INFO: the mark alone.
local function identity_of(meta)
  local info = redis.pcall('INFO', 'server')
  local run = type(info) == 'string' and string.match(info, 'run_id:(%x+)') or ''
  return run .. '-' .. (redis.call('HGET', meta, 'mark') or '')
end
-- Count; what is no number there begins again.
local function bump(meta, name, by)
  local done = redis.pcall('HINCRBY', meta, name, by)
  if type(done) == 'table' and done.err then redis.call('HSET', meta, name, by) end
end
