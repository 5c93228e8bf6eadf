-- Revert nginx-commerce:20_identity from pg

BEGIN;

DROP TABLE shop.login_attempt;
DROP TABLE shop.refresh_token;
DROP TABLE shop.session;
DROP TABLE shop.app_user CASCADE;

COMMIT;
