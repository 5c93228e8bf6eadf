-- Payments: what is asked of providers, and what follows from their answers.
--
-- An answer to a request, an event of the provider and the sweeper all end in domain.payment_apply(): one table of (state × outcome).
-- Locks: order, attempt, saga, then stock and coupons.  A provider is called outside of any transaction (edge.fetch); what is still to be
-- asked stands in shop.payment.todo and next_at, so that nothing is forgotten when the asker dies.


-- How long whoever asks a provider has, before the sweeper takes over.
CREATE OR REPLACE FUNCTION domain.payment_lease() RETURNS interval
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT interval '45 seconds' $$;


-- After so many tries in vain the next comes in 2, 4, 8 … seconds, ten minutes at most.
CREATE OR REPLACE FUNCTION domain.payment_backoff(tries int) RETURNS interval
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT least(2 ^ least(tries + 1, 10), 600) * interval '1 second' $$;


-- One of the tenant's settings of payments: domain.payment_setting('attempts').
CREATE OR REPLACE FUNCTION domain.payment_setting(name text) RETURNS jsonb
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (SELECT t.settings -> 'payments' -> payment_setting.name FROM shop.tenant t WHERE t.id = domain.tenant_id());
END
$$;


-- What is to be asked of the provider.  amount, refund: of a capture or refund.
CREATE OR REPLACE FUNCTION domain.payment_call(o shop.orders, y shop.payment, action text, amount bigint DEFAULT NULL, refund uuid DEFAULT NULL)
RETURNS payment.call LANGUAGE plpgsql STABLE AS $$
DECLARE
    c  payment.call;
BEGIN
    c.action := action;
    c.key := coalesce(refund::text, y.order_id || ':' || y.attempt || CASE WHEN action IN ('capture', 'void') THEN ':' || action ELSE '' END);
    c.tenant_id := y.tenant_id;
    c.order_id := y.order_id;
    c.order_number := o.number;
    c.attempt := y.attempt;
    c.refund_id := refund;
    c.amount := coalesce(amount, y.capture_amount, y.amount);
    c.currency := y.currency;
    c.reference := y.reference;
    c.token := y.token;
    c.return_url := y.return_url;
    c.capture := y.capture;
    c.expired := o.status <> 'pending'
                 OR coalesce((SELECT s.deadline_at <= now() FROM shop.saga s WHERE s.tenant_id = y.tenant_id AND s.order_id = y.order_id), true);
    c.email := o.email;
    c.settings := domain.payment_setting(y.method);
    RETURN c;
END
$$;


-- The provider's call as the edge makes it: edge.fetch, which comes back with api.payment_result() or api.refund_result() in this tenant.
-- NULL: nobody is to be asked.  source: request, staff or sweeper.
CREATE OR REPLACE FUNCTION domain.payment_fetch(c payment.call, provider text, source text) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
    call  json := payment.request(provider, c);
BEGIN
    IF call IS NULL THEN
        RETURN NULL;
    END IF;

    RETURN (call::jsonb || jsonb_build_object('tenant_id', c.tenant_id) || CASE WHEN c.action = 'refund'
        THEN jsonb_build_object('then', 'api.refund_result', 'args', jsonb_build_object('refund_id', c.refund_id))
        ELSE jsonb_build_object('then', 'api.payment_result', 'args', jsonb_build_object(
                 'order_id', c.order_id, 'attempt', c.attempt, 'action', c.action, 'source', source)) END)::json;
END
$$;


-- Notes that the attempt is to be asked about: by whoever holds it (lease true) or by the sweeper, now.
CREATE OR REPLACE FUNCTION domain.payment_due(y shop.payment, action text, lease boolean) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE shop.payment p
       SET todo = payment_due.action, tries = 0, next_at = CASE WHEN lease THEN now() + domain.payment_lease() ELSE now() END, updated_at = now()
     WHERE p.tenant_id = y.tenant_id AND p.order_id = y.order_id AND p.attempt = y.attempt;

    IF NOT lease THEN
        PERFORM domain.job_wake('saga_sweep');
    END IF;
