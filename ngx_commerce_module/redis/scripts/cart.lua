-- A cart is a hash:
--   id  the cart's uuid, absent until the first line (and after a clearing)
--   v   version, grows with every write over all carts of this owner
--   c   currency
--   s   place of the newest line
--   m   ids of the guest carts that were merged into it, comma-separated
--   k   codes of coupons, comma-separated
--   <variant id>   "place:quantity:unit price:constant JSON members"
-- A line is edited without decoding its JSON; documents are concatenations.

local TTL = 604800
local MAX_QUANTITY = 9999
local MAX_LINES = 200
local MAX_MERGED = 32
local MAX_COUPONS = 5

local function line_parse(variant, value)
    local place, quantity, price, tail =
        string.match(value, '^(%d+):(%d+):(%d+):(.*)$')
    return { variant = variant, place = tonumber(place),
             quantity = tonumber(quantity), price = tonumber(price),
             tail = tail }
end

-- offer: an item of a document or the answer of api.cart_offer
local function line_new(place, quantity, offer)
    local variant = int(offer.variant_id)
    return { variant = variant, place = place, quantity = quantity,
             price = tonumber(offer.unit_price),
             tail = '"item_id":' .. variant .. ',"variant_id":' .. variant
                 .. ',"product_id":' .. int(offer.product_id)
                 .. ',"name":' .. text(offer.name)
                 .. ',"sku":' .. text(offer.sku)
                 .. ',"image":' .. text(offer.image)
                 .. ',"slug":' .. text(offer.slug) }
end

local function line_value(line)
    return line.place .. ':' .. line.quantity .. ':' .. int(line.price)
        .. ':' .. line.tail
end

local function cart_from_document(document)
    local doc = cjson.decode(document)
    local cart = { version = tonumber(doc.version) or 0, place = 0,
                   lines = {}, count = 0, merged = '', coupons = '' }

    if doc.cart_id ~= null then cart.id = doc.cart_id end
    if doc.currency ~= null then cart.currency = doc.currency end
    if type(doc.merged) == 'table' then
        cart.merged = table.concat(doc.merged, ',')
    end
    if type(doc.coupons) == 'table' then
        cart.coupons = table.concat(doc.coupons, ',')
    end
    for i, item in ipairs(doc.items or {}) do
        local line = line_new(i, tonumber(item.quantity), item)
        cart.lines[line.variant] = line
        cart.count = i
        cart.place = i
    end
    return cart
end

local function cart_load_hash(key)
    local fields = redis.call('HGETALL', key)
    if #fields == 0 then
        return nil
    end

    local cart = { version = 0, place = 0, lines = {}, count = 0,
                   merged = '', coupons = '' }

    for i = 1, #fields, 2 do
        local field, value = fields[i], fields[i + 1]

        if string.byte(field) <= 57 then            -- a digit
            cart.lines[field] = line_parse(field, value)
            cart.count = cart.count + 1
        elseif field == 'id' then cart.id = value
        elseif field == 'v' then cart.version = tonumber(value)
        elseif field == 'c' then cart.currency = value
        elseif field == 's' then cart.place = tonumber(value)
        elseif field == 'm' then cart.merged = value
        elseif field == 'k' then cart.coupons = value
        end
    end
    return cart
end

