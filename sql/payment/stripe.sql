-- stripe: cards and wallets by PaymentIntents.
--
-- Settings, payments.stripe: {"payment_method_types": ["card"], "statement_suffix": "…"}; without the first, what the account has switched on.
-- The customer's payment method (pm_…) comes with the order as payment_token and is confirmed at once; without one the customer confirms
-- with the client secret of the answer, 202.  Secrets: payment.stripe_secret().


-- Minor units as Stripe counts them: it keeps two decimals for two currencies that have none any more.
CREATE OR REPLACE FUNCTION payment.stripe_units(currency text) RETURNS int
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN upper(currency) IN ('ISK', 'UGX') THEN 100 ELSE 1 END
$$;


-- {"a": "x", "metadata[b]": 1} as application/x-www-form-urlencoded; members that are null are left out.
CREATE OR REPLACE FUNCTION payment.form(fields json) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT string_agg(payment.form_text(f.key) || '=' || payment.form_text(f.value), '&' ORDER BY f.place)
      FROM json_each_text(fields) WITH ORDINALITY f (key, value, place)
     WHERE f.value IS NOT NULL
$$;

CREATE OR REPLACE FUNCTION payment.form_text(value text) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(string_agg(CASE WHEN c ~ '^[A-Za-z0-9_.~-]$' THEN c
                                    ELSE regexp_replace(upper(encode(convert_to(c, 'UTF8'), 'hex')), '(..)', '%\1', 'g') END, '' ORDER BY n), '')
      FROM regexp_split_to_table(value, '') WITH ORDINALITY p (c, n)
$$;


-- The key as a placeholder that the edge opens: what the shop has sealed, else the operator's file (commerce_secret stripe.<slug>).
CREATE OR REPLACE FUNCTION payment.stripe_secret() RETURNS text
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN coalesce(
        (SELECT payment.sealed(s) FROM shop.payment_secret s
          WHERE s.tenant_id = domain.tenant_id() AND s.provider = 'stripe' AND s.kind = 'key'),
        (SELECT '{secret:stripe.' || t.slug || '}' FROM shop.tenant t WHERE t.id = domain.tenant_id()));
END
$$;


CREATE OR REPLACE FUNCTION payment.stripe_request(c payment.call) RETURNS json
LANGUAGE plpgsql STABLE AS $$
DECLARE
    base    text := '{url:stripe|https://api.stripe.com}/v1/';
    form    text := NULL;
    path    text;
    method  text := 'POST';
    units   int := payment.stripe_units(c.currency);
BEGIN
    IF c.reference IS NULL AND c.action = 'query' AND c.expired THEN
        -- nobody is charged now by asking: what came of the first call is looked for
        method := 'GET';
        path := 'payment_intents/search?' || payment.form(json_build_object('query', format(
                    'metadata["order_id"]:"%s" AND metadata["attempt"]:"%s"', c.order_id, c.attempt)));
    ELSIF c.action = 'pay' OR c.reference IS NULL AND c.action = 'query' THEN
        path := 'payment_intents';
        form := payment.stripe_intent_form(c);
    ELSIF c.action = 'query' THEN
        method := 'GET';
        path := 'payment_intents/' || payment.form_text(c.reference);
    ELSIF c.action = 'capture' THEN
        path := 'payment_intents/' || payment.form_text(c.reference) || '/capture';
        form := payment.form(json_build_object('amount_to_capture', c.amount * units));
    ELSIF c.action = 'void' THEN
        path := 'payment_intents/' || payment.form_text(c.reference) || '/cancel';
        form := payment.form(json_build_object('cancellation_reason', 'abandoned'));
    ELSE
        path := 'refunds';
        form := payment.form(json_build_object('payment_intent', c.reference, 'amount', c.amount * units, 'metadata[refund_id]', c.refund_id,
                                               'metadata[order_id]', c.order_id, 'metadata[attempt]', c.attempt));
    END IF;

    RETURN json_strip_nulls(json_build_object(
        'url', base || path, 'method', method, 'body', form, 'timeout_ms', 20000,
        'headers', json_strip_nulls(json_build_object(
            'Authorization', 'Bearer ' || payment.stripe_secret(),
            'Stripe-Version', '2024-06-20',
            'Idempotency-Key', CASE WHEN method = 'POST' THEN c.key END,
            'Content-Type', CASE WHEN method = 'POST' THEN 'application/x-www-form-urlencoded' END))));
END
$$;


CREATE OR REPLACE FUNCTION payment.stripe_intent_form(c payment.call) RETURNS text
LANGUAGE plpgsql STABLE AS $$
DECLARE
    fields  jsonb;
    kinds   json := (SELECT json_object_agg(format('payment_method_types[%s]', n - 1), kind)
                       FROM jsonb_array_elements_text(nullif(c.settings -> 'payment_method_types', 'null')) WITH ORDINALITY k (kind, n));
    form    text;
