-- include: common.lua cart.lua
--
-- Sets a line's quantity; price and text follow the offer.

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
if not line then
    return problem(404, 'not-found', 'The cart has no such item')
end

local quantity = tonumber(args.quantity)
local refusal = refused(args, quantity, line.quantity)
if refusal then
    return refusal
end

line = line_new(line.place, quantity, args)
cart.lines[line.variant] = line
cart_write_line(KEY, cart, line)

return ok(200, cart_reply(cart, line),
    cart_backup(cart, 'update', int(args.product_id), quantity))
