-- Reserve one request and its tokens, or neither. The same reservation asked again gets the same
-- answer and is charged once.
--
-- KEYS  1 buckets (hash)  2 requests in flight (sorted set, score = expiry)  3 this reservation
-- ARGV  1 requests per minute  2 tokens per minute  3 most in flight  (0: no limit)
--       4 tokens asked  5 reservation id  6 lease in ms  7 now in ms (-1: the server's clock)
-- Reply {refused, requests level, tokens level, in flight, retry ms}; levels are text, as exact as
--       the server's numbers.
--       refused: 0 no, 1 in flight, 2 requests, 3 tokens

local MINUTE, SLACK, CONCURRENT_RETRY = 60000, 1e-6, 1000

local earlier = redis.call('HGET', KEYS[3], 'reply')
if earlier then
  return cjson.decode(earlier)
end

local now = tonumber(ARGV[7])
if now < 0 then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end
local lease = tonumber(ARGV[6])

-- Level and time of a bucket now; a clock that goes back refills nothing.
local function refilled(name, capacity)
  if capacity == 0 then
    return 0, now
  end
  local stored = redis.call('HMGET', KEYS[1], name, name .. ':at')
  local level = tonumber(stored[1] or capacity)
  local at = tonumber(stored[2] or now)
  return math.min(capacity, level + math.max(0, now - at) * capacity / MINUTE), math.max(now, at)
end

local function keep(name, capacity, level, at)
  if capacity > 0 then
    redis.call('HSET', KEYS[1], name, string.format('%.17g', level), name .. ':at', at)
  end
end

local function wait(level, need, capacity)
  return math.max(0, math.ceil((need - level) * MINUTE / capacity - SLACK))
end

local per_minute = { requests = tonumber(ARGV[1]), tokens = tonumber(ARGV[2]) }
local requests, requests_at = refilled('requests', per_minute.requests)
local tokens, tokens_at = refilled('tokens', per_minute.tokens)
local need = math.min(tonumber(ARGV[4]), per_minute.tokens)
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
local in_flight = redis.call('ZCARD', KEYS[2])
local most = tonumber(ARGV[3])

local refused, retry = 0, 0
if most > 0 and in_flight >= most then
  refused, retry = 1, CONCURRENT_RETRY
elseif per_minute.requests > 0 and requests < 1 - SLACK then
  refused, retry = 2, wait(requests, 1, per_minute.requests)
elseif per_minute.tokens > 0 and tokens < need - SLACK then
  refused, retry = 3, wait(tokens, need, per_minute.tokens)
end

if refused == 0 then
  requests = requests - 1
  tokens = tokens - need
  in_flight = in_flight + 1
  keep('requests', per_minute.requests, requests, requests_at)
  keep('tokens', per_minute.tokens, tokens, tokens_at)
  local full = MINUTE
  if per_minute.tokens > 0 then
    full = math.max(full, wait(tokens, per_minute.tokens, per_minute.tokens))
  end
  redis.call('PEXPIRE', KEYS[1], full + MINUTE)
  redis.call('ZADD', KEYS[2], now + lease, ARGV[5])
  redis.call('PEXPIRE', KEYS[2], lease + MINUTE)
end

local reply = {
  refused, string.format('%.17g', requests), string.format('%.17g', tokens), in_flight, retry
}
if refused == 0 then
  redis.call('HSET', KEYS[3], 'reply', cjson.encode(reply), 'charged', need, 'open', 1)
  redis.call('PEXPIRE', KEYS[3], lease + MINUTE)
end
return reply
