-- F7, F8: the checkout by commands.  The functions underneath are those of the request; what was done already is not done again.


-- The commands of checkout.*-command but those of the stock.
CREATE OR REPLACE FUNCTION consumer.saga_command(m event.message) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    CASE m.type
    WHEN 'InitiateCheckoutCommand', 'checkout.CreateOrder' THEN
        PERFORM domain.saga_initiate(m);

    WHEN 'checkout.ProcessPayment' THEN         -- of an order that no request waits for: the sweeper calls the provider, now
        UPDATE shop.payment y
           SET next_at = now()
          FROM shop.saga s
         WHERE y.tenant_id = m.tenant_id AND y.order_id = (m.payload ->> 'order_id')::uuid AND y.todo = 'pay' AND y.tries = 0
           AND s.tenant_id = y.tenant_id AND s.order_id = y.order_id AND s.mode = 'events';
        IF FOUND THEN
            PERFORM domain.job_wake('saga_sweep');
        END IF;

    WHEN 'checkout.CompensatePayment' THEN      -- the refund stands in its row already, or the order is taken back with all it has
        IF m.payload ? 'refund_id' THEN
            PERFORM domain.job_wake('saga_sweep');
        ELSE
            PERFORM domain.compensate((m.payload ->> 'order_id')::uuid, coalesce(m.payload ->> 'reason', 'compensated'));
        END IF;

    WHEN 'checkout.ClearCart' THEN
        PERFORM domain.saga_clear_cart(m);
    END CASE;
END
$$;


-- D10, D11: an order that is taken back holds no stock.  The cancellation has given it back in its own transaction: this finds nothing,
-- unless the order is still pending and somebody commands it.
CREATE OR REPLACE FUNCTION consumer.inventory_order(m event.message) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    o  shop.orders;
BEGIN
    IF m.type = 'checkout.CompensateInventory' THEN
        PERFORM domain.compensate((m.payload ->> 'order_id')::uuid, coalesce(m.payload ->> 'reason', 'compensated'));
    END IF;

    SELECT * INTO o FROM shop.orders x WHERE x.tenant_id = m.tenant_id AND x.id = (m.payload ->> 'order_id')::uuid FOR UPDATE;
    IF o.status = 'cancelled' THEN
        PERFORM domain.stock_release(o.id), domain.stock_return(o.id);
    END IF;
END
$$;
