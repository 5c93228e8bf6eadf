-- Revert nginx-commerce:112_payment_secrets from pg

BEGIN;

DELETE FROM shop.sealed_renewal WHERE relation = 'shop.payment_secret';
DROP TABLE shop.payment_secret;

COMMIT;
