-- Deploy nginx-commerce:131_unsent to pg
-- requires: 85_outbox_days
-- requires: 86_events
-- requires: 120_relay_mark
-- What is still to be sent stands in a small table of its own: a mark takes a row out of it.  In the outbox a mark was a second version of
-- the event with entries in its indexes, 20 µs each, and left as much behind for autovacuum as the shop had written.

BEGIN;

SET LOCAL ROLE commerce_owner;

-- Numbers and times only, and no tenant: who works for all of them takes it from the outbox.
CREATE TABLE event.unsent (
    shard       smallint     NOT NULL,
    id          bigint       NOT NULL,
    created_at  timestamptz  NOT NULL,
    event_id    uuid         NOT NULL,
    PRIMARY KEY (shard, id)
) WITH (
    -- a queue: nearly empty, and rewritten all the time.  Rows that are gone are looked over by each claim until a vacuum, which is quick here
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0,
    autovacuum_vacuum_insert_threshold = -1, vacuum_truncate = off
);

COMMENT ON TABLE event.unsent IS 'Events of the outbox that are still to be sent, or to be sent again';

-- Whoever writes an event, by whatever way: it is to be sent.
CREATE FUNCTION event.outbox_written() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO event.unsent (shard, id, created_at, event_id)
    SELECT w.shard, w.id, w.created_at, w.event_id FROM written w;
    RETURN NULL;
END
$$;

-- Whoever deletes one (domain.tenant_erase): it is not to be sent any more.  Who moves events names their partitions, and is not meant.
CREATE FUNCTION event.outbox_deleted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM relay.mark(array_agg(d.shard), array_agg(d.id), array_agg(d.event_id)) FROM deleted d;
    RETURN NULL;
END
$$;

REVOKE ALL ON FUNCTION event.outbox_written(), event.outbox_deleted() FROM PUBLIC;

-- waits for those that write an event, and holds up who comes then until the commit
LOCK TABLE event.outbox IN ACCESS EXCLUSIVE MODE;

CREATE TRIGGER written AFTER INSERT ON event.outbox REFERENCING NEW TABLE AS written
    FOR EACH STATEMENT EXECUTE FUNCTION event.outbox_written();
CREATE TRIGGER deleted AFTER DELETE ON event.outbox REFERENCING OLD TABLE AS deleted
    FOR EACH STATEMENT EXECUTE FUNCTION event.outbox_deleted();

GRANT SELECT, INSERT, DELETE ON event.unsent TO commerce_relay;

RESET ROLE;
SET LOCAL ROLE commerce_relay;

-- it sees the events of all tenants
INSERT INTO event.unsent (shard, id, created_at, event_id)
SELECT o.shard, o.id, o.created_at, o.event_id FROM event.outbox o WHERE o.sent_at IS NULL;

DROP FUNCTION relay.mark(bigint[], uuid[], timestamptz);
DROP FUNCTION relay.mark(bigint[], timestamptz);

RESET ROLE;
SET LOCAL ROLE commerce_owner;

REVOKE INSERT ON event.unsent FROM commerce_relay;
DROP POLICY relay_mark ON event.outbox;
DROP INDEX event.outbox_unsent;
ALTER TABLE event.outbox DROP COLUMN sent_at;

RESET ROLE;
SET LOCAL ROLE commerce_relay;

-- The oldest events of each shard that are to be sent, "many" for each.  Never "after the last id": a transaction that began earlier may
-- commit later.  An aggregate's events are in order of id, because who writes one holds its row until the commit.  Planned for the index
-- whatever the statistics of the moment say: they are those of a table that is empty, or full.
CREATE OR REPLACE FUNCTION relay.unsent(shards smallint[], many int) RETURNS SETOF event.outbox
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off AS $$
BEGIN
    RETURN QUERY
    SELECT o.*
      FROM unnest(shards) s (shard)
     CROSS JOIN LATERAL (SELECT e.*
                           FROM event.unsent x
                          CROSS JOIN LATERAL (SELECT * FROM event.outbox y
                                               WHERE y.id = x.id AND y.created_at = x.created_at
                                              OFFSET 0) e
                          WHERE x.shard = s.shard
                          ORDER BY x.id
                          LIMIT many) o;
END
$$;

-- The same without those that wait for a consumer to be asked again, and what is behind them.
CREATE OR REPLACE FUNCTION relay.unsent_ready(shards smallint[], many int) RETURNS SETOF event.outbox
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off AS $$
BEGIN
    RETURN QUERY
    SELECT o.*
      FROM unnest(shards) s (shard)
     CROSS JOIN LATERAL (SELECT e.*
                           FROM event.unsent x
                          CROSS JOIN LATERAL (SELECT * FROM event.outbox y
                                               WHERE y.id = x.id AND y.created_at = x.created_at
                                              OFFSET 0) e
                          WHERE x.shard = s.shard
                            AND NOT EXISTS (SELECT FROM event.retry r
                                             WHERE r.tenant_id = e.tenant_id AND r.aggregate_id = e.aggregate_id
                                               AND r.next_at > clock_timestamp())
                          ORDER BY x.id
                          LIMIT many) o;
END
$$;

-- These have reached whom they are for.  Each is named by its event too: a server that came back without its last commits hands their
-- numbers out again.  A plain join would be planned from the other end while the table is taken for an empty one: of each row that waits,
-- whether it is among these.
CREATE FUNCTION relay.mark(shards smallint[], ids bigint[], events uuid[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off AS $$
BEGIN
    DELETE FROM event.unsent
     WHERE ctid = ANY (ARRAY(SELECT u.ctid
                               FROM unnest(shards, ids, events) s (shard, id, event_id)
                              CROSS JOIN LATERAL (SELECT x.ctid
                                                    FROM event.unsent x
                                                   WHERE x.shard = s.shard AND x.id = s.id AND x.event_id = s.event_id
                                                  OFFSET 0) u));
END
$$;

-- Whether all events from a time to another one were sent.
CREATE OR REPLACE FUNCTION relay.all_sent(since timestamptz, until timestamptz) RETURNS boolean
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
BEGIN
    RETURN NOT EXISTS (SELECT FROM event.unsent u WHERE u.created_at >= since AND u.created_at < until);
END
$$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA relay FROM PUBLIC;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA relay TO commerce_owner;

COMMIT;
