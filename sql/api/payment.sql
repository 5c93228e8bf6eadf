-- Payments of orders (G1 to G4, F14): what providers answer, further attempts, capture and void, refunds.


-- P2 to P3: the provider has answered, or not (fetch_status 0).  The answer is what became of the order.
CREATE OR REPLACE FUNCTION api.payment_result(
    order_id uuid, attempt int, action text, source text DEFAULT 'request', fetch_status int DEFAULT 0, fetch_body text DEFAULT NULL,
    fetch_error text DEFAULT NULL, fetch_ms int DEFAULT NULL)
RETURNS api.reply LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    o       shop.orders;
    y       shop.payment;
    c       payment.call;
    tags    text[];
    edge    json;
    before  text;
BEGIN
    SELECT * INTO o FROM shop.orders x WHERE x.tenant_id = domain.tenant_id() AND x.id = payment_result.order_id FOR UPDATE;
    SELECT * INTO y FROM shop.payment x
     WHERE x.tenant_id = domain.tenant_id() AND x.order_id = o.id AND x.attempt = payment_result.attempt;
    IF NOT FOUND THEN
        PERFORM domain.fail(404, 'not-found', 'There is no such payment.');
    END IF;
    before := o.status;

    c := domain.payment_call(o, y, action);
    PERFORM domain.payment_apply(o.id, y.attempt, action, payment.outcome(y.method, c, fetch_status, fetch_body, fetch_error), source);

    SELECT * INTO o FROM shop.orders x WHERE x.tenant_id = o.tenant_id AND x.id = o.id;
    IF o.status <> before AND o.status = 'cancelled' THEN
        tags := ARRAY(SELECT DISTINCT 'product:' || i.product_id FROM shop.order_item i WHERE i.tenant_id = o.tenant_id AND i.order_id = o.id);
        IF source <> 'sweeper' THEN
            edge := json_build_object('invalidate', tags);
        ELSE
            PERFORM domain.invalidate(tags);
        END IF;
    END IF;

    RETURN domain.payment_reply(o.id, edge);
END
$$;


-- How the edge verifies an event of this provider: {"webhook": {"header", "secrets"}}.
CREATE OR REPLACE FUNCTION api.payment_webhook_how(provider text)
RETURNS api.reply LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
BEGIN
    RETURN (200, json_build_object('webhook', payment.webhook(provider))::text, NULL, NULL)::api.reply;
END
$$;


-- An event of a provider, its bytes verified: once, whatever it says and however often it comes.  What is about an order that is not known
-- (yet) is kept and looked at again.
CREATE OR REPLACE FUNCTION api.payment_webhook(provider text, body text)
RETURNS api.reply LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    tenant  bigint := domain.tenant_id();
    told    payment.notice;
BEGIN
    told := payment.notice(provider, body);

    INSERT INTO shop.payment_event (tenant_id, provider, event_id, type, order_id, payload, next_at)
    VALUES (tenant, payment_webhook.provider, told.event_id, told.type, told.order_id, body, now())
        ON CONFLICT DO NOTHING;
    IF FOUND THEN
        PERFORM domain.payment_event_apply(provider, told);
    END IF;

    RETURN (200, '{"received":true}', NULL, NULL)::api.reply;
END
$$;


-- Payments of an order with their ledger and refunds; for its customer, its guest and staff.
CREATE OR REPLACE FUNCTION api.payment_list(id uuid, guest text DEFAULT NULL)
RETURNS api.reply LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    o  shop.orders;
    g  shop.saga;
