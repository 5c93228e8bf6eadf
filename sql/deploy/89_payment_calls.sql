-- Deploy nginx-commerce:89_payment_calls to pg
-- requires: 88_saga
-- What is still to be asked of a provider stands in the attempt's row; the saga has the deadline.

BEGIN;

SET LOCAL ROLE commerce_owner;

ALTER TABLE shop.payment
    -- pay, query, capture, void; NULL: nothing
    ADD COLUMN todo            text,
    -- when the sweeper asks; while somebody is asking, when it would take over
    ADD COLUMN next_at         timestamptz,
    ADD COLUMN tries           int         NOT NULL DEFAULT 0,
    -- of capture later: how much staff takes of what was authorised
    ADD COLUMN capture_amount  shop.amount;

CREATE INDEX payment_due ON shop.payment (next_at) WHERE next_at IS NOT NULL;
CREATE POLICY sweep ON shop.payment FOR SELECT USING (current_setting('commerce.sweep', true) = 'saga');

COMMIT;
