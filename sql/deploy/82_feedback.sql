-- Deploy nginx-commerce:82_feedback to pg
-- requires: 45_account
-- What customers made of recommendations, and finding what they did last.

BEGIN;

SET LOCAL ROLE commerce_owner;

CREATE TABLE shop.recommendation_feedback (
    tenant_id   bigint       NOT NULL,
    id          bigint       GENERATED ALWAYS AS IDENTITY,
    user_id     uuid,
    -- hash of a guest's cart token
    guest       text,
    product_id  bigint       NOT NULL,
    action      text         NOT NULL CHECK (action IN ('view', 'click', 'cart', 'purchase', 'dismiss')),
    -- of the table that recommended it, as the answer said
    generation  bigint,
    created_at  timestamptz  NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id)
);

COMMENT ON TABLE shop.recommendation_feedback IS 'What customers did with what was recommended to them';

CREATE INDEX recommendation_feedback_user ON shop.recommendation_feedback (tenant_id, user_id, id) WHERE user_id IS NOT NULL;
CREATE INDEX recommendation_feedback_guest ON shop.recommendation_feedback (tenant_id, guest, id) WHERE user_id IS NULL;

CREATE INDEX interaction_user ON shop.interaction (tenant_id, user_id, id) WHERE user_id IS NOT NULL;
CREATE INDEX interaction_guest ON shop.interaction (tenant_id, guest, id) WHERE user_id IS NULL;

CALL domain.isolate('shop.recommendation_feedback');

COMMIT;
