-- Revert nginx-commerce:70_privacy from pg

BEGIN;

DROP VIEW shop.audit_log;
DROP SCHEMA audit CASCADE;
REVOKE ALL ON SCHEMA domain FROM commerce_audit;
REVOKE ALL ON FUNCTION domain.tenant_id() FROM commerce_audit;

-- The role is of the cluster: another database may use it.

COMMIT;
