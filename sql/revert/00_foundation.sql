-- Revert nginx-commerce:00_foundation from pg
-- The roles stay: another database of the cluster may use them. So do the extensions: somebody else's tables may stand on them.

BEGIN;

DROP SCHEMA api CASCADE;
DROP SCHEMA domain CASCADE;
DROP SCHEMA event CASCADE;
DROP SCHEMA shop CASCADE;

-- as PostgreSQL has it
ALTER DEFAULT PRIVILEGES FOR ROLE commerce_owner GRANT EXECUTE ON FUNCTIONS TO PUBLIC;
REVOKE USAGE ON SCHEMA public FROM commerce_owner;
GRANT USAGE ON SCHEMA public TO PUBLIC;

COMMIT;
