-- The beginning of every transaction of the edge, and its end when a key came: docs/contract.md, sections 5 and 6.

-- Context of a read. tenant_id: NULL for routes that belong to no shop. roles: space-separated. One expression of parameters
-- that stand there once, so that the planner inlines it: half the cost of the same in PL/pgSQL. What it returns says nothing.
CREATE OR REPLACE FUNCTION api.begin_request(tenant_id bigint, principal uuid, roles text, correlation_id text,
                                             traceparent text) RETURNS text
LANGUAGE sql AS $$
    SELECT set_config('commerce.tenant_id', coalesce(tenant_id::text, ''), true)
           || set_config('commerce.principal', coalesce(principal::text, ''), true)
           || set_config('commerce.roles', coalesce(roles, ''), true)
           || set_config('commerce.correlation_id', coalesce(correlation_id, ''), true)
           || set_config('commerce.traceparent', coalesce(traceparent, ''), true)
$$;

-- Context of a command. With an idempotency key its record is inserted, or, when it is there, its answer raised as SHRPL.
-- A twin that still runs is waited for on the record's unique index, for as long as lock_timeout allows.
CREATE OR REPLACE FUNCTION api.begin_command(tenant_id bigint, principal uuid, roles text, correlation_id text,
                                             traceparent text, operation text, idempotency_key text, fingerprint bytea,
                                             scope text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    kept  shop.idempotency;
BEGIN
    PERFORM set_config('commerce.tenant_id', coalesce(tenant_id::text, ''), true),
            set_config('commerce.principal', coalesce(principal::text, ''), true),
            set_config('commerce.roles', coalesce(roles, ''), true),
            set_config('commerce.correlation_id', coalesce(correlation_id, ''), true),
            set_config('commerce.traceparent', coalesce(traceparent, ''), true),
            set_config('commerce.idempotency_key', coalesce(idempotency_key, ''), true),
            set_config('commerce.scope', coalesce(scope, ''), true);

    IF idempotency_key IS NULL THEN
        RETURN;
    END IF;

    LOOP
        INSERT INTO shop.idempotency AS i (tenant_id, scope, key, operation, fingerprint)
        VALUES (begin_command.tenant_id, begin_command.scope, idempotency_key, begin_command.operation,
                begin_command.fingerprint)
        ON CONFLICT ON CONSTRAINT idempotency_pkey DO UPDATE
           SET operation = excluded.operation, fingerprint = excluded.fingerprint, status = NULL, headers = NULL,
               body = NULL, created_at = now(), expires_at = now() + interval '24 hours'
         WHERE i.expires_at < now();

        IF FOUND THEN
            RETURN;
        END IF;

        SELECT * INTO kept
          FROM shop.idempotency i
         WHERE i.tenant_id = begin_command.tenant_id
           AND i.scope = begin_command.scope
           AND i.key = idempotency_key;

        EXIT WHEN FOUND;                -- else it was deleted in between
    END LOOP;

    IF kept.fingerprint <> begin_command.fingerprint THEN
        PERFORM domain.fail(422, 'idempotency-key-reused',
                            'This Idempotency-Key was used for another request; take a new one.');
    END IF;

    IF kept.status IS NULL THEN         -- committed without an answer: cannot be, but must not run twice
        PERFORM domain.fail(409, 'busy', 'The first request with this key is still running; try again.',
                            '{"retry_after": 1}');
    END IF;

    RAISE EXCEPTION USING
        ERRCODE = 'SHRPL',
        MESSAGE = coalesce(kept.body, ''),
        DETAIL = json_build_object('status', kept.status, 'headers', kept.headers)::text;
END
$$;

-- Stores the answer under the request's key and hands it on.
CREATE OR REPLACE FUNCTION api.keep_reply(status int, body text, headers json, edge json) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    UPDATE shop.idempotency i
       SET status = keep_reply.status, body = keep_reply.body, headers = keep_reply.headers
     WHERE i.tenant_id = domain.tenant_id()
       AND i.scope = current_setting('commerce.scope')
       AND i.key = current_setting('commerce.idempotency_key');

    RETURN (status, body, headers, edge)::api.reply;
END
$$;
