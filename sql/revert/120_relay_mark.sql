-- Revert nginx-commerce:120_relay_mark from pg

BEGIN;

DROP FUNCTION relay.mark(bigint[], uuid[], timestamptz);

COMMIT;
