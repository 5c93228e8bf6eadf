-- The context of a request, as functions read it. domain.tenant_id() is in the foundation: policies depend on it.

-- Who asks, or NULL.
CREATE OR REPLACE FUNCTION domain.principal() RETURNS uuid
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT nullif(current_setting('commerce.principal', true), '')::uuid
$$;

-- Roles and permissions of the token; an owner has every permission (names with a dot).
CREATE OR REPLACE FUNCTION domain.has_role(role text) RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT strpos(' ' || coalesce(current_setting('commerce.roles', true), '') || ' ', ' ' || role || ' ') > 0
           OR (strpos(role, '.') > 0
               AND strpos(' ' || coalesce(current_setting('commerce.roles', true), '') || ' ', ' owner ') > 0)
$$;

CREATE OR REPLACE FUNCTION domain.correlation_id() RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT nullif(current_setting('commerce.correlation_id', true), '')
$$;

CREATE OR REPLACE FUNCTION domain.traceparent() RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT nullif(current_setting('commerce.traceparent', true), '')
$$;

-- Refuses: status and code of the problem document, a sentence for the client, further members. Does not return.
CREATE OR REPLACE FUNCTION domain.fail(status int, code text, detail text, extra jsonb DEFAULT NULL) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING
        ERRCODE = 'SH' || status,
        MESSAGE = detail,
        DETAIL = (jsonb_build_object('code', code) || coalesce(extra, '{}'))::text;
END
$$;

-- The relay's unit of order: all events of an aggregate are in one shard.
CREATE OR REPLACE FUNCTION domain.shard(aggregate_id text) RETURNS smallint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT abs(hashtext(aggregate_id) % 16)::smallint
$$;

-- Writes an event into the outbox, in the transaction of the change. aggregate_version orders the events of one aggregate.
CREATE OR REPLACE FUNCTION domain.emit(topic text, type text, aggregate text, aggregate_id text, payload jsonb,
                                       aggregate_version bigint DEFAULT NULL) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO event.outbox (tenant_id, event_id, topic, type, aggregate, aggregate_id, aggregate_version, payload,
                              correlation_id, traceparent, shard)
    VALUES (domain.tenant_id(), domain.uuid7(), emit.topic, emit.type, emit.aggregate, emit.aggregate_id,
            emit.aggregate_version, emit.payload::text, domain.correlation_id(), domain.traceparent(),
            domain.shard(emit.aggregate_id));
END
$$;

-- UUIDv7 (RFC 9562) of now, for rows that no request has brought an id for.
CREATE OR REPLACE FUNCTION domain.uuid7() RETURNS uuid
LANGUAGE sql VOLATILE PARALLEL SAFE AS $$
    -- a random UUIDv4 has the variant already: time goes over the first 48 bits, 7 over the version
    SELECT encode(set_byte(overlay(uuid_send(gen_random_uuid())
                                   PLACING substring(int8send((extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3)
                                   FROM 1 FOR 6),
                           6, (get_byte(uuid_send(gen_random_uuid()), 6) & 15) | 112), 'hex')::uuid
$$;

-- {"amount": 1999, "currency": "EUR"}
CREATE OR REPLACE FUNCTION domain.money(amount bigint, currency text) RETURNS json
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT ('{"amount":' || amount || ',"currency":"' || currency || '"}')::json
$$;

-- RFC 3339, UTC, milliseconds.
CREATE OR REPLACE FUNCTION domain.ts(t timestamptz) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT to_char(t AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
$$;

-- Makes the outbox's day partitions (UTC), from today on and for every day of which events lie in the default partition: those are
-- moved, so that each event is in the partition of its day, which goes as a whole when all of it was sent. Returns how many were
-- made. Safe to repeat; a day whose tables are busy for longer than the lock timeout is left to the next round. Only the default
-- partition is locked for others, and new days are made before they begin: who writes an event does not wait. Who claims events waits while
-- some are moved: with a snapshot of before, it would find neither the old row nor the new one, and send what is behind it.
CREATE OR REPLACE FUNCTION domain.outbox_partitions(days int DEFAULT 7) RETURNS int
LANGUAGE plpgsql SET timezone = 'UTC' SET lock_timeout = '2s' AS $$
DECLARE
    own    text := current_setting('commerce.tenant_id', true);
    day    date;
    name   text;
    one    bigint;
    early  boolean;
    made   int := 0;
BEGIN
    PERFORM set_config('commerce.sweep', 'outbox', true);

    FOR day IN SELECT current_date + i FROM generate_series(0, days - 1) i
                UNION SELECT DISTINCT o.created_at::date FROM event.outbox_default o ORDER BY 1 LOOP
        name := 'event.outbox_' || to_char(day, 'YYYYMMDD');
        CONTINUE WHEN to_regclass(name) IS NOT NULL;
        BEGIN
            LOCK TABLE ONLY event.outbox IN SHARE UPDATE EXCLUSIVE MODE;
            EXECUTE format('CREATE TABLE %s (LIKE event.outbox INCLUDING DEFAULTS)', name);

            -- what a claim reads first: the other way round each would wait for the other
            early := EXISTS (SELECT FROM event.outbox_default o WHERE o.created_at >= day AND o.created_at < day + 1);
            IF early THEN
                LOCK TABLE event.relay_shard IN ACCESS EXCLUSIVE MODE;
            END IF;
            LOCK TABLE event.outbox_default IN ACCESS EXCLUSIVE MODE;
            IF NOT early AND EXISTS (SELECT FROM event.outbox_default o WHERE o.created_at >= day AND o.created_at < day + 1) THEN
                RAISE lock_not_available;
            END IF;

            FOR one IN SELECT DISTINCT o.tenant_id FROM event.outbox_default o WHERE o.created_at >= day AND o.created_at < day + 1 LOOP
                PERFORM set_config('commerce.tenant_id', one::text, true);
                EXECUTE format('WITH early AS (DELETE FROM event.outbox_default o WHERE o.tenant_id = $1 AND o.created_at >= $2 '
                               'AND o.created_at < $3 RETURNING o.*) INSERT INTO %s SELECT * FROM early', name)
                  USING one, day::timestamptz, (day + 1)::timestamptz;
            END LOOP;

            EXECUTE format('CALL domain.isolate(%L)', name);
            EXECUTE format('ALTER TABLE event.outbox ATTACH PARTITION %s FOR VALUES FROM (%L) TO (%L)', name,
                           day::timestamptz, (day + 1)::timestamptz);
            made := made + 1;
        EXCEPTION
            WHEN lock_not_available OR duplicate_table THEN     -- the next round; another node
                NULL;
        END;
    END LOOP;

    PERFORM set_config('commerce.sweep', '', true), set_config('commerce.tenant_id', coalesce(own, ''), true);
    RETURN made;
END
$$;

-- A refusal that keeps what was written: the reply to return where domain.fail() would undo it.
CREATE OR REPLACE FUNCTION domain.refuse(status int, code text, detail text, extra jsonb DEFAULT NULL) RETURNS api.reply
LANGUAGE sql AS $$
    SELECT (status, (coalesce(extra, '{}') || jsonb_build_object('code', code, 'detail', detail))::text, NULL, NULL)::api.reply
$$;
