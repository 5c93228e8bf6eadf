-- include: common.lua cart.lua
--
-- PostgreSQL served this cart while Redis was away: its document (ARGV[2])
-- replaces an older copy.  A cart that Redis does not hold stays away.

local version = redis.call('HGET', KEY, 'v')
if not version then
    return { 'ok', 200, '{}', '' }
end

local cart = cart_from_document(ARGV[2])
if tonumber(version) < cart.version then
    cart_store(KEY, cart)
end

return { 'ok', 200, '{}', '' }
