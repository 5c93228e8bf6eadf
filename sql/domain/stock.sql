-- Stock: every change of shop.stock.on_hand goes through here and leaves a movement.
--
-- Rows are locked in one order, (variant, location), by everybody: orders, cancellations, staff and imports.  Callers take
-- them last in their transaction.


-- Refuses, naming each line that asks for more than there is.  The arrays are parallel; available NULL: no limit.
CREATE OR REPLACE FUNCTION domain.fail_out_of_stock(variant_ids bigint[], quantities bigint[], available bigint[])
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    short  jsonb;
BEGIN
    SELECT jsonb_agg(jsonb_build_object('variant_id', l.variant_id, 'requested', l.quantity, 'available', l.available)
                     ORDER BY l.place)
      INTO short
      FROM ROWS FROM (unnest(variant_ids), unnest(quantities), unnest(available))
           WITH ORDINALITY AS l (variant_id, quantity, available, place)
     WHERE l.available < l.quantity;

    PERFORM domain.fail(409, 'out-of-stock',
                        CASE WHEN jsonb_array_length(short) = 1
                             THEN format('Only %s left of variant %s.', short -> 0 -> 'available', short -> 0 -> 'variant_id')
                             ELSE format('%s lines ask for more than there is.', jsonb_array_length(short)) END,
                        jsonb_build_object('available', short -> 0 -> 'available', 'lines', short));
END
$$;


-- Tells once that a variant has come down to its product's threshold: from above it to it or below.
CREATE OR REPLACE FUNCTION domain.stock_low(variant_id bigint, stock bigint, threshold int)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM domain.emit('inventory-events', 'InventoryLow', 'variant', variant_id::text, jsonb_build_object(
        'variant_id', v.id, 'product_id', v.product_id, 'sku', v.sku, 'stock', stock_low.stock,
        'low_stock_threshold', threshold, 'timestamp', domain.ts(now())))
       FROM shop.variant v
      WHERE v.tenant_id = domain.tenant_id() AND v.id = stock_low.variant_id;
END
$$;


-- How an order is filled when one location does not do: by location, what is missing owed by one that allows backorders, 409
-- out-of-stock when there is none.  The rows are the caller's, locked.  before: by line, what could be promised, NULL when it is not
-- counted.
CREATE OR REPLACE FUNCTION domain.stock_allot(
    variant_ids bigint[], quantities bigint[], OUT variants bigint[], OUT locations bigint[], OUT deltas int[], OUT before bigint[])
LANGUAGE plpgsql AS $$
DECLARE
    lines    int := cardinality(variant_ids);
    s        record;
    place    int;
    k        int;
    n        bigint;
    -- by line: still to be found, the location that may owe
    wanted   bigint[] := quantities;
    lenders  bigint[] := array_fill(NULL::bigint, ARRAY[lines]);
BEGIN
    variants := '{}';
    locations := '{}';
    deltas := '{}';
    before := array_fill(0::bigint, ARRAY[lines]);

    FOR s IN
        SELECT l.variant_id, l.location_id, l.on_hand - l.reserved AS free, l.allow_backorder, l.track_stock
          FROM shop.stock l
         WHERE l.tenant_id = domain.tenant_id() AND l.variant_id = ANY (variant_ids)
         ORDER BY l.track_stock, l.variant_id, l.location_id
    LOOP
        place := array_position(variant_ids, s.variant_id);

        IF NOT s.track_stock THEN               -- endless at one location: nothing of it is counted
            before[place] := NULL;
            wanted[place] := 0;
        END IF;
        IF s.allow_backorder AND lenders[place] IS NULL THEN
            lenders[place] := s.location_id;
        END IF;
        IF s.track_stock AND s.free > 0 THEN
            before[place] := before[place] + s.free;
            n := least(wanted[place], s.free);
            IF n > 0 THEN
                variants := variants || s.variant_id;
                locations := locations || s.location_id;
                deltas := deltas || n::int;
                wanted[place] := wanted[place] - n;
            END IF;
        END IF;
    END LOOP;

    FOR place IN 1 .. lines LOOP
        CONTINUE WHEN wanted[place] = 0;

        IF lenders[place] IS NULL THEN
            PERFORM domain.fail_out_of_stock(variant_ids, quantities, before);
        END IF;

        k := (SELECT x.k
                FROM ROWS FROM (unnest(variants), unnest(locations)) WITH ORDINALITY AS x (variant_id, location_id, k)
               WHERE x.variant_id = variant_ids[place] AND x.location_id = lenders[place]);
        IF k IS NULL THEN
            variants := variants || variant_ids[place];
            locations := locations || lenders[place];
            deltas := deltas || wanted[place]::int;
        ELSE
            deltas[k] := deltas[k] + wanted[place]::int;
        END IF;
    END LOOP;
