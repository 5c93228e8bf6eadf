-- Revert nginx-commerce:91_sealed_keys from pg

BEGIN;

ALTER TABLE shop.sealed_renewal DROP COLUMN keys, DROP COLUMN since, DROP COLUMN unopened;

COMMIT;
