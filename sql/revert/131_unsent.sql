-- Revert nginx-commerce:131_unsent from pg
-- Not beside a relay: a claim has event.unsent before it comes to the outbox, and PostgreSQL would end one of the two.

BEGIN;

SET LOCAL ROLE commerce_owner;

LOCK TABLE event.outbox IN ACCESS EXCLUSIVE MODE;

DROP TRIGGER written ON event.outbox;
DROP TRIGGER deleted ON event.outbox;
ALTER TABLE event.outbox ADD COLUMN sent_at timestamptz;
GRANT UPDATE (sent_at) ON event.outbox TO commerce_relay;
CREATE POLICY relay_mark ON event.outbox FOR UPDATE TO commerce_relay USING (true);

RESET ROLE;
SET LOCAL ROLE commerce_relay;

UPDATE event.outbox o SET sent_at = o.created_at
 WHERE NOT EXISTS (SELECT FROM event.unsent u WHERE u.shard = o.shard AND u.id = o.id AND u.event_id = o.event_id);

DROP FUNCTION relay.mark(smallint[], bigint[], uuid[]);

-- The oldest events of each shard that were not sent, "many" for each.  Never "after the last id": a transaction that began earlier may
-- commit later.  An aggregate's events are in order of id, because who writes one holds its row until the commit.
CREATE OR REPLACE FUNCTION relay.unsent(shards smallint[], many int) RETURNS SETOF event.outbox
LANGUAGE plpgsql STABLE SECURITY DEFINER SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    RETURN QUERY
    SELECT o.*
      FROM unnest(shards) s (shard)
     CROSS JOIN LATERAL (SELECT x.*
                           FROM event.outbox x
                          WHERE x.shard = s.shard AND x.sent_at IS NULL
                          ORDER BY x.id
                          LIMIT many) o;
END
$$;

-- The same without those that wait for a consumer to be asked again, and what is behind them.
CREATE OR REPLACE FUNCTION relay.unsent_ready(shards smallint[], many int) RETURNS SETOF event.outbox
LANGUAGE plpgsql STABLE SECURITY DEFINER SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    RETURN QUERY
    SELECT o.*
      FROM unnest(shards) s (shard)
     CROSS JOIN LATERAL (SELECT x.*
                           FROM event.outbox x
                          WHERE x.shard = s.shard AND x.sent_at IS NULL
                            AND NOT EXISTS (SELECT FROM event.retry r
                                             WHERE r.tenant_id = x.tenant_id AND r.aggregate_id = x.aggregate_id
                                               AND r.next_at > clock_timestamp())
                          ORDER BY x.id
                          LIMIT many) o;
END
$$;

-- These have reached whom they are for.  since: not younger than the oldest of them, for finding the days.
CREATE FUNCTION relay.mark(ids bigint[], since timestamptz) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    UPDATE event.outbox o SET sent_at = clock_timestamp()
      FROM unnest(ids) i (id)
     WHERE o.id = i.id AND o.created_at >= since;
END
$$;

CREATE FUNCTION relay.mark(ids bigint[], events uuid[], since timestamptz) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    UPDATE event.outbox o SET sent_at = clock_timestamp()
      FROM unnest(ids, events) i (id, event_id)
     WHERE o.id = i.id AND o.created_at >= since AND o.event_id = i.event_id;
END
$$;

-- Whether all events from a time to another one were sent.
CREATE OR REPLACE FUNCTION relay.all_sent(since timestamptz, until timestamptz) RETURNS boolean
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
BEGIN
    RETURN NOT EXISTS (SELECT FROM event.outbox o WHERE o.created_at >= since AND o.created_at < until AND o.sent_at IS NULL);
END
$$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA relay FROM PUBLIC;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA relay TO commerce_owner;

RESET ROLE;
SET LOCAL ROLE commerce_owner;

DROP TABLE event.unsent CASCADE;         -- functions that have rows of it: scripts/migrate makes them
DROP FUNCTION event.outbox_written(), event.outbox_deleted();
CREATE INDEX outbox_unsent ON event.outbox (shard, id) WHERE sent_at IS NULL;

COMMIT;
