-- What api.saga_sweep() does with one thing that is due, in its tenant.  Each takes the order's lock or leaves it to whoever has it, looks
-- again whether it is due, and moves next_at before the provider is asked.  They answer the call to make, '{}' when it is done without one
-- (which may have locked stock), NULL when there was nothing to do.


-- A provider whose answer is missing: asked again under the same key.
CREATE OR REPLACE FUNCTION domain.sweep_payment(order_id uuid, attempt int) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
    o     shop.orders;
    y     shop.payment;
    c     payment.call;
    call  json;
BEGIN
    SELECT * INTO o FROM shop.orders x
     WHERE x.tenant_id = domain.tenant_id() AND x.id = sweep_payment.order_id FOR UPDATE SKIP LOCKED;
    UPDATE shop.payment p
       SET next_at = now() + domain.payment_lease() + domain.payment_backoff(p.tries), tries = p.tries + 1,
           -- a payment that the provider has named is not begun again
           todo = CASE WHEN p.todo = 'pay' AND p.reference IS NOT NULL THEN 'query' ELSE p.todo END
     WHERE p.tenant_id = o.tenant_id AND p.order_id = o.id AND p.attempt = sweep_payment.attempt AND p.next_at <= now()
    RETURNING p.* INTO y;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;

    c := domain.payment_call(o, y, y.todo);
    call := domain.payment_fetch(c, y.method, 'sweeper');
    IF call IS NULL THEN
        PERFORM domain.payment_apply(o.id, y.attempt, y.todo, payment.outcome(y.method, c, NULL, NULL, NULL), 'sweeper');
    END IF;
    RETURN coalesce(call, '{}');
END
$$;


CREATE OR REPLACE FUNCTION domain.sweep_refund(refund uuid) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
    o     shop.orders;
    y     shop.payment;
    r     shop.refund;
    c     payment.call;
    call  json;
BEGIN
    SELECT x.* INTO o FROM shop.orders x
     WHERE x.tenant_id = domain.tenant_id()
       AND x.id = (SELECT n.order_id FROM shop.refund n WHERE n.tenant_id = domain.tenant_id() AND n.id = refund)
       FOR UPDATE SKIP LOCKED;
    UPDATE shop.refund n SET next_at = now() + domain.payment_lease() + domain.payment_backoff(n.tries), tries = n.tries + 1
     WHERE n.tenant_id = o.tenant_id AND n.id = refund AND n.next_at <= now()
    RETURNING n.* INTO r;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;

    SELECT * INTO y FROM shop.payment p WHERE p.tenant_id = r.tenant_id AND p.order_id = r.order_id AND p.attempt = r.attempt;
    c := domain.payment_call(o, y, 'refund', r.amount, r.id);
    call := domain.payment_fetch(c, y.method, 'sweeper');
    IF call IS NULL THEN
        PERFORM domain.refund_apply(r.id, payment.outcome(y.method, c, NULL, NULL, NULL), 'sweeper');
    END IF;
    RETURN coalesce(call, '{}');
END
$$;


-- A saga whose time is over.  Nothing is taken back while it is not known whether it was paid.
CREATE OR REPLACE FUNCTION domain.sweep_saga(order_id uuid) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
    o  shop.orders;
    g  shop.saga;
    y  shop.payment;
BEGIN
    SELECT * INTO o FROM shop.orders x
     WHERE x.tenant_id = domain.tenant_id() AND x.id = sweep_saga.order_id FOR UPDATE SKIP LOCKED;
    UPDATE shop.saga s SET next_at = now() + domain.payment_lease(), tries = s.tries + 1
     WHERE s.tenant_id = o.tenant_id AND s.order_id = o.id AND s.next_at <= now()
    RETURNING s.* INTO g;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;

    SELECT * INTO y FROM shop.payment p WHERE p.tenant_id = o.tenant_id AND p.order_id = o.id ORDER BY p.attempt DESC LIMIT 1 FOR UPDATE;

    IF o.status <> 'pending' THEN               -- it ended in another way
        PERFORM domain.saga_move(o.id, CASE o.status WHEN 'cancelled' THEN 'compensated' WHEN 'payment_review' THEN 'review' ELSE 'completed' END);
    ELSIF y.status IN ('failed', 'voided') THEN
        PERFORM domain.compensate(o.id, 'payment-declined');
    ELSIF y.status = 'requires_action' AND y.todo IS NULL THEN
        PERFORM domain.payment_due(y, 'query', false);
    ELSIF y.todo IS NULL THEN                   -- nobody asks any more: that must not be
        PERFORM domain.payment_due(y, CASE WHEN y.reference IS NULL THEN 'pay' ELSE 'query' END, false);
    END IF;
    RETURN '{}';
END
$$;


CREATE OR REPLACE FUNCTION domain.sweep_event(provider text, event_id text) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
    e  shop.payment_event;
BEGIN
    SELECT * INTO e FROM shop.payment_event x
     WHERE x.tenant_id = domain.tenant_id() AND x.provider = sweep_event.provider AND x.event_id = sweep_event.event_id
       AND x.next_at <= now()
       FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    PERFORM domain.payment_event_apply(e.provider, payment.notice(e.provider, e.payload));
    RETURN '{}';
END
$$;


CREATE OR REPLACE FUNCTION domain.sweep_reservation(reservation uuid) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
    variants  bigint[] := domain.stock_release(reservation, 'expired');
BEGIN
    PERFORM domain.invalidate(ARRAY(SELECT DISTINCT 'product:' || v.product_id FROM shop.variant v
                                     WHERE v.tenant_id = domain.tenant_id() AND v.id = ANY (variants)));
    RETURN '{}';
END
$$;
