-- Merchants' webhooks (B25): the job that sends, endpoints, the log of deliveries.

-- ── the job ──────────────────────────────────────────────────────────────────────────────────────────────────────────

-- The next deliveries of all shops as requests that the edge is to make; each says with api.webhook_result() what became of it. One whose
-- edge has died is due again when its lease is over: the same event may come twice, with the same webhook-id.
CREATE OR REPLACE FUNCTION api.webhooks_send(batch int DEFAULT 50, lease_seconds int DEFAULT 60) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    due      record;
    d        shop.webhook_delivery;
    fetches  jsonb := '[]';
    seen     int := 0;
BEGIN
    FOR due IN SELECT x.tenant_id, x.id FROM platform.webhooks_due(batch) x LOOP
        seen := seen + 1;
        PERFORM domain.tenant_enter(due.tenant_id);

        SELECT * INTO d
          FROM shop.webhook_delivery x
         WHERE x.tenant_id = due.tenant_id AND x.id = due.id AND x.status = 'queued' AND x.next_at <= now()
           FOR UPDATE SKIP LOCKED;
        CONTINUE WHEN NOT FOUND;

        fetches := fetches || domain.webhook_prepare(d, make_interval(secs => lease_seconds));
    END LOOP;

    PERFORM domain.tenant_enter(NULL);

    RETURN (200, json_build_object('requests', jsonb_array_length(fetches), 'more', seen = batch)::text, NULL,
            CASE WHEN fetches <> '[]' THEN json_build_object('fetch', fetches) END)::api.reply;
END
$$;

CREATE OR REPLACE FUNCTION api.webhook_result(tenant_id bigint, delivery_id uuid, lease uuid, fetch_status int DEFAULT 0,
                                              fetch_body text DEFAULT NULL, fetch_error text DEFAULT NULL, fetch_ms int DEFAULT NULL)
RETURNS api.reply LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    d      shop.webhook_delivery;
    taken  boolean;
BEGIN
    PERFORM domain.tenant_enter(webhook_result.tenant_id);

    SELECT * INTO d
      FROM shop.webhook_delivery x
     WHERE x.tenant_id = webhook_result.tenant_id AND x.id = delivery_id AND x.status = 'queued' AND x.lease = webhook_result.lease
       FOR UPDATE;
    taken := FOUND;
    IF taken THEN
        PERFORM domain.webhook_outcome(d, coalesce(fetch_status, 0), fetch_error, fetch_body, fetch_ms);
    END IF;

    RETURN (200, json_build_object('taken', taken)::text, NULL, NULL)::api.reply;
END
$$;

-- ── endpoints ────────────────────────────────────────────────────────────────────────────────────────────────────────

CREATE OR REPLACE FUNCTION api.webhook_types() RETURNS api.reply
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
BEGIN
    PERFORM domain.need('settings.read');
    RETURN (200, jsonb_build_object('data', (SELECT jsonb_agg(t ORDER BY t) FROM domain.webhook_types() t))::text, NULL, NULL)::api.reply;
END
$$;

CREATE OR REPLACE FUNCTION api.webhook_list() RETURNS api.reply
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
BEGIN
    PERFORM domain.need('settings.read');

    RETURN (200, jsonb_build_object('data', coalesce((
                SELECT jsonb_agg(domain.webhook_json(e) ORDER BY e.created_at, e.id)
                  FROM shop.webhook_endpoint e WHERE e.tenant_id = domain.tenant_id()), '[]'))::text, NULL, NULL)::api.reply;
END
$$;

-- The edge has made the secret and keeps it for the answer; here it arrives sealed.
CREATE OR REPLACE FUNCTION api.webhook_create(webhook_id uuid, url text, types jsonb, sealed text, description text DEFAULT NULL)
RETURNS api.reply LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    e  shop.webhook_endpoint;
BEGIN
    PERFORM domain.need('settings.write');
    PERFORM domain.hook_url_check(url);

    -- one after the other, so that two do not count the same
    PERFORM FROM shop.tenant t WHERE t.id = domain.tenant_id() FOR NO KEY UPDATE;
    IF (SELECT count(*) FROM shop.webhook_endpoint x WHERE x.tenant_id = domain.tenant_id()) >= 20 THEN
        PERFORM domain.fail(409, 'too-many-webhooks', 'A shop has at most 20 webhooks.');
    END IF;

    INSERT INTO shop.webhook_endpoint AS x (tenant_id, id, url, description, types, secret)
    VALUES (domain.tenant_id(), webhook_create.webhook_id, webhook_create.url, webhook_create.description,
            domain.webhook_types_check(webhook_create.types), sealed)
    RETURNING * INTO e;

    PERFORM domain.audit('webhook.create', 'webhook', e.id::text, NULL, domain.webhook_json(e));

    RETURN (201, jsonb_build_object('webhook', domain.webhook_json(e))::text,
            json_build_object('Location', '/api/v1/admin/webhooks/' || e.id), NULL)::api.reply;
