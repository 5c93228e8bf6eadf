-- Revert nginx-commerce:80_recommendations from pg

BEGIN;

DROP TABLE shop.training_run;
REVOKE ALL ON shop.interaction, shop.orders, shop.order_item, shop.product, shop.category, shop.brand FROM commerce_train;
REVOKE ALL (tenant_id, user_id, guest, product_id, action, created_at) ON shop.interaction FROM commerce_train;
REVOKE ALL (tenant_id, id, user_id, guest, status, created_at) ON shop.orders FROM commerce_train;
REVOKE ALL (tenant_id, order_id, product_id) ON shop.order_item FROM commerce_train;
REVOKE ALL (tenant_id, id, status, name, description, category_id, brand_id, tags, deleted_at) ON shop.product FROM commerce_train;
REVOKE ALL (tenant_id, id, name) ON shop.category, shop.brand FROM commerce_train;
REVOKE ALL ON FUNCTION domain.tenant_id() FROM commerce_train;
REVOKE ALL ON SCHEMA shop, domain FROM commerce_train;

-- The role is of the cluster: another database may use it.

COMMIT;
