-- Orders: how they are numbered, made, shown and moved from status to status.


-- The next order number: eight Crockford base32 digits (40 bits) of a counter that a Feistel network permutes under the tenant's key.
-- A permutation never repeats a value, so no number is ever tried twice; one number tells nothing about the next.
CREATE OR REPLACE FUNCTION domain.order_number() RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    digits  CONSTANT text := '0123456789ABCDEFGHJKMNPQRSTVWXYZ';
    half    CONSTANT bigint := 1048575;         -- 20 bits
    tenant  bigint := domain.tenant_id();
    n       bigint := nextval('shop.order_counter');
    secret  bigint;
    l       bigint := n >> 20;
    r       bigint := n & 1048575;
BEGIN
    SELECT k.key INTO secret FROM shop.order_key k WHERE k.tenant_id = tenant;
    IF NOT FOUND THEN
        INSERT INTO shop.order_key (tenant_id, key)
        VALUES (tenant, ('x' || encode(public.gen_random_bytes(8), 'hex'))::bit(64)::bigint)
            ON CONFLICT DO NOTHING;
        SELECT k.key INTO secret FROM shop.order_key k WHERE k.tenant_id = tenant;
    END IF;

    l := l # (hashint8extended(r, secret + 1) & half);
    r := r # (hashint8extended(l, secret + 2) & half);
    l := l # (hashint8extended(r, secret + 3) & half);
    r := r # (hashint8extended(l, secret + 4) & half);
    n := (l << 20) | r;
    RETURN substr(digits, (n >> 35)::int + 1, 1) || substr(digits, ((n >> 30) & 31)::int + 1, 1)
        || substr(digits, ((n >> 25) & 31)::int + 1, 1) || substr(digits, ((n >> 20) & 31)::int + 1, 1)
        || substr(digits, ((n >> 15) & 31)::int + 1, 1) || substr(digits, ((n >> 10) & 31)::int + 1, 1)
        || substr(digits, ((n >> 5) & 31)::int + 1, 1) || substr(digits, (n & 31)::int + 1, 1);
END
$$;


-- The order as the API shows it.  items: from domain.order_items(), or made beside the rows.
CREATE OR REPLACE FUNCTION domain.order_json(o shop.orders, items json) RETURNS json
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN json_build_object(
        'id', o.id,
        'number', o.number,
        'status', o.status,
        'user_id', o.user_id,
        'email', o.email,
        'currency', o.currency,
        'items', items,
        'subtotal', json_build_object('amount', o.subtotal_amount, 'currency', o.currency),
        'discount', json_build_object('amount', o.discount_amount, 'currency', o.currency),
        'tax', json_build_object('amount', o.tax_amount, 'currency', o.currency),
        'tax_inclusive', o.tax_inclusive,
        'shipping', json_build_object('amount', o.shipping_amount, 'currency', o.currency),
        'total', json_build_object('amount', o.total_amount, 'currency', o.currency),
        'shipping_address', o.shipping_address,
        'billing_address', o.billing_address,
        'payment_method', o.payment_method,
        'note', o.note,
        'timeline', o.timeline,
        'version', o.version,
        'created_at', domain.ts(o.created_at),
        'updated_at', domain.ts(o.updated_at));
END
$$;


CREATE OR REPLACE FUNCTION domain.order_items(o shop.orders) RETURNS json
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (SELECT json_agg(json_build_object(
                       'variant_id', i.variant_id, 'product_id', i.product_id, 'sku', i.sku, 'name', i.name, 'slug', i.slug,
                       'image', i.image, 'quantity', i.quantity,
                       'unit_price', json_build_object('amount', i.unit_amount, 'currency', o.currency),
                       'tax', json_build_object('amount', i.tax_amount, 'currency', o.currency),
                       'total', json_build_object('amount', i.total_amount, 'currency', o.currency)) ORDER BY i.line)
              FROM shop.order_item i
             WHERE i.tenant_id = o.tenant_id AND i.order_id = o.id);
END
$$;


-- May whoever asks see this order?  Its customer, the guest who has the cart token that it was made with, or staff.
CREATE OR REPLACE FUNCTION domain.order_visible(o shop.orders, guest text, permission text) RETURNS boolean
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN o.id IS NOT NULL
       AND coalesce(o.user_id = domain.principal()
                    OR (o.user_id IS NULL AND o.guest <> '' AND o.guest = order_visible.guest)
                    OR domain.has_role(permission), false);
