-- Deploy nginx-commerce:65_tenants to pg
-- requires: 20_identity
-- requires: 50_platform
-- requires: 70_privacy
-- Life of a tenant: suspension and deletion, API keys, host names of its own, the platform's staff.

BEGIN;

SET LOCAL ROLE commerce_owner;

ALTER TABLE shop.tenant
    ADD COLUMN suspended_at    timestamptz,
    ADD COLUMN suspend_reason  text CHECK (length(suspend_reason) <= 500),
    ADD COLUMN erase_after     timestamptz,
    ADD CONSTRAINT tenant_erase CHECK ((status = 'deleted') = (erase_after IS NOT NULL)) NOT VALID;

-- platform: staff of the platform itself; counts in the tenant "platform" only, which the edge and the functions look at
DO $$
DECLARE
    name  text;
BEGIN
    SELECT conname INTO name FROM pg_constraint
     WHERE conrelid = 'shop.app_user'::regclass AND contype = 'c' AND pg_get_constraintdef(oid) ~ '''owner''';
    EXECUTE format('ALTER TABLE shop.app_user DROP CONSTRAINT %I', name);
END
$$;

ALTER TABLE shop.app_user ADD CONSTRAINT app_user_roles_check
    CHECK (roles <@ ARRAY['customer', 'staff', 'owner', 'service', 'platform']);

-- ── API keys ─────────────────────────────────────────────────────────────────────────────────────────────────────────

CREATE TABLE shop.api_key (
    tenant_id   bigint       NOT NULL REFERENCES shop.tenant,
    id          uuid         NOT NULL,
    kind        text         NOT NULL CHECK (kind IN ('publishable', 'secret')),
    name        text         NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
    -- SHA-256 of the key: 256 random bits need no salt
    hash        bytea        NOT NULL CHECK (length(hash) = 32),
    -- its first characters, to tell keys apart
    prefix      text         NOT NULL,
    scopes      text[]       NOT NULL DEFAULT '{}'
                             CHECK (array_to_string(scopes, ' ') ~ '^([a-z0-9_-]+\.[a-z0-9_-]+( [a-z0-9_-]+\.[a-z0-9_-]+)*)?$'),
    created_by  uuid,
    expires_at  timestamptz,
    revoked_at  timestamptz,
    created_at  timestamptz  NOT NULL DEFAULT now(),
    updated_at  timestamptz  NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, hash),
    CHECK (kind = 'secret' OR scopes = '{}')
);

COMMENT ON TABLE shop.api_key IS 'Keys of programs; scopes are permissions of a secret key, a publishable one only names the tenant';

-- Apart from the key: a use is not a change that edges must hear of.
CREATE TABLE shop.api_key_use (
    tenant_id     bigint       NOT NULL,
    key_id        uuid         NOT NULL,
    last_used_at  timestamptz  NOT NULL,
    PRIMARY KEY (tenant_id, key_id),
    FOREIGN KEY (tenant_id, key_id) REFERENCES shop.api_key ON DELETE CASCADE
) WITH (fillfactor = 70);

COMMENT ON TABLE shop.api_key_use IS 'When a key was used last, to the minute';

-- ── host names of their own ──────────────────────────────────────────────────────────────────────────────────────────

CREATE TABLE shop.tenant_domain (
    tenant_id    bigint       NOT NULL REFERENCES shop.tenant,
    host         text         NOT NULL CHECK (host = lower(host) AND length(host) <= 253),
    -- to be found in DNS: _commerce-challenge.<host> TXT "<token>"
    token        text         NOT NULL,
    verified_at  timestamptz,
    created_at   timestamptz  NOT NULL DEFAULT now(),
    updated_at   timestamptz  NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, host)
);

COMMENT ON TABLE shop.tenant_domain IS 'Host names that a tenant claims; a verified one has its row in shop.tenant_host, which is unique over all tenants';

CALL domain.isolate('shop.api_key');
CALL domain.isolate('shop.api_key_use');
CALL domain.isolate('shop.tenant_domain');

RESET ROLE;

-- ── what the edges know ──────────────────────────────────────────────────────────────────────────────────────────────

GRANT SELECT ON shop.api_key, shop.tenant_domain TO commerce_platform;
CREATE POLICY platform ON shop.api_key       FOR SELECT TO commerce_platform USING (true);
CREATE POLICY platform ON shop.tenant_domain FOR SELECT TO commerce_platform USING (true);

SET LOCAL ROLE commerce_platform;

-- Tenants with their settings, host names and keys: those after an id, or the named ones. A key is a line
-- "sha256 id kind expires roles"; those that are over or revoked are not told.
CREATE FUNCTION platform.directory(after bigint, many int, named bigint[], OUT id bigint, OUT slug text, OUT status text,
                                   OUT settings jsonb, OUT hosts text, OUT keys text) RETURNS SETOF record
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
BEGIN
    RETURN QUERY
    SELECT t.id, t.slug, t.status,
           t.settings || jsonb_build_object('name', t.name, 'currency', t.currency, 'locale', t.locale),
           coalesce((SELECT string_agg(h.host, ' ' ORDER BY h.host) FROM shop.tenant_host h WHERE h.tenant_id = t.id), ''),
           coalesce((SELECT string_agg(concat_ws(' ', encode(k.hash, 'hex'), k.id, k.kind,
                                                 coalesce(ceil(extract(epoch FROM k.expires_at))::bigint, 0),
                                                 CASE k.kind WHEN 'secret' THEN 'service' ELSE 'publishable' END,
                                                 nullif(array_to_string(k.scopes, ' '), '')), E'\n' ORDER BY k.id)
                       FROM shop.api_key k
                      WHERE k.tenant_id = t.id AND k.revoked_at IS NULL
                        AND (k.expires_at IS NULL OR k.expires_at > now())), '')
      FROM shop.tenant t
     WHERE CASE WHEN named IS NULL THEN t.id > after ELSE t.id = ANY (named) END
     ORDER BY t.id
     LIMIT many;
