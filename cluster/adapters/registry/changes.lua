-- What changed after a revision, as it is now.
--
-- KEYS  as commit.lua
-- ARGV  1 epoch  2 number of the revision that the caller has
-- Reply epoch, number, '1' if everything follows or '0' if changes do, then of each field: its
--       name, '1' if there or '0' if removed, bytes

local stored = redis.call('HMGET', KEYS[2], 'epoch', 'number', 'floor')
local epoch = stored[1] or ''
local number = stored[2] or '0'
local since = tonumber(ARGV[2])
local reply = {epoch, number, '0'}

if epoch ~= ARGV[1] or since > tonumber(number) or since < tonumber(stored[3] or '0') then
  reply[3] = '1'
  local all = redis.call('HGETALL', KEYS[1])
  for i = 1, #all, 2 do
    reply[#reply + 1] = all[i]
    reply[#reply + 1] = '1'
    reply[#reply + 1] = all[i + 1]
  end
  return reply
end

local fields = redis.call('ZRANGE', KEYS[3], '(' .. ARGV[2], '+inf', 'BYSCORE')
for _, field in ipairs(fields) do
  local raw = redis.call('HGET', KEYS[1], field)
  reply[#reply + 1] = field
  reply[#reply + 1] = raw and '1' or '0'
  reply[#reply + 1] = raw or ''
end
return reply
