-- Verify nginx-commerce:70_privacy on pg

BEGIN;

SELECT tenant_id, id, created_at, actor, operation, action, entity, entity_id, before, after, address, correlation_id
  FROM shop.audit_log WHERE false;

SELECT 1 / (NOT has_table_privilege('commerce_owner', 'audit.log', 'UPDATE, DELETE, TRUNCATE, TRIGGER'))::int;
SELECT 1 / (c.relforcerowsecurity AND pg_get_userbyid(c.relowner) = 'commerce_audit')::int
  FROM pg_class c WHERE c.oid = 'audit.log'::regclass;
SELECT 1 / (count(*) = 2)::int FROM pg_trigger WHERE tgname IN ('changed', 'emptied') AND tgrelid = 'audit.log'::regclass;

ROLLBACK;
