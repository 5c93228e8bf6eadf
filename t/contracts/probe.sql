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

CREATE OR REPLACE FUNCTION api.probe_echo(text text, count int, list jsonb) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    RETURN (200, json_build_object('text', text, 'count', count, 'list', list)::text, NULL, NULL)::api.reply;
END
$$;

CREATE OR REPLACE FUNCTION api.probe_echo_whole(whole jsonb) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    RETURN (200, json_build_object('whole', whole)::text, NULL, NULL)::api.reply;
END
$$;

-- t/test_sqlmap.py: what must be found.
CREATE OR REPLACE FUNCTION api.probe_unsafe(text text) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    found bigint;
BEGIN
    EXECUTE 'SELECT count(*) FROM pg_catalog.pg_class WHERE relname <> ''' || text || '''' INTO found;
    RETURN (200, json_build_object('found', found)::text, NULL, NULL)::api.reply;
END
$$;

DO $$
DECLARE
    f text;
BEGIN
    FOREACH f IN ARRAY ARRAY['probe_big', 'probe_sleep', 'probe_body', 'probe_fail', 'probe_headers', 'probe_empty', 'probe_echo',
                           'probe_echo_whole', 'probe_unsafe'] LOOP
        EXECUTE format('ALTER FUNCTION api.%I OWNER TO commerce_owner', f);
        EXECUTE format('REVOKE ALL ON FUNCTION api.%I FROM PUBLIC', f);
        EXECUTE format('GRANT EXECUTE ON FUNCTION api.%I TO commerce_edge', f);
    END LOOP;
END
$$;

-- The test that holds lock 4711 keeps the gate closed.
CREATE SEQUENCE IF NOT EXISTS public.probe_turns;

CREATE OR REPLACE FUNCTION api.probe_gate() RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(4711);
    RETURN (200, json_build_object('turn', nextval('public.probe_turns'))::text, NULL, NULL)::api.reply;
END
$$;
