-- A tenant as its staff and the platform's see it; its life.

-- What a setting is that a shop has not made.
CREATE OR REPLACE FUNCTION domain.settings_default() RETURNS jsonb
LANGUAGE sql IMMUTABLE AS $$
    SELECT '{"time_zone": "UTC", "tax_inclusive": false, "tax_rate_bp": 0, "shipping_flat": 0, "shipping_free_from": null,
             "reservation_ttl": 900, "payments": {}, "mail_sender": null, "storefront_url": null, "logo_url": null, "support_email": null,
             "brand_color": null, "identity": {}, "limits": {}, "flags": {}, "cors_origins": [], "cors_credentials": false,
             "reviews_auto_approve": false}'::jsonb
$$;

-- The settings as they count. Column by column what api/paths/tenants.yaml calls TenantSettings.
CREATE OR REPLACE FUNCTION domain.settings_json(t shop.tenant) RETURNS jsonb
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN domain.settings_default()
           || t.settings
           || jsonb_build_object('name', t.name, 'currency', t.currency, 'locale', t.locale, 'version', t.version);
END
$$;

CREATE OR REPLACE FUNCTION domain.tenant_json(t shop.tenant) RETURNS jsonb
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN jsonb_build_object(
        'id', t.id, 'slug', t.slug, 'name', t.name, 'status', t.status, 'currency', t.currency, 'locale', t.locale,
        'suspended_at', domain.ts(t.suspended_at), 'suspend_reason', t.suspend_reason, 'erase_after', domain.ts(t.erase_after),
        'version', t.version, 'created_at', domain.ts(t.created_at), 'updated_at', domain.ts(t.updated_at));
END
$$;

