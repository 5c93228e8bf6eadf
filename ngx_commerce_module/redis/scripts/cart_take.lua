-- include: common.lua cart.lua
--
-- First half of a merge: puts the guest's cart aside under KEY:taken and
-- answers its lines.  Until cart_taken drops it, every call answers the same
-- lines, so a merge that was cut short is done again.  The guest's key keeps
-- an empty cart: its backup in PostgreSQL must not come back.

if cjson.decode(ARGV[1]).guest_cart == nil then
    return { 'ok', 200, '{}', '' }                  -- no token was sent
end

local aside = KEY .. ':taken'
local taken = cart_load_hash(aside)
local backup = ''

if not taken then
    local cart = cart_load(KEY)
    if not cart then
        return { 'miss' }
    end
    if cart.count == 0 then
        return { 'ok', 200, '{}', '' }
    end

    taken = cart_load_hash(KEY)
    redis.call('RENAME', KEY, aside)
    redis.call('EXPIRE', aside, TTL)
    cart_empty(KEY, cart)
    backup = cart_backup(cart, 'merge')
end

return { 'ok', 200, '{"guest_id":"' .. taken.id .. '","guest_items":'
    .. cart_items(taken) .. ',"guest_coupons":' .. list(taken.coupons)
    .. '}', backup }
