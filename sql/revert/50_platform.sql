-- Revert nginx-commerce:50_platform from pg

BEGIN;

DROP TRIGGER changed ON shop.tenant;
DROP TRIGGER changed ON shop.tenant_host;
DROP POLICY platform ON shop.tenant;
DROP POLICY platform ON shop.tenant_host;
REVOKE ALL ON shop.tenant, shop.tenant_host FROM commerce_platform;
REVOKE ALL ON SCHEMA shop FROM commerce_platform;
DROP SCHEMA platform CASCADE;

-- The role is of the cluster: another database may use it.

COMMIT;
