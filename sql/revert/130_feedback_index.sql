-- Revert nginx-commerce:130_feedback_index from pg

BEGIN;

DROP INDEX shop.recommendation_feedback_user_never;
DROP INDEX shop.recommendation_feedback_guest_never;

COMMIT;
