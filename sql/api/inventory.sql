-- Stock levels (D1, D4, D5, D7).


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


-- D7: a product's movements, newest first.
CREATE OR REPLACE FUNCTION api.inventory_movements(product_id bigint, "limit" int DEFAULT 20, cursor jsonb DEFAULT NULL)
RETURNS api.reply LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    tenant  bigint := domain.tenant_id();
    rows    json[];
    last    bigint;
    more    boolean;
BEGIN
    IF cursor IS NOT NULL AND (cursor ->> 'product')::bigint IS DISTINCT FROM product_id THEN
        PERFORM domain.fail(400, 'cursor-mismatch', 'The cursor belongs to another list.');
    END IF;
    -- what happened to a deleted product is still to be read
    IF NOT EXISTS (SELECT FROM shop.product p WHERE p.tenant_id = tenant AND p.id = inventory_movements.product_id) THEN
        PERFORM domain.fail(404, 'not-found', 'There is no such product.');
    END IF;

    SELECT array_agg(json_build_object(
               'id', m.id, 'variant_id', m.variant_id, 'location_id', m.location_id, 'delta', m.delta, 'on_hand', m.on_hand,
               'reason', m.reason, 'order_id', m.order_id, 'actor', m.actor, 'note', m.note,
               'created_at', domain.ts(m.created_at)) ORDER BY m.id DESC) FILTER (WHERE m.place <= "limit"),
           min(m.id) FILTER (WHERE m.place <= "limit"), count(*) > "limit"
      INTO rows, last, more
      FROM (SELECT x.*, row_number() OVER (ORDER BY x.id DESC) AS place
              FROM shop.variant v
             CROSS JOIN LATERAL (
                   SELECT * FROM shop.stock_movement s
                    WHERE s.tenant_id = tenant AND s.variant_id = v.id
                      AND (cursor IS NULL OR s.id < (cursor ->> 'id')::bigint)
                    ORDER BY s.id DESC
                    LIMIT inventory_movements."limit" + 1) x
             WHERE v.tenant_id = tenant AND v.product_id = inventory_movements.product_id
             ORDER BY x.id DESC
             LIMIT inventory_movements."limit" + 1) m;

    RETURN (200, json_build_object('data', coalesce(to_json(rows), '[]'))::text, NULL,
            json_build_object('page', json_build_object(
                'limit', "limit", 'has_more', more, 'prev', NULL,
                'next', CASE WHEN more THEN json_build_object('id', last, 'product', product_id) END)))::api.reply;
END
$$;


-- D5: products at or below their threshold, scarcest first.
CREATE OR REPLACE FUNCTION api.inventory_low("limit" int DEFAULT 20, cursor jsonb DEFAULT NULL)
RETURNS api.reply LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    tenant  bigint := domain.tenant_id();
    rows    json[];
    last    json;
    more    boolean;
BEGIN
    SELECT array_agg(json_build_object(
               'product_id', l.product_id, 'name', l.name, 'slug', l.slug, 'image', l.image, 'stock', l.stock,
               'low_stock_threshold', l.low_stock_threshold) ORDER BY l.place) FILTER (WHERE l.place <= "limit"),
           (array_agg(json_build_object('stock', l.stock, 'id', l.product_id) ORDER BY l.place))["limit"],
           count(*) > "limit"
      INTO rows, last, more
      FROM (SELECT s.product_id, s.stock, p.name, p.slug, p.image, p.low_stock_threshold,
                   row_number() OVER (ORDER BY s.stock, s.product_id) AS place
              FROM shop.product_stock s
              JOIN shop.product p ON p.tenant_id = s.tenant_id AND p.id = s.product_id
             WHERE s.tenant_id = tenant AND p.deleted_at IS NULL AND p.status = 'active'
               AND s.stock <= p.low_stock_threshold
               AND EXISTS (SELECT FROM shop.stock k
                            WHERE k.tenant_id = tenant AND k.product_id = s.product_id AND k.track_stock)
               AND (cursor IS NULL
                    OR (s.stock, s.product_id) > ((cursor ->> 'stock')::int, (cursor ->> 'id')::bigint))
             ORDER BY s.stock, s.product_id
             LIMIT inventory_low."limit" + 1) l;

    RETURN (200, json_build_object('data', coalesce(to_json(rows), '[]'))::text, NULL,
            json_build_object('page', json_build_object(
                'limit', "limit", 'has_more', more, 'prev', NULL, 'next', CASE WHEN more THEN last END)))::api.reply;
END
$$;
