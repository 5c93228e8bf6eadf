-- What a tenant's own staff manage: settings, API keys, host names.

CREATE OR REPLACE FUNCTION domain.settings_reply(t shop.tenant) RETURNS api.reply
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (200, domain.settings_json(t)::text, json_build_object('ETag', '"' || t.version || '"'), NULL)::api.reply;
END
$$;

CREATE OR REPLACE FUNCTION api.settings_get() RETURNS api.reply
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    t  shop.tenant;
BEGIN
    PERFORM domain.need('settings.read');

    SELECT * INTO t FROM shop.tenant x WHERE x.id = domain.tenant_id();

    RETURN domain.settings_reply(t);
END
$$;

CREATE OR REPLACE FUNCTION api.settings_patch(if_match text, patch jsonb) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    PERFORM domain.need('settings.write');

    RETURN domain.settings_reply(domain.settings_change(patch, if_match));
END
$$;

-- ── API keys ─────────────────────────────────────────────────────────────────────────────────────────────────────────

CREATE OR REPLACE FUNCTION domain.api_key_json(k shop.api_key) RETURNS jsonb
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN jsonb_build_object(
        'id', k.id, 'kind', k.kind, 'name', k.name, 'prefix', k.prefix, 'scopes', to_jsonb(k.scopes),
        'expires_at', domain.ts(k.expires_at), 'revoked_at', domain.ts(k.revoked_at), 'created_at', domain.ts(k.created_at),
        'last_used_at', (SELECT domain.ts(u.last_used_at) FROM shop.api_key_use u
                          WHERE u.tenant_id = domain.tenant_id() AND u.key_id = k.id));
END
$$;

-- The edge has made the key and keeps it for the answer; here arrive its hash and its first characters.
CREATE OR REPLACE FUNCTION api.api_key_create(key_id uuid, kind text, name text, key_hash text, key_prefix text,
                                              scopes jsonb DEFAULT NULL, expires_at timestamptz DEFAULT NULL) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    k        shop.api_key;
    missing  text;
    given    text[] := ARRAY(SELECT DISTINCT s.value FROM jsonb_array_elements_text(coalesce(scopes, '[]')) s ORDER BY s.value);
BEGIN
    PERFORM domain.need('settings.write');

    IF kind = 'publishable' AND cardinality(given) > 0 THEN
        PERFORM domain.fail(422, 'invalid-value', 'A publishable key has no scopes.');
    END IF;

    IF expires_at <= now() THEN
        PERFORM domain.fail(422, 'invalid-value', 'The key would be over already.');
    END IF;

    -- nobody gives away what they may not do themselves
    SELECT s INTO missing FROM unnest(given) s WHERE NOT domain.has_role(s) LIMIT 1;
    IF FOUND THEN
        PERFORM domain.fail(403, 'forbidden', 'You do not have the permission ' || missing || ' yourself.');
    END IF;

    IF (SELECT count(*) FROM shop.api_key x WHERE x.tenant_id = domain.tenant_id() AND x.revoked_at IS NULL) >= 100 THEN
        PERFORM domain.fail(409, 'too-many-keys', 'A shop has at most 100 keys; revoke one.');
    END IF;

    INSERT INTO shop.api_key (tenant_id, id, kind, name, hash, prefix, scopes, created_by, expires_at)
    VALUES (domain.tenant_id(), key_id, api_key_create.kind, api_key_create.name, decode(key_hash, 'hex'), key_prefix,
            given, domain.principal(), api_key_create.expires_at)
    RETURNING * INTO k;

    PERFORM domain.audit('api_key.create', 'api_key', k.id::text, NULL, domain.api_key_json(k));

    RETURN (201, jsonb_build_object('api_key', domain.api_key_json(k))::text,
            json_build_object('Location', '/api/v1/admin/api-keys/' || k.id), NULL)::api.reply;
END
$$;

CREATE OR REPLACE FUNCTION api.api_key_list() RETURNS api.reply
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
BEGIN
    PERFORM domain.need('settings.read');

    RETURN (200, jsonb_build_object('data', coalesce((
                SELECT jsonb_agg(domain.api_key_json(k) ORDER BY k.created_at DESC, k.id)
                  FROM (SELECT x.* FROM shop.api_key x WHERE x.tenant_id = domain.tenant_id()
                         ORDER BY x.revoked_at IS NOT NULL, x.created_at DESC LIMIT 200) k), '[]'))::text,
            NULL, NULL)::api.reply;
END
$$;

CREATE OR REPLACE FUNCTION domain.api_key_find(key uuid) RETURNS shop.api_key
LANGUAGE plpgsql AS $$
DECLARE
    k  shop.api_key;
BEGIN
    SELECT * INTO k FROM shop.api_key x WHERE x.tenant_id = domain.tenant_id() AND x.id = key;

    IF NOT FOUND THEN
        PERFORM domain.fail(404, 'not-found', 'There is no such key.');
    END IF;

    RETURN k;
END
$$;

