-- Verify nginx-commerce:60_identity on pg

BEGIN;

SELECT email_verified_at, password_version FROM shop.app_user WHERE false;
SELECT last_used_at, address, user_agent, second_factor FROM shop.session WHERE false;
SELECT admitted_at FROM shop.login_attempt WHERE false;
SELECT tenant_id, hash, user_id, purpose, payload, created_by, expires_at FROM shop.user_token WHERE false;
SELECT tenant_id, user_id, secret, confirmed_at, last_step FROM shop.totp WHERE false;
SELECT tenant_id, user_id, hash FROM shop.recovery_code WHERE false;
SELECT tenant_id, user_id, network, last_at FROM shop.user_network WHERE false;
SELECT tenant_id, key, count, first_at, last_at, blocked_until FROM shop.throttle WHERE false;
SELECT tenant_id, id, channel, recipient, template, data, secret, expires_at, sent_at FROM shop.notification WHERE false;
SELECT tenant_id, job, ran_at FROM shop.housekeeping WHERE false;

-- every table of a tenant's has forced row-level security: division by zero otherwise
SELECT 1 / (count(*) = 7)::int
  FROM pg_class
 WHERE oid IN ('shop.user_token'::regclass, 'shop.totp'::regclass, 'shop.recovery_code'::regclass, 'shop.user_network'::regclass,
               'shop.throttle'::regclass, 'shop.notification'::regclass, 'shop.housekeeping'::regclass)
   AND relrowsecurity AND relforcerowsecurity;

ROLLBACK;
