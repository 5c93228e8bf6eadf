-- Verify nginx-commerce:89_payment_calls on pg

BEGIN;

SELECT todo, next_at, tries, capture_amount FROM shop.payment WHERE false;
SELECT 'shop.payment_due'::regclass;

ROLLBACK;