END
$$;


-- Takes stock for an order, all lines or none: locks, checks and decrements; 409 out-of-stock otherwise.  Variants must be distinct; the
-- arrays are parallel.  Nearly always each line is filled from the one row of its variant, so that is looked at first and costs no loop.
CREATE OR REPLACE FUNCTION domain.stock_take(order_id uuid, variant_ids bigint[], quantities bigint[], thresholds int[])
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    tenant  bigint := domain.tenant_id();
    held    record;
    low     boolean;
    simple  boolean;
    k       int;
BEGIN
    SELECT array_agg(s.variant_id) AS variants, array_agg(s.location_id) AS locations, array_agg(s.quantity) AS deltas,
           array_agg(s.product_id) AS products,
           array_agg(s.free ORDER BY s.place) AS before,
           count(*) = cardinality(variant_ids) AND bool_and(s.track_stock AND s.free >= s.quantity) AS enough,
           bool_or(s.free > s.threshold AND s.free - s.quantity <= s.threshold) AS low
      INTO held
      FROM (SELECT h.*, quantities[h.place]::int AS quantity, thresholds[h.place] AS threshold
              FROM (SELECT l.variant_id, l.location_id, l.product_id, (l.on_hand - l.reserved)::bigint AS free, l.track_stock,
                           array_position(variant_ids, l.variant_id) AS place
                      FROM shop.stock l
                     WHERE l.tenant_id = tenant AND l.variant_id = ANY (variant_ids)
                     ORDER BY l.variant_id, l.location_id
                       FOR UPDATE) h) s;

    simple := held.enough;
    IF NOT simple THEN
        held := domain.stock_allot(variant_ids, quantities);
        low := true;                            -- perhaps
    ELSE
        low := held.low;
    END IF;

    -- the condition holds, the rows are locked; it is here because here nobody can forget it
    WITH taken AS (
        UPDATE shop.stock l
           SET on_hand = l.on_hand - d.delta, version = l.version + 1, updated_at = now()
          FROM unnest(held.variants, held.locations, held.deltas) AS d (variant_id, location_id, delta)
         WHERE l.tenant_id = tenant AND l.variant_id = d.variant_id AND l.location_id = d.location_id
           AND (l.on_hand - l.reserved >= d.delta OR l.allow_backorder)
        RETURNING l.variant_id, l.location_id, d.delta, l.on_hand
    )
    INSERT INTO shop.stock_movement (tenant_id, variant_id, location_id, delta, on_hand, reason, order_id, actor)
    SELECT tenant, t.variant_id, t.location_id, - t.delta, t.on_hand, 'sale', stock_take.order_id, domain.principal()
      FROM taken t;

    GET DIAGNOSTICS k = ROW_COUNT;
    IF k <> cardinality(held.variants) THEN
        RAISE EXCEPTION 'stock_take: % of % rows changed under their lock', k, cardinality(held.variants);
    END IF;

    -- What the reading side shows falls by what was free and is sold; only where that leaves nothing, or something is owed or not
    -- counted, must it be summed again.
    IF simple THEN
        UPDATE shop.product_stock l
           SET stock = l.stock - d.delta
          FROM (SELECT x.product_id, sum(x.delta)::int AS delta
                  FROM unnest(held.products, held.deltas) AS x (product_id, delta)
                 GROUP BY x.product_id
                 ORDER BY x.product_id) d
         WHERE l.tenant_id = tenant AND l.product_id = d.product_id AND l.stock > d.delta;

        GET DIAGNOSTICS k = ROW_COUNT;
        simple := k = cardinality(held.products);
    END IF;
    IF NOT simple THEN
        PERFORM domain.stock_changed(variant_ids);
    END IF;

    IF low THEN
        PERFORM domain.stock_low(x.variant_id, greatest(x.before - x.quantity, 0), x.threshold)
           FROM unnest(variant_ids, quantities, thresholds, held.before) AS x (variant_id, quantity, threshold, before)
          WHERE x.before > x.threshold AND x.before - x.quantity <= x.threshold;
    END IF;
END
$$;


-- Gives back what an order took, as its movements say.  A second call for the same order gives nothing: the movements of the first
-- balance it, and their unique index would refuse.  Returns the variants.
CREATE OR REPLACE FUNCTION domain.stock_return(order_id uuid)
RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
    tenant    bigint := domain.tenant_id();
    variants  bigint[];
