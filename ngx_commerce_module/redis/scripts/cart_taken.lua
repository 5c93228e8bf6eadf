-- include: common.lua
--
-- End of a merge: drops the guest's cart that cart_take put aside.

local aside = KEY .. ':taken'

if redis.call('HGET', aside, 'id') == cjson.decode(ARGV[1]).merged_cart_id then
    redis.call('DEL', aside)
end

return { 'ok', 200, '{}', '' }
