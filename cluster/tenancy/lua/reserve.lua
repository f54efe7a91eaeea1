-- Take places and tokens, or neither. The same reservation asked again is charged once.
--
-- KEYS  1 hash  2 sorted set
-- ARGV  1 requests per minute  2 tokens per minute  3 most places  (0: no limit)
--       4 places asked  5 tokens reserved  6 tokens that it may use beyond them  7 id
--       8 lease in ms  9 ms that charges are remembered  10 minutes of debt
--       11 places that may be taken whatever the debt  12 now in ms (-1: the server's clock)
-- Reply {refused, requests level, tokens level, places taken, retry ms}; levels are text, as exact
--       as the server's numbers.
--       refused: 0 no, 1 places, 3 tokens, 4 tokens in flight

local RETRY = 1000

local hash, leases = KEYS[1], KEYS[2]
local per_minute = { requests = tonumber(ARGV[1]), tokens = tonumber(ARGV[2]) }
local most, asked, exposure = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[6])
local id, now = ARGV[7], time_ms(ARGV[12])
lapse(hash, leases, now, tonumber(ARGV[9]))

local requests = level_of(hash, 'requests', per_minute.requests, now)
local tokens = level_of(hash, 'tokens', per_minute.tokens, now)
local places = total(hash, 'places')
local refused, retry = 0, 0
if not read(hash, id) then
  if most > 0 and places + asked > most then
    refused, retry = 1, RETRY
  elseif per_minute.tokens > 0 and tokens < 1 - SLACK then
    refused, retry = 3, wait(tokens, 1, per_minute.tokens)
  elseif
    per_minute.tokens > 0
    and places > 0
    and places + asked > tonumber(ARGV[11])
    and total(hash, 'exposure') + exposure > tonumber(ARGV[10]) * per_minute.tokens
  then
    refused, retry = 4, RETRY
  else
    local charge = per_minute.tokens > 0 and tonumber(ARGV[5]) or 0
    tokens = tokens - charge
    places = places + asked
    keep(hash, 'tokens', per_minute.tokens, tokens, now)
    write(hash, id, asked, charge, exposure)
    add(hash, asked, exposure)
    redis.call('ZADD', leases, now + tonumber(ARGV[8]), id)
  end
end
return { refused, text_of(requests), text_of(tokens), places, retry }
