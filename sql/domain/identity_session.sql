-- Sessions: how they begin and go on.

-- A session with its first refresh token; what token_issue needs for the answer.
CREATE OR REPLACE FUNCTION domain.session_begin(u shop.app_user, session_id uuid, refresh_hash text, address text, user_agent text,
                                                second boolean) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
    ends  timestamptz := now() + domain.identity_interval('session_ttl', interval '90 days');
BEGIN
    INSERT INTO shop.session (tenant_id, id, user_id, expires_at, address, user_agent, second_factor)
    VALUES (u.tenant_id, session_begin.session_id, u.id, ends, domain.client_address(address), left(user_agent, 512), second);

    INSERT INTO shop.refresh_token (tenant_id, hash, session_id, family, expires_at)
    VALUES (u.tenant_id, decode(refresh_hash, 'hex'), session_begin.session_id, session_begin.session_id,
            least(ends, now() + domain.identity_interval('refresh_ttl', interval '30 days')));

    RETURN json_build_object('user_id', u.id, 'session_id', session_begin.session_id, 'roles', domain.user_roles(u),
                             'user', domain.user_json(u));
END
$$;

-- The next refresh token of a session. It lives as long as the first did, but not longer than the session.
CREATE OR REPLACE FUNCTION domain.session_extend(u shop.app_user, s shop.session, family uuid, refresh_hash text, address text,
                                                 user_agent text) RETURNS json
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO shop.refresh_token (tenant_id, hash, session_id, family, expires_at)
    VALUES (s.tenant_id, decode(session_extend.refresh_hash, 'hex'), s.id, session_extend.family,
            least(s.expires_at, now() + domain.identity_interval('refresh_ttl', interval '30 days')));

    UPDATE shop.session x
       SET last_used_at = now(),
           address = domain.client_address(session_extend.address),
           user_agent = coalesce(left(session_extend.user_agent, 512), x.user_agent)
     WHERE x.tenant_id = s.tenant_id AND x.id = s.id;

    RETURN json_build_object('user_id', u.id, 'session_id', s.id, 'roles', domain.user_roles(u), 'user', domain.user_json(u));
END
$$;

-- One text for every reason.
CREATE OR REPLACE FUNCTION domain.refresh_refused() RETURNS api.reply
LANGUAGE sql AS $$
    SELECT domain.refuse(401, 'refresh-token-invalid', 'The session is over: log in again.')
$$;

-- The client's address, or NULL when it has none (a socket of this machine).
CREATE OR REPLACE FUNCTION domain.client_address(address text) RETURNS inet
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN address ~ '^[0-9a-fA-F:.]+$' AND address !~* '^unix' THEN regexp_replace(address, '^::ffff:(?=[0-9]+[.])', '', 'i')::inet END
$$;

-- True when the user has a second factor and it was shown; false when they have none; else 401 that says what is missing.
-- A code is good for one login, and so is a recovery code.
CREATE OR REPLACE FUNCTION domain.second_factor(u shop.app_user, totp_step bigint, totp text, recovery_code text) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM shop.totp t
      WHERE t.tenant_id = u.tenant_id AND t.user_id = u.id AND t.confirmed_at IS NOT NULL
        FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;

    IF totp IS NULL AND recovery_code IS NULL THEN
        PERFORM domain.fail(401, 'totp-required', 'Send the code of your authenticator as "totp", or a "recovery_code".');
    END IF;

    IF totp IS NOT NULL THEN
        UPDATE shop.totp t
           SET last_step = second_factor.totp_step
         WHERE t.tenant_id = u.tenant_id AND t.user_id = u.id AND t.last_step < second_factor.totp_step;
    ELSE
        DELETE FROM shop.recovery_code c
         WHERE c.tenant_id = u.tenant_id AND c.user_id = u.id AND c.hash = domain.recovery_hash(recovery_code);
    END IF;

    IF NOT FOUND THEN
        PERFORM domain.fail(401, 'totp-invalid', 'This code is wrong, or was used already.');
    END IF;

    RETURN true;
END
$$;

-- As people type it: in any case, with or without the dashes.
CREATE OR REPLACE FUNCTION domain.recovery_hash(code text) RETURNS bytea
LANGUAGE sql IMMUTABLE AS $$
    SELECT sha256(convert_to(translate(upper(code), '- ', ''), 'UTF8'))
$$;
