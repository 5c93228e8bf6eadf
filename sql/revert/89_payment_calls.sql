-- Revert nginx-commerce:89_payment_calls from pg

BEGIN;

DROP POLICY sweep ON shop.payment;
DROP INDEX shop.payment_due;
ALTER TABLE shop.payment DROP COLUMN todo, DROP COLUMN next_at, DROP COLUMN tries, DROP COLUMN capture_amount;

COMMIT;
