-- Providers by their names. An adapter is two functions, four when the provider sends events:
--
--   payment.<name>_request(c payment.call) RETURNS json
--       the call as edge.fetch takes it (url, method, headers, body, timeout_ms, guard), without then and args; NULL: nothing is to be
--       asked, payment.<name>_outcome is called at once with status NULL
--   payment.<name>_outcome(c payment.call, status int, body text, error text) RETURNS payment.outcome
--       what the answer means. status 0: there was none, error says why. Whatever leaves open whether money moved is `unknown`, never
--       `failed`: the same call is then repeated under the same key, or `query` asks
--   payment.<name>_event(body text) RETURNS payment.notice
--       what an event says; its bytes were verified already. kind `none`: nothing of ours
--   payment.<name>_webhook() RETURNS json
--       how the edge verifies them: {"header", "secrets": [placeholders]}, see the native webhook_verify


-- Is there an adapter of this name?
CREATE OR REPLACE FUNCTION payment.known(provider text) RETURNS boolean
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN provider ~ '^[a-z][a-z0-9_]{0,31}$'
       AND to_regprocedure(format('payment.%I(payment.call)', provider || '_request')) IS NOT NULL;
END
$$;


CREATE OR REPLACE FUNCTION payment.request(provider text, c payment.call) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
    fetch  json;
BEGIN
    EXECUTE format('SELECT payment.%I($1)', provider || '_request') INTO fetch USING c;
    RETURN fetch;
END
$$;


CREATE OR REPLACE FUNCTION payment.outcome(provider text, c payment.call, status int, body text, error text) RETURNS payment.outcome
LANGUAGE plpgsql AS $$
DECLARE
    result  payment.outcome;
BEGIN
    EXECUTE format('SELECT * FROM payment.%I($1, $2, $3, $4)', provider || '_outcome') INTO result USING c, status, body, error;
    RETURN result;
END
$$;


CREATE OR REPLACE FUNCTION payment.notice(provider text, body text) RETURNS payment.notice
LANGUAGE plpgsql AS $$
DECLARE
    told  payment.notice;
BEGIN
    IF to_regprocedure(format('payment.%I(text)', provider || '_event')) IS NULL THEN
        PERFORM domain.fail(404, 'not-found', 'There is no such provider of payments.');
    END IF;

    EXECUTE format('SELECT * FROM payment.%I($1)', provider || '_event') INTO told USING body;
    RETURN told;
END
$$;


CREATE OR REPLACE FUNCTION payment.webhook(provider text) RETURNS json
LANGUAGE plpgsql STABLE AS $$
DECLARE
    how  json;
BEGIN
    IF provider !~ '^[a-z][a-z0-9_]{0,31}$' OR to_regprocedure(format('payment.%I()', provider || '_webhook')) IS NULL THEN
        PERFORM domain.fail(404, 'not-found', 'There is no such provider of payments.');
    END IF;

    EXECUTE format('SELECT payment.%I()', provider || '_webhook') INTO how;
    RETURN how;
END
$$;


-- What a shop has sealed, as a placeholder that the edge opens.
CREATE OR REPLACE FUNCTION payment.sealed(s shop.payment_secret) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT format('{sealed:shop.payment_secret %s %s %s|%s}', s.tenant_id, s.id, s.place, s.secret)
$$;