CREATE OR REPLACE FUNCTION api.api_key_get(id uuid) RETURNS api.reply
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
BEGIN
    PERFORM domain.need('settings.read');

    RETURN (200, domain.api_key_json(domain.api_key_find(id))::text, NULL, NULL)::api.reply;
END
$$;

CREATE OR REPLACE FUNCTION api.api_key_patch(id uuid, name text) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    was  shop.api_key;
    k    shop.api_key;
BEGIN
    PERFORM domain.need('settings.write');
    was := domain.api_key_find(id);

    UPDATE shop.api_key x
       SET name = api_key_patch.name, updated_at = now()
     WHERE x.tenant_id = domain.tenant_id() AND x.id = api_key_patch.id
    RETURNING * INTO k;

    PERFORM domain.audit('api_key.change', 'api_key', k.id::text, domain.api_key_json(was), domain.api_key_json(k));

    RETURN (200, domain.api_key_json(k)::text, NULL, NULL)::api.reply;
END
$$;

-- Revoked for ever; the row stays, for the log.
CREATE OR REPLACE FUNCTION api.api_key_revoke(id uuid) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    k  shop.api_key;
BEGIN
    PERFORM domain.need('settings.write');
    k := domain.api_key_find(id);

    IF k.revoked_at IS NULL THEN
        UPDATE shop.api_key x
           SET revoked_at = now(), updated_at = now()
         WHERE x.tenant_id = domain.tenant_id() AND x.id = api_key_revoke.id;

        PERFORM domain.audit('api_key.revoke', 'api_key', k.id::text, domain.api_key_json(k), NULL);
    END IF;

    RETURN (204, NULL, NULL, NULL)::api.reply;
END
$$;

-- ── host names ───────────────────────────────────────────────────────────────────────────────────────────────────────

CREATE OR REPLACE FUNCTION domain.domain_json(d shop.tenant_domain) RETURNS jsonb
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN jsonb_build_object(
        'host', d.host, 'verified_at', domain.ts(d.verified_at), 'created_at', domain.ts(d.created_at),
        'challenge', CASE WHEN d.verified_at IS NULL THEN jsonb_build_object(
            'name', '_commerce-challenge.' || d.host, 'type', 'TXT', 'value', d.token) END);
END
$$;

CREATE OR REPLACE FUNCTION api.domain_list() RETURNS api.reply
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
BEGIN
    PERFORM domain.need('settings.read');

    RETURN (200, jsonb_build_object('data', coalesce((
                SELECT jsonb_agg(domain.domain_json(d) ORDER BY d.host)
                  FROM shop.tenant_domain d WHERE d.tenant_id = domain.tenant_id()), '[]'))::text, NULL, NULL)::api.reply;
END
$$;

-- A claim: it serves nothing until it is verified, and two shops may claim the same name. To claim again changes nothing.
CREATE OR REPLACE FUNCTION api.domain_add(host text) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    d      shop.tenant_domain;
    fresh  boolean;
BEGIN
    PERFORM domain.need('settings.write');

    IF (SELECT count(*) FROM shop.tenant_domain x WHERE x.tenant_id = domain.tenant_id()) >= 50 THEN
        PERFORM domain.fail(409, 'too-many-domains', 'A shop has at most 50 host names; remove one.');
    END IF;

    INSERT INTO shop.tenant_domain (tenant_id, host, token)
    VALUES (domain.tenant_id(), lower(domain_add.host), 'commerce-' || replace(gen_random_uuid()::text, '-', ''))
    ON CONFLICT ON CONSTRAINT tenant_domain_pkey DO NOTHING;
    fresh := FOUND;

    SELECT * INTO d FROM shop.tenant_domain x WHERE x.tenant_id = domain.tenant_id() AND x.host = lower(domain_add.host);

    IF fresh THEN
        PERFORM domain.audit('domain.add', 'domain', d.host, NULL, jsonb_build_object('host', d.host));
    END IF;

    RETURN (CASE WHEN fresh THEN 201 ELSE 200 END, domain.domain_json(d)::text, NULL, NULL)::api.reply;
END
$$;

CREATE OR REPLACE FUNCTION api.domain_remove(host text) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    PERFORM domain.need('settings.write');

    DELETE FROM shop.tenant_host h WHERE h.tenant_id = domain.tenant_id() AND h.host = lower(domain_remove.host)
       AND EXISTS (SELECT FROM shop.tenant_domain d WHERE d.tenant_id = domain.tenant_id() AND d.host = h.host);
    DELETE FROM shop.tenant_domain d WHERE d.tenant_id = domain.tenant_id() AND d.host = lower(domain_remove.host);

    IF NOT FOUND THEN
        PERFORM domain.fail(404, 'not-found', 'There is no such host name.');
    END IF;

    PERFORM domain.audit('domain.remove', 'domain', lower(domain_remove.host), jsonb_build_object('host', lower(domain_remove.host)), NULL);

    RETURN (204, NULL, NULL, NULL)::api.reply;
END
$$;
