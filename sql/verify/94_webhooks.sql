-- Verify nginx-commerce:94_webhooks on pg

BEGIN;

SELECT tenant_id, id, url, description, types, secret, previous_secret, previous_until, status, reason, failing_since, succeeded_at,
       version, created_at, updated_at
  FROM shop.webhook_endpoint WHERE false;
SELECT tenant_id, id, endpoint_id, event_id, type, body, status, attempts, next_at, lease, tries, response, correlation_id, created_at,
       finished_at
  FROM shop.webhook_delivery WHERE false;

-- forced row-level security: division by zero otherwise
SELECT 1 / (count(*) = 2)::int
  FROM pg_class
 WHERE oid IN ('shop.webhook_endpoint'::regclass, 'shop.webhook_delivery'::regclass) AND relrowsecurity AND relforcerowsecurity;
SELECT 1 / (to_regprocedure('platform.webhooks_due(int)') IS NOT NULL)::int;

ROLLBACK;
