-- Deploy nginx-commerce:102_maintenance to pg
-- requires: 73_write_path
-- A round of housekeeping over thousands of shops is many transactions: where it stands is kept between them.

BEGIN;

SET LOCAL ROLE commerce_owner;

ALTER TABLE domain.progress ADD COLUMN state jsonb;

COMMENT ON COLUMN domain.progress.state IS 'where a round stands that is not at its end';

RESET ROLE;

COMMIT;
