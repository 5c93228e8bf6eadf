-- Revert nginx-commerce:45_account from pg

BEGIN;

DROP TABLE shop.interaction;
DROP TABLE shop.wishlist_item;
DROP TABLE shop.address;

COMMIT;
