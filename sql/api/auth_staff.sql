-- Staff accounts, invitations (A24) and the second factor (A25).

CREATE OR REPLACE FUNCTION api.staff_list("limit" int, cursor jsonb, status text DEFAULT NULL, role text DEFAULT NULL)
RETURNS api.reply LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
BEGIN
    RETURN domain.page_list('shop.app_user', 'domain.staff_json(r)', '{id}', false,
        $w$ AND r.deleted_at IS NULL AND r.roles && '{staff,owner}'$w$
        || coalesce(' AND ' || quote_literal(role) || ' = ANY (r.roles)', '')
        || coalesce($w$ AND CASE WHEN r.status = 'active' AND r.password_hash = '' THEN 'invited' ELSE r.status END = $w$ || quote_literal(status), ''),
        "limit", cursor);
END
$$;

CREATE OR REPLACE FUNCTION api.staff_get(id uuid) RETURNS api.reply
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    u  shop.app_user := domain.staff_get(id);
BEGIN
    RETURN (200, domain.staff_json(u)::text, json_build_object('ETag', '"' || u.version || '"'), NULL)::api.reply;
END
$$;

-- A24: makes the account and sends the invitation; it can be used when that is accepted.
CREATE OR REPLACE FUNCTION api.staff_create(
    user_id uuid, email text, token_hash text, secret text, notification_id uuid, name text DEFAULT NULL,
    roles jsonb DEFAULT NULL, permissions jsonb DEFAULT NULL)
RETURNS api.reply LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    given    text[] := ARRAY(SELECT DISTINCT x FROM jsonb_array_elements_text(coalesce(roles, '["staff"]')) x ORDER BY x);
    allowed  text[] := ARRAY(SELECT DISTINCT x FROM jsonb_array_elements_text(coalesce(permissions, '[]')) x ORDER BY x);
    u        shop.app_user;
BEGIN
    PERFORM domain.staff_may_give(given, allowed);

    INSERT INTO shop.app_user AS a (tenant_id, id, email, name, roles, permissions)
    VALUES (domain.tenant_id(), staff_create.user_id, staff_create.email, coalesce(staff_create.name, ''),
            given, allowed)
    ON CONFLICT (tenant_id, email_key) WHERE deleted_at IS NULL DO NOTHING
    RETURNING a.* INTO u;

    IF NOT FOUND THEN
        PERFORM domain.fail(409, 'email-taken', 'There is an account with this address already.');
    END IF;

    PERFORM domain.invitation_send(u, token_hash, secret, notification_id);
    PERFORM domain.audit('user.invite', 'user', u.id::text, NULL, domain.staff_json(u));

    RETURN (201, domain.staff_json(u)::text,
            json_build_object('Location', '/api/v1/admin/users/' || u.id, 'ETag', '"' || u.version || '"'), NULL)::api.reply;
END
$$;

-- Name, roles, permissions and status; what is taken away is taken at once, also from tokens that are out.
CREATE OR REPLACE FUNCTION api.staff_patch(id uuid, patch jsonb, if_match text DEFAULT NULL) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    old   shop.app_user := domain.staff_hold(id);
    u     shop.app_user;
    edge  jsonb;
BEGIN
    IF if_match IS NOT NULL THEN
        PERFORM domain.check_version(if_match, old.version);
    END IF;

    u := old;
    IF patch ? 'roles' THEN
        u.roles := ARRAY(SELECT DISTINCT x FROM jsonb_array_elements_text(patch -> 'roles') x ORDER BY x);
    END IF;
    IF patch ? 'permissions' THEN
        u.permissions := ARRAY(SELECT DISTINCT x FROM jsonb_array_elements_text(patch -> 'permissions') x ORDER BY x);
    END IF;
    u.name := coalesce(patch ->> 'name', u.name);
    u.status := coalesce(patch ->> 'status', u.status);

    PERFORM domain.staff_may_give(u.roles, u.permissions);

    UPDATE shop.app_user a
       SET name = u.name, roles = u.roles, permissions = u.permissions, status = u.status, version = a.version + 1,
           updated_at = now()
     WHERE a.tenant_id = old.tenant_id AND a.id = old.id
    RETURNING a.* INTO u;

    PERFORM domain.staff_keep_an_owner(old);

    IF u.status <> 'active' OR NOT (old.roles <@ u.roles AND old.permissions <@ u.permissions) THEN
        SELECT e.edge INTO edge FROM domain.sessions_end(u.id) e;
    END IF;
    IF u.status <> 'active' THEN
        PERFORM domain.staff_void(u);
    END IF;

    PERFORM domain.audit('user.change', 'user', u.id::text, domain.staff_json(old), domain.staff_json(u));

    RETURN (200, domain.staff_json(u)::text, json_build_object('ETag', '"' || u.version || '"'), edge)::api.reply;
