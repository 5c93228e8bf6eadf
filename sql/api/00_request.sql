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

-- Context of a command. With an idempotency key: when its answer is there already it is raised as SHRPL. Commands with one key take turns
-- at a lock of the key, for as long as lock_timeout allows; the record is written at the end, with the answer, once.
-- address: the client's; actor: who acts when it is not the principal, key:<id> or platform:<uuid> (for the audit log).
CREATE OR REPLACE FUNCTION api.begin_command(tenant_id bigint, principal uuid, roles text, correlation_id text,
                                             traceparent text, operation text, idempotency_key text, fingerprint bytea,
                                             scope text, address text DEFAULT NULL, actor text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    kept     shop.idempotency;
    context  text;
BEGIN
    -- assignments: PERFORM would start the executor for each
    context := set_config('commerce.tenant_id', coalesce(tenant_id::text, ''), true)
            || set_config('commerce.principal', coalesce(principal::text, ''), true)
            || set_config('commerce.roles', coalesce(roles, ''), true)
            || set_config('commerce.correlation_id', coalesce(correlation_id, ''), true)
            || set_config('commerce.traceparent', coalesce(traceparent, ''), true)
            || set_config('commerce.operation', coalesce(operation, ''), true)
            || set_config('commerce.address', coalesce(address, ''), true)
            || set_config('commerce.actor', coalesce(actor, ''), true)
            || set_config('commerce.idempotency_key', coalesce(idempotency_key, ''), true);

    IF idempotency_key IS NULL THEN
        RETURN;
    END IF;

    context := set_config('commerce.scope', scope, true)
            || set_config('commerce.fingerprint', fingerprint::text, true)
            || pg_advisory_xact_lock(hashtextextended(scope || ' ' || idempotency_key, coalesce(tenant_id, 0)))::text;

    -- a statement of its own: its snapshot is younger than the lock
    SELECT * INTO kept
      FROM shop.idempotency i
     WHERE i.tenant_id = begin_command.tenant_id AND i.scope = begin_command.scope AND i.key = idempotency_key;

    IF NOT FOUND THEN
        RETURN;
    END IF;

    IF kept.expires_at < now() THEN
        DELETE FROM shop.idempotency i
         WHERE i.tenant_id = begin_command.tenant_id AND i.scope = begin_command.scope AND i.key = idempotency_key;
        RETURN;
    END IF;

    IF kept.fingerprint <> begin_command.fingerprint THEN
        PERFORM domain.fail(422, 'idempotency-key-reused',
                            'This Idempotency-Key was used for another request; take a new one.');
    END IF;

    -- what is raised is in PostgreSQL's log as well, but for this field, and answers hold names and addresses
    RAISE EXCEPTION USING
        ERRCODE = 'SHRPL',
        MESSAGE = 'The answer is kept under this key.',
        DATATYPE = coalesce(kept.body, ''),
        DETAIL = json_build_object('status', kept.status, 'headers', kept.headers)::text;
END
$$;

-- Before the steps of a command that judge it by what its first try has changed: api.begin_command() has looked the key up.
CREATE OR REPLACE FUNCTION api.recall() RETURNS api.reply
LANGUAGE sql IMMUTABLE AS $$
    SELECT (200, NULL, NULL, NULL)::api.reply
$$;

-- Stores the answer under the request's key and hands it on; one that says "try again" is not the last word, and not kept.
CREATE OR REPLACE FUNCTION api.keep_reply(status int, body text, headers json, edge json) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    IF status IN (409, 429) OR status >= 500 THEN
        RETURN (status, body, headers, edge)::api.reply;
    END IF;

    INSERT INTO shop.idempotency (tenant_id, scope, key, operation, fingerprint, status, headers, body)
    VALUES (domain.tenant_id(), current_setting('commerce.scope'), current_setting('commerce.idempotency_key'),
            current_setting('commerce.operation'), current_setting('commerce.fingerprint')::bytea, status, headers, body);

    RETURN (status, body, headers, edge)::api.reply;
END
$$;
