-- Deploy nginx-commerce:88_saga to pg
-- requires: 40_orders
-- requires: 73_write_path
-- requires: 75_promotions
-- Orders that wait for their payment: reservations, the saga's state, attempts, the ledger, refunds, what providers tell.

BEGIN;

SET LOCAL ROLE commerce_owner;

-- ── orders ───────────────────────────────────────────────────────────────────────────────────────────────────────────

-- payment_review: something was paid that is not what is due; a person decides
ALTER DOMAIN shop.order_status DROP CONSTRAINT order_status_check;
ALTER DOMAIN shop.order_status ADD CONSTRAINT order_status_check
    CHECK (VALUE IN ('pending', 'payment_review', 'confirmed', 'processing', 'shipped', 'delivered', 'cancelled'));

-- the version of the order's last event: what concerns an order is told in one row of versions, under its lock
ALTER TABLE shop.orders ADD COLUMN events int NOT NULL DEFAULT 4;
ALTER TABLE shop.orders NO FORCE ROW LEVEL SECURITY;
UPDATE shop.orders SET events = version * 2 + 2 WHERE version > 1;
ALTER TABLE shop.orders FORCE ROW LEVEL SECURITY;

-- ── stock ────────────────────────────────────────────────────────────────────────────────────────────────────────────

-- A reservation is a movement too: on_hand is the sum of delta, reserved that of reserved_delta.
ALTER DOMAIN shop.stock_reason DROP CONSTRAINT stock_reason_check;
ALTER DOMAIN shop.stock_reason ADD CONSTRAINT stock_reason_check
    CHECK (VALUE IN ('received', 'sale', 'cancellation', 'adjustment', 'correction', 'reserved', 'released'));
ALTER TABLE shop.stock_movement ALTER COLUMN delta TYPE int;
ALTER TABLE shop.stock_movement ADD COLUMN reserved_delta int NOT NULL DEFAULT 0;
COMMENT ON TABLE shop.stock_movement IS
    'Append only. Every change of shop.stock: on_hand is the sum of delta, reserved the sum of reserved_delta';

CREATE DOMAIN shop.reservation_state AS text CHECK (VALUE IN ('open', 'sold', 'released', 'expired'));

CREATE TABLE shop.reservation (
    tenant_id    bigint       NOT NULL,
    -- an order's reservation has the order's id
    id           uuid         NOT NULL,
    variant_id   bigint       NOT NULL,
    location_id  bigint       NOT NULL,
    quantity     int          NOT NULL CHECK (quantity > 0),
    order_id     uuid,
    state        shop.reservation_state NOT NULL DEFAULT 'open',
    -- without an order: given back then. An order's is given back with the order: nothing is sold twice while a payment is not known
    expires_at   timestamptz  NOT NULL,
    actor        uuid,
    note         varchar(200),
    created_at   timestamptz  NOT NULL DEFAULT now(),
    closed_at    timestamptz,
    PRIMARY KEY (tenant_id, id, variant_id, location_id),
    FOREIGN KEY (tenant_id, variant_id, location_id) REFERENCES shop.stock
) WITH (fillfactor = 85);

COMMENT ON TABLE shop.reservation IS 'Stock promised for a while: stock.reserved is the sum of the open ones';

CREATE INDEX reservation_open ON shop.reservation (tenant_id, variant_id, location_id) WHERE state = 'open';
CREATE INDEX reservation_due ON shop.reservation (expires_at) WHERE state = 'open' AND order_id IS NULL;

-- ── saga ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

-- paying: the provider is being asked; unknown: it did not answer; action: the customer has something to do; declined: another attempt
-- may follow.  review: a person decides.  The last three are ends.
CREATE DOMAIN shop.saga_state AS text
    CHECK (VALUE IN ('paying', 'unknown', 'action', 'declined', 'completed', 'compensated', 'review'));

CREATE TABLE shop.saga (
    tenant_id    bigint       NOT NULL,
    order_id     uuid         NOT NULL,
    state        shop.saga_state NOT NULL,
    -- inline: a request waits for the payment; events: commands of checkout.* drive it
    mode         text         NOT NULL CHECK (mode IN ('inline', 'events')),
    attempts     int          NOT NULL,
    deadline_at  timestamptz  NOT NULL,
    -- when the sweeper looks at it, and its lease while it does; NULL: at an end
    next_at      timestamptz,
    tries        int          NOT NULL DEFAULT 0,
    -- the record of the request's Idempotency-Key, which is to answer with what became of the order
    idem_scope   text,
    idem_key     text,
    reason       text,
    created_at   timestamptz  NOT NULL DEFAULT now(),
    updated_at   timestamptz  NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, order_id),
    FOREIGN KEY (tenant_id, order_id) REFERENCES shop.orders,
    CONSTRAINT saga_ends CHECK ((next_at IS NULL) = (state IN ('completed', 'compensated', 'review')))
) WITH (fillfactor = 75);

