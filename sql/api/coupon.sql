-- Coupons as staff manages them, as customers ask for them, and what they would take off (H1, H2).

-- A coupon as staff sees it. used counts orders that stand.
CREATE OR REPLACE FUNCTION domain.coupon_json(c shop.coupon) RETURNS jsonb
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN jsonb_build_object(
        'id', c.id, 'code', c.code, 'name', c.name, 'kind', c.kind, 'value', c.value, 'target', c.target,
        'product_ids', to_jsonb(c.product_ids), 'category_ids', to_jsonb(c.category_ids), 'minimum_amount', c.minimum_amount,
        'usage_limit', c.usage_limit, 'customer_limit', c.customer_limit,
        'starts_at', domain.ts(c.starts_at), 'ends_at', domain.ts(c.ends_at), 'stacking', c.stacking, 'active', c.active,
        'used', CASE WHEN c.usage_limit IS NULL
                     THEN (SELECT count(*) FROM shop.coupon_redemption r
                            WHERE r.tenant_id = c.tenant_id AND r.coupon_id = c.id AND r.released_at IS NULL)
                     ELSE c.used END,
        'version', c.version, 'created_at', domain.ts(c.created_at), 'updated_at', domain.ts(c.updated_at));
END
$$;

-- A coupon's row out of a document of the API; refuses what contradicts itself. old: the row it replaces, or NULL.
CREATE OR REPLACE FUNCTION domain.coupon_row(doc jsonb, old shop.coupon) RETURNS shop.coupon
LANGUAGE plpgsql STABLE AS $$
DECLARE
    c  shop.coupon := old;
BEGIN
    c.code := upper(btrim(doc ->> 'code'));
    c.name := doc ->> 'name';
    c.kind := doc ->> 'kind';
    c.value := (doc ->> 'value')::bigint;
    c.target := doc ->> 'target';
    c.product_ids := CASE WHEN jsonb_typeof(doc -> 'product_ids') = 'array'
                          THEN ARRAY(SELECT x::bigint FROM jsonb_array_elements_text(doc -> 'product_ids') x) END;
    c.category_ids := CASE WHEN jsonb_typeof(doc -> 'category_ids') = 'array'
                           THEN ARRAY(SELECT x::bigint FROM jsonb_array_elements_text(doc -> 'category_ids') x) END;
    c.minimum_amount := (doc ->> 'minimum_amount')::bigint;
    c.usage_limit := (doc ->> 'usage_limit')::int;
    c.customer_limit := (doc ->> 'customer_limit')::int;
    c.starts_at := (doc ->> 'starts_at')::timestamptz;
    c.ends_at := (doc ->> 'ends_at')::timestamptz;
    c.stacking := coalesce(doc ->> 'stacking', 'together');
    c.active := coalesce((doc ->> 'active')::boolean, true);

    IF c.code IS NULL OR c.name IS NULL OR c.kind IS NULL OR c.value IS NULL OR c.target IS NULL THEN
        PERFORM domain.fail(422, 'invalid-value', 'A coupon has a code, a name, a kind, a value and a target');
    ELSIF c.kind = 'percent' AND c.value > 10000 THEN
        PERFORM domain.fail(422, 'invalid-value', 'A rate is at most 10000 basis points',
                            domain.field_error('/value', 'maximum', 'is more than 100 %'));
    ELSIF c.ends_at <= c.starts_at THEN
        PERFORM domain.fail(422, 'invalid-value', 'It ends before it starts',
                            domain.field_error('/ends_at', 'minimum', 'is not after starts_at'));
    ELSIF c.target <> 'item' AND (c.product_ids IS NOT NULL OR c.category_ids IS NOT NULL) THEN
        PERFORM domain.fail(422, 'invalid-value', 'Only a coupon of target item is for some products',
                            domain.field_error('/target', 'const', 'is not item'));
    ELSIF EXISTS (SELECT FROM shop.coupon k
                   WHERE k.tenant_id = domain.tenant_id() AND k.code = c.code AND k.deleted_at IS NULL AND k.id IS DISTINCT FROM c.id) THEN
        PERFORM domain.fail(409, 'code-taken', format('There is a coupon %s already', c.code));
    END IF;
    RETURN c;
