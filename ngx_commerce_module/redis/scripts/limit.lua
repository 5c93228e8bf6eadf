-- The quota of one client under one policy, over all nodes: GCRA by Redis' clock.  The key holds the theoretical
-- arrival time (TAT) in µs, so state is one number that survives a restart of nginx, and of Redis as its data does.
-- See ngx_commerce_limit_cluster.c.
--
-- KEYS[1]  limit:<policy>:<hash of the client's key>
-- ARGV     µs a unit, units that pass at once, units to take (below 0: to give back), units wanted ahead
--
-- Answers {passed, units ahead, µs until the quota is whole}.  Ahead is a 64th of what remains at most, so that what a
-- node takes and does not use is little, and nothing near the limit.

local interval, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local cost, want = tonumber(ARGV[3]), tonumber(ARGV[4])

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local quota = interval * burst

-- a clock that was set back, or a stricter rate, must not lock anybody out for longer than the quota
local tat = tonumber(redis.call('GET', KEYS[1]) or 0)
local before = math.min(math.max(tat - now, 0), quota)

local taken = math.max(before + cost * interval, 0)

if taken > quota then
    return { 0, 0, before }
end

local ahead = math.min(want, math.floor((quota - taken) / interval / 64))

taken = taken + ahead * interval

if taken > 0 then
    redis.call('SET', KEYS[1], string.format('%.0f', now + taken), 'PX', math.ceil(taken / 1000))
elseif before > 0 then
    redis.call('DEL', KEYS[1])
end

return { 1, ahead, taken }