COMMENT ON TABLE shop.saga IS 'Orders whose payment takes more than one transaction, and how far they have come';

CREATE INDEX saga_due ON shop.saga (next_at) WHERE next_at IS NOT NULL;

-- ── payments ─────────────────────────────────────────────────────────────────────────────────────────────────────────

ALTER DOMAIN shop.payment_status DROP CONSTRAINT payment_status_check;
ALTER DOMAIN shop.payment_status ADD CONSTRAINT payment_status_check CHECK (VALUE IN (
    'pending', 'unknown', 'requires_action', 'accepted', 'authorized', 'captured', 'failed', 'voided'));

ALTER TABLE shop.payment
    DROP CONSTRAINT payment_check,
    ADD COLUMN refunded_amount  shop.amount  NOT NULL DEFAULT 0,
    -- the provider's name of it
    ADD COLUMN reference        text,
    -- what the customer pays with, as the provider names it: pm_…
    ADD COLUMN token            text,
    ADD COLUMN return_url       text,
    -- later: authorise now, capture when staff says so
    ADD COLUMN capture          text         NOT NULL DEFAULT 'now',
    -- what the customer is to do: {"type", "client_secret", "url"}
    ADD COLUMN action           jsonb,
    ADD COLUMN code             text,
    ADD COLUMN detail           text,
    ADD CONSTRAINT payment_refunded CHECK (refunded_amount <= captured_amount);

COMMENT ON TABLE shop.payment IS 'One row for each attempt to pay an order; its id at the provider is <order>:<attempt>';

CREATE UNIQUE INDEX payment_reference ON shop.payment (tenant_id, method, reference) WHERE reference IS NOT NULL;

CREATE TABLE shop.refund (
    tenant_id     bigint       NOT NULL,
    id            uuid         NOT NULL,
    order_id      uuid         NOT NULL,
    attempt       int          NOT NULL,
    amount        bigint       NOT NULL CHECK (amount > 0),
    currency      varchar(3)   NOT NULL,
    status        text         NOT NULL DEFAULT 'PENDING' CHECK (status IN ('PENDING', 'SUCCEEDED', 'FAILED')),
    -- requested, cancelled, late-payment, paid-twice
    reason        text         NOT NULL,
    note          varchar(200),
    actor         uuid,
    reference     text,
    code          text,
    -- when the sweeper asks the provider (again); NULL: done
    next_at       timestamptz  DEFAULT now(),
    tries         int          NOT NULL DEFAULT 0,
    created_at    timestamptz  NOT NULL DEFAULT now(),
    updated_at    timestamptz  NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, order_id, attempt) REFERENCES shop.payment,
    CONSTRAINT refund_ends CHECK ((next_at IS NULL) = (status <> 'PENDING'))
) WITH (fillfactor = 75);

COMMENT ON TABLE shop.refund IS 'Money to be given back; payment.refunded_amount is the sum of those that did not fail';

CREATE INDEX refund_order ON shop.refund (tenant_id, order_id);
CREATE INDEX refund_due ON shop.refund (next_at) WHERE next_at IS NOT NULL;

CREATE TABLE shop.refund_item (
    tenant_id  bigint  NOT NULL,
    refund_id  uuid    NOT NULL,
    line       int     NOT NULL,
    quantity   int     NOT NULL CHECK (quantity > 0),
    amount     bigint  NOT NULL CHECK (amount >= 0),
    restock    boolean NOT NULL DEFAULT false,
    PRIMARY KEY (tenant_id, refund_id, line),
    FOREIGN KEY (tenant_id, refund_id) REFERENCES shop.refund
);

COMMENT ON TABLE shop.refund_item IS 'The lines of an order that a refund is for';

