-- What the edge itself asks, outside of any request.

-- For edges of the version before: the list of tenants with their host names, and when it was true (microseconds since 1970, for "which is newer").
-- Needs no tenant context; commerce_platform's policies allow exactly this.
CREATE OR REPLACE FUNCTION api.edge_snapshot(OUT as_of bigint, OUT id bigint, OUT slug text, OUT currency text,
                                             OUT status text, OUT settings jsonb, OUT hosts text) RETURNS SETOF record
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
BEGIN
    RETURN QUERY
    SELECT (extract(epoch FROM statement_timestamp()) * 1000000)::bigint,
           t.id, t.slug, t.currency, t.status, t.settings, t.hosts
      FROM platform.tenants() t;
END
$$;

-- What was revoked in the last so many seconds: "<tenant>:<entry>", as a notice on commerce_revoke brings it.
CREATE OR REPLACE FUNCTION api.edge_revocations(seconds int) RETURNS SETOF text
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
BEGIN
    RETURN QUERY
    SELECT r.tenant_id || ':' || domain.revocation_entry(r.kind, r.id, r.keep, r.revoked_at)
      FROM platform.revocations(edge_revocations.seconds) r;
END
$$;

-- Tenants, their settings, host names and API keys: those after an id, a page of them, or the named ones. as_of as above.
CREATE OR REPLACE FUNCTION api.edge_directory(after bigint, many int, named bigint[], OUT as_of bigint, OUT id bigint, OUT slug text,
                                              OUT status text, OUT settings jsonb, OUT hosts text, OUT keys text)
RETURNS SETOF record
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
BEGIN
    RETURN QUERY
    SELECT (extract(epoch FROM statement_timestamp()) * 1000000)::bigint,
           t.id, t.slug, t.status, t.settings, t.hosts, t.keys
      FROM platform.directory(after, many, named) t;
END
$$;

-- "tenant:key" of keys that were used since the edge told last.
CREATE OR REPLACE FUNCTION api.edge_keys_used(used text[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    item  text;
BEGIN
    FOREACH item IN ARRAY used LOOP
        PERFORM domain.tenant_enter(split_part(item, ':', 1)::bigint);

        INSERT INTO shop.api_key_use AS u (tenant_id, key_id, last_used_at)
        SELECT k.tenant_id, k.id, now()
          FROM shop.api_key k
         WHERE k.tenant_id = domain.tenant_id() AND k.id = split_part(item, ':', 2)::uuid
        ON CONFLICT ON CONSTRAINT api_key_use_pkey DO UPDATE SET last_used_at = excluded.last_used_at;
    END LOOP;

    PERFORM domain.tenant_enter(NULL);
END
$$;
