-- Verify nginx-commerce:86_events on pg

BEGIN;

SELECT tenant_id, consumer, event_id, attempts, next_at FROM event.retry WHERE false;
SELECT tenant_id, id, reason, consumer, key, topic, payload, error FROM event.dead_letter WHERE false;
SELECT 1 / (count(*) = 16)::int FROM event.relay_shard;
SELECT has_function_privilege('commerce_owner', 'relay.unsent(smallint[], int)', 'EXECUTE');
SELECT 1 / has_schema_privilege('commerce_owner', 'consumer', 'CREATE')::int;

ROLLBACK;
