-- Deploy nginx-commerce:130_feedback_index to pg
-- requires: 82_feedback
-- Finding what somebody does not want to see again, among however many views and clicks of what was recommended.

BEGIN;

SET LOCAL ROLE commerce_owner;

CREATE INDEX recommendation_feedback_user_never ON shop.recommendation_feedback (tenant_id, user_id, id)
 WHERE user_id IS NOT NULL AND action IN ('dismiss', 'purchase');
CREATE INDEX recommendation_feedback_guest_never ON shop.recommendation_feedback (tenant_id, guest, id)
 WHERE user_id IS NULL AND action IN ('dismiss', 'purchase');

COMMIT;
