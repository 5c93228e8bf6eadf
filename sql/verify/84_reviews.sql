-- Verify nginx-commerce:84_reviews on pg

BEGIN;

SELECT verified_purchase, moderation_note, moderated_at, version, sentiment_score, sentiment_label, sentiment_confidence,
       sentiment_analyzed_at
  FROM shop.review WHERE false;
SELECT rated FROM shop.product_document WHERE false;
SELECT tenant_id, user_id, created_at FROM shop.personality_consent WHERE false;
SELECT tenant_id, id, user_id, product_id, action, created_at FROM shop.personality_event WHERE false;
SELECT tenant_id, feature, customers, quantiles, created_at FROM shop.personality_norm WHERE false;

-- forced row-level security: division by zero otherwise
SELECT 1 / (count(*) = 3)::int
  FROM pg_class
 WHERE oid IN ('shop.personality_consent'::regclass, 'shop.personality_event'::regclass, 'shop.personality_norm'::regclass)
   AND relrowsecurity AND relforcerowsecurity;

SELECT 1 / (count(*) = 3)::int
  FROM pg_class WHERE oid IN ('shop.review_author'::regclass, 'shop.review_status'::regclass, 'shop.review_unread'::regclass);

ROLLBACK;
