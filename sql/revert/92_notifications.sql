-- Revert nginx-commerce:92_notifications from pg

BEGIN;

DROP FUNCTION platform.notifications_due(int);
DROP POLICY platform ON shop.notification;
REVOKE SELECT (tenant_id, id, status, next_at) ON shop.notification FROM commerce_platform;

DROP TABLE shop.notification_adapter, shop.notification_preference, shop.notification_template;

DROP INDEX shop.notification_status, shop.notification_due;
CREATE INDEX notification_unsent ON shop.notification (tenant_id, next_at) WHERE sent_at IS NULL;

ALTER TABLE shop.notification
    DROP COLUMN status,
    DROP COLUMN user_id,
    DROP COLUMN language,
    DROP COLUMN lease,
    DROP COLUMN message_id,
    DROP COLUMN last_status,
    DROP COLUMN finished_at;

DROP DOMAIN shop.language;

COMMIT;
