-- Revert nginx-commerce:40_orders from pg

BEGIN;

DROP TABLE shop.stock_movement;
DROP TABLE shop.payment;
DROP TABLE shop.order_item;
DROP TABLE shop.orders;
DROP SEQUENCE shop.order_counter;
DROP TABLE shop.order_key;
DROP DOMAIN shop.stock_delta, shop.ordered_quantity, shop.stock_reason, shop.payment_status, shop.order_status, shop.amount;

COMMIT;
