-- Revert nginx-commerce:122_platform_pages from pg

BEGIN;

DROP FUNCTION platform.tenant_page(bigint, boolean, int, text, text);

COMMIT;
