-- Login, refresh, sessions and profile. Passwords are compared in the worker, tokens hashed there: neither is seen here.

-- First half of a login: counts the attempt and hands the hash to the worker, and the sealed secret of a second factor if there is one.
-- An unknown or disabled account answers in the same shape, and costs the worker the same.
CREATE OR REPLACE FUNCTION api.login_begin(email text, address text) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    u       record;
    tenant  bigint := domain.tenant_id();
    pause   int := domain.login_brake(login_begin.email, login_begin.address);
BEGIN
    IF pause IS NOT NULL THEN
        -- returned, not raised: the attempt stays counted
        RETURN domain.refuse(429, 'too-many-attempts', 'Too many attempts to log in; try again later, or ask for a new password.',
                             jsonb_build_object('retry_after', pause));
    END IF;

    -- every attempt takes two forgotten ones along, so the table cannot grow without end
    DELETE FROM shop.login_attempt a
     USING (SELECT o.tenant_id, o.account
              FROM shop.login_attempt o
             WHERE o.tenant_id = tenant AND o.last_at < now() - interval '1 day'
             ORDER BY o.last_at
             LIMIT 2
               FOR UPDATE SKIP LOCKED) o
     WHERE a.tenant_id = o.tenant_id AND a.account = o.account;

    SELECT a.id, a.password_hash, a.password_version, t.secret INTO u
      FROM shop.app_user a
      LEFT JOIN shop.totp t ON t.tenant_id = a.tenant_id AND t.user_id = a.id AND t.confirmed_at IS NOT NULL
     WHERE a.tenant_id = tenant
       AND a.email_key = lower(login_begin.email)
       AND a.deleted_at IS NULL
       AND a.status = 'active';

    RETURN (200,
            json_build_object('user_id', u.id, 'password_hash', coalesce(u.password_hash, ''),
                              'password_version', u.password_version, 'secret', u.secret)::text,
            NULL, NULL)::api.reply;
END
$$;

-- Second half, after the worker found the password good: second factor, session, refresh token.
-- refresh_hash: SHA-256 of the refresh token in hex. password_rehash: the password under today's cost, or absent. password_version: of
-- the password that was compared. totp_step: of the code, when it fits; totp: the code, good or not.
CREATE OR REPLACE FUNCTION api.login_finish(
    user_id uuid, session_id uuid, refresh_hash text, password_rehash text, password_version int, address text, user_agent text,
    totp_step bigint, totp text, recovery_code text)
RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    u       shop.app_user;
    second  boolean;
BEGIN
    -- updated_at and version are the profile's: a login changes neither
    UPDATE shop.app_user a
       SET last_login_at = now(),
           password_hash = coalesce(login_finish.password_rehash, a.password_hash)
     WHERE a.tenant_id = domain.tenant_id()
       AND a.id = login_finish.user_id
       AND a.password_version = login_finish.password_version
       AND a.deleted_at IS NULL
       AND a.status = 'active'
    RETURNING a.* INTO u;

    -- an address that nobody has confirmed answers as a wrong password does: else a registration would tell whether it was taken
    IF u.id IS NULL OR (u.email_verified_at IS NULL AND domain.identity_setting('login_unverified', 0) = 0) THEN
        PERFORM domain.fail(401, 'invalid-credentials', 'E-mail or password is wrong.');
    END IF;

    second := domain.second_factor(u, totp_step, totp, recovery_code);

    PERFORM domain.login_proven(u, login_finish.address);

    RETURN (200, domain.session_begin(u, session_id, refresh_hash, address, user_agent, second)::text, NULL, NULL)::api.reply;
END
$$;

-- A2: the refresh token is exchanged for a new one. One that comes a second time was stolen, from here or from whoever used it first:
-- the session with all tokens that descend from its login is over. used_hash: of the token that came; refresh_hash: of the new one.
CREATE OR REPLACE FUNCTION api.refresh(used_hash text, refresh_hash text, address text, user_agent text) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    tenant  bigint := domain.tenant_id();
    used    bytea := decode(used_hash, 'hex');
    s       shop.session;
    r       shop.refresh_token;
    u       shop.app_user;
    refusal api.reply := domain.refresh_refused();
