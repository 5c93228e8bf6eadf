-- Registration, confirmation of addresses, passwords (A11). Everything here answers alike whether an address has an account or not:
-- what there is to know goes by mail. token_hash: of the token in the mail; secret: the token, sealed for its notification.

-- A11: an account that begins to live when its address is confirmed. Who holds the mail decides: the password of a registration waits
-- with its token, so that nobody can prepare an account for somebody else's address and find it confirmed one day.
CREATE OR REPLACE FUNCTION api.register(
    email text, password_hash text, token_hash text, secret text, user_id uuid, notification_id uuid, name text DEFAULT NULL)
RETURNS api.reply LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    tenant   bigint := domain.tenant_id();
    allowed  boolean := domain.mail_allowed(email);
    u        shop.app_user;
BEGIN
    INSERT INTO shop.app_user (tenant_id, id, email, password_hash, name)
    VALUES (tenant, register.user_id, register.email, register.password_hash, coalesce(register.name, ''))
    ON CONFLICT (tenant_id, email_key) WHERE deleted_at IS NULL DO NOTHING;

    SELECT a.* INTO u
      FROM shop.app_user a
     WHERE a.tenant_id = tenant AND a.email_key = lower(register.email) AND a.deleted_at IS NULL
       FOR KEY SHARE;

    IF allowed AND domain.user_unconfirmed(u) THEN
        PERFORM domain.verification_send(u, token_hash, secret, notification_id, jsonb_build_object(
                                             'password_hash', register.password_hash, 'name', coalesce(register.name, '')));
    ELSIF allowed AND u.status = 'active' THEN
        PERFORM domain.notify('email', u.email, 'account-exists', jsonb_build_object('name', u.name), user_id => u.id);
    END IF;

    RETURN domain.mail_under_way();
END
$$;

-- The link of a registration came back.
CREATE OR REPLACE FUNCTION api.verify_email(token_hash text) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    t     shop.user_token := domain.user_token_take(token_hash, 'verify-email');
    u     shop.app_user;
    edge  jsonb;
BEGIN
    UPDATE shop.app_user a
       SET email_verified_at = now(),
           password_hash = coalesce(t.payload ->> 'password_hash', a.password_hash),
           name = coalesce(t.payload ->> 'name', a.name),
           password_version = a.password_version + 1,
           version = a.version + 1,
           updated_at = now()
     WHERE a.tenant_id = t.tenant_id AND a.id = t.user_id AND a.email_verified_at IS NULL AND a.deleted_at IS NULL
       AND a.status = 'active'
    RETURNING a.* INTO u;

    IF NOT FOUND THEN
        PERFORM domain.user_token_refused();
    END IF;

    DELETE FROM shop.user_token o
     WHERE o.tenant_id = t.tenant_id AND o.user_id = t.user_id AND o.purpose = 'verify-email';

    -- where a shop lets people in before: whoever is in may be another than who has confirmed
    SELECT e.edge INTO edge FROM domain.sessions_end(u.id) e;

    RETURN (200, json_build_object('email', u.email, 'email_verified', true)::text, NULL, edge)::api.reply;
END
$$;

CREATE OR REPLACE FUNCTION api.verification_resend(email text, token_hash text, secret text, notification_id uuid)
RETURNS api.reply LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    allowed  boolean := domain.mail_allowed(email);
    u        shop.app_user;
    payload  jsonb;
BEGIN
    SELECT a.* INTO u
      FROM shop.app_user a
     WHERE a.tenant_id = domain.tenant_id() AND a.email_key = lower(verification_resend.email) AND a.deleted_at IS NULL
       FOR KEY SHARE;

    IF allowed AND domain.user_unconfirmed(u) THEN
        SELECT o.payload INTO payload
          FROM shop.user_token o
         WHERE o.tenant_id = u.tenant_id AND o.user_id = u.id AND o.purpose = 'verify-email'
         ORDER BY o.created_at DESC
         LIMIT 1;

        PERFORM domain.verification_send(u, token_hash, secret, notification_id, coalesce(payload, '{}'));
    END IF;

    RETURN domain.mail_under_way();
END
$$;

-- Sends a link with which a new password can be set.
CREATE OR REPLACE FUNCTION api.password_forgot(email text, token_hash text, secret text, notification_id uuid)
RETURNS api.reply LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    allowed  boolean := domain.mail_allowed(email);
    ends     timestamptz := now() + domain.identity_interval('reset_ttl', interval '1 hour');
    u        shop.app_user;
BEGIN
    SELECT a.* INTO u
      FROM shop.app_user a
     WHERE a.tenant_id = domain.tenant_id() AND a.email_key = lower(password_forgot.email) AND a.deleted_at IS NULL
       AND a.status = 'active'
       FOR KEY SHARE;

    -- staff who have not taken their invitation do so with that, in its time
    IF allowed AND u.id IS NOT NULL AND NOT (u.password_hash = '' AND u.roles && '{staff,owner}') THEN
        PERFORM domain.user_token_put(token_hash, u.id, 'reset-password', NULL, ends);
        PERFORM domain.notify('email', u.email, 'password-reset', jsonb_build_object('name', u.name), secret, notification_id, ends, u.id);
    END IF;

    RETURN domain.mail_under_way();
END
$$;

-- Is a token good? Asked before a password is hashed, so that nonsense costs nothing; the token is taken later, once.
CREATE OR REPLACE FUNCTION api.user_token_check(token_hash text, purpose text) RETURNS api.reply
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
BEGIN
    PERFORM FROM shop.user_token t
      WHERE t.tenant_id = domain.tenant_id() AND t.hash = decode(token_hash, 'hex') AND t.purpose = user_token_check.purpose
        AND t.expires_at > now();
    IF NOT FOUND THEN
        PERFORM domain.user_token_refused();
    END IF;

    RETURN (200, '{}', NULL, NULL)::api.reply;
