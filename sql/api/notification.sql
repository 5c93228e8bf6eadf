-- Notifications: sending (I1), a shop's templates and adapters, what people want to hear of (I2), the log.

-- ── the jobs ─────────────────────────────────────────────────────────────────────────────────────────────────────────

-- The next notifications of all shops, as mails and requests that the edge is to make; each says with api.notification_result() what
-- became of it. One whose edge has died is due again when its lease is over: then the same mail, with the same Message-ID, may come twice.
CREATE OR REPLACE FUNCTION api.notifications_send(batch int DEFAULT 50, lease_seconds int DEFAULT 120) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    due      record;
    n        shop.notification;
    entry    jsonb;
    mails    jsonb := '[]';
    fetches  jsonb := '[]';
    seen     int := 0;
BEGIN
    FOR due IN SELECT d.tenant_id, d.id FROM platform.notifications_due(batch) d LOOP
        seen := seen + 1;
        PERFORM domain.tenant_enter(due.tenant_id);

        SELECT * INTO n
          FROM shop.notification x
         WHERE x.tenant_id = due.tenant_id AND x.id = due.id AND x.status = 'queued' AND x.next_at <= now()
           FOR UPDATE SKIP LOCKED;
        CONTINUE WHEN NOT FOUND;

        entry := domain.notification_prepare(n, make_interval(secs => lease_seconds));
        IF entry ? 'data' THEN
            mails := mails || entry;
        ELSIF entry IS NOT NULL THEN
            fetches := fetches || entry;
        END IF;
    END LOOP;

    PERFORM domain.tenant_enter(NULL);

    RETURN (200, json_build_object('mails', jsonb_array_length(mails), 'requests', jsonb_array_length(fetches), 'more', seen = batch)::text,
            NULL, CASE WHEN mails <> '[]' OR fetches <> '[]' THEN json_build_object('mail', mails, 'fetch', fetches) END)::api.reply;
END
$$;

CREATE OR REPLACE FUNCTION api.notification_result(tenant_id bigint, notification_id uuid, lease uuid, fetch_status int DEFAULT 0,
                                                   fetch_body text DEFAULT NULL, fetch_error text DEFAULT NULL, fetch_ms int DEFAULT NULL)
RETURNS api.reply LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    n  shop.notification;
BEGIN
    PERFORM domain.tenant_enter(notification_result.tenant_id);

    SELECT * INTO n
      FROM shop.notification x
     WHERE x.tenant_id = notification_result.tenant_id AND x.id = notification_id AND x.status = 'queued'
       AND x.lease = notification_result.lease
       FOR UPDATE;
    IF FOUND THEN
        PERFORM domain.notification_outcome(n, coalesce(fetch_status, 0), fetch_error, fetch_body);
    END IF;

    RETURN (200, json_build_object('taken', FOUND)::text, NULL, NULL)::api.reply;
END
$$;

-- ── sending by hand ──────────────────────────────────────────────────────────────────────────────────────────────────

-- I1. template: message, or any that does not need what only the edge can make. to, or user_id of one of the shop's customers.
CREATE OR REPLACE FUNCTION api.notification_send(
    notification_id uuid, channel text, template text DEFAULT 'message', "to" text DEFAULT NULL, user_id uuid DEFAULT NULL,
    language text DEFAULT NULL, subject text DEFAULT NULL, text text DEFAULT NULL, html text DEFAULT NULL, data jsonb DEFAULT NULL)
RETURNS api.reply LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    PERFORM domain.need('notifications.send');
    PERFORM domain.notification_request(notification_id, channel, template, "to", user_id, language, coalesce(data, '{}')
                || jsonb_strip_nulls(jsonb_build_object('subject', subject, 'text', text, 'html', html)));
    PERFORM domain.job_wake('notifications');

    RETURN (202, jsonb_build_object('notification_id', notification_id, 'status', 'queued')::text,
            json_build_object('Location', '/api/v1/admin/notifications/' || notification_id), NULL)::api.reply;
END
$$;

-- Checks and queues what a program of the shop asks to send: POST /send and the topic "notifications".
CREATE OR REPLACE FUNCTION domain.notification_request(notification_id uuid, channel text, template text, recipient text, user_id uuid,
                                                       language text, data jsonb) RETURNS uuid
LANGUAGE plpgsql AS $$
DECLARE
    u     shop.app_user;
    fault text;