END
$$;


-- Snapshots of the addresses of whoever asks, by id or, where there is none, their default of that type, or NULL.  422 when an id is not
-- theirs.
CREATE OR REPLACE FUNCTION domain.address_snapshots(shipping_id uuid, billing_id uuid, OUT shipping jsonb, OUT billing jsonb)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    tenant  bigint := domain.tenant_id();
    person  uuid := domain.principal();
    a       record;
BEGIN
    FOR a IN
        SELECT x.type, x.id, x.is_default, jsonb_strip_nulls(jsonb_build_object(
                   'name', x.name, 'company', x.company, 'line1', x.line1, 'line2', x.line2, 'city', x.city, 'region', x.region,
                   'postal_code', x.postal_code, 'country', x.country, 'phone', x.phone)) AS snapshot
          FROM shop.address x
         WHERE x.tenant_id = tenant AND x.user_id = person AND x.deleted_at IS NULL
           AND (x.is_default OR x.id IN (shipping_id, billing_id))
    LOOP
        IF a.id = shipping_id OR (shipping_id IS NULL AND a.is_default AND a.type = 'SHIPPING') THEN
            shipping := a.snapshot;
        END IF;
        IF a.id = billing_id OR (billing_id IS NULL AND a.is_default AND a.type = 'BILLING') THEN
            billing := a.snapshot;
        END IF;
    END LOOP;

    IF (shipping_id IS NOT NULL AND shipping IS NULL) OR (billing_id IS NOT NULL AND billing IS NULL) THEN
        PERFORM domain.fail(422, 'address-unknown', 'You have no such address.', jsonb_build_object(
                                'address_id', CASE WHEN shipping IS NULL THEN coalesce(shipping_id, billing_id) ELSE billing_id END));
    END IF;
END
$$;


-- 409 when the cart has become an order already: the right answer, whatever else is wrong with it now.
CREATE OR REPLACE FUNCTION domain.fail_if_ordered(cart_id uuid, from_cart boolean) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    found_id  uuid;
    number    text;
BEGIN
    SELECT o.id, o.number INTO found_id, number
      FROM shop.orders o
     WHERE o.tenant_id = domain.tenant_id() AND o.cart_id = fail_if_ordered.cart_id;

    IF FOUND THEN
        PERFORM domain.fail(409, CASE WHEN from_cart THEN 'cart-already-ordered' ELSE 'order-exists' END,
                            CASE WHEN from_cart THEN format('This cart was ordered as %s.', number)
                                 ELSE format('This key has made order %s.', number) END,
                            jsonb_build_object('order_id', found_id, 'order_number', number));
    END IF;
END
$$;


-- Makes an order and confirms it at once (payment method manual): the whole checkout, one call, all or nothing.
-- lines: [{"variant_id", "quantity"}, …]; their prices and names are the database's.  cart_id: the natural key, see shop.orders.
-- cart_version: of the cart that becomes empty by this, NULL when the order is made without a cart.
--
-- Order of locks: the idempotency record (by api.begin_command), the order, then stock, last, because buyers meet there.
CREATE OR REPLACE FUNCTION domain.order_place(
    order_id uuid, cart_id uuid, cart_version bigint, lines jsonb, expected_total bigint, guest text, email text,
    shipping_address jsonb, billing_address jsonb, shipping_address_id uuid, billing_address_id uuid,
    payment_method text, note text)
RETURNS api.reply LANGUAGE plpgsql AS $$
DECLARE
    tenant   bigint := domain.tenant_id();
    person   uuid := domain.principal();
    at       text := domain.ts(now());
    owner    text := CASE WHEN person IS NULL THEN guest ELSE 'u:' || person END;
    p        record;
    book     record;
    o        shop.orders;
    items    json;
    bought   jsonb;
    total    jsonb;