BEGIN
    form := payment.form(json_build_object(
        'amount', c.amount * payment.stripe_units(c.currency),
        'currency', lower(c.currency),
        'capture_method', CASE WHEN c.capture = 'later' THEN 'manual' ELSE 'automatic' END,
        'payment_method', c.token,
        'confirm', CASE WHEN c.token IS NOT NULL THEN true END,
        'return_url', CASE WHEN c.token IS NOT NULL THEN c.return_url END,
        'automatic_payment_methods[enabled]', CASE WHEN kinds IS NULL THEN true END,
        -- who names no page to come back to cannot be sent away
        'automatic_payment_methods[allow_redirects]', CASE WHEN kinds IS NULL AND c.token IS NOT NULL AND c.return_url IS NULL THEN 'never' END,
        'receipt_email', c.email,
        'description', c.order_number,
        'statement_descriptor_suffix', c.settings ->> 'statement_suffix',
        'metadata[order_id]', c.order_id,
        'metadata[order_number]', c.order_number,
        'metadata[attempt]', c.attempt,
        'metadata[tenant_id]', c.tenant_id));
    RETURN concat_ws('&', form, payment.form(kinds));
END
$$;


-- A PaymentIntent as it stands.
CREATE OR REPLACE FUNCTION payment.stripe_intent(i jsonb) RETURNS payment.outcome
LANGUAGE plpgsql STABLE AS $$
DECLARE
    units   int := payment.stripe_units(i ->> 'currency');
    status  text := i ->> 'status';
    error   jsonb := nullif(i -> 'last_payment_error', 'null');
