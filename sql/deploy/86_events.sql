-- Deploy nginx-commerce:86_events to pg
-- requires: 00_foundation
-- requires: 45_account
-- requires: 73_write_path
-- requires: 85_outbox_days
-- Events leave the outbox and come back to consumers: what a consumer gets, what failed, who relays which shard.
--
-- Functions of the shop see one tenant.  The relay works for all of them: commerce_relay, which nobody can log in as, may read the
-- outbox and write sent_at, nothing else, and its four functions in schema relay are all that commerce_owner may ask of it.

BEGIN;

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'commerce_relay') THEN
        CREATE ROLE commerce_relay NOLOGIN NOBYPASSRLS;
    END IF;
END
$$;

CREATE SCHEMA consumer AUTHORIZATION commerce_owner;
COMMENT ON SCHEMA consumer IS 'What events set off: functions (event.message) that api/asyncapi.yaml names';

CREATE SCHEMA relay AUTHORIZATION commerce_relay;
COMMENT ON SCHEMA relay IS 'The outbox of all tenants, as the relay sees it';

SET LOCAL ROLE commerce_owner;

CREATE TYPE event.message AS (
    id                 uuid,
    tenant_id          bigint,
    topic              text,
    type               text,
    aggregate          text,
    aggregate_id       text,
    aggregate_version  bigint,
    payload            jsonb,
    correlation_id     text,
    traceparent        text,
    created_at         timestamptz
);

COMMENT ON TYPE event.message IS 'An event as a consumer gets it';

-- A row stands from a consumer's failure until it succeeds or is given up; the events of its aggregate wait behind it.
CREATE TABLE event.retry (
    tenant_id     bigint       NOT NULL,
    consumer      text         NOT NULL,
    event_id      uuid         NOT NULL,
    aggregate_id  text         NOT NULL,
    attempts      int          NOT NULL,
    next_at       timestamptz  NOT NULL,
    error         text         NOT NULL,
    created_at    timestamptz  NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, consumer, event_id)
);

COMMENT ON TABLE event.retry IS 'Without Kafka: consumers that failed, and when they are asked again';

CREATE INDEX retry_aggregate ON event.retry (tenant_id, aggregate_id);

CREATE TABLE event.dead_letter (
    tenant_id      bigint       NOT NULL,          -- 0: the message does not tell
    id             bigint       GENERATED ALWAYS AS IDENTITY,
    reason         text         NOT NULL CHECK (reason IN ('malformed', 'oversized', 'unknown-type', 'unknown-tenant', 'failed')),
    consumer       text         NOT NULL,          -- '' when none was asked
    key            text         NOT NULL,          -- event id, or topic/partition/offset of what has none
    topic          text         NOT NULL,
    type           text,
    event_id       uuid,
    aggregate      text,
    aggregate_id   text,
    aggregate_version bigint,
    payload        text,                           -- as it came; cut where it is oversized or no text
    correlation_id text,
    traceparent    text,
    occurred_at    timestamptz,
    error          text         NOT NULL,
    attempts       int          NOT NULL DEFAULT 0,
    created_at     timestamptz  NOT NULL DEFAULT now(),
    updated_at     timestamptz  NOT NULL DEFAULT now(),
    redriven_at    timestamptz,                    -- it was tried again since, with success
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, consumer, key)
);

COMMENT ON TABLE event.dead_letter IS 'Messages that no consumer could use: looked at and redriven by staff';

CALL domain.isolate('event.retry');
CALL domain.isolate('event.dead_letter');

-- Who relays which shard.  A row is a lease: it is renewed while its holder lives, and anybody's when it is over.
CREATE TABLE event.relay_shard (
    shard   smallint     PRIMARY KEY,
    holder  text,
    until   timestamptz  NOT NULL DEFAULT '-infinity'
);

COMMENT ON TABLE event.relay_shard IS 'Leases: one relay for each shard, over all workers and nodes';

INSERT INTO event.relay_shard (shard) SELECT s FROM generate_series(0, 15) s;

CREATE TABLE event.relay_node (
    holder  text         PRIMARY KEY,
    until   timestamptz  NOT NULL
);

COMMENT ON TABLE event.relay_node IS 'Nodes that would relay: the shards are shared out among them';

-- What customers put into carts counts like what they looked at (consumer.recommend_signal); it comes with its event's id, once.
ALTER TABLE shop.interaction DROP CONSTRAINT interaction_action_check;
ALTER TABLE shop.interaction ADD CONSTRAINT interaction_action_check
    CHECK (action IN ('view', 'click', 'add_to_wishlist', 'share', 'add_to_cart')) NOT VALID;

GRANT USAGE ON SCHEMA event, domain TO commerce_relay;
GRANT EXECUTE ON FUNCTION domain.tenant_id() TO commerce_relay;
GRANT SELECT, UPDATE (sent_at) ON event.outbox TO commerce_relay;
GRANT SELECT ON event.retry TO commerce_relay;
CREATE POLICY relay ON event.outbox FOR SELECT TO commerce_relay USING (true);
CREATE POLICY relay_mark ON event.outbox FOR UPDATE TO commerce_relay USING (true);
CREATE POLICY relay ON event.retry FOR SELECT TO commerce_relay USING (true);

RESET ROLE;
GRANT USAGE ON SCHEMA relay TO commerce_owner;
SET LOCAL ROLE commerce_relay;

-- The oldest events of each shard that were not sent, "many" for each.  Never "after the last id": a transaction that began earlier may
-- commit later.  An aggregate's events are in order of id, because who writes one holds its row until the commit.
CREATE FUNCTION relay.unsent(shards smallint[], many int) RETURNS SETOF event.outbox
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
CREATE FUNCTION relay.unsent_ready(shards smallint[], many int) RETURNS SETOF event.outbox
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

-- Whether all events from a time to another one were sent.
CREATE FUNCTION relay.all_sent(since timestamptz, until timestamptz) RETURNS boolean
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
BEGIN
    RETURN NOT EXISTS (SELECT FROM event.outbox o WHERE o.created_at >= since AND o.created_at < until AND o.sent_at IS NULL);
END
$$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA relay FROM PUBLIC;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA relay TO commerce_owner;

COMMIT;
