-- What the staff of the platform do with tenants: docs/tenants.md. Each function enters the tenant that it is about, so that
-- row-level security holds for every statement, and returns to the platform's own at the end.

CREATE OR REPLACE FUNCTION domain.tenant_reply(home bigint, status int, t shop.tenant) RETURNS api.reply
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM domain.tenant_enter(home);

    RETURN (status, domain.tenant_json(t)::text,
            CASE WHEN status = 201
                 THEN json_build_object('ETag', '"' || t.version || '"', 'Location', '/api/v1/platform/tenants/' || t.id)
                 ELSE json_build_object('ETag', '"' || t.version || '"') END, NULL)::api.reply;
END
$$;

CREATE OR REPLACE FUNCTION api.tenant_list("limit" int DEFAULT 20, cursor jsonb DEFAULT NULL, status text DEFAULT NULL,
                                           search text DEFAULT NULL) RETURNS api.reply
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    back  boolean := domain.page_back(cursor);
    mark  bigint  := coalesce((cursor ->> 'id')::bigint, 0);
BEGIN
    PERFORM domain.platform_only();

    -- the pager reads rows of the tenant that asks: of the platform; and one more than it shows
    RETURN domain.page_list(format('(SELECT t, t.id, domain.tenant_id() AS tenant_id '
                                   '   FROM platform.tenant_page(%L::bigint, %L::boolean, %L::int, %L, %L) t)',
                                   mark, back, "limit" + 1, status, search),
                            'domain.tenant_json((r).t)', '{id}', false, '', "limit", cursor);
END
$$;

-- Read like the list: without a lock, the platform's own tenant too.
CREATE OR REPLACE FUNCTION api.tenant_get(id bigint) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    home  bigint := domain.tenant_id();
    t     shop.tenant;
BEGIN
    PERFORM domain.platform_only();
    PERFORM domain.tenant_enter(tenant_get.id);

    SELECT * INTO t FROM shop.tenant x WHERE x.id = domain.tenant_id();
    IF NOT FOUND THEN
        PERFORM domain.fail(404, 'not-found', 'There is no such tenant.');
    END IF;

    RETURN domain.tenant_reply(home, 200, t);
END
$$;

-- A new shop with its first location and its owner. Without a password the owner sets one through the password reset.
CREATE OR REPLACE FUNCTION api.tenant_create(slug text, name text, currency text, owner jsonb, locale text DEFAULT NULL,
                                             settings jsonb DEFAULT NULL, password_hash text DEFAULT NULL) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    home  bigint := domain.tenant_id();
    t     shop.tenant;
BEGIN
    PERFORM domain.platform_only();

    IF slug IN ('platform', 'www', 'api', 'admin', 'static', 'media', 'mail') THEN
        PERFORM domain.fail(422, 'slug-reserved', 'This slug is kept for the platform.');
    END IF;

    PERFORM domain.tenant_enter(nextval(pg_get_serial_sequence('shop.tenant', 'id')));

    BEGIN
        INSERT INTO shop.tenant (id, slug, name, currency, locale)
        OVERRIDING SYSTEM VALUE
        VALUES (domain.tenant_id(), tenant_create.slug, tenant_create.name, tenant_create.currency,
                coalesce(tenant_create.locale, 'en'))
        RETURNING * INTO t;
    EXCEPTION WHEN unique_violation THEN
        PERFORM domain.fail(409, 'slug-taken', 'There is a tenant with this slug already.');
    END;

    INSERT INTO shop.location (tenant_id, code, name) VALUES (t.id, 'main', 'Main warehouse');

    PERFORM domain.user_put(t.id, owner ->> 'email', coalesce(password_hash, ''), coalesce(owner ->> 'name', ''),
                            '{staff,owner}');

    IF settings IS NOT NULL THEN
        t := domain.settings_change(settings, NULL);
    END IF;

    PERFORM domain.platform_audit(home, 'tenant.create', NULL, domain.tenant_json(t));

    RETURN domain.tenant_reply(home, 201, t);
END
$$;

