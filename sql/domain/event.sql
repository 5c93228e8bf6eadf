-- Events and their consumers: one row in the inbox and the consumer's effect, in one transaction. What api/asyncapi.yaml says of types
-- is in event_routes.sql.

-- The consumers of a type that comes by a topic; NULL: the topic has no such type.
CREATE OR REPLACE FUNCTION domain.event_consumers(topic text, type text) RETURNS text[]
LANGUAGE plpgsql STABLE AS $$
DECLARE
    found  text[];
BEGIN
    SELECT t.consumers INTO found FROM domain.event_types() t WHERE t.topic = event_consumers.topic AND t.type = event_consumers.type;
    RETURN found;
END
$$;

-- The type as others see it.
CREATE OR REPLACE FUNCTION domain.event_ce_type(type text) RETURNS text
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (SELECT t.ce_type FROM domain.event_types() t WHERE t.type = event_ce_type.type);
END
$$;

-- The context that a consumer runs in: the event's tenant and trace, nobody's rights.
CREATE OR REPLACE FUNCTION domain.event_context(tenant bigint, correlation_id text, traceparent text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('commerce.tenant_id', coalesce(tenant::text, ''), true),
            set_config('commerce.principal', '', true), set_config('commerce.roles', '', true),
            set_config('commerce.correlation_id', coalesce(correlation_id, ''), true),
            set_config('commerce.traceparent', coalesce(traceparent, ''), true),
            set_config('commerce.actor', '', true), set_config('commerce.operation', '', true);
END
$$;

-- The consumers of a type that want it now, in the context of their tenant. An event that nobody wants when it comes leaves no trace.
CREATE OR REPLACE FUNCTION domain.event_takers(topic text, type text) RETURNS text[]
LANGUAGE plpgsql STABLE AS $$
DECLARE
    one    text;
    found  text[] := '{}';
BEGIN
    FOREACH one IN ARRAY coalesce(domain.event_consumers(topic, type), '{}') LOOP
        IF domain.event_wanted(one, type) THEN
            found := found || one;
        END IF;
    END LOOP;
    RETURN found;
END
$$;

-- Lets the consumers of many events have them, each once, in their order: the common case, where nothing goes wrong with any of them. The
-- inbox is written by one statement for a tenant, and each consumer has all of its events in turn. NULL: they have them. Else why not, as SQLSTATE: nothing was done then, and the events
-- are for event_deliver(), one by one.
CREATE OR REPLACE FUNCTION domain.events_deliver(ms event.message[]) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    tenant  bigint;
    taken   record;
BEGIN
    FOR tenant IN SELECT DISTINCT u.tenant_id FROM unnest(ms) u LOOP
        PERFORM domain.event_context(tenant, NULL, NULL);
        IF NOT EXISTS (SELECT FROM shop.tenant t WHERE t.id = tenant) THEN
            RAISE EXCEPTION USING ERRCODE = 'no_data_found';
        END IF;

        DELETE FROM event.retry r WHERE r.tenant_id = tenant AND r.event_id IN (SELECT u.id FROM unnest(ms) u WHERE u.tenant_id = tenant);

        FOR taken IN
            WITH once AS MATERIALIZED (
                SELECT u.id, u.topic, u.type, min(u.n)::int AS n
                  FROM unnest(ms) WITH ORDINALITY u (id, tenant_id, topic, type, aggregate, aggregate_id, aggregate_version, payload,
                                                     correlation_id, traceparent, created_at, n)
                 WHERE u.tenant_id = tenant
                 GROUP BY 1, 2, 3
            ), taker AS MATERIALIZED (
                SELECT k.topic, k.type, c.consumer
                  FROM (SELECT DISTINCT o.topic, o.type FROM once o) k
                 CROSS JOIN unnest(domain.event_takers(k.topic, k.type)) c (consumer)
            ), fresh AS (
                INSERT INTO event.inbox AS i (tenant_id, consumer, event_id)
                SELECT tenant, t.consumer, o.id
                  FROM once o JOIN taker t USING (topic, type)
                 ORDER BY o.n, t.consumer
                    ON CONFLICT DO NOTHING
                RETURNING i.consumer, i.event_id
            )
            -- of an id under two types a consumer of both has the first
            SELECT x.consumer, array_agg(ms[x.n] ORDER BY x.n) AS events
              FROM (SELECT f.consumer, min(o.n) AS n
                      FROM fresh f JOIN once o ON o.id = f.event_id JOIN taker t ON (t.topic, t.type, t.consumer) = (o.topic, o.type, f.consumer)
                     GROUP BY f.event_id, f.consumer) x
             GROUP BY x.consumer
             ORDER BY min(x.n), x.consumer
        LOOP
            PERFORM domain.event_dispatch_many(taken.consumer, taken.events);
        END LOOP;
    END LOOP;
    RETURN NULL;
EXCEPTION WHEN query_canceled OR others THEN
    RETURN SQLSTATE;
END
$$;

-- Lets a consumer have an event, once, if it wants it. error: why it could not, NULL when it has it. transient: the failure is the
-- database's, not the event's, and does not count. What a consumer that fails had written is undone.
CREATE OR REPLACE FUNCTION domain.event_deliver(consumer text, m event.message, OUT error text, OUT transient boolean)
LANGUAGE plpgsql AS $$
DECLARE
    state    text;
    message  text;
BEGIN
    IF NOT domain.event_wanted(event_deliver.consumer, m.type) THEN
        RETURN;
    END IF;

    INSERT INTO event.inbox (tenant_id, consumer, event_id)
    VALUES (m.tenant_id, event_deliver.consumer, m.id)
        ON CONFLICT DO NOTHING;
    IF FOUND THEN
        PERFORM domain.event_dispatch(event_deliver.consumer, m);
    END IF;
EXCEPTION WHEN query_canceled OR others THEN
    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT;
    error := state || ' ' || left(message, 1000);
    transient := domain.event_transient(state);
END
$$;

-- Whether a failure is that of the database: locks, deadlocks, space, shutdown.
CREATE OR REPLACE FUNCTION domain.event_transient(state text) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
    SELECT left(state, 2) IN ('08', '25', '40', '53', '55', '57', '58')
$$;

-- After so many failures an event is given up. ALTER DATABASE … SET commerce.event_attempts
CREATE OR REPLACE FUNCTION domain.event_attempts() RETURNS int
LANGUAGE sql STABLE AS $$
    SELECT coalesce(nullif(current_setting('commerce.event_attempts', true), '')::int, 8)
$$;

-- How long to wait after a failure: 1 s (ALTER DATABASE … SET commerce.event_backoff), doubled each time up to a minute, give or take a quarter.
CREATE OR REPLACE FUNCTION domain.event_backoff(attempts int) RETURNS interval
LANGUAGE sql VOLATILE AS $$
    SELECT least(coalesce(nullif(current_setting('commerce.event_backoff', true), '')::interval, interval '1 second')
                 * (1 << least(attempts - 1, 16)), interval '1 minute') * (0.75 + random() / 2)
$$;

-- Keeps a message that nobody could use, where staff sees it and under the topic dead-letters. In the context of its tenant.
CREATE OR REPLACE FUNCTION domain.event_bury(reason text, consumer text, key text, m event.message, payload text, error text, attempts int)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    tenant   bigint := coalesce(m.tenant_id, 0);
    shown    text := left(payload, 65536);
BEGIN
    INSERT INTO event.dead_letter AS d (tenant_id, reason, consumer, key, topic, type, event_id, aggregate, aggregate_id, aggregate_version,
                                        payload, correlation_id, traceparent, occurred_at, error, attempts)
    VALUES (tenant, event_bury.reason, coalesce(event_bury.consumer, ''), event_bury.key, m.topic, m.type, m.id, m.aggregate,
            m.aggregate_id, m.aggregate_version, shown, m.correlation_id, m.traceparent, m.created_at, event_bury.error,
            event_bury.attempts)
        ON CONFLICT ON CONSTRAINT dead_letter_tenant_id_consumer_key_key DO UPDATE
       SET error = excluded.error, attempts = d.attempts + excluded.attempts, updated_at = now(), redriven_at = NULL;

    PERFORM domain.emit('dead-letters', 'DeadLettered', 'dead-letter', event_bury.key, jsonb_build_object(
                            'reason', event_bury.reason, 'consumer', event_bury.consumer, 'topic', m.topic, 'type', m.type,
                            'event_id', m.id, 'error', event_bury.error, 'payload', shown, 'timestamp', domain.ts(now())));
END
$$;

-- Records of a partition as messages, where all of them are whole; else NULL.
CREATE OR REPLACE FUNCTION domain.events_read(records jsonb) RETURNS event.message[]
LANGUAGE plpgsql STABLE AS $$
DECLARE
    found  event.message[];
    whole  boolean;
BEGIN
    SELECT array_agg((x.id, x.tenant_id, x.topic, x.type, x.aggregate, x.aggregate_id, x.aggregate_version, x.payload, x.correlation_id,
                      x.traceparent, x.created_at)::event.message ORDER BY x.n),
           bool_and(x.fault IS NULL AND x.id IS NOT NULL AND x.tenant_id IS NOT NULL AND x.type IS NOT NULL AND x.aggregate_id IS NOT NULL)
      INTO found, whole
      FROM (SELECT r.n, r.value ->> 'fault' AS fault, (h ->> 'ce_id')::uuid AS id, (h ->> 'ce_tenantid')::bigint AS tenant_id,
                   r.value ->> 'topic' AS topic, t.type, nullif(split_part(h ->> 'ce_source', '/', 4), '') AS aggregate,
                   h ->> 'ce_subject' AS aggregate_id, (h ->> 'ce_aggregateversion')::bigint AS aggregate_version,
                   r.value -> 'payload' AS payload, h ->> 'ce_correlationid' AS correlation_id,
                   coalesce(h ->> 'ce_traceparent', h ->> 'traceparent') AS traceparent, (h ->> 'ce_time')::timestamptz AS created_at
              FROM jsonb_array_elements(records) WITH ORDINALITY r (value, n)
             CROSS JOIN LATERAL (SELECT r.value -> 'headers' AS h) y
              LEFT JOIN domain.event_types() t ON t.topic = r.value ->> 'topic' AND t.ce_type = h ->> 'ce_type') x;
    RETURN CASE WHEN whole THEN found END;
EXCEPTION WHEN data_exception THEN
    RETURN NULL;
END
$$;

-- Without Kafka, when something is the matter with one of the next events: each by itself, as long as two seconds. seen: how many were
-- looked at; sent: those that all of their consumers have had or that were buried.
CREATE OR REPLACE FUNCTION domain.events_feed_each(shards smallint[], share int, batch int, OUT sent event.unsent[],
                                                   OUT seen int, OUT failed int, OUT dead int)
LANGUAGE plpgsql AS $$
DECLARE
    began    timestamptz := clock_timestamp();
    waiting  text[] := '{}';
    e        event.outbox;
    m        event.message;
    one      text;
    done     boolean;
    tried    record;
    given    int;
BEGIN
    sent := '{}';
    seen := 0;
    failed := 0;
    dead := 0;

    FOR e IN SELECT * FROM relay.unsent_ready(shards, share) o ORDER BY o.id LIMIT batch LOOP
        EXIT WHEN clock_timestamp() > began + interval '2 seconds';
        seen := seen + 1;
        CONTINUE WHEN e.tenant_id || ' ' || e.aggregate_id = ANY (waiting);

        PERFORM domain.event_context(e.tenant_id, e.correlation_id, e.traceparent);
        m := (e.event_id, e.tenant_id, e.topic, e.type, e.aggregate, e.aggregate_id, e.aggregate_version, e.payload::jsonb,
              e.correlation_id, e.traceparent, e.created_at)::event.message;
        done := true;

        FOREACH one IN ARRAY coalesce(domain.event_consumers(e.topic, e.type), '{}') LOOP
            SELECT * INTO tried FROM domain.event_deliver(one, m);
            IF tried.error IS NULL THEN
                DELETE FROM event.retry r WHERE r.tenant_id = e.tenant_id AND r.consumer = one AND r.event_id = e.event_id;
                CONTINUE;
            END IF;

            failed := failed + 1;
            INSERT INTO event.retry AS r (tenant_id, consumer, event_id, aggregate_id, attempts, next_at, error)
            VALUES (e.tenant_id, one, e.event_id, e.aggregate_id, 1, clock_timestamp() + domain.event_backoff(1), tried.error)
                ON CONFLICT ON CONSTRAINT retry_pkey DO UPDATE
               SET attempts = r.attempts + 1, error = excluded.error,
                   next_at = clock_timestamp() + domain.event_backoff(r.attempts + 1)
            RETURNING r.attempts INTO given;

            IF tried.transient OR given < domain.event_attempts() THEN
                done := false;
            ELSE
                PERFORM domain.event_bury('failed', one, e.event_id::text, m, e.payload, tried.error, given);
                DELETE FROM event.retry r WHERE r.tenant_id = e.tenant_id AND r.consumer = one AND r.event_id = e.event_id;
                dead := dead + 1;
            END IF;
        END LOOP;

        IF done THEN
            sent := sent || (e.shard, e.id, e.created_at, e.event_id)::event.unsent;
        ELSE
            waiting := waiting || (e.tenant_id || ' ' || e.aggregate_id);
        END IF;
    END LOOP;
END
$$;

-- The answer to records of which so many are done, and that a consumer's failure has stopped.
CREATE OR REPLACE FUNCTION domain.event_again(done int, dead int, error text, transient boolean, attempt int) RETURNS api.reply
LANGUAGE sql VOLATILE AS $$
    SELECT (200, json_build_object('done', done, 'dead', dead, 'error', error, 'transient', transient, 'retry_ms',
                     (extract(epoch FROM domain.event_backoff(attempt)) * 1000)::int)::text, NULL, NULL)::api.reply
$$;

-- api.event_consume(), record by record.
CREATE OR REPLACE FUNCTION domain.event_consume_each(records jsonb, attempt int) RETURNS api.reply
LANGUAGE plpgsql AS $$
DECLARE
    record_  jsonb;
    h        jsonb;
    m        event.message;
    names    text[];
    one      text;
    place    text;
    fault    text;
    error    text;
    tried    record;
    n        int := 0;
    buried   int := 0;
    given    int;
BEGIN
    FOR record_ IN SELECT value FROM jsonb_array_elements(records) LOOP
        h := coalesce(record_ -> 'headers', '{}');
        place := concat_ws('/', record_ ->> 'topic', record_ ->> 'partition', record_ ->> 'offset');
        given := CASE WHEN n = 0 THEN attempt ELSE 1 END;
        fault := record_ ->> 'fault';
        error := record_ ->> 'error';
        names := NULL;

        m := NULL;
        m.topic := record_ ->> 'topic';
        BEGIN
            -- what can be read of it is kept, whatever else is wrong
            m.type := h ->> 'ce_type';
            m.tenant_id := (h ->> 'ce_tenantid')::bigint;
            m.id := (h ->> 'ce_id')::uuid;
            m.aggregate := nullif(split_part(h ->> 'ce_source', '/', 4), '');
            m.aggregate_id := h ->> 'ce_subject';
            m.aggregate_version := (h ->> 'ce_aggregateversion')::bigint;
            m.created_at := (h ->> 'ce_time')::timestamptz;
            m.correlation_id := h ->> 'ce_correlationid';
            m.traceparent := coalesce(h ->> 'ce_traceparent', h ->> 'traceparent');
            m.payload := record_ -> 'payload';
        EXCEPTION WHEN data_exception THEN
            fault := coalesce(fault, 'malformed');
            error := coalesce(error, 'a header ce_… does not fit: ' || SQLERRM);
        END;

        IF fault IS NULL AND (m.id IS NULL OR m.tenant_id IS NULL OR m.type IS NULL OR m.aggregate_id IS NULL) THEN
            fault := 'malformed';
            error := 'the headers ce_id, ce_tenantid, ce_type and ce_subject are needed';
        END IF;
        IF fault IS NULL THEN
            SELECT t.type, t.consumers INTO one, names FROM domain.event_types() t WHERE t.topic = m.topic AND t.ce_type = m.type;
            IF names IS NULL THEN
                fault := 'unknown-type';
                error := format('api/asyncapi.yaml has no %s under %s', m.type, m.topic);
            ELSE
                m.type := one;
            END IF;
        END IF;

        PERFORM domain.event_context(coalesce(m.tenant_id, 0), m.correlation_id, m.traceparent);
        IF NOT EXISTS (SELECT FROM shop.tenant t WHERE t.id = m.tenant_id) THEN
            fault := coalesce(fault, 'unknown-tenant');
            error := coalesce(error, 'there is no tenant ' || coalesce(m.tenant_id::text, 'of this message'));
            m.tenant_id := 0;
            PERFORM domain.event_context(0, m.correlation_id, m.traceparent);
        END IF;

        IF fault IS NOT NULL THEN
            PERFORM domain.event_bury(fault, NULL, place, m, coalesce(record_ ->> 'payload', domain.event_raw(record_ ->> 'raw')), error, 1);
            buried := buried + 1;
        ELSE
            FOREACH one IN ARRAY names LOOP
                SELECT * INTO tried FROM domain.event_deliver(one, m);
                CONTINUE WHEN tried.error IS NULL;

                IF tried.transient OR given < domain.event_attempts() THEN
                    RETURN domain.event_again(n, buried, tried.error, tried.transient, given);
                END IF;
                PERFORM domain.event_bury('failed', one, m.id::text, m, m.payload::text, tried.error, given);
                buried := buried + 1;
            END LOOP;
        END IF;
        n := n + 1;
    END LOOP;

    RETURN (200, json_build_object('done', n, 'dead', buried)::text, NULL, NULL)::api.reply;
END
$$;

-- How many events of each type a replay would send.
CREATE OR REPLACE FUNCTION domain.events_replayable(since timestamptz, until timestamptz, types text[], topics text[])
RETURNS TABLE (type text, events bigint) LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN QUERY EXECUTE
        'SELECT o.type, count(*)
           FROM event.outbox o
          WHERE o.tenant_id = domain.tenant_id() AND o.created_at >= $1 AND o.created_at < $2
            AND NOT EXISTS (SELECT FROM event.unsent u WHERE u.shard = o.shard AND u.id = o.id)
            AND ($3 IS NULL OR o.type = ANY ($3)) AND ($4 IS NULL OR o.topic = ANY ($4))
          GROUP BY o.type'
        USING since, until, types, topics;
END
$$;

-- Sends events of a time anew, in the context of their tenant. A consumer that is named gets them as if it never had; others know what they
-- had. next: where the next call begins, when there are more than "many".
CREATE OR REPLACE FUNCTION domain.events_replay(since timestamptz, until timestamptz, types text[], topics text[], consumer text, many int,
                                                OUT events int, OUT next timestamptz)
LANGUAGE plpgsql AS $$
DECLARE
    which   event.unsent[];
BEGIN
    -- planned for the time at hand: other days are not looked at
    EXECUTE 'SELECT array_agg((x.shard, x.id, x.created_at, x.event_id)::event.unsent ORDER BY x.created_at, x.id)
               FROM (SELECT o.shard, o.id, o.created_at, o.event_id
                       FROM event.outbox o
                      WHERE o.tenant_id = domain.tenant_id() AND o.created_at >= $1 AND o.created_at < $2
                        AND NOT EXISTS (SELECT FROM event.unsent u WHERE u.shard = o.shard AND u.id = o.id)
                        AND ($3 IS NULL OR o.type = ANY ($3)) AND ($4 IS NULL OR o.topic = ANY ($4))
                      ORDER BY o.created_at, o.id
                      LIMIT $5 + 1) x'
       INTO which
      USING since, until, types, topics, many;

    -- events of one transaction have one time: those that are on their way already are not taken again
    next := which[many + 1].created_at;
    which := which[:many];
    events := coalesce(cardinality(which), 0);

    IF events_replay.consumer IS NOT NULL THEN
        DELETE FROM event.inbox i
         WHERE i.tenant_id = domain.tenant_id() AND i.consumer = events_replay.consumer
           AND i.event_id IN (SELECT w.event_id FROM unnest(which) w);
    END IF;

    INSERT INTO event.unsent SELECT w.* FROM unnest(which) w ON CONFLICT DO NOTHING;
END
$$;

-- Days of the outbox that are over for so long (commerce.outbox_days, else 7), if all of their events were sent: dropped whole. Returns how many.
CREATE OR REPLACE FUNCTION domain.outbox_drop(days int DEFAULT NULL) RETURNS int
LANGUAGE plpgsql SET timezone = 'UTC' SET lock_timeout = '100ms' AS $$
DECLARE
    keep   int := coalesce(days, nullif(current_setting('commerce.outbox_days', true), '')::int, 7);
    old    record;
    gone   int := 0;
BEGIN
    FOR old IN
        SELECT c.oid::regclass AS name, to_date(right(c.relname, 8), 'YYYYMMDD') AS day
          FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
         WHERE i.inhparent = 'event.outbox'::regclass AND c.relname ~ '^outbox_[0-9]{8}$'
         ORDER BY 2
    LOOP
        EXIT WHEN old.day >= current_date - keep;
        CONTINUE WHEN NOT relay.all_sent(old.day::timestamptz, (old.day + 1)::timestamptz);
        BEGIN
            -- who writes an event of today waits behind this lock, so it is not waited for long
            LOCK TABLE event.outbox IN ACCESS EXCLUSIVE MODE;
            -- none was taken out again for a replay in the meantime
            IF relay.all_sent(old.day::timestamptz, (old.day + 1)::timestamptz) THEN
                EXECUTE format('DROP TABLE %s', old.name);
                gone := gone + 1;
            END IF;
        EXCEPTION WHEN lock_not_available THEN      -- the next round
            EXIT;
        END;
    END LOOP;
    RETURN gone;
END
$$;

-- What consumers had is forgotten after twice as long as an event can come again, dead letters that were redriven after 30 days.
CREATE OR REPLACE FUNCTION domain.inbox_sweep(batch int) RETURNS int
LANGUAGE plpgsql AS $$
DECLARE
    tenant  bigint := domain.tenant_id();
    before  timestamptz := now() - make_interval(days => 2 * coalesce(nullif(current_setting('commerce.outbox_days', true), '')::int, 7));
    -- ids of events are of their time (UUIDv7): the key finds the old ones
    below   uuid := rpad(lpad(to_hex((extract(epoch FROM before) * 1000)::bigint), 12, '0'), 32, '0')::uuid;
    one     text;
    n       int;
    done    int := 0;
BEGIN
    FOR one IN SELECT DISTINCT unnest(t.consumers) FROM domain.event_types() t LOOP
        DELETE FROM event.inbox i
         WHERE i.tenant_id = tenant AND i.consumer = one
           AND i.event_id IN (SELECT x.event_id FROM event.inbox x
                               WHERE x.tenant_id = tenant AND x.consumer = one AND x.event_id < below AND x.created_at < before
                               LIMIT batch);
        GET DIAGNOSTICS n = ROW_COUNT;
        done := done + n;
    END LOOP;

    DELETE FROM event.dead_letter d WHERE d.tenant_id = tenant AND d.redriven_at < now() - interval '30 days';
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN done + n;
END
$$;

-- Bytes that came base64-encoded as text where they are text.
CREATE OR REPLACE FUNCTION domain.event_raw(raw text) RETURNS text
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN convert_from(decode(raw, 'base64'), 'UTF8');
EXCEPTION WHEN data_exception OR untranslatable_character THEN
    RETURN 'base64:' || raw;
END
$$;

-- A dead letter as staff sees it.
CREATE OR REPLACE FUNCTION domain.dead_letter_json(d event.dead_letter) RETURNS json
LANGUAGE sql STABLE AS $$
    SELECT json_build_object('id', d.id, 'reason', d.reason, 'consumer', nullif(d.consumer, ''), 'topic', d.topic, 'type', d.type,
                             'event_id', d.event_id, 'aggregate', d.aggregate, 'aggregate_id', d.aggregate_id, 'payload', d.payload,
                             'error', d.error, 'attempts', d.attempts, 'correlation_id', d.correlation_id,
                             'occurred_at', domain.ts(d.occurred_at), 'created_at', domain.ts(d.created_at),
                             'updated_at', domain.ts(d.updated_at), 'redriven_at', domain.ts(d.redriven_at))
$$;

-- Lets the consumer (all of the type, when the type was not known) have a dead letter's event again; why it could not, or NULL. The row is the caller's, locked.
CREATE OR REPLACE FUNCTION domain.dead_letter_redrive(d event.dead_letter) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    was    text[] := ARRAY['tenant_id', 'principal', 'roles', 'correlation_id', 'traceparent', 'actor', 'operation'];
    kept   text[] := ARRAY(SELECT coalesce(current_setting('commerce.' || w, true), '') FROM unnest(was) WITH ORDINALITY u (w, n) ORDER BY n);
    m      event.message;
    names  text[];
    named  text;
    one    text;
    tried  record;
    said   text;
BEGIN
    IF d.reason NOT IN ('failed', 'unknown-type') THEN
        RETURN 'a message that is ' || d.reason || ' stays so';
    END IF;

    SELECT t.type, t.consumers INTO named, names
      FROM domain.event_types() t WHERE t.topic = d.topic AND d.type IN (t.type, t.ce_type);
    IF names IS NULL THEN
        RETURN format('api/asyncapi.yaml has no %s under %s', d.type, d.topic);
    END IF;
    IF d.consumer <> '' THEN
        names := ARRAY[d.consumer];
    END IF;

    m := (d.event_id, d.tenant_id, d.topic, named, d.aggregate, d.aggregate_id, d.aggregate_version, d.payload::jsonb, d.correlation_id,
          d.traceparent, d.occurred_at)::event.message;
    PERFORM domain.event_context(d.tenant_id, d.correlation_id, d.traceparent);
    FOREACH one IN ARRAY names LOOP
        SELECT * INTO tried FROM domain.event_deliver(one, m);
        said := coalesce(said, tried.error);
    END LOOP;
    PERFORM set_config('commerce.' || was[n], kept[n], true) FROM generate_subscripts(was, 1) n;

    UPDATE event.dead_letter x
       SET attempts = x.attempts + 1, error = coalesce(said, x.error), updated_at = now(), redriven_at = CASE WHEN said IS NULL THEN now() END
     WHERE x.tenant_id = d.tenant_id AND x.id = d.id;
    RETURN said;
END
$$;