BEGIN
    IF user_id IS NOT NULL THEN
        SELECT * INTO u
          FROM shop.app_user x
         WHERE x.tenant_id = domain.tenant_id() AND x.id = notification_request.user_id AND x.deleted_at IS NULL
           FOR KEY SHARE;
        IF NOT FOUND THEN
            PERFORM domain.fail(422, 'user-unknown', 'There is no such customer.',
                                '{"errors": [{"pointer": "/user_id", "code": "unknown", "message": "is nobody of this shop"}]}');
        END IF;
        recipient := coalesce(recipient, CASE channel WHEN 'email' THEN u.email END);
    END IF;

    fault := CASE WHEN recipient IS NULL THEN 'is required'
                  WHEN channel = 'email' AND NOT domain.mail_address_ok(recipient) THEN 'is not an address that mail can be sent to'
                  WHEN channel = 'sms' AND recipient !~ '^\+[1-9][0-9]{5,14}$' THEN 'is not a number like +4930123456'
                  WHEN channel = 'push' AND (recipient !~ '^[!-~]+$' OR length(recipient) > 2048) THEN 'is not the token of a device' END;
    IF fault IS NOT NULL THEN
        PERFORM domain.fail(422, 'invalid-value', 'to ' || fault || '.', jsonb_build_object('errors', jsonb_build_array(
                                jsonb_build_object('pointer', '/to', 'code', 'recipient', 'message', fault))));
    END IF;

    IF EXISTS (SELECT FROM domain.notification_kinds() k WHERE k.kind = template AND (k.sample ? 'token' OR k.kind LIKE 'webhook-%'))
       OR template = 'layout'
       OR domain.template_find(template, channel, '{}') IS NULL THEN
        PERFORM domain.fail(422, 'template-unknown', format('There is no template "%s" to be sent by %s.', template, channel),
                            '{"errors": [{"pointer": "/template", "code": "unknown", "message": "is no template for this channel"}]}');
    END IF;

    RETURN domain.notify(channel, recipient, template, data - 'token', NULL, notification_id, NULL, user_id, language);
END
$$;

-- ── the log ──────────────────────────────────────────────────────────────────────────────────────────────────────────

CREATE OR REPLACE FUNCTION api.notification_list("limit" int DEFAULT 20, cursor jsonb DEFAULT NULL, status text DEFAULT NULL,
                                                 channel text DEFAULT NULL, template text DEFAULT NULL, recipient text DEFAULT NULL)
RETURNS api.reply LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
BEGIN
    PERFORM domain.need('customers.read');

    RETURN domain.page_list('shop.notification', 'domain.notification_json(r)', '{id}', true,
        domain.page_where(jsonb_build_object('status', status, 'channel', channel, 'template', template, 'recipient', recipient)),
        "limit", cursor);
END
$$;

-- held: until the transaction ends.
CREATE OR REPLACE FUNCTION domain.notification_row(id uuid, held boolean DEFAULT false) RETURNS shop.notification
LANGUAGE plpgsql AS $$
DECLARE
    n  shop.notification;
BEGIN
    IF held THEN
        SELECT * INTO n FROM shop.notification x WHERE x.tenant_id = domain.tenant_id() AND x.id = notification_row.id FOR UPDATE;
    ELSE
        SELECT * INTO n FROM shop.notification x WHERE x.tenant_id = domain.tenant_id() AND x.id = notification_row.id;
    END IF;
    IF NOT FOUND THEN
        PERFORM domain.fail(404, 'not-found', 'There is no such notification.');
    END IF;
    RETURN n;
END
$$;

CREATE OR REPLACE FUNCTION api.notification_get(id uuid) RETURNS api.reply
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    n  shop.notification;
BEGIN
    PERFORM domain.need('customers.read');
    n := domain.notification_row(id);

    RETURN (200, (domain.notification_json(n) || jsonb_build_object('data', n.data))::text, NULL, NULL)::api.reply;
END
$$;

-- Once more, from the first try on: the same mail, with the same Message-ID.
CREATE OR REPLACE FUNCTION api.notification_retry(id uuid) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    n  shop.notification;
BEGIN
    PERFORM domain.need('notifications.send');
    n := domain.notification_row(id, true);
    IF n.status NOT IN ('failed', 'expired', 'suppressed') THEN
        PERFORM domain.fail(409, 'notification-not-failed', 'It is ' || n.status || '.', jsonb_build_object('notification_status', n.status));
    END IF;
    IF EXISTS (SELECT FROM domain.notification_kinds() k WHERE k.kind = n.template AND k.sample ? 'token') THEN
        PERFORM domain.fail(409, 'secret-gone', 'Its link is not kept: let the customer ask for a new one.');
    END IF;

    UPDATE shop.notification x
       SET status = 'queued', attempts = 0, next_at = now(), finished_at = NULL, expires_at = greatest(x.expires_at, now() + interval '1 day')
     WHERE x.tenant_id = n.tenant_id AND x.id = n.id
    RETURNING * INTO n;

    PERFORM domain.audit('notification.retry', 'notification', n.id::text);
    PERFORM domain.job_wake('notifications');

    RETURN (202, domain.notification_json(n)::text, NULL, NULL)::api.reply;
