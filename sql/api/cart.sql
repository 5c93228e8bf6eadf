-- Carts: offers, views, the backup of Redis's carts and what stands in for Redis while it is away.
-- ngx_commerce_module/redis/README.md describes how they play together.


-- What adding this product would put into a cart. available: pieces that can be promised now, NULL when stock does not
-- limit them; advice, the checkout decides under locks.
CREATE OR REPLACE FUNCTION api.cart_offer(product_id bigint DEFAULT NULL, variant_id bigint DEFAULT NULL)
RETURNS api.reply LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    tenant  bigint := domain.tenant_id();
    chosen  bigint := variant_id;
    offer   json;
BEGIN
    IF chosen IS NULL THEN
        SELECT CASE WHEN count(*) = 1 THEN min(v.id) END INTO chosen
          FROM shop.variant v
         WHERE v.tenant_id = tenant AND v.product_id = cart_offer.product_id AND v.deleted_at IS NULL
        HAVING count(*) > 0;

        IF FOUND AND chosen IS NULL THEN
            PERFORM domain.fail(422, 'variant-required', 'The product comes in several variants: say which');
        END IF;
    END IF;

    SELECT json_build_object(
               'variant_id', v.id, 'product_id', p.id, 'name', p.name, 'sku', v.sku, 'slug', p.slug,
               'image', coalesce(v.image, p.image),
               'unit_price', coalesce(v.sale_amount, v.price_amount),
               'currency', t.currency,
               'available', (SELECT CASE WHEN bool_or(s.allow_backorder OR NOT s.track_stock) THEN NULL
                                         ELSE coalesce(sum(greatest(s.on_hand - s.reserved, 0)), 0) END
                               FROM shop.stock s
                              WHERE s.tenant_id = tenant AND s.variant_id = v.id))
      INTO offer
      FROM shop.variant v
      JOIN shop.product p ON p.tenant_id = v.tenant_id AND p.id = v.product_id
      JOIN shop.tenant t ON t.id = v.tenant_id
     WHERE v.tenant_id = tenant AND v.id = chosen
       AND (cart_offer.product_id IS NULL OR p.id = cart_offer.product_id)
       AND v.deleted_at IS NULL AND p.deleted_at IS NULL AND p.status = 'active';

    IF offer IS NULL THEN
        PERFORM domain.fail(404, 'not-found', 'There is no such product');
    END IF;

    RETURN (200, offer::text, NULL, NULL)::api.reply;
END
$$;


-- The stored document of an owner whose cart Redis does not have. An empty one (version 0: nothing is known) when there
-- is none, it has expired, or it was ordered: then the next line begins a cart with a new id.
CREATE OR REPLACE FUNCTION api.cart_restore(owner text)
RETURNS api.reply LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    c shop.cart_backup;
BEGIN
    SELECT * INTO c FROM shop.cart_backup b WHERE b.tenant_id = domain.tenant_id() AND b.owner = cart_restore.owner;
    RETURN (200, domain.cart_current(c)::text, NULL, NULL)::api.reply;
END
$$;