BEGIN
    IF person IS NULL AND email IS NULL THEN
        PERFORM domain.fail(422, 'email-required', 'Guests order with their e-mail address.',
            '{"errors": [{"pointer": "/email", "code": "required", "message": "is required without an account"}]}');
    END IF;

    p := domain.price_lines(lines);

    IF p.missing IS NOT NULL THEN
        PERFORM domain.fail_if_ordered(cart_id, cart_version IS NOT NULL);
        PERFORM domain.fail(409, 'product-unavailable', 'Something is not for sale any more.',
                            jsonb_build_object('variant_ids', p.missing));
    END IF;
    IF p.variant_ids IS NULL THEN
        PERFORM domain.fail(422, 'cart-empty', 'There is nothing to order.');
    END IF;
    IF expected_total <> p.total THEN
        PERFORM domain.fail_if_ordered(cart_id, cart_version IS NOT NULL);
        PERFORM domain.fail(409, 'cart-changed', 'The total is not what you expected.',
            jsonb_build_object('current_total', jsonb_build_object('amount', p.total, 'currency', p.currency)));
    END IF;
    FOR i IN 1 .. cardinality(p.variant_ids) LOOP
        IF p.quantities[i] NOT BETWEEN 1 AND 9999 THEN
            PERFORM domain.fail(422, 'quantity-invalid', 'A quantity is between 1 and 9999.',
                                jsonb_build_object('variant_id', p.variant_ids[i]));
        END IF;
        IF p.available[i] < p.quantities[i] THEN        -- advice: spares the work below, decides nothing
            PERFORM domain.fail_if_ordered(cart_id, cart_version IS NOT NULL);
            PERFORM domain.fail_out_of_stock(p.variant_ids, p.quantities, p.available);
        END IF;
    END LOOP;

    IF person IS NOT NULL THEN
        book := domain.address_snapshots(shipping_address_id, billing_address_id);
        shipping_address := coalesce(shipping_address, book.shipping);
        billing_address := coalesce(billing_address, book.billing);
    END IF;

    INSERT INTO shop.orders AS n (
        tenant_id, id, cart_id, number, user_id, guest, email, status, currency, tax_inclusive, subtotal_amount,
        discount_amount, tax_amount, shipping_amount, total_amount, shipping_address, billing_address, payment_method, note,
        timeline)
    VALUES (
        tenant, order_id, order_place.cart_id, domain.order_number(), person, CASE WHEN person IS NULL THEN guest END, email,
        'confirmed', p.currency, p.tax_inclusive, p.subtotal, p.discount, p.tax, p.shipping, p.total, shipping_address,
        coalesce(billing_address, shipping_address), payment_method, note,
        jsonb_build_array(jsonb_build_object('status', 'pending', 'at', at, 'by', person),
                          jsonb_build_object('status', 'confirmed', 'at', at, 'by', 'payment')))
        ON CONFLICT ON CONSTRAINT orders_cart DO NOTHING
    RETURNING n.* INTO o;

    IF NOT FOUND THEN
        PERFORM domain.fail_if_ordered(cart_id, cart_version IS NOT NULL);
    END IF;

    WITH item AS (
        INSERT INTO shop.order_item AS n (
            tenant_id, order_id, line, variant_id, product_id, quantity, unit_amount, tax_amount, total_amount, sku, name, slug,
            image)
        SELECT tenant, o.id, l.line, l.variant_id, l.product_id, l.quantity, l.unit_amount, l.tax_amount, l.line_amount,
               l.sku, l.name, l.slug, l.image
          FROM ROWS FROM (unnest(p.variant_ids), unnest(p.product_ids), unnest(p.quantities), unnest(p.unit_amounts),
                          unnest(p.tax_amounts), unnest(p.line_amounts), unnest(p.skus), unnest(p.names), unnest(p.slugs),
                          unnest(p.images))
               WITH ORDINALITY AS l (variant_id, product_id, quantity, unit_amount, tax_amount, line_amount, sku, name, slug,
                                     image, line)
        RETURNING n.*
    )
    SELECT json_agg(json_build_object(
               'variant_id', i.variant_id, 'product_id', i.product_id, 'sku', i.sku, 'name', i.name, 'slug', i.slug,
               'image', i.image, 'quantity', i.quantity,
               'unit_price', json_build_object('amount', i.unit_amount, 'currency', o.currency),
               'tax', json_build_object('amount', i.tax_amount, 'currency', o.currency),
               'total', json_build_object('amount', i.total_amount, 'currency', o.currency))),
           jsonb_agg(jsonb_build_object(
               'product_id', i.product_id, 'variant_id', i.variant_id, 'quantity', i.quantity, 'unit_price', i.unit_amount))
      INTO items, bought
      FROM item i;

    INSERT INTO shop.payment (tenant_id, order_id, attempt, method, status, amount, currency)
    VALUES (tenant, o.id, 1, payment_method, 'accepted', o.total_amount, o.currency);

    total := jsonb_build_object('amount', o.total_amount, 'currency', o.currency);

    INSERT INTO event.outbox (tenant_id, event_id, topic, type, aggregate, aggregate_id, aggregate_version, payload,
                              correlation_id, traceparent)
    SELECT tenant, domain.uuid7(), e.topic, e.type, e.aggregate, e.aggregate_id, e.version, e.payload, domain.correlation_id(),
           domain.traceparent()
      FROM (VALUES
            ('order-events', 'OrderCreated', 'order', o.id::text, 1::bigint, jsonb_build_object(
                'order_id', o.id, 'order_number', o.number, 'user_id', person, 'status', 'pending', 'items', bought,
                'total', total, 'timestamp', at)),
            ('order-events', 'OrderConfirmed', 'order', o.id::text, 2, jsonb_build_object(
                'order_id', o.id, 'order_number', o.number, 'user_id', person, 'status', 'confirmed', 'total', total,
                'timestamp', at)),
            ('order.completed', 'shop.order.completed.v1', 'order', o.id::text, 3, jsonb_build_object(
                'order_id', o.id, 'order_number', o.number, 'user_id', person, 'items', bought, 'total', total,
                'timestamp', at)),
            ('inventory-events', 'InventoryDeducted', 'order', o.id::text, 4, jsonb_build_object(
                'order_id', o.id, 'items', bought, 'timestamp', at)),
            ('cart.updated', 'shop.cart.updated.v1', 'cart', owner, cart_version + 1, jsonb_build_object(
                'user_id', person, 'action', 'clear', 'affected_product_id', NULL, 'items', '[]'::jsonb, 'timestamp', at)))
           AS e (topic, type, aggregate, aggregate_id, version, payload)
     WHERE e.aggregate <> 'cart' OR cart_version IS NOT NULL;

    PERFORM domain.stock_take(o.id, p.variant_ids, p.quantities, p.thresholds);

    RETURN (201,
            domain.order_json(o, items)::text,
            json_build_object('Location', '/api/v1/orders/' || o.id, 'ETag', '"1"'),
            json_build_object('invalidate', (SELECT json_agg('product:' || i) FROM unnest(p.product_ids) i))
           )::api.reply;
