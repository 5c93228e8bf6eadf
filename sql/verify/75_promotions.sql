-- Verify nginx-commerce:75_promotions on pg

BEGIN;

SELECT tenant_id, id, code, name, kind, value, target, product_ids, category_ids, minimum_amount, usage_limit, customer_limit, used,
       starts_at, ends_at, stacking, active, version FROM shop.coupon WHERE false;
SELECT tenant_id, order_id, coupon_id, customer, customer_use, code, amount, released_at FROM shop.coupon_redemption WHERE false;
SELECT shipping_discount_amount, coupons FROM shop.orders WHERE false;
SELECT discount_amount FROM shop.order_item WHERE false;

-- forced row-level security on each: division by zero otherwise
SELECT 1 / (count(*) = 2)::int
  FROM pg_class
 WHERE oid IN ('shop.coupon'::regclass, 'shop.coupon_redemption'::regclass) AND relrowsecurity AND relforcerowsecurity;

ROLLBACK;