CREATE TABLE shop.payment_transaction (
    tenant_id   bigint       NOT NULL,
    id          bigint       GENERATED ALWAYS AS IDENTITY,
    order_id    uuid         NOT NULL,
    attempt     int          NOT NULL,
    refund_id   uuid,
    -- authorize, capture, void, refund, decline
    kind        text         NOT NULL CHECK (kind IN ('authorize', 'capture', 'void', 'refund', 'decline')),
    status      text         NOT NULL CHECK (status IN ('succeeded', 'failed')),
    amount      bigint       NOT NULL CHECK (amount >= 0),
    currency    text         NOT NULL,
    reference   text,
    code        text,
    -- request, webhook, sweeper or staff
    source      text,
    created_at  timestamptz  NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, order_id, attempt) REFERENCES shop.payment
);

COMMENT ON TABLE shop.payment_transaction IS 'Append only: what a provider did, in the order in which it became known';

CREATE INDEX payment_transaction_order ON shop.payment_transaction (tenant_id, order_id, id);

CREATE TABLE shop.payment_event (
    tenant_id    bigint       NOT NULL,
    provider     text         NOT NULL,
    event_id     varchar(255) NOT NULL,
    type         text         NOT NULL,
    order_id     uuid,
    payload      text         NOT NULL,
    received_at  timestamptz  NOT NULL DEFAULT now(),
    applied_at   timestamptz,
    -- an object that is not known (yet) is looked for again; NULL: applied, or given up
    next_at      timestamptz,
    tries        int          NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, provider, event_id)
) WITH (fillfactor = 75);

COMMENT ON TABLE shop.payment_event IS 'What providers told: one row for an event, however often and in whatever order it comes';

CREATE INDEX payment_event_due ON shop.payment_event (next_at) WHERE next_at IS NOT NULL;

CALL domain.isolate('shop.reservation');
CALL domain.isolate('shop.saga');
CALL domain.isolate('shop.refund');
CALL domain.isolate('shop.refund_item');
CALL domain.isolate('shop.payment_transaction');
CALL domain.isolate('shop.payment_event');

-- The sweeper finds over all tenants what is due, and then enters the tenant.
CREATE POLICY sweep ON shop.reservation FOR SELECT USING (current_setting('commerce.sweep', true) = 'saga');
CREATE POLICY sweep ON shop.saga FOR SELECT USING (current_setting('commerce.sweep', true) = 'saga');
CREATE POLICY sweep ON shop.refund FOR SELECT USING (current_setting('commerce.sweep', true) = 'saga');
CREATE POLICY sweep ON shop.payment_event FOR SELECT USING (current_setting('commerce.sweep', true) = 'saga');

-- ── settings that each checkout needs, as in 73_write_path ───────────────────────────────────────────────────────────

-- {"payments": {"methods": ["manual", "stripe"], …}}; NULL: manual alone
ALTER TABLE shop.tenant
    ADD COLUMN payment_methods jsonb GENERATED ALWAYS AS (settings -> 'payments' -> 'methods') STORED;

-- ── providers ────────────────────────────────────────────────────────────────────────────────────────────────────────

RESET ROLE;
CREATE SCHEMA IF NOT EXISTS payment AUTHORIZATION commerce_owner;
SET LOCAL ROLE commerce_owner;
COMMENT ON SCHEMA payment IS 'Adapters of payment providers, functions <provider>_…: sql/payment/README.md';

-- What is asked of a provider.
CREATE TYPE payment.call AS (
    action        text,         -- pay, query, capture, void, refund
    key           text,         -- idempotency key: the same for every repetition of the same call
    tenant_id     bigint,
    order_id      uuid,
    order_number  text,
    attempt       int,
    refund_id     uuid,         -- of refund
    amount        bigint,       -- minor units: what is to be paid, captured or refunded
    currency      text,
    reference     text,         -- the provider's name of the payment, when it is known
    token         text,         -- what the customer pays with
    return_url    text,
    capture       text,         -- now | later
    expired       boolean,      -- of query: the deadline is over, the customer will not do anything any more
    email         text,
    settings      jsonb         -- the tenant's settings of this provider
);

-- What a provider answered, or tells by webhook.
CREATE TYPE payment.outcome AS (
    outcome    text,            -- success | authorized | requires_action | declined | failed | unknown | voided
    reference  text,
    amount     bigint,          -- of success, authorized: minor units, NULL when the provider does not say
    currency   text,
    code       text,            -- of declined, failed: for machines
    detail     text,            -- and for people
    action     jsonb            -- of requires_action: what the customer needs
);

-- An event that a provider sent.
CREATE TYPE payment.notice AS (
    event_id   text,
    type       text,
    kind       text,            -- payment | refund | none
    order_id   uuid,
    attempt    int,
    refund_id  uuid,
    result     payment.outcome
);

COMMIT;
