-- Stock: every change of shop.stock.on_hand goes through here and leaves a movement.
--
-- Rows are locked in one order, (variant, location), by everybody: orders, cancellations, staff and imports.  Callers take
-- them last in their transaction.


-- Refuses, naming each line that asks for more than there is: the edge remembers these for a moment (gate, docs/contract.md).
-- free: by line, what there is; NULL: no limit.
CREATE OR REPLACE FUNCTION domain.fail_out_of_stock(lines domain.priced_line[], free bigint[])
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    short  jsonb;
BEGIN
    SELECT jsonb_agg(jsonb_build_object('variant_id', l.variant_id, 'product_id', l.product_id, 'requested', l.quantity,
                                        'available', free[l.ordinality])
                     ORDER BY l.ordinality)
      INTO short
      FROM unnest(lines) WITH ORDINALITY l
     WHERE free[l.ordinality] < l.quantity;

    PERFORM domain.fail(409, 'out-of-stock',
                        CASE WHEN jsonb_array_length(short) = 1
                             THEN format('Only %s left of variant %s.', short -> 0 -> 'available', short -> 0 -> 'variant_id')
                             ELSE format('%s lines ask for more than there is.', jsonb_array_length(short)) END,
                        jsonb_build_object('available', short -> 0 -> 'available', 'lines', short));
END
$$;


-- Refuses lines that domain.price_lines() found short: an impossible quantity first, then what stock does not allow.
CREATE OR REPLACE FUNCTION domain.fail_short(lines domain.priced_line[])
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    line  domain.priced_line;
BEGIN
    FOREACH line IN ARRAY lines LOOP
        IF line.quantity NOT BETWEEN 1 AND 9999 THEN
            PERFORM domain.fail(422, 'quantity-invalid', 'A quantity is between 1 and 9999.',
                                jsonb_build_object('variant_id', line.variant_id));
        END IF;
    END LOOP;
    PERFORM domain.fail_out_of_stock(lines, ARRAY(SELECT l.available FROM unnest(lines) WITH ORDINALITY l ORDER BY l.ordinality));
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
    lines domain.priced_line[], OUT variants bigint[], OUT locations bigint[], OUT deltas int[], OUT before bigint[])
LANGUAGE plpgsql AS $$
DECLARE
    s            record;
    place        int;
    k            int;
    n            bigint;
    -- by line: what it is of, still to be found, the location that may owe
    variant_ids  bigint[] := ARRAY(SELECT l.variant_id FROM unnest(lines) WITH ORDINALITY l ORDER BY l.ordinality);
    wanted       bigint[] := ARRAY(SELECT l.quantity FROM unnest(lines) WITH ORDINALITY l ORDER BY l.ordinality);
    lenders      bigint[] := array_fill(NULL::bigint, ARRAY[cardinality(lines)]);
BEGIN
    variants := '{}';
    locations := '{}';
    deltas := '{}';
    before := array_fill(0::bigint, ARRAY[cardinality(lines)]);

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

    FOR place IN 1 .. cardinality(lines) LOOP
        CONTINUE WHEN wanted[place] = 0;

        IF lenders[place] IS NULL THEN
            PERFORM domain.fail_out_of_stock(lines, before);
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


-- Takes stock for an order, all lines or none: locks, checks and decrements; 409 out-of-stock otherwise.  Variants must be distinct.
-- Nearly always each line is filled from the one row of its variant: one statement locks all rows in their order, and changes them when
-- that is so.  What it changes is right whatever its snapshot was: the rows are locked, and an update takes their newest version.
CREATE OR REPLACE FUNCTION domain.stock_take(order_id uuid, lines domain.priced_line[])
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    tenant  bigint := domain.tenant_id();
    taken   bigint;
    scarce  boolean;
