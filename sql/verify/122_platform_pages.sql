-- Verify nginx-commerce:122_platform_pages on pg

BEGIN;

SELECT has_function_privilege('commerce_owner', 'platform.tenant_page(bigint, boolean, int, text, text)', 'EXECUTE');

-- of nobody else: division by zero otherwise
SELECT 1 / (NOT has_function_privilege('commerce_edge', 'platform.tenant_page(bigint, boolean, int, text, text)', 'EXECUTE'))::int;

ROLLBACK;
