-- Deploy nginx-commerce:72_sealed to pg
-- requires: 70_privacy
-- Phone and date of birth are sealed at the edge (A13): text that only an edge with the key can read. And who has asked to be erased.

BEGIN;

SET LOCAL ROLE commerce_owner;

-- v1:<kid>:<base64url>: 28 bytes and a third more than the value, and a key id of up to 64
ALTER TABLE shop.app_user
    DROP CONSTRAINT app_user_phone_check,
    ALTER COLUMN date_of_birth TYPE text USING to_char(date_of_birth, 'YYYY-MM-DD'),
    ADD CONSTRAINT app_user_phone_check CHECK (length(phone) <= 400),
    ADD CONSTRAINT app_user_date_of_birth_check CHECK (length(date_of_birth) <= 400);

ALTER TABLE shop.address
    DROP CONSTRAINT address_phone_check,
    ADD CONSTRAINT address_phone_check CHECK (length(phone) <= 400);

COMMENT ON COLUMN shop.app_user.phone IS 'sealed for u:<id>, purpose phone';
COMMENT ON COLUMN shop.app_user.date_of_birth IS 'sealed for u:<id>, purpose date_of_birth';
COMMENT ON COLUMN shop.address.phone IS 'sealed for u:<user_id>, purpose phone';
COMMENT ON COLUMN shop.orders.shipping_address IS 'its phone is sealed for u:<user_id> or the guest, purpose phone';

-- How far each table has been sealed anew with a key: api.sealed_stale() goes on from here.
CREATE TABLE shop.sealed_renewal (
    tenant_id    bigint       NOT NULL REFERENCES shop.tenant ON DELETE CASCADE,
    relation     text         NOT NULL,
    kid          text         NOT NULL,
    after_id     uuid,
    finished_at  timestamptz,
    created_at   timestamptz  NOT NULL DEFAULT now(),
    updated_at   timestamptz  NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, relation)
);

COMMENT ON TABLE shop.sealed_renewal IS 'Progress of sealing rows anew with the key that encrypts';

-- Who has been erased. Outlives the user's row: what a restore brings back is erased again from it (scripts/erasures).
CREATE TABLE shop.erasure (
    tenant_id   bigint       NOT NULL REFERENCES shop.tenant ON DELETE CASCADE,
    user_id     uuid         NOT NULL,
    actor       text         NOT NULL,
    created_at  timestamptz  NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, user_id)
);

COMMENT ON TABLE shop.erasure IS 'Tombstones of users who were erased (A26)';

CALL domain.isolate('shop.sealed_renewal');
CALL domain.isolate('shop.erasure');

RESET ROLE;

COMMIT;
