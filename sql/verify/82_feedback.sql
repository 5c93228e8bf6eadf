-- Verify nginx-commerce:82_feedback on pg

BEGIN;

SELECT tenant_id, id, user_id, guest, product_id, action, generation, created_at FROM shop.recommendation_feedback WHERE false;

-- forced row-level security: division by zero otherwise
SELECT 1 / (count(*) = 1)::int
  FROM pg_class
 WHERE oid = 'shop.recommendation_feedback'::regclass AND relrowsecurity AND relforcerowsecurity;

SELECT 1 / (count(*) = 2)::int
  FROM pg_class WHERE oid IN ('shop.interaction_user'::regclass, 'shop.interaction_guest'::regclass);

ROLLBACK;
