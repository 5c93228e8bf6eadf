-- Verify nginx-commerce:73_write_path on pg

BEGIN;

SELECT job, until FROM domain.progress WHERE false;
SELECT tax_rate_bp, tax_inclusive, shipping_flat, shipping_free_from FROM shop.tenant WHERE false;
SELECT payload::json -> 'x', shard FROM event.outbox WHERE false;
SELECT 'shop.stock_movement_recent'::regclass, 'domain.priced_line'::regtype;

ROLLBACK;