BEGIN
    -- all that comes with tokens of one login takes turns at the session
    SELECT x.* INTO s
      FROM shop.session x
     WHERE x.tenant_id = tenant
       AND x.id = (SELECT o.session_id FROM shop.refresh_token o WHERE o.tenant_id = tenant AND o.hash = used)
       FOR UPDATE;

    SELECT o.* INTO r FROM shop.refresh_token o WHERE o.tenant_id = tenant AND o.hash = used;

    IF r.used_at IS NOT NULL AND s.revoked_at IS NULL
       AND r.used_at < clock_timestamp() - domain.identity_interval('refresh_grace', interval '0') THEN
        refusal.edge := domain.session_end(s.id);
    END IF;

    IF r.hash IS NULL OR r.used_at IS NOT NULL OR r.revoked_at IS NOT NULL OR r.expires_at <= now()
       OR s.revoked_at IS NOT NULL OR s.expires_at <= now() THEN
        -- returned, not raised: the end of the session stays
        RETURN refusal;
    END IF;

    SELECT a.* INTO u
      FROM shop.app_user a
     WHERE a.tenant_id = tenant AND a.id = s.user_id AND a.deleted_at IS NULL AND a.status = 'active';

    IF NOT FOUND THEN
        RETURN refusal;
    END IF;

    UPDATE shop.refresh_token o
       SET used_at = clock_timestamp()
     WHERE o.tenant_id = tenant AND o.hash = used;

    RETURN (200, domain.session_extend(u, s, r.family, refresh_hash, refresh.address, refresh.user_agent)::text, NULL,
            NULL)::api.reply;
END
$$;

-- A3: ends the session of the access token or of the refresh token. It is no secret whether there was one.
CREATE OR REPLACE FUNCTION api.logout(session text, used_hash text) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    sid  uuid := nullif(logout.session, '')::uuid;
BEGIN
    IF used_hash IS NOT NULL THEN
        SELECT r.session_id INTO sid
          FROM shop.refresh_token r
         WHERE r.tenant_id = domain.tenant_id() AND r.hash = decode(used_hash, 'hex');

    ELSIF domain.principal() IS NULL THEN
        PERFORM domain.fail(401, 'unauthorized', 'Send the access token or the refresh token of the session that is to end.');
    END IF;

    RETURN (204, NULL, NULL, domain.session_end(sid))::api.reply;
END
$$;

-- A4: whose is the access token that came? The edge has verified it; here is looked at what it cannot know: is the account still there.
CREATE OR REPLACE FUNCTION api.auth_validate(session text) RETURNS api.reply
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    names  text[] := string_to_array(current_setting('commerce.roles', true), ' ');
    u      shop.app_user;
BEGIN
    SELECT a.* INTO u
      FROM shop.app_user a
     WHERE a.tenant_id = domain.tenant_id() AND a.id = domain.principal() AND a.deleted_at IS NULL AND a.status = 'active'
       AND NOT EXISTS (SELECT
                         FROM shop.session s
                        WHERE s.tenant_id = a.tenant_id AND s.id = nullif(auth_validate.session, '')::uuid
                          AND s.revoked_at IS NOT NULL);

    IF NOT FOUND THEN
        PERFORM domain.fail(401, 'unauthorized', 'A valid access token is needed: Authorization: Bearer <token>.');
    END IF;

    RETURN (200, json_build_object(
                'valid', true, 'user_id', u.id, 'tenant_id', u.tenant_id::text, 'session_id', nullif(auth_validate.session, ''),
                'email', u.email, 'roles', array(SELECT x FROM unnest(names) x WHERE x <> '' AND strpos(x, '.') = 0),
                'permissions', array(SELECT x FROM unnest(names) x WHERE strpos(x, '.') > 0))::text, NULL, NULL)::api.reply;
END
$$;

