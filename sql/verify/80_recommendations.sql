-- Verify nginx-commerce:80_recommendations on pg

BEGIN;

SELECT tenant_id, id, status, generation, watermark, report, report_text, requested_by, created_at, finished_at
  FROM shop.training_run WHERE false;

SELECT 1 / (relrowsecurity AND relforcerowsecurity)::int FROM pg_class WHERE oid = 'shop.training_run'::regclass;

-- what people are called, where they live and what they paid is not the trainer's
SELECT 1 / (NOT has_any_column_privilege('commerce_train', 'shop.app_user', 'SELECT'))::int;
SELECT 1 / (NOT has_any_column_privilege('commerce_train', 'shop.address', 'SELECT'))::int;
SELECT 1 / (NOT has_column_privilege('commerce_train', 'shop.orders', 'email', 'SELECT'))::int;
SELECT 1 / (NOT has_any_column_privilege('commerce_train', 'shop.orders', 'INSERT, UPDATE'))::int;
SELECT 1 / has_column_privilege('commerce_train', 'shop.interaction', 'product_id', 'SELECT')::int;

ROLLBACK;
