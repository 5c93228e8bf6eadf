-- A shop's templates, and where its text messages and pushes go.

-- order-confirmation.email.en → its parts
CREATE OR REPLACE FUNCTION domain.template_name(template text, OUT kind text, OUT channel text, OUT language text)
LANGUAGE sql IMMUTABLE AS $$
    SELECT split_part(template, '.', 1), split_part(template, '.', 2), split_part(template, '.', 3)
$$;

CREATE OR REPLACE FUNCTION domain.template_json(kind text, channel text, language text, source text, subject text, body text, html text,
                                                version int, updated_at timestamptz, whole boolean) RETURNS jsonb
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN jsonb_build_object('template', kind || '.' || channel || '.' || language, 'kind', kind, 'channel', channel, 'language', language,
                              'source', source, 'version', version, 'updated_at', domain.ts(updated_at))
        || CASE WHEN whole THEN jsonb_build_object('subject', subject, 'text', body, 'html', html) ELSE '{}' END;
END
$$;

-- The template as the shop has it, or as it is shipped; NULL when there is none.
CREATE OR REPLACE FUNCTION domain.template_row(template text) RETURNS jsonb
LANGUAGE plpgsql STABLE AS $$
DECLARE
    w      record := domain.template_name(template);
    shown  jsonb;
BEGIN
    SELECT domain.template_json(t.kind, t.channel, t.language, 'shop', t.subject, t.text, t.html, t.version, t.updated_at, true)
      INTO shown
      FROM shop.notification_template t
     WHERE t.tenant_id = domain.tenant_id() AND t.kind = w.kind AND t.channel = w.channel AND t.language = w.language;
    IF FOUND THEN
        RETURN shown;
    END IF;

    SELECT domain.template_json(s.kind, s.channel, s.language, 'shipped', s.subject, s.text, s.html, 0, NULL, true)
      INTO shown
      FROM domain.template_shipped() s
     WHERE s.kind = w.kind AND s.channel = w.channel AND s.language = w.language;
    RETURN shown;
END
$$;

CREATE OR REPLACE FUNCTION domain.template_missing() RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM domain.fail(404, 'not-found', 'There is no such template.');
END
$$;

-- A kind of the product or one that the shop has made.
CREATE OR REPLACE FUNCTION domain.template_kind_known(kind text) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT kind = 'layout' OR EXISTS (SELECT FROM domain.notification_kinds() k WHERE k.kind = template_kind_known.kind)
           OR EXISTS (SELECT FROM shop.notification_template t
                       WHERE t.tenant_id = domain.tenant_id() AND t.kind = template_kind_known.kind)
$$;

CREATE OR REPLACE FUNCTION api.template_list() RETURNS api.reply
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
BEGIN
    PERFORM domain.need('content.write');

    RETURN (200, jsonb_build_object('data', (
        SELECT coalesce(jsonb_agg(x.row || jsonb_build_object('transactional', coalesce(k.transactional, false), 'description', k.about)
                                  ORDER BY x.row ->> 'template'), '[]')
          FROM (SELECT domain.template_json(t.kind, t.channel, t.language, 'shop', NULL, NULL, NULL, t.version, t.updated_at, false) AS row
                  FROM shop.notification_template t WHERE t.tenant_id = domain.tenant_id()
                 UNION ALL
                SELECT domain.template_json(s.kind, s.channel, s.language, 'shipped', NULL, NULL, NULL, 0, NULL, false)
                  FROM domain.template_shipped() s
                 WHERE NOT EXISTS (SELECT FROM shop.notification_template t
                                    WHERE t.tenant_id = domain.tenant_id() AND t.kind = s.kind AND t.channel = s.channel
                                      AND t.language = s.language)) x
          LEFT JOIN domain.notification_kinds() k ON k.kind = x.row ->> 'kind'))::text, NULL, NULL)::api.reply;
END
$$;

CREATE OR REPLACE FUNCTION api.template_get(template text) RETURNS api.reply
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    t  jsonb;
BEGIN
    PERFORM domain.need('content.write');

    t := domain.template_row(template);
    IF t IS NULL THEN
        PERFORM domain.template_missing();
    END IF;

    RETURN (200, t::text, json_build_object('ETag', '"' || (t ->> 'version') || '"'), NULL)::api.reply;
END
$$;

