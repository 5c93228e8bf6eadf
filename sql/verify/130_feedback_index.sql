-- Verify nginx-commerce:130_feedback_index on pg

BEGIN;

SELECT 'shop.recommendation_feedback_user_never'::regclass, 'shop.recommendation_feedback_guest_never'::regclass;

ROLLBACK;
