-- Revert nginx-commerce:55_revocation from pg

BEGIN;

DROP FUNCTION platform.revocations(int);
DROP TABLE shop.revocation;

COMMIT;
