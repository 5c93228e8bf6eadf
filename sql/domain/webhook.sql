-- Merchants' webhooks (B25) as Standard Webhooks say: what is sent, when again, and when an endpoint is given up.

-- The types that an endpoint may ask for: those whose events consumer.webhooks gets, and the test's.
CREATE OR REPLACE FUNCTION domain.webhook_types() RETURNS SETOF text
LANGUAGE sql IMMUTABLE AS $$
    SELECT t.ce_type FROM domain.event_types() t WHERE 'consumer.webhooks' = ANY (t.consumers)
$$;

-- types: shop.order.confirmed.v1, shop.order.* or *
CREATE OR REPLACE FUNCTION domain.webhook_wants(types text[], type text) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
    SELECT EXISTS (SELECT FROM unnest(types) w WHERE w = type OR (right(w, 1) = '*' AND starts_with(type, rtrim(w, '*'))))
$$;

CREATE OR REPLACE FUNCTION domain.webhook_types_check(types jsonb) RETURNS text[]
LANGUAGE plpgsql AS $$
DECLARE
    wanted  text[] := ARRAY(SELECT DISTINCT x FROM jsonb_array_elements_text(types) x ORDER BY x);
    bad     text;
BEGIN
    SELECT w INTO bad
      FROM unnest(wanted) w
     WHERE NOT EXISTS (SELECT FROM domain.webhook_types() t WHERE domain.webhook_wants(ARRAY[w], t));
    IF FOUND THEN
        PERFORM domain.fail(422, 'invalid-value', format('There are no events "%s".', bad),
                            '{"errors": [{"pointer": "/types", "code": "unknown", "message": "names a type that is none: GET /api/v1/admin/webhook-types"}]}');
    END IF;
    RETURN wanted;
END
$$;

-- Queues an event for an endpoint; NULL: it is there already. The body stays below 20 kB: where it does not fit, it tells only what the
-- event is about, and the program asks for the rest.
CREATE OR REPLACE FUNCTION domain.webhook_queue(e shop.webhook_endpoint, event_id uuid, type text, at timestamptz, data jsonb,
                                                correlation_id text) RETURNS uuid
LANGUAGE plpgsql AS $$
DECLARE
    body  text := json_build_object('type', type, 'timestamp', domain.ts(at), 'data', data)::text;
    made  uuid;
BEGIN
    IF octet_length(body) > 20000 THEN
        body := json_build_object('type', type, 'timestamp', domain.ts(at), 'data', jsonb_build_object(
                                      'aggregate', data -> 'aggregate', 'aggregate_id', data -> 'aggregate_id',
                                      'aggregate_version', data -> 'aggregate_version', 'truncated', true))::text;
    END IF;

    INSERT INTO shop.webhook_delivery AS d (tenant_id, id, endpoint_id, event_id, type, body, correlation_id)
    VALUES (e.tenant_id, domain.uuid7(), e.id, webhook_queue.event_id, webhook_queue.type, body, webhook_queue.correlation_id)
        ON CONFLICT ON CONSTRAINT webhook_delivery_tenant_id_endpoint_id_event_id_key DO NOTHING
    RETURNING d.id INTO made;
    RETURN made;
END
$$;

-- The pause before the next try: 5 s to a day, a fifth more or less. NULL: that was the last one.
CREATE OR REPLACE FUNCTION domain.webhook_pause(attempts int) RETURNS interval
LANGUAGE sql VOLATILE AS $$
    SELECT make_interval(secs => (ARRAY[5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400])[attempts] * (0.8 + 0.4 * random()))
$$;

-- What the edge is to send for a delivery that the caller holds locked. While a secret is being replaced both sign.
CREATE OR REPLACE FUNCTION domain.webhook_prepare(d shop.webhook_delivery, lease_time interval) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
    e       shop.webhook_endpoint;
    ticket  uuid := gen_random_uuid();
    place   text;