END
$$;

CREATE OR REPLACE FUNCTION api.password_reset_check(token_hash text) RETURNS api.reply
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
BEGIN
    RETURN api.user_token_check(token_hash, 'reset-password');
END
$$;

CREATE OR REPLACE FUNCTION api.password_reset(token_hash text, password_hash text, address text) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    t  shop.user_token := domain.user_token_take(token_hash, 'reset-password');
    u  shop.app_user;
BEGIN
    SELECT a.* INTO u
      FROM shop.app_user a
     WHERE a.tenant_id = t.tenant_id AND a.id = t.user_id AND a.deleted_at IS NULL AND a.status = 'active';

    IF NOT FOUND THEN
        PERFORM domain.user_token_refused();
    END IF;

    -- who reads the mail has shown to own the address
    u := domain.password_set(u, password_hash, true);
    PERFORM domain.login_proven(u, password_reset.address);

    RETURN (204, NULL, NULL, (SELECT e.edge FROM domain.sessions_end(u.id) e))::api.reply;
END
$$;

-- My password's hash, for the worker to compare before something that needs the password again. Attempts count as those to log in.
CREATE OR REPLACE FUNCTION api.password_begin(address text) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    u      shop.app_user := domain.current_app_user();
    pause  int := domain.login_brake(u.email, password_begin.address);
    t      shop.totp;
BEGIN
    -- nothing is done yet that the audit log should know
    PERFORM set_config('commerce.audited', 'yes', true);

    IF pause IS NOT NULL THEN
        RETURN domain.refuse(429, 'too-many-attempts', 'Too many wrong passwords; try again later.',
                             jsonb_build_object('retry_after', pause));
    END IF;

    SELECT x.* INTO t
      FROM shop.totp x
     WHERE x.tenant_id = u.tenant_id AND x.user_id = u.id AND x.confirmed_at IS NOT NULL;

    RETURN (200, json_build_object(
                'password_hash', u.password_hash, 'password_version', u.password_version, 'secret', t.secret, 'account', u.email,
                'issuer', (SELECT s.name FROM shop.tenant s WHERE s.id = u.tenant_id))::text, NULL, NULL)::api.reply;
END
$$;

-- A new password for me; all my other sessions end.
CREATE OR REPLACE FUNCTION api.password_change(password_hash text, password_version int, session text, address text)
RETURNS api.reply LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    u  shop.app_user := domain.password_proven(password_version, address);
BEGIN
    u := domain.password_set(u, password_hash, false);

    RETURN (204, NULL, NULL, (SELECT e.edge
                                FROM domain.sessions_end(u.id, nullif(password_change.session, '')::uuid) e))::api.reply;
END
$$;

-- Sends a link to the new address; until it comes back nothing changes.
CREATE OR REPLACE FUNCTION api.email_change(
    email text, password_version int, address text, token_hash text, secret text, notification_id uuid)
RETURNS api.reply LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    u     shop.app_user := domain.password_proven(password_version, address);
    ends  timestamptz := now() + domain.identity_interval('email_change_ttl', interval '1 hour');
BEGIN
    DELETE FROM shop.user_token o
     WHERE o.tenant_id = u.tenant_id AND o.user_id = u.id AND o.purpose = 'change-email';

    IF domain.mail_allowed(email)
       AND NOT EXISTS (SELECT FROM shop.app_user a
                        WHERE a.tenant_id = u.tenant_id AND a.email_key = lower(email_change.email) AND a.deleted_at IS NULL) THEN
        PERFORM domain.user_token_put(token_hash, u.id, 'change-email', jsonb_build_object('email', email_change.email), ends);
        PERFORM domain.notify('email', email_change.email, 'email-change', jsonb_build_object('name', u.name), secret,
                              notification_id, ends, u.id);
        PERFORM domain.notify('email', u.email, 'email-change-notice', jsonb_build_object('name', u.name), user_id => u.id);
    END IF;

    RETURN domain.mail_under_way();
END
$$;

CREATE OR REPLACE FUNCTION api.email_confirm(token_hash text) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    t    shop.user_token := domain.user_token_take(token_hash, 'change-email');
    old  shop.app_user;
    u    shop.app_user;
BEGIN
    SELECT a.* INTO old
      FROM shop.app_user a
     WHERE a.tenant_id = t.tenant_id AND a.id = t.user_id AND a.deleted_at IS NULL AND a.status = 'active'
       FOR NO KEY UPDATE;

    IF NOT FOUND THEN
        PERFORM domain.user_token_refused();
    END IF;

    BEGIN
        UPDATE shop.app_user a
           SET email = t.payload ->> 'email', email_verified_at = now(), version = a.version + 1, updated_at = now()
         WHERE a.tenant_id = old.tenant_id AND a.id = old.id
        RETURNING a.* INTO u;
    EXCEPTION WHEN unique_violation THEN
        PERFORM domain.fail(409, 'email-taken', 'Somebody has registered with this address in the meantime.');
    END;

    -- links that went to the old address are void
    DELETE FROM shop.user_token o
     WHERE o.tenant_id = u.tenant_id AND o.user_id = u.id AND o.purpose IN ('reset-password', 'verify-email', 'change-email');

    PERFORM domain.notify('email', old.email, 'email-changed', jsonb_build_object('name', u.name), user_id => u.id);

    RETURN (200, json_build_object('email', u.email, 'email_verified', true)::text, NULL, NULL)::api.reply;
END
$$;
