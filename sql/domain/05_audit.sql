-- The audit log (A15): what staff did, never changed afterwards.

-- Who acts: user:<uuid>, key:<id>, platform:<uuid>; system when nobody asked.
CREATE OR REPLACE FUNCTION domain.actor() RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT coalesce(nullif(current_setting('commerce.actor', true), ''),
                    'user:' || nullif(current_setting('commerce.principal', true), ''), 'system')
$$;

-- What must not be kept for ever, by the members' names: the log says that it changed, not what it was.
CREATE OR REPLACE FUNCTION domain.audit_redact(doc jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN CASE jsonb_typeof(doc)
        WHEN 'object' THEN
            (SELECT coalesce(jsonb_object_agg(m.key, CASE
                        WHEN jsonb_typeof(m.value) <> 'null'
                             AND m.key ~ '(password|secret|token|hash|phone|date_of_birth|email|recipient|^(shipping_|billing_)?address$|^line[12]$)'
                        THEN '"(hidden)"' ELSE domain.audit_redact(m.value) END), '{}')
               FROM jsonb_each(doc) m)
        WHEN 'array' THEN
            (SELECT coalesce(jsonb_agg(domain.audit_redact(e.value) ORDER BY e.ordinality), '[]')
               FROM jsonb_array_elements(doc) WITH ORDINALITY e)
        ELSE doc END;
END
$$;

-- Notes what was done, in the transaction of the change. before, after: the entity as it was and is (NULL: it was not there, is no more);
-- what is equal in both is left out. Secrets and personal data are hidden by the names of their members.
CREATE OR REPLACE FUNCTION domain.audit(action text, entity text, entity_id text, before jsonb DEFAULT NULL,
                                        after jsonb DEFAULT NULL) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    was   jsonb := audit.before;
    is_   jsonb := audit.after;
BEGIN
    IF jsonb_typeof(was) = 'object' AND jsonb_typeof(is_) = 'object' THEN
        SELECT jsonb_object_agg(b.key, b.value) INTO was
          FROM jsonb_each(audit.before) b
         WHERE b.value IS DISTINCT FROM audit.after -> b.key AND b.key NOT IN ('updated_at', 'version');
        SELECT jsonb_object_agg(a.key, a.value) INTO is_
          FROM jsonb_each(audit.after) a
         WHERE a.value IS DISTINCT FROM audit.before -> a.key AND a.key NOT IN ('updated_at', 'version');
    END IF;

    INSERT INTO shop.audit_log (tenant_id, actor, operation, action, entity, entity_id, before, after, address, correlation_id)
    VALUES (domain.tenant_id(), domain.actor(), nullif(current_setting('commerce.operation', true), ''),
            audit.action, audit.entity, audit.entity_id, domain.audit_redact(was), domain.audit_redact(is_),
            nullif(current_setting('commerce.address', true), '')::inet, domain.correlation_id());

    PERFORM set_config('commerce.audited', 'yes', true);
END
$$;