END
$$;

-- A page of tenants for the platform's staff.
CREATE FUNCTION platform.tenant_page(after bigint, many int, wanted text, search text) RETURNS SETOF shop.tenant
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
BEGIN
    RETURN QUERY
    SELECT t.*
      FROM shop.tenant t
     WHERE t.id > after
       AND (wanted IS NULL OR t.status = wanted)
       AND (search IS NULL OR strpos(t.slug, lower(search)) > 0 OR strpos(lower(t.name), lower(search)) > 0)
     ORDER BY t.id
     LIMIT many;
END
$$;

-- Claims that wait for the platform's word.
CREATE FUNCTION platform.claims(many int) RETURNS SETOF shop.tenant_domain
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
BEGIN
    RETURN QUERY
    SELECT d.* FROM shop.tenant_domain d WHERE d.verified_at IS NULL ORDER BY d.created_at LIMIT many;
END
$$;

REVOKE ALL ON FUNCTION platform.directory(bigint, int, bigint[]), platform.tenant_page(bigint, int, text, text),
                       platform.claims(int) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION platform.directory(bigint, int, bigint[]), platform.tenant_page(bigint, int, text, text),
                          platform.claims(int) TO commerce_owner;

-- Tells the edges which tenant has changed; PostgreSQL sends equal notices of a transaction once. The argument names the column.
CREATE FUNCTION platform.tenant_changed() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    was  text := to_jsonb(CASE WHEN TG_OP = 'INSERT' THEN NEW ELSE OLD END) ->> TG_ARGV[0];
    is_  text := to_jsonb(CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END) ->> TG_ARGV[0];
BEGIN
    PERFORM pg_notify('commerce_tenants', was);
    IF is_ IS DISTINCT FROM was THEN
        PERFORM pg_notify('commerce_tenants', is_);
    END IF;
    RETURN NULL;
END
$$;

GRANT EXECUTE ON FUNCTION platform.tenant_changed() TO commerce_owner;

RESET ROLE;
SET LOCAL ROLE commerce_owner;

DROP TRIGGER changed ON shop.tenant;
DROP TRIGGER changed ON shop.tenant_host;

CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE ON shop.tenant
    FOR EACH ROW EXECUTE FUNCTION platform.tenant_changed('id');
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE ON shop.tenant_host
    FOR EACH ROW EXECUTE FUNCTION platform.tenant_changed('tenant_id');
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE ON shop.api_key
    FOR EACH ROW EXECUTE FUNCTION platform.tenant_changed('tenant_id');

CREATE TRIGGER emptied AFTER TRUNCATE ON shop.tenant
    FOR EACH STATEMENT EXECUTE FUNCTION platform.tenants_changed();
CREATE TRIGGER emptied AFTER TRUNCATE ON shop.tenant_host
    FOR EACH STATEMENT EXECUTE FUNCTION platform.tenants_changed();
CREATE TRIGGER emptied AFTER TRUNCATE ON shop.api_key
    FOR EACH STATEMENT EXECUTE FUNCTION platform.tenants_changed();

RESET ROLE;

-- ── the end of a tenant ──────────────────────────────────────────────────────────────────────────────────────────────

-- The one exception from "never changed": the log of a tenant that is erased whole, by the log's own role, after the
-- tenant's time is over. A shop's staff cannot bring that about, nor can the platform's before the grace has passed.
CREATE OR REPLACE FUNCTION audit.refuse() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND current_user = 'commerce_audit'
       AND current_setting('commerce.erasing', true) = OLD.tenant_id::text THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = 'The audit log is never changed: ' || TG_OP || ' is refused.';
END
$$;

GRANT USAGE ON SCHEMA shop TO commerce_audit;
GRANT SELECT (id, status, erase_after) ON shop.tenant TO commerce_audit;

SET LOCAL ROLE commerce_audit;

-- Rows of the current tenant's log, so many at a time; how many were deleted. Refuses while the tenant may come back.
CREATE FUNCTION audit.erase(batch int) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    tenant  bigint := domain.tenant_id();
    done    int;
BEGIN
    IF NOT EXISTS (SELECT FROM shop.tenant t
                    WHERE t.id = tenant AND t.status = 'deleted' AND t.erase_after <= now()) THEN
        RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = 'The audit log of a tenant is erased only with the tenant.';
    END IF;

    PERFORM set_config('commerce.erasing', tenant::text, true);
    DELETE FROM audit.log l
     WHERE l.tenant_id = tenant
       AND (l.created_at, l.id) IN (SELECT o.created_at, o.id FROM audit.log o WHERE o.tenant_id = tenant LIMIT batch);
    GET DIAGNOSTICS done = ROW_COUNT;
    PERFORM set_config('commerce.erasing', '', true);

    RETURN done;
END
$$;

REVOKE ALL ON FUNCTION audit.erase(int) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION audit.erase(int) TO commerce_owner;

RESET ROLE;

COMMIT;