END
$$;

-- ── preferences ──────────────────────────────────────────────────────────────────────────────────────────────────────

-- What can be chosen: kinds that have words for a channel, and that somebody may do without.
CREATE OR REPLACE FUNCTION domain.notification_choices(person uuid) RETURNS jsonb
LANGUAGE sql STABLE AS $$
    SELECT coalesce(jsonb_agg(jsonb_build_object('kind', c.kind, 'channel', c.channel, 'description', c.about,
                                                 'enabled', c.transactional OR coalesce(p.enabled, true), 'can_disable', NOT c.transactional)
                              ORDER BY c.transactional, c.kind, c.channel), '[]')
      FROM (SELECT k.kind, x.channel, k.about, k.transactional
              FROM domain.notification_kinds() k
              JOIN (SELECT DISTINCT s.kind, s.channel FROM domain.template_shipped() s) x ON x.kind = k.kind
             WHERE k.kind NOT LIKE 'webhook-%' AND k.kind NOT LIKE 'totp-%' AND k.kind <> 'staff-invitation'
             UNION
            SELECT t.kind, t.channel, t.kind, false
              FROM shop.notification_template t
             WHERE t.tenant_id = domain.tenant_id() AND t.kind <> 'layout'
               AND NOT EXISTS (SELECT FROM domain.notification_kinds() k WHERE k.kind = t.kind)) c
      LEFT JOIN shop.notification_preference p
             ON p.tenant_id = domain.tenant_id() AND p.user_id = person AND p.kind = c.kind AND p.channel = c.channel
$$;

CREATE OR REPLACE FUNCTION api.preferences_get() RETURNS api.reply
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
BEGIN
    RETURN (200, jsonb_build_object('data', domain.notification_choices(domain.principal()))::text, NULL, NULL)::api.reply;
END
$$;

CREATE OR REPLACE FUNCTION api.preferences_put(preferences jsonb) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    p        record;
    choices  jsonb;
    choice   jsonb;
BEGIN
    PERFORM domain.account_hold();
    choices := domain.notification_choices(domain.principal());

    FOR p IN
        SELECT e.value ->> 'kind' AS kind, e.value ->> 'channel' AS channel, (e.value ->> 'enabled')::boolean AS enabled, e.ordinality - 1 AS place
          FROM jsonb_array_elements(preferences) WITH ORDINALITY e
    LOOP
        SELECT c.value INTO choice
          FROM jsonb_array_elements(choices) c
         WHERE c.value ->> 'kind' = p.kind AND c.value ->> 'channel' = p.channel;
        IF choice IS NULL OR (NOT p.enabled AND NOT (choice ->> 'can_disable')::boolean) THEN
            PERFORM domain.fail(422, CASE WHEN choice IS NULL THEN 'invalid-value' ELSE 'transactional' END,
                CASE WHEN choice IS NULL THEN 'There is nothing like that to be told of.' ELSE 'This is told always.' END,
                jsonb_build_object('errors', jsonb_build_array(jsonb_build_object('pointer', format('/preferences/%s', p.place),
                    'code', CASE WHEN choice IS NULL THEN 'unknown' ELSE 'transactional' END,
                    'message', CASE WHEN choice IS NULL THEN 'names no kind and channel of this shop' ELSE 'cannot be switched off' END))));
        END IF;

        IF (choice ->> 'can_disable')::boolean THEN
            INSERT INTO shop.notification_preference AS x (tenant_id, user_id, kind, channel, enabled)
            VALUES (domain.tenant_id(), domain.principal(), p.kind, p.channel, p.enabled)
            ON CONFLICT (tenant_id, user_id, kind, channel) DO UPDATE SET enabled = excluded.enabled, updated_at = now();
        END IF;
    END LOOP;

    RETURN (200, jsonb_build_object('data', domain.notification_choices(domain.principal()))::text, NULL, NULL)::api.reply;
END
$$;
