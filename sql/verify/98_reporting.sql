-- Verify nginx-commerce:98_reporting on pg

BEGIN;

SELECT 1 / has_column_privilege('commerce_report', 'shop.orders', 'total_amount', 'SELECT')::int;
SELECT 1 / has_table_privilege('commerce_report', 'shop.product', 'SELECT')::int;
SELECT 1 / (NOT has_any_column_privilege('commerce_report', 'shop.address', 'SELECT'))::int;
SELECT 1 / (NOT has_column_privilege('commerce_report', 'shop.orders', 'email', 'SELECT'))::int;
SELECT 1 / (NOT has_column_privilege('commerce_report', 'shop.app_user', 'email', 'SELECT'))::int;
SELECT 1 / (NOT has_any_column_privilege('commerce_report', 'shop.orders', 'INSERT, UPDATE'))::int;

ROLLBACK;
