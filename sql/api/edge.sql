-- What the edge itself asks, outside of any request.

-- The list of tenants with their host names, and when it was true (microseconds since 1970, for "which is newer").
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
