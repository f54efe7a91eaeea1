-- Read which version of the policy is in force.
--
-- KEYS  1 the hash that says it  2 the beginning of the versions' keys
-- ARGV  1 a version whose text the caller has
-- Reply {in force, without the override, file, milliseconds of the override that are left, newest,
--       the fields of the version in force unless the caller has it}

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local state = redis.call('HMGET', KEYS[1], 'number', 'file', 'override', 'until', 'newest')
local number = tonumber(state[1] or '0')
local in_force, left = number, tonumber(state[4] or '0') - now
if left > 0 then
  in_force = tonumber(state[3])
else
  left = 0
end
local fields = {}
if in_force > 0 and in_force ~= tonumber(ARGV[1]) then
  fields = redis.call('HGETALL', string.format('%s:%d', KEYS[2], in_force))
end
return {in_force, number, state[2] or '', left, tonumber(state[5] or '0'), fields}
