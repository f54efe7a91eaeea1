-- Charge one request, or refuse it. The same entry, asked again soon, is charged once.
--
-- KEYS  1 hash  2 sorted set
-- ARGV  1 requests per minute  2 id  3 ms that the id is remembered
--       4 ms that charges are remembered  5 now in ms (-1: the server's clock)
-- Reply {refused (0, or 2: requests), level as text, retry ms}

local hash, leases = KEYS[1], KEYS[2]
local capacity, id = tonumber(ARGV[1]), ARGV[2]
local now = time_ms(ARGV[5])
lapse(hash, leases, now, tonumber(ARGV[4]))
local level = level_of(hash, 'requests', capacity, now)
if read(hash, id) then
  return { 0, text_of(level), 0 }
end
if level < 1 - SLACK then
  return { 2, text_of(level), wait(level, 1, capacity) }
end
level = level - 1
keep(hash, 'requests', capacity, level, now)
write(hash, id, 0, 0, 0)
redis.call('ZADD', leases, now + tonumber(ARGV[3]), id)
return { 0, text_of(level), 0 }
