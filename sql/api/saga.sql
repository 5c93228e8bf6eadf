-- P5: what stands still is finished.


-- One round over all shops, a job of a second: payments whose answer is due are asked for, refunds made, sagas past their deadline
-- compensated, reservations and early events looked at again.  Safe at any number of nodes: what is due is taken under the order's lock, one
-- that somebody else has is skipped, and taking it moves its next_at, the lease.  A sweeper that stands still delays and never oversells:
-- the counters of stock change only with an order.  The calls to providers are in edge.fetch.
CREATE OR REPLACE FUNCTION api.saga_sweep(batch int DEFAULT 100) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    calls  json[] := '{}';
    call   json;
    due    record;
    n      int := 0;
    done   boolean := false;
BEGIN
    PERFORM set_config('commerce.sweep', 'saga', true);
    FOR due IN
        SELECT * FROM (
            (SELECT 1 AS kind, y.next_at, y.tenant_id, y.order_id AS id, y.attempt, NULL AS provider, NULL AS event_id
               FROM shop.payment y WHERE y.next_at <= now() ORDER BY y.next_at LIMIT batch)
            UNION ALL
            (SELECT 2, r.next_at, r.tenant_id, r.id, NULL, NULL, NULL
               FROM shop.refund r WHERE r.next_at <= now() ORDER BY r.next_at LIMIT batch)
            UNION ALL
            (SELECT 3, s.next_at, s.tenant_id, s.order_id, NULL, NULL, NULL
               FROM shop.saga s WHERE s.next_at <= now() ORDER BY s.next_at LIMIT batch)
            UNION ALL
            (SELECT 4, e.next_at, e.tenant_id, NULL, NULL, e.provider, e.event_id
               FROM shop.payment_event e WHERE e.next_at <= now() ORDER BY e.next_at LIMIT batch)
            UNION ALL
            (SELECT DISTINCT ON (r.expires_at, r.tenant_id, r.id) 5, r.expires_at, r.tenant_id, r.id, NULL::int, NULL, NULL
               FROM shop.reservation r WHERE r.state = 'open' AND r.order_id IS NULL AND r.expires_at <= now()
              ORDER BY r.expires_at, r.tenant_id, r.id LIMIT batch)) x
         ORDER BY x.kind, x.next_at
    LOOP
        PERFORM set_config('commerce.sweep', '', true), set_config('commerce.tenant_id', due.tenant_id::text, true);
        call := CASE due.kind
            WHEN 1 THEN domain.sweep_payment(due.id, due.attempt)
            WHEN 2 THEN domain.sweep_refund(due.id)
            WHEN 3 THEN domain.sweep_saga(due.id)
            WHEN 4 THEN domain.sweep_event(due.provider, due.event_id)
            ELSE domain.sweep_reservation(due.id) END;
        CONTINUE WHEN call IS NULL;
        n := n + 1;
        IF call::text = '{}' THEN
            done := true;                       -- it may have locked stock: one such in a transaction, so that nobody waits in a circle
            EXIT;
        END IF;
        calls := calls || call;
    END LOOP;
    PERFORM set_config('commerce.sweep', '', true), set_config('commerce.tenant_id', '', true);

    RETURN (200, json_build_object('swept', n, 'calls', cardinality(calls), 'more', done OR n >= batch)::text, NULL,
            CASE WHEN cardinality(calls) > 0 THEN json_build_object('fetch', calls) END)::api.reply;
END
$$;