END
$$;


-- A line of the ledger.
CREATE OR REPLACE FUNCTION domain.payment_book(
    y shop.payment, kind text, status text, amount bigint, reference text, code text, source text, refund uuid DEFAULT NULL,
    currency text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO shop.payment_transaction (tenant_id, order_id, attempt, refund_id, kind, status, amount, currency, reference, code, source)
    VALUES (y.tenant_id, y.order_id, y.attempt, refund, kind, status, amount, coalesce(payment_book.currency, y.currency), reference, code,
            source);
END
$$;


-- Tells of a payment: to whoever follows payments, and to whoever follows the checkout (F7).
CREATE OR REPLACE FUNCTION domain.payment_tell(o shop.orders, y shop.payment, type text, amount bigint, more jsonb DEFAULT '{}')
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    payload  jsonb := jsonb_build_object(
        'order_id', o.id, 'order_number', o.number, 'user_id', o.user_id, 'attempt', y.attempt, 'method', y.method,
        'amount', jsonb_build_object('amount', amount, 'currency', y.currency), 'timestamp', domain.ts(now())) || more;
BEGIN
    PERFORM domain.order_emit(o.id, 'payment-events', type, payload);
    IF type IN ('PaymentProcessed', 'PaymentFailed') THEN
        PERFORM domain.order_emit(o.id, 'checkout.checkout-events', 'checkout.' || type, payload);
    END IF;
END
$$;


-- Gives back what is left of a captured payment; the sweeper asks the provider.
CREATE OR REPLACE FUNCTION domain.payment_give_back(o shop.orders, y shop.payment, reason text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    refund  uuid := domain.uuid7();
    rest    bigint;
BEGIN
    UPDATE shop.payment p
       SET refunded_amount = p.captured_amount, updated_at = now()
      FROM shop.payment was
     WHERE p.tenant_id = y.tenant_id AND p.order_id = y.order_id AND p.attempt = y.attempt AND p.captured_amount > p.refunded_amount
       AND was.tenant_id = p.tenant_id AND was.order_id = p.order_id AND was.attempt = p.attempt
    RETURNING p.captured_amount - was.refunded_amount INTO rest;

    IF rest IS NULL THEN
        RETURN;
    END IF;

    INSERT INTO shop.refund (tenant_id, id, order_id, attempt, amount, currency, reason, actor)
    VALUES (y.tenant_id, refund, y.order_id, y.attempt, rest, y.currency, payment_give_back.reason, domain.principal());

    PERFORM domain.order_emit(o.id, 'checkout.payment-command', 'checkout.CompensatePayment', jsonb_build_object(
                                  'order_id', o.id, 'attempt', y.attempt, 'refund_id', refund, 'reason', reason,
                                  'amount', jsonb_build_object('amount', rest, 'currency', y.currency), 'timestamp', domain.ts(now())));
    PERFORM domain.job_wake('saga_sweep');
END
$$;


-- What becomes of the attempts of an order that is cancelled: what was captured is given back, what was authorised or waits for the
-- customer is voided, what nobody knows is asked for until it is known (a late success is then given back).
CREATE OR REPLACE FUNCTION domain.payments_undo(o shop.orders, reason text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    y  shop.payment;
BEGIN
    FOR y IN
        SELECT * FROM shop.payment p WHERE p.tenant_id = o.tenant_id AND p.order_id = o.id ORDER BY p.attempt FOR UPDATE
    LOOP
        IF y.status = 'captured' THEN
            PERFORM domain.payment_give_back(o, y, reason);
        ELSIF y.status IN ('requires_action', 'authorized') THEN
            PERFORM domain.payment_due(y, 'void', false);
        ELSIF y.status = 'accepted' OR (y.status = 'pending' AND y.todo IS NULL) THEN
            UPDATE shop.payment p
               SET status = 'voided', updated_at = now()
             WHERE p.tenant_id = y.tenant_id AND p.order_id = y.order_id AND p.attempt = y.attempt;
        END IF;
    END LOOP;
END
$$;


-- P3.  What an outcome means for the attempt, the order and the saga, whoever brings it and however often.
--
--   attempt \ outcome   success, authorized          requires_action   declined, failed    voided          unknown
--   pending, unknown    order below                  action            failed              voided          ask again
--   requires_action     order below                  no-op             failed              voided          ask again
--   failed, voided      order below (late success)   no-op             no-op               no-op           no-op
--   authorized          success: captured            no-op             no-op               voided          ask again
--   captured            no-op                        no-op             no-op               no-op           no-op
--
--   order \ money       comes                                          does not come
--   pending             confirmed; other amount: payment_review        next attempt until max or deadline, then compensated
--   cancelled           given back, an authorisation is voided         no-op
--   any other           no-op; when another attempt paid, given back   no-op
--
-- action: what was asked (pay, query, capture, void), or event.  source: request, webhook, sweeper, staff.  False: there is no such attempt.
CREATE OR REPLACE FUNCTION domain.payment_apply(order_id uuid, attempt int, action text, result payment.outcome, source text)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    tenant  bigint := domain.tenant_id();
    o       shop.orders;
    y       shop.payment;
BEGIN
    SELECT * INTO o FROM shop.orders x WHERE x.tenant_id = tenant AND x.id = payment_apply.order_id FOR UPDATE;
    SELECT * INTO y FROM shop.payment x
     WHERE x.tenant_id = tenant AND x.order_id = payment_apply.order_id AND x.attempt = payment_apply.attempt FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;

    IF result.reference IS NOT NULL AND y.reference IS NULL THEN
        UPDATE shop.payment x SET reference = result.reference
         WHERE x.tenant_id = tenant AND x.order_id = y.order_id AND x.attempt = y.attempt
        RETURNING * INTO y;
    END IF;

    CASE
    WHEN result.outcome IN ('success', 'authorized') THEN
        PERFORM domain.payment_came(o, y, result, source);
    WHEN result.outcome = 'requires_action' THEN
        PERFORM domain.payment_waits(o, y, result);
    WHEN result.outcome = 'voided' THEN
        PERFORM domain.payment_failed(o, y, 'voided', result, source);
    WHEN result.outcome IN ('declined', 'failed') THEN
        IF action = 'void' THEN                 -- it was captured meanwhile, or is void already: the provider knows
            UPDATE shop.payment x SET todo = 'query', next_at = now() + domain.payment_backoff(x.tries), updated_at = now()
             WHERE x.tenant_id = tenant AND x.order_id = y.order_id AND x.attempt = y.attempt AND x.status <> 'captured';
        ELSIF action = 'capture' THEN           -- the authorisation stands; staff sees why and tries again
            UPDATE shop.payment x
               SET todo = NULL, next_at = NULL, code = result.code, detail = result.detail, updated_at = now()
             WHERE x.tenant_id = tenant AND x.order_id = y.order_id AND x.attempt = y.attempt AND x.status = 'authorized';
            IF FOUND THEN
                PERFORM domain.payment_book(y, 'capture', 'failed', coalesce(y.capture_amount, y.amount), result.reference, result.code,
                                            source);
            END IF;
        ELSE
            PERFORM domain.payment_failed(o, y, 'failed', result, source);
        END IF;
    ELSE                                        -- unknown: never compensated, asked for again
        UPDATE shop.payment x
           SET status = CASE WHEN x.status = 'pending' THEN 'unknown' ELSE x.status END,
               todo = CASE WHEN x.todo = 'pay' AND x.reference IS NOT NULL THEN 'query' ELSE x.todo END,
               next_at = now() + domain.payment_backoff(x.tries), code = result.code, detail = result.detail, updated_at = now()
         WHERE x.tenant_id = tenant AND x.order_id = y.order_id AND x.attempt = y.attempt AND x.todo IS NOT NULL
           AND x.status IN ('pending', 'unknown', 'requires_action', 'authorized');
        IF FOUND THEN
            PERFORM domain.saga_move(o.id, 'unknown');
        END IF;
    END CASE;

    PERFORM domain.payment_remember(order_id);
    RETURN true;
END
$$;


-- Money came, or was authorised.
CREATE OR REPLACE FUNCTION domain.payment_came(o shop.orders, y shop.payment, result payment.outcome, source text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    captured  boolean := result.outcome = 'success';
    due       bigint := coalesce(y.capture_amount, y.amount);
    came      bigint := coalesce(result.amount, due);
    foreign_  boolean := coalesce(upper(result.currency) <> y.currency, false);
    other     boolean;
BEGIN
    UPDATE shop.payment p
       SET status = CASE WHEN captured THEN 'captured' ELSE 'authorized' END,
           -- what came in another currency is in the ledger; a person decides what it is worth
           captured_amount = CASE WHEN captured AND NOT foreign_ THEN came ELSE 0 END,
           todo = NULL, next_at = NULL, tries = 0, action = NULL, code = NULL, detail = NULL, updated_at = now()
     WHERE p.tenant_id = y.tenant_id AND p.order_id = y.order_id AND p.attempt = y.attempt
       AND p.status <> 'captured' AND NOT (p.status = 'authorized' AND NOT captured)
    RETURNING p.* INTO y;

    IF NOT FOUND THEN                           -- it is known; what was to be asked is answered, a capture or a void is not
        UPDATE shop.payment p
           SET todo = NULL, next_at = NULL
         WHERE p.tenant_id = payment_came.o.tenant_id AND p.order_id = payment_came.o.id AND p.attempt = payment_came.y.attempt
           AND p.todo IN ('pay', 'query');
        RETURN;
    END IF;

    PERFORM domain.payment_book(y, CASE WHEN captured THEN 'capture' ELSE 'authorize' END, 'succeeded', came, result.reference, NULL, source,
                                NULL, CASE WHEN foreign_ THEN upper(result.currency) END);
    PERFORM domain.payment_tell(o, y, CASE WHEN captured THEN 'PaymentProcessed' ELSE 'PaymentAuthorized' END, came,
                                jsonb_build_object('reference', y.reference));

    other := EXISTS (SELECT FROM shop.payment p
                      WHERE p.tenant_id = o.tenant_id AND p.order_id = o.id AND p.attempt <> y.attempt
                        AND p.status IN ('captured', 'authorized') AND p.captured_amount - p.refunded_amount >= 0
                        AND (p.status = 'authorized' OR p.captured_amount > p.refunded_amount));

    IF o.status = 'pending' AND (foreign_ OR came <> due) THEN
        PERFORM domain.order_advance(o, 'payment_review', format('%s %s came for %s %s', came, coalesce(upper(result.currency), y.currency),
                                                                 due, y.currency), 'payment');
    ELSIF o.status = 'pending' THEN
        PERFORM domain.order_advance(o, 'confirmed', NULL, 'payment');
    ELSIF o.status = 'cancelled' OR other THEN  -- too late, or twice
        IF captured THEN
            PERFORM domain.payment_give_back(o, y, CASE WHEN o.status = 'cancelled' THEN 'late-payment' ELSE 'paid-twice' END);
        ELSE
            PERFORM domain.payment_due(y, 'void', false);
        END IF;
    END IF;
END
$$;


-- The customer has something to do first.
CREATE OR REPLACE FUNCTION domain.payment_waits(o shop.orders, y shop.payment, result payment.outcome) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE shop.payment p
       SET status = 'requires_action', action = coalesce(result.action, p.action), todo = NULL, next_at = NULL, tries = 0, updated_at = now()
     WHERE p.tenant_id = y.tenant_id AND p.order_id = y.order_id AND p.attempt = y.attempt
       AND p.status IN ('pending', 'unknown', 'requires_action')
    RETURNING p.* INTO y;

    IF NOT FOUND THEN
        RETURN;
    END IF;

    IF o.status = 'pending' AND now() < (SELECT s.deadline_at FROM shop.saga s WHERE s.tenant_id = o.tenant_id AND s.order_id = o.id) THEN
        PERFORM domain.saga_move(o.id, 'action');
    ELSE                                        -- too late to do it
        PERFORM domain.payment_due(y, 'void', false);
    END IF;
END
$$;


-- No money comes by this attempt: declined, failed or voided.
CREATE OR REPLACE FUNCTION domain.payment_failed(o shop.orders, y shop.payment, became text, result payment.outcome, source text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    g  shop.saga;
BEGIN
    UPDATE shop.payment p
       SET status = became, todo = NULL, next_at = NULL, tries = 0, action = NULL, code = result.code, detail = result.detail, updated_at = now()
     WHERE p.tenant_id = y.tenant_id AND p.order_id = y.order_id AND p.attempt = y.attempt
       -- a decline after a success says nothing; only a void ends an authorisation
       AND p.status NOT IN ('captured', 'failed', 'voided') AND (p.status <> 'authorized' OR became = 'voided')
    RETURNING p.* INTO y;

    IF NOT FOUND THEN
        RETURN;
    END IF;

    PERFORM domain.payment_book(y, CASE WHEN became = 'voided' THEN 'void' ELSE 'decline' END, 'succeeded', y.amount, result.reference,
                                result.code, source);
    PERFORM domain.payment_tell(o, y, CASE WHEN became = 'voided' THEN 'PaymentVoided' ELSE 'PaymentFailed' END, y.amount,
                                jsonb_strip_nulls(jsonb_build_object('code', result.code)));

    IF o.status <> 'pending' THEN
        RETURN;
    END IF;

    SELECT * INTO g FROM shop.saga s WHERE s.tenant_id = o.tenant_id AND s.order_id = o.id;
    IF became = 'failed' AND y.attempt < g.attempts AND now() < g.deadline_at THEN
        PERFORM domain.saga_move(o.id, 'declined');
    ELSE
        PERFORM domain.compensate(o.id, CASE WHEN became = 'voided' THEN 'payment-abandoned' ELSE 'payment-declined' END);
    END IF;
END
$$;


-- The attempt as the API shows it.
CREATE OR REPLACE FUNCTION domain.payment_json(y shop.payment) RETURNS jsonb
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN jsonb_build_object(
        'attempt', y.attempt, 'method', y.method,
        'status', CASE WHEN y.status = 'pending' AND y.todo IS NULL THEN 'pending'
                       WHEN y.status IN ('pending', 'unknown') THEN 'processing' ELSE y.status END,
        'amount', domain.money(y.amount, y.currency), 'captured', domain.money(y.captured_amount, y.currency),
        'refunded', domain.money(y.refunded_amount, y.currency), 'reference', y.reference, 'action', y.action, 'code', y.code,
        'detail', y.detail, 'created_at', domain.ts(y.created_at), 'updated_at', domain.ts(y.updated_at));
END
$$;


-- What the customer is answered as things stand: 201 with the order when it stands, 202 while it waits (payment.action: for what), 402
-- when no money came.
CREATE OR REPLACE FUNCTION domain.payment_reply(order_id uuid, edge json DEFAULT NULL) RETURNS api.reply
LANGUAGE plpgsql STABLE AS $$
DECLARE
    tenant  bigint := domain.tenant_id();
    o       shop.orders;
    y       shop.payment;
    g       shop.saga;
BEGIN
    SELECT * INTO STRICT o FROM shop.orders x WHERE x.tenant_id = tenant AND x.id = payment_reply.order_id;
    SELECT * INTO STRICT y FROM shop.payment x WHERE x.tenant_id = tenant AND x.order_id = o.id ORDER BY x.attempt DESC LIMIT 1;
    SELECT * INTO g FROM shop.saga x WHERE x.tenant_id = tenant AND x.order_id = o.id;

    IF o.status = 'cancelled' OR (o.status = 'pending' AND y.status = 'failed') THEN
        RETURN (402, jsonb_strip_nulls(jsonb_build_object(
                    'code', 'payment-declined', 'detail', coalesce(y.detail, 'The payment was not made.'), 'order_id', o.id,
                    'order_number', o.number, 'order_status', o.status, 'payment_code', y.code, 'attempt', y.attempt,
                    'attempts_left', CASE WHEN o.status = 'pending' THEN g.attempts - y.attempt ELSE 0 END))::text, NULL, edge)::api.reply;
    END IF;

    RETURN (CASE WHEN o.status IN ('pending', 'payment_review') THEN 202 ELSE 201 END,
            left(domain.order_text(o, domain.order_items(o)), -1) || ',"payment":' || domain.payment_json(y) || '}',
            json_build_object('Location', '/api/v1/orders/' || o.id, 'ETag', '"' || o.version || '"'), edge)::api.reply;
END
$$;


-- A repeated request gets what became of the order, not what the first answer could say.
CREATE OR REPLACE FUNCTION domain.payment_remember(order_id uuid) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    tenant  bigint := domain.tenant_id();
    g       shop.saga;
    r       api.reply;
BEGIN
    SELECT * INTO g FROM shop.saga s WHERE s.tenant_id = tenant AND s.order_id = payment_remember.order_id;
    IF g.idem_key IS NULL THEN
        RETURN;
    END IF;

    r := domain.payment_reply(order_id);
    UPDATE shop.idempotency i
       SET status = r.status, body = r.body, headers = r.headers
     WHERE i.tenant_id = tenant AND i.scope = g.idem_scope AND i.key = g.idem_key;
END
$$;


-- The attempt, locked after its order, or 404.  attempt NULL: the last.
CREATE OR REPLACE FUNCTION domain.payment_lock(order_id uuid, attempt int, guest text, permission text, OUT o shop.orders, OUT y shop.payment)
LANGUAGE plpgsql AS $$
BEGIN
    SELECT * INTO o FROM shop.orders x WHERE x.tenant_id = domain.tenant_id() AND x.id = payment_lock.order_id FOR UPDATE;
    IF NOT domain.order_visible(o, guest, permission) THEN
        PERFORM domain.fail(404, 'not-found', 'There is no such order.');
    END IF;

    SELECT * INTO y FROM shop.payment x
     WHERE x.tenant_id = o.tenant_id AND x.order_id = o.id AND (payment_lock.attempt IS NULL OR x.attempt = payment_lock.attempt)
     ORDER BY x.attempt DESC
     LIMIT 1
       FOR UPDATE;
    IF NOT FOUND THEN
        PERFORM domain.fail(404, 'not-found', 'There is no such payment.');
    END IF;
END
$$;


-- An action with a provider that staff or a customer waits for: the reply while it is asked, with the call to make.  An adapter that asks
-- nobody answers at once.
CREATE OR REPLACE FUNCTION domain.payment_ask(o shop.orders, y shop.payment, action text, source text) RETURNS api.reply
LANGUAGE plpgsql AS $$
DECLARE
    c     payment.call;
    call  json;
BEGIN
    PERFORM domain.payment_due(y, action, true);
    c := domain.payment_call(o, y, action);
    call := domain.payment_fetch(c, y.method, source);

    IF call IS NULL THEN
        PERFORM domain.payment_apply(o.id, y.attempt, action, payment.outcome(y.method, c, NULL, NULL, NULL), source);
        RETURN domain.payment_reply(o.id);
    END IF;
    RETURN domain.payment_reply(o.id, json_build_object('fetch', call));
END
$$;


-- Applies a kept event; one that finds nothing is looked at again for a day.
CREATE OR REPLACE FUNCTION domain.payment_event_apply(provider text, told payment.notice) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    done  boolean;
BEGIN
    done := CASE told.kind
        WHEN 'payment' THEN domain.payment_apply(told.order_id, told.attempt, 'event', told.result, 'webhook')
        WHEN 'refund'  THEN domain.refund_apply(told.refund_id, told.result, 'webhook')
        ELSE true END;

    UPDATE shop.payment_event e
       SET applied_at = CASE WHEN done THEN now() END,
           next_at = CASE WHEN NOT done AND e.received_at > now() - interval '1 day' THEN now() + domain.payment_backoff(e.tries) END,
           tries = e.tries + 1
     WHERE e.tenant_id = domain.tenant_id() AND e.provider = payment_event_apply.provider AND e.event_id = told.event_id;
END
$$;
