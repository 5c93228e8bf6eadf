-- Revert nginx-commerce:65_tenants from pg

BEGIN;

DROP FUNCTION audit.erase(int);

CREATE OR REPLACE FUNCTION audit.refuse() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = 'The audit log is never changed: ' || TG_OP || ' is refused.';
END
$$;

REVOKE SELECT (id, status, erase_after) ON shop.tenant FROM commerce_audit;
REVOKE USAGE ON SCHEMA shop FROM commerce_audit;

DROP TRIGGER emptied ON shop.tenant;
DROP TRIGGER emptied ON shop.tenant_host;
DROP TRIGGER changed ON shop.tenant;
DROP TRIGGER changed ON shop.tenant_host;
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON shop.tenant
    FOR EACH STATEMENT EXECUTE FUNCTION platform.tenants_changed();
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON shop.tenant_host
    FOR EACH STATEMENT EXECUTE FUNCTION platform.tenants_changed();

DROP FUNCTION platform.claims(int);
DROP FUNCTION platform.tenant_page(bigint, int, text, text);
DROP FUNCTION platform.directory(bigint, int, bigint[]);
DROP TABLE shop.tenant_domain, shop.api_key_use, shop.api_key;
DROP FUNCTION platform.tenant_changed();

ALTER TABLE shop.app_user DROP CONSTRAINT app_user_roles_check;
ALTER TABLE shop.app_user ADD CONSTRAINT app_user_roles_check
    CHECK (roles <@ ARRAY['customer', 'staff', 'owner', 'service']) NOT VALID;

ALTER TABLE shop.tenant DROP CONSTRAINT tenant_erase;
ALTER TABLE shop.tenant DROP COLUMN suspended_at, DROP COLUMN suspend_reason, DROP COLUMN erase_after;

COMMIT;
