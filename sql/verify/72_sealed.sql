-- Verify nginx-commerce:72_sealed on pg

BEGIN;

SELECT tenant_id, relation, kid, after_id, finished_at FROM shop.sealed_renewal WHERE false;
SELECT tenant_id, user_id, actor, created_at FROM shop.erasure WHERE false;
SELECT 1 / (format_type(atttypid, NULL) = 'text')::int FROM pg_attribute
 WHERE attrelid = 'shop.app_user'::regclass AND attname = 'date_of_birth';

ROLLBACK;
