-- Verify nginx-commerce:120_relay_mark on pg

BEGIN;

SELECT has_function_privilege('commerce_owner', 'relay.mark(bigint[], uuid[], timestamptz)', 'EXECUTE');

ROLLBACK;