BEGIN
    SELECT * INTO e FROM shop.webhook_endpoint x WHERE x.tenant_id = d.tenant_id AND x.id = d.endpoint_id;
    place := format('{sealed:shop.webhook_endpoint %s %s secret|', e.tenant_id, e.id);

    UPDATE shop.webhook_delivery x
       SET attempts = x.attempts + 1, lease = ticket, next_at = now() + lease_time
     WHERE x.tenant_id = d.tenant_id AND x.id = d.id;

    RETURN jsonb_build_object(
        'tenant_id', d.tenant_id, 'correlation_id', d.correlation_id, 'url', e.url, 'method', 'POST', 'guard', 'public', 'timeout_ms', 15000,
        'headers', jsonb_build_object('Content-Type', 'application/json', 'User-Agent', 'nginx-commerce-webhooks'),
        'body', d.body,
        'sign', jsonb_build_object('kind', 'standard-webhooks', 'id', d.event_id, 'timestamp', extract(epoch FROM now())::bigint, 'secret',
                    jsonb_build_array(place || e.secret || '}')
                        || CASE WHEN e.previous_until > now() THEN jsonb_build_array(place || e.previous_secret || '}') ELSE '[]' END),
        'then', 'api.webhook_result', 'args', jsonb_build_object('tenant_id', d.tenant_id, 'delivery_id', d.id, 'lease', ticket));
END
$$;

-- Tells whom the shop belongs to.
CREATE OR REPLACE FUNCTION domain.webhook_tell(e shop.webhook_endpoint, kind text, thing text, error text, attempts int) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM domain.notify('email', u.email, kind, jsonb_build_object('url', e.url, 'error', error, 'attempts', attempts), NULL,
                          domain.notification_id(kind, e.id || ' ' || thing || ' ' || u.id), NULL, u.id)
       -- in a query of its own: who is told is locked before
       FROM (SELECT x.* FROM shop.app_user x
              WHERE x.tenant_id = e.tenant_id AND x.deleted_at IS NULL AND x.status = 'active'
                AND (x.roles && '{owner}' OR (x.roles && '{staff}' AND x.permissions && '{settings.write}'))
                FOR KEY SHARE) u;
END
$$;

