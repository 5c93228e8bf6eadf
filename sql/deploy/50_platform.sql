-- Deploy nginx-commerce:50_platform to pg
-- requires: 00_foundation
-- What is above the tenants: a role that sees their list, and nothing else of theirs.
--
-- Functions of schema api run as commerce_owner, which row-level security confines to the tenant of the request. The edge
-- has to know all host names before it knows a tenant; that one question is answered by commerce_platform.

BEGIN;

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'commerce_platform') THEN
        CREATE ROLE commerce_platform NOLOGIN NOBYPASSRLS;
    END IF;
END
$$;

CREATE SCHEMA platform AUTHORIZATION commerce_platform;
COMMENT ON SCHEMA platform IS 'What is above the tenants';

GRANT USAGE ON SCHEMA shop TO commerce_platform;
GRANT SELECT ON shop.tenant, shop.tenant_host TO commerce_platform;

CREATE POLICY platform ON shop.tenant      FOR SELECT TO commerce_platform USING (true);
CREATE POLICY platform ON shop.tenant_host FOR SELECT TO commerce_platform USING (true);

GRANT USAGE ON SCHEMA platform TO commerce_owner;

SET LOCAL ROLE commerce_platform;

-- All tenants that are not deleted, with their host names separated by spaces.
CREATE FUNCTION platform.tenants(OUT id bigint, OUT slug text, OUT currency text, OUT status text, OUT settings jsonb,
                                 OUT hosts text) RETURNS SETOF record
LANGUAGE sql STABLE SECURITY DEFINER AS $$
    SELECT t.id, t.slug, t.currency::text, t.status, t.settings,
           coalesce((SELECT string_agg(h.host, ' ' ORDER BY h.host)
                       FROM shop.tenant_host h
                      WHERE h.tenant_id = t.id), '')
      FROM shop.tenant t
     WHERE t.deleted_at IS NULL
       AND t.status <> 'deleted'
     ORDER BY t.id
$$;

REVOKE ALL ON FUNCTION platform.tenants() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION platform.tenants() TO commerce_owner;

-- Tells the edges to ask again, once for each transaction however many rows it changed.
CREATE FUNCTION platform.tenants_changed() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('commerce_tenants', '');
    RETURN NULL;
END
$$;

GRANT EXECUTE ON FUNCTION platform.tenants_changed() TO commerce_owner;

RESET ROLE;
SET LOCAL ROLE commerce_owner;

CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON shop.tenant
    FOR EACH STATEMENT EXECUTE FUNCTION platform.tenants_changed();
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON shop.tenant_host
    FOR EACH STATEMENT EXECUTE FUNCTION platform.tenants_changed();

COMMIT;