END
$$;


-- The state machine: what may follow what.
CREATE OR REPLACE FUNCTION domain.order_may(from_status text, to_status text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT to_status = ANY (CASE from_status
        WHEN 'pending'    THEN '{confirmed,cancelled}'::text[]
        WHEN 'confirmed'  THEN '{processing,shipped,cancelled}'
        WHEN 'processing' THEN '{shipped,cancelled}'
        WHEN 'shipped'    THEN '{delivered}'
        ELSE '{}' END)
$$;


-- Moves an order that the caller holds locked: status, timeline, version, event.  A cancelled order gives its stock back and its payment
-- is void.  Being there already is no error and changes nothing.  Answers {order, edge}.
CREATE OR REPLACE FUNCTION domain.order_advance(o shop.orders, to_status text, note text, OUT moved shop.orders, OUT edge json)
LANGUAGE plpgsql AS $$
DECLARE
    variants  bigint[];
BEGIN
    IF o.status = to_status THEN
        moved := o;
        RETURN;
    END IF;

    IF NOT domain.order_may(o.status, to_status) THEN
        PERFORM domain.fail(409, CASE WHEN to_status = 'cancelled' THEN 'order-not-cancellable' ELSE 'order-status-conflict' END,
                            format('The order is %s: it cannot become %s.', o.status, to_status),
                            jsonb_build_object('order_status', o.status));
    END IF;

    UPDATE shop.orders n
       SET status = to_status,
           version = n.version + 1,
           updated_at = now(),
           timeline = n.timeline || jsonb_strip_nulls(jsonb_build_object(
                          'status', to_status, 'at', domain.ts(now()), 'by', domain.principal(), 'note', order_advance.note))
     WHERE n.tenant_id = o.tenant_id AND n.id = o.id AND n.status = o.status
    RETURNING n.* INTO STRICT moved;

    -- versions 1 to 4 of the aggregate were used by the events of its making
    PERFORM domain.emit('order-events', 'Order' || initcap(to_status), 'order', o.id::text, jsonb_build_object(
                            'order_id', o.id, 'order_number', o.number, 'user_id', o.user_id, 'status', to_status,
                            'total', jsonb_build_object('amount', o.total_amount, 'currency', o.currency),
                            'timestamp', domain.ts(now())), moved.version * 2 + 1);

    IF to_status = 'cancelled' THEN
        UPDATE shop.payment y
           SET status = 'voided', updated_at = now()
         WHERE y.tenant_id = o.tenant_id AND y.order_id = o.id AND y.status IN ('pending', 'accepted');

        PERFORM domain.emit('inventory-events', 'InventoryReleased', 'order', o.id::text, jsonb_build_object(
                                'order_id', o.id, 'timestamp', domain.ts(now()),
                                'items', (SELECT jsonb_agg(jsonb_build_object('product_id', i.product_id, 'variant_id', i.variant_id,
                                                                              'quantity', i.quantity) ORDER BY i.line)
                                            FROM shop.order_item i
                                           WHERE i.tenant_id = o.tenant_id AND i.order_id = o.id)), moved.version * 2 + 2);

        variants := domain.stock_return(o.id);
        edge := json_build_object('invalidate', (SELECT coalesce(json_agg(DISTINCT 'product:' || v.product_id), '[]')
                                                   FROM shop.variant v
                                                  WHERE v.tenant_id = o.tenant_id AND v.id = ANY (variants)));
    END IF;
END
$$;


-- Lines as customers write them: a product that comes in one form needs no variant_id; 422 variant-required otherwise.
CREATE OR REPLACE FUNCTION domain.order_lines(items jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE AS $$
DECLARE
    lines    jsonb;
    several  bigint;
BEGIN
    SELECT jsonb_agg(jsonb_build_object('variant_id', coalesce(i.variant_id, v.id, 0), 'quantity', i.quantity) ORDER BY i.place),
           min(i.product_id) FILTER (WHERE i.variant_id IS NULL AND v.forms > 1)
      INTO lines, several
      FROM ROWS FROM (jsonb_to_recordset(items) AS (product_id bigint, variant_id bigint, quantity int))
           WITH ORDINALITY AS i (product_id, variant_id, quantity, place)
      LEFT JOIN LATERAL (
           SELECT min(x.id) AS id, count(*) AS forms
             FROM shop.variant x
            WHERE x.tenant_id = domain.tenant_id() AND x.product_id = i.product_id AND x.deleted_at IS NULL) v
        ON i.variant_id IS NULL;

    IF several IS NOT NULL THEN
        PERFORM domain.fail(422, 'variant-required', 'The product comes in several forms: say which.',
                            jsonb_build_object('product_id', several));
    END IF;

    RETURN coalesce(lines, '[]');
END
$$;


-- A page of somebody's orders, newest first: UUIDv7 sorts by time.  The cursor carries what it was made for, so that it cannot be used
-- with another filter.
CREATE OR REPLACE FUNCTION domain.order_page(owner uuid, page_limit int, cursor jsonb, wanted text) RETURNS api.reply
LANGUAGE plpgsql STABLE AS $$
DECLARE
    orders  json[];
    last    uuid;
    after   uuid := (cursor ->> 'id')::uuid;
    more    boolean;
BEGIN
    IF cursor IS NOT NULL AND (cursor ->> 'user', cursor ->> 'status') IS DISTINCT FROM (owner::text, wanted) THEN
        PERFORM domain.fail(400, 'cursor-mismatch', 'The cursor belongs to another list.');
    END IF;

    SELECT array_agg(domain.order_json(x.o, domain.order_items(x.o)) ORDER BY x.place) FILTER (WHERE x.place <= page_limit),
           (array_agg((x.o).id ORDER BY x.place) FILTER (WHERE x.place <= page_limit))[page_limit],
           count(*) > page_limit
      INTO orders, last, more
      FROM (SELECT o, row_number() OVER (ORDER BY o.id DESC) AS place
              FROM shop.orders o
             WHERE o.tenant_id = domain.tenant_id() AND o.user_id = owner
               AND (after IS NULL OR o.id < after)
               AND (wanted IS NULL OR o.status = wanted)
             ORDER BY o.id DESC
             LIMIT page_limit + 1) x;

    RETURN (200, json_build_object('data', coalesce(to_json(orders), '[]'))::text, NULL,
            json_build_object('page', json_build_object(
                'limit', page_limit, 'has_more', more, 'prev', NULL,
                'next', CASE WHEN more THEN json_build_object('id', last, 'user', owner, 'status', wanted) END)))::api.reply;
END
$$;
