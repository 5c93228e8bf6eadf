-- Revert nginx-commerce:72_sealed from pg
-- What is sealed cannot be opened here: it is dropped.

BEGIN;

DROP TABLE shop.erasure;
DROP TABLE shop.sealed_renewal;

UPDATE shop.app_user SET phone = NULL WHERE phone LIKE 'v1:%';
UPDATE shop.app_user SET date_of_birth = NULL WHERE date_of_birth LIKE 'v1:%';
UPDATE shop.address SET phone = NULL WHERE phone LIKE 'v1:%';

ALTER TABLE shop.app_user
    DROP CONSTRAINT app_user_phone_check,
    DROP CONSTRAINT app_user_date_of_birth_check,
    ALTER COLUMN date_of_birth TYPE date USING date_of_birth::date,
    ADD CONSTRAINT app_user_phone_check CHECK (length(phone) <= 40);
ALTER TABLE shop.address
    DROP CONSTRAINT address_phone_check,
    ADD CONSTRAINT address_phone_check CHECK (length(phone) <= 40);

COMMIT;