-- Write-behind: [{"key", "actions": [{"at": milliseconds, "do": {"action", "product_id", "quantity"}}], "document"}].
-- A document counts only when it is newer than the row; every action becomes an event. Rows in one order, so that two
-- workers cannot lock each other out.
CREATE OR REPLACE FUNCTION api.cart_backup(tenant_id bigint, carts jsonb)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    IF tenant_id IS DISTINCT FROM domain.tenant_id() THEN
        PERFORM domain.fail(403, 'tenant-mismatch', 'The carts belong to another shop');
    END IF;

    -- what was on its way when its owner was erased (A26)
    PERFORM domain.erasure_turn(false);
    IF EXISTS (SELECT FROM shop.erasure e
                WHERE e.tenant_id = domain.tenant_id()
                  AND e.user_id::text IN (SELECT substring(c.key FROM ':u:([0-9a-f-]{36})\}$')
                                            FROM jsonb_to_recordset(carts) AS c (key text))) THEN
        carts := (SELECT coalesce(jsonb_agg(c.value), '[]')
                    FROM jsonb_array_elements(carts) c
                   WHERE NOT EXISTS (SELECT FROM shop.erasure e
                                      WHERE e.tenant_id = domain.tenant_id()
                                        AND c.value ->> 'key' LIKE '%:u:' || e.user_id || '}'));
    END IF;

    INSERT INTO shop.cart_backup AS b (tenant_id, owner, cart_id, version, document)
    SELECT domain.tenant_id(), x.owner, (x.document ->> 'cart_id')::uuid, (x.document ->> 'version')::bigint, x.document
      FROM (SELECT substring(c.key FROM '^cart:\{[0-9]+:(.*)\}$') AS owner, c.document
              FROM jsonb_to_recordset(carts) AS c (key text, document jsonb)) x
     ORDER BY x.owner
        ON CONFLICT ON CONSTRAINT cart_backup_pkey DO UPDATE
       SET cart_id = excluded.cart_id, version = excluded.version, document = excluded.document,
           redis_stale = false, abandoned_at = NULL, updated_at = now()
     WHERE excluded.version > b.version;

    PERFORM domain.cart_event(substring(c.key FROM '^cart:\{[0-9]+:(.*)\}$'), c.document, a #>> '{do,action}',
                              (a #>> '{do,product_id}')::bigint, to_timestamp((a ->> 'at')::bigint / 1000.0))
       FROM jsonb_to_recordset(carts) AS c (key text, actions jsonb, document jsonb)
      CROSS JOIN jsonb_array_elements(c.actions) AS a;
END
$$;


-- The cart with today's prices, discounts, stock, tax, shipping and total. A coupon that cannot be had now carries "problem". Lines that are not as the customer put them there carry
-- "notices": price-changed (with previous_unit_price), insufficient-stock, out-of-stock, unavailable (not in any sum).
CREATE OR REPLACE FUNCTION api.cart_view(cart_id uuid, version bigint, items jsonb, coupons jsonb DEFAULT NULL)
RETURNS api.reply LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    p        record;
    lines    json;
    pieces   bigint;
    changed  boolean;
    ordered  uuid;
BEGIN
    IF domain.cart_ordered(cart_id) THEN
        ordered := cart_id;
        cart_id := NULL;
        items := '[]';
    END IF;

    p := domain.price_lines(coalesce(items, '[]'), domain.coupon_codes(coupons), domain.coupon_customer(NULL));

    SELECT coalesce(json_agg(json_strip_nulls(json_build_object(
               'id', l.variant_id, 'item_id', l.variant_id, 'variant_id', l.variant_id, 'product_id', l.product_id,
               'name', coalesce(v.name, l.name), 'sku', coalesce(v.sku, l.sku), 'slug', coalesce(v.slug, l.slug),
               'image', coalesce(v.image, l.image), 'quantity', l.quantity,
               'unit_price', json_build_object('amount', coalesce(v.unit, l.unit_price), 'currency', p.currency),
               'line_total', json_build_object('amount', coalesce(v.line, 0), 'currency', p.currency),
               'discount', CASE WHEN v.off > 0 THEN json_build_object('amount', v.off, 'currency', p.currency) END,
               'previous_unit_price', CASE WHEN v.unit <> l.unit_price
                   THEN json_build_object('amount', l.unit_price, 'currency', p.currency) END,
               'available', CASE WHEN v.unit IS NULL THEN 0 ELSE v.available END,
               'in_stock', v.unit IS NOT NULL AND (v.available IS NULL OR v.available >= l.quantity),
               'notices', n.notices)) ORDER BY l.place), '[]'),
           coalesce(sum(v.pieces), 0), coalesce(bool_or(json_array_length(n.notices) > 0), false)
      INTO lines, pieces, changed
      FROM (SELECT i.*, row_number() OVER () AS place
              FROM jsonb_to_recordset(coalesce(items, '[]')) AS i (variant_id bigint, product_id bigint, quantity bigint,
                   unit_price bigint, name text, sku text, slug text, image text)) l
      LEFT JOIN (SELECT k.variant_id, k.quantity AS pieces, k.sku, k.name, k.slug, k.image, k.unit_amount AS unit,
                        k.line_amount AS line,
                        k.discount_amount AS off, k.available
                   FROM unnest(p.lines) k) v USING (variant_id)
     CROSS JOIN LATERAL (SELECT array_to_json(array_remove(ARRAY[
               CASE WHEN v.unit IS NULL THEN 'unavailable' END,
               CASE WHEN v.unit <> l.unit_price THEN 'price-changed' END,
               CASE WHEN v.available <= 0 THEN 'out-of-stock'
                    WHEN v.available < l.quantity THEN 'insufficient-stock' END], NULL)) AS notices) n;

    RETURN (200, json_build_object(
                'id', cart_id, 'version', version, 'currency', p.currency, 'items', lines,
                'item_count', json_array_length(lines), 'quantity', pieces, 'changed', changed,
                'subtotal', json_build_object('amount', p.subtotal, 'currency', p.currency),
                'discount', json_build_object('amount', p.discount, 'currency', p.currency),
                'tax', json_build_object('amount', p.tax, 'currency', p.currency),
                'tax_inclusive', p.tax_inclusive,
                'shipping', json_build_object('amount', p.shipping, 'currency', p.currency),
                'shipping_discount', json_build_object('amount', p.shipping_discount, 'currency', p.currency),
                'coupons', coalesce(domain.coupons_shown(p.coupons, p.currency), '[]'),
                'total', json_build_object('amount', p.total, 'currency', p.currency),
                'ordered_cart_id', ordered)::text,
            NULL, NULL)::api.reply;
END
$$;


-- The guest's lines with today's offers, for a merge: [{…offer, "quantity"}]. What is not for sale any more is left out.
CREATE OR REPLACE FUNCTION api.cart_offers(guest_items jsonb)
RETURNS api.reply LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    p       record;
    offers  json;
BEGIN
    p := domain.price_lines(guest_items);

    SELECT coalesce(json_agg(json_build_object(
               'variant_id', v.variant_id, 'product_id', v.product_id, 'quantity', v.quantity, 'unit_price', v.unit_amount,
               'currency', p.currency, 'available', v.available, 'name', v.name, 'sku', v.sku, 'slug', v.slug,
               'image', v.image) ORDER BY v.ordinality), '[]')
      INTO offers
      FROM unnest(p.lines) WITH ORDINALITY v;

    RETURN (200, json_build_object('guest_offers', offers)::text, NULL, NULL)::api.reply;
END
$$;


-- With Redis away: the document, as the script cart_read answers it.
CREATE OR REPLACE FUNCTION api.cart_load(owner text)
RETURNS api.reply LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
BEGIN
    RETURN api.cart_restore(owner);
END
$$;


-- With Redis away: the script cart_put.
CREATE OR REPLACE FUNCTION api.cart_put_down(
    owner text, variant_id bigint, product_id bigint, name text, sku text, slug text, image text, unit_price bigint,
    currency text, available bigint, quantity int, new_cart_id uuid)
RETURNS api.reply LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    cart  jsonb := domain.cart_hold(owner);
    line  jsonb := domain.cart_line(cart, variant_id);
    held  bigint := coalesce((line ->> 'quantity')::bigint, 0);
    total bigint := held + coalesce(quantity, 1);
BEGIN
    PERFORM domain.cart_refuse(total, available, held, variant_id);

    IF cart -> 'items' = '[]' THEN
        cart := cart || jsonb_build_object('cart_id', coalesce(cart ->> 'cart_id', new_cart_id::text),
                                           'currency', currency);
    ELSIF cart ->> 'currency' IS DISTINCT FROM currency THEN
        PERFORM domain.fail(409, 'currency-mismatch',
                            format('The cart is in %s, the product in %s', cart ->> 'currency', currency));
    ELSIF line IS NULL AND jsonb_array_length(cart -> 'items') >= 200 THEN
        PERFORM domain.fail(409, 'cart-full', 'A cart holds at most 200 lines', '{"maximum": 200}');
    END IF;

    line := jsonb_build_object('item_id', variant_id, 'variant_id', variant_id, 'product_id', product_id,
                               'quantity', total, 'unit_price', unit_price, 'name', name, 'sku', sku,
                               'image', image, 'slug', slug);
    cart := domain.cart_keep(owner, domain.cart_with(cart, line), 'add', product_id);

    RETURN (201, domain.cart_reply(cart, line), NULL, NULL)::api.reply;
END
$$;


-- With Redis away: the script cart_set.
CREATE OR REPLACE FUNCTION api.cart_set_down(
    owner text, variant_id bigint, product_id bigint, name text, sku text, slug text, image text, unit_price bigint,
    available bigint, quantity int)
RETURNS api.reply LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    cart  jsonb := domain.cart_hold(owner);
    line  jsonb := domain.cart_line(cart, variant_id);
BEGIN
    IF line IS NULL THEN
        PERFORM domain.fail(404, 'not-found', 'The cart has no such item');
    END IF;

    PERFORM domain.cart_refuse(quantity, available, (line ->> 'quantity')::bigint, variant_id);

    line := line || jsonb_build_object('quantity', quantity, 'unit_price', unit_price, 'name', name, 'sku', sku,
                                       'image', image, 'slug', slug);
    cart := domain.cart_keep(owner, domain.cart_with(cart, line), 'update', product_id);

    RETURN (200, domain.cart_reply(cart, line), NULL, NULL)::api.reply;
END
$$;


-- With Redis away: the script cart_remove.
CREATE OR REPLACE FUNCTION api.cart_remove_down(owner text, item_id bigint)
RETURNS api.reply LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    cart  jsonb := domain.cart_hold(owner);
    line  jsonb := domain.cart_line(cart, item_id);
BEGIN
    IF line IS NULL THEN
        PERFORM domain.fail(404, 'not-found', 'The cart has no such item');
    END IF;

    cart := domain.cart_keep(owner, cart || jsonb_build_object('items',
                (SELECT coalesce(jsonb_agg(i ORDER BY n), '[]')
                   FROM jsonb_array_elements(cart -> 'items') WITH ORDINALITY AS e (i, n)
                  WHERE (i ->> 'variant_id')::bigint <> item_id)),
                'remove', (line ->> 'product_id')::bigint);

    RETURN (200, domain.cart_reply(cart, line), NULL, NULL)::api.reply;
END
$$;


-- With Redis away: the script cart_clear. cart_id NULL: whichever cart it is.
CREATE OR REPLACE FUNCTION api.cart_clear_down(owner text, cart_id uuid DEFAULT NULL)
RETURNS api.reply LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    cart  jsonb;
    held  shop.cart_backup;
BEGIN
    -- not domain.cart_hold(): after a checkout the row's cart counts as ordered already
    SELECT * INTO held FROM shop.cart_backup b
     WHERE b.tenant_id = domain.tenant_id() AND b.owner = cart_clear_down.owner
       FOR UPDATE;

    IF held.cart_id IS NULL OR held.cart_id <> cart_clear_down.cart_id THEN
        cart := coalesce(held.document, domain.cart_empty(0));
    ELSE
        cart := domain.cart_keep(owner, domain.cart_empty(held.version, held.document -> 'merged'),
                                 CASE WHEN cart_clear_down.cart_id IS NULL THEN 'clear' ELSE 'checkout' END, NULL);
    END IF;

    RETURN (200, domain.cart_reply(cart, NULL), NULL, NULL)::api.reply;
END
$$;


-- May this coupon go onto a cart of these lines and coupons? {"coupon_code"} as it is stored; the coupon's own problem otherwise.
CREATE OR REPLACE FUNCTION api.cart_coupon_check(code text, items jsonb, coupons jsonb DEFAULT NULL)
RETURNS api.reply LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    wanted   text := upper(btrim(code));
    problem  jsonb;
BEGIN
    IF coalesce(items, '[]') = '[]' THEN
        PERFORM domain.fail(409, 'cart-empty', 'There is nothing in the cart.');
    END IF;

    SELECT c -> 'problem' INTO problem
      FROM jsonb_array_elements((domain.price_lines(items, domain.coupon_codes(coupons, jsonb_build_array(wanted)),
                                                    domain.coupon_customer(NULL))).coupons) c
     WHERE c ->> 'code' = wanted;
    IF problem IS NOT NULL THEN
        PERFORM domain.coupon_fail(problem, wanted);
    END IF;

    RETURN (200, json_build_object('coupon_code', wanted)::text, NULL, NULL)::api.reply;
END
$$;


-- With Redis away: the script cart_coupon_add.
CREATE OR REPLACE FUNCTION api.cart_coupon_add_down(owner text, coupon_code text)
RETURNS api.reply LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    cart   jsonb := domain.cart_hold(owner);
    codes  jsonb := coalesce(cart -> 'coupons', '[]');
BEGIN
    IF NOT codes ? coupon_code THEN
        IF jsonb_array_length(codes) >= 5 THEN
            PERFORM domain.fail(409, 'coupons-too-many', 'A cart holds at most 5 coupons', '{"maximum": 5}');
        END IF;
        cart := domain.cart_keep(owner, cart || jsonb_build_object('coupons', codes || to_jsonb(coupon_code)), 'coupon', NULL);
    END IF;

    RETURN (200, cart::text, NULL, NULL)::api.reply;
END
$$;


-- With Redis away: the script cart_coupon_remove.
CREATE OR REPLACE FUNCTION api.cart_coupon_remove_down(owner text, coupon_code text)
RETURNS api.reply LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    cart   jsonb := domain.cart_hold(owner);
    codes  jsonb := coalesce(cart -> 'coupons', '[]');
BEGIN
    IF NOT codes ? upper(coupon_code) THEN
        PERFORM domain.fail(404, 'not-found', 'The cart has no such coupon');
    END IF;

    cart := domain.cart_keep(owner, cart || jsonb_build_object('coupons', codes - upper(coupon_code)), 'coupon', NULL);
    RETURN (200, cart::text, NULL, NULL)::api.reply;
END
$$;


-- With Redis away: the script cart_take. Changes nothing, api.cart_merge_down does both sides.
CREATE OR REPLACE FUNCTION api.cart_take_down(guest_cart text)
RETURNS api.reply LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    cart  jsonb;
BEGIN
    IF guest_cart IS NOT NULL THEN
        cart := (api.cart_restore(guest_cart)).body::jsonb;
    END IF;

    IF cart IS NULL OR cart -> 'items' = '[]' THEN
        RETURN (200, '{}', NULL, NULL)::api.reply;
    END IF;

    RETURN (200, jsonb_build_object('guest_id', cart -> 'cart_id', 'guest_items', cart -> 'items',
                                    'guest_coupons', coalesce(cart -> 'coupons', '[]'))::text,
            NULL, NULL)::api.reply;
END
$$;


-- With Redis away: the script cart_merge, and the guest's cart emptied in the same transaction.
CREATE OR REPLACE FUNCTION api.cart_merge_down(
    owner text, guest_cart text, guest_id uuid, guest_items jsonb, new_cart_id uuid, guest_coupons jsonb DEFAULT NULL)
RETURNS api.reply LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    guest   shop.cart_backup;
    cart    jsonb;
    merged  jsonb;
    item    jsonb;
    held    bigint;
    wanted  bigint;
BEGIN
    -- the guest's row first, always: two merges of it queue here
    SELECT * INTO guest FROM shop.cart_backup b
     WHERE b.tenant_id = domain.tenant_id() AND b.owner = guest_cart
       FOR UPDATE;

    cart := domain.cart_hold(owner);
    merged := coalesce(cart -> 'merged', '[]');

    IF merged ? guest_id::text THEN
        RETURN (200, jsonb_build_object('merged', false, 'merged_cart_id', guest_id) || domain.cart_reply(cart, NULL)::jsonb, NULL, NULL)::api.reply;
    END IF;

    FOR item IN SELECT * FROM jsonb_array_elements(guest_items) LOOP
        held := coalesce((domain.cart_line(cart, (item ->> 'variant_id')::bigint) ->> 'quantity')::bigint, 0);
        wanted := least(held + (item ->> 'quantity')::bigint, 9999);
        wanted := least(wanted, greatest((item ->> 'available')::bigint, held));

        IF cart -> 'items' = '[]' THEN
            cart := cart || jsonb_build_object('currency', item -> 'currency');
        END IF;
        IF wanted > held AND cart -> 'currency' = item -> 'currency'
           AND (held > 0 OR jsonb_array_length(cart -> 'items') < 200)
        THEN
            cart := domain.cart_with(cart, item - 'available' - 'currency' || jsonb_build_object(
                        'item_id', item -> 'variant_id', 'quantity', wanted));
        END IF;
    END LOOP;

    IF cart -> 'items' <> '[]' AND cart ->> 'cart_id' IS NULL THEN
        cart := cart || jsonb_build_object('cart_id', new_cart_id);
    END IF;

    SELECT jsonb_agg(m ORDER BY n) INTO merged
      FROM jsonb_array_elements(jsonb_build_array(guest_id) || merged) WITH ORDINALITY AS e (m, n)
     WHERE n <= 32;

    cart := domain.cart_keep(owner, cart || jsonb_build_object(
                'merged', merged, 'coupons', to_jsonb((domain.coupon_codes(cart -> 'coupons', guest_coupons))[:5])), 'merge', NULL);

    IF guest.cart_id = guest_id THEN
        PERFORM domain.cart_keep(guest_cart, domain.cart_empty(guest.version), 'merge', NULL);
    END IF;

    RETURN (200, jsonb_build_object('merged', true, 'merged_cart_id', guest_id) || domain.cart_reply(cart, NULL)::jsonb, NULL, NULL)::api.reply;
END
$$;


-- With Redis away: the script cart_taken. There is nothing to drop: what Redis put aside stays there until it is back, and
-- is met then as merged already.
CREATE OR REPLACE FUNCTION api.cart_taken_down(merged_cart_id uuid)
RETURNS api.reply LANGUAGE plpgsql IMMUTABLE SECURITY DEFINER AS $$
BEGIN
    RETURN (200, '{}', NULL, NULL)::api.reply;
END
$$;


-- Carts of every shop that were served here while Redis was away, at most so many. For the edge itself: it carries them
-- to Redis and hands the tokens of those that arrived to api.cart_settled.
CREATE OR REPLACE FUNCTION api.cart_stale(at_most int)
RETURNS TABLE (tenant_id bigint, key text, version bigint, document text, token text)
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    PERFORM set_config('commerce.sweep', 'cart', true);

    RETURN QUERY
    SELECT b.tenant_id, format('cart:{%s:%s}', b.tenant_id, b.owner), b.version, b.document::text,
           jsonb_build_array(b.tenant_id, b.owner, b.version)::text
      FROM shop.cart_backup b
     WHERE b.redis_stale
     ORDER BY b.tenant_id, b.owner
     LIMIT at_most;

    PERFORM set_config('commerce.sweep', '', true);
END
$$;


-- Redis has these: [[tenant, owner, version], …]. A cart that changed since keeps its mark.
CREATE OR REPLACE FUNCTION api.cart_settled(tokens jsonb)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    tenant bigint;
BEGIN
    FOR tenant IN SELECT DISTINCT (t ->> 0)::bigint FROM jsonb_array_elements(tokens) t ORDER BY 1 LOOP
        PERFORM set_config('commerce.tenant_id', tenant::text, true);

        UPDATE shop.cart_backup b
           SET redis_stale = false
         WHERE b.tenant_id = tenant
           AND (b.owner, b.version) IN (SELECT t ->> 1, (t ->> 2)::bigint FROM jsonb_array_elements(tokens) t
                                         WHERE (t ->> 0)::bigint = tenant);
    END LOOP;
END
$$;


-- Tells once of each cart with lines that nobody has touched for so long: cart.abandoned {user_id, cart_id, items,
-- last_activity, timestamp}. Of one shop when the context names it, else of all. Returns how many; call again at `batch`.
CREATE OR REPLACE FUNCTION api.cart_sweep(idle interval DEFAULT '24 hours', batch int DEFAULT 500)
RETURNS int LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    own     bigint := domain.tenant_id();
    tenants bigint[] := ARRAY[own];
    tenant  bigint;
    cart    shop.cart_backup;
    total   int := 0;
BEGIN
    IF own IS NULL THEN
        PERFORM set_config('commerce.sweep', 'cart', true);

        SELECT array_agg(DISTINCT b.tenant_id) INTO tenants
          FROM shop.cart_backup b
         WHERE b.abandoned_at IS NULL AND b.cart_id IS NOT NULL AND b.updated_at < now() - idle;

        PERFORM set_config('commerce.sweep', '', true);
    END IF;

    FOREACH tenant IN ARRAY coalesce(tenants, '{}') LOOP
        PERFORM set_config('commerce.tenant_id', tenant::text, true);

        FOR cart IN
            UPDATE shop.cart_backup b SET abandoned_at = now()
             WHERE b.tenant_id = tenant
               AND b.owner IN (SELECT c.owner FROM shop.cart_backup c
                                WHERE c.tenant_id = tenant AND c.abandoned_at IS NULL AND c.cart_id IS NOT NULL
                                  AND c.updated_at < now() - idle
                                ORDER BY c.updated_at
                                LIMIT batch - total
                                  FOR UPDATE SKIP LOCKED)
            RETURNING b.*
        LOOP
            total := total + 1;
            CONTINUE WHEN cart.document -> 'items' = '[]' OR domain.cart_ordered(cart.cart_id);

            PERFORM domain.emit('cart.abandoned', 'shop.cart.abandoned.v1', 'cart', cart.owner, jsonb_build_object(
                'user_id', CASE WHEN cart.owner LIKE 'u:%' THEN substr(cart.owner, 3) END,
                'cart_id', cart.cart_id,
                'items', cart.document -> 'items',
                'last_activity', domain.ts(cart.updated_at),
                'timestamp', domain.ts(now())), cart.version);
        END LOOP;

        EXIT WHEN total >= batch;
    END LOOP;

    PERFORM set_config('commerce.tenant_id', coalesce(own::text, ''), true);
    RETURN total;
END
$$;
