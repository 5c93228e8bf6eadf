-- Login and profile. The password itself is compared in the worker, never here.

-- First half of a login: counts the attempt and hands the hash to the worker.
-- An unknown or disabled account answers in the same shape, and costs the worker the same.
CREATE OR REPLACE FUNCTION api.login_begin(email text) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    u       record;
    tenant  bigint := domain.tenant_id();
BEGIN
    INSERT INTO shop.login_attempt AS a (tenant_id, account)
    VALUES (tenant, domain.login_account(login_begin.email))
    ON CONFLICT (tenant_id, account) DO UPDATE
       SET attempts = a.attempts + 1, last_at = now();

    -- every attempt takes two forgotten ones along, so the table cannot grow without end
    DELETE FROM shop.login_attempt a
     USING (SELECT o.tenant_id, o.account
              FROM shop.login_attempt o
             WHERE o.tenant_id = tenant AND o.last_at < now() - interval '1 day'
             ORDER BY o.last_at
             LIMIT 2
               FOR UPDATE SKIP LOCKED) o
     WHERE a.tenant_id = o.tenant_id AND a.account = o.account;

    SELECT a.id, a.password_hash INTO u
      FROM shop.app_user a
     WHERE a.tenant_id = tenant
       AND a.email_key = lower(login_begin.email)
       AND a.deleted_at IS NULL
       AND a.status = 'active';

    RETURN (200,
            json_build_object('user_id', u.id, 'password_hash', coalesce(u.password_hash, ''))::text,
            NULL, NULL)::api.reply;
END
$$;

-- Second half, after the worker found the password good: session and refresh token.
-- refresh_hash: SHA-256 of the refresh token in hex. password_rehash: the password under today's cost, or absent.
CREATE OR REPLACE FUNCTION api.login_finish(user_id uuid, session_id uuid, refresh_hash text, password_rehash text)
RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    u       shop.app_user;
    tenant  bigint := domain.tenant_id();
BEGIN
    -- updated_at and version are the profile's: a login changes neither
    UPDATE shop.app_user a
       SET last_login_at = now(),
           password_hash = coalesce(login_finish.password_rehash, a.password_hash)
     WHERE a.tenant_id = tenant
       AND a.id = login_finish.user_id
       AND a.deleted_at IS NULL
       AND a.status = 'active'
    RETURNING a.* INTO u;

    IF NOT FOUND THEN
        PERFORM domain.fail(401, 'invalid-credentials', 'E-mail or password is wrong.');
    END IF;

    INSERT INTO shop.session (tenant_id, id, user_id, expires_at)
    VALUES (tenant, login_finish.session_id, u.id, now() + interval '30 days');

    INSERT INTO shop.refresh_token (tenant_id, hash, session_id, family, expires_at)
    VALUES (tenant, decode(login_finish.refresh_hash, 'hex'), login_finish.session_id, login_finish.session_id,
            now() + interval '30 days');

    DELETE FROM shop.login_attempt a
     WHERE a.tenant_id = tenant AND a.account = domain.login_account(u.email);

    RETURN (200,
            json_build_object('user_id', u.id, 'roles', domain.user_roles(u), 'user', domain.user_json(u))::text,
            NULL, NULL)::api.reply;
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

-- J1: members that are sent are replaced, null empties one, the others stay.
CREATE OR REPLACE FUNCTION api.profile_put(profile jsonb) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    u  shop.app_user := domain.current_app_user();
BEGIN
    IF (profile->>'date_of_birth')::date > current_date THEN
        PERFORM domain.fail(422, 'validation-failed', 'The date of birth lies in the future.',
                            '{"errors":[{"pointer":"/date_of_birth","code":"maximum","message":"must not lie in the future"}]}');
    END IF;

    IF length((profile->'preferences')::text) > 16384 THEN
        PERFORM domain.fail(422, 'validation-failed', 'The preferences are too long.',
                            '{"errors":[{"pointer":"/preferences","code":"maxLength","message":"must have at most 16384 characters"}]}');
    END IF;

    UPDATE shop.app_user a
       SET name          = CASE WHEN profile ? 'name' THEN coalesce(profile->>'name', '') ELSE a.name END,
           phone         = CASE WHEN profile ? 'phone' THEN profile->>'phone' ELSE a.phone END,
           avatar_url    = CASE WHEN profile ? 'avatar_url' THEN profile->>'avatar_url' ELSE a.avatar_url END,
           date_of_birth = CASE WHEN profile ? 'date_of_birth' THEN (profile->>'date_of_birth')::date ELSE a.date_of_birth END,
           preferences   = CASE WHEN profile ? 'preferences'
                                THEN coalesce(nullif(profile->'preferences', 'null'), '{}') ELSE a.preferences END,
           version       = a.version + 1,
           updated_at    = now()
     WHERE a.tenant_id = u.tenant_id AND a.id = u.id
    RETURNING a.* INTO u;

    RETURN (200, domain.user_json(u)::text, json_build_object('ETag', format('"%s"', u.version)), NULL)::api.reply;
END
$$;