BEGIN
    SELECT * INTO o FROM shop.orders x WHERE x.tenant_id = domain.tenant_id() AND x.id = payment_list.id;
    IF NOT domain.order_visible(o, guest, 'orders.read') THEN
        PERFORM domain.fail(404, 'not-found', 'There is no such order.');
    END IF;
    SELECT * INTO g FROM shop.saga s WHERE s.tenant_id = o.tenant_id AND s.order_id = o.id;

    RETURN (200, json_build_object(
        'order_id', o.id, 'order_status', o.status, 'deadline_at', CASE WHEN g.next_at IS NOT NULL THEN domain.ts(g.deadline_at) END,
        'payments', (SELECT coalesce(json_agg(domain.payment_json(y) ORDER BY y.attempt), '[]')
                       FROM shop.payment y WHERE y.tenant_id = o.tenant_id AND y.order_id = o.id),
        'transactions', (SELECT coalesce(json_agg(json_build_object(
                                    'id', t.id, 'attempt', t.attempt, 'refund_id', t.refund_id, 'kind', t.kind, 'status', t.status,
                                    'amount', domain.money(t.amount, t.currency), 'reference', t.reference, 'code', t.code,
                                    'source', t.source, 'created_at', domain.ts(t.created_at)) ORDER BY t.id), '[]')
                           FROM shop.payment_transaction t WHERE t.tenant_id = o.tenant_id AND t.order_id = o.id),
        'refunds', (SELECT coalesce(json_agg(domain.refund_json(r) ORDER BY r.created_at, r.id), '[]')
                      FROM shop.refund r WHERE r.tenant_id = o.tenant_id AND r.order_id = o.id))::text, NULL, NULL)::api.reply;
END
$$;


-- The next attempt for an order whose last was declined.
CREATE OR REPLACE FUNCTION api.payment_create(
    id uuid, guest text DEFAULT NULL, payment_method text DEFAULT NULL, payment_token text DEFAULT NULL, return_url text DEFAULT NULL)
RETURNS api.reply LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    held    record := domain.payment_lock(id, NULL, guest, 'orders.write');
    o       shop.orders := held.o;
    y       shop.payment := held.y;
    g       shop.saga;
    method  text := coalesce(payment_method, y.method);
    call    json;
BEGIN
    SELECT * INTO g FROM shop.saga s WHERE s.tenant_id = o.tenant_id AND s.order_id = o.id FOR UPDATE;

    IF o.status <> 'pending' OR g.order_id IS NULL THEN
        PERFORM domain.fail(409, 'order-not-payable', format('The order is %s.', o.status), jsonb_build_object('order_status', o.status));
    END IF;
    IF y.status <> 'failed' THEN
        PERFORM domain.fail(409, 'payment-in-progress', 'The last payment is not over.', jsonb_build_object('payment', domain.payment_json(y)));
    END IF;
    IF y.attempt >= g.attempts OR g.deadline_at <= now() THEN
        PERFORM domain.fail(409, 'order-not-payable', 'The order cannot be paid any more.', jsonb_build_object('order_status', o.status));
    END IF;
    PERFORM domain.payment_method_check(method, (SELECT t.payment_methods FROM shop.tenant t WHERE t.id = o.tenant_id));

    UPDATE shop.orders n SET payment_method = method, updated_at = now()
     WHERE n.tenant_id = o.tenant_id AND n.id = o.id RETURNING n.* INTO o;

    IF method = 'manual' THEN
        INSERT INTO shop.payment (tenant_id, order_id, attempt, method, status, amount, currency)
        VALUES (o.tenant_id, o.id, y.attempt + 1, method, 'accepted', o.total_amount, o.currency);
        PERFORM domain.order_advance(o, 'confirmed', NULL, 'payment');
        PERFORM domain.payment_remember(o.id);
    ELSE
        PERFORM domain.saga_move(o.id, 'paying');
        call := domain.payment_begin(o, y.attempt + 1, method, payment_token, return_url, 'inline');
    END IF;

    RETURN domain.payment_reply(o.id, CASE WHEN call IS NOT NULL THEN json_build_object('fetch', call) END);
END
$$;


-- Asks the provider how the last payment stands, for a customer who has done what it wanted; the event may come later.
CREATE OR REPLACE FUNCTION api.payment_sync(id uuid, guest text DEFAULT NULL)
RETURNS api.reply LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    held  record := domain.payment_lock(id, NULL, guest, 'orders.write');
BEGIN
    IF (held.y).status IN ('requires_action', 'unknown') THEN
        RETURN domain.payment_ask(held.o, held.y, CASE WHEN (held.y).reference IS NULL THEN 'pay' ELSE 'query' END, 'request');
    END IF;
    RETURN domain.payment_reply(id);
