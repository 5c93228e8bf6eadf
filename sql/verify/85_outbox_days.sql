-- Verify nginx-commerce:85_outbox_days on pg

BEGIN;

SELECT 1 / count(*) FROM pg_policy WHERE polrelid = 'event.outbox_default'::regclass AND polname = 'sweep' AND polcmd = 'r';

ROLLBACK;
