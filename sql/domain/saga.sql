-- The saga of an order that is paid at a provider: reserve (P1) → pay (P2, outside) → confirm (P3) or compensate (P4); the sweeper (P5)
-- finishes what stands still.  States and what they wait for are in docs/payments.md.


-- Tells of an order: the next version of its events, in the transaction of what is told.  The caller holds the order locked.
CREATE OR REPLACE FUNCTION domain.order_emit(order_id uuid, topic text, type text, payload jsonb) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    n  int;
BEGIN
    UPDATE shop.orders o SET events = o.events + 1
     WHERE o.tenant_id = domain.tenant_id() AND o.id = order_emit.order_id
    RETURNING o.events INTO STRICT n;
    PERFORM domain.emit(topic, type, 'order', order_id::text, payload, n);
END
$$;


-- What most events of an order say.
CREATE OR REPLACE FUNCTION domain.order_payload(o shop.orders, status text) RETURNS jsonb
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN jsonb_build_object('order_id', o.id, 'order_number', o.number, 'user_id', o.user_id, 'status', status,
                              'total', jsonb_build_object('amount', o.total_amount, 'currency', o.currency), 'timestamp', domain.ts(now()));
END
$$;


-- The lines of an order as events have them.
CREATE OR REPLACE FUNCTION domain.order_bought(o shop.orders) RETURNS jsonb
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (SELECT jsonb_agg(jsonb_build_object('product_id', i.product_id, 'variant_id', i.variant_id, 'quantity', i.quantity,
                                                'unit_price', i.unit_amount) ORDER BY i.line)
              FROM shop.order_item i
             WHERE i.tenant_id = o.tenant_id AND i.order_id = o.id);
END
$$;


-- P1 of an order that is paid at a provider: the saga, the attempt, what is told.  Answers the call to make.  The order and its items are
-- there; stock and coupons come after it, last, because buyers meet there.  cart_version: of the cart that becomes empty, NULL without one.
CREATE OR REPLACE FUNCTION domain.saga_begin(o shop.orders, token text, return_url text, mode text, owner text, cart_version bigint)
RETURNS json LANGUAGE plpgsql AS $$
DECLARE
    settings  jsonb := (SELECT t.settings FROM shop.tenant t WHERE t.id = o.tenant_id);
    ttl       interval := coalesce((settings ->> 'reservation_ttl')::int, 900) * interval '1 second';
    key       text := nullif(current_setting('commerce.idempotency_key', true), '');
    payload   jsonb := domain.order_payload(o, 'pending') || jsonb_build_object('items', domain.order_bought(o));
BEGIN
    INSERT INTO shop.saga (tenant_id, order_id, state, mode, attempts, deadline_at, next_at, idem_scope, idem_key)
    VALUES (o.tenant_id, o.id, 'paying', saga_begin.mode, coalesce((settings #>> '{payments,attempts}')::int, 3), now() + ttl, now() + ttl,
            CASE WHEN key IS NOT NULL THEN current_setting('commerce.scope') END, key);

    PERFORM domain.order_emit(o.id, 'order-events', 'OrderCreated', payload);
    PERFORM domain.order_emit(o.id, 'inventory-events', 'InventoryReserved', payload - '{total,status,order_number,user_id}'::text[]);
    PERFORM domain.order_emit(o.id, 'checkout.checkout-events', 'checkout.OrderCreated', payload);
    IF cart_version IS NOT NULL THEN
        PERFORM domain.emit('cart.updated', 'shop.cart.updated.v1', 'cart', owner, jsonb_build_object(
                                'user_id', o.user_id, 'action', 'clear', 'affected_product_id', NULL, 'items', '[]'::jsonb,
                                'timestamp', domain.ts(now())), cart_version);
    END IF;

    RETURN domain.payment_begin(o, 1, o.payment_method, token, return_url, mode);
END
$$;


-- A new attempt: its row, and the call to make; NULL when the sweeper makes it (mode events).
CREATE OR REPLACE FUNCTION domain.payment_begin(o shop.orders, attempt int, provider text, token text, return_url text, mode text)
RETURNS json LANGUAGE plpgsql AS $$
DECLARE
    y     shop.payment;
    call  json;
BEGIN
    INSERT INTO shop.payment AS p (tenant_id, order_id, attempt, method, status, amount, currency, token, return_url, capture, todo, next_at)
    VALUES (o.tenant_id, o.id, payment_begin.attempt, provider, 'pending', o.total_amount, o.currency, payment_begin.token,
            payment_begin.return_url, coalesce(domain.payment_setting('capture') #>> '{}', 'now'), 'pay', now() + domain.payment_lease())
    RETURNING p.* INTO y;

    PERFORM domain.order_emit(o.id, 'checkout.payment-command', 'checkout.ProcessPayment', jsonb_build_object(
                                  'order_id', o.id, 'order_number', o.number, 'user_id', o.user_id, 'attempt', y.attempt, 'method', provider,
                                  'amount', jsonb_build_object('amount', y.amount, 'currency', y.currency), 'timestamp', domain.ts(now())));

    IF mode = 'inline' THEN
        call := domain.payment_fetch(domain.payment_call(o, y, 'pay'), provider, 'request');
        IF call IS NULL THEN                    -- an adapter that asks nobody: the sweeper hears it at once
            PERFORM domain.payment_due(y, 'pay', false);
        END IF;
    END IF;
    RETURN call;
END
$$;


-- Where the saga is; an end has no deadline any more.  What has ended moves no more, but that a person decides a review, and that an order
-- which stands is cancelled.
CREATE OR REPLACE FUNCTION domain.saga_move(order_id uuid, state text, reason text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE shop.saga s
       SET state = saga_move.state, reason = coalesce(saga_move.reason, s.reason), updated_at = now(),
           next_at = CASE WHEN saga_move.state IN ('completed', 'compensated', 'review') THEN NULL ELSE greatest(s.deadline_at, now()) END
     WHERE s.tenant_id = domain.tenant_id() AND s.order_id = saga_move.order_id
       AND (s.state NOT IN ('review', 'completed', 'compensated')
            OR s.state IN ('review', 'completed') AND saga_move.state = 'compensated'
            OR s.state = 'review' AND saga_move.state = 'completed');
END
$$;


-- P4.  Takes an order back: status, stock, coupons, payments, once; what is cancelled or shipped stays as it is.  Answers whether it did.
CREATE OR REPLACE FUNCTION domain.compensate(order_id uuid, reason text) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    o  shop.orders;
BEGIN
    SELECT * INTO o FROM shop.orders x WHERE x.tenant_id = domain.tenant_id() AND x.id = compensate.order_id FOR UPDATE;
    IF NOT FOUND OR o.status = 'cancelled' OR NOT domain.order_may(o.status, 'cancelled') THEN
        RETURN false;
    END IF;

    PERFORM domain.order_advance(o, 'cancelled', reason, 'payment');
    RETURN true;
END
$$;


-- 422 when the shop does not take this method.  methods: its setting; NULL: manual alone.
CREATE OR REPLACE FUNCTION domain.payment_method_check(method text, methods jsonb) RETURNS void
LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF NOT (coalesce(methods, '["manual"]') ? method AND payment.known(method)) THEN
        PERFORM domain.fail(422, 'payment-method-unknown', 'This shop does not take this payment method.', jsonb_build_object(
                                'payment_methods', coalesce(methods, '["manual"]'),
                                'errors', jsonb_build_array(jsonb_build_object(
                                    'pointer', '/payment_method', 'code', 'unknown', 'message', 'is not taken by this shop'))));
    END IF;
END
$$;
