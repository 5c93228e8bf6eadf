-- include: common.lua cart.lua
--
-- Adds `quantity` of an offer (the members of api.cart_offer's answer) to
-- the cart.  `new_cart_id` is taken when a cart begins.

local replay = replayed()
if replay then
    return replay
end

local cart = cart_load(KEY)
if not cart then
    return { 'miss' }
end

local args = cjson.decode(ARGV[1])
local line = cart.lines[int(args.variant_id)]
local held = line and line.quantity or 0
local added = tonumber(args.quantity) or 1
local refusal = refused(args, held + added, held)
if refusal then
    return refusal
end

if cart.count == 0 then
    cart.id = cart.id or args.new_cart_id
    cart.currency = args.currency
elseif cart.currency ~= args.currency then
    return problem(409, 'currency-mismatch', 'The cart is in '
        .. tostring(cart.currency) .. ', the product in '
        .. tostring(args.currency))
end

if not line then
    if cart.count >= MAX_LINES then
        return problem(409, 'cart-full',
            'A cart holds at most ' .. MAX_LINES .. ' lines',
            '{"maximum":' .. MAX_LINES .. '}')
    end
    cart.place = cart.place + 1
    cart.count = cart.count + 1
end

line = line_new(line and line.place or cart.place, held + added, args)
cart.lines[line.variant] = line
cart_write_line(KEY, cart, line)

return ok(201, cart_reply(cart, line),
    cart_backup(cart, 'add', int(args.product_id), added))
