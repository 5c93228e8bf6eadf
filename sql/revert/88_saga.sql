-- Revert nginx-commerce:88_saga from pg

BEGIN;

DROP TYPE payment.notice, payment.outcome, payment.call;
DROP SCHEMA payment;

ALTER TABLE shop.tenant DROP COLUMN payment_methods;

DROP TABLE shop.payment_event, shop.payment_transaction, shop.refund_item, shop.refund, shop.saga, shop.reservation;
DROP DOMAIN shop.saga_state, shop.reservation_state;

DROP INDEX shop.payment_reference;
ALTER TABLE shop.payment
    DROP CONSTRAINT payment_refunded,
    DROP COLUMN refunded_amount,
    DROP COLUMN reference,
    DROP COLUMN token,
    DROP COLUMN return_url,
    DROP COLUMN capture,
    DROP COLUMN action,
    DROP COLUMN code,
    DROP COLUMN detail,
    ADD CONSTRAINT payment_check CHECK (captured_amount <= amount) NOT VALID;
ALTER DOMAIN shop.payment_status DROP CONSTRAINT payment_status_check;
ALTER DOMAIN shop.payment_status ADD CONSTRAINT payment_status_check
    CHECK (VALUE IN ('pending', 'accepted', 'captured', 'failed', 'voided')) NOT VALID;

ALTER TABLE shop.stock_movement DROP COLUMN reserved_delta;
ALTER TABLE shop.stock_movement ALTER COLUMN delta TYPE shop.stock_delta;
ALTER DOMAIN shop.stock_reason DROP CONSTRAINT stock_reason_check;
ALTER DOMAIN shop.stock_reason ADD CONSTRAINT stock_reason_check
    CHECK (VALUE IN ('received', 'sale', 'cancellation', 'adjustment', 'correction')) NOT VALID;

ALTER TABLE shop.orders DROP COLUMN events;
ALTER DOMAIN shop.order_status DROP CONSTRAINT order_status_check;
ALTER DOMAIN shop.order_status ADD CONSTRAINT order_status_check
    CHECK (VALUE IN ('pending', 'confirmed', 'processing', 'shipped', 'delivered', 'cancelled')) NOT VALID;

COMMIT;
