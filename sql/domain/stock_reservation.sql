-- Reservations: stock that is promised and not sold yet.  stock.reserved is the sum of the open ones, and every change of it is a movement
-- with reserved_delta.  Rows are locked as in stock.sql, (variant, location), and last.


-- Reserves all lines or none; 409 out-of-stock otherwise.  Variants must be distinct.  order_id: whose it is, NULL for staff's own.
CREATE OR REPLACE FUNCTION domain.stock_reserve(
    reservation_id uuid, order_id uuid, lines domain.priced_line[], expires_at timestamptz, note text DEFAULT NULL)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    tenant  bigint := domain.tenant_id();
    held    record;
    k       int;
BEGIN
    PERFORM FROM shop.stock s
      WHERE s.tenant_id = tenant AND s.variant_id IN (SELECT l.variant_id FROM unnest(lines) l)
      ORDER BY s.variant_id, s.location_id
        FOR UPDATE;
    held := domain.stock_allot(lines);

    WITH taken AS (
        UPDATE shop.stock s
           SET reserved = s.reserved + d.delta, version = s.version + 1, updated_at = now()
          FROM unnest(held.variants, held.locations, held.deltas) AS d (variant_id, location_id, delta)
         WHERE s.tenant_id = tenant AND s.variant_id = d.variant_id AND s.location_id = d.location_id
           AND (s.on_hand - s.reserved >= d.delta OR s.allow_backorder)
        RETURNING s.variant_id, s.location_id, d.delta, s.on_hand
    ), booked AS (
        INSERT INTO shop.reservation (tenant_id, id, variant_id, location_id, quantity, order_id, expires_at, actor, note)
        SELECT tenant, reservation_id, t.variant_id, t.location_id, t.delta, stock_reserve.order_id, stock_reserve.expires_at,
               domain.principal(), stock_reserve.note
          FROM taken t
    )
    INSERT INTO shop.stock_movement (tenant_id, variant_id, location_id, delta, reserved_delta, on_hand, reason, order_id, actor, note)
    SELECT tenant, t.variant_id, t.location_id, 0, t.delta, t.on_hand, 'reserved', stock_reserve.order_id, domain.principal(),
           stock_reserve.note
      FROM taken t;

    GET DIAGNOSTICS k = ROW_COUNT;
    IF k <> cardinality(held.variants) THEN
        RAISE EXCEPTION 'stock_reserve: % of % rows changed under their lock', k, cardinality(held.variants);
    END IF;

    -- lists follow within seconds (api.stock_publish), but where little or nothing is left they follow at once
    IF EXISTS (SELECT FROM unnest(lines) WITH ORDINALITY l WHERE held.before[l.ordinality] - l.quantity <= l.threshold) THEN
        PERFORM domain.stock_changed(ARRAY(SELECT l.variant_id FROM unnest(lines) l));
        PERFORM domain.stock_low(l.variant_id, greatest(held.before[l.ordinality] - l.quantity, 0), l.threshold)
           FROM unnest(lines) WITH ORDINALITY l
          WHERE held.before[l.ordinality] > l.threshold AND held.before[l.ordinality] - l.quantity <= l.threshold;
    END IF;
END
$$;


-- What was promised leaves the shelf.  A second call finds nothing open and changes nothing.
CREATE OR REPLACE FUNCTION domain.stock_sell(reservation_id uuid) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM domain.stock_close(reservation_id, 'sold');
END
$$;


-- What was promised is free again; answers its variants.  A second call finds nothing open and changes nothing.
CREATE OR REPLACE FUNCTION domain.stock_release(reservation_id uuid, state text DEFAULT 'released') RETURNS bigint[]
LANGUAGE plpgsql AS $$
DECLARE
    variants  bigint[] := domain.stock_close(reservation_id, state);
BEGIN
    IF variants <> '{}' THEN
        PERFORM domain.stock_changed(variants);
    END IF;
    RETURN variants;
END
$$;


-- Ends the open rows of a reservation, sold, released or expired; answers their variants.
CREATE OR REPLACE FUNCTION domain.stock_close(reservation_id uuid, state text) RETURNS bigint[]
LANGUAGE plpgsql AS $$
DECLARE
    tenant    bigint := domain.tenant_id();
    variants  bigint[];
BEGIN
    PERFORM FROM shop.stock s
      WHERE s.tenant_id = tenant
        AND (s.variant_id, s.location_id) IN (SELECT r.variant_id, r.location_id FROM shop.reservation r
                                               WHERE r.tenant_id = tenant AND r.id = reservation_id AND r.state = 'open')
      ORDER BY s.variant_id, s.location_id
        FOR UPDATE;

    WITH closed AS (
        UPDATE shop.reservation r
           SET state = stock_close.state, closed_at = now()
         WHERE r.tenant_id = tenant AND r.id = reservation_id AND r.state = 'open'
        RETURNING r.variant_id, r.location_id, r.quantity, r.order_id, r.note
    ), changed AS (
        UPDATE shop.stock s
           SET reserved = s.reserved - c.quantity, on_hand = s.on_hand - CASE WHEN stock_close.state = 'sold' THEN c.quantity ELSE 0 END,
               version = s.version + 1, updated_at = now()
          FROM closed c
         WHERE s.tenant_id = tenant AND s.variant_id = c.variant_id AND s.location_id = c.location_id
        RETURNING s.variant_id, s.location_id, c.quantity, s.on_hand, c.order_id, c.note
    ), moved AS (
        INSERT INTO shop.stock_movement (tenant_id, variant_id, location_id, delta, reserved_delta, on_hand, reason, order_id, actor, note)
        SELECT tenant, x.variant_id, x.location_id, CASE WHEN stock_close.state = 'sold' THEN - x.quantity ELSE 0 END, - x.quantity,
               x.on_hand, CASE WHEN stock_close.state = 'sold' THEN 'sale' ELSE 'released' END, x.order_id, domain.principal(), x.note
          FROM changed x
        RETURNING variant_id
    )
    SELECT array_agg(DISTINCT m.variant_id) INTO variants FROM moved m;

    RETURN coalesce(variants, '{}');
END
$$;
