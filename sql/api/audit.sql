-- The audit log (A15): the rows that nobody can forget, and reading it.

-- What the module puts around every call of a staff command: one that did not write its own row leaves the fact.
CREATE OR REPLACE FUNCTION api.audited(status int, body text, headers json, edge json) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    operation  text := current_setting('commerce.operation', true);
BEGIN
    IF status < 300 AND coalesce(current_setting('commerce.audited', true), '') = '' THEN
        PERFORM domain.audit(operation, regexp_replace(operation, '_[a-z0-9]+$', ''), NULL);
    END IF;
    RETURN (status, body, headers, edge)::api.reply;
END
$$;

CREATE OR REPLACE FUNCTION domain.audit_json(a shop.audit_log) RETURNS json
LANGUAGE sql STABLE AS $$
    SELECT json_build_object('id', a.id, 'created_at', domain.ts(a.created_at), 'actor', a.actor, 'operation', a.operation,
                             'action', a.action, 'entity', a.entity, 'entity_id', a.entity_id, 'before', a.before, 'after', a.after,
                             'address', host(a.address), 'correlation_id', a.correlation_id)
$$;

-- A15: what staff did, newest first.
CREATE OR REPLACE FUNCTION api.audit_list(
    "limit" int DEFAULT 20, cursor jsonb DEFAULT NULL, actor text DEFAULT NULL, action text DEFAULT NULL, entity text DEFAULT NULL,
    entity_id text DEFAULT NULL, created_after timestamptz DEFAULT NULL, created_before timestamptz DEFAULT NULL)
RETURNS api.reply LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
BEGIN
    PERFORM domain.need('audit.read');

    -- months that the filters rule out are not looked at: planned for these values
    RETURN domain.page_list('shop.audit_log', 'domain.audit_json(r)', '{created_at,id}', true,
        domain.page_where(jsonb_build_object('actor', actor, 'action', action, 'entity', entity, 'entity_id', entity_id))
        || coalesce(' AND r.created_at >= ' || quote_literal(created_after), '')
        || coalesce(' AND r.created_at < ' || quote_literal(created_before), ''),
        "limit", cursor);
END
$$;
