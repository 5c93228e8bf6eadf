-- Deploy nginx-commerce:30_cart to pg
-- requires: 00_foundation
-- PostgreSQL's copy of the carts.
--
-- Redis serves carts, this table is their backup, and their home while Redis is away. One row for each owner, u:<uuid> of
-- a customer or g:<hash> of a guest's token; version grows over all carts that the owner ever had.

BEGIN;

SET LOCAL ROLE commerce_owner;

CREATE TABLE shop.cart_backup (
    tenant_id     bigint       NOT NULL REFERENCES shop.tenant,
    owner         text         NOT NULL CHECK (owner ~ '^(u:[0-9a-f-]{36}|g:[0-9a-f]{64})$'),
    cart_id       uuid,
    version       bigint       NOT NULL CHECK (version >= 0),
    document      jsonb        NOT NULL CHECK (jsonb_typeof(document -> 'items') = 'array'),
    redis_stale   boolean      NOT NULL DEFAULT false,
    abandoned_at  timestamptz,
    created_at    timestamptz  NOT NULL DEFAULT now(),
    updated_at    timestamptz  NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, owner)
);

COMMENT ON TABLE shop.cart_backup IS 'Carts: the backup of Redis, and what serves while it is away';

COMMENT ON COLUMN shop.cart_backup.redis_stale IS 'written here while Redis was away: a copy in Redis is older';
COMMENT ON COLUMN shop.cart_backup.abandoned_at IS 'when cart.abandoned was sent; NULL again after the next change';

-- the few rows that Redis must learn of
CREATE INDEX cart_backup_stale ON shop.cart_backup (tenant_id, owner) WHERE redis_stale;

-- carts that nobody has touched for a while
CREATE INDEX cart_backup_idle ON shop.cart_backup (tenant_id, updated_at) WHERE abandoned_at IS NULL AND cart_id IS NOT NULL;

CALL domain.isolate('shop.cart_backup');

-- The edge's own work (api.cart_stale, api.cart_sweep) looks for rows of all shops, then goes to each shop for them.
CREATE POLICY sweep ON shop.cart_backup FOR SELECT USING (current_setting('commerce.sweep', true) = 'cart');

RESET ROLE;

COMMIT;
