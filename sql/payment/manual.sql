-- manual: money is collected outside of the system (cash on delivery, a transfer); staff captures what has come. Nobody is asked.


CREATE OR REPLACE FUNCTION payment.manual_request(c payment.call) RETURNS json
LANGUAGE sql IMMUTABLE AS $$
    SELECT NULL::json
$$;


-- What staff says is so.
CREATE OR REPLACE FUNCTION payment.manual_outcome(c payment.call, status int, body text, error text) RETURNS payment.outcome
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN (CASE WHEN c.action = 'void' THEN 'voided' ELSE 'success' END, NULL, c.amount, c.currency, NULL, NULL, NULL)::payment.outcome;
END
$$;
