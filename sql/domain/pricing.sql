-- Prices in one place: what the cart shows and what the checkout charges are the same computation.
--
-- Money is bigint minor units throughout; no numeric, no float.  A line's tax is rounded half up at the minor unit, and
-- sums are sums of rounded lines (CONVENTIONS 7), so that every total can be checked by adding what the customer sees.


-- Tax of an amount at rate_bp basis points.  Exclusive: round(amount * bp / 10000), to be added.  Inclusive: what is
-- contained in the amount, amount - round(amount * 10000 / (10000 + bp)).  Quotient and remainder are kept apart, so that
-- no product of the two can overflow.
CREATE OR REPLACE FUNCTION domain.tax_for_line(amount bigint, rate_bp int, inclusive boolean)
RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN rate_bp = 0 THEN 0
        WHEN inclusive THEN
            amount - (amount / (10000 + rate_bp) * 10000
                      + (2 * (amount % (10000 + rate_bp)) * 10000 + 10000 + rate_bp) / (2 * (10000 + rate_bp)))
        ELSE amount / 10000 * rate_bp + (amount % 10000 * rate_bp + 5000) / 10000
    END
$$;


-- Shipping of an order: a flat amount, nothing from free_from on (NULL: never free), nothing for nothing.
CREATE OR REPLACE FUNCTION domain.shipping_for(subtotal bigint, flat_amount bigint, free_from bigint)
RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN subtotal = 0 OR subtotal >= free_from THEN 0 ELSE flat_amount END
$$;


-- Prices lines: [{"variant_id": 7, "quantity": 2, …}, …], other members are ignored.  Demand is summed by variant first, so
-- two lines of one variant are one; order is that of first appearance.  Only the database's prices count.
--
-- The arrays are parallel, one element a line.  available: what can be promised now, NULL when stock does not limit it;
-- advice only, the checkout decides again under the row locks.  missing: variants that are not for sale (any more), left out of
-- the arrays and of every sum.  thresholds: the levels at which somebody wants to be told.
CREATE OR REPLACE FUNCTION domain.price_lines(
    lines jsonb,
    OUT variant_ids   bigint[],
    OUT product_ids   bigint[],
    OUT quantities    bigint[],
    OUT skus          text[],
    OUT names         text[],
    OUT slugs         text[],
    OUT images        text[],
    OUT unit_amounts  bigint[],
    OUT line_amounts  bigint[],
    OUT tax_amounts   bigint[],
    OUT available     bigint[],
    OUT missing       bigint[],
    OUT currency      text,
    OUT tax_inclusive boolean,
    OUT subtotal      bigint,
    OUT discount      bigint,
    OUT tax           bigint,
    OUT shipping      bigint,
    OUT total         bigint,
    OUT thresholds    int[])
LANGUAGE plpgsql STABLE AS $$
DECLARE
    tenant    bigint := domain.tenant_id();
    setting   record;
BEGIN
    SELECT t.currency::text AS currency,
           coalesce((t.settings ->> 'tax_rate_bp')::int, 0) AS tax_rate_bp,
           coalesce((t.settings ->> 'tax_inclusive')::boolean, false) AS tax_inclusive,
           coalesce((t.settings ->> 'shipping_flat')::bigint, 0) AS shipping_flat,
           (t.settings ->> 'shipping_free_from')::bigint AS shipping_free_from
      INTO setting
      FROM shop.tenant t
     WHERE t.id = tenant;

    currency := setting.currency;
    tax_inclusive := setting.tax_inclusive;

    -- OFFSET 0 keeps each line a lookup by primary key: a hash join would read the whole catalogue
    SELECT array_agg(x.variant_id), array_agg(x.product_id), array_agg(x.quantity),
           array_agg(x.sku), array_agg(x.name), array_agg(x.slug), array_agg(x.image),
           array_agg(x.unit_amount), array_agg(x.unit_amount * x.quantity),
           array_agg(domain.tax_for_line(x.unit_amount * x.quantity, setting.tax_rate_bp, setting.tax_inclusive)),
           array_agg(x.available), array_agg(x.low_stock_threshold),
           coalesce(sum(x.unit_amount * x.quantity), 0),
           coalesce(sum(domain.tax_for_line(x.unit_amount * x.quantity, setting.tax_rate_bp, setting.tax_inclusive)), 0)
      INTO variant_ids, product_ids, quantities, skus, names, slugs, images, unit_amounts, line_amounts, tax_amounts, available,
           thresholds, subtotal, tax
      FROM (SELECT l.variant_id, l.quantity, v.*
              FROM (SELECT e.variant_id, sum(e.quantity)::bigint AS quantity, min(e.place) AS place
                      FROM ROWS FROM (jsonb_to_recordset(lines) AS (variant_id bigint, quantity int))
                           WITH ORDINALITY AS e (variant_id, quantity, place)
                     GROUP BY e.variant_id) l
             CROSS JOIN LATERAL (
                   SELECT v.product_id, v.sku, p.low_stock_threshold, p.name || coalesce(' - ' || v.name, '') AS name, p.slug, coalesce(v.image, p.image) AS image,
                          coalesce(v.sale_amount, v.price_amount) AS unit_amount,
                          (SELECT CASE WHEN bool_or(s.allow_backorder OR NOT s.track_stock) THEN NULL
                                       ELSE coalesce(sum(greatest(s.on_hand - s.reserved, 0)), 0) END
                             FROM shop.stock s
                            WHERE s.tenant_id = tenant AND s.variant_id = v.id) AS available
                     FROM shop.variant v
                     JOIN shop.product p ON p.tenant_id = v.tenant_id AND p.id = v.product_id
                    WHERE v.tenant_id = tenant AND v.id = l.variant_id
                      AND v.deleted_at IS NULL AND p.deleted_at IS NULL AND p.status = 'active'
                   OFFSET 0) v
             ORDER BY l.place) x;

    IF cardinality(variant_ids) IS DISTINCT FROM jsonb_array_length(lines) THEN
        SELECT array_agg(DISTINCT l.variant_id ORDER BY l.variant_id) INTO missing
          FROM jsonb_to_recordset(lines) AS l (variant_id bigint)
         WHERE l.variant_id <> ALL (coalesce(variant_ids, '{}'));
    END IF;

    discount := 0;
    shipping := domain.shipping_for(subtotal, setting.shipping_flat, setting.shipping_free_from);
    total := subtotal - discount + shipping + CASE WHEN tax_inclusive THEN 0 ELSE tax END;
END
$$;
