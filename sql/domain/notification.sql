-- Notifications from the row to what leaves: language, words, recipient's wishes, tries.

-- A shop as its mails show it.
CREATE OR REPLACE FUNCTION domain.notification_shop(t shop.tenant) RETURNS jsonb
LANGUAGE plpgsql STABLE AS $$
DECLARE
    host  text;
BEGIN
    SELECT h.host INTO host
      FROM shop.tenant_host h
     WHERE h.tenant_id = t.id
     ORDER BY h.host LIKE '%.localhost', h.created_at, h.host
     LIMIT 1;

    RETURN jsonb_build_object(
        'name', t.name, 'slug', t.slug, 'host', coalesce(host, t.slug || '.localhost'),
        'url', rtrim(coalesce(t.settings ->> 'storefront_url', 'https://' || coalesce(host, t.slug || '.localhost')), '/'),
        'logo_url', t.settings -> 'logo_url', 'support_email', t.settings -> 'support_email',
        'color', coalesce(t.settings ->> 'brand_color', '#1f4fd8'));
END
$$;

-- Who the shop's mails are from.
CREATE OR REPLACE FUNCTION domain.mail_sender(t shop.tenant, host text) RETURNS jsonb
LANGUAGE plpgsql STABLE AS $$
DECLARE
    own  text := t.settings #>> '{mail_sender,email}';
