-- Deploy nginx-commerce:45_account to pg
-- requires: 10_catalogue
-- requires: 20_identity
-- What customers keep: addresses, wishlists, and the record of what they looked at.

BEGIN;

SET LOCAL ROLE commerce_owner;

CREATE TABLE shop.address (
    tenant_id    bigint       NOT NULL,
    id           uuid         NOT NULL,
    user_id      uuid         NOT NULL,
    type         text         NOT NULL CHECK (type IN ('SHIPPING', 'BILLING')),
    is_default   boolean      NOT NULL DEFAULT false,
    name         text         NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    company      text         CHECK (length(company) <= 200),
    line1        text         NOT NULL CHECK (length(line1) BETWEEN 1 AND 200),
    line2        text         CHECK (length(line2) <= 200),
    city         text         NOT NULL CHECK (length(city) BETWEEN 1 AND 100),
    region       text         CHECK (length(region) <= 100),
    postal_code  text         CHECK (length(postal_code) <= 20),
    country      text         NOT NULL CHECK (country ~ '^[A-Z]{2}$'),
    phone        text         CHECK (length(phone) <= 40),
    version      int          NOT NULL DEFAULT 1,
    created_at   timestamptz  NOT NULL DEFAULT now(),
    updated_at   timestamptz  NOT NULL DEFAULT now(),
    deleted_at   timestamptz,
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, user_id) REFERENCES shop.app_user ON DELETE CASCADE
);

COMMENT ON TABLE shop.address IS 'Address book; orders keep copies, never references';

CREATE INDEX address_user ON shop.address (tenant_id, user_id, id) WHERE deleted_at IS NULL;
CREATE UNIQUE INDEX address_default ON shop.address (tenant_id, user_id, type) WHERE is_default AND deleted_at IS NULL;

CREATE TABLE shop.wishlist_item (
    tenant_id   bigint       NOT NULL,
    user_id     uuid         NOT NULL,
    product_id  bigint       NOT NULL,
    created_at  timestamptz  NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, user_id, product_id),
    FOREIGN KEY (tenant_id, user_id) REFERENCES shop.app_user ON DELETE CASCADE,
    FOREIGN KEY (tenant_id, product_id) REFERENCES shop.product ON DELETE CASCADE
);

COMMENT ON TABLE shop.wishlist_item IS 'Products that a customer remembers';

-- price drops and returns to stock are told by product
CREATE INDEX wishlist_item_product ON shop.wishlist_item (tenant_id, product_id);

-- No foreign keys: a log, written once for every click, and read by batch programs that join for themselves.
CREATE TABLE shop.interaction (
    tenant_id   bigint       NOT NULL,
    id          bigint       GENERATED ALWAYS AS IDENTITY,
    user_id     uuid,
    -- hash of a guest's cart token
    guest       text,
    product_id  bigint       NOT NULL,
    action      text         NOT NULL CHECK (action IN ('view', 'click', 'add_to_wishlist', 'share')),
    metadata    jsonb,
    created_at  timestamptz  NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id)
);

COMMENT ON TABLE shop.interaction IS 'What visitors did with products: the raw material of recommendations';

CALL domain.isolate('shop.address');
CALL domain.isolate('shop.wishlist_item');
CALL domain.isolate('shop.interaction');

COMMIT;
