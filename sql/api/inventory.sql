-- Stock levels and reservations (D1 to D5, D7, D8).


-- D1: what can be promised.  Staff sees the levels behind it.
CREATE OR REPLACE FUNCTION api.inventory_get(product_id bigint)
RETURNS api.reply LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
BEGIN
    RETURN (200, domain.inventory_json(product_id, domain.has_role('inventory.write'))::text, NULL, NULL)::api.reply;
END
$$;


-- D4: sets a level (on_hand) or changes it (delta), one of the two, and says how it is counted.  Without variant_id the product's only
-- variant, without location_id the first location.  if_match: the version of the level that staff has seen, or NULL.
CREATE OR REPLACE FUNCTION api.inventory_set(
    product_id bigint, variant_id bigint DEFAULT NULL, location_id bigint DEFAULT NULL, on_hand int DEFAULT NULL,
    delta int DEFAULT NULL, track_stock boolean DEFAULT NULL, allow_backorder boolean DEFAULT NULL,
    reason text DEFAULT NULL, note text DEFAULT NULL, if_match text DEFAULT NULL)
RETURNS api.reply LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    tags  text[] := ARRAY['product:' || product_id];
    level shop.stock;
BEGIN
    level := domain.stock_adjust(product_id, domain.inventory_variant(product_id, variant_id),
                                 coalesce(location_id, domain.default_location()), on_hand, delta, track_stock, allow_backorder,
                                 coalesce(reason, 'adjustment'), note, if_match);
    PERFORM domain.invalidate(tags);

    RETURN (200, domain.inventory_json(product_id, true)::text, json_build_object('ETag', '"' || level.version || '"'),
            json_build_object('invalidate', tags))::api.reply;
END
$$;


CREATE OR REPLACE FUNCTION domain.movement_json(m shop.stock_movement) RETURNS json
LANGUAGE sql STABLE AS $$
    SELECT json_build_object('id', m.id, 'variant_id', m.variant_id, 'location_id', m.location_id, 'delta', m.delta,
                             'reserved_delta', m.reserved_delta, 'on_hand', m.on_hand, 'reason', m.reason, 'order_id', m.order_id,
                             'actor', m.actor, 'note', m.note, 'created_at', domain.ts(m.created_at))
$$;


-- D7: a product's movements, newest first.
CREATE OR REPLACE FUNCTION api.inventory_movements(product_id bigint, "limit" int DEFAULT 20, cursor jsonb DEFAULT NULL)
RETURNS api.reply LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
BEGIN
    -- what happened to a deleted product is still to be read
    IF NOT EXISTS (SELECT FROM shop.product p WHERE p.tenant_id = domain.tenant_id() AND p.id = product_id) THEN
        PERFORM domain.fail(404, 'not-found', 'There is no such product.');
    END IF;

    RETURN domain.page_list('shop.stock_movement', 'domain.movement_json(r)', '{id}', true,
        format(' AND r.variant_id IN (SELECT v.id FROM shop.variant v WHERE v.tenant_id = domain.tenant_id() AND v.product_id = %L)', product_id),
        "limit", cursor);
END
$$;


-- D5: products at or below their threshold, scarcest first.
CREATE OR REPLACE FUNCTION api.inventory_low("limit" int DEFAULT 20, cursor jsonb DEFAULT NULL)
RETURNS api.reply LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
BEGIN
    RETURN domain.page_list($q$(
        SELECT s.tenant_id, s.product_id, s.stock, p.name, p.slug, p.image, p.low_stock_threshold
          FROM shop.product_stock s
          JOIN shop.product p ON p.tenant_id = s.tenant_id AND p.id = s.product_id
         WHERE p.deleted_at IS NULL AND p.status = 'active' AND s.stock <= p.low_stock_threshold
           AND EXISTS (SELECT FROM shop.stock k WHERE k.tenant_id = s.tenant_id AND k.product_id = s.product_id AND k.track_stock))$q$,
        $q$json_build_object('product_id', (r).product_id, 'name', (r).name, 'slug', (r).slug, 'image', (r).image, 'stock', (r).stock,
                             'low_stock_threshold', (r).low_stock_threshold)$q$,
        '{stock,product_id}', false, '', "limit", cursor);
