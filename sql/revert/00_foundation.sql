-- Revert nginx-commerce:00_foundation from pg
-- The roles stay: another database of the cluster may use them.

BEGIN;

DROP SCHEMA api CASCADE;
DROP SCHEMA domain CASCADE;
DROP SCHEMA event CASCADE;
DROP SCHEMA shop CASCADE;

COMMIT;
