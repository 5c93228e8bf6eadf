-- Revert nginx-commerce:102_maintenance from pg

BEGIN;

ALTER TABLE domain.progress DROP COLUMN state;

COMMIT;
