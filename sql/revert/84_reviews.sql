-- Revert nginx-commerce:84_reviews from pg

BEGIN;

DROP TABLE shop.personality_norm, shop.personality_event, shop.personality_consent;

ALTER TABLE shop.product_document DROP COLUMN rated;

DROP INDEX shop.review_unread, shop.review_status, shop.review_author;

ALTER TABLE shop.review
    DROP COLUMN verified_purchase,
    DROP COLUMN moderation_note,
    DROP COLUMN moderated_at,
    DROP COLUMN version,
    DROP COLUMN sentiment_score,
    DROP COLUMN sentiment_label,
    DROP COLUMN sentiment_confidence,
    DROP COLUMN sentiment_analyzed_at;

COMMIT;