END
$$;

CREATE OR REPLACE FUNCTION api.webhook_get(id uuid) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    PERFORM domain.need('settings.read');
    RETURN (200, domain.webhook_json(domain.webhook_row(id))::text, NULL, NULL)::api.reply;
END
$$;

-- status disabled: nothing is sent there, and what waits has failed. active: from the next event on.
CREATE OR REPLACE FUNCTION api.webhook_patch(id uuid, url text DEFAULT NULL, types jsonb DEFAULT NULL, description text DEFAULT NULL,
                                             status text DEFAULT NULL) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    e  shop.webhook_endpoint;
    n  shop.webhook_endpoint;
BEGIN
    PERFORM domain.need('settings.write');
    e := domain.webhook_row(id, true);
    IF url IS NOT NULL THEN
        PERFORM domain.hook_url_check(url);
    END IF;

    UPDATE shop.webhook_endpoint x
       SET url = coalesce(webhook_patch.url, x.url), description = coalesce(webhook_patch.description, x.description),
           types = CASE WHEN webhook_patch.types IS NULL THEN x.types ELSE domain.webhook_types_check(webhook_patch.types) END,
           status = coalesce(webhook_patch.status, x.status),
           reason = CASE WHEN webhook_patch.status IS NULL THEN x.reason END,
           failing_since = CASE WHEN webhook_patch.status = 'active' THEN NULL ELSE x.failing_since END,
           version = x.version + 1, updated_at = now()
     WHERE x.tenant_id = e.tenant_id AND x.id = e.id
    RETURNING * INTO n;
    IF n.status = 'disabled' AND e.status = 'active' THEN
        PERFORM domain.webhook_disable(n, NULL);
        n := domain.webhook_row(e.id);
    END IF;

    PERFORM domain.audit('webhook.update', 'webhook', e.id::text, domain.webhook_json(e), domain.webhook_json(n));

    RETURN (200, domain.webhook_json(n)::text, NULL, NULL)::api.reply;
END
$$;

CREATE OR REPLACE FUNCTION api.webhook_delete(id uuid) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    e  shop.webhook_endpoint;
BEGIN
    PERFORM domain.need('settings.write');
    e := domain.webhook_row(id, true);

    DELETE FROM shop.webhook_endpoint x WHERE x.tenant_id = e.tenant_id AND x.id = e.id;
    PERFORM domain.audit('webhook.delete', 'webhook', e.id::text, domain.webhook_json(e), NULL);

    RETURN (204, NULL, NULL, NULL)::api.reply;
END
$$;

-- A new secret; for a day the old one signs beside it, so that the program can change over.
CREATE OR REPLACE FUNCTION api.webhook_rotate(id uuid, sealed text) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    e  shop.webhook_endpoint;
BEGIN
    PERFORM domain.need('settings.write');
    e := domain.webhook_row(id, true);

    UPDATE shop.webhook_endpoint x
       SET previous_secret = x.secret, previous_until = now() + interval '24 hours', secret = sealed, version = x.version + 1,
           updated_at = now()
     WHERE x.tenant_id = e.tenant_id AND x.id = e.id
    RETURNING * INTO e;
    PERFORM domain.audit('webhook.rotate', 'webhook', e.id::text);

    RETURN (200, jsonb_build_object('webhook', domain.webhook_json(e))::text, NULL, NULL)::api.reply;
END
$$;

-- ── deliveries ───────────────────────────────────────────────────────────────────────────────────────────────────────

CREATE OR REPLACE FUNCTION domain.webhook_queued(e shop.webhook_endpoint, delivery uuid) RETURNS api.reply
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM domain.job_wake('webhooks');
    RETURN (202, jsonb_build_object('delivery_id', delivery, 'status', 'queued')::text,
            json_build_object('Location', '/api/v1/admin/webhooks/' || e.id || '/deliveries/' || delivery), NULL)::api.reply;