-- Parses the parts; refuses them with the line. What is not of the channel must not be there.
CREATE OR REPLACE FUNCTION domain.template_check(kind text, channel text, subject text, body text, html text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    raw_  text[] := coalesce((SELECT k.raw FROM domain.notification_kinds() k WHERE k.kind = template_check.kind), '{}');
BEGIN
    IF kind = 'layout' THEN
        IF channel <> 'email' OR html IS NULL OR html !~ '\{\{\{\s*content\s*\}\}\}' OR coalesce(subject, body) IS NOT NULL THEN
            PERFORM domain.template_fault('html', 1, 'The layout is an HTML part alone, with {{{content}}} in it.');
        END IF;
        PERFORM domain.template_parse(html, 'html', '{content}');
        RETURN;
    END IF;

    IF coalesce(body, '') !~ '\S' THEN
        PERFORM domain.template_fault('text', 1, 'There must be a text; the HTML part is made of it where there is none.');
    ELSIF channel = 'email' AND coalesce(subject, '') !~ '\S' THEN
        PERFORM domain.template_fault('subject', 1, 'A mail needs a subject.');
    ELSIF subject ~ E'[\r\n]' THEN
        PERFORM domain.template_fault('subject', 1, 'A subject is one line.');
    ELSIF channel <> 'email' AND html IS NOT NULL THEN
        PERFORM domain.template_fault('html', 1, 'Only mails have an HTML part.');
    END IF;

    PERFORM domain.template_parse(coalesce(subject, ''), 'subject'), domain.template_parse(body, 'text'),
            domain.template_parse(coalesce(html, ''), 'html', raw_);
END
$$;

-- Another language or channel of a kind, or a kind of the shop's own.
CREATE OR REPLACE FUNCTION api.template_create(kind text, channel text, language text, subject text DEFAULT NULL, text text DEFAULT NULL,
                                               html text DEFAULT NULL) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    name  text := kind || '.' || channel || '.' || language;
BEGIN
    PERFORM domain.need('content.write');
    PERFORM domain.template_check(kind, channel, subject, text, html);

    IF (SELECT count(*) FROM shop.notification_template t WHERE t.tenant_id = domain.tenant_id()) >= 500 THEN
        PERFORM domain.fail(409, 'too-many-templates', 'A shop has at most 500 templates.');
    END IF;

    INSERT INTO shop.notification_template (tenant_id, kind, channel, language, subject, text, html)
    VALUES (domain.tenant_id(), template_create.kind, template_create.channel, template_create.language, template_create.subject,
            template_create.text, template_create.html)
    ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        PERFORM domain.fail(409, 'template-exists', 'The shop has this template already: change it with PUT.');
    END IF;

    PERFORM domain.audit('template.create', 'template', name, NULL, domain.template_row(name));

    RETURN (201, domain.template_row(name)::text,
            json_build_object('Location', '/api/v1/admin/notification-templates/' || name, 'ETag', '"1"'), NULL)::api.reply;
END
$$;

-- Changes the shop's template, or puts one before a shipped one.
CREATE OR REPLACE FUNCTION api.template_put(template text, if_match text DEFAULT NULL, subject text DEFAULT NULL, text text DEFAULT NULL,
                                            html text DEFAULT NULL) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    w    record := domain.template_name(template);
    was  jsonb;
    is_  jsonb;
BEGIN
    PERFORM domain.need('content.write');

    was := domain.template_row(template);
    IF was IS NULL THEN
        PERFORM domain.template_missing();
    END IF;
    IF if_match IS NOT NULL THEN
        PERFORM domain.check_version(if_match, (was ->> 'version')::bigint);
    END IF;
    PERFORM domain.template_check(w.kind, w.channel, subject, text, html);

    INSERT INTO shop.notification_template AS t (tenant_id, kind, channel, language, subject, text, html)
    VALUES (domain.tenant_id(), w.kind, w.channel, w.language, template_put.subject, template_put.text, template_put.html)
    ON CONFLICT (tenant_id, kind, channel, language) DO UPDATE
       SET subject = excluded.subject, text = excluded.text, html = excluded.html, version = t.version + 1, updated_at = now();

    is_ := domain.template_row(template);
    PERFORM domain.audit('template.change', 'template', template, was, is_);

    RETURN (200, is_::text, json_build_object('ETag', '"' || (is_ ->> 'version') || '"'), NULL)::api.reply;
END
$$;

-- The shop's template goes; a shipped one counts again.
CREATE OR REPLACE FUNCTION api.template_delete(template text) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    w    record := domain.template_name(template);
    was  jsonb;
BEGIN
    PERFORM domain.need('content.write');
    was := domain.template_row(template);

    DELETE FROM shop.notification_template t
     WHERE t.tenant_id = domain.tenant_id() AND t.kind = w.kind AND t.channel = w.channel AND t.language = w.language;
    IF NOT FOUND THEN
        PERFORM domain.fail(404, 'not-found', 'The shop has no such template of its own.');
    END IF;

    PERFORM domain.audit('template.delete', 'template', template, was, NULL);

    RETURN (204, NULL, NULL, NULL)::api.reply;
END
$$;

-- How it would look: the stored template or the parts that come with the request, with sample data and those of the request.
CREATE OR REPLACE FUNCTION api.template_preview(template text, subject text DEFAULT NULL, text text DEFAULT NULL, html text DEFAULT NULL,
                                                data jsonb DEFAULT NULL) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    w      record := domain.template_name(template);
    row    jsonb;
    t      shop.tenant;
    chain  text[];
    seen   jsonb;
    said   record;
BEGIN
    PERFORM domain.need('content.write');
    PERFORM set_config('commerce.audited', 'yes', true);        -- nothing is changed

    row := domain.template_row(template);
    IF row IS NULL THEN
        PERFORM domain.template_missing();
    END IF;
    IF coalesce(template_preview.text, template_preview.subject, template_preview.html) IS NOT NULL THEN
        row := row || jsonb_build_object('subject', coalesce(template_preview.subject, row ->> 'subject'),
                                         'text', coalesce(template_preview.text, row ->> 'text'), 'html', template_preview.html);
        PERFORM domain.template_check(w.kind, w.channel, row ->> 'subject', row ->> 'text', row ->> 'html');
    END IF;

    SELECT * INTO t FROM shop.tenant x WHERE x.id = domain.tenant_id();
    chain := domain.language_chain(w.language, t.locale);
    seen := coalesce((SELECT k.sample FROM domain.notification_kinds() k WHERE k.kind = w.kind),
                     (SELECT k.sample FROM domain.notification_kinds() k WHERE k.kind = 'message'))
            || coalesce(template_preview.data, '{}')
            || jsonb_build_object('shop', domain.notification_shop(t), 'language', w.language);

    IF w.kind = 'layout' THEN
        RETURN (200, jsonb_build_object('subject', '', 'text', '', 'html', domain.template_render(
                    row ->> 'html', 'html', seen || '{"subject": "Subject", "content": "<p>Content</p>"}', 'html', '{content}'))::text,
                NULL, NULL)::api.reply;
    END IF;

    said := domain.notification_render(w.kind, w.channel, row, seen, chain);

    RETURN (200, jsonb_build_object('subject', said.subject, 'text', said.body, 'html', said.html)::text, NULL, NULL)::api.reply;
END
$$;

-- ── adapters ─────────────────────────────────────────────────────────────────────────────────────────────────────────

CREATE OR REPLACE FUNCTION domain.adapter_json(a shop.notification_adapter) RETURNS jsonb
LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object('id', a.id, 'channel', a.channel, 'url', a.url, 'created_at', domain.ts(a.created_at),
                              'updated_at', domain.ts(a.updated_at))
$$;

CREATE OR REPLACE FUNCTION api.adapter_list() RETURNS api.reply
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
BEGIN
    PERFORM domain.need('settings.read');

    RETURN (200, jsonb_build_object('data', coalesce((
                SELECT jsonb_agg(domain.adapter_json(a) ORDER BY a.channel)
                  FROM shop.notification_adapter a WHERE a.tenant_id = domain.tenant_id()), '[]'))::text, NULL, NULL)::api.reply;
END
$$;

-- The edge has made the secret and keeps it for the answer; here it arrives sealed.
CREATE OR REPLACE FUNCTION api.adapter_create(adapter_id uuid, channel text, url text, sealed text) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    a  shop.notification_adapter;
BEGIN
    PERFORM domain.need('settings.write');
    PERFORM domain.hook_url_check(url);

    INSERT INTO shop.notification_adapter AS x (tenant_id, id, channel, url, secret)
    VALUES (domain.tenant_id(), adapter_id, adapter_create.channel, adapter_create.url, sealed)
    ON CONFLICT DO NOTHING
    RETURNING * INTO a;
    IF NOT FOUND THEN
        PERFORM domain.fail(409, 'adapter-exists', 'The shop has an adapter for this channel: delete it first.');
    END IF;

    PERFORM domain.audit('adapter.create', 'notification_adapter', a.id::text, NULL, domain.adapter_json(a));

    RETURN (201, jsonb_build_object('adapter', domain.adapter_json(a))::text,
            json_build_object('Location', '/api/v1/admin/notification-adapters/' || a.id), NULL)::api.reply;
END
$$;

CREATE OR REPLACE FUNCTION api.adapter_delete(id uuid) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    a  shop.notification_adapter;
BEGIN
    PERFORM domain.need('settings.write');

    DELETE FROM shop.notification_adapter x WHERE x.tenant_id = domain.tenant_id() AND x.id = adapter_delete.id RETURNING * INTO a;
    IF NOT FOUND THEN
        PERFORM domain.fail(404, 'not-found', 'There is no such adapter.');
    END IF;

    PERFORM domain.audit('adapter.delete', 'notification_adapter', a.id::text, domain.adapter_json(a), NULL);

    RETURN (204, NULL, NULL, NULL)::api.reply;
END
$$;
