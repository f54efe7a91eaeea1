-- Extend the leases of reservations. One that has lapsed, or that a restarted server has lost, gets
-- its places back where there is room.
--
-- KEYS  of each tenant: hash, sorted set
-- ARGV  1 lease in ms  2 ms that charges are remembered  3 now in ms (-1: the server's clock)
--       then of each tenant: most places (0: no limit), number of reservations, and of each of
--       them: id, places, exposure
-- Reply the ids of those that got places back

local lease, remember, now = tonumber(ARGV[1]), tonumber(ARGV[2]), time_ms(ARGV[3])
local revived = {}
local at = 4
for i = 1, #KEYS, 2 do
  local hash, leases = KEYS[i], KEYS[i + 1]
  local most, count = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
  local first = at + 2
  at = first + 3 * count
  local lost = {}
  for j = first, at - 1, 3 do
    if (read(hash, ARGV[j]) or 0) > 0 then
      redis.call('ZADD', leases, now + lease, ARGV[j])
    else
      lost[#lost + 1] = j
    end
  end
  lapse(hash, leases, now, remember)
  for _, j in ipairs(lost) do
    local id, places, exposure = ARGV[j], tonumber(ARGV[j + 1]), tonumber(ARGV[j + 2])
    if most == 0 or total(hash, 'places') + places <= most then
      local _, charged = read(hash, id)
      write(hash, id, places, charged or 0, exposure)
      add(hash, places, exposure)
      redis.call('ZADD', leases, now + lease, id)
      revived[#revived + 1] = id
    end
  end
end
return revived
