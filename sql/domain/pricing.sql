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
-- available of a line: what can be promised now, NULL when stock does not limit it; advice only, the checkout decides again under the
-- row locks.  missing: variants that are not for sale (any more), left out of the lines and of every sum.  short: a line asks for more
-- than available, or for no possible quantity.
--
-- codes: coupons, applied by domain.price_coupons(); one that cannot be had raises its problem when strict.  coupons: what they did, NULL
-- without any.
CREATE OR REPLACE FUNCTION domain.price_lines(
    demand jsonb, codes text[] DEFAULT NULL, customer text DEFAULT NULL, strict boolean DEFAULT false,
    OUT lines         domain.priced_line[],
    OUT missing       bigint[],
    OUT short         boolean,
    OUT currency      text,
    OUT tax_rate_bp   int,
    OUT tax_inclusive boolean,
    OUT subtotal      bigint,
    OUT discount      bigint,
    OUT tax           bigint,
    OUT shipping      bigint,
    OUT total         bigint,
    OUT order_secret  bigint,
    OUT shipping_discount bigint,
    OUT coupons       jsonb,
    OUT payment_methods jsonb)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    tenant     bigint := domain.tenant_id();
    flat       bigint;
    free_from  bigint;
BEGIN
    SELECT t.currency::text, t.tax_rate_bp, t.tax_inclusive, t.shipping_flat, t.shipping_free_from, t.payment_methods,
           (SELECT k.key FROM shop.order_key k WHERE k.tenant_id = tenant)
      INTO currency, tax_rate_bp, tax_inclusive, flat, free_from, payment_methods, order_secret
      FROM shop.tenant t
     WHERE t.id = tenant;

    -- OFFSET 0 keeps each line a lookup by primary key: a hash join would read the whole catalogue
    SELECT array_agg(ROW(x.variant_id, x.product_id, x.quantity, x.unit, x.amount, 0, x.tax, x.available, x.threshold, x.sku, x.name,
                         x.slug, x.image)::domain.priced_line),
           coalesce(sum(x.amount), 0),
           coalesce(sum(x.tax), 0),
           bool_or(x.quantity NOT BETWEEN 1 AND 9999 OR x.available < x.quantity)
      INTO lines, subtotal, tax, short
      FROM (SELECT l.variant_id, l.quantity, v.*, v.unit * l.quantity AS amount,
                   domain.tax_for_line(v.unit * l.quantity, price_lines.tax_rate_bp, price_lines.tax_inclusive) AS tax
              FROM (SELECT e.variant_id, sum(e.quantity)::bigint AS quantity, min(e.place) AS place
                      FROM ROWS FROM (jsonb_to_recordset(demand) AS (variant_id bigint, quantity int))
                           WITH ORDINALITY AS e (variant_id, quantity, place)
                     GROUP BY e.variant_id) l
             CROSS JOIN LATERAL (
                   SELECT v.product_id, v.sku, p.low_stock_threshold AS threshold, p.name || coalesce(' - ' || v.name, '') AS name,
                          p.slug, coalesce(v.image, p.image) AS image, coalesce(v.sale_amount, v.price_amount) AS unit,
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

    IF cardinality(lines) IS DISTINCT FROM jsonb_array_length(demand) THEN
        SELECT array_agg(DISTINCT l.variant_id ORDER BY l.variant_id) INTO missing
          FROM jsonb_to_recordset(demand) AS l (variant_id bigint)
         WHERE l.variant_id NOT IN (SELECT k.variant_id FROM unnest(lines) k);
    END IF;

    discount := 0;
    shipping_discount := 0;
    shipping := domain.shipping_for(subtotal, flat, free_from);
    IF codes <> '{}' AND lines IS NOT NULL THEN
        SELECT c.lines, c.discount, c.shipping_discount, c.tax, c.applied
          INTO lines, discount, shipping_discount, tax, coupons
          FROM domain.price_coupons(codes, customer, strict, subtotal, shipping, tax_rate_bp, tax_inclusive, currency, lines) c;
    END IF;
    total := subtotal - discount + shipping - shipping_discount + CASE WHEN tax_inclusive THEN 0 ELSE tax END;
END
$$;
