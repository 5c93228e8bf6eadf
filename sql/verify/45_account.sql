-- Verify nginx-commerce:45_account on pg

BEGIN;

SELECT tenant_id, id, user_id, type, is_default, name, company, line1, line2, city, region, postal_code, country, phone, version
  FROM shop.address WHERE false;
SELECT tenant_id, user_id, product_id, created_at FROM shop.wishlist_item WHERE false;
SELECT tenant_id, id, user_id, guest, product_id, action, metadata, created_at FROM shop.interaction WHERE false;

-- forced row-level security on each: division by zero otherwise
SELECT 1 / (count(*) = 3)::int
  FROM pg_class
 WHERE oid IN ('shop.address'::regclass, 'shop.wishlist_item'::regclass, 'shop.interaction'::regclass)
   AND relrowsecurity AND relforcerowsecurity;

ROLLBACK;
