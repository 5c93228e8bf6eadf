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

-- Writes an event into the outbox, in the transaction of the change. aggregate_version orders the events of one aggregate.
CREATE OR REPLACE FUNCTION domain.emit(topic text, type text, aggregate text, aggregate_id text, payload jsonb,
                                       aggregate_version bigint DEFAULT NULL) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO event.outbox (tenant_id, event_id, topic, type, aggregate, aggregate_id, aggregate_version, payload,
                              correlation_id, traceparent)
    VALUES (domain.tenant_id(), domain.uuid7(), emit.topic, emit.type, emit.aggregate, emit.aggregate_id,
            emit.aggregate_version, emit.payload, domain.correlation_id(), domain.traceparent());
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

-- The day partitions of the outbox from today on; returns how many were made. Safe to repeat.
CREATE OR REPLACE FUNCTION domain.outbox_partitions(days int DEFAULT 7) RETURNS int
LANGUAGE plpgsql AS $$
DECLARE
    day   date;
    made  int := 0;
BEGIN
    FOR i IN 0 .. days - 1 LOOP
        day := current_date + i;
        IF to_regclass(format('event.outbox_%s', to_char(day, 'YYYYMMDD'))) IS NULL
           AND NOT EXISTS (SELECT FROM event.outbox_default WHERE created_at >= day AND created_at < day + 1) THEN
            EXECUTE format('CREATE TABLE event.outbox_%s PARTITION OF event.outbox FOR VALUES FROM (%L) TO (%L)',
                           to_char(day, 'YYYYMMDD'), day, day + 1);
            EXECUTE format('CALL domain.isolate(%L)', 'event.outbox_' || to_char(day, 'YYYYMMDD'));
            made := made + 1;
        END IF;
    END LOOP;
    RETURN made;
END
$$;