BEGIN
    WITH held AS MATERIALIZED (
        SELECT s.variant_id, s.location_id, s.on_hand - s.reserved AS free, s.track_stock, l.quantity::int AS quantity, l.threshold
          FROM unnest(lines) l
          JOIN shop.stock s ON s.tenant_id = tenant AND s.variant_id = l.variant_id
         ORDER BY s.variant_id, s.location_id
           FOR UPDATE OF s
    ), enough AS MATERIALIZED (
        SELECT count(*) = cardinality(lines) AND bool_and(h.track_stock AND h.free >= h.quantity) AS all_lines FROM held h
    ), taken AS (
        UPDATE shop.stock s
           SET on_hand = s.on_hand - h.quantity, version = s.version + 1, updated_at = now()
          FROM held h
         WHERE s.tenant_id = tenant AND s.variant_id = h.variant_id AND s.location_id = h.location_id
           AND s.on_hand - s.reserved >= h.quantity
           AND (SELECT e.all_lines FROM enough e)
        RETURNING s.variant_id, s.location_id, h.quantity, s.on_hand, s.on_hand - s.reserved AS free, h.threshold
    ), moved AS (
        INSERT INTO shop.stock_movement (tenant_id, variant_id, location_id, delta, on_hand, reason, order_id, actor)
        SELECT tenant, t.variant_id, t.location_id, - t.quantity, t.on_hand, 'sale', stock_take.order_id, domain.principal()
          FROM taken t
    )
    SELECT count(*), bool_or(t.free <= t.threshold)
      INTO taken, scarce
      FROM taken t;

    IF taken = 0 THEN
        PERFORM domain.stock_take_allotted(order_id, lines);
        RETURN;
    ELSIF taken <> cardinality(lines) THEN
        RAISE EXCEPTION 'stock_take: % of % rows changed under their lock', taken, cardinality(lines);
    END IF;

    -- lists follow within seconds (api.stock_publish), but where little or nothing is left they follow at once
    IF scarce THEN
        PERFORM domain.stock_changed(ARRAY(SELECT l.variant_id FROM unnest(lines) l));

        PERFORM domain.stock_low(l.variant_id, s.free, l.threshold)
           FROM unnest(lines) l
          CROSS JOIN LATERAL (SELECT k.on_hand - k.reserved AS free
                                FROM shop.stock k WHERE k.tenant_id = tenant AND k.variant_id = l.variant_id) s
          WHERE s.free <= l.threshold AND s.free + l.quantity > l.threshold;
    END IF;
END
$$;


-- The same where a variant lies at several locations, may be owed, or is not counted.  The caller has locked the rows.
CREATE OR REPLACE FUNCTION domain.stock_take_allotted(order_id uuid, lines domain.priced_line[])
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    tenant  bigint := domain.tenant_id();
    held    record := domain.stock_allot(lines);
    k       int;
BEGIN
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
    SELECT tenant, t.variant_id, t.location_id, - t.delta, t.on_hand, 'sale', stock_take_allotted.order_id, domain.principal()
      FROM taken t;

    GET DIAGNOSTICS k = ROW_COUNT;
    IF k <> cardinality(held.variants) THEN
        RAISE EXCEPTION 'stock_take: % of % rows changed under their lock', k, cardinality(held.variants);
    END IF;

    PERFORM domain.stock_changed(ARRAY(SELECT l.variant_id FROM unnest(lines) l));

    PERFORM domain.stock_low(l.variant_id, greatest(b.before - l.quantity, 0), l.threshold)
       FROM unnest(lines) WITH ORDINALITY l
      CROSS JOIN LATERAL (SELECT held.before[l.ordinality] AS before) b
      WHERE b.before > l.threshold AND b.before - l.quantity <= l.threshold;
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
    PERFORM domain.audit('InventoryAdjusted', 'variant', variant_id::text, to_jsonb(old), to_jsonb(level));
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
    -- the truth, not shop.product_stock, which follows it
    SELECT x.low_stock_threshold, s.* INTO p
      FROM shop.product x
     CROSS JOIN LATERAL (
           SELECT coalesce(sum(greatest(k.on_hand - k.reserved, 0)), 0) AS stock,
                  coalesce(bool_or(k.on_hand > k.reserved OR k.allow_backorder OR NOT k.track_stock), false) AS in_stock
             FROM shop.stock k
            WHERE k.tenant_id = tenant AND k.product_id = x.id) s
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

    RETURN json_build_object('product_id', product_id, 'stock', p.stock, 'in_stock', p.in_stock,
                             'low_stock_threshold', p.low_stock_threshold, 'variants', coalesce(variants, '[]'));
END
$$;