END
$$;

-- A coupon, locked for a change: orders that use it wait, and those that have used it are counted.
CREATE OR REPLACE FUNCTION domain.coupon_hold(id bigint, if_match text) RETURNS shop.coupon
LANGUAGE plpgsql AS $$
DECLARE
    c  shop.coupon;
BEGIN
    PERFORM domain.need('content.write');
    SELECT * INTO c FROM shop.coupon k
     WHERE k.tenant_id = domain.tenant_id() AND k.id = coupon_hold.id AND k.deleted_at IS NULL
       FOR UPDATE;
    IF NOT FOUND THEN
        PERFORM domain.fail(404, 'not-found', 'There is no such coupon');
    END IF;
    PERFORM domain.check_version(if_match, c.version);
    RETURN c;
END
$$;

CREATE OR REPLACE FUNCTION domain.coupon_reply(status int, c shop.coupon) RETURNS api.reply
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (status, domain.coupon_json(c)::text,
            json_build_object('ETag', '"' || c.version || '"', 'Location', '/api/v1/admin/coupons/' || c.id), NULL)::api.reply;
END
$$;

CREATE OR REPLACE FUNCTION api.coupon_create(coupon jsonb) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    c  shop.coupon;
BEGIN
    PERFORM domain.need('content.write');
    c := domain.coupon_row(coupon, NULL);

    INSERT INTO shop.coupon AS k (tenant_id, code, name, kind, value, target, product_ids, category_ids, minimum_amount, usage_limit,
                                  customer_limit, starts_at, ends_at, stacking, active)
    VALUES (domain.tenant_id(), c.code, c.name, c.kind, c.value, c.target, c.product_ids, c.category_ids, c.minimum_amount, c.usage_limit,
            c.customer_limit, c.starts_at, c.ends_at, c.stacking, c.active)
        ON CONFLICT DO NOTHING
    RETURNING k.* INTO c;
    IF NOT FOUND THEN
        PERFORM domain.fail(409, 'code-taken', 'There is a coupon of this code already');
    END IF;

    PERFORM domain.audit('CouponCreated', 'coupon', c.id::text, NULL, domain.coupon_json(c));
    RETURN domain.coupon_reply(201, c);
END
$$;

CREATE OR REPLACE FUNCTION api.coupon_get(id bigint) RETURNS api.reply
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    c  shop.coupon;
BEGIN
    PERFORM domain.need('content.write');
    SELECT * INTO c FROM shop.coupon k WHERE k.tenant_id = domain.tenant_id() AND k.id = coupon_get.id AND k.deleted_at IS NULL;
    IF NOT FOUND THEN
        PERFORM domain.fail(404, 'not-found', 'There is no such coupon');
    END IF;
    RETURN domain.coupon_reply(200, c);
END
$$;

-- JSON Merge Patch. The code may change: orders keep the one that they were made with.
CREATE OR REPLACE FUNCTION api.coupon_patch(id bigint, if_match text, patch jsonb) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    old     shop.coupon := domain.coupon_hold(id, if_match);
    before  jsonb := domain.coupon_json(old);
    c       shop.coupon := domain.coupon_row(domain.merge_patch(before, patch), old);
    uses    int := (before ->> 'used')::int;