BEGIN
    PERFORM FROM shop.stock l
      WHERE l.tenant_id = tenant
        AND (l.variant_id, l.location_id) IN (SELECT m.variant_id, m.location_id
                                                FROM shop.stock_movement m
                                               WHERE m.tenant_id = tenant AND m.order_id = stock_return.order_id)
      ORDER BY l.variant_id, l.location_id
        FOR UPDATE;

    WITH returned AS (
        UPDATE shop.stock l
           SET on_hand = l.on_hand + d.delta, version = l.version + 1, updated_at = now()
          FROM (SELECT m.variant_id, m.location_id, - sum(m.delta)::int AS delta
                  FROM shop.stock_movement m
                 WHERE m.tenant_id = tenant AND m.order_id = stock_return.order_id
                 GROUP BY m.variant_id, m.location_id
                HAVING sum(m.delta) <> 0) d
         WHERE l.tenant_id = tenant AND l.variant_id = d.variant_id AND l.location_id = d.location_id
        RETURNING l.variant_id, l.location_id, d.delta, l.on_hand
    ), moved AS (
        INSERT INTO shop.stock_movement (tenant_id, variant_id, location_id, delta, on_hand, reason, order_id, actor)
        SELECT tenant, r.variant_id, r.location_id, r.delta, r.on_hand, 'cancellation', stock_return.order_id,
               domain.principal()
          FROM returned r
        RETURNING variant_id
    )
    SELECT array_agg(DISTINCT m.variant_id) INTO variants FROM moved m;

    IF variants IS NOT NULL THEN
        PERFORM domain.stock_changed(variants);
    END IF;
    RETURN coalesce(variants, '{}');
END
$$;


-- The variant that is meant: the one named, when it is the product's, or the only one.
CREATE OR REPLACE FUNCTION domain.inventory_variant(product_id bigint, variant_id bigint) RETURNS bigint
LANGUAGE plpgsql STABLE AS $$
DECLARE
    ids  bigint[] := ARRAY(SELECT v.id FROM shop.variant v
                            WHERE v.tenant_id = domain.tenant_id() AND v.product_id = inventory_variant.product_id
                              AND v.deleted_at IS NULL
                              AND (inventory_variant.variant_id IS NULL OR v.id = inventory_variant.variant_id)
                            ORDER BY v.id LIMIT 2);
BEGIN
    IF ids = '{}' THEN
        PERFORM domain.fail(404, 'not-found', 'There is no such product or variant.');
    ELSIF cardinality(ids) > 1 THEN
        PERFORM domain.fail(422, 'variant-required', 'The product comes in several forms: say which.',
                            jsonb_build_object('product_id', product_id));
    END IF;
    RETURN ids[1];
END
$$;


-- Sets (to_level) or changes (by_delta) one level under its lock, with the movement that explains it.  Tells of the change, and when
-- the variant has come down to its product's threshold.
CREATE OR REPLACE FUNCTION domain.stock_adjust(
    product_id bigint, variant_id bigint, location_id bigint, to_level int, by_delta int, track boolean, backorder boolean,
    reason text, note text, if_match text)
RETURNS shop.stock LANGUAGE plpgsql AS $$
DECLARE
    tenant     bigint := domain.tenant_id();
    old        shop.stock;
    level      shop.stock;
    before     bigint;
    after      bigint;
    threshold  int;