BEGIN
    RETURN jsonb_build_object('email', CASE WHEN domain.mail_address_ok(own) THEN own ELSE 'no-reply@' || host END,
                              'name', coalesce(t.settings #>> '{mail_sender,name}', t.name));
END
$$;

-- The words for a kind: the best language there is for whom it goes to, the shop's own before the shipped ones. NULL: there are none.
CREATE OR REPLACE FUNCTION domain.template_find(kind text, channel text, languages text[]) RETURNS jsonb
LANGUAGE plpgsql STABLE AS $$
DECLARE
    found  jsonb;
BEGIN
    SELECT jsonb_build_object('source', x.source, 'language', x.language, 'subject', x.subject, 'text', x.text, 'html', x.html)
      INTO found
      FROM (SELECT 'shop' AS source, t.language::text AS language, t.subject, t.text, t.html, 0 AS rank
              FROM shop.notification_template t
             WHERE t.tenant_id = domain.tenant_id() AND t.kind = template_find.kind AND t.channel = template_find.channel
             UNION ALL
            SELECT 'shipped', s.language, s.subject, s.text, s.html, 1
              FROM domain.template_shipped() s
             WHERE s.kind = template_find.kind AND s.channel = template_find.channel) x
     ORDER BY array_position(languages, x.language) NULLS LAST, x.rank, x.language
     LIMIT 1;
    RETURN found;
END
$$;

-- de-AT, de, then the shop's own, then English
CREATE OR REPLACE FUNCTION domain.language_chain(wanted text, own text) RETURNS text[]
LANGUAGE sql IMMUTABLE AS $$
    SELECT array_remove(ARRAY[wanted, split_part(wanted, '-', 1), own, split_part(own, '-', 1), 'en'], NULL)
$$;

-- An order as templates know it.
CREATE OR REPLACE FUNCTION domain.notification_order(order_id uuid, zone text) RETURNS jsonb
LANGUAGE plpgsql STABLE AS $$
DECLARE
    o      shop.orders;
    a      jsonb;
    lines  jsonb;
BEGIN
    SELECT * INTO o FROM shop.orders x WHERE x.tenant_id = domain.tenant_id() AND x.id = notification_order.order_id;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;

    SELECT jsonb_agg(x.line) INTO lines
      FROM (SELECT to_jsonb(v.line) AS line
              FROM (VALUES (1, o.shipping_address ->> 'name'), (2, o.shipping_address ->> 'company'), (3, o.shipping_address ->> 'line1'),
                           (4, o.shipping_address ->> 'line2'),
                           (5, btrim(concat_ws(' ', o.shipping_address ->> 'postal_code', o.shipping_address ->> 'city'))),
                           (6, o.shipping_address ->> 'region'), (7, o.shipping_address ->> 'country')) v (place, line)
             WHERE v.line <> ''
             ORDER BY v.place) x;

    SELECT jsonb_agg(jsonb_build_object('name', i.name, 'sku', i.sku, 'quantity', i.quantity, 'image', i.image,
                                        'unit_price', domain.money(i.unit_amount, o.currency),
                                        'total', domain.money(i.total_amount, o.currency)) ORDER BY i.line)
      INTO a
      FROM shop.order_item i
     WHERE i.tenant_id = o.tenant_id AND i.order_id = o.id;

    RETURN jsonb_build_object(
        'id', o.id, 'number', o.number, 'status', o.status, 'date', to_char(o.created_at AT TIME ZONE zone, 'YYYY-MM-DD'),
        'items', a, 'subtotal', domain.money(o.subtotal_amount, o.currency),
        'discount', CASE WHEN o.discount_amount > 0 THEN domain.money(o.discount_amount, o.currency) END,
        'shipping', domain.money(o.shipping_amount, o.currency), 'tax', domain.money(o.tax_amount, o.currency),
        'tax_inclusive', o.tax_inclusive, 'total', domain.money(o.total_amount, o.currency),
        'has_address', lines IS NOT NULL, 'address', lines);
END
$$;

-- A name that somebody gave themselves, as it may stand in a mail to an address that they gave: not with an address of the web in it,
-- or a registration would be a way to send advertisements.
CREATE OR REPLACE FUNCTION domain.notification_name(name text) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN name ~* '(://|www\.|[a-z0-9-]\.[a-z]{2,}(/|\s|$))' THEN '' ELSE left(btrim(name), 80) END
$$;

-- What the templates of a notification see. secret: what stands for the secret until the mail leaves, or NULL.
CREATE OR REPLACE FUNCTION domain.notification_data(n shop.notification, t shop.tenant, u shop.app_user, language text, secret text)
RETURNS jsonb LANGUAGE plpgsql STABLE AS $$
DECLARE
    data  jsonb := n.data;
BEGIN
    IF data ->> 'order_id' ~ '^[0-9a-f-]{36}$' THEN
        data := data || jsonb_build_object('order', domain.notification_order((data ->> 'order_id')::uuid,
                                                                              coalesce(t.settings ->> 'time_zone', 'UTC')));
    END IF;

    RETURN data || jsonb_build_object(
        'name', domain.notification_name(coalesce(nullif(data ->> 'name', ''), u.name, data #>> '{order,address,0}', '')),
        'language', language, 'shop', domain.notification_shop(t) , 'token', secret);
END
$$;

-- Words and data become a subject, a text and an HTML part. words: of template_find; layout goes around the HTML.
CREATE OR REPLACE FUNCTION domain.notification_render(kind text, channel text, words jsonb, data jsonb, languages text[], OUT subject text,
                                                      OUT body text, OUT html text)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    raw_   text[] := coalesce((SELECT k.raw FROM domain.notification_kinds() k WHERE k.kind = notification_render.kind), '{}');
    inner_ text;
    frame  jsonb;
BEGIN
    -- a token has no business in a subject, which lists of mails show
    subject := domain.template_render(coalesce(words ->> 'subject', ''), 'subject', data - 'token', 'line');
    body := domain.template_render(coalesce(words ->> 'text', ''), 'text', data, 'text');

    IF channel <> 'email' THEN
        RETURN;
    END IF;

    inner_ := domain.template_render(coalesce(words ->> 'html', ''), 'html', data, 'html', raw_);
    IF inner_ !~ '\S' THEN
        inner_ := domain.text_html(body, data #>> '{shop,url}');
    END IF;
    IF inner_ ~* '^\s*(<!doctype|<html)' THEN
        html := inner_;
        RETURN;
    END IF;

    frame := domain.template_find('layout', 'email', languages);
    html := domain.template_render(frame ->> 'html', 'layout', data || jsonb_build_object('subject', subject, 'content', inner_), 'html',
                                   '{content}');
END
$$;

-- Whether somebody wants to hear of this. What is transactional is told always; a shop's own kinds are like message.
CREATE OR REPLACE FUNCTION domain.notification_wanted(user_id uuid, kind text, channel text) RETURNS boolean
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN user_id IS NULL
        OR EXISTS (SELECT FROM domain.notification_kinds() k WHERE k.kind = notification_wanted.kind AND k.transactional)
        OR coalesce((SELECT p.enabled
                       FROM shop.notification_preference p
                      WHERE p.tenant_id = domain.tenant_id() AND p.user_id = notification_wanted.user_id
                        AND p.kind = notification_wanted.kind AND p.channel = notification_wanted.channel), true);
END
$$;

-- The pause before the next try: half a minute to eight hours, a fifth more or less. NULL: that was the last one.
CREATE OR REPLACE FUNCTION domain.notification_pause(attempts int) RETURNS interval
LANGUAGE sql VOLATILE AS $$
    SELECT make_interval(secs => (ARRAY[30, 120, 600, 1800, 3600, 7200, 14400, 28800, 28800])[attempts] * (0.8 + 0.4 * random()))
$$;

-- A notification has come to its end; what only the recipient may know goes with it.
CREATE OR REPLACE FUNCTION domain.notification_end(n shop.notification, status text, error text DEFAULT NULL, code int DEFAULT NULL) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE shop.notification x
       SET status = notification_end.status, error = left(notification_end.error, 500), last_status = code, secret = NULL, lease = NULL,
           sent_at = CASE WHEN notification_end.status = 'sent' THEN now() END, finished_at = now()
     WHERE x.tenant_id = n.tenant_id AND x.id = n.id;

    PERFORM domain.emit('notification-events', 'Notification' || initcap(notification_end.status), 'notification', n.id::text,
                        jsonb_build_object('notification_id', n.id, 'kind', n.template, 'channel', n.channel,
                                           'attempts', n.attempts, 'timestamp', domain.ts(now())), 1);
END
$$;

-- Prepares a notification that the caller holds locked: what the edge is to send, or NULL when there is nothing to send any more.
-- Each try has a lease: a result that comes for another one is not looked at.
CREATE OR REPLACE FUNCTION domain.notification_prepare(n shop.notification, lease_time interval) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
    t       shop.tenant;
    u       shop.app_user;
    chain   text[];
    words   jsonb;
    data    jsonb;
    said    record;
    ticket  uuid := gen_random_uuid();
    mark    text := CASE WHEN n.secret IS NOT NULL THEN 'tk' || replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', '') END;
    sender  jsonb;
    mid     text;
    hook    shop.notification_adapter;
    entry   jsonb;
BEGIN
    IF n.expires_at <= now() THEN
        PERFORM domain.notification_end(n, 'expired', n.error);
        RETURN NULL;
    END IF;

    SELECT * INTO t FROM shop.tenant x WHERE x.id = n.tenant_id;
    SELECT * INTO u
      FROM shop.app_user x
     WHERE x.tenant_id = n.tenant_id AND x.deleted_at IS NULL
       AND CASE WHEN n.user_id IS NOT NULL THEN x.id = n.user_id ELSE n.channel = 'email' AND x.email_key = lower(n.recipient) END;

    IF NOT domain.notification_wanted(u.id, n.template, n.channel) THEN
        PERFORM domain.notification_end(n, 'suppressed');
        RETURN NULL;
    END IF;

    IF n.channel = 'email' AND NOT domain.mail_address_ok(n.recipient) THEN
        PERFORM domain.notification_end(n, 'failed', 'This is not an address that mail can be sent to.');
        RETURN NULL;
    END IF;

    IF n.channel <> 'email' THEN
        SELECT * INTO hook FROM shop.notification_adapter x WHERE x.tenant_id = n.tenant_id AND x.channel = n.channel;
        IF NOT FOUND THEN
            PERFORM domain.notification_end(n, 'failed', 'The shop has no adapter for this channel.');
            RETURN NULL;
        END IF;
    END IF;

    chain := domain.language_chain(coalesce(n.language, u.preferences ->> 'language'), t.locale);
    words := domain.template_find(n.template, n.channel, chain);
    IF words IS NULL THEN
        PERFORM domain.notification_end(n, 'failed', format('There is no template %s for %s.', n.template, n.channel));
        RETURN NULL;
    END IF;

    BEGIN
        data := domain.notification_data(n, t, u, words ->> 'language', mark);
        said := domain.notification_render(n.template, n.channel, words, data, chain);
    EXCEPTION WHEN SQLSTATE 'SH422' THEN
        PERFORM domain.notification_end(n, 'failed', SQLERRM);
        RETURN NULL;
    END;

    sender := domain.mail_sender(t, data #>> '{shop,host}');
    mid := coalesce(n.message_id, n.id || '@' || split_part(sender ->> 'email', '@', 2));

    UPDATE shop.notification x
       SET attempts = x.attempts + 1, lease = ticket, next_at = now() + lease_time, message_id = mid,
           language = words ->> 'language'
     WHERE x.tenant_id = n.tenant_id AND x.id = n.id;

    entry := jsonb_build_object(
        'tenant_id', n.tenant_id, 'correlation_id', n.correlation_id, 'then', 'api.notification_result',
        'args', jsonb_build_object('tenant_id', n.tenant_id, 'notification_id', n.id, 'lease', ticket));

    IF n.channel = 'email' THEN
        RETURN entry || jsonb_build_object(
            'from', sender ->> 'email', 'to', jsonb_build_array(n.recipient), 'timeout_ms', 30000,
            'data', domain.mail_message(sender, n.recipient, jsonb_build_object('email', t.settings ->> 'support_email', 'name', t.name),
                                        said.subject, said.body, said.html, mid, n.created_at, words ->> 'language', mark,
                                        format('{sealed:shop.notification %s %s secret|%s}', n.tenant_id, n.id, n.secret)),
            'expand', mark IS NOT NULL);
    END IF;

    RETURN entry || jsonb_build_object(
        'url', hook.url, 'method', 'POST', 'guard', 'public', 'timeout_ms', 15000,
        'headers', jsonb_build_object('Content-Type', 'application/json', 'User-Agent', 'nginx-commerce-notifications'),
        'sign', jsonb_build_object('kind', 'standard-webhooks', 'id', n.id, 'timestamp', extract(epoch FROM now())::bigint,
                                   'secret', format('{sealed:shop.notification_adapter %s %s secret|%s}', hook.tenant_id, hook.id, hook.secret)),
        'body', jsonb_build_object('type', 'notification.' || n.channel, 'timestamp', domain.ts(now()), 'data', jsonb_strip_nulls(
                    jsonb_build_object('notification_id', n.id, 'channel', n.channel, 'kind', n.template, 'to', n.recipient,
                                       'title', nullif(said.subject, ''), 'text', btrim(said.body, E' \r\n\t'),
                                       'language', words ->> 'language', 'attempt', n.attempts + 1)))::text);
END
$$;

-- What became of a try. code: of SMTP or HTTP, 0 when there was none; error: of the transport, or NULL.
CREATE OR REPLACE FUNCTION domain.notification_outcome(n shop.notification, code int, error text, answer text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    what   text := coalesce(error, '') || CASE WHEN code > 0 THEN ' ' || code ELSE '' END
                   || CASE WHEN answer <> '' THEN ': ' || left(domain.template_escape(answer, 'line'), 300) ELSE '' END;
    pause  interval := domain.notification_pause(n.attempts);
BEGIN
    IF error IS NULL AND code BETWEEN 200 AND 299 THEN
        PERFORM domain.notification_end(n, 'sent', NULL, code);

    ELSIF error IN ('busy', 'shutdown') THEN        -- nobody was asked: that was no try
        UPDATE shop.notification x
           SET attempts = x.attempts - 1, lease = NULL, next_at = now() + make_interval(secs => 1 + 2 * random())
         WHERE x.tenant_id = n.tenant_id AND x.id = n.id;

    -- nobody there (RFC 5321, 4.2.3); a program that does not understand the request will not do so later
    ELSIF (n.channel = 'email' AND code IN (550, 551, 553, 556))
          OR (n.channel <> 'email' AND code BETWEEN 400 AND 499 AND code NOT IN (408, 409, 425, 429)) THEN
        PERFORM domain.notification_end(n, 'failed', btrim(what), code);

    ELSIF pause IS NULL OR now() + pause >= n.expires_at THEN
        PERFORM domain.notification_end(n, 'failed', btrim(what), code);

    ELSE
        UPDATE shop.notification x
           SET lease = NULL, next_at = now() + pause, error = left(btrim(what), 500), last_status = code
         WHERE x.tenant_id = n.tenant_id AND x.id = n.id;
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION domain.notification_json(n shop.notification) RETURNS jsonb
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN jsonb_build_object(
        'id', n.id, 'channel', n.channel, 'template', n.template, 'recipient', n.recipient, 'language', n.language, 'status', n.status,
        'attempts', n.attempts, 'next_at', CASE WHEN n.status = 'queued' THEN domain.ts(n.next_at) END, 'error', n.error,
        'message_id', n.message_id, 'correlation_id', n.correlation_id, 'created_at', domain.ts(n.created_at),
        'sent_at', domain.ts(n.sent_at), 'finished_at', domain.ts(n.finished_at), 'expires_at', domain.ts(n.expires_at));
END
$$;
