-- Keep a policy's text as its next version, and put it in force.
--
-- KEYS  1 the hash that says what is in force: number, file, override, until, newest
--       2 the beginning of the versions' keys
-- ARGV  1 text  2 its sha256  3 author  4 message  5 source
--       6 the file that it was read from, or ''
--       7 milliseconds for which it overrides that of a file, or ''
--       8 the version that must be in force, or ''  9 a number that is known to have been used
--       10 versions kept
-- Reply {outcome, number}: 'kept' and the new version; 'same' and the one that has this text;
--       'changed' and the version in force, which is another one than was expected; 'managed' or
--       'unmanaged', since it does or does not override a file, and 0

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local state = redis.call('HMGET', KEYS[1], 'number', 'file', 'override', 'until', 'newest')
local number, file = tonumber(state[1] or '0'), state[2] or ''
local override, ends = tonumber(state[3] or '0'), tonumber(state[4] or '0')
local newest = math.max(tonumber(state[5] or '0'), tonumber(ARGV[9]))
if ends <= now then
  override = 0
end
local in_force = override > 0 and override or number
if ARGV[8] ~= '' and tonumber(ARGV[8]) ~= in_force then
  return {'changed', in_force}
end
local from_file, overrides = ARGV[6] ~= '', ARGV[7] ~= ''
if not from_file and file ~= '' and not overrides then
  return {'managed', 0}
end
if overrides and file == '' then
  return {'unmanaged', 0}
end
if not from_file and not overrides then
  redis.call('HDEL', KEYS[1], 'override', 'until')  -- of a file that manages no more
  number, override = in_force, 0
end
local compared = overrides and in_force or number
if compared > 0 and redis.call('HGET', KEYS[2] .. ':' .. compared, 'sha256') == ARGV[2] then
  if from_file then
    redis.call('HSET', KEYS[1], 'file', ARGV[6])
  elseif overrides then
    redis.call('HSET', KEYS[1], 'override', compared,
      'until', string.format('%.0f', now + tonumber(ARGV[7])))
  else
    redis.call('HSET', KEYS[1], 'number', compared)
  end
  return {'same', compared}
end
newest = newest + 1
local key = string.format('%s:%d', KEYS[2], newest)
redis.call('DEL', key)
redis.call('HSET', key, 'text', ARGV[1], 'sha256', ARGV[2], 'author', ARGV[3],
  'message', ARGV[4], 'source', ARGV[5], 'at', string.format('%.3f', now / 1000))
redis.call('HSET', KEYS[1], 'newest', newest)
if overrides then
  override = newest
  redis.call('HSET', KEYS[1], 'override', newest,
    'until', string.format('%.0f', now + tonumber(ARGV[7])))
else
  number = newest
  redis.call('HSET', KEYS[1], 'number', newest, 'file', ARGV[6])
end
local oldest = newest - tonumber(ARGV[10])
if oldest > 0 and oldest ~= number and oldest ~= override then
  redis.call('DEL', string.format('%s:%d', KEYS[2], oldest))
end
redis.call('PUBLISH', KEYS[1], newest)
return {'kept', newest}
