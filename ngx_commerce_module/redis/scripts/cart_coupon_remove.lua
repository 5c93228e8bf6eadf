-- include: common.lua cart.lua
--
-- Takes the coupon `coupon_code` off the cart.

local replay = replayed()
if replay then
    return replay
end

local cart = cart_load(KEY)
if not cart then
    return { 'miss' }
end

local code = string.upper(cjson.decode(ARGV[1]).coupon_code)
local kept = {}
local found = false

for held in string.gmatch(cart.coupons, '[^,]+') do
    if held == code then
        found = true
    else
        kept[#kept + 1] = held
    end
end
if not found then
    return problem(404, 'not-found', 'The cart has no such coupon')
end

cart.coupons = table.concat(kept, ',')
cart.version = cart.version + 1
cart_store(KEY, cart)

return ok(200, cart_document(cart), cart_backup(cart, 'coupon'))