END
$$;

CREATE OR REPLACE FUNCTION domain.webhook_active(id uuid) RETURNS shop.webhook_endpoint
LANGUAGE plpgsql AS $$
DECLARE
    e  shop.webhook_endpoint := domain.webhook_row(id, true);
BEGIN
    IF e.status <> 'active' THEN
        PERFORM domain.fail(409, 'webhook-disabled', 'Nothing is sent there while it is disabled.');
    END IF;
    RETURN e;
END
$$;

CREATE OR REPLACE FUNCTION api.webhook_test(id uuid) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    e  shop.webhook_endpoint;
BEGIN
    PERFORM domain.need('settings.write');
    e := domain.webhook_active(id);

    RETURN domain.webhook_queued(e, domain.webhook_queue(e, domain.uuid7(), 'shop.webhook.test.v1', now(),
                                                         jsonb_build_object('webhook_id', e.id), domain.correlation_id()));
END
$$;

CREATE OR REPLACE FUNCTION api.delivery_list(id uuid, "limit" int DEFAULT 20, cursor jsonb DEFAULT NULL, status text DEFAULT NULL,
                                             type text DEFAULT NULL) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    e  shop.webhook_endpoint;
BEGIN
    PERFORM domain.need('settings.read');
    e := domain.webhook_row(id);

    RETURN domain.page_list('shop.webhook_delivery', 'domain.delivery_json(r)', '{id}', true,
        domain.page_where(jsonb_build_object('endpoint_id', e.id, 'status', status, 'type', type)), "limit", cursor);
END
$$;

CREATE OR REPLACE FUNCTION domain.delivery_row(id uuid, delivery_id uuid) RETURNS shop.webhook_delivery
LANGUAGE plpgsql AS $$
DECLARE
    d  shop.webhook_delivery;
BEGIN
    SELECT * INTO d
      FROM shop.webhook_delivery x
     WHERE x.tenant_id = domain.tenant_id() AND x.endpoint_id = delivery_row.id AND x.id = delivery_row.delivery_id;
    IF NOT FOUND THEN
        PERFORM domain.fail(404, 'not-found', 'There is no such delivery.');
    END IF;
    RETURN d;
END
$$;

CREATE OR REPLACE FUNCTION api.delivery_get(id uuid, delivery_id uuid) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    d  shop.webhook_delivery;
BEGIN
    PERFORM domain.need('settings.read');
    d := domain.delivery_row(id, delivery_id);

    RETURN (200, (domain.delivery_json(d) || jsonb_build_object('body', d.body, 'response', d.response))::text, NULL, NULL)::api.reply;
END
$$;

CREATE OR REPLACE FUNCTION api.delivery_redeliver(id uuid, delivery_id uuid) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    e  shop.webhook_endpoint;
    d  shop.webhook_delivery;
BEGIN
    PERFORM domain.need('settings.write');
    e := domain.webhook_active(id);
    d := domain.delivery_row(id, delivery_id);
    PERFORM domain.webhook_again(ARRAY[d.id]);

    RETURN domain.webhook_queued(e, d.id);
END
$$;

-- Events of a time range once more, the oldest first, at most 1,000; those that failed unless status says otherwise.
CREATE OR REPLACE FUNCTION api.webhook_redeliver(id uuid, "from" timestamptz, "to" timestamptz DEFAULT NULL, status text DEFAULT 'failed')
RETURNS api.reply LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    e     shop.webhook_endpoint;
    done  int;
BEGIN
    PERFORM domain.need('settings.write');
    e := domain.webhook_active(id);
    done := domain.webhook_again(ARRAY(
                SELECT d.id
                  FROM shop.webhook_delivery d
                 WHERE d.tenant_id = e.tenant_id AND d.endpoint_id = e.id AND d.created_at >= "from" AND d.created_at < coalesce("to", now())
                   AND d.status = webhook_redeliver.status
                 ORDER BY d.id
                 LIMIT 1000));
    PERFORM domain.job_wake('webhooks');

    RETURN (202, jsonb_build_object('deliveries', done, 'more', done = 1000)::text, NULL, NULL)::api.reply;
END
$$;
