-- Carts in PostgreSQL: the rules that the scripts in ngx_commerce_module/redis/scripts/ follow too.
--
-- A document is {"cart_id", "version", "currency", "items": [{"item_id", "variant_id", "product_id", "quantity",
-- "unit_price", "name", "sku", "image", "slug"}], "coupons": [codes], "merged": [guest carts that went into it]}.


-- How long an untouched cart lives: the TTL of its key in Redis.
CREATE OR REPLACE FUNCTION domain.cart_ttl() RETURNS interval
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT interval '7 days' $$;


-- A document without lines. The next line begins a cart with a new id.
CREATE OR REPLACE FUNCTION domain.cart_empty(version bigint, merged jsonb DEFAULT NULL) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT jsonb_build_object('cart_id', NULL, 'version', version, 'currency', NULL, 'items', '[]'::jsonb)
           || CASE WHEN merged IS NULL THEN '{}'::jsonb ELSE jsonb_build_object('merged', merged) END
$$;


-- Was this cart ordered? Then a worker died between the order's commit and the clearing of the cart.
CREATE OR REPLACE FUNCTION domain.cart_ordered(cart uuid) RETURNS boolean
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN cart IS NOT NULL
       AND EXISTS (SELECT FROM shop.orders o WHERE o.tenant_id = domain.tenant_id() AND o.cart_id = cart);
END
$$;


-- What a row is worth now: its document, or an empty one when it has expired or was ordered.
CREATE OR REPLACE FUNCTION domain.cart_current(c shop.cart_backup) RETURNS jsonb
LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF c.version IS NULL THEN
        RETURN domain.cart_empty(0);
    ELSIF c.updated_at < now() - domain.cart_ttl() THEN
        RETURN domain.cart_empty(c.version, c.document -> 'merged');
    ELSIF domain.cart_ordered(c.cart_id) THEN
        RETURN domain.cart_empty(c.version + 1, c.document -> 'merged');
    END IF;
    RETURN c.document;
END
$$;


-- The owner's document, its row made when there is none and locked until the end of the transaction.
CREATE OR REPLACE FUNCTION domain.cart_hold(owner text) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
    c shop.cart_backup;
BEGIN
    PERFORM domain.erasure_turn(false);
    IF EXISTS (SELECT FROM shop.erasure e WHERE e.tenant_id = domain.tenant_id() AND e.user_id = domain.principal()) THEN
        PERFORM domain.fail(401, 'not-authenticated', 'This account is not active any more.');
    END IF;

    INSERT INTO shop.cart_backup (tenant_id, owner, version, document)
    VALUES (domain.tenant_id(), cart_hold.owner, 0, domain.cart_empty(0))
        ON CONFLICT DO NOTHING;

    SELECT * INTO c FROM shop.cart_backup b
     WHERE b.tenant_id = domain.tenant_id() AND b.owner = cart_hold.owner
       FOR UPDATE;

    RETURN domain.cart_current(c);
END
$$;


-- Tells of a change. user_id is NULL for a guest. A cart that became an order was told of by the checkout, in its transaction.
CREATE OR REPLACE FUNCTION domain.cart_event(owner text, document jsonb, action text, product_id bigint, at timestamptz)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF action = 'checkout' THEN
        RETURN;
    END IF;

    PERFORM domain.emit('cart.updated', 'shop.cart.updated.v1', 'cart', owner, jsonb_build_object(
        'user_id', CASE WHEN owner LIKE 'u:%' THEN substr(owner, 3) END,
        'action', action,
        'affected_product_id', product_id,
        'items', (SELECT coalesce(jsonb_agg(jsonb_build_object(
                             'product_id', i -> 'product_id', 'variant_id', i -> 'variant_id',
                             'quantity', i -> 'quantity', 'unit_price', i -> 'unit_price')), '[]')
                    FROM jsonb_array_elements(document -> 'items') i),
        'timestamp', domain.ts(at)), (document ->> 'version')::bigint);
END
$$;


-- Keeps a document that was changed here, with Redis away. The version jumps over any that a copy in Redis may have
-- reached unnoticed, and the mark makes the edge bring the document there (api.cart_stale) before Redis serves again.
CREATE OR REPLACE FUNCTION domain.cart_keep(owner text, document jsonb, action text, product_id bigint) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
    kept jsonb;
