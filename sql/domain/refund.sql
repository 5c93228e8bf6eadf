-- Refunds: together never more than was captured, because they take turns at the order; shares of lines add up to the lines.


CREATE OR REPLACE FUNCTION domain.refund_json(r shop.refund) RETURNS jsonb
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN jsonb_build_object(
        'refund_id', r.id, 'order_id', r.order_id, 'attempt', r.attempt, 'status', r.status, 'amount', domain.money(r.amount, r.currency),
        'reason', r.reason, 'note', r.note, 'code', r.code, 'reference', r.reference, 'created_at', domain.ts(r.created_at),
        'updated_at', domain.ts(r.updated_at),
        'lines', (SELECT coalesce(jsonb_agg(jsonb_build_object(
                             'variant_id', i.variant_id, 'quantity', x.quantity, 'amount', domain.money(x.amount, r.currency),
                             'restocked', x.restock) ORDER BY x.line), '[]')
                    FROM shop.refund_item x
                    JOIN shop.order_item i ON i.tenant_id = x.tenant_id AND i.order_id = r.order_id AND i.line = x.line
                   WHERE x.tenant_id = r.tenant_id AND x.refund_id = r.id));
END
$$;


-- What so many pieces of a line cost, as the n-th to the m-th: shares of several refunds add up to the line.
CREATE OR REPLACE FUNCTION domain.refund_share(total bigint, quantity int, before int, taken int) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT (total::numeric * (before + taken) / quantity)::numeric(38, 0)::bigint - (total::numeric * before / quantity)::numeric(38, 0)::bigint
$$;


-- The lines of a refund, what they come to, and what of them goes back on the shelf.
CREATE OR REPLACE FUNCTION domain.refund_lines(o shop.orders, refund uuid, lines jsonb) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    tenant  bigint := domain.tenant_id();
    l       record;
    before  int;
    part    bigint;
    total   bigint := 0;
BEGIN
    FOR l IN
        SELECT w.variant_id, w.quantity, coalesce(w.restock, false) AS restock, i.line, i.product_id, i.quantity AS ordered,
               i.total_amount - i.discount_amount + CASE WHEN o.tax_inclusive THEN 0 ELSE i.tax_amount END AS worth
          FROM jsonb_to_recordset(lines) AS w (variant_id bigint, quantity int, restock boolean)
          LEFT JOIN shop.order_item i ON i.tenant_id = tenant AND i.order_id = o.id AND i.variant_id = w.variant_id
         ORDER BY w.variant_id
    LOOP
        IF l.line IS NULL THEN
            PERFORM domain.fail(422, 'line-unknown', 'The order has no such line.', jsonb_build_object('variant_id', l.variant_id));
        END IF;
        IF l.restock AND domain.order_may(o.status, 'cancelled') THEN
            PERFORM domain.fail(409, 'order-not-shipped', 'What was not shipped comes back when the order is cancelled.',
                                jsonb_build_object('order_status', o.status));
        END IF;

        SELECT coalesce(sum(x.quantity), 0) INTO before
          FROM shop.refund_item x
          JOIN shop.refund r ON r.tenant_id = x.tenant_id AND r.id = x.refund_id
         WHERE x.tenant_id = tenant AND r.order_id = o.id AND x.line = l.line AND r.status <> 'FAILED';
        IF before + l.quantity > l.ordered THEN
            PERFORM domain.fail(409, 'refund-too-large', 'More pieces than were ordered and not given back yet.', jsonb_build_object(
                                    'variant_id', l.variant_id, 'left', l.ordered - before));
        END IF;

        part := domain.refund_share(l.worth, l.ordered, before, l.quantity);
        total := total + part;
        INSERT INTO shop.refund_item (tenant_id, refund_id, line, quantity, amount, restock)
        VALUES (tenant, refund, l.line, l.quantity, part, l.restock);

        IF l.restock THEN
            PERFORM domain.stock_adjust(l.product_id, l.variant_id, domain.default_location(), NULL, l.quantity, NULL, NULL,
                                        'received', 'refund ' || refund, NULL);
        END IF;
    END LOOP;

    RETURN total;
END
$$;


-- What became of a refund; what has ended stays.  False: there is no such refund.
CREATE OR REPLACE FUNCTION domain.refund_apply(refund uuid, result payment.outcome, source text) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    tenant  bigint := domain.tenant_id();
    o       shop.orders;
    y       shop.payment;
    r       shop.refund;
BEGIN
    SELECT x.* INTO o FROM shop.orders x
     WHERE x.tenant_id = tenant AND x.id = (SELECT n.order_id FROM shop.refund n WHERE n.tenant_id = tenant AND n.id = refund) FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    SELECT * INTO r FROM shop.refund n WHERE n.tenant_id = tenant AND n.id = refund FOR UPDATE;
    SELECT * INTO y FROM shop.payment p WHERE p.tenant_id = tenant AND p.order_id = r.order_id AND p.attempt = r.attempt FOR UPDATE;

    IF r.status <> 'PENDING' THEN
        RETURN true;
    END IF;

    IF result.outcome = 'success' THEN
        UPDATE shop.refund n SET status = 'SUCCEEDED', next_at = NULL, reference = coalesce(result.reference, n.reference), updated_at = now()
         WHERE n.tenant_id = tenant AND n.id = refund;
        PERFORM domain.payment_book(y, 'refund', 'succeeded', r.amount, result.reference, NULL, source, r.id);
        PERFORM domain.payment_tell(o, y, 'PaymentRefunded', r.amount, jsonb_build_object('refund_id', r.id, 'reason', r.reason));
    ELSIF result.outcome IN ('declined', 'failed') THEN
        -- the amount can be given back in another way
        UPDATE shop.refund n SET status = 'FAILED', next_at = NULL, code = result.code, updated_at = now()
         WHERE n.tenant_id = tenant AND n.id = refund;
        UPDATE shop.payment p SET refunded_amount = p.refunded_amount - r.amount, updated_at = now()
         WHERE p.tenant_id = tenant AND p.order_id = y.order_id AND p.attempt = y.attempt;
        PERFORM domain.payment_book(y, 'refund', 'failed', r.amount, result.reference, result.code, source, r.id);
        PERFORM domain.payment_tell(o, y, 'PaymentRefundFailed', r.amount, jsonb_build_object('refund_id', r.id, 'code', result.code));
    ELSE
        UPDATE shop.refund n
           SET next_at = now() + domain.payment_backoff(n.tries), reference = coalesce(result.reference, n.reference), code = result.code,
               updated_at = now()
         WHERE n.tenant_id = tenant AND n.id = refund;
    END IF;
    RETURN true;
END
$$;