END
$$;

CREATE OR REPLACE FUNCTION api.staff_delete(id uuid) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    u  shop.app_user := domain.staff_hold(id);
BEGIN
    UPDATE shop.app_user a
       SET deleted_at = now(), status = 'disabled', version = a.version + 1, updated_at = now()
     WHERE a.tenant_id = u.tenant_id AND a.id = u.id;

    PERFORM domain.staff_keep_an_owner(u);
    PERFORM domain.staff_void(u);
    PERFORM domain.audit('user.delete', 'user', u.id::text, domain.staff_json(u), NULL);

    RETURN (204, NULL, NULL, (SELECT e.edge FROM domain.sessions_end(u.id) e))::api.reply;
END
$$;

-- A new invitation; the one before is void.
CREATE OR REPLACE FUNCTION api.staff_invite(id uuid, token_hash text, secret text, notification_id uuid) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    u  shop.app_user := domain.staff_hold(id);
BEGIN
    IF u.password_hash <> '' OR u.status <> 'active' THEN
        PERFORM domain.fail(409, 'not-invited', 'This account is in use, or disabled.');
    END IF;

    PERFORM domain.invitation_send(u, token_hash, secret, notification_id);
    PERFORM domain.audit('user.invite', 'user', u.id::text, NULL, domain.staff_json(u));

    RETURN (202, domain.staff_json(u)::text, NULL, NULL)::api.reply;
END
$$;

-- For a member of the staff whose authenticator is lost: the next login asks for the password alone.
CREATE OR REPLACE FUNCTION api.staff_reset_totp(id uuid) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    u    shop.app_user := domain.staff_hold(id);
    old  jsonb := domain.staff_json(u);
BEGIN
    DELETE FROM shop.totp t WHERE t.tenant_id = u.tenant_id AND t.user_id = u.id;

    PERFORM domain.notify('email', u.email, 'totp-removed', jsonb_build_object('name', u.name), user_id => u.id);
    PERFORM domain.audit('user.reset-totp', 'user', u.id::text, old, domain.staff_json(u));

    RETURN (200, domain.staff_json(u)::text, NULL, (SELECT e.edge FROM domain.sessions_end(u.id) e))::api.reply;
END
$$;

CREATE OR REPLACE FUNCTION api.invitation_check(token_hash text) RETURNS api.reply
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
BEGIN
    RETURN api.user_token_check(token_hash, 'invitation');
END
$$;

-- The invited set their password and can log in.
CREATE OR REPLACE FUNCTION api.invitation_accept(token_hash text, password_hash text, name text DEFAULT NULL) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    t  shop.user_token := domain.user_token_take(token_hash, 'invitation');
    u  shop.app_user;
BEGIN
    UPDATE shop.app_user a
       SET password_hash = invitation_accept.password_hash,
           password_version = a.password_version + 1,
           email_verified_at = now(),
           name = coalesce(invitation_accept.name, a.name),
           version = a.version + 1,
           updated_at = now()
     WHERE a.tenant_id = t.tenant_id AND a.id = t.user_id AND a.deleted_at IS NULL AND a.status = 'active' AND a.password_hash = ''
    RETURNING a.* INTO u;

    IF NOT FOUND THEN
        PERFORM domain.user_token_refused();
    END IF;

    RETURN (200, json_build_object('email', u.email, 'email_verified', true)::text, NULL, NULL)::api.reply;
END
$$;

