-- Verify nginx-commerce:30_cart on pg

BEGIN;

SELECT tenant_id, owner, cart_id, version, document, redis_stale, abandoned_at, created_at, updated_at
  FROM shop.cart_backup WHERE false;

SELECT 1 / (relrowsecurity AND relforcerowsecurity)::int FROM pg_class WHERE oid = 'shop.cart_backup'::regclass;

ROLLBACK;
