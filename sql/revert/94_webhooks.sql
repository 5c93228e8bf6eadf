-- Revert nginx-commerce:94_webhooks from pg

BEGIN;

DROP FUNCTION platform.webhooks_due(int);
DROP TABLE shop.webhook_delivery, shop.webhook_endpoint;

COMMIT;