BEGIN
    IF status = 'succeeded' THEN
        RETURN ('success', i ->> 'id', (i ->> 'amount_received')::bigint / units, upper(i ->> 'currency'), NULL, NULL, NULL)::payment.outcome;
    ELSIF status = 'requires_capture' THEN
        RETURN ('authorized', i ->> 'id', (i ->> 'amount_capturable')::bigint / units, upper(i ->> 'currency'), NULL, NULL,
                NULL)::payment.outcome;
    ELSIF status = 'requires_payment_method' AND error IS NOT NULL THEN
        RETURN payment.stripe_declined(i ->> 'id', error);
    ELSIF status IN ('requires_action', 'requires_confirmation', 'requires_payment_method') THEN
        RETURN ('requires_action', i ->> 'id', NULL, NULL, NULL, NULL, jsonb_strip_nulls(jsonb_build_object(
                    'type', 'stripe', 'client_secret', i -> 'client_secret',
                    'url', i #> '{next_action,redirect_to_url,url}')))::payment.outcome;
    ELSIF status = 'canceled' THEN
        RETURN ('voided', i ->> 'id', NULL, NULL, i ->> 'cancellation_reason', NULL, NULL)::payment.outcome;
    END IF;
    RETURN ('unknown', i ->> 'id', NULL, NULL, coalesce(status, 'unreadable'), 'The payment is being processed.', NULL)::payment.outcome;
END
$$;


-- What the customer may know of a decline: not that a card was reported.
CREATE OR REPLACE FUNCTION payment.stripe_declined(reference text, error jsonb) RETURNS payment.outcome
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    code    text := coalesce(error ->> 'decline_code', error ->> 'code', error ->> 'type');
    silent  boolean := code IN ('fraudulent', 'lost_card', 'merchant_blacklist', 'pickup_card', 'restricted_card', 'security_violation',
                                'stolen_card');
BEGIN
    RETURN ('declined', reference, NULL, NULL, CASE WHEN silent THEN 'card-declined' ELSE replace(code, '_', '-') END,
            CASE WHEN silent THEN 'The card was declined.' ELSE coalesce(error ->> 'message', 'The payment was declined.') END,
            NULL)::payment.outcome;
END
$$;


-- Whatever leaves open whether money moved is unknown; a refused call may be the repetition of one that was not refused.
CREATE OR REPLACE FUNCTION payment.stripe_outcome(c payment.call, status int, body text, error text) RETURNS payment.outcome
LANGUAGE plpgsql STABLE AS $$
DECLARE
    answer  jsonb;
    fault   jsonb;
    found   payment.outcome;
BEGIN
    BEGIN
        answer := body::jsonb;
    EXCEPTION WHEN data_exception THEN
        NULL;
    END;

    IF status = 200 THEN
        CASE answer ->> 'object'
        WHEN 'payment_intent' THEN
            RETURN payment.stripe_intent(answer);
        WHEN 'refund' THEN
            RETURN payment.stripe_refund(answer);
        WHEN 'search_result' THEN
            IF jsonb_array_length(answer -> 'data') > 0 THEN
                RETURN payment.stripe_intent(answer #> '{data,0}');
            END IF;
            RETURN ('failed', NULL, NULL, NULL, 'not-received', 'The provider never received the payment.', NULL)::payment.outcome;
        ELSE
            NULL;
        END CASE;
    END IF;

    fault := answer -> 'error';

    IF status = 402 AND fault ->> 'type' = 'card_error' AND c.action IN ('pay', 'query') THEN
        RETURN payment.stripe_declined(fault #>> '{payment_intent,id}', fault);
    END IF;

    -- it is in another state than we thought, and says in which
    IF status = 400 AND fault ->> 'code' = 'payment_intent_unexpected_state' AND jsonb_typeof(fault -> 'payment_intent') = 'object'
       AND c.action <> 'refund' THEN
        found := payment.stripe_intent(fault -> 'payment_intent');
        IF found.outcome <> 'authorized' THEN
            RETURN found;
        END IF;
    END IF;

    IF status IN (400, 402, 404) AND fault ->> 'type' IN ('invalid_request_error', 'card_error') THEN
        RETURN ('failed', NULL, NULL, NULL, replace(coalesce(fault ->> 'code', 'refused'), '_', '-'), fault ->> 'message', NULL)::payment.outcome;
    END IF;

    RETURN ('unknown', fault #>> '{payment_intent,id}', NULL, NULL,
            coalesce(replace(coalesce(fault ->> 'code', fault ->> 'type'), '_', '-'), error, 'status-' || status),
            'The provider did not answer.', NULL)::payment.outcome;
END
$$;


CREATE OR REPLACE FUNCTION payment.stripe_refund(r jsonb) RETURNS payment.outcome
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (CASE r ->> 'status' WHEN 'succeeded' THEN 'success' WHEN 'failed' THEN 'failed' WHEN 'canceled' THEN 'failed' ELSE 'unknown' END,
            r ->> 'id', (r ->> 'amount')::bigint / payment.stripe_units(r ->> 'currency'), upper(r ->> 'currency'),
            replace(coalesce(r ->> 'failure_reason', CASE WHEN r ->> 'status' <> 'succeeded' THEN r ->> 'status' END), '_', '-'), NULL,
            NULL)::payment.outcome;
END
$$;


-- How events are signed: with one of what the shop has sealed, else with the operator's file.
CREATE OR REPLACE FUNCTION payment.stripe_webhook() RETURNS json
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN json_build_object('header', 'Stripe-Signature', 'secrets', coalesce(
        (SELECT json_agg(payment.sealed(s) ORDER BY s.created_at DESC) FROM shop.payment_secret s
          WHERE s.tenant_id = domain.tenant_id() AND s.provider = 'stripe' AND s.kind = 'webhook'),
        (SELECT json_build_array('{secret:stripe.' || t.slug || '.webhook}') FROM shop.tenant t WHERE t.id = domain.tenant_id())));
END
$$;


-- Objects in events are as they were then: events come in any order, and what is said twice or too late says nothing (P3).
CREATE OR REPLACE FUNCTION payment.stripe_event(body text) RETURNS payment.notice
LANGUAGE plpgsql STABLE AS $$
DECLARE
    e     jsonb := body::jsonb;
    o     jsonb := e #> '{data,object}';
    uuid  text := '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$';
    m     jsonb := o -> 'metadata';
    ours  boolean := coalesce(m ->> 'order_id' ~ uuid AND m ->> 'attempt' ~ '^[0-9]{1,6}$', false);
    kind  text := 'none';
BEGIN
    IF jsonb_typeof(e -> 'id') IS DISTINCT FROM 'string' OR jsonb_typeof(e -> 'type') IS DISTINCT FROM 'string' THEN
        PERFORM domain.fail(422, 'invalid-value', 'That is no event of Stripe.');
    END IF;

    IF o ->> 'object' = 'payment_intent' AND ours THEN
        kind := 'payment';
    ELSIF o ->> 'object' = 'refund' AND ours AND coalesce(m ->> 'refund_id' ~ uuid, false) THEN
        kind := 'refund';
    END IF;

    RETURN (left(e ->> 'id', 255), e ->> 'type', kind, CASE WHEN ours THEN (m ->> 'order_id')::uuid END,
            CASE WHEN ours THEN (m ->> 'attempt')::int END, CASE WHEN kind = 'refund' THEN (m ->> 'refund_id')::uuid END,
            CASE kind WHEN 'payment' THEN payment.stripe_intent(o) WHEN 'refund' THEN payment.stripe_refund(o) END)::payment.notice;
END
$$;
