CREATE OR REPLACE FUNCTION api.cached_get(id bigint, bytes int) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    RETURN (200, json_build_object('id', id, 'tenant', domain.tenant_id(), 'made', clock_timestamp(),
                                   'pad', repeat(chr(97 + (id % 26)::int), bytes))::text,
            json_build_object('ETag', format('"%s-%s"', id, bytes)), NULL)::api.reply;
END
$$;

CREATE OR REPLACE FUNCTION api.cached_short(id bigint) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    RETURN (200, json_build_object('made', clock_timestamp())::text, NULL, NULL)::api.reply;
END
$$;

CREATE OR REPLACE FUNCTION api.cached_void(id bigint) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    RETURN (200, '{}', NULL, json_build_object('invalidate', json_build_array('cached:' || id)))::api.reply;
END
$$;

CREATE OR REPLACE FUNCTION api.cached_notify(id bigint) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    PERFORM domain.invalidate(ARRAY['cached:' || id]);
    RETURN (200, '{}', NULL, NULL)::api.reply;
END
$$;

DO $$
DECLARE
    f text;
BEGIN
    FOREACH f IN ARRAY ARRAY['cached_get', 'cached_short', 'cached_void', 'cached_notify'] LOOP
        EXECUTE format('ALTER FUNCTION api.%I OWNER TO commerce_owner', f);
        EXECUTE format('REVOKE ALL ON FUNCTION api.%I FROM PUBLIC', f);
        EXECUTE format('GRANT EXECUTE ON FUNCTION api.%I TO commerce_edge', f);
    END LOOP;
END
$$;