END
$$;


-- G4: takes what was authorised, or notes that a manual payment has come.
CREATE OR REPLACE FUNCTION api.payment_capture(id uuid, attempt int, amount bigint DEFAULT NULL)
RETURNS api.reply LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    held  record := domain.payment_lock(id, attempt, NULL, 'orders.write');
    o     shop.orders := held.o;
    y     shop.payment := held.y;
BEGIN
    PERFORM domain.need('orders.write');

    IF y.status = 'captured' THEN
        RETURN domain.payment_reply(id);
    END IF;
    IF y.status NOT IN ('authorized', 'accepted') OR o.status IN ('cancelled', 'pending') THEN
        PERFORM domain.fail(409, 'payment-not-capturable', format('The payment is %s, the order %s.', y.status, o.status),
                            jsonb_build_object('payment', domain.payment_json(y), 'order_status', o.status));
    END IF;
    IF amount NOT BETWEEN 1 AND y.amount THEN
        PERFORM domain.fail(422, 'amount-invalid', 'Not more than was authorised can be captured.',
                            jsonb_build_object('authorized', domain.money(y.amount, y.currency)));
    END IF;

    UPDATE shop.payment p SET capture_amount = payment_capture.amount
     WHERE p.tenant_id = y.tenant_id AND p.order_id = y.order_id AND p.attempt = y.attempt RETURNING p.* INTO y;
    PERFORM domain.audit('PaymentCapture', 'order', o.id::text, jsonb_build_object('status', y.status),
                         jsonb_build_object('attempt', y.attempt, 'amount', coalesce(amount, y.amount)));
    RETURN domain.payment_ask(o, y, 'capture', 'staff');
END
$$;


-- G4: lets an authorisation go.  The order stays: cancel it, or have it paid otherwise.
CREATE OR REPLACE FUNCTION api.payment_void(id uuid, attempt int)
RETURNS api.reply LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    held  record := domain.payment_lock(id, attempt, NULL, 'orders.write');
BEGIN
    PERFORM domain.need('orders.write');

    IF (held.y).status = 'voided' THEN
        RETURN domain.payment_reply(id);
    END IF;
    IF (held.y).status NOT IN ('authorized', 'accepted', 'requires_action') THEN
        PERFORM domain.fail(409, 'payment-not-voidable', format('The payment is %s.', (held.y).status),
                            jsonb_build_object('payment', domain.payment_json(held.y)));
    END IF;

    PERFORM domain.audit('PaymentVoid', 'order', id::text, jsonb_build_object('status', (held.y).status),
                         jsonb_build_object('attempt', (held.y).attempt));
    RETURN domain.payment_ask(held.o, held.y, 'void', 'staff');
END
$$;


-- F14.  Gives back an amount, some lines, or all that is left; the provider is asked by the sweeper.  lines: [{"variant_id", "quantity",
-- "restock"}].  All refunds of an order wait for each other at the order: together never more than was captured.
CREATE OR REPLACE FUNCTION api.refund_create(
    refund_id uuid, id uuid, amount bigint DEFAULT NULL, lines jsonb DEFAULT NULL, reason text DEFAULT NULL)
RETURNS api.reply LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    tenant  bigint := domain.tenant_id();
    o       shop.orders;
    y       shop.payment;
    wanted  bigint := amount;
    r       shop.refund;
