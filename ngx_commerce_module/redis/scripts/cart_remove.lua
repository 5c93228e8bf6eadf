-- include: common.lua cart.lua
--
-- Takes the line `item_id` out of the cart.

local replay = replayed()
if replay then
    return replay
end

local cart = cart_load(KEY)
if not cart then
    return { 'miss' }
end

local variant = int(cjson.decode(ARGV[1]).item_id)
local line = cart.lines[variant]
if not line then
    return problem(404, 'not-found', 'The cart has no such item')
end

cart.lines[variant] = nil
cart.count = cart.count - 1
cart.version = cart.version + 1
redis.call('HDEL', KEY, variant)
redis.call('HSET', KEY, 'v', int(cart.version))
redis.call('EXPIRE', KEY, TTL)

return ok(200, cart_reply(cart, line),
    cart_backup(cart, 'remove',
        string.match(line.tail, '"product_id":(%d+)'), line.quantity))