CREATE OR REPLACE FUNCTION api.tenant_settings_get(id bigint) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    home  bigint := domain.tenant_id();
    t     shop.tenant;
BEGIN
    PERFORM domain.platform_only();
    PERFORM domain.tenant_enter(tenant_settings_get.id);

    SELECT * INTO t FROM shop.tenant x WHERE x.id = domain.tenant_id();
    IF NOT FOUND THEN
        PERFORM domain.fail(404, 'not-found', 'There is no such tenant.');
    END IF;

    PERFORM domain.tenant_enter(home);

    RETURN domain.settings_reply(t);
END
$$;

CREATE OR REPLACE FUNCTION api.tenant_settings_patch(id bigint, if_match text, patch jsonb) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    home  bigint := domain.tenant_id();
    was   shop.tenant;
    t     shop.tenant;
BEGIN
    PERFORM domain.platform_only();
    was := domain.tenant_lock(tenant_settings_patch.id, if_match);
    t := domain.settings_change(patch, NULL);
    PERFORM domain.platform_audit(home, 'tenant.settings', domain.settings_json(was), domain.settings_json(t));
    PERFORM domain.tenant_enter(home);

    RETURN domain.settings_reply(t);
END
$$;

-- Every edge refuses the tenant from its commit on; nothing is lost.
CREATE OR REPLACE FUNCTION api.tenant_suspend(id bigint, reason text DEFAULT NULL) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    home  bigint := domain.tenant_id();
    was   shop.tenant;
    t     shop.tenant;
BEGIN
    PERFORM domain.platform_only();
    was := domain.tenant_lock(tenant_suspend.id);

    IF was.status = 'deleted' THEN
        PERFORM domain.fail(409, 'tenant-deleted', 'This tenant is about to be erased.');
    END IF;

    UPDATE shop.tenant x
       SET status = 'suspended', suspended_at = coalesce(x.suspended_at, now()), suspend_reason = reason,
           version = x.version + 1, updated_at = now()
     WHERE x.id = domain.tenant_id()
    RETURNING * INTO t;

    PERFORM domain.platform_audit(home, 'tenant.suspend', domain.tenant_json(was), domain.tenant_json(t));

    RETURN domain.tenant_reply(home, 200, t);
END
$$;

-- Back to life: from suspension, and from deletion while the grace lasts.
CREATE OR REPLACE FUNCTION api.tenant_resume(id bigint) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    home  bigint := domain.tenant_id();
    was   shop.tenant;
    t     shop.tenant;
BEGIN
    PERFORM domain.platform_only();
    was := domain.tenant_lock(tenant_resume.id);

    IF was.erase_after <= now() THEN
        PERFORM domain.fail(409, 'tenant-deleted', 'This tenant is being erased.');
    END IF;

    UPDATE shop.tenant x
       SET status = 'active', suspended_at = NULL, suspend_reason = NULL, erase_after = NULL, deleted_at = NULL,
           version = x.version + 1, updated_at = now()
     WHERE x.id = domain.tenant_id()
    RETURNING * INTO t;

    PERFORM domain.platform_audit(home, 'tenant.resume', domain.tenant_json(was), domain.tenant_json(t));

    RETURN domain.tenant_reply(home, 200, t);
END
$$;

-- First step of two: the tenant is suspended at once and erased when the grace is over (api.maintain). confirm: its slug.
CREATE OR REPLACE FUNCTION api.tenant_delete(id bigint, confirm text, grace_days int) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    home  bigint := domain.tenant_id();
    was   shop.tenant;
    t     shop.tenant;
BEGIN
    PERFORM domain.platform_only();
    was := domain.tenant_lock(tenant_delete.id);

    IF confirm IS DISTINCT FROM was.slug THEN
        PERFORM domain.fail(422, 'not-confirmed', 'confirm has to be the slug of the tenant.');
    END IF;

    UPDATE shop.tenant x
       SET status = 'deleted', suspended_at = coalesce(x.suspended_at, now()), deleted_at = coalesce(x.deleted_at, now()),
           erase_after = coalesce(x.erase_after, now() + make_interval(days => grace_days)),
           version = x.version + 1, updated_at = now()
     WHERE x.id = domain.tenant_id()
    RETURNING * INTO t;

    PERFORM domain.platform_audit(home, 'tenant.delete', domain.tenant_json(was), domain.tenant_json(t));

    RETURN domain.tenant_reply(home, 202, t);
