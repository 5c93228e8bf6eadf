-- Verify nginx-commerce:120_relay_mark on pg

BEGIN;

SELECT 1 / (count(*) > 0)::int FROM pg_proc
 WHERE pronamespace = 'relay'::regnamespace AND proname = 'mark' AND has_function_privilege('commerce_owner', oid, 'EXECUTE');

ROLLBACK;
