-- Verify nginx-commerce:88_saga on pg

BEGIN;

SELECT events FROM shop.orders WHERE false;
SELECT reserved_delta FROM shop.stock_movement WHERE false;
SELECT payment_methods FROM shop.tenant WHERE false;
SELECT refunded_amount, reference, token, return_url, capture, action, code, detail FROM shop.payment WHERE false;
SELECT tenant_id, id, variant_id, location_id, quantity, order_id, state, expires_at, closed_at FROM shop.reservation WHERE false;
SELECT tenant_id, order_id, state, mode, attempts, deadline_at, next_at, tries, idem_scope, idem_key, reason FROM shop.saga WHERE false;
SELECT tenant_id, id, order_id, attempt, amount, currency, status, reason, reference, next_at, tries FROM shop.refund WHERE false;
SELECT tenant_id, refund_id, line, quantity, amount, restock FROM shop.refund_item WHERE false;
SELECT tenant_id, id, order_id, attempt, refund_id, kind, status, amount, currency, reference, source FROM shop.payment_transaction WHERE false;
SELECT tenant_id, provider, event_id, type, order_id, payload, applied_at, next_at, tries FROM shop.payment_event WHERE false;
SELECT NULL::payment.call, NULL::payment.outcome, NULL::payment.notice;

-- forced row-level security: division by zero otherwise
SELECT 1 / (count(*) = 6)::int
  FROM pg_class
 WHERE oid IN ('shop.reservation'::regclass, 'shop.saga'::regclass, 'shop.refund'::regclass, 'shop.refund_item'::regclass,
               'shop.payment_transaction'::regclass, 'shop.payment_event'::regclass)
   AND relrowsecurity AND relforcerowsecurity;

ROLLBACK;