BEGIN
    IF c.usage_limit < uses THEN
        PERFORM domain.fail(409, 'coupon-in-use', format('It has been used %s times already', uses), jsonb_build_object('used', uses));
    END IF;

    UPDATE shop.coupon k
       SET code = c.code, name = c.name, kind = c.kind, value = c.value, target = c.target, product_ids = c.product_ids,
           category_ids = c.category_ids, minimum_amount = c.minimum_amount, usage_limit = c.usage_limit,
           customer_limit = c.customer_limit, starts_at = c.starts_at, ends_at = c.ends_at, stacking = c.stacking, active = c.active,
           used = CASE WHEN c.usage_limit IS NULL THEN 0 ELSE uses END, version = k.version + 1, updated_at = now()
     WHERE k.tenant_id = old.tenant_id AND k.id = old.id
    RETURNING k.* INTO c;

    PERFORM domain.audit('CouponUpdated', 'coupon', c.id::text, before, domain.coupon_json(c));
    RETURN domain.coupon_reply(200, c);
END
$$;

CREATE OR REPLACE FUNCTION api.coupon_delete(id bigint, if_match text) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    c  shop.coupon := domain.coupon_hold(id, if_match);
BEGIN
    UPDATE shop.coupon k SET deleted_at = now(), updated_at = now(), version = k.version + 1
     WHERE k.tenant_id = c.tenant_id AND k.id = c.id;
    PERFORM domain.audit('CouponDeleted', 'coupon', c.id::text, domain.coupon_json(c));
    RETURN (204, NULL, NULL, NULL)::api.reply;
END
$$;

-- All coupons, the newest first.
CREATE OR REPLACE FUNCTION api.coupon_list("limit" int DEFAULT 20, cursor jsonb DEFAULT NULL) RETURNS api.reply
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
BEGIN
    PERFORM domain.need('content.write');

    RETURN domain.page_list('shop.coupon', 'domain.coupon_json(r)', '{id}', true, ' AND r.deleted_at IS NULL', "limit", cursor);
END
$$;

-- What a code is for, to whoever knows it; 404 when it is for nothing now.
CREATE OR REPLACE FUNCTION api.coupon_by_code(code text) RETURNS api.reply
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    money  text := (SELECT t.currency FROM shop.tenant t WHERE t.id = domain.tenant_id());
    c      shop.coupon;
BEGIN
    SELECT * INTO c FROM shop.coupon k
     WHERE k.tenant_id = domain.tenant_id() AND k.code = upper(btrim(coupon_by_code.code)) AND k.deleted_at IS NULL AND k.active
       AND (k.starts_at IS NULL OR k.starts_at <= now()) AND (k.ends_at IS NULL OR k.ends_at > now());
    IF NOT FOUND THEN
        PERFORM domain.fail(404, 'not-found', 'There is no such coupon');
    END IF;

    RETURN (200, json_build_object('code', c.code, 'name', c.name, 'kind', c.kind, 'value', c.value, 'target', c.target,
                                   'currency', money, 'minimum', domain.money(c.minimum_amount, money), 'ends_at', domain.ts(c.ends_at),
                                   'stacking', c.stacking)::text, NULL, NULL)::api.reply;
END
$$;

-- H2: what coupons would take off these items now. A coupon that cannot be had is told and takes nothing.
CREATE OR REPLACE FUNCTION api.discounts_calculate(items jsonb, coupon_codes jsonb DEFAULT NULL) RETURNS api.reply
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    p  record;
BEGIN
    p := domain.price_lines(domain.order_lines(items), domain.coupon_codes(coupon_codes), domain.coupon_customer(NULL));
    IF p.missing IS NOT NULL THEN
        PERFORM domain.fail(409, 'product-unavailable', 'Something is not for sale any more.',
                            jsonb_build_object('variant_ids', p.missing));
    END IF;

    RETURN (200, json_build_object(
                'total_discount_cents', p.discount + p.shipping_discount,
                'currency', p.currency,
                'subtotal', domain.money(p.subtotal, p.currency), 'discount', domain.money(p.discount, p.currency),
                'shipping_discount', domain.money(p.shipping_discount, p.currency), 'total', domain.money(p.total, p.currency),
                'coupons', coalesce(domain.coupons_shown(p.coupons, p.currency), '[]'))::text, NULL, NULL)::api.reply;
END
$$;
