-- include: common.lua cart.lua
--
-- Second half of a merge: adds `guest_items` (of api.cart_offers) to the
-- customer's cart, each sum capped at the item's `available`.  `guest_id` is remembered, a second
-- time changes nothing.

local cart = cart_load(KEY)
if not cart then
    return { 'miss' }
end

local args = cjson.decode(ARGV[1])
local guest = args.guest_id

if string.find(',' .. cart.merged .. ',', ',' .. guest .. ',', 1, true) then
    return { 'ok', 200, '{"merged":false,"merged_cart_id":"' .. guest
        .. '","cart":' .. cart_summary(cart) .. '}', '' }
end

for _, item in ipairs(args.guest_items) do
    local line = cart.lines[int(item.variant_id)]
    local held = line and line.quantity or 0
    local quantity = math.min(held + tonumber(item.quantity), MAX_QUANTITY)
    local available = tonumber(item.available)
    local currency = item.currency

    if currency == nil or currency == null then
        currency = cart.currency
    end
    if cart.count == 0 then
        cart.currency = currency
    end
    if available and quantity > available then
        quantity = math.max(available, held)
    end
    if quantity > held and cart.currency == currency
        and (line or cart.count < MAX_LINES)
    then
        if not line then
            cart.place = cart.place + 1
            cart.count = cart.count + 1
        end
        line = line_new(line and line.place or cart.place, quantity, item)
        cart.lines[line.variant] = line
    end
end

-- the guest's coupons come along, as many as a cart holds
local codes = {}
for code in string.gmatch(cart.coupons, '[^,]+') do
    codes[#codes + 1] = code
end
for _, code in ipairs(args.guest_coupons or {}) do
    local held = ',' .. table.concat(codes, ',') .. ','
    if #codes < MAX_COUPONS and not string.find(held, ',' .. code .. ',', 1, true)
    then
        codes[#codes + 1] = code
    end
end
cart.coupons = table.concat(codes, ',')

if cart.count > 0 and not cart.id then
    cart.id = args.new_cart_id
end

local merged = { guest }
for id in string.gmatch(cart.merged, '[^,]+') do
    if #merged < MAX_MERGED then
        merged[#merged + 1] = id
    end
end

cart.merged = table.concat(merged, ',')
cart.version = cart.version + 1
cart_store(KEY, cart)

return { 'ok', 200, '{"merged":true,"merged_cart_id":"' .. guest
    .. '","cart":' .. cart_summary(cart) .. '}', cart_backup(cart, 'merge') }