-- My sessions that are alive, the latest first.
CREATE OR REPLACE FUNCTION api.session_list(session text) RETURNS api.reply
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
BEGIN
    RETURN (200, json_build_object('data', coalesce(
            (SELECT json_agg(json_build_object(
                        'id', s.id, 'current', s.id::text = session_list.session, 'created_at', domain.ts(s.created_at),
                        'last_used_at', domain.ts(s.last_used_at), 'expires_at', domain.ts(s.expires_at),
                        'address', host(s.address), 'user_agent', s.user_agent, 'second_factor', s.second_factor)
                        ORDER BY s.last_used_at DESC, s.id)
               FROM (SELECT x.*
                       FROM shop.session x
                      WHERE x.tenant_id = domain.tenant_id() AND x.user_id = domain.principal() AND x.revoked_at IS NULL
                        AND x.expires_at > now()
                      ORDER BY x.last_used_at DESC, x.id
                      LIMIT 100) s), '[]'))::text, NULL, NULL)::api.reply;
END
$$;

-- Ends one of my sessions.
CREATE OR REPLACE FUNCTION api.session_delete(id uuid) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    PERFORM FROM shop.session s
      WHERE s.tenant_id = domain.tenant_id() AND s.id = session_delete.id AND s.user_id = domain.principal()
        AND s.revoked_at IS NULL AND s.expires_at > now();
    IF NOT FOUND THEN
        PERFORM domain.fail(404, 'not-found', 'You have no such session.');
    END IF;

    RETURN (204, NULL, NULL, domain.session_end(session_delete.id))::api.reply;
END
$$;

-- Ends all my sessions, or all but the one that asks.
CREATE OR REPLACE FUNCTION api.session_revoke_all(session text, keep_current boolean DEFAULT NULL) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    e  record;
BEGIN
    PERFORM domain.account_hold();

    SELECT * INTO e
      FROM domain.sessions_end(domain.principal(), CASE WHEN keep_current THEN nullif(session_revoke_all.session, '')::uuid END);

    RETURN (200, json_build_object('revoked', e.ended)::text, NULL, e.edge)::api.reply;
END
$$;

-- J1: the profile of whoever asks.
CREATE OR REPLACE FUNCTION api.profile_get() RETURNS api.reply
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    u  shop.app_user := domain.current_app_user();
BEGIN
    RETURN (200, domain.user_json(u)::text, json_build_object('ETag', format('"%s"', u.version)), NULL)::api.reply;
END
$$;

-- J1: members that are sent are replaced, null empties one, the others stay. Phone and date of birth arrive sealed.
CREATE OR REPLACE FUNCTION api.profile_put(profile jsonb) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    u  shop.app_user := domain.current_app_user();
BEGIN
    IF length((profile->'preferences')::text) > 16384 THEN
        PERFORM domain.fail(422, 'validation-failed', 'The preferences are too long.',
                            '{"errors":[{"pointer":"/preferences","code":"maxLength","message":"must have at most 16384 characters"}]}');
    END IF;

    UPDATE shop.app_user a
       SET name          = CASE WHEN profile ? 'name' THEN coalesce(profile->>'name', '') ELSE a.name END,
           phone         = CASE WHEN profile ? 'phone' THEN profile->>'phone' ELSE a.phone END,
           avatar_url    = CASE WHEN profile ? 'avatar_url' THEN profile->>'avatar_url' ELSE a.avatar_url END,
           date_of_birth = CASE WHEN profile ? 'date_of_birth' THEN profile->>'date_of_birth' ELSE a.date_of_birth END,
           preferences   = CASE WHEN profile ? 'preferences'
                                THEN coalesce(nullif(profile->'preferences', 'null'), '{}') ELSE a.preferences END,
           version       = a.version + 1,
           updated_at    = now()
     WHERE a.tenant_id = u.tenant_id AND a.id = u.id
    RETURNING a.* INTO u;

    RETURN (200, domain.user_json(u)::text, json_build_object('ETag', format('"%s"', u.version)), NULL)::api.reply;
END
$$;
