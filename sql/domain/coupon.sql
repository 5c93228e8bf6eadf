-- Coupons: what they take off, and how often they may.
--
-- Order of application: item, order, shipping, and by id among these; each takes of what the ones before it left.  Amounts are rounded
-- half up at the minor unit where a rate meets a line or a sum; what an order's discount is of each line is spread by largest remainder, so
-- that the lines' discounts add up to it exactly.


-- A rate of basis points of an amount, rounded half up; no product of the two can overflow.
CREATE OR REPLACE FUNCTION domain.share_of(amount bigint, rate_bp bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT amount / 10000 * rate_bp + (amount % 10000 * rate_bp + 5000) / 10000
$$;


-- An amount in parts that are to each other as the weights and add up to it: rounded down, what remains goes to the largest remainders.
CREATE OR REPLACE FUNCTION domain.spread(amount bigint, weights bigint[]) RETURNS bigint[]
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    whole  numeric := (SELECT sum(w) FROM unnest(weights) w);
BEGIN
    IF whole = 0 THEN
        RETURN array_fill(0::bigint, ARRAY[cardinality(weights)]);
    END IF;

    RETURN (SELECT array_agg(x.part + CASE WHEN x.rank <= amount - x.given THEN 1 ELSE 0 END ORDER BY x.place)
              FROM (SELECT p.*, sum(p.part) OVER () AS given, row_number() OVER (ORDER BY p.rest DESC, p.place) AS rank
                      FROM (SELECT place, div(amount * w::numeric, whole)::bigint AS part, mod(amount * w::numeric, whole) AS rest
                              FROM unnest(weights) WITH ORDINALITY AS t (w, place)) p) x);
END
$$;


-- Whose uses are counted: the customer of the request, or a guest by e-mail address; NULL for a guest who has not said one yet.
CREATE OR REPLACE FUNCTION domain.coupon_customer(email text) RETURNS text
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN coalesce('u:' || domain.principal(), 'e:' || encode(sha256(convert_to(lower(btrim(email)), 'UTF8')), 'hex'));
END
$$;


-- Codes as they are stored, each once, in the order given.
CREATE OR REPLACE FUNCTION domain.coupon_codes(VARIADIC lists jsonb[]) RETURNS text[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT coalesce(array_agg(x.code ORDER BY x.place), '{}')
      FROM (SELECT upper(btrim(c.code)) AS code, min(row) AS place
              FROM (SELECT e.code, row_number() OVER () AS row
                      FROM unnest(lists) l CROSS JOIN jsonb_array_elements_text(CASE WHEN jsonb_typeof(l) = 'array' THEN l ELSE '[]' END) e (code)) c
             GROUP BY 1) x
$$;


-- Why a coupon cannot be had now, {"code", "detail", …}; NULL when it can.  wanted: the code that was typed, when c is no coupon.
CREATE OR REPLACE FUNCTION domain.coupon_problem(
    c shop.coupon, wanted text, alone text, lines domain.priced_line[], subtotal bigint, currency text, customer text) RETURNS jsonb
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN CASE
        WHEN c.id IS NULL OR NOT c.active THEN
            jsonb_build_object('code', 'coupon-unknown', 'detail', format('There is no coupon %s.', wanted))
        WHEN c.starts_at > now() THEN
            jsonb_build_object('code', 'coupon-not-started', 'detail', format('Coupon %s is not valid yet.', wanted),
                               'starts_at', domain.ts(c.starts_at))
        WHEN c.ends_at <= now() THEN
            jsonb_build_object('code', 'coupon-expired', 'detail', format('Coupon %s is not valid any more.', wanted),
                               'ends_at', domain.ts(c.ends_at))
        WHEN c.used >= c.usage_limit THEN
            jsonb_build_object('code', 'coupon-exhausted', 'detail', format('Coupon %s has been used up.', wanted))
        WHEN c.customer_limit <= (SELECT count(*) FROM shop.coupon_redemption r
                                   WHERE r.tenant_id = c.tenant_id AND r.coupon_id = c.id AND r.customer = coupon_problem.customer
                                     AND r.customer_use IS NOT NULL) THEN
            jsonb_build_object('code', 'coupon-customer-limit', 'detail', format('You have used coupon %s already.', wanted),
                               'customer_limit', c.customer_limit)
        WHEN alone IS NOT NULL THEN
            jsonb_build_object('code', 'coupons-not-combinable', 'detail', format('Coupon %s goes with no other.', alone), 'alone', alone)
        WHEN c.minimum_amount > subtotal THEN
            jsonb_build_object('code', 'minimum-spend', 'detail', format('Coupon %s asks for a larger order.', wanted),
                               'minimum', jsonb_build_object('amount', c.minimum_amount, 'currency', currency),
                               'missing', jsonb_build_object('amount', c.minimum_amount - subtotal, 'currency', currency))
        WHEN c.target = 'item' AND NOT EXISTS (SELECT FROM unnest(lines) l WHERE domain.coupon_covers(c, l.product_id)) THEN
            jsonb_build_object('code', 'coupon-not-applicable', 'detail', format('Coupon %s is for other products.', wanted))
        END;
END
$$;


-- Is a product among those that a coupon of target item is for?
CREATE OR REPLACE FUNCTION domain.coupon_covers(c shop.coupon, product bigint) RETURNS boolean
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (c.product_ids IS NULL AND c.category_ids IS NULL)
        OR coalesce(product = ANY (c.product_ids), false)
        OR c.category_ids IS NOT NULL AND EXISTS (
               SELECT FROM shop.product p
                 JOIN shop.category k ON k.tenant_id = p.tenant_id AND k.id = p.category_id
                WHERE p.tenant_id = c.tenant_id AND p.id = product AND k.path && c.category_ids);
END
$$;


CREATE OR REPLACE FUNCTION domain.coupon_fail(problem jsonb, coupon text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM domain.fail(CASE WHEN problem ->> 'code' = 'coupon-unknown' THEN 422 ELSE 409 END, problem ->> 'code', problem ->> 'detail',
                        problem - 'code' - 'detail' || jsonb_build_object('coupon', coupon));
END
$$;


-- Takes coupons off priced lines: their shares, the order's discount, that of shipping, and the tax of what remains.  A coupon that cannot
-- be had raises its problem when strict, else it is told in applied and takes nothing.
-- applied: [{"id", "code", "name", "target", "amount"} or {"code", "problem"}] in the order of application.
CREATE OR REPLACE FUNCTION domain.price_coupons(
    codes text[], customer text, strict boolean, subtotal bigint, shipping bigint, tax_rate_bp int, tax_inclusive boolean, currency text,
    INOUT lines domain.priced_line[], OUT discount bigint, OUT shipping_discount bigint, OUT tax bigint, OUT applied jsonb)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    tenant    bigint := domain.tenant_id();
    amounts   bigint[] := ARRAY(SELECT l.line_amount FROM unnest(lines) WITH ORDINALITY l ORDER BY l.ordinality);
    taken     bigint[] := array_fill(0::bigint, ARRAY[cardinality(lines)]);
    rest      bigint[];
    parts     bigint[];
    alone     text;
    wanted    text;
    c         shop.coupon;
    found_id  bigint;
    problem   jsonb;
    amount    bigint;
BEGIN
    applied := '[]';
    shipping_discount := 0;

    IF cardinality(codes) > 1 THEN
        SELECT min(k.code) INTO alone
          FROM shop.coupon k
         WHERE k.tenant_id = tenant AND k.code = ANY (codes) AND k.deleted_at IS NULL AND k.active AND k.stacking = 'alone';
    END IF;

    FOR wanted, found_id IN
        SELECT w.code, k.id
          FROM unnest(codes) AS w (code)
          LEFT JOIN shop.coupon k ON k.tenant_id = tenant AND k.code = w.code AND k.deleted_at IS NULL
         ORDER BY array_position('{item,order,shipping}', k.target), k.id, w.code
    LOOP
        c := NULL;
        SELECT * INTO c FROM shop.coupon k WHERE k.tenant_id = tenant AND k.id = found_id;

        problem := domain.coupon_problem(c, wanted, alone, lines, subtotal, currency, customer);
        IF problem IS NOT NULL THEN
            IF strict THEN
                PERFORM domain.coupon_fail(problem, wanted);
            END IF;
            applied := applied || jsonb_build_object('code', wanted, 'problem', problem);
            CONTINUE;
        END IF;

        rest := ARRAY(SELECT a - t FROM unnest(amounts, taken) WITH ORDINALITY AS x (a, t, place) ORDER BY x.place);
        CASE c.target
        WHEN 'item' THEN
            parts := ARRAY(SELECT CASE WHEN NOT domain.coupon_covers(c, l.product_id) THEN 0
                                       WHEN c.kind = 'percent' THEN domain.share_of(rest[l.ordinality], c.value)
                                       -- not value * quantity, which may be more than a bigint holds
                                       WHEN c.value >= l.unit_amount THEN rest[l.ordinality]
                                       ELSE least(c.value * l.quantity, rest[l.ordinality]) END
                             FROM unnest(lines) WITH ORDINALITY l ORDER BY l.ordinality);
            amount := (SELECT sum(x) FROM unnest(parts) x);
        WHEN 'order' THEN
            amount := (SELECT sum(x) FROM unnest(rest) x);
            amount := CASE WHEN c.kind = 'percent' THEN domain.share_of(amount, c.value) ELSE least(c.value, amount) END;
            parts := domain.spread(amount, rest);
        ELSE
            amount := shipping - shipping_discount;
            amount := CASE WHEN c.kind = 'percent' THEN domain.share_of(amount, c.value) ELSE least(c.value, amount) END;
            shipping_discount := shipping_discount + amount;
            parts := NULL;
        END CASE;

        IF parts IS NOT NULL THEN
            taken := ARRAY(SELECT t + p FROM unnest(taken, parts) WITH ORDINALITY AS x (t, p, place) ORDER BY x.place);
        END IF;
        applied := applied || jsonb_build_object('id', c.id, 'code', c.code, 'name', c.name, 'target', c.target, 'amount', amount);
    END LOOP;

    SELECT array_agg(ROW(l.variant_id, l.product_id, l.quantity, l.unit_amount, l.line_amount, taken[l.ordinality],
                         domain.tax_for_line(l.line_amount - taken[l.ordinality], tax_rate_bp, tax_inclusive),
                         l.available, l.threshold, l.sku, l.name, l.slug, l.image)::domain.priced_line ORDER BY l.ordinality),
           sum(taken[l.ordinality]),
           sum(domain.tax_for_line(l.line_amount - taken[l.ordinality], tax_rate_bp, tax_inclusive))
      INTO lines, discount, tax
      FROM unnest(lines) WITH ORDINALITY l;
END
$$;


-- Uses coupons for an order, last of all because buyers meet at them: the limits decide here, whatever was read before.
-- applied: of domain.price_coupons().
CREATE OR REPLACE FUNCTION domain.coupons_take(order_id uuid, applied jsonb, customer text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    tenant  bigint := domain.tenant_id();
    a       record;
    c       shop.coupon;
BEGIN
    FOR a IN SELECT * FROM jsonb_to_recordset(applied) AS x (id bigint, code text, amount bigint) ORDER BY x.id LOOP
        UPDATE shop.coupon k
           SET used = k.used + 1
         WHERE k.tenant_id = tenant AND k.id = a.id AND k.used < k.usage_limit AND k.active AND k.deleted_at IS NULL
           AND (k.starts_at IS NULL OR k.starts_at <= now()) AND (k.ends_at IS NULL OR k.ends_at > now())
        RETURNING k.* INTO c;

        IF NOT FOUND THEN
            -- unlimited: shared, so that buyers do not queue; a change of the coupon waits for them and counts them
            SELECT * INTO c FROM shop.coupon k WHERE k.tenant_id = tenant AND k.id = a.id AND k.deleted_at IS NULL FOR SHARE;
            IF NOT FOUND OR c.usage_limit IS NOT NULL OR NOT c.active OR c.starts_at > now() OR c.ends_at <= now() THEN
                PERFORM domain.coupon_fail(coalesce(domain.coupon_problem(c, a.code, NULL, '{}', 9223372036854775807, '', NULL),
                    jsonb_build_object('code', 'coupon-exhausted', 'detail', format('Coupon %s has been used up.', a.code))), a.code);
            END IF;
        END IF;

        FOR use IN 1 .. coalesce(c.customer_limit, 1) LOOP
            INSERT INTO shop.coupon_redemption (tenant_id, order_id, coupon_id, customer, customer_use, code, amount)
            VALUES (tenant, coupons_take.order_id, a.id, coupons_take.customer,
                    CASE WHEN c.customer_limit IS NOT NULL THEN use END, a.code, a.amount)
                ON CONFLICT ON CONSTRAINT coupon_redemption_use DO NOTHING;
            EXIT WHEN FOUND;
            IF use = c.customer_limit THEN
                PERFORM domain.coupon_fail(jsonb_build_object('code', 'coupon-customer-limit', 'detail',
                    format('You have used coupon %s already.', a.code), 'customer_limit', c.customer_limit), a.code);
            END IF;
        END LOOP;
    END LOOP;
END
$$;


-- Gives back the uses of a cancelled order, once: what is released already is not found.
CREATE OR REPLACE FUNCTION domain.coupons_release(order_id uuid) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    tenant  bigint := domain.tenant_id();
    coupon  bigint;
BEGIN
    FOR coupon IN
        SELECT r.coupon_id FROM shop.coupon_redemption r
         WHERE r.tenant_id = tenant AND r.order_id = coupons_release.order_id AND r.released_at IS NULL
         ORDER BY r.coupon_id
    LOOP
        UPDATE shop.coupon k
           SET used = k.used - CASE WHEN k.usage_limit IS NULL THEN 0 ELSE 1 END
         WHERE k.tenant_id = tenant AND k.id = coupon;

        UPDATE shop.coupon_redemption r
           SET released_at = now(), customer_use = NULL
         WHERE r.tenant_id = tenant AND r.order_id = coupons_release.order_id AND r.coupon_id = coupon AND r.released_at IS NULL;
    END LOOP;
END
$$;


-- What coupons did, as carts and orders show it: [{"code", "name", "target", "amount": {…}} or {"code", "problem"}]; NULL without any.
CREATE OR REPLACE FUNCTION domain.coupons_shown(applied jsonb, currency text) RETURNS jsonb
LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF applied IS NULL THEN
        RETURN NULL;
    END IF;
    RETURN (SELECT jsonb_agg(CASE WHEN c ? 'amount'
                        THEN c - 'id' || jsonb_build_object('amount', jsonb_build_object('amount', c -> 'amount', 'currency', currency))
                        ELSE c END ORDER BY place)
              FROM jsonb_array_elements(applied) WITH ORDINALITY AS e (c, place));
END
$$;
