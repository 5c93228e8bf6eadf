-- Deploy nginx-commerce:85_outbox_days to pg
-- requires: 00_foundation
-- Events that came before their day had a partition are found, whosever they are, so that they can be moved to it.

BEGIN;

SET LOCAL ROLE commerce_owner;

CREATE POLICY sweep ON event.outbox_default FOR SELECT USING (current_setting('commerce.sweep', true) = 'outbox');

RESET ROLE;

COMMIT;