-- RFC 7396.
CREATE OR REPLACE FUNCTION domain.merge_patch(target jsonb, patch jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    member  record;
    result  jsonb;
BEGIN
    IF jsonb_typeof(patch) <> 'object' THEN
        RETURN patch;
    END IF;

    result := CASE WHEN jsonb_typeof(target) = 'object' THEN target ELSE '{}' END;

    FOR member IN SELECT m.key, m.value FROM jsonb_each(patch) m LOOP
        IF jsonb_typeof(member.value) = 'null' THEN
            result := result - member.key;
        ELSE
            result := jsonb_set(result, ARRAY[member.key], domain.merge_patch(result -> member.key, member.value));
        END IF;
    END LOOP;

    RETURN result;
END
$$;

-- Changes the current tenant's settings by a merge patch; the contract has checked each member by itself, here is what only
-- the database knows. Answers the row as it is now.
CREATE OR REPLACE FUNCTION domain.settings_change(patch jsonb, if_match text) RETURNS shop.tenant
LANGUAGE plpgsql AS $$
DECLARE
    t       shop.tenant;
    was     jsonb;
    wanted  jsonb;
BEGIN
    SELECT * INTO t FROM shop.tenant x WHERE x.id = domain.tenant_id() FOR UPDATE;

    IF if_match IS NOT NULL THEN
        PERFORM domain.check_version(if_match, t.version);
    END IF;

    was := domain.settings_json(t);
    wanted := domain.merge_patch(t.settings, patch - '{name,currency,locale}'::text[]);

    IF patch ->> 'time_zone' IS NOT NULL AND NOT EXISTS (SELECT FROM pg_timezone_names z WHERE z.name = patch ->> 'time_zone') THEN
        PERFORM domain.fail(422, 'invalid-value', 'There is no such time zone.',
                            '{"errors": [{"pointer": "/time_zone", "code": "time-zone", "message": "There is no such time zone."}]}');
    END IF;

    IF EXISTS (SELECT FROM jsonb_array_elements_text(CASE WHEN jsonb_typeof(wanted #> '{payments,methods}') = 'array'
                                                          THEN wanted #> '{payments,methods}' ELSE '[]' END) m (name)
                WHERE NOT payment.known(m.name)) THEN
        PERFORM domain.fail(422, 'payment-method-unknown', 'There is no adapter of this name.', jsonb_build_object('errors', jsonb_build_array(
                                jsonb_build_object('pointer', '/payments/methods', 'code', 'unknown', 'message', 'There is no adapter of this name.'))));
    END IF;

    IF patch ->> 'currency' <> t.currency
       AND (EXISTS (SELECT FROM shop.product p WHERE p.tenant_id = domain.tenant_id())
            OR EXISTS (SELECT FROM shop.orders o WHERE o.tenant_id = domain.tenant_id())) THEN
        PERFORM domain.fail(409, 'currency-in-use', 'Prices and orders are in ' || t.currency || ' already.');
    END IF;

    IF wanted ? 'cors_origins' THEN     -- as browsers write them
        wanted := jsonb_set(wanted, '{cors_origins}', (SELECT coalesce(jsonb_agg(DISTINCT lower(o.value)), '[]')
                                                         FROM jsonb_array_elements_text(wanted -> 'cors_origins') o));
    END IF;

    UPDATE shop.tenant x
       SET settings = wanted,
           name = coalesce(patch ->> 'name', x.name),
           currency = coalesce(patch ->> 'currency', x.currency),
           locale = coalesce(patch ->> 'locale', x.locale),
           version = x.version + 1,
           updated_at = now()
     WHERE x.id = domain.tenant_id()
    RETURNING * INTO t;

    PERFORM domain.audit('settings.change', 'tenant', t.id::text, was, domain.settings_json(t));

    RETURN t;
END
$$;

-- One setting of the current tenant, for functions: domain.tenant_setting('reservation_ttl').
CREATE OR REPLACE FUNCTION domain.tenant_setting(name text) RETURNS jsonb
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (SELECT CASE tenant_setting.name
                   WHEN 'name'     THEN to_jsonb(t.name)
                   WHEN 'currency' THEN to_jsonb(t.currency::text)
                   WHEN 'locale'   THEN to_jsonb(t.locale)
                   ELSE coalesce(t.settings -> tenant_setting.name, domain.settings_default() -> tenant_setting.name)
                   END
              FROM shop.tenant t
             WHERE t.id = domain.tenant_id());
END
$$;

-- ── the platform's staff ─────────────────────────────────────────────────────────────────────────────────────────────

-- Again what the edge has checked: the role counts in the platform's own tenant only.
CREATE OR REPLACE FUNCTION domain.platform_only() RETURNS void
LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF NOT domain.has_role('platform')
       OR NOT EXISTS (SELECT FROM shop.tenant t WHERE t.id = domain.tenant_id() AND t.slug = 'platform') THEN
        PERFORM domain.fail(403, 'forbidden', 'This is for the staff of the platform.');
    END IF;
END
$$;

-- The rest of the transaction acts in another tenant; row-level security follows. Answers the tenant before, to return to.
CREATE OR REPLACE FUNCTION domain.tenant_enter(tenant bigint) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    before  bigint := domain.tenant_id();
BEGIN
    PERFORM set_config('commerce.tenant_id', coalesce(tenant::text, ''), true);
    RETURN before;
END
$$;

-- Enters the tenant and locks its row; 404 when there is none. The platform itself is not among them.
CREATE OR REPLACE FUNCTION domain.tenant_lock(tenant bigint, if_match text DEFAULT NULL) RETURNS shop.tenant
LANGUAGE plpgsql AS $$
DECLARE
    t  shop.tenant;
BEGIN
    PERFORM domain.tenant_enter(tenant);

    SELECT * INTO t FROM shop.tenant x WHERE x.id = domain.tenant_id() FOR UPDATE;

    IF NOT FOUND OR t.slug = 'platform' THEN
        PERFORM domain.fail(404, 'not-found', 'There is no such tenant.');
    END IF;

    IF if_match IS NOT NULL THEN
        PERFORM domain.check_version(if_match, t.version);
    END IF;

    RETURN t;
END
$$;

-- A command of the platform is in both logs: in that of the tenant, which may read it, and in the platform's.
CREATE OR REPLACE FUNCTION domain.platform_audit(home bigint, action text, before jsonb, after jsonb) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    tenant  bigint := domain.tenant_id();
    actor   text := current_setting('commerce.actor', true);
BEGIN
    PERFORM set_config('commerce.actor', 'platform:' || domain.principal(), true);
    PERFORM domain.audit(action, 'tenant', tenant::text, before, after);
    PERFORM set_config('commerce.actor', coalesce(actor, ''), true);

    PERFORM domain.tenant_enter(home);
    PERFORM domain.audit(action, 'tenant', tenant::text, before, after);
    PERFORM domain.tenant_enter(tenant);
END
$$;

-- ── all tables of a tenant ───────────────────────────────────────────────────────────────────────────────────────────

-- Every table with rows of tenants, from the catalogue, so that none that is added later is forgotten. level: a table comes
-- before those that it refers to, so that in this order rows can be deleted. key: columns of the primary key, tenant_id aside.
CREATE OR REPLACE FUNCTION domain.tenant_tables(OUT name text, OUT level int, OUT key text[], OUT types text[])
RETURNS SETOF record
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN QUERY
    WITH RECURSIVE tables AS (
        SELECT c.oid, format('%I.%I', n.nspname, c.relname) AS name
          FROM pg_class c
          JOIN pg_namespace n ON n.oid = c.relnamespace
          JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped
         WHERE c.relkind IN ('r', 'p')
           AND NOT c.relispartition
           AND n.nspname IN ('shop', 'event', 'audit')
    ), refers AS (
        SELECT DISTINCT f.conrelid AS from_, f.confrelid AS to_
          FROM pg_constraint f
          JOIN tables x ON x.oid = f.conrelid
          JOIN tables y ON y.oid = f.confrelid
         WHERE f.contype = 'f' AND f.conrelid <> f.confrelid
    ), levels AS (
        SELECT t.oid, 0 AS level FROM tables t
        UNION                           -- a cycle would go on for ever: the bound ends it, and a test tells
        SELECT r.to_, l.level + 1 FROM levels l JOIN refers r ON r.from_ = l.oid WHERE l.level < 32
    )
    SELECT t.name, (SELECT max(l.level) FROM levels l WHERE l.oid = t.oid),
           array_agg(quote_ident(a.attname) ORDER BY k.place), array_agg(format_type(a.atttypid, a.atttypmod) ORDER BY k.place)
      FROM tables t
      JOIN pg_constraint p ON p.conrelid = t.oid AND p.contype = 'p'
      CROSS JOIN LATERAL unnest(p.conkey) WITH ORDINALITY k(attnum, place)
      JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = k.attnum
     WHERE a.attname <> 'tenant_id' OR cardinality(p.conkey) = 1
     GROUP BY t.oid, t.name
     ORDER BY 2, 1;
END
$$;

-- A page of all rows of the current tenant: {"table", "row"}, its own row first, then table by table in the order of names and
-- keys. A position is {"t": table, "k": key}, with "" for the table of tenants.
CREATE OR REPLACE FUNCTION domain.tenant_export(cursor jsonb, size int, OUT rows json[], OUT page json)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    back    boolean := domain.page_back(cursor);
    t       record;
    since   jsonb;
    found   json[];
    keys    jsonb[];
    places  jsonb[] := '{}';
    n       int;
    more    boolean;
BEGIN
    rows := '{}';

    FOR t IN SELECT * FROM (SELECT x.name AS place, x.name AS source, 'tenant_id' AS mine, x.key, x.types FROM domain.tenant_tables() x
                             UNION ALL
                            SELECT '', 'shop.tenant', 'id', '{id}', '{bigint}') y
              WHERE cursor IS NULL OR CASE WHEN back THEN y.place <= (cursor ->> 't') ELSE y.place >= (cursor ->> 't') END
              ORDER BY CASE WHEN back THEN y.place END DESC, y.place LOOP
        since := CASE WHEN t.place = cursor ->> 't' THEN cursor -> 'k' END;

        EXECUTE (SELECT format(
            'SELECT array_agg(x.row ORDER BY x.place), array_agg(x.key ORDER BY x.place) FROM ('
            '    SELECT json_build_object(''table'', %L, ''row'', row_to_json(r)) AS row, jsonb_build_array(%s) AS key, '
            '           row_number() OVER (ORDER BY %s) AS place'
            '      FROM %s r WHERE r.%s = $1 %s ORDER BY %3$s LIMIT $2) x',
            t.source, string_agg(format('r.%s::text', u.k), ', ' ORDER BY u.o),
            string_agg(format('r.%s %s', u.k, CASE WHEN back THEN 'DESC' ELSE 'ASC' END), ', ' ORDER BY u.o),
            t.source, t.mine,
            CASE WHEN since IS NOT NULL THEN
                format('AND (%s) %s (%s)', string_agg('r.' || u.k, ', ' ORDER BY u.o), CASE WHEN back THEN '<' ELSE '>' END,
                       string_agg(format('($3 ->> %s)::%s', u.o - 1, t.types[u.o::int]), ', ' ORDER BY u.o))
            END)
              FROM unnest(t.key) WITH ORDINALITY u (k, o))
          INTO found, keys
         USING domain.tenant_id(), size + 1 - cardinality(rows), since;

        rows := rows || found;
        places := places || ARRAY(SELECT jsonb_build_object('t', t.place, 'k', u.k) FROM unnest(keys) WITH ORDINALITY u (k, o) ORDER BY u.o);
        EXIT WHEN cardinality(rows) > size;
    END LOOP;

    n := least(cardinality(rows), size);
    more := cardinality(rows) > size;
    rows := rows[:n];
    places := places[:n];
    IF back THEN
        rows := domain.reversed(rows);
        places := domain.reversed(places);
    END IF;
    page := domain.page(size, cursor, n, more, places[1], places[n]);
END
$$;

-- Deletes rows of the current tenant, up to "batch", those first that others do not refer to; the tenant's own row last. true:
-- nothing is left.
CREATE OR REPLACE FUNCTION domain.tenant_erase(batch int) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    t     record;
    left_ int := batch;
    done  int;
BEGIN
    FOR t IN SELECT x.name FROM domain.tenant_tables() x ORDER BY x.level, x.name LOOP
        IF t.name = 'audit.log' THEN
            done := audit.erase(left_);
        ELSE
            -- a ctid may be in several partitions: all their rows are this tenant's, and all of them go
            EXECUTE format('DELETE FROM %1$s d WHERE d.tenant_id = $1 AND d.ctid = ANY (ARRAY('
                           'SELECT x.ctid FROM %1$s x WHERE x.tenant_id = $1 LIMIT $2))', t.name)
              USING domain.tenant_id(), left_;
            GET DIAGNOSTICS done = ROW_COUNT;
        END IF;

        left_ := left_ - done;
        IF left_ <= 0 THEN
            RETURN false;
        END IF;
    END LOOP;

    DELETE FROM shop.tenant x WHERE x.id = domain.tenant_id();
    RETURN true;
END
$$;

-- Erases tenants whose grace is over: up to "batch" rows a round, whatever they are of. Answers how many tenants are gone.
CREATE OR REPLACE FUNCTION domain.erase_due(batch int) RETURNS int
LANGUAGE plpgsql AS $$
DECLARE
    tenant  bigint;
    gone    int := 0;
BEGIN
    FOR tenant IN SELECT t.id FROM platform.tenant_page(0, 1000000, 'deleted', NULL) t
                   WHERE t.erase_after <= now() ORDER BY t.id LOOP
        PERFORM domain.tenant_enter(tenant);
        EXIT WHEN NOT domain.tenant_erase(batch);
        gone := gone + 1;
    END LOOP;
    RETURN gone;
END
$$;
