-- Verify nginx-commerce:55_revocation on pg

BEGIN;

SELECT tenant_id, kind, id, keep, revoked_at FROM shop.revocation WHERE false;
SELECT 1 / has_function_privilege('commerce_owner', 'platform.revocations(int)', 'EXECUTE')::int;
SELECT 1 / (NOT has_function_privilege('commerce_edge', 'platform.revocations(int)', 'EXECUTE'))::int;
SELECT 1 / (count(*) = 2)::int FROM pg_policies WHERE schemaname = 'shop' AND tablename = 'revocation';

ROLLBACK;
