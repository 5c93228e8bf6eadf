-- Telling the edges that cached answers are void.

-- Voids the current tenant's tags at all edges when the transaction commits; PostgreSQL sends equal notices of one
-- transaction once. Commits that notify wait for each other: meant for staff writes. What shoppers change is voided
-- by the reply's edge.invalidate at the edge that served it, and by the entries' time elsewhere.
CREATE OR REPLACE FUNCTION domain.invalidate(tags text[]) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    tag  text;
BEGIN
    FOREACH tag IN ARRAY coalesce(tags, '{}') LOOP
        PERFORM pg_notify('commerce_invalidate', domain.tenant_id() || ':' || tag);
    END LOOP;
END
$$;
