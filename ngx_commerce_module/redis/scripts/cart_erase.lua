-- include: common.lua
--
-- Drops a customer's cart and what a merge had put aside: its owner is erased.
-- Nothing is backed up.

redis.call('DEL', KEY, KEY .. ':taken')

return { 'ok', 200, '{}', '' }
