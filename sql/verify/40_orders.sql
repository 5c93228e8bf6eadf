-- Verify nginx-commerce:40_orders on pg

BEGIN;

SELECT tenant_id, key FROM shop.order_key WHERE false;
SELECT tenant_id, id, cart_id, number, user_id, guest, email, status, currency, subtotal_amount, discount_amount, tax_amount,
       shipping_amount, total_amount, shipping_address, billing_address, payment_method, note, timeline, version
  FROM shop.orders WHERE false;
SELECT tenant_id, order_id, line, variant_id, product_id, quantity, unit_amount, tax_amount, total_amount, sku, name, slug, image
  FROM shop.order_item WHERE false;
SELECT tenant_id, order_id, attempt, method, status, amount, captured_amount, currency FROM shop.payment WHERE false;
SELECT tenant_id, variant_id, id, location_id, delta, on_hand, reason, order_id, actor, note FROM shop.stock_movement WHERE false;
SELECT last_value FROM shop.order_counter WHERE false;

-- forced row-level security on each: division by zero otherwise
SELECT 1 / (count(*) = 5)::int
  FROM pg_class
 WHERE oid IN ('shop.order_key'::regclass, 'shop.orders'::regclass, 'shop.order_item'::regclass, 'shop.payment'::regclass,
               'shop.stock_movement'::regclass)
   AND relrowsecurity AND relforcerowsecurity;

ROLLBACK;
