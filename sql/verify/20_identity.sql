-- Verify nginx-commerce:20_identity on pg

BEGIN;

SELECT tenant_id, id, email, email_key, password_hash, name, phone, avatar_url, date_of_birth, preferences, roles, permissions, status, version
  FROM shop.app_user WHERE false;
SELECT tenant_id, id, user_id, expires_at, revoked_at FROM shop.session WHERE false;
SELECT tenant_id, hash, session_id, family, expires_at, used_at, revoked_at FROM shop.refresh_token WHERE false;
SELECT tenant_id, account, attempts, last_at FROM shop.login_attempt WHERE false;

-- every table of a tenant's has forced row-level security: division by zero otherwise
SELECT 1 / (count(*) = 4)::int
  FROM pg_class
 WHERE oid IN ('shop.app_user'::regclass, 'shop.session'::regclass, 'shop.refresh_token'::regclass, 'shop.login_attempt'::regclass)
   AND relrowsecurity AND relforcerowsecurity;

ROLLBACK;
