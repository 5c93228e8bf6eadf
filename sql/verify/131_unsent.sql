-- Verify nginx-commerce:131_unsent on pg

BEGIN;

SELECT shard, id, created_at, event_id FROM event.unsent WHERE false;
SELECT has_function_privilege('commerce_owner', 'relay.mark(smallint[], bigint[], uuid[])', 'EXECUTE');
SELECT 1 / (count(*) = 2)::int FROM pg_trigger WHERE tgrelid = 'event.outbox'::regclass AND tgname IN ('written', 'deleted');

ROLLBACK;
