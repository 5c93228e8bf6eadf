-- Revert nginx-commerce:73_write_path from pg

BEGIN;

DROP TABLE domain.progress;
DROP POLICY sweep ON shop.stock_movement;
DROP INDEX shop.stock_movement_recent;

DROP TYPE domain.priced_line;

ALTER TABLE shop.tenant DROP COLUMN tax_rate_bp, DROP COLUMN tax_inclusive, DROP COLUMN shipping_flat, DROP COLUMN shipping_free_from;
ALTER TABLE shop.order_item ADD CONSTRAINT order_item_total CHECK (total_amount = unit_amount * quantity);
ALTER TABLE shop.orders ADD CONSTRAINT orders_owner CHECK (user_id IS NOT NULL OR email IS NOT NULL);
ALTER TABLE shop.stock ALTER COLUMN reserved TYPE int;
ALTER TABLE shop.stock ADD CONSTRAINT stock_reserved_check CHECK (reserved >= 0);
DROP DOMAIN shop.stock_quantity;
ALTER TABLE shop.idempotency RESET (toast_tuple_target);

-- a generated column cannot be had back but by a new one
ALTER TABLE event.outbox DROP COLUMN shard;
ALTER TABLE event.outbox ADD COLUMN shard smallint NOT NULL GENERATED ALWAYS AS (abs(hashtext(aggregate_id) % 16)::smallint) STORED;
CREATE INDEX outbox_unsent ON event.outbox (shard, id) WHERE sent_at IS NULL;
ALTER TABLE event.outbox ALTER COLUMN payload TYPE jsonb USING payload::jsonb;

COMMIT;
