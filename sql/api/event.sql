-- Events: the feed without Kafka, the relay's and the consumers' calls with it, and what staff sees of them.

-- ── without Kafka ────────────────────────────────────────────────────────────────────────────────────────────────────

-- Hands unsent events of all tenants to their consumers, in order per aggregate, and marks what all of them have had. A consumer that
-- fails is asked again after a while (the events of this aggregate wait), at last the event is buried. A job: safe on several nodes at
-- once, each takes the shards that it gets. "more": there may be further events.
CREATE OR REPLACE FUNCTION api.events_feed(batch int DEFAULT 100) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    share    int := greatest(batch / 4, 10);
    shards   smallint[];
    ms       event.message[];
    sent     event.unsent[];
    one      record;
BEGIN
    -- shards that a relay to Kafka has a lease of are its
    SELECT array_agg(x.shard) INTO shards
      FROM (SELECT s.shard FROM event.relay_shard s WHERE s.until < now() FOR UPDATE SKIP LOCKED) x;

    SELECT array_agg((x.shard, x.id, x.created_at, x.event_id)::event.unsent),
           array_agg((x.event_id, x.tenant_id, x.topic, x.type, x.aggregate, x.aggregate_id, x.aggregate_version, x.payload::jsonb,
                      x.correlation_id, x.traceparent, x.created_at)::event.message)
      INTO sent, ms
      FROM (SELECT * FROM relay.unsent_ready(shards, share) o ORDER BY o.id LIMIT batch) x;

    IF domain.events_deliver(ms) IS NULL THEN
        SELECT cardinality(sent) AS seen, 0 AS failed, 0 AS dead INTO one;
    ELSE
        SELECT * INTO one FROM domain.events_feed_each(shards, share, batch);
        sent := one.sent;
    END IF;

    PERFORM domain.event_context(NULL, NULL, NULL);
    PERFORM relay.mark(array_agg(s.shard), array_agg(s.id), array_agg(s.event_id)) FROM unnest(sent) s;

    RETURN (200, json_build_object('events', coalesce(cardinality(sent), 0), 'failed', one.failed, 'dead', one.dead,
                                   'more', coalesce(cardinality(sent) > 0 AND one.seen >= share, false))::text, NULL, NULL)::api.reply;
END
$$;

-- ── with Kafka: the relay ────────────────────────────────────────────────────────────────────────────────────────────

-- The node renews the shards that it keeps, lets go of its others and takes free ones up to its share among the nodes that ask.
-- Answers the shards that are its own for so many milliseconds, and the share.
CREATE OR REPLACE FUNCTION api.relay_lease(holder text, keep smallint[], lease_ms int, OUT shards smallint[], OUT share int)
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    until_  timestamptz := clock_timestamp() + make_interval(secs => lease_ms / 1000.0);
BEGIN
    INSERT INTO event.relay_node AS n (holder, until)
    VALUES (relay_lease.holder, until_)
        ON CONFLICT ON CONSTRAINT relay_node_pkey DO UPDATE SET until = excluded.until;
    DELETE FROM event.relay_node n
     WHERE n.holder IN (SELECT x.holder FROM event.relay_node x WHERE x.until < now() - interval '1 minute' FOR UPDATE SKIP LOCKED);

    SELECT ceil(16.0 / greatest(count(*), 1)) INTO share FROM event.relay_node n WHERE n.until >= clock_timestamp();

    UPDATE event.relay_shard s
       SET holder = CASE WHEN s.shard = ANY (keep) THEN s.holder END,
           until = CASE WHEN s.shard = ANY (keep) THEN until_ ELSE '-infinity' END
     WHERE s.holder = relay_lease.holder;

    UPDATE event.relay_shard s
       SET holder = relay_lease.holder, until = until_
      FROM (SELECT x.shard FROM event.relay_shard x
             WHERE x.until < clock_timestamp()
             ORDER BY x.shard
             LIMIT greatest(share - coalesce((SELECT count(*) FROM event.relay_shard y WHERE y.holder = relay_lease.holder), 0), 0)
               FOR UPDATE SKIP LOCKED) free
     WHERE s.shard = free.shard;

    SELECT array_agg(s.shard ORDER BY s.shard) INTO shards FROM event.relay_shard s WHERE s.holder = relay_lease.holder;
END
$$;