END
$$;

-- All rows of a tenant, page by page: {"table", "row"}. Each page is one statement; tables are in the order of their names.
CREATE OR REPLACE FUNCTION api.tenant_export(id bigint, "limit" int, cursor jsonb DEFAULT NULL) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    home  bigint := domain.tenant_id();
    e     record;
BEGIN
    PERFORM domain.platform_only();

    PERFORM domain.tenant_enter(tenant_export.id);
    IF NOT EXISTS (SELECT FROM shop.tenant x WHERE x.id = domain.tenant_id()) THEN
        PERFORM domain.fail(404, 'not-found', 'There is no such tenant.');
    END IF;

    SELECT * INTO e FROM domain.tenant_export(cursor, "limit");
    PERFORM domain.tenant_enter(home);

    RETURN (200, json_build_object('data', to_json(e.rows))::text, NULL, json_build_object('page', e.page))::api.reply;
END
$$;

-- What the token for acting in a tenant is made of; the edge signs it. Both logs know.
CREATE OR REPLACE FUNCTION api.tenant_act(id bigint, reason text) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    home  bigint := domain.tenant_id();
    t     shop.tenant;
BEGIN
    PERFORM domain.platform_only();
    t := domain.tenant_lock(tenant_act.id);
    PERFORM domain.platform_audit(home, 'tenant.act', NULL, jsonb_build_object('reason', reason));
    PERFORM domain.tenant_enter(home);

    RETURN (200, json_build_object('acting_tenant', t.id::text, 'acting_roles', 'staff owner platform')::text, NULL, NULL)::api.reply;
END
$$;

-- ── host names ───────────────────────────────────────────────────────────────────────────────────────────────────────

CREATE OR REPLACE FUNCTION api.domain_claims("limit" int, cursor jsonb DEFAULT NULL) RETURNS api.reply
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
BEGIN
    PERFORM domain.platform_only();

    RETURN domain.page_list('(SELECT d, d.created_at, d.tenant_id AS claimant, d.host, domain.tenant_id() AS tenant_id '
                            '   FROM platform.claims(NULL) d)',
                            'jsonb_build_object(''tenant_id'', (r).claimant) || domain.domain_json((r).d)',
                            '{created_at,claimant,host}', false, '', "limit", cursor);
END
$$;

-- The platform vouches that the tenant owns the name, having seen the challenge in DNS. One tenant only has it.
CREATE OR REPLACE FUNCTION api.domain_verify(id bigint, host text) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    home  bigint := domain.tenant_id();
    d     shop.tenant_domain;
BEGIN
    PERFORM domain.platform_only();
    PERFORM domain.tenant_lock(domain_verify.id);

    UPDATE shop.tenant_domain x
       SET verified_at = coalesce(x.verified_at, now()), updated_at = now()
     WHERE x.tenant_id = domain.tenant_id() AND x.host = lower(domain_verify.host)
    RETURNING * INTO d;

    IF NOT FOUND THEN
        PERFORM domain.fail(404, 'not-found', 'This tenant does not claim the host name.');
    END IF;

    BEGIN
        INSERT INTO shop.tenant_host (host, tenant_id) VALUES (d.host, d.tenant_id);
    EXCEPTION WHEN unique_violation THEN
        IF NOT EXISTS (SELECT FROM shop.tenant_host h WHERE h.tenant_id = domain.tenant_id() AND h.host = d.host) THEN
            PERFORM domain.fail(409, 'domain-taken', 'Another tenant has this host name.');
        END IF;
    END;

    PERFORM domain.platform_audit(home, 'domain.verify', NULL, jsonb_build_object('host', d.host));
    PERFORM domain.tenant_enter(home);

    RETURN (200, domain.domain_json(d)::text, NULL, NULL)::api.reply;
END
$$;
