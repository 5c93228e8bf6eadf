-- Deploy nginx-commerce:112_payment_secrets to pg
-- requires: 91_sealed_keys
-- What a shop's payment provider knows it by, and signs its events with: the shop's own, sealed at the edge.

BEGIN;

SET LOCAL ROLE commerce_owner;

CREATE TABLE shop.payment_secret (
    tenant_id   bigint       NOT NULL REFERENCES shop.tenant,
    id          uuid         NOT NULL,
    provider    text         NOT NULL CHECK (provider ~ '^[a-z][a-z0-9_]{0,31}$'),
    kind        text         NOT NULL CHECK (kind IN ('key', 'webhook')),
    -- the end of what it is sealed for, "shop.payment_secret <tenant> <id> <place>": where it may be sent (for=…), and its name
    place       text         NOT NULL CHECK (place ~ '^for=[^ |{}]* [a-z]+$'),
    secret      text         NOT NULL CHECK (secret ~ '^v1:[A-Za-z0-9._-]{1,64}:[A-Za-z0-9_-]+$'),
    last4       text         NOT NULL CHECK (length(last4) = 4),
    created_at  timestamptz  NOT NULL DEFAULT now(),
    updated_at  timestamptz  NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id)
);

COMMENT ON TABLE shop.payment_secret IS 'Keys of a shop at its payment providers, and what their events are signed with; sealed';

CREATE UNIQUE INDEX payment_secret_key ON shop.payment_secret (tenant_id, provider) WHERE kind = 'key';

CALL domain.isolate('shop.payment_secret');

RESET ROLE;

COMMIT;
