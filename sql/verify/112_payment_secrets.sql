-- Verify nginx-commerce:112_payment_secrets on pg

BEGIN;

SELECT tenant_id, id, provider, kind, place, secret, last4, created_at, updated_at FROM shop.payment_secret WHERE false;

-- forced row-level security: division by zero otherwise
SELECT 1 / count(*) FROM pg_class WHERE oid = 'shop.payment_secret'::regclass AND relrowsecurity AND relforcerowsecurity;

ROLLBACK;
