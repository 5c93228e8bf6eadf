-- Revert nginx-commerce:60_identity from pg

BEGIN;

DROP TABLE shop.housekeeping;
DROP TABLE shop.notification;
DROP TABLE shop.throttle;
DROP TABLE shop.user_network;
DROP TABLE shop.recovery_code;
DROP TABLE shop.totp;
DROP TABLE shop.user_token;

ALTER TABLE shop.login_attempt DROP COLUMN admitted_at;

DROP INDEX shop.session_age;
DROP INDEX shop.refresh_token_expiry;

ALTER TABLE shop.session
    DROP COLUMN second_factor,
    DROP COLUMN user_agent,
    DROP COLUMN address,
    DROP COLUMN last_used_at;

DROP INDEX shop.app_user_staff;

ALTER TABLE shop.app_user
    DROP COLUMN password_version,
    DROP COLUMN email_verified_at;

COMMIT;
