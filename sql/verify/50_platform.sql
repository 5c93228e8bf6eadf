-- Verify nginx-commerce:50_platform on pg

BEGIN;

SELECT 1 / has_function_privilege('commerce_owner', 'platform.tenants()', 'EXECUTE')::int;
SELECT 1 / (NOT has_function_privilege('commerce_edge', 'platform.tenants()', 'EXECUTE'))::int;
SELECT 1 / (count(*) = 2)::int FROM pg_policies
 WHERE schemaname = 'shop' AND policyname = 'platform' AND roles = '{commerce_platform}' AND tablename IN ('tenant', 'tenant_host');
SELECT 1 / (count(*) = 2)::int FROM pg_trigger
 WHERE tgname = 'changed' AND tgrelid IN ('shop.tenant'::regclass, 'shop.tenant_host'::regclass);

ROLLBACK;
