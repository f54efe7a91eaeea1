-- End a reservation: book the tokens really used and free its place in flight. Doing it again, or
-- for a reservation that is not known, changes nothing.
--
-- KEYS  1 buckets (hash)  2 requests in flight (sorted set)  3 the reservation
-- ARGV  1 tokens per minute (0: no limit)  2 tokens used  3 reservation id
--       4 now in ms (-1: the server's clock)
-- Reply 1 when settled now, else 0

local MINUTE = 60000

redis.call('ZREM', KEYS[2], ARGV[3])
if redis.call('HGET', KEYS[3], 'open') ~= '1' then
  return 0
end
redis.call('HSET', KEYS[3], 'open', 0)
redis.call('PEXPIRE', KEYS[3], MINUTE)

local capacity = tonumber(ARGV[1])
if capacity == 0 then
  return 1
end
local now = tonumber(ARGV[4])
if now < 0 then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end
local stored = redis.call('HMGET', KEYS[1], 'tokens', 'tokens:at')
local level = tonumber(stored[1] or capacity)
local at = tonumber(stored[2] or now)
level = math.min(capacity, level + math.max(0, now - at) * capacity / MINUTE)
local charged = tonumber(redis.call('HGET', KEYS[3], 'charged'))
level = math.min(capacity, level + charged - tonumber(ARGV[2]))
redis.call('HSET', KEYS[1], 'tokens', string.format('%.17g', level), 'tokens:at', math.max(now, at))
local full = math.max(0, math.ceil((capacity - level) * MINUTE / capacity))
redis.call('PEXPIRE', KEYS[1], full + 2 * MINUTE)
return 1