BEGIN
    IF NOT EXISTS (SELECT FROM shop.location l
                    WHERE l.tenant_id = tenant AND l.id = stock_adjust.location_id AND l.deleted_at IS NULL) THEN
        PERFORM domain.fail(422, 'location-unknown', 'There is no such location.', jsonb_build_object('location_id', location_id));
    END IF;

    INSERT INTO shop.stock (tenant_id, variant_id, location_id, product_id)
    VALUES (tenant, variant_id, location_id, product_id)
        ON CONFLICT DO NOTHING;

    -- all levels of the variant: what is left of it is their sum
    PERFORM FROM shop.stock s
      WHERE s.tenant_id = tenant AND s.variant_id = stock_adjust.variant_id
      ORDER BY s.location_id
        FOR UPDATE;
    SELECT sum(greatest(s.on_hand - s.reserved, 0)) INTO before
      FROM shop.stock s
     WHERE s.tenant_id = tenant AND s.variant_id = stock_adjust.variant_id;
    SELECT * INTO STRICT old
      FROM shop.stock s
     WHERE s.tenant_id = tenant AND s.variant_id = stock_adjust.variant_id AND s.location_id = stock_adjust.location_id;

    IF if_match IS NOT NULL THEN
        PERFORM domain.check_version(if_match, old.version);
    END IF;

    level := old;
    level.on_hand := coalesce(to_level, old.on_hand + coalesce(by_delta, 0));
    level.track_stock := coalesce(track, old.track_stock);
    level.allow_backorder := coalesce(backorder, old.allow_backorder);

    IF level.track_stock AND NOT level.allow_backorder AND level.on_hand < level.reserved THEN
        PERFORM domain.fail(409, 'stock-too-low', format('%s are reserved: the level cannot be %s.', level.reserved, level.on_hand),
                            jsonb_build_object('on_hand', old.on_hand, 'reserved', old.reserved));
    END IF;

    IF level = old THEN
        RETURN old;
    END IF;

    UPDATE shop.stock s
       SET on_hand = level.on_hand, track_stock = level.track_stock, allow_backorder = level.allow_backorder,
           version = s.version + 1, updated_at = now()
     WHERE s.tenant_id = tenant AND s.variant_id = stock_adjust.variant_id AND s.location_id = stock_adjust.location_id
    RETURNING s.* INTO level;

    IF level.on_hand <> old.on_hand THEN
        INSERT INTO shop.stock_movement (tenant_id, variant_id, location_id, delta, on_hand, reason, actor, note)
        VALUES (tenant, variant_id, location_id, level.on_hand - old.on_hand, level.on_hand, stock_adjust.reason,
                domain.principal(), stock_adjust.note);

        PERFORM domain.emit('inventory-events', 'InventoryAdjusted', 'variant', variant_id::text, jsonb_build_object(
                                'product_id', product_id, 'variant_id', variant_id, 'location_id', location_id,
                                'delta', level.on_hand - old.on_hand, 'on_hand', level.on_hand, 'reason', stock_adjust.reason,
                                'timestamp', domain.ts(now())), level.version);

        after := before - greatest(old.on_hand - old.reserved, 0) + greatest(level.on_hand - level.reserved, 0);
        SELECT p.low_stock_threshold INTO threshold
          FROM shop.product p
         WHERE p.tenant_id = tenant AND p.id = stock_adjust.product_id;
        IF level.track_stock AND before > threshold AND after <= threshold THEN
            PERFORM domain.stock_low(variant_id, after, threshold);
        END IF;
    END IF;

    PERFORM domain.stock_changed(ARRAY[variant_id]);
    RETURN level;
END
$$;


-- What there is of a product: availability by variant; with levels, also what staff counts.
CREATE OR REPLACE FUNCTION domain.inventory_json(product_id bigint, levels boolean) RETURNS json
LANGUAGE plpgsql STABLE AS $$
DECLARE
    tenant    bigint := domain.tenant_id();
    variants  json;
    p         record;
BEGIN
    SELECT x.low_stock_threshold, s.stock, s.in_stock INTO p
      FROM shop.product x
      LEFT JOIN shop.product_stock s ON s.tenant_id = x.tenant_id AND s.product_id = x.id
     WHERE x.tenant_id = tenant AND x.id = inventory_json.product_id AND x.deleted_at IS NULL
       AND (levels OR x.status = 'active');
    IF NOT FOUND THEN
        PERFORM domain.fail(404, 'not-found', 'There is no such product.');
    END IF;

    SELECT json_agg(CASE WHEN levels
               THEN json_build_object('variant_id', v.id, 'sku', v.sku, 'available', s.available, 'in_stock', s.in_stock,
                                      'levels', coalesce(s.detail, '[]'))
               ELSE json_build_object('variant_id', v.id, 'sku', v.sku, 'available', s.available, 'in_stock', s.in_stock) END
               ORDER BY v.position, v.id)
      INTO variants
      FROM shop.variant v
     CROSS JOIN LATERAL (
           SELECT CASE WHEN bool_or(k.allow_backorder OR NOT k.track_stock) THEN NULL
                       ELSE coalesce(sum(greatest(k.on_hand - k.reserved, 0)), 0) END AS available,
                  coalesce(bool_or(k.on_hand > k.reserved OR k.allow_backorder OR NOT k.track_stock), false) AS in_stock,
                  json_agg(json_build_object(
                      'location_id', k.location_id, 'on_hand', k.on_hand, 'reserved', k.reserved, 'track_stock', k.track_stock,
                      'allow_backorder', k.allow_backorder, 'version', k.version, 'updated_at', domain.ts(k.updated_at))
                      ORDER BY k.location_id) AS detail
             FROM shop.stock k
            WHERE k.tenant_id = tenant AND k.variant_id = v.id) s
     WHERE v.tenant_id = tenant AND v.product_id = inventory_json.product_id AND v.deleted_at IS NULL;

    RETURN json_build_object('product_id', product_id, 'stock', coalesce(p.stock, 0), 'in_stock', coalesce(p.in_stock, false),
                             'low_stock_threshold', p.low_stock_threshold, 'variants', coalesce(variants, '[]'));
END
$$;
