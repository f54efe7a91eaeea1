-- Put before each of the scripts. Of each tenant there are
--   a hash: 'requests' and 'tokens', the buckets' levels, each with '<name>:at', its time in ms;
--           'places' and 'exposure', the sums over reservations; 'r:<id>', a reservation, as
--           '<places> <charged tokens> <exposure>'
--   a sorted set of the reservations' ids by the ms at which they lapse.
-- Neither has a TTL, so that a full server does not drop them; what is over is removed here.

local MINUTE, SLACK = 60000, 1e-6
local MOST_LAPSED = 1000 -- removed by one call

local function time_ms(given)
  local now = tonumber(given)
  if now < 0 then
    local time = redis.call('TIME')
    now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  end
  return now
end

-- A bucket's level now. A clock that went back refills nothing, and counts from where it is.
local function level_of(hash, name, capacity, now)
  if capacity == 0 then
    return 0
  end
  local stored = redis.call('HMGET', hash, name, name .. ':at')
  local level = tonumber(stored[1] or capacity)
  local at = tonumber(stored[2] or now)
  if at > now then
    redis.call('HSET', hash, name .. ':at', now)
    at = now
  end
  return math.min(capacity, level + (now - at) * capacity / MINUTE)
end

local function text_of(level)
  return string.format('%.17g', level)
end

local function keep(hash, name, capacity, level, now)
  if capacity > 0 then
    redis.call('HSET', hash, name, text_of(level), name .. ':at', now)
  end
end

local function wait(level, need, capacity)
  return math.max(0, math.ceil((need - level) * MINUTE / capacity - SLACK))
end

local function read(hash, id)
  local text = redis.call('HGET', hash, 'r:' .. id)
  if not text then
    return nil
  end
  local places, charged, exposure = string.match(text, '^(%d+) (%d+) (%d+)$')
  return tonumber(places), tonumber(charged), tonumber(exposure)
end

local function write(hash, id, places, charged, exposure)
  redis.call('HSET', hash, 'r:' .. id, string.format('%.0f %.0f %.0f', places, charged, exposure))
end

local function add(hash, places, exposure)
  if places ~= 0 then
    redis.call('HINCRBY', hash, 'places', places)
  end
  if exposure ~= 0 then
    redis.call('HINCRBY', hash, 'exposure', exposure)
  end
end

local function total(hash, name)
  return tonumber(redis.call('HGET', hash, name) or 0)
end

local function remove(hash, leases, id)
  redis.call('ZREM', leases, id)
  redis.call('HDEL', hash, 'r:' .. id)
end

-- Free the places that nobody has renewed. What was charged for them is remembered for a while: a
-- front that comes back tells what was really used.
local function lapse(hash, leases, now, remember)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', now, 'LIMIT', 0, MOST_LAPSED)) do
    local places, charged, exposure = read(hash, id)
    if not places or places == 0 or charged == 0 then
      remove(hash, leases, id)
    else
      write(hash, id, 0, charged, 0)
      redis.call('ZADD', leases, now + remember, id)
    end
    if places then
      add(hash, -places, -exposure)
    end
  end
end

