-- simulated: a provider without a network (G2). What becomes of a payment is decided by its key and the tenant's seed alone, so that a
-- run can be repeated and a repeated call charges nothing again.
--
-- Settings, payments.simulated: {"seed": 1, "success_percent": 90, "action_percent": 0, "unknown_percent": 0, "delay_ms": 0}.
-- action_percent of the payments ask for the customer first, unknown_percent do not answer the first time.


-- 0 to 99, the same for the same payment; what: which die.
CREATE OR REPLACE FUNCTION payment.simulated_die(c payment.call, what text) RETURNS int
LANGUAGE sql IMMUTABLE AS $$
    SELECT (hashtextextended(what || ' ' || c.order_id || ':' || c.attempt, coalesce((c.settings ->> 'seed')::bigint, 1))
            & 9223372036854775807)::bigint % 100
$$;


-- A call without a url: the edge waits after_ms and goes on, in another transaction like behind any provider.
CREATE OR REPLACE FUNCTION payment.simulated_request(c payment.call) RETURNS json
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN json_build_object('after_ms', coalesce((c.settings ->> 'delay_ms')::int, 0));
END
$$;


CREATE OR REPLACE FUNCTION payment.simulated_outcome(c payment.call, status int, body text, error text) RETURNS payment.outcome
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    reference  text := 'sim_' || replace(c.order_id::text, '-', '') || '_' || c.attempt;
    done       text := CASE WHEN c.capture = 'later' THEN 'authorized' ELSE 'success' END;
    asked      boolean := payment.simulated_die(c, 'action') < coalesce((c.settings ->> 'action_percent')::int, 0);
BEGIN
    CASE c.action
    WHEN 'pay' THEN
        IF payment.simulated_die(c, 'unknown') < coalesce((c.settings ->> 'unknown_percent')::int, 0) THEN
            RETURN ('unknown', reference, NULL, NULL, 'timeout', 'The provider did not answer.', NULL)::payment.outcome;
        ELSIF asked THEN
            RETURN ('requires_action', reference, NULL, NULL, NULL, NULL,
                    jsonb_build_object('type', 'simulated', 'client_secret', reference || '_secret'))::payment.outcome;
        END IF;
    WHEN 'query' THEN                           -- the customer has done it when anybody asks before the deadline
        IF asked AND c.expired THEN
            RETURN ('declined', reference, NULL, NULL, 'abandoned', 'The payment was not confirmed in time.', NULL)::payment.outcome;
        END IF;
    WHEN 'void' THEN
        RETURN ('voided', reference, c.amount, c.currency, NULL, NULL, NULL)::payment.outcome;
    WHEN 'refund' THEN
        RETURN ('success', 'sim_refund_' || replace(c.refund_id::text, '-', ''), c.amount, c.currency, NULL, NULL, NULL)::payment.outcome;
    ELSE                                        -- capture
        RETURN ('success', reference, c.amount, c.currency, NULL, NULL, NULL)::payment.outcome;
    END CASE;

    IF payment.simulated_die(c, 'success') < coalesce((c.settings ->> 'success_percent')::int, 90) THEN
        RETURN (done, reference, c.amount, c.currency, NULL, NULL, NULL)::payment.outcome;
    END IF;
    RETURN ('declined', reference, NULL, NULL, 'card-declined', 'The card was declined.', NULL)::payment.outcome;
END
$$;


-- An event as a test sends it: {"id", "order_id", "attempt", "outcome", "amount", "currency"}.
CREATE OR REPLACE FUNCTION payment.simulated_event(body text) RETURNS payment.notice
LANGUAGE plpgsql STABLE AS $$
DECLARE
    e  jsonb := body::jsonb;
BEGIN
    RETURN (e ->> 'id', 'payment.' || (e ->> 'outcome'), 'payment', (e ->> 'order_id')::uuid, (e ->> 'attempt')::int, NULL,
            (e ->> 'outcome', e ->> 'reference', (e ->> 'amount')::bigint, e ->> 'currency', e ->> 'code', NULL,
             NULL)::payment.outcome)::payment.notice;
END
$$;


CREATE OR REPLACE FUNCTION payment.simulated_webhook() RETURNS json
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (SELECT json_build_object('header', 'Simulated-Signature', 'secrets',
                                     json_build_array('{secret:simulated.' || t.slug || '.webhook}'))
              FROM shop.tenant t WHERE t.id = domain.tenant_id());
END
$$;
