-- Verify nginx-commerce:92_notifications on pg

BEGIN;

SELECT status, user_id, language, lease, message_id, last_status, finished_at FROM shop.notification WHERE false;
SELECT tenant_id, kind, channel, language, subject, text, html, version, created_at, updated_at FROM shop.notification_template WHERE false;
SELECT tenant_id, user_id, kind, channel, enabled, updated_at FROM shop.notification_preference WHERE false;
SELECT tenant_id, id, channel, url, secret, created_at, updated_at FROM shop.notification_adapter WHERE false;

-- forced row-level security: division by zero otherwise
SELECT 1 / (count(*) = 3)::int
  FROM pg_class
 WHERE oid IN ('shop.notification_template'::regclass, 'shop.notification_preference'::regclass, 'shop.notification_adapter'::regclass)
   AND relrowsecurity AND relforcerowsecurity;

SELECT 1 / (count(*) = 2)::int FROM pg_class WHERE oid IN ('shop.notification_due'::regclass, 'shop.notification_status'::regclass);
SELECT 1 / (to_regprocedure('platform.notifications_due(int)') IS NOT NULL)::int;

ROLLBACK;
