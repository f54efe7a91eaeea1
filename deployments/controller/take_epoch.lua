-- Begin a controller's life: count the epoch up, and take the lease.
--
-- KEYS  1 epoch  2 lease
-- ARGV  1 an epoch that is known to have been used  2 milliseconds of a lease
--       3 '' to begin whoever has the lease, or the caller's last epoch to begin only where
--         nobody else has it
-- Reply the new epoch, or 0 if another controller has the lease

local holder = redis.call('GET', KEYS[2])
if ARGV[3] ~= '' and holder and holder ~= ARGV[3] then
  return 0
end
local used = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), tonumber(ARGV[1]))
local epoch = string.format('%d', used + 1)
redis.call('SET', KEYS[1], epoch)
redis.call('SET', KEYS[2], epoch, 'PX', ARGV[2])
return tonumber(epoch)
