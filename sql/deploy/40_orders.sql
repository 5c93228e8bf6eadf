-- Deploy nginx-commerce:40_orders to pg
-- requires: 10_catalogue
-- requires: 20_identity
-- Orders, what was ordered, how it is paid, and where stock went.
--
-- Foreign keys stand where a row could lose what it points to.  Left out on purpose, each is 15-30 µs of a checkout:
--   order_item, payment -> orders     inserted in the order's own transaction by one function each; orders are never deleted
--   order_item -> product, variant    a snapshot: it must outlive what it names
--   orders -> app_user                users are never deleted, only marked (deleted_at)
--   stock_movement -> stock, orders   written under the lock of the stock row that it describes; never deleted

BEGIN;

SET LOCAL ROLE commerce_owner;

-- What a column may hold is said by its type: PostgreSQL parses a table's CHECK expressions anew for each statement that writes, some 5 µs
-- apiece, but keeps those of a domain.  Only what compares columns is left to the tables.
CREATE DOMAIN shop.amount AS bigint CHECK (VALUE >= 0);
CREATE DOMAIN shop.order_status AS text
    CHECK (VALUE IN ('pending', 'confirmed', 'processing', 'shipped', 'delivered', 'cancelled'));
CREATE DOMAIN shop.payment_status AS text CHECK (VALUE IN ('pending', 'accepted', 'captured', 'failed', 'voided'));
CREATE DOMAIN shop.stock_reason AS text CHECK (VALUE IN ('received', 'sale', 'cancellation', 'adjustment', 'correction'));
CREATE DOMAIN shop.ordered_quantity AS int CHECK (VALUE > 0);
CREATE DOMAIN shop.stock_delta AS int CHECK (VALUE <> 0);

-- One counter for all tenants: each tenant's key permutes it differently, so numbers never repeat within a tenant, tell nothing of
-- anybody's volume, and no tenant needs a sequence (a relation) or a counter row (a lock) of its own.
CREATE SEQUENCE shop.order_counter AS bigint MINVALUE 1 MAXVALUE 1099511627775 CACHE 8;

CREATE TABLE shop.order_key (
    tenant_id  bigint  PRIMARY KEY REFERENCES shop.tenant ON DELETE CASCADE,
    key        bigint  NOT NULL
);

COMMENT ON TABLE shop.order_key IS 'Secret of a tenant''s order numbers; made with its first order';

CREATE TABLE shop.orders (
    tenant_id         bigint       NOT NULL,
    id                uuid         NOT NULL,
    -- the natural key: the cart that was ordered, or for POST /orders a UUID made of owner and Idempotency-Key
    cart_id           uuid         NOT NULL,
    number            text         NOT NULL,
    -- whose: a user, or a guest by the hash of the cart token
    user_id           uuid,
    guest             varchar(80),
    email             varchar(254),
    status            shop.order_status NOT NULL,
    currency          varchar(3)   NOT NULL,
    tax_inclusive     boolean      NOT NULL,
    subtotal_amount   shop.amount  NOT NULL,
    discount_amount   shop.amount  NOT NULL,
    tax_amount        shop.amount  NOT NULL,
    shipping_amount   shop.amount  NOT NULL,
    total_amount      shop.amount  NOT NULL,
    shipping_address  jsonb,
    billing_address   jsonb,
    payment_method    text         NOT NULL,
    note              varchar(1000),
    -- [{"status", "at", "by"}]: short, and always read with the order
    timeline          jsonb        NOT NULL,
    version           int          NOT NULL DEFAULT 1,
    created_at        timestamptz  NOT NULL DEFAULT now(),
    updated_at        timestamptz  NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id),
    CONSTRAINT orders_cart UNIQUE (tenant_id, cart_id),
    CONSTRAINT orders_number UNIQUE (tenant_id, number),
    CONSTRAINT orders_owner CHECK (user_id IS NOT NULL OR email IS NOT NULL),
    CONSTRAINT orders_total CHECK (
        discount_amount <= subtotal_amount AND
        total_amount = subtotal_amount - discount_amount + shipping_amount
                       + CASE WHEN tax_inclusive THEN 0 ELSE tax_amount END)
) WITH (fillfactor = 85);

COMMENT ON TABLE shop.orders IS
    'Orders with their totals; the status changes only through domain.order_advance. Ids are UUIDv7: their order is that of time';

CREATE INDEX orders_user ON shop.orders (tenant_id, user_id, id) WHERE user_id IS NOT NULL;
CREATE INDEX orders_guest ON shop.orders (tenant_id, guest, id) WHERE user_id IS NULL;

CREATE TABLE shop.order_item (
    tenant_id     bigint  NOT NULL,
    order_id      uuid    NOT NULL,
    line          int     NOT NULL,
    variant_id    bigint  NOT NULL,
    product_id    bigint  NOT NULL,
    quantity      shop.ordered_quantity NOT NULL,
    unit_amount   shop.amount NOT NULL,
    tax_amount    shop.amount NOT NULL,
    total_amount  shop.amount NOT NULL,
    sku           text    NOT NULL,
    name          text    NOT NULL,
    slug          text    NOT NULL,
    image         text,
    PRIMARY KEY (tenant_id, order_id, line),
    CONSTRAINT order_item_total CHECK (total_amount = unit_amount * quantity)
);

COMMENT ON TABLE shop.order_item IS 'Name, price and picture as they were when the order was made';

CREATE TABLE shop.payment (
    tenant_id        bigint       NOT NULL,
    order_id         uuid         NOT NULL,
    attempt          int          NOT NULL,
    method           text         NOT NULL,
    -- accepted: collected outside of the system (manual); voided: the order was cancelled
    status           shop.payment_status NOT NULL,
    amount           shop.amount  NOT NULL,
    captured_amount  shop.amount  NOT NULL DEFAULT 0 CHECK (captured_amount <= amount),
    currency         text         NOT NULL,
    created_at       timestamptz  NOT NULL DEFAULT now(),
    updated_at       timestamptz  NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, order_id, attempt)
) WITH (fillfactor = 85);

COMMENT ON TABLE shop.payment IS 'One row for each attempt to pay an order';

CREATE TABLE shop.stock_movement (
    tenant_id    bigint       NOT NULL,
    variant_id   bigint       NOT NULL,
    id           bigint       GENERATED ALWAYS AS IDENTITY,
    location_id  bigint       NOT NULL,
    delta        shop.stock_delta NOT NULL,
    -- of the row after this movement: the fold of all deltas up to here
    on_hand      int          NOT NULL,
    reason       shop.stock_reason NOT NULL,
    order_id     uuid,
    actor        uuid,
    note         varchar(200),
    created_at   timestamptz  NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, variant_id, id)
);

COMMENT ON TABLE shop.stock_movement IS 'Append only. Every change of shop.stock.on_hand, so that on_hand is the sum of deltas';

-- finds what a cancellation returns, and refuses to return it twice
CREATE UNIQUE INDEX stock_movement_order ON shop.stock_movement (tenant_id, order_id, variant_id, location_id, reason)
 WHERE order_id IS NOT NULL;

CALL domain.isolate('shop.order_key');
CALL domain.isolate('shop.orders');
CALL domain.isolate('shop.order_item');
CALL domain.isolate('shop.payment');
CALL domain.isolate('shop.stock_movement');

COMMIT;
