-- include: common.lua cart.lua
--
-- The cart's document.  Writes nothing but a cart that it restores.

local cart = cart_load(KEY)
if not cart then
    return { 'miss' }
end

return { 'ok', 200, cart_document(cart), '' }
