-- Write several fields as one new revision, if others are as expected.
--
-- KEYS  1 records (hash)  2 revision (hash: epoch, number, floor, process)  3 changed (sorted set: field by
--       revision)  4 removed (sorted set: field by revision)
-- ARGV  1 name of a new epoch, if one begins  2 removed fields to remember
--       3 number of expectations, then of each: field, '1' if there or '0' if not, bytes
--       then the number of writes, then of each: field, '1' to set or '0' to remove, bytes
-- Reply epoch and number of the new revision; an empty list where an expectation does not hold
--
-- A server that died may have lost its last writes. So numbers follow its clock, never to be used
-- twice, and the first commit of another server process begins a new epoch: whoever has seen what
-- was lost reads everything again.

local at = 4
for _ = 1, tonumber(ARGV[3]) do
  local found = redis.call('HGET', KEYS[1], ARGV[at])
  if ARGV[at + 1] == '1' then
    if found ~= ARGV[at + 2] then
      return {}
    end
  elseif found then
    return {}
  end
  at = at + 3
end

local stored = redis.call('HMGET', KEYS[2], 'epoch', 'number', 'floor', 'process')
local info = redis.pcall('INFO', 'server')
local process = type(info) == 'string' and info:match('run_id:(%w+)') or ''
local epoch = stored[1]
if not epoch or stored[4] ~= process then
  epoch = ARGV[1]
end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local number = math.max(tonumber(stored[2] or '0') + 1, now)
local score = string.format('%.0f', number)
local floor = stored[3] or '0'
local writes = tonumber(ARGV[at])
at = at + 1
for _ = 1, writes do
  local field = ARGV[at]
  redis.call('ZADD', KEYS[3], score, field)
  if ARGV[at + 1] == '1' then
    redis.call('HSET', KEYS[1], field, ARGV[at + 2])
    redis.call('ZREM', KEYS[4], field)
  else
    redis.call('HDEL', KEYS[1], field)
    redis.call('ZADD', KEYS[4], score, field)
  end
  at = at + 3
end

local excess = redis.call('ZCARD', KEYS[4]) - tonumber(ARGV[2])
if excess > 0 then
  local oldest = redis.call('ZPOPMIN', KEYS[4], excess)
  for i = 1, #oldest, 2 do
    redis.call('ZREM', KEYS[3], oldest[i])
    floor = string.format('%.0f', math.max(tonumber(floor), tonumber(oldest[i + 1])))
  end
end
redis.call(
  'HSET', KEYS[2], 'epoch', epoch, 'number', score, 'floor', floor, 'process', process
)
redis.call('PUBLISH', KEYS[2], score)
return {epoch, score}
