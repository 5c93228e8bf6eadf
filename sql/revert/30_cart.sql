-- Revert nginx-commerce:30_cart from pg

BEGIN;

DROP TABLE shop.cart_backup;

COMMIT;
