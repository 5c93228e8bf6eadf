CREATE OR REPLACE FUNCTION api.probe_big(bytes int) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    RETURN (200, json_build_object('data', repeat('x', bytes))::text, NULL, NULL)::api.reply;
END
$$;

CREATE OR REPLACE FUNCTION api.probe_sleep(ms int) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    PERFORM pg_sleep(ms / 1000.0);
    RETURN (200, json_build_object('slept', ms)::text, NULL, NULL)::api.reply;
END
$$;

CREATE OR REPLACE FUNCTION api.probe_headers(headers text, status int) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    RETURN (status, '{"data":"x"}', headers::json, NULL)::api.reply;
END
$$;

CREATE OR REPLACE FUNCTION api.probe_empty() RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    RETURN (204, NULL, NULL, NULL)::api.reply;
END
$$;

CREATE OR REPLACE FUNCTION api.probe_body(text text) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    RETURN (200, json_build_object('length', length(text), 'md5', md5(text))::text, NULL, NULL)::api.reply;
END
$$;

CREATE OR REPLACE FUNCTION api.probe_fail(state text) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = state, MESSAGE = 'probe', DETAIL = 'secret detail';
END
$$;

DO $$
DECLARE
    f text;
BEGIN
    FOREACH f IN ARRAY ARRAY['probe_big', 'probe_sleep', 'probe_body', 'probe_fail', 'probe_headers', 'probe_empty'] LOOP
        EXECUTE format('ALTER FUNCTION api.%I OWNER TO commerce_owner', f);
        EXECUTE format('REVOKE ALL ON FUNCTION api.%I FROM PUBLIC', f);
        EXECUTE format('GRANT EXECUTE ON FUNCTION api.%I TO commerce_edge', f);
    END LOOP;
END
$$;
