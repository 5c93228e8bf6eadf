CREATE TABLE IF NOT EXISTS shop.probe_call (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant    text,
    tag       text,
    status    int,
    body      text,
    error     text,
    ms        int,
    called    text
);
ALTER TABLE shop.probe_call OWNER TO commerce_owner;

CREATE OR REPLACE FUNCTION api.probe_fetch(edge jsonb, status int) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO shop.probe_call (tenant, tag) VALUES (domain.tenant_id()::text, 'begun');
    RETURN (status, '{"state":"pending"}', NULL, edge::json)::api.reply;
END
$$;

CREATE OR REPLACE FUNCTION api.probe_fetched(fetch_status int, fetch_body text, fetch_error text, fetch_ms int,
                                             tag text DEFAULT NULL, next jsonb DEFAULT NULL) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO shop.probe_call (tenant, tag, status, body, error, ms, called)
    VALUES (domain.tenant_id()::text, tag, fetch_status, left(fetch_body, 1000), fetch_error, fetch_ms,
            concat_ws(' ', domain.principal(), current_setting('commerce.operation', true), domain.correlation_id()));
    RETURN (200, jsonb_build_object('status', fetch_status, 'body', left(fetch_body, 4000), 'length', length(fetch_body),
                                    'error', fetch_error, 'tag', tag)::text,
            '{"X-Told": "yes"}', next::json)::api.reply;
END
$$;

CREATE OR REPLACE FUNCTION api.probe_refused(fetch_status int, fetch_body text, fetch_error text, fetch_ms int) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    PERFORM domain.fail(402, 'payment-declined', 'No.');
END
$$;

CREATE OR REPLACE FUNCTION api.probe_faulty(fetch_status int, fetch_body text, fetch_error text, fetch_ms int) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    RETURN (1 / 0, NULL, NULL, NULL)::api.reply;
END
$$;

CREATE OR REPLACE FUNCTION api.probe_seal(value text) RETURNS api.reply
LANGUAGE sql SECURITY DEFINER AS $$
    SELECT (200, json_build_object('sealed', value)::text, NULL, NULL)::api.reply
$$;

-- a job: rows that wait become calls, claimed by one round each; what is not told for a minute, longer than a call may take, is claimed again
CREATE TABLE IF NOT EXISTS shop.probe_work (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant  bigint NOT NULL,
    edge    jsonb NOT NULL,
    mail    boolean NOT NULL DEFAULT false,
    taken   int NOT NULL DEFAULT 0,
    since   timestamptz
);
ALTER TABLE shop.probe_work OWNER TO commerce_owner;
CREATE TABLE IF NOT EXISTS shop.probe_round (at timestamptz DEFAULT clock_timestamp(), claimed int);
ALTER TABLE shop.probe_round OWNER TO commerce_owner;

CREATE OR REPLACE FUNCTION api.probe_job(batch int) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    calls  jsonb;
    mails  jsonb;
    n      int;
BEGIN
    WITH taken AS (
        UPDATE shop.probe_work w SET taken = w.taken + 1, since = clock_timestamp()
         WHERE w.id IN (SELECT o.id FROM shop.probe_work o
                         WHERE o.taken = 0
                            OR (o.since < clock_timestamp() - interval '1 minute'
                                AND NOT EXISTS (SELECT FROM shop.probe_call c WHERE c.tag = 'work-' || o.id))
                         ORDER BY o.id LIMIT batch FOR UPDATE SKIP LOCKED)
        RETURNING w.*)
    SELECT jsonb_agg(t.edge || jsonb_build_object('tenant_id', t.tenant, 'correlation_id', 'job-' || t.id)) FILTER (WHERE NOT t.mail),
           jsonb_agg(t.edge || jsonb_build_object('tenant_id', t.tenant)) FILTER (WHERE t.mail), count(*)
      INTO calls, mails, n
      FROM taken t;
    INSERT INTO shop.probe_round (claimed) VALUES (n);
    RETURN (200, jsonb_build_object('more', n = batch)::text, NULL,
            jsonb_strip_nulls(jsonb_build_object('fetch', calls, 'mail', mails))::json)::api.reply;
END
$$;

CREATE OR REPLACE FUNCTION api.probe_job_told(work bigint, fetch_status int, fetch_body text, fetch_error text, fetch_ms int)
RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO shop.probe_call (tenant, tag, status, body, error, ms, called)
    VALUES (domain.tenant_id()::text, 'work-' || work, fetch_status, fetch_body, fetch_error, fetch_ms, domain.correlation_id());
    RETURN (200, NULL, NULL, NULL)::api.reply;
END
$$;
