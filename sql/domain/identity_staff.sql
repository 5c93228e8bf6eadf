-- Rules of staff accounts: nobody gives what they do not have.

CREATE OR REPLACE FUNCTION domain.staff_json(u shop.app_user) RETURNS jsonb
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN jsonb_build_object(
        'id', u.id,
        'email', u.email,
        'email_verified', u.email_verified_at IS NOT NULL,
        'name', u.name,
        'roles', u.roles,
        'permissions', u.permissions,
        'status', CASE WHEN u.status = 'active' AND u.password_hash = '' THEN 'invited' ELSE u.status END,
        'totp', EXISTS (SELECT FROM shop.totp t
                         WHERE t.tenant_id = u.tenant_id AND t.user_id = u.id AND t.confirmed_at IS NOT NULL),
        'last_login_at', domain.ts(u.last_login_at),
        'version', u.version,
        'created_at', domain.ts(u.created_at),
        'updated_at', domain.ts(u.updated_at));
END
$$;

-- A member of the staff, or 404.
CREATE OR REPLACE FUNCTION domain.staff_get(p_id uuid) RETURNS shop.app_user
LANGUAGE plpgsql STABLE AS $$
DECLARE
    u  shop.app_user;
BEGIN
    SELECT a.* INTO u
      FROM shop.app_user a
     WHERE a.tenant_id = domain.tenant_id() AND a.id = p_id AND a.deleted_at IS NULL AND a.roles && '{staff,owner}';

    IF NOT FOUND THEN
        PERFORM domain.fail(404, 'not-found', 'There is no such member of the staff.');
    END IF;

    RETURN u;
END
$$;

-- The same for a change, which must be the asker's to make: who is not an owner changes only whom they could have made. Owners are held
-- first, in order: two that remove each other at one time do not both succeed.
CREATE OR REPLACE FUNCTION domain.staff_hold(p_id uuid) RETURNS shop.app_user
LANGUAGE plpgsql AS $$
DECLARE
    u  shop.app_user;
BEGIN
    PERFORM FROM shop.app_user a
      WHERE a.tenant_id = domain.tenant_id() AND a.deleted_at IS NULL AND (a.id = p_id OR a.roles && '{owner}')
      ORDER BY a.id
        FOR NO KEY UPDATE;

    u := domain.staff_get(p_id);
    PERFORM domain.staff_may_give(u.roles, u.permissions);

    RETURN u;
END
$$;

-- 403 unless who asks has all of this. The account counts, not the token: that may be older than a change of it.
CREATE OR REPLACE FUNCTION domain.staff_may_give(p_roles text[], p_permissions text[]) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    me       shop.app_user := domain.current_app_user();
    missing  text[];
BEGIN
    IF me.roles && '{owner}' THEN
        RETURN;
    END IF;

    SELECT array_agg(x.name) INTO missing
      FROM unnest(coalesce(p_permissions, '{}') || array_remove(coalesce(p_roles, '{}'), 'customer')) AS x (name)
     WHERE NOT x.name = ANY (me.permissions || me.roles);

    IF missing IS NOT NULL THEN
        PERFORM domain.fail(403, 'not-yours-to-give', 'You do not have ' || array_to_string(missing, ', ') || ' yourself.',
                            jsonb_build_object('missing', to_jsonb(missing)));
    END IF;
END
$$;

-- 409 when the shop would have no owner left but had one.
CREATE OR REPLACE FUNCTION domain.staff_keep_an_owner(was shop.app_user) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF was.roles && '{owner}' AND was.status = 'active'
       AND NOT EXISTS (SELECT FROM shop.app_user a
                        WHERE a.tenant_id = was.tenant_id AND a.deleted_at IS NULL AND a.status = 'active'
                          AND a.roles && '{owner}' AND a.password_hash <> '') THEN
        PERFORM domain.fail(409, 'last-owner', 'This is the last owner of the shop: make somebody else an owner first.');
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION domain.invitation_send(u shop.app_user, token_hash text, secret text, notification_id uuid) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    ends  timestamptz := now() + domain.identity_interval('invitation_ttl', interval '7 days');
BEGIN
    DELETE FROM shop.user_token o
     WHERE o.tenant_id = u.tenant_id AND o.user_id = u.id AND o.purpose = 'invitation';

    PERFORM domain.user_token_put(token_hash, u.id, 'invitation', NULL, ends);
    PERFORM domain.notify('email', u.email, 'staff-invitation', jsonb_build_object(
                              'name', u.name, 'shop', (SELECT s.name FROM shop.tenant s WHERE s.id = u.tenant_id),
                              'invited_by', (domain.current_app_user()).name), secret, notification_id, ends, u.id);
END
$$;

-- Ten new codes instead of all old ones: shown once, kept as hashes.
CREATE OR REPLACE FUNCTION domain.recovery_codes(u shop.app_user) RETURNS text[]
LANGUAGE plpgsql AS $$
DECLARE
    letters  text := '0123456789ABCDEFGHJKMNPQRSTVWXYZ';
    random   bytea;
    code     text;
    codes    text[] := '{}';
BEGIN
    DELETE FROM shop.recovery_code c WHERE c.tenant_id = u.tenant_id AND c.user_id = u.id;

    FOR n IN 1 .. 10 LOOP
        -- sixteen letters of five bits each
        random := public.gen_random_bytes(16);
        SELECT string_agg(substr(letters, 1 + (get_byte(random, i) & 31), 1) || CASE WHEN i IN (3, 7, 11) THEN '-' ELSE '' END, ''
                          ORDER BY i) INTO code
          FROM generate_series(0, 15) AS i;
        INSERT INTO shop.recovery_code (tenant_id, user_id, hash) VALUES (u.tenant_id, u.id, domain.recovery_hash(code));
        codes := codes || code;
    END LOOP;

    RETURN codes;
END
$$;

-- Who leaves: their own links are void, and so are the invitations that they have sent.
CREATE OR REPLACE FUNCTION domain.staff_void(u shop.app_user) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM shop.user_token o
     WHERE o.tenant_id = u.tenant_id AND (o.user_id = u.id OR o.created_by = u.id);
END
$$;