-- A25: enrolment begins; the secret counts when a code of it has come. Whoever has one already removes it first.
CREATE OR REPLACE FUNCTION api.totp_enrol(secret text, password_version int, address text) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    u  shop.app_user := domain.password_proven(password_version, address);
BEGIN
    INSERT INTO shop.totp AS t (tenant_id, user_id, secret)
    VALUES (u.tenant_id, u.id, totp_enrol.secret)
    ON CONFLICT (tenant_id, user_id) DO UPDATE
       SET secret = excluded.secret, last_step = 0, created_at = now()
     WHERE t.confirmed_at IS NULL;

    IF NOT FOUND THEN
        PERFORM domain.fail(409, 'totp-enrolled', 'You have a second factor already: remove it first.');
    END IF;

    RETURN (200, '{}', NULL, NULL)::api.reply;
END
$$;

-- My secret that waits for its first code; the worker opens "secret", "sealed" tells the confirmation which one it was.
CREATE OR REPLACE FUNCTION api.totp_pending() RETURNS api.reply
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    t  shop.totp;
BEGIN
    SELECT x.* INTO t
      FROM shop.totp x
     WHERE x.tenant_id = domain.tenant_id() AND x.user_id = domain.principal() AND x.confirmed_at IS NULL;

    IF NOT FOUND THEN
        PERFORM domain.fail(409, 'totp-not-begun', 'Begin the enrolment first.');
    END IF;

    RETURN (200, json_build_object('secret', t.secret, 'sealed', t.secret)::text, NULL, NULL)::api.reply;
END
$$;

-- The first code: from now on logins ask for one. My other sessions, which have not shown it, end.
CREATE OR REPLACE FUNCTION api.totp_confirm(totp_step bigint, sealed text, session text) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    u      shop.app_user;
    codes  text[];
BEGIN
    PERFORM domain.account_hold();
    u := domain.current_app_user();

    UPDATE shop.totp t
       SET confirmed_at = now(), last_step = totp_confirm.totp_step
     WHERE t.tenant_id = u.tenant_id AND t.user_id = u.id AND t.confirmed_at IS NULL AND t.secret = totp_confirm.sealed
       AND t.last_step < totp_confirm.totp_step;

    IF NOT FOUND THEN
        PERFORM domain.fail(422, 'totp-invalid', 'This code is wrong: look at the clock of the phone, and take the next one.');
    END IF;

    codes := domain.recovery_codes(u);
    PERFORM domain.notify('email', u.email, 'totp-enrolled', jsonb_build_object('name', u.name), user_id => u.id);
    PERFORM domain.audit('user.totp-enrolled', 'user', u.id::text, NULL, NULL);

    RETURN (200, json_build_object('recovery_codes', codes)::text, NULL,
            (SELECT e.edge FROM domain.sessions_end(u.id, nullif(totp_confirm.session, '')::uuid) e))::api.reply;
END
$$;

-- Removes my second factor; it must be shown once more, beside the password.
CREATE OR REPLACE FUNCTION api.totp_disable(password_version int, address text, totp_step bigint, totp text, recovery_code text)
RETURNS api.reply LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    u  shop.app_user := domain.password_proven(password_version, address);
BEGIN
    IF NOT domain.second_factor(u, totp_step, totp, recovery_code) THEN
        PERFORM domain.fail(409, 'totp-not-enrolled', 'You have no second factor.');
    END IF;

    DELETE FROM shop.totp t WHERE t.tenant_id = u.tenant_id AND t.user_id = u.id;

    PERFORM domain.notify('email', u.email, 'totp-removed', jsonb_build_object('name', u.name), user_id => u.id);
    PERFORM domain.audit('user.totp-removed', 'user', u.id::text, NULL, NULL);

    RETURN (204, NULL, NULL, NULL)::api.reply;
END
$$;

-- New recovery codes instead of all old ones.
CREATE OR REPLACE FUNCTION api.totp_recovery_codes(password_version int, address text, totp_step bigint, totp text)
RETURNS api.reply LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    u  shop.app_user := domain.password_proven(password_version, address);
BEGIN
    IF NOT domain.second_factor(u, totp_step, totp, NULL) THEN
        PERFORM domain.fail(409, 'totp-not-enrolled', 'You have no second factor.');
    END IF;

    PERFORM domain.audit('user.recovery-codes', 'user', u.id::text, NULL, NULL);

    RETURN (200, json_build_object('recovery_codes', domain.recovery_codes(u))::text, NULL, NULL)::api.reply;
END
$$;
