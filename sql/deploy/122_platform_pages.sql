-- Deploy nginx-commerce:122_platform_pages to pg
-- requires: 65_tenants
-- Tenants for the platform's staff, to and fro by their ids.

BEGIN;

SET LOCAL ROLE commerce_platform;

-- A page after an id, or before it when back: read along the primary key, so that it costs what it shows.
CREATE FUNCTION platform.tenant_page(mark bigint, back boolean, many int, wanted text, search text) RETURNS SETOF shop.tenant
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
BEGIN
    IF back THEN
        RETURN QUERY
        SELECT t.*
          FROM shop.tenant t
         WHERE t.id < mark
           AND (wanted IS NULL OR t.status = wanted)
           AND (search IS NULL OR strpos(t.slug, lower(search)) > 0 OR strpos(lower(t.name), lower(search)) > 0)
         ORDER BY t.id DESC
         LIMIT many;
    ELSE
        RETURN QUERY SELECT t.* FROM platform.tenant_page(mark, many, wanted, search) t;
    END IF;
END
$$;

REVOKE ALL ON FUNCTION platform.tenant_page(bigint, boolean, int, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION platform.tenant_page(bigint, boolean, int, text, text) TO commerce_owner;

RESET ROLE;

COMMIT;
