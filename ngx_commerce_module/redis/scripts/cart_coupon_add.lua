-- include: common.lua cart.lua
--
-- Puts the coupon `coupon_code` on the cart; one that is there stays.

local replay = replayed()
if replay then
    return replay
end

local cart = cart_load(KEY)
if not cart then
    return { 'miss' }
end

local code = cjson.decode(ARGV[1]).coupon_code
local backup = ''

if not string.find(',' .. cart.coupons .. ',', ',' .. code .. ',', 1, true) then
    local _, commas = string.gsub(cart.coupons, ',', '')

    if cart.coupons ~= '' and commas + 1 >= MAX_COUPONS then
        return problem(409, 'coupons-too-many',
            'A cart holds at most ' .. MAX_COUPONS .. ' coupons',
            '{"maximum":' .. MAX_COUPONS .. '}')
    end

    cart.coupons = cart.coupons == '' and code or cart.coupons .. ',' .. code
    cart.version = cart.version + 1
    cart_store(KEY, cart)
    backup = cart_backup(cart, 'coupon')
end

return ok(200, cart_document(cart), backup)
