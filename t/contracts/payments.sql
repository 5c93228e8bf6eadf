-- A provider that tests play (t/provider.py): JSON over HTTP, an adapter as sql/payment/README.md says.

CREATE OR REPLACE FUNCTION payment.double_request(c payment.call) RETURNS json
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN json_build_object(
        'url', '{url:double|https://double.example}/' || c.action, 'method', 'POST',
        'headers', json_build_object('Content-Type', 'application/json', 'Idempotency-Key', c.key),
        'timeout_ms', coalesce((c.settings ->> 'timeout_ms')::int, 5000),
        'body', json_build_object('payment', c.order_id || ':' || c.attempt, 'refund', c.refund_id, 'amount', c.amount,
                                  'currency', c.currency, 'capture', c.capture)::text);
END
$$;

CREATE OR REPLACE FUNCTION payment.double_outcome(c payment.call, status int, body text, error text) RETURNS payment.outcome
LANGUAGE plpgsql STABLE AS $$
DECLARE
    b  jsonb;
BEGIN
    IF status <> 200 THEN
        RETURN ('unknown', NULL, NULL, NULL, coalesce(error, 'http-' || status), 'The provider did not answer.', NULL)::payment.outcome;
    END IF;
    b := body::jsonb;
    RETURN (b ->> 'outcome', b ->> 'reference', (b ->> 'amount')::bigint, b ->> 'currency', b ->> 'code', b ->> 'detail',
            b -> 'action')::payment.outcome;
END
$$;

ALTER FUNCTION payment.double_request(payment.call) OWNER TO commerce_owner;
ALTER FUNCTION payment.double_outcome(payment.call, int, text, text) OWNER TO commerce_owner;