BEGIN
    PERFORM domain.need('orders.write');

    SELECT * INTO o FROM shop.orders x WHERE x.tenant_id = tenant AND x.id = refund_create.id FOR UPDATE;
    IF NOT FOUND THEN
        PERFORM domain.fail(404, 'not-found', 'There is no such order.');
    END IF;
    IF amount IS NOT NULL AND lines IS NOT NULL THEN
        PERFORM domain.fail(422, 'invalid-value', 'Say an amount or lines, not both.');
    END IF;

    SELECT * INTO y FROM shop.payment p
     WHERE p.tenant_id = tenant AND p.order_id = o.id AND p.captured_amount > p.refunded_amount
     ORDER BY p.captured_amount - p.refunded_amount DESC, p.attempt
     LIMIT 1
       FOR UPDATE;
    IF NOT FOUND THEN
        PERFORM domain.fail(409, 'nothing-to-refund', 'Nothing that was captured is left to be given back.',
                            jsonb_build_object('refundable', domain.money(0, o.currency)));
    END IF;

    INSERT INTO shop.refund AS n (tenant_id, id, order_id, attempt, amount, currency, reason, note, actor)
    VALUES (tenant, refund_id, o.id, y.attempt, 1, y.currency, 'requested', refund_create.reason, domain.principal());
    IF lines IS NOT NULL THEN
        wanted := domain.refund_lines(o, refund_id, lines);
    END IF;
    wanted := coalesce(wanted, y.captured_amount - y.refunded_amount);

    IF wanted NOT BETWEEN 1 AND y.captured_amount - y.refunded_amount THEN
        PERFORM domain.fail(409, 'refund-too-large', 'That is more than is left to be given back.', jsonb_build_object(
                                'refundable', domain.money(y.captured_amount - y.refunded_amount, y.currency)));
    END IF;

    UPDATE shop.refund n SET amount = wanted WHERE n.tenant_id = tenant AND n.id = refund_id RETURNING n.* INTO r;
    UPDATE shop.payment p SET refunded_amount = p.refunded_amount + wanted, updated_at = now()
     WHERE p.tenant_id = tenant AND p.order_id = o.id AND p.attempt = y.attempt;

    PERFORM domain.audit('RefundRequested', 'order', o.id::text, NULL, jsonb_build_object('refund_id', refund_id, 'amount', wanted));
    PERFORM domain.job_wake('saga_sweep');
    RETURN (202, domain.refund_json(r)::text, json_build_object('Location', '/api/v1/orders/' || o.id || '/payments'), NULL)::api.reply;
END
$$;


-- The alias of older clients: {"refund_id", "status": "PENDING"}.
CREATE OR REPLACE FUNCTION api.refund_issue(refund_id uuid, order_id uuid, amount bigint DEFAULT NULL, reason text DEFAULT NULL)
RETURNS api.reply LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    r  api.reply := api.refund_create(refund_id, order_id, amount, NULL, reason);
BEGIN
    RETURN (200, json_build_object('refund_id', refund_id, 'status', 'PENDING')::text, NULL, r.edge)::api.reply;
END
$$;


-- The provider has answered a refund.
CREATE OR REPLACE FUNCTION api.refund_result(
    refund_id uuid, fetch_status int DEFAULT 0, fetch_body text DEFAULT NULL, fetch_error text DEFAULT NULL,
    fetch_ms int DEFAULT NULL)
RETURNS api.reply LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    r  shop.refund;
    o  shop.orders;
    y  shop.payment;
BEGIN
    SELECT * INTO r FROM shop.refund n WHERE n.tenant_id = domain.tenant_id() AND n.id = refund_id;
    IF NOT FOUND THEN
        PERFORM domain.fail(404, 'not-found', 'There is no such refund.');
    END IF;
    SELECT * INTO o FROM shop.orders x WHERE x.tenant_id = r.tenant_id AND x.id = r.order_id;
    SELECT * INTO y FROM shop.payment p WHERE p.tenant_id = r.tenant_id AND p.order_id = r.order_id AND p.attempt = r.attempt;

    PERFORM domain.refund_apply(refund_id, payment.outcome(y.method, domain.payment_call(o, y, 'refund', r.amount, r.id), fetch_status,
                                                           fetch_body, fetch_error), 'sweeper');
    SELECT * INTO r FROM shop.refund n WHERE n.tenant_id = r.tenant_id AND n.id = refund_id;
    RETURN (200, domain.refund_json(r)::text, NULL, NULL)::api.reply;
END
$$;
