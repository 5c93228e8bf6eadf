-- Access tokens that are void from now on, at every edge.
--
-- Both functions remember it (shop.revocation), tell all edges when the transaction commits (NOTIFY commerce_revoke) and return
-- {"revoke": […]}: the reply's "edge", so that the edge that serves the command knows before it answers. Commits that notify
-- wait for each other: meant for logouts and changes of passwords, not for every request.

-- One revocation as the edges read it: "s:<session>:<seconds>" or "u:<user>:<seconds>[:<session that stays>]".
CREATE OR REPLACE FUNCTION domain.revocation_entry(kind text, id uuid, keep uuid, revoked_at timestamptz) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT left(kind, 1) || ':' || id || ':' || floor(extract(epoch FROM revoked_at))::bigint || coalesce(':' || keep, '')
$$;

CREATE OR REPLACE FUNCTION domain.revocation_put(p_kind text, p_ids uuid[], p_keep uuid) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
    tenant   bigint := domain.tenant_id();
    -- not now(): what was issued while this transaction waited for a lock is void as well
    at       timestamptz := clock_timestamp();
    entry    text;
    entries  text[];
BEGIN
    -- at least a second after the last time: a token that was issued right after that one bears the second that follows it. No further
    -- ahead than the edges take it: what they read again when they begin is not to void what they have issued meanwhile
    WITH put AS (
        INSERT INTO shop.revocation AS r (tenant_id, kind, id, keep, revoked_at)
        SELECT DISTINCT tenant, p_kind, i.id, p_keep, at
          FROM unnest(p_ids) AS i (id)
         WHERE i.id IS NOT NULL
         ORDER BY i.id
        ON CONFLICT (tenant_id, kind, id) DO UPDATE
           SET keep = excluded.keep, revoked_at = least(greatest(r.revoked_at + interval '1 second', excluded.revoked_at),
                                                     excluded.revoked_at + interval '10 seconds')
        RETURNING r.id, r.revoked_at)
    SELECT coalesce(array_agg(domain.revocation_entry(p_kind, p.id, p_keep, p.revoked_at)), '{}') INTO entries FROM put p;

    -- every call takes some forgotten ones along, so the table cannot grow without end
    DELETE FROM shop.revocation r
     USING (SELECT o.tenant_id, o.kind, o.id
              FROM shop.revocation o
             WHERE o.tenant_id = tenant AND o.revoked_at < at - interval '25 hours'
             ORDER BY o.revoked_at
             LIMIT 10 + cardinality(p_ids)
               FOR UPDATE SKIP LOCKED) o
     WHERE r.tenant_id = o.tenant_id AND r.kind = o.kind AND r.id = o.id;

    FOREACH entry IN ARRAY entries LOOP
        PERFORM pg_notify('commerce_revoke', tenant || ':' || entry);
    END LOOP;

    RETURN jsonb_build_object('revoke', to_jsonb(entries));
END
$$;

-- Every access token of these sessions is void.
CREATE OR REPLACE FUNCTION domain.revoke_sessions(sessions uuid[]) RETURNS jsonb
LANGUAGE sql AS $$
    SELECT domain.revocation_put('session', coalesce(sessions, '{}'), NULL)
$$;

-- Every access token of this user that was issued until now is void, but those of the session "keep" (the one that asked).
-- "sessions" are those that end with it: a token that a refresh under way gets for one of them a moment later is void too.
CREATE OR REPLACE FUNCTION domain.revoke_user(user_id uuid, keep uuid DEFAULT NULL, sessions uuid[] DEFAULT '{}') RETURNS jsonb
LANGUAGE sql AS $$
    SELECT jsonb_build_object('revoke', (domain.revocation_put('user', ARRAY[user_id], keep) -> 'revoke')
                                        || (domain.revoke_sessions(sessions) -> 'revoke'))
$$;