local function cart_store(key, cart)
    local fields = { 'v', int(cart.version), 's', cart.place }

    if cart.id then
        fields[#fields + 1] = 'id'
        fields[#fields + 1] = cart.id
    end
    if cart.currency then
        fields[#fields + 1] = 'c'
        fields[#fields + 1] = cart.currency
    end
    if cart.merged ~= '' then
        fields[#fields + 1] = 'm'
        fields[#fields + 1] = cart.merged
    end
    if cart.coupons ~= '' then
        fields[#fields + 1] = 'k'
        fields[#fields + 1] = cart.coupons
    end
    for variant, line in pairs(cart.lines) do
        fields[#fields + 1] = variant
        fields[#fields + 1] = line_value(line)
    end

    redis.call('DEL', key)
    redis.call('HSET', key, unpack(fields))
    redis.call('EXPIRE', key, TTL)
end

-- The cart of a key, or nil when only PostgreSQL can know it: then `miss`
-- runs and the script comes again with the document, which is kept if it
-- says anything.
local function cart_load(key)
    local cart = cart_load_hash(key)
    if cart then
        return cart
    end
    if ARGV[2] == nil or ARGV[2] == '' then
        return nil
    end

    cart = cart_from_document(ARGV[2])
    if cart.version > 0 then
        cart_store(key, cart)
    end
    return cart
end

local function by_place(a, b)
    return a.place < b.place
end

local function cart_sorted(cart)
    local sorted, n = {}, 0
    for _, line in pairs(cart.lines) do
        n = n + 1
        sorted[n] = line
    end
    if n > 1 then
        table.sort(sorted, by_place)
    end
    return sorted
end

local function cart_items(cart)
    local items = {}

    for i, line in ipairs(cart_sorted(cart)) do
        items[i] = '{"quantity":' .. line.quantity .. ',"unit_price":'
            .. int(line.price) .. ',' .. line.tail .. '}'
    end
    return '[' .. table.concat(items, ',') .. ']'
end

-- a comma-separated field as a JSON array
local function list(values)
    if values == '' then
        return '[]'
    end
    return '["' .. string.gsub(values, ',', '","') .. '"]'
end

local function cart_document(cart)
    local merged = ''
    if cart.merged ~= '' then
        merged = ',"merged":' .. list(cart.merged)
    end
    return '{"cart_id":' .. (cart.id and '"' .. cart.id .. '"' or 'null')
        .. ',"version":' .. int(cart.version)
        .. ',"currency":' .. text(cart.currency)
        .. ',"items":' .. cart_items(cart)
        .. ',"coupons":' .. list(cart.coupons) .. merged .. '}'
end

-- What the write-behind takes: the action, a newline, the document.
local function cart_backup(cart, action, product, quantity)
    return '{"action":"' .. action .. '"'
        .. (product and ',"product_id":' .. product or '')
        .. (quantity and ',"quantity":' .. quantity or '') .. '}\n'
        .. cart_document(cart)
end

local function money(amount, currency)
    return '{"amount":' .. int(amount) .. ',"currency":' .. text(currency)
        .. '}'
end

local function cart_summary(cart)
    local quantity, subtotal = 0, 0

    for _, line in pairs(cart.lines) do
        quantity = quantity + line.quantity
        subtotal = subtotal + line.quantity * line.price
    end
    return '{"id":' .. (cart.id and '"' .. cart.id .. '"' or 'null')
        .. ',"version":' .. int(cart.version)
        .. ',"item_count":' .. cart.count .. ',"quantity":' .. quantity
        .. ',"subtotal":' .. money(subtotal, cart.currency) .. '}'
end

local function cart_reply(cart, line)
    if not line then
        return '{"cart":' .. cart_summary(cart) .. '}'
    end
    return '{"item":{"id":' .. line.variant .. ',"quantity":'
        .. line.quantity .. ',"unit_price":'
        .. money(line.price, cart.currency) .. ',"line_total":'
        .. money(line.price * line.quantity, cart.currency) .. ','
        .. line.tail .. '},"cart":' .. cart_summary(cart) .. '}'
end

-- Writes one line (or its removal) and what changes with it.
local function cart_write_line(key, cart, line)
    cart.version = cart.version + 1
    redis.call('HSET', key, 'v', int(cart.version), 'id', cart.id,
        'c', cart.currency or '', 's', cart.place,
        line.variant, line_value(line))
    redis.call('EXPIRE', key, TTL)
end

-- Empties the cart; its next line starts one with a new id.  The hash stays,
-- so that nothing older comes back from PostgreSQL.
local function cart_empty(key, cart)
    cart.version = cart.version + 1
    cart.id = nil
    cart.currency = nil
    cart.place = 0
    cart.lines = {}
    cart.count = 0
    cart.coupons = ''
    cart_store(key, cart)
end

-- nil, or why so many of this offer cannot be had
local function refused(offer, quantity, held)
    if quantity < 1 or quantity > MAX_QUANTITY then
        return problem(422, 'quantity-out-of-range',
            'A line holds 1 to ' .. MAX_QUANTITY .. ' pieces',
            '{"maximum":' .. MAX_QUANTITY .. ',"in_cart":' .. held .. '}')
    end

    local available = tonumber(offer.available)

    if available and quantity > available then
        local detail = 'Only ' .. int(available) .. ' available'
        if available <= 0 then
            available = 0
            detail = 'Out of stock'
        elseif held > 0 then
            detail = detail .. ', ' .. held .. ' already in the cart'
        end
        return problem(409, 'out-of-stock', detail,
            '{"available":' .. int(available) .. ',"in_cart":' .. held
            .. ',"variant_id":' .. int(offer.variant_id) .. '}')
    end
    return nil
end