-- Nothing is sent there any more; what was waiting has failed, and can be redelivered.
CREATE OR REPLACE FUNCTION domain.webhook_disable(e shop.webhook_endpoint, why text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE shop.webhook_endpoint x
       SET status = 'disabled', reason = why, version = x.version + 1, updated_at = now()
     WHERE x.tenant_id = e.tenant_id AND x.id = e.id;

    UPDATE shop.webhook_delivery d
       SET status = 'failed', lease = NULL, finished_at = now()
     WHERE d.tenant_id = e.tenant_id AND d.endpoint_id = e.id AND d.status = 'queued';
END
$$;

-- What became of a try. 2xx is success, 410 says that the endpoint is gone. When a delivery is given up the endpoint is flagged and its
-- owner told; if nothing at all succeeded since that event (three days), it is disabled.
CREATE OR REPLACE FUNCTION domain.webhook_outcome(d shop.webhook_delivery, code int, error text, answer text, ms int) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    e      shop.webhook_endpoint;
    pause  interval := domain.webhook_pause(d.attempts);
    good   boolean := error IS NULL AND code BETWEEN 200 AND 299;
    log    jsonb := d.tries || jsonb_build_object('at', domain.ts(now()), 'status', nullif(code, 0), 'error', error, 'ms', ms);
BEGIN
    IF error IN ('busy', 'shutdown') THEN           -- nobody was asked: that was no try
        UPDATE shop.webhook_delivery x
           SET attempts = x.attempts - 1, lease = NULL, next_at = now() + make_interval(secs => 1 + 2 * random())
         WHERE x.tenant_id = d.tenant_id AND x.id = d.id;
        RETURN;
    END IF;

    SELECT * INTO e FROM shop.webhook_endpoint x WHERE x.tenant_id = d.tenant_id AND x.id = d.endpoint_id;

    UPDATE shop.webhook_delivery x
       SET status = CASE WHEN good THEN 'delivered' WHEN pause IS NULL OR code = 410 THEN 'failed' ELSE 'queued' END, lease = NULL,
           next_at = coalesce(now() + pause, x.next_at), tries = CASE WHEN jsonb_array_length(log) > 20 THEN log - 0 ELSE log END,
           response = left(domain.template_escape(answer, 'text'), 1000),
           finished_at = CASE WHEN good OR pause IS NULL OR code = 410 THEN now() END
     WHERE x.tenant_id = d.tenant_id AND x.id = d.id;

    IF good THEN                                    -- the row is one for all deliveries: not written each time
        IF e.failing_since IS NOT NULL OR e.succeeded_at IS NULL OR e.succeeded_at < now() - interval '1 minute' THEN
            UPDATE shop.webhook_endpoint x SET failing_since = NULL, succeeded_at = now() WHERE x.tenant_id = e.tenant_id AND x.id = e.id;
        END IF;
    ELSIF code = 410 THEN
        PERFORM domain.webhook_disable(e, 'gone');
        PERFORM domain.webhook_tell(e, 'webhook-disabled', 'gone ' || e.version, '410', d.attempts);
    ELSIF pause IS NULL THEN
        IF e.failing_since IS NULL THEN
            PERFORM domain.webhook_tell(e, 'webhook-failing', d.id::text, coalesce(error, code::text), d.attempts);
        END IF;
        UPDATE shop.webhook_endpoint x
           SET failing_since = coalesce(x.failing_since, now())
         WHERE x.tenant_id = e.tenant_id AND x.id = e.id;
        IF coalesce(e.succeeded_at, e.created_at) <= d.created_at THEN
            PERFORM domain.webhook_disable(e, 'failing');
        END IF;
    END IF;
END
$$;

-- Sends deliveries once more, from the first try on. With the same webhook-id: programs that have had the event know it.
CREATE OR REPLACE FUNCTION domain.webhook_again(ids uuid[]) RETURNS int
LANGUAGE plpgsql AS $$
DECLARE
    n  int;
BEGIN
    UPDATE shop.webhook_delivery d
       SET status = 'queued', attempts = 0, next_at = now(), lease = NULL, finished_at = NULL
     WHERE d.tenant_id = domain.tenant_id() AND d.id = ANY (ids) AND (d.status <> 'queued' OR d.lease IS NULL);
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN n;
END
$$;

-- Deliveries are kept for 30 days.
CREATE OR REPLACE FUNCTION domain.webhooks_forget(batch int) RETURNS int
LANGUAGE plpgsql AS $$
DECLARE
    n  int;
BEGIN
    DELETE FROM shop.webhook_delivery d
     WHERE d.tenant_id = domain.tenant_id() AND d.id IN (
           SELECT x.id FROM shop.webhook_delivery x
            WHERE x.tenant_id = domain.tenant_id() AND x.status <> 'queued' AND x.finished_at < now() - interval '30 days'
            LIMIT batch);
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN n;
END
$$;

CREATE OR REPLACE FUNCTION domain.webhook_json(e shop.webhook_endpoint) RETURNS jsonb
LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object('id', e.id, 'url', e.url, 'description', e.description, 'types', to_jsonb(e.types), 'status', e.status,
                              'reason', e.reason, 'failing_since', domain.ts(e.failing_since), 'succeeded_at', domain.ts(e.succeeded_at),
                              'previous_secret_until', CASE WHEN e.previous_until > now() THEN domain.ts(e.previous_until) END,
                              'version', e.version, 'created_at', domain.ts(e.created_at), 'updated_at', domain.ts(e.updated_at))
$$;

CREATE OR REPLACE FUNCTION domain.delivery_json(d shop.webhook_delivery) RETURNS jsonb
LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object('id', d.id, 'webhook_id', d.endpoint_id, 'event_id', d.event_id, 'type', d.type, 'status', d.status,
                              'attempts', d.attempts, 'next_at', CASE WHEN d.status = 'queued' THEN domain.ts(d.next_at) END,
                              'tries', d.tries, 'correlation_id', d.correlation_id, 'created_at', domain.ts(d.created_at),
                              'finished_at', domain.ts(d.finished_at))
$$;

-- An endpoint by id; 404 without one.
CREATE OR REPLACE FUNCTION domain.webhook_row(id uuid, held boolean DEFAULT false) RETURNS shop.webhook_endpoint
LANGUAGE plpgsql AS $$
DECLARE
    e  shop.webhook_endpoint;
BEGIN
    IF held THEN
        SELECT * INTO e FROM shop.webhook_endpoint x WHERE x.tenant_id = domain.tenant_id() AND x.id = webhook_row.id FOR UPDATE;
    ELSE
        SELECT * INTO e FROM shop.webhook_endpoint x WHERE x.tenant_id = domain.tenant_id() AND x.id = webhook_row.id;
    END IF;
    IF NOT FOUND THEN
        PERFORM domain.fail(404, 'not-found', 'There is no such webhook.');
    END IF;
    RETURN e;
END
$$;
