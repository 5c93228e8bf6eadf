-- Verify nginx-commerce:91_sealed_keys on pg

BEGIN;

SELECT keys, since, unopened FROM shop.sealed_renewal WHERE false;

ROLLBACK;
