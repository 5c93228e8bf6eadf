-- Deploy nginx-commerce:84_reviews to pg
-- requires: 40_orders
-- requires: 82_feedback
-- Reviews of customers: moderation, verified purchases, sentiment. And the style of shopping of those who have agreed to it.

BEGIN;

SET LOCAL ROLE commerce_owner;

-- ── reviews ──────────────────────────────────────────────────────────────────────────────────────────────────────────

ALTER TABLE shop.review
    ADD COLUMN verified_purchase      boolean      NOT NULL DEFAULT false,
    ADD COLUMN moderation_note        text         CHECK (length(moderation_note) <= 1000),
    ADD COLUMN moderated_at           timestamptz,
    ADD COLUMN version                int          NOT NULL DEFAULT 1,
    -- NULL: nothing can be said of it (another language, no model); analyzed_at tells whether anybody has looked
    ADD COLUMN sentiment_score        real         CHECK (sentiment_score BETWEEN -1 AND 1),
    ADD COLUMN sentiment_label        text         CHECK (sentiment_label IN ('positive', 'neutral', 'negative')),
    ADD COLUMN sentiment_confidence   real         CHECK (sentiment_confidence BETWEEN 0 AND 1),
    ADD COLUMN sentiment_analyzed_at  timestamptz,
    ADD CONSTRAINT review_sentiment CHECK ((sentiment_score IS NULL) = (sentiment_label IS NULL)
                                           AND (sentiment_score IS NULL) = (sentiment_confidence IS NULL)
                                           AND (sentiment_score IS NULL OR sentiment_analyzed_at IS NOT NULL));

-- one of a customer for a product; what is imported is nobody's
CREATE UNIQUE INDEX review_author ON shop.review (tenant_id, user_id, product_id) WHERE user_id IS NOT NULL AND deleted_at IS NULL;
CREATE INDEX review_status ON shop.review (tenant_id, status, id) WHERE deleted_at IS NULL;
CREATE INDEX review_unread ON shop.review (tenant_id, id) WHERE sentiment_analyzed_at IS NULL AND deleted_at IS NULL;

-- the document shows the rating, which changes without a new version of the product: its ETag must too
ALTER TABLE shop.product_document ADD COLUMN rated text NOT NULL DEFAULT '';

-- ── personality ──────────────────────────────────────────────────────────────────────────────────────────────────────

CREATE TABLE shop.personality_consent (
    tenant_id   bigint       NOT NULL,
    user_id     uuid         NOT NULL,
    created_at  timestamptz  NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, user_id),
    FOREIGN KEY (tenant_id, user_id) REFERENCES shop.app_user ON DELETE CASCADE
);

COMMENT ON TABLE shop.personality_consent IS 'Who has agreed that a style of shopping is made of what they do';

-- Goes with the consent.
CREATE TABLE shop.personality_event (
    tenant_id   bigint       NOT NULL,
    id          bigint       GENERATED ALWAYS AS IDENTITY,
    user_id     uuid         NOT NULL,
    product_id  bigint,
    action      text         NOT NULL CHECK (action IN ('search', 'filter', 'sort', 'compare', 'read_reviews', 'size_guide', 'coupon')),
    created_at  timestamptz  NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, user_id) REFERENCES shop.personality_consent ON DELETE CASCADE
);

COMMENT ON TABLE shop.personality_event IS 'What somebody who has agreed did besides looking at products';

CREATE INDEX personality_event_user ON shop.personality_event (tenant_id, user_id, id);

-- Percentiles 0 to 100 of each feature over those who have agreed.
CREATE TABLE shop.personality_norm (
    tenant_id   bigint       NOT NULL,
    feature     text         NOT NULL,
    customers   int          NOT NULL,
    quantiles   real[]       NOT NULL CHECK (cardinality(quantiles) = 101),
    created_at  timestamptz  NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, feature)
);

COMMENT ON TABLE shop.personality_norm IS 'What is usual in a shop: numbers of nobody in particular';

CALL domain.isolate('shop.personality_consent');
CALL domain.isolate('shop.personality_event');
CALL domain.isolate('shop.personality_norm');

COMMIT;
