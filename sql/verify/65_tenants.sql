-- Verify nginx-commerce:65_tenants on pg

BEGIN;

SELECT suspended_at, suspend_reason, erase_after FROM shop.tenant WHERE false;
SELECT tenant_id, id, kind, name, hash, prefix, scopes, created_by, expires_at, revoked_at FROM shop.api_key WHERE false;
SELECT tenant_id, key_id, last_used_at FROM shop.api_key_use WHERE false;
SELECT tenant_id, host, token, verified_at FROM shop.tenant_domain WHERE false;
SELECT 1 / has_function_privilege('commerce_owner', 'platform.directory(bigint, int, bigint[])', 'EXECUTE')::int;
SELECT 1 / (NOT has_function_privilege('commerce_edge', 'platform.directory(bigint, int, bigint[])', 'EXECUTE'))::int;
SELECT 1 / (NOT has_function_privilege('commerce_edge', 'audit.erase(int)', 'EXECUTE'))::int;
SELECT 1 / (count(*) = 6)::int FROM pg_trigger
 WHERE tgname IN ('changed', 'emptied')
   AND tgrelid IN ('shop.tenant'::regclass, 'shop.tenant_host'::regclass, 'shop.api_key'::regclass);

ROLLBACK;
