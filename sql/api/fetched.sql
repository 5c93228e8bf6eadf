-- What comes after an outbound call (docs/contract.md, section 8).

-- The answer under the request's key is from now on this one: whoever repeats the request is told the end, not the beginning.
CREATE OR REPLACE FUNCTION api.keep_later(key text, scope text, status int, headers json, body text) RETURNS void
LANGUAGE sql SECURITY DEFINER AS $$
    UPDATE shop.idempotency i
       SET status = keep_later.status, headers = keep_later.headers, body = keep_later.body
     WHERE i.tenant_id = domain.tenant_id() AND i.scope = keep_later.scope AND i.key = keep_later.key;
$$;

-- Calls function (a name in schema api) with the members of args and what came of the call as named parameters.  With the
-- rights of the edge: it reaches nothing that a contract could not name.
CREATE OR REPLACE FUNCTION api.fetched(function text, args jsonb, fetch_status int, fetch_body text, fetch_error text,
                                       fetch_ms int, key text DEFAULT NULL, scope text DEFAULT NULL) RETURNS api.reply
LANGUAGE plpgsql AS $$
DECLARE
    reply  api.reply;
    named  text;
BEGIN
    IF function !~ '^api\.[a-z_][a-z0-9_]*$' THEN
        RAISE EXCEPTION 'edge.fetch: "then" is a function of schema api, not "%"', function;
    END IF;

    -- literals without a type: the function's signature decides, as it does for a contract's arguments
    SELECT string_agg(format('%I => %L', a.key, a.value), ', ')
      INTO named
      FROM (SELECT e.key, e.value FROM jsonb_each_text(coalesce(args, '{}')) e
             UNION ALL
            VALUES ('fetch_status', fetch_status::text), ('fetch_body', fetch_body), ('fetch_error', fetch_error),
                   ('fetch_ms', fetch_ms::text)) a;

    EXECUTE format('SELECT r.status, r.body, r.headers, r.edge FROM %s(%s) r', function, named) INTO reply;

    IF key IS NOT NULL AND reply.status < 500 THEN
        PERFORM api.keep_later(key, scope, reply.status, reply.headers, reply.body);
    END IF;

    RETURN reply;
END
$$;
