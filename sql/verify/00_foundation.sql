-- Verify nginx-commerce:00_foundation on pg

BEGIN;

SELECT id, slug, name, currency, locale, status, settings FROM shop.tenant WHERE false;
SELECT host, tenant_id FROM shop.tenant_host WHERE false;
SELECT id, tenant_id, event_id, topic, type, payload, shard FROM event.outbox WHERE false;
SELECT tenant_id, scope, key, fingerprint, status FROM shop.idempotency WHERE false;

DO $$
BEGIN
    ASSERT (SELECT NOT rolbypassrls AND NOT rolsuper FROM pg_roles WHERE rolname = 'commerce_edge'),
           'commerce_edge must be subject to row-level security';
    ASSERT NOT has_schema_privilege('commerce_edge', 'shop', 'USAGE'), 'commerce_edge must not reach the tables';
END
$$;

ROLLBACK;
