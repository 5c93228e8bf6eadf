-- Deploy nginx-commerce:73_write_path to pg
-- requires: 40_orders
-- requires: 50_platform
-- What a checkout costs: rows as they are handed on, and lists that a sale does not write to.

BEGIN;

SET LOCAL ROLE commerce_owner;

-- JSON as text: the relay hands it on byte by byte, and json or jsonb would be parsed here for nobody, 35 µs for the events of an order.
ALTER TABLE event.outbox ALTER COLUMN payload TYPE text USING payload::text;
COMMENT ON COLUMN event.outbox.payload IS 'JSON';
-- A generated column is parsed anew by each statement that writes: 15 µs.  domain.shard() computes it.
ALTER TABLE event.outbox ALTER COLUMN shard DROP EXPRESSION;

-- Answers of 2 to 8 kB stay in the row as they are: compressing one costs 40 µs, and a day later it is deleted.
ALTER TABLE shop.idempotency SET (toast_tuple_target = 8160);

-- What a CHECK of a table costs each statement that writes (parsed, simplified and compiled anew, 5 to 15 µs), one of a type does not.
CREATE DOMAIN shop.stock_quantity AS int CHECK (VALUE >= 0);
ALTER TABLE shop.stock DROP CONSTRAINT stock_reserved_check;
ALTER TABLE shop.stock ALTER COLUMN reserved TYPE shop.stock_quantity;
-- the one function that makes orders sees to these: domain.order_place
ALTER TABLE shop.orders DROP CONSTRAINT orders_owner;
ALTER TABLE shop.order_item DROP CONSTRAINT order_item_total;

-- What every price needs, taken out of the settings when they change and not at each order.
ALTER TABLE shop.tenant
    ADD COLUMN tax_rate_bp         int      NOT NULL GENERATED ALWAYS AS (coalesce((settings ->> 'tax_rate_bp')::int, 0)) STORED,
    ADD COLUMN tax_inclusive       boolean  NOT NULL GENERATED ALWAYS AS (coalesce((settings ->> 'tax_inclusive')::boolean, false)) STORED,
    ADD COLUMN shipping_flat       bigint   NOT NULL GENERATED ALWAYS AS (coalesce((settings ->> 'shipping_flat')::bigint, 0)) STORED,
    ADD COLUMN shipping_free_from  bigint   GENERATED ALWAYS AS ((settings ->> 'shipping_free_from')::bigint) STORED;

-- A line of a cart or an order with what it costs, domain.price_lines().  One array of these goes from statement to statement; a dozen
-- parallel arrays cost 3 µs each at every station.
CREATE TYPE domain.priced_line AS (
    variant_id       bigint,
    product_id       bigint,
    quantity         bigint,
    unit_amount      bigint,
    line_amount      bigint,
    discount_amount  bigint,
    tax_amount       bigint,
    available        bigint,
    threshold        int,
    sku              text,
    name             text,
    slug             text,
    image            text
);

-- Sales reach the reading side in turns, api.stock_publish(): by the time of their movements, over all tenants.
CREATE INDEX stock_movement_recent ON shop.stock_movement (created_at);
CREATE POLICY sweep ON shop.stock_movement FOR SELECT USING (current_setting('commerce.sweep', true) = 'stock');

CREATE TABLE domain.progress (
    job    text         PRIMARY KEY,
    until  timestamptz  NOT NULL
);

COMMENT ON TABLE domain.progress IS 'How far a job over all tenants has come';

COMMIT;
