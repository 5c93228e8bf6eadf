-- Revert nginx-commerce:82_feedback from pg

BEGIN;

DROP INDEX shop.interaction_guest;
DROP INDEX shop.interaction_user;
DROP TABLE shop.recommendation_feedback;

COMMIT;
