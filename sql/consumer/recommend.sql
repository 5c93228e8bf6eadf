-- L18: recommendations follow what happens, on every node.

-- What was put into a cart is kept like what was looked at, for the next answer and the next training; whoever did something is told to
-- all edges: one that does not know of it asks again for the last things that this visitor did. What was taken back, an edge cannot leave
-- out of what it knows: it forgets whose order that was, and asks again.
CREATE OR REPLACE FUNCTION consumer.recommend_signal(m event.message) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    person  text := m.payload ->> 'user_id';
    owner   text := CASE WHEN person IS NOT NULL THEN 'u:' || person WHEN m.aggregate = 'cart' THEN m.aggregate_id END;
BEGIN
    -- an event may come after the erasure of whom it is about; one that is under way is waited for
    IF person IS NOT NULL THEN
        PERFORM FROM shop.app_user u WHERE u.tenant_id = m.tenant_id AND u.id = person::uuid AND u.deleted_at IS NULL FOR KEY SHARE;
        IF NOT FOUND THEN
            RETURN;
        END IF;
    END IF;

    IF m.type = 'OrderCancelled' THEN
        SELECT coalesce(owner, nullif(o.guest, '')) INTO owner
          FROM shop.orders o WHERE o.tenant_id = m.tenant_id AND o.id = (m.payload ->> 'order_id')::uuid;
        IF owner IS NOT NULL THEN
            PERFORM domain.recent_tell(m.tenant_id, owner);
        END IF;
        RETURN;
    END IF;

    IF m.topic = 'cart.updated' AND m.payload ->> 'action' = 'add' AND owner IS NOT NULL THEN
        INSERT INTO shop.interaction (tenant_id, user_id, guest, product_id, action, created_at)
        SELECT m.tenant_id, person::uuid, CASE WHEN person IS NULL THEN owner END, p.id, 'add_to_cart', m.created_at
          FROM shop.product p
         WHERE p.tenant_id = m.tenant_id AND p.id = (m.payload ->> 'affected_product_id')::bigint AND p.deleted_at IS NULL;
    END IF;

    IF owner IS NOT NULL THEN
        PERFORM domain.recent_tell(m.tenant_id, owner, coalesce(m.payload ->> 'product_id', m.payload ->> 'affected_product_id', '0')::bigint,
                                   m.created_at);
    END IF;
END
$$;