-- The node leaves: its shards are free at once.
CREATE OR REPLACE FUNCTION api.relay_leave(holder text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    UPDATE event.relay_shard s SET holder = NULL, until = '-infinity' WHERE s.holder = relay_leave.holder;
    DELETE FROM event.relay_node n WHERE n.holder = relay_leave.holder;
END
$$;

-- A turn of the relay: what the broker has got is marked, and the next events of these shards come back, as far as the shards are still
-- the holder's. Losing what it wrote in a crash of the server means that some events are sent again: it does not wait for the disk.
-- What was sent is named by its shard, its number and its event's id: a server that came back without its last commits hands their numbers
-- out again, so an event that was never sent may have the number of one that was.
CREATE OR REPLACE FUNCTION api.relay_turn(holder text, shards smallint[], many int,
                                          sent_shards smallint[], sent bigint[], sent_events uuid[])
RETURNS TABLE (id bigint, topic text, key text, event_id uuid, source text, type text, subject text, "time" text,
               tenant_id bigint, aggregate_version bigint, correlation_id text, traceparent text, payload text, shard smallint)
LANGUAGE plpgsql SECURITY DEFINER SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    own  smallint[];
BEGIN
    IF cardinality(sent) > 0 THEN
        PERFORM set_config('synchronous_commit', 'off', true);
        PERFORM relay.mark(sent_shards, sent, sent_events);
    END IF;

    own := ARRAY(SELECT s.shard FROM event.relay_shard s
                  WHERE s.shard = ANY (shards) AND s.holder = relay_turn.holder AND s.until > clock_timestamp());

    RETURN QUERY
    SELECT o.id, o.topic, o.tenant_id || ':' || o.aggregate_id, o.event_id,
           '/tenants/' || o.tenant_id || '/' || o.aggregate, coalesce(t.ce_type, o.type), o.aggregate_id, domain.ts(o.created_at),
           o.tenant_id, o.aggregate_version, o.correlation_id, o.traceparent, o.payload, o.shard
      FROM relay.unsent(own, many) o
      LEFT JOIN domain.event_types() t ON t.type = o.type AND t.topic = o.topic
     ORDER BY o.id;
END
$$;

-- An event that the broker refuses for good (too large): buried, so that those behind it can go.
CREATE OR REPLACE FUNCTION api.relay_bury(shard smallint, id bigint, event_id uuid, error text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    e  event.outbox;
BEGIN
    SELECT * INTO e FROM relay.unsent(ARRAY[shard], 2000) o WHERE o.id = relay_bury.id AND o.event_id = relay_bury.event_id;
    IF FOUND THEN
        PERFORM domain.event_context(e.tenant_id, e.correlation_id, e.traceparent);
        PERFORM domain.event_bury('oversized', NULL, e.event_id::text,
                                  (e.event_id, e.tenant_id, e.topic, e.type, e.aggregate, e.aggregate_id, e.aggregate_version, NULL,
                                   e.correlation_id, e.traceparent, e.created_at)::event.message, e.payload, relay_bury.error, 1);
        PERFORM relay.mark(ARRAY[e.shard], ARRAY[e.id], ARRAY[e.event_id]);
    END IF;
END
$$;

-- What is left to be sent: for health and metrics.
CREATE OR REPLACE FUNCTION api.relay_lag(OUT events bigint, OUT oldest_ms bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET enable_seqscan = off SET enable_bitmapscan = off AS $$
BEGIN
    SELECT count(*), coalesce((extract(epoch FROM clock_timestamp() - min(u.created_at)) * 1000)::bigint, 0)
      INTO events, oldest_ms
      FROM event.relay_shard s
     CROSS JOIN LATERAL (SELECT x.created_at FROM event.unsent x WHERE x.shard = s.shard ORDER BY x.id LIMIT 1000) u;
END
$$;

-- ── with Kafka: consumers ────────────────────────────────────────────────────────────────────────────────────────────

-- The topics of the contract, and whether anybody here consumes from each.
CREATE OR REPLACE FUNCTION api.event_topics() RETURNS TABLE (topic text, consumed boolean)
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
BEGIN
    RETURN QUERY
    SELECT n.topic, EXISTS (SELECT FROM domain.event_types() t WHERE t.topic = n.topic AND t.consumers <> '{}')
      FROM unnest(domain.event_topics()) n (topic);
END
$$;

-- Records of one partition, in their order: [{"topic", "partition", "offset", "headers": {…}, "payload": JSON}], or with "fault"
-- (malformed, oversized), "error" and "raw" (base64) in place of the payload. Each is used once (inbox), buried when nobody can use it, and
-- stops the others when a consumer fails: the module comes again with the rest after retry_ms, one at a time until that one is done,
-- attempt counted from 1 for the first.
CREATE OR REPLACE FUNCTION api.event_consume(records jsonb, attempt int DEFAULT 1) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    ms     event.message[] := CASE WHEN attempt = 1 THEN domain.events_read(records) END;
    state  text;
BEGIN
    IF ms IS NULL THEN
        RETURN domain.event_consume_each(records, attempt);
    END IF;

    state := domain.events_deliver(ms);
    IF state = '57014' THEN         -- the time of this statement is over; who it was shows when they come one at a time
        RETURN domain.event_again(0, 0, state || ' the consumers took too long', true, 1);
    ELSIF state IS NOT NULL THEN
        RETURN domain.event_consume_each(records, attempt);
    END IF;
    RETURN (200, json_build_object('done', cardinality(ms), 'dead', 0)::text, NULL, NULL)::api.reply;
END
$$;

-- ── staff ────────────────────────────────────────────────────────────────────────────────────────────────────────────

-- M8, F13: events of a time range once more, those that are left of the outbox; dry_run: only how many there are.
CREATE OR REPLACE FUNCTION api.events_replay("from" timestamptz, "to" timestamptz DEFAULT NULL, types jsonb DEFAULT NULL,
                                             topics jsonb DEFAULT NULL, consumer text DEFAULT NULL, "limit" int DEFAULT 1000,
                                             dry_run boolean DEFAULT false)
RETURNS api.reply LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    till         timestamptz := coalesce("to", now());
    wanted       text[] := CASE WHEN types IS NOT NULL THEN ARRAY(SELECT jsonb_array_elements_text(types)) END;
    from_topics  text[] := CASE WHEN topics IS NOT NULL THEN ARRAY(SELECT jsonb_array_elements_text(topics)) END;
    done         record;
BEGIN
    PERFORM domain.need('events.write');
    IF consumer IS NOT NULL AND NOT EXISTS (SELECT FROM domain.event_types() t WHERE consumer = ANY (t.consumers)) THEN
        PERFORM domain.fail(422, 'unknown-consumer', 'There is no such consumer.', jsonb_build_object('consumers',
                    (SELECT jsonb_agg(DISTINCT c) FROM domain.event_types() t, unnest(t.consumers) c)));
    END IF;

    IF dry_run THEN
        RETURN (200, (SELECT json_build_object('events', coalesce(sum(r.events), 0), 'types', coalesce(json_agg(r ORDER BY r.type), '[]'))
                        FROM domain.events_replayable("from", till, wanted, from_topics) r)::text, NULL, NULL)::api.reply;
    END IF;

    SELECT * INTO done FROM domain.events_replay("from", till, wanted, from_topics, consumer, coalesce("limit", 1000));

    RETURN (202, json_build_object('events', done.events, 'more', done.next IS NOT NULL, 'next',
                to_char(done.next AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'))::text, NULL, NULL)::api.reply;
END
$$;

-- Messages that no consumer could use, newest first.
CREATE OR REPLACE FUNCTION api.dead_letters("limit" int DEFAULT 20, cursor jsonb DEFAULT NULL, reason text DEFAULT NULL,
                                            consumer text DEFAULT NULL, topic text DEFAULT NULL, type text DEFAULT NULL,
                                            redriven boolean DEFAULT NULL)
RETURNS api.reply LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
BEGIN
    PERFORM domain.need('events.read');

    RETURN domain.page_list('event.dead_letter', 'domain.dead_letter_json(r)', '{id}', true,
        domain.page_where(jsonb_build_object('reason', reason, 'consumer', consumer, 'topic', topic, 'type', type))
        || coalesce(' AND (r.redriven_at IS NOT NULL) = ' || quote_literal(redriven), ''), "limit", cursor);
END
$$;

-- Tries a dead letter again, at once: its effect and this row's end are one transaction. One that fails again stays.
CREATE OR REPLACE FUNCTION api.dead_letter_redrive(id bigint) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    d      event.dead_letter;
    error  text;
BEGIN
    PERFORM domain.need('events.write');

    SELECT * INTO d FROM event.dead_letter x WHERE x.tenant_id = domain.tenant_id() AND x.id = dead_letter_redrive.id FOR UPDATE;
    IF NOT FOUND THEN
        PERFORM domain.fail(404, 'not-found', 'There is no such dead letter.');
    END IF;
    IF d.redriven_at IS NOT NULL THEN
        RETURN (200, domain.dead_letter_json(d)::text, NULL, NULL)::api.reply;
    END IF;

    error := domain.dead_letter_redrive(d);
    IF error IS NOT NULL THEN
        RETURN domain.refuse(409, 'still-failing', 'The consumer failed again: ' || error);
    END IF;

    SELECT * INTO d FROM event.dead_letter x WHERE x.tenant_id = d.tenant_id AND x.id = dead_letter_redrive.id;
    RETURN (200, domain.dead_letter_json(d)::text, NULL, NULL)::api.reply;
END
$$;

-- The oldest dead letters of a consumer or a type, up to "limit".
CREATE OR REPLACE FUNCTION api.dead_letters_redrive(consumer text DEFAULT NULL, type text DEFAULT NULL, "limit" int DEFAULT 100)
RETURNS api.reply LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    d       event.dead_letter;
    done    int := 0;
    failed  int := 0;
BEGIN
    PERFORM domain.need('events.write');

    FOR d IN SELECT x.* FROM event.dead_letter x
              WHERE x.tenant_id = domain.tenant_id() AND x.redriven_at IS NULL AND x.reason IN ('failed', 'unknown-type')
                AND (dead_letters_redrive.consumer IS NULL OR x.consumer = dead_letters_redrive.consumer)
                AND (dead_letters_redrive.type IS NULL OR x.type = dead_letters_redrive.type)
              ORDER BY x.id
              LIMIT coalesce("limit", 100)
                FOR UPDATE SKIP LOCKED LOOP
        IF domain.dead_letter_redrive(d) IS NULL THEN
            done := done + 1;
        ELSE
            failed := failed + 1;
        END IF;
    END LOOP;

    RETURN (200, json_build_object('redriven', done, 'failed', failed)::text, NULL, NULL)::api.reply;
END
$$;
