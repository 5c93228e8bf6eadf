-- include: common.lua cart.lua
--
-- Empties the cart.  With `cart_id` (after a checkout) only if it is still
-- that cart: what a customer began meanwhile stays.

local replay = replayed()
if replay then
    return replay
end

local cart = cart_load(KEY)
if not cart then
    return { 'miss' }
end

local wanted = cjson.decode(ARGV[1]).cart_id
if wanted == null then
    wanted = nil
end

if (wanted and wanted ~= cart.id) or (cart.count == 0 and not cart.id) then
    return ok(200, cart_reply(cart), '')
end

cart_empty(KEY, cart)

return ok(200, cart_reply(cart),
    cart_backup(cart, wanted and 'checkout' or 'clear'))
