-- Users as the API shows them, and how they are made.

-- The representation of a user that the user may see.
CREATE OR REPLACE FUNCTION domain.user_json(u shop.app_user) RETURNS jsonb
LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object(
        'id', u.id,
        'email', u.email,
        'email_verified', u.email_verified_at IS NOT NULL,
        'name', u.name,
        'phone', domain.sealed(u.phone, 'u:' || u.id),
        'avatar_url', u.avatar_url,
        'date_of_birth', domain.sealed(u.date_of_birth, 'u:' || u.id),
        'preferences', u.preferences,
        'roles', u.roles,
        'permissions', u.permissions,
        'version', u.version,
        'created_at', domain.ts(u.created_at),
        'updated_at', domain.ts(u.updated_at))
$$;

-- What a token carries: roles and permissions, space-separated.
CREATE OR REPLACE FUNCTION domain.user_roles(u shop.app_user) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT array_to_string(u.roles || u.permissions, ' ')
$$;

-- The key under which attempts to log in are counted.
CREATE OR REPLACE FUNCTION domain.login_account(email text) RETURNS bytea
LANGUAGE sql IMMUTABLE AS $$
    SELECT sha256(convert_to(lower(email), 'UTF8'))
$$;

-- The user of the context, or 401: a token may outlive its user.
CREATE OR REPLACE FUNCTION domain.current_app_user() RETURNS shop.app_user
LANGUAGE plpgsql STABLE AS $$
DECLARE
    u shop.app_user;
BEGIN
    SELECT * INTO u
      FROM shop.app_user a
     WHERE a.tenant_id = domain.tenant_id()
       AND a.id = domain.principal()
       AND a.deleted_at IS NULL
       AND a.status = 'active';

    IF NOT FOUND THEN
        PERFORM domain.fail(401, 'not-authenticated', 'This account is not active any more.');
    END IF;

    RETURN u;
END
$$;

-- Makes a user, or changes the one with this e-mail: for seeds, imports and operators. The hash must be bcrypt's $2b$ form.
CREATE OR REPLACE FUNCTION domain.user_put(
    p_tenant_id bigint, p_email text, p_password_hash text, p_name text,
    p_roles text[] DEFAULT '{customer}', p_permissions text[] DEFAULT '{}') RETURNS uuid
LANGUAGE plpgsql AS $$
DECLARE
    found_id uuid;
BEGIN
    INSERT INTO shop.app_user AS u (tenant_id, id, email, password_hash, name, roles, permissions, email_verified_at)
    VALUES (p_tenant_id, domain.uuid7(), p_email, p_password_hash, p_name, p_roles, p_permissions, now())
    ON CONFLICT (tenant_id, email_key) WHERE deleted_at IS NULL DO UPDATE
       SET password_hash = excluded.password_hash,
           password_version = u.password_version + 1,
           email_verified_at = coalesce(u.email_verified_at, now()),
           name = excluded.name,
           roles = excluded.roles,
           permissions = excluded.permissions,
           status = 'active',
           version = u.version + 1,
           updated_at = now()
    RETURNING u.id INTO found_id;

    RETURN found_id;
END
$$;
