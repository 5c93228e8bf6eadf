-- Deploy nginx-commerce:98_reporting to pg
-- requires: 75_promotions
-- requires: 84_reviews
-- requires: 88_saga
-- Who counts: a role for reports, which reads what a shop sold and nobody's name, address or secret.

BEGIN;

-- The tenant is the one it sets (SET commerce.tenant_id = '1'): row-level security shows no other. Its password is the operator's
-- to give, and so is the replica that it had better read from.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'commerce_report') THEN
        CREATE ROLE commerce_report LOGIN NOBYPASSRLS CONNECTION LIMIT 10;
        -- for who forgets; what it may not is said by its privileges
        ALTER ROLE commerce_report SET default_transaction_read_only = on;
        ALTER ROLE commerce_report SET statement_timeout = '5min';
    END IF;
END
$$;

SET LOCAL ROLE commerce_owner;

GRANT USAGE ON SCHEMA shop, domain TO commerce_report;
GRANT EXECUTE ON FUNCTION domain.tenant_id() TO commerce_report;

-- the shop's own
GRANT SELECT ON shop.brand, shop.category, shop.product, shop.variant, shop.price_history, shop.location, shop.stock, shop.coupon
   TO commerce_report;
GRANT SELECT (tenant_id, variant_id, id, location_id, delta, reserved_delta, on_hand, reason, order_id, created_at)
   ON shop.stock_movement TO commerce_report;
GRANT SELECT (id, slug, name, currency, locale, status, created_at, deleted_at) ON shop.tenant TO commerce_report;

-- what was sold: customers are ids
GRANT SELECT (tenant_id, id, number, user_id, status, currency, tax_inclusive, subtotal_amount, discount_amount, tax_amount,
              shipping_amount, shipping_discount_amount, total_amount, payment_method, version, created_at, updated_at)
   ON shop.orders TO commerce_report;
GRANT SELECT ON shop.order_item, shop.refund_item TO commerce_report;
GRANT SELECT (tenant_id, order_id, coupon_id, code, amount, created_at, released_at) ON shop.coupon_redemption TO commerce_report;
GRANT SELECT (tenant_id, order_id, attempt, method, status, amount, captured_amount, refunded_amount, currency, code, created_at, updated_at)
   ON shop.payment TO commerce_report;
GRANT SELECT (tenant_id, id, order_id, attempt, refund_id, kind, status, amount, currency, code, created_at)
   ON shop.payment_transaction TO commerce_report;
GRANT SELECT (tenant_id, id, order_id, attempt, amount, currency, status, reason, code, created_at, updated_at)
   ON shop.refund TO commerce_report;

-- what was looked at and thought of it
GRANT SELECT (tenant_id, id, user_id, product_id, action, created_at) ON shop.interaction TO commerce_report;
GRANT SELECT (tenant_id, id, product_id, user_id, rating, status, verified_purchase, sentiment_score, sentiment_label, created_at,
              updated_at, deleted_at)
   ON shop.review TO commerce_report;
GRANT SELECT (tenant_id, id, user_id, product_id, action, generation, created_at) ON shop.recommendation_feedback TO commerce_report;
GRANT SELECT (tenant_id, id, status, created_at, last_login_at, deleted_at) ON shop.app_user TO commerce_report;

COMMIT;
