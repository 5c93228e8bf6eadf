-- Rules of registration and passwords.

-- May a registration's mail make this account usable? Staff come by invitation: a mail that anybody can cause must not give them theirs.
CREATE OR REPLACE FUNCTION domain.user_unconfirmed(u shop.app_user) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
    SELECT u.id IS NOT NULL AND u.email_verified_at IS NULL AND u.status = 'active' AND NOT u.roles && '{staff,owner,service}'
$$;

-- One answer, whatever was done.
CREATE OR REPLACE FUNCTION domain.mail_under_way() RETURNS api.reply
LANGUAGE sql AS $$
    SELECT (202, '{"accepted":true}', NULL, NULL)::api.reply
$$;

CREATE OR REPLACE FUNCTION domain.verification_send(u shop.app_user, token_hash text, secret text, notification_id uuid,
                                                    payload jsonb) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    ends  timestamptz := now() + domain.identity_interval('verify_ttl', interval '7 days');
BEGIN
    PERFORM domain.user_token_put(token_hash, u.id, 'verify-email', payload, ends);
    PERFORM domain.notify('email', u.email, 'verify-email', jsonb_build_object('name', coalesce(payload ->> 'name', u.name)), secret,
                          notification_id, ends, u.id);
END
$$;

-- I have shown my password: the one that was compared is still mine, and my failures are forgotten. Holds my row.
CREATE OR REPLACE FUNCTION domain.password_proven(version int, address text) RETURNS shop.app_user
LANGUAGE plpgsql AS $$
DECLARE
    u  shop.app_user;
BEGIN
    SELECT a.* INTO u
      FROM shop.app_user a
     WHERE a.tenant_id = domain.tenant_id() AND a.id = domain.principal() AND a.deleted_at IS NULL AND a.status = 'active'
       FOR NO KEY UPDATE;

    IF NOT FOUND THEN
        PERFORM domain.fail(401, 'not-authenticated', 'This account is not active any more.');
    END IF;
    IF u.password_version IS DISTINCT FROM password_proven.version THEN
        PERFORM domain.fail(401, 'invalid-credentials', 'E-mail or password is wrong.');
    END IF;

    PERFORM domain.login_proven(u, address);

    RETURN u;
END
$$;

-- A new password; links that were sent before are void, and the owner of the address is told.
CREATE OR REPLACE FUNCTION domain.password_set(u shop.app_user, p_hash text, confirms boolean) RETURNS shop.app_user
LANGUAGE plpgsql AS $$
DECLARE
    changed  shop.app_user;
BEGIN
    UPDATE shop.app_user a
       SET password_hash = p_hash,
           password_version = a.password_version + 1,
           email_verified_at = CASE WHEN confirms THEN coalesce(a.email_verified_at, now()) ELSE a.email_verified_at END,
           updated_at = now()
     WHERE a.tenant_id = u.tenant_id AND a.id = u.id
    RETURNING a.* INTO changed;

    DELETE FROM shop.user_token o
     WHERE o.tenant_id = u.tenant_id AND o.user_id = u.id AND o.purpose <> 'invitation';

    PERFORM domain.notify('email', u.email, 'password-changed', jsonb_build_object('name', u.name), user_id => u.id);

    RETURN changed;
END
$$;
