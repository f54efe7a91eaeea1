-- Write what a controller keeps, unless a later one has begun.
--
-- KEYS  1 epoch  2 lease  3 demand  4 forecast  5... a list of history lines for each topic
-- ARGV  1 the writer's epoch  2 milliseconds of its lease  3 lines kept of a topic
--       4 the demand, or '' to leave it; then pairs: the number of a key in KEYS, and a line of
--       that list, or of the forecast a field and its value with a line's end between
-- Reply the epoch in force: a higher one than the writer's has refused it

local mine = tonumber(ARGV[1])
local stored = tonumber(redis.call('GET', KEYS[1]) or '0')
if stored > mine then
  return stored
end
if stored < mine then
  redis.call('SET', KEYS[1], ARGV[1])  -- the server has lost its data
end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
if ARGV[4] ~= '' then
  redis.call('SET', KEYS[3], ARGV[4])
end
local grown = {}
for i = 5, #ARGV, 2 do
  local number, text = tonumber(ARGV[i]), ARGV[i + 1]
  if number == 4 then
    local field, value = string.match(text, '^(.-)\n(.*)$')
    redis.call('HSET', KEYS[4], field, value)
  else
    redis.call('RPUSH', KEYS[number], text)
    grown[KEYS[number]] = true
  end
end
for key in pairs(grown) do
  redis.call('LTRIM', key, -tonumber(ARGV[3]), -1)
end
return mine