END
$$;


-- ── reservations (D2, D3, D8) ────────────────────────────────────────────────────────────────────────────────────────

CREATE OR REPLACE FUNCTION domain.reservation_json(reservation uuid) RETURNS json
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (SELECT json_build_object(
                'reservation_id', reservation, 'status', min(r.state::text), 'order_id', (array_agg(r.order_id))[1],
                'expires_at', domain.ts(min(r.expires_at)), 'note', min(r.note), 'created_at', domain.ts(min(r.created_at)),
                'items', json_agg(json_build_object('variant_id', r.variant_id, 'product_id', v.product_id, 'location_id', r.location_id,
                                                    'quantity', r.quantity) ORDER BY r.variant_id, r.location_id))
              FROM shop.reservation r
              JOIN shop.variant v ON v.tenant_id = r.tenant_id AND v.id = r.variant_id
             WHERE r.tenant_id = domain.tenant_id() AND r.id = reservation);
END
$$;


-- D2: promises stock for a while, all lines or none.  ttl: seconds; the shop's reservation_ttl unless said.
CREATE OR REPLACE FUNCTION api.inventory_reserve(reservation_id uuid, items jsonb, ttl int DEFAULT NULL, note text DEFAULT NULL)
RETURNS api.reply LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    p  record;
BEGIN
    PERFORM domain.need('inventory.write');

    p := domain.price_lines(domain.order_lines(items));
    IF p.missing IS NOT NULL THEN
        PERFORM domain.fail(409, 'product-unavailable', 'Something is not for sale.', jsonb_build_object('variant_ids', p.missing));
    END IF;
    IF p.short THEN
        PERFORM domain.fail_short(p.lines);
    END IF;

    PERFORM domain.stock_reserve(reservation_id, NULL, p.lines, now() + interval '1 second'
                                 * coalesce(ttl, (domain.tenant_setting('reservation_ttl') #>> '{}')::int), note);

    IF NOT EXISTS (SELECT FROM shop.reservation r WHERE r.tenant_id = domain.tenant_id() AND r.id = reservation_id) THEN
        PERFORM domain.fail(409, 'stock-not-tracked', 'Nothing of this is counted: there is nothing to reserve.');
    END IF;
    RETURN (201, domain.reservation_json(reservation_id)::text, NULL, json_build_object('invalidate', (
                SELECT json_agg(DISTINCT 'product:' || l.product_id) FROM unnest(p.lines) l)))::api.reply;
END
$$;


-- D3: gives a reservation back before its time.  Again is no error and gives nothing again.
CREATE OR REPLACE FUNCTION api.inventory_release(reservation_id uuid)
RETURNS api.reply LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    r         shop.reservation;
    variants  bigint[];
BEGIN
    PERFORM domain.need('inventory.write');

    SELECT * INTO r FROM shop.reservation x WHERE x.tenant_id = domain.tenant_id() AND x.id = reservation_id LIMIT 1;
    IF NOT FOUND THEN
        PERFORM domain.fail(404, 'not-found', 'There is no such reservation.');
    END IF;
    IF r.order_id IS NOT NULL THEN
        PERFORM domain.fail(409, 'reservation-of-order', 'It belongs to an order: cancel that.', jsonb_build_object('order_id', r.order_id));
    END IF;

    variants := domain.stock_release(reservation_id);
    RETURN (200, domain.reservation_json(reservation_id)::text, NULL, json_build_object('invalidate', (
                SELECT coalesce(json_agg(DISTINCT 'product:' || v.product_id), '[]')
                  FROM shop.variant v WHERE v.tenant_id = r.tenant_id AND v.id = ANY (variants))))::api.reply;
END
$$;