BEGIN
    UPDATE shop.cart_backup b
       SET version = (cart_keep.document ->> 'version')::bigint + CASE WHEN b.redis_stale THEN 1 ELSE 1000000 END,
           document = cart_keep.document || jsonb_build_object('version',
               (cart_keep.document ->> 'version')::bigint + CASE WHEN b.redis_stale THEN 1 ELSE 1000000 END),
           cart_id = (cart_keep.document ->> 'cart_id')::uuid,
           redis_stale = true,
           abandoned_at = NULL,
           updated_at = now()
     WHERE b.tenant_id = domain.tenant_id() AND b.owner = cart_keep.owner
    RETURNING b.document INTO kept;

    PERFORM domain.cart_event(owner, kept, action, product_id, now());
    RETURN kept;
END
$$;


-- An item as clients see it.
CREATE OR REPLACE FUNCTION domain.cart_item(item jsonb, currency text) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT item || jsonb_build_object(
        'id', item -> 'variant_id',
        'unit_price', jsonb_build_object('amount', item -> 'unit_price', 'currency', currency),
        'line_total', jsonb_build_object('amount', (item ->> 'unit_price')::bigint * (item ->> 'quantity')::bigint,
                                         'currency', currency))
$$;


-- {"item", "cart"}: what a write answers. item NULL: the cart alone.
CREATE OR REPLACE FUNCTION domain.cart_reply(document jsonb, item jsonb) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    cart jsonb;
BEGIN
    SELECT jsonb_build_object(
               'id', document -> 'cart_id',
               'version', document -> 'version',
               'item_count', count(i),
               'quantity', coalesce(sum((i ->> 'quantity')::bigint), 0),
               'subtotal', jsonb_build_object(
                   'amount', coalesce(sum((i ->> 'quantity')::bigint * (i ->> 'unit_price')::bigint), 0),
                   'currency', document -> 'currency'))
      INTO cart
      FROM jsonb_array_elements(document -> 'items') i;

    IF item IS NULL THEN
        RETURN jsonb_build_object('cart', cart)::text;
    END IF;
    RETURN jsonb_build_object('item', domain.cart_item(item, document ->> 'currency'), 'cart', cart)::text;
END
$$;


-- Refuses a quantity that cannot be had; available NULL: stock does not limit.
CREATE OR REPLACE FUNCTION domain.cart_refuse(quantity bigint, available bigint, held bigint, variant_id bigint)
RETURNS void LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF quantity IS NULL OR quantity NOT BETWEEN 1 AND 9999 THEN
        PERFORM domain.fail(422, 'quantity-out-of-range', 'A line holds 1 to 9999 pieces',
                            jsonb_build_object('maximum', 9999, 'in_cart', held));
    ELSIF quantity > available THEN
        PERFORM domain.fail(409, 'out-of-stock',
                            CASE WHEN available <= 0 THEN 'Out of stock'
                                 WHEN held > 0 THEN format('Only %s available, %s already in the cart', available, held)
                                 ELSE format('Only %s available', available) END,
                            jsonb_build_object('available', greatest(available, 0), 'in_cart', held,
                                               'variant_id', variant_id));
    END IF;
END
$$;


-- The document with a line put in place, or appended.
CREATE OR REPLACE FUNCTION domain.cart_with(document jsonb, item jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT document || jsonb_build_object('items',
        CASE WHEN document -> 'items' @> jsonb_build_array(jsonb_build_object('variant_id', item -> 'variant_id'))
             THEN (SELECT jsonb_agg(CASE WHEN i -> 'variant_id' = item -> 'variant_id' THEN item ELSE i END ORDER BY n)
                     FROM jsonb_array_elements(document -> 'items') WITH ORDINALITY AS e (i, n))
             ELSE (document -> 'items') || item END)
$$;


-- A line of the document, or NULL.
CREATE OR REPLACE FUNCTION domain.cart_line(document jsonb, variant_id bigint) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT i FROM jsonb_array_elements(document -> 'items') i WHERE (i ->> 'variant_id')::bigint = cart_line.variant_id
$$;
