-- Revert nginx-commerce:86_events from pg

BEGIN;

DROP SCHEMA relay CASCADE;
DROP POLICY relay_mark ON event.outbox;
DROP POLICY relay ON event.outbox;
DROP TABLE event.relay_node, event.relay_shard, event.dead_letter, event.retry;
DROP SCHEMA consumer CASCADE;
DROP TYPE event.message CASCADE;
DELETE FROM shop.interaction WHERE action = 'add_to_cart';
ALTER TABLE shop.interaction DROP CONSTRAINT interaction_action_check;
ALTER TABLE shop.interaction ADD CONSTRAINT interaction_action_check
    CHECK (action IN ('view', 'click', 'add_to_wishlist', 'share'));
REVOKE ALL ON event.outbox FROM commerce_relay;
REVOKE ALL ON FUNCTION domain.tenant_id() FROM commerce_relay;
REVOKE ALL ON SCHEMA event, domain FROM commerce_relay;

COMMIT;
