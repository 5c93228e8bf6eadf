-- Revert nginx-commerce:85_outbox_days from pg

BEGIN;

DROP POLICY sweep ON event.outbox_default;

COMMIT;
