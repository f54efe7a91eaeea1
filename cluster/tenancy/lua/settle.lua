-- End reservations: free their places and book the tokens really used. Doing it again, or for one
-- that is not known, changes nothing.
--
-- KEYS  of each: hash, sorted set
-- ARGV  1 now in ms (-1: the server's clock); then of each: tokens per minute (0: no limit),
--       tokens used, id

local now = time_ms(ARGV[1])
local at = 2
for i = 1, #KEYS, 2 do
  local hash, leases = KEYS[i], KEYS[i + 1]
  local capacity, used, id = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), ARGV[at + 2]
  at = at + 3
  local places, charged, exposure = read(hash, id)
  if places then
    remove(hash, leases, id)
    add(hash, -places, -exposure)
    local level = level_of(hash, 'tokens', capacity, now) + charged - used
    keep(hash, 'tokens', capacity, math.min(capacity, level), now)
  end
end
