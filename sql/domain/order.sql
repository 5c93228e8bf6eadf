-- Orders: how they are numbered, made, shown and moved from status to status.


-- The next order number: eight Crockford base32 digits (40 bits) of a counter that a Feistel network permutes under the tenant's key.
-- A permutation never repeats a value, so no number is ever tried twice; one number tells nothing about the next.  secret: the key, when
-- the caller has read it; it is made with the tenant's first order.
CREATE OR REPLACE FUNCTION domain.order_number(secret bigint DEFAULT NULL) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    digits  CONSTANT text := '0123456789ABCDEFGHJKMNPQRSTVWXYZ';
    n       bigint := nextval('shop.order_counter');
    l       bigint := n >> 20;                  -- halves of 20 bits
    r       bigint := n & 1048575;
    mixed   bigint;
    number  text := '';
BEGIN
    IF secret IS NULL THEN
        INSERT INTO shop.order_key (tenant_id, key)
        VALUES (domain.tenant_id(), ('x' || encode(public.gen_random_bytes(8), 'hex'))::bit(64)::bigint)
            ON CONFLICT DO NOTHING;
        SELECT k.key INTO secret FROM shop.order_key k WHERE k.tenant_id = domain.tenant_id();
    END IF;

    -- loops, because an expression is compiled once in each transaction, however often it is evaluated
    FOR round IN 1 .. 4 LOOP
        mixed := l # (hashint8extended(r, secret + round) & 1048575);
        l := r;
        r := mixed;
    END LOOP;
    n := l << 20 | r;
    FOR digit IN REVERSE 7 .. 0 LOOP
        number := number || substr(digits, (n >> 5 * digit & 31)::int + 1, 1);
    END LOOP;
    RETURN number;
END
$$;


-- A line as an order shows it.  By format(): one function to look up and compile, where each || or cast would be another, and
-- json_build_object looks the types of its arguments up at each call.  money_end: the end of each amount.
CREATE OR REPLACE FUNCTION domain.order_item_text(
    variant_id bigint, product_id bigint, sku text, name text, slug text, image text, quantity bigint, unit_amount bigint,
    discount_amount bigint, tax_amount bigint, total_amount bigint, money_end text) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT format('{"variant_id":%2$s,"product_id":%3$s,"sku":%4$s,"name":%5$s,"slug":%6$s,"image":%7$s,"quantity":%8$s,'
                  '"unit_price":{"amount":%9$s%1$s,"discount":{"amount":%10$s%1$s,"tax":{"amount":%11$s%1$s,'
                  '"total":{"amount":%12$s%1$s}',
                  money_end, variant_id, product_id, to_json(sku), to_json(name), to_json(slug), coalesce(to_json(image), 'null'),
                  quantity, unit_amount, discount_amount, tax_amount, total_amount)
$$;


-- The order as the API shows it, JSON text.  items: from domain.order_items(), or made beside the rows.
CREATE OR REPLACE FUNCTION domain.order_text(o shop.orders, items text) RETURNS text
LANGUAGE plpgsql STABLE AS $$
DECLARE
    sealed_for  text;
    shipping    jsonb;
    billing     jsonb;
BEGIN
    IF o.shipping_address IS NOT NULL OR o.billing_address IS NOT NULL THEN
        sealed_for := coalesce('u:' || o.user_id, o.guest);
        shipping := domain.sealed_address(o.shipping_address, sealed_for);
        billing := domain.sealed_address(o.billing_address, sealed_for);
    END IF;

    RETURN format('{"id":"%2$s","number":"%3$s","status":"%4$s","user_id":%5$s,"email":%6$s,"currency":"%7$s","items":[%8$s],'
                  '"subtotal":{"amount":%9$s%1$s,"discount":{"amount":%10$s%1$s,"tax":{"amount":%11$s%1$s,"tax_inclusive":%12$s,'
                  '"shipping":{"amount":%13$s%1$s,"shipping_discount":{"amount":%14$s%1$s,"total":{"amount":%15$s%1$s,'
                  '"coupons":%16$s,"shipping_address":%17$s,"billing_address":%18$s,"payment_method":%19$s,"note":%20$s,'
                  '"timeline":%21$s,"version":%22$s,"created_at":"%23$s","updated_at":"%24$s"}',
                  ',"currency":"' || o.currency || '"}', o.id, o.number, o.status, coalesce(to_json(o.user_id), 'null'),
                  coalesce(to_json(o.email), 'null'), o.currency, items, o.subtotal_amount, o.discount_amount, o.tax_amount,
                  CASE WHEN o.tax_inclusive THEN 'true' ELSE 'false' END, o.shipping_amount, o.shipping_discount_amount,
                  o.total_amount, coalesce(o.coupons, '[]'), coalesce(shipping, 'null'), coalesce(billing, 'null'),
                  to_json(o.payment_method), coalesce(to_json(o.note), 'null'), o.timeline, o.version, domain.ts(o.created_at),
                  domain.ts(o.updated_at));
END
$$;


CREATE OR REPLACE FUNCTION domain.order_items(o shop.orders) RETURNS text
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (SELECT string_agg(domain.order_item_text(i.variant_id, i.product_id, i.sku, i.name, i.slug, i.image, i.quantity,
                                                     i.unit_amount, i.discount_amount, i.tax_amount, i.total_amount,
                                                     ',"currency":"' || o.currency || '"}'),
                              ',' ORDER BY i.line)
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


-- An address as an order keeps it.
CREATE OR REPLACE FUNCTION domain.address_snapshot(a shop.address) RETURNS jsonb
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN jsonb_strip_nulls(jsonb_build_object(
               'name', a.name, 'company', a.company, 'line1', a.line1, 'line2', a.line2, 'city', a.city, 'region', a.region,
               'postal_code', a.postal_code, 'country', a.country, 'phone', a.phone));
END
$$;


-- Snapshots of the addresses of whoever asks, by id or, where there is none, their default of that type, or NULL.  422 when an id is not
-- theirs.
CREATE OR REPLACE FUNCTION domain.address_snapshots(shipping_id uuid, billing_id uuid, OUT shipping jsonb, OUT billing jsonb)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    tenant  bigint := domain.tenant_id();
    person  uuid := domain.principal();
    a       shop.address;
BEGIN
    FOR a IN
        SELECT x.*
          FROM shop.address x
         WHERE x.tenant_id = tenant AND x.user_id = person AND x.deleted_at IS NULL
           AND (x.is_default OR x.id IN (shipping_id, billing_id))
    LOOP
        IF a.id = shipping_id OR (shipping_id IS NULL AND a.is_default AND a.type = 'SHIPPING') THEN
            shipping := domain.address_snapshot(a);
        END IF;
        IF a.id = billing_id OR (billing_id IS NULL AND a.is_default AND a.type = 'BILLING') THEN
            billing := domain.address_snapshot(a);
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


-- Makes an order, all or nothing: P1.  One that needs no provider (payment method manual, or nothing to pay) is confirmed at once: the
-- whole checkout is one call.  Another is pending, its stock reserved, and the answer carries the call of the provider (domain.saga_begin).
-- lines: [{"variant_id", "quantity"}, …]; their prices and names are the database's.  cart_id: the natural key, see shop.orders.
-- cart_version: of the cart that becomes empty by this, NULL when the order is made without a cart.
--
-- codes: coupons; one that cannot be had refuses the order.
--
-- Order of locks: the idempotency key (by api.begin_command), the order, then stock, then coupons, last, because buyers meet there.
CREATE OR REPLACE FUNCTION domain.order_place(
    order_id uuid, cart_id uuid, cart_version bigint, lines jsonb, expected_total bigint, guest text, email text,
    shipping_address jsonb, billing_address jsonb, shipping_address_id uuid, billing_address_id uuid,
    payment_method text, note text, codes text[], payment_token text DEFAULT NULL, return_url text DEFAULT NULL, mode text DEFAULT 'inline')
RETURNS api.reply LANGUAGE plpgsql AS $$
DECLARE
    later    boolean;
    call     json;
    tenant   bigint := domain.tenant_id();
    person   uuid := domain.principal();
    at       text := domain.ts(now());
    owner    text := CASE WHEN person IS NULL THEN guest ELSE 'u:' || person END;
    p        record;
    one      domain.priced_line;
    book     record;
    o        shop.orders;
    -- parts of the answer and of events
    money_end  text;
    items      text;
    tags       text;
    event      text;
    head       text;
    bought     text;
    total      text;
    tail       text;
BEGIN
    IF person IS NULL AND email IS NULL THEN
        PERFORM domain.fail(422, 'email-required', 'Guests order with their e-mail address.',
            '{"errors": [{"pointer": "/email", "code": "required", "message": "is required without an account"}]}');
    END IF;

    IF codes <> '{}' THEN                       -- the order of this cart may be what used a coupon up
        PERFORM domain.fail_if_ordered(cart_id, cart_version IS NOT NULL);
    END IF;
    p := domain.price_lines(lines, codes, CASE WHEN codes <> '{}' THEN domain.coupon_customer(email) END, true);
    money_end := ',"currency":"' || p.currency || '"}';

    IF p.missing IS NOT NULL THEN
        PERFORM domain.fail_if_ordered(cart_id, cart_version IS NOT NULL);
        PERFORM domain.fail(409, 'product-unavailable', 'Something is not for sale any more.',
                            jsonb_build_object('variant_ids', p.missing));
    END IF;
    IF p.lines IS NULL THEN
        PERFORM domain.fail(422, 'cart-empty', 'There is nothing to order.');
    END IF;
    IF expected_total <> p.total THEN
        PERFORM domain.fail_if_ordered(cart_id, cart_version IS NOT NULL);
        PERFORM domain.fail(409, 'cart-changed', 'The total is not what you expected.',
            jsonb_build_object('current_total', jsonb_build_object('amount', p.total, 'currency', p.currency)));
    END IF;
    IF payment_method <> 'manual' OR NOT p.payment_methods ? 'manual' THEN      -- without a list manual is taken
        PERFORM domain.payment_method_check(payment_method, p.payment_methods);
    END IF;
    IF p.short THEN                             -- advice on stock: spares the work below, decides nothing
        PERFORM domain.fail_if_ordered(cart_id, cart_version IS NOT NULL);
        PERFORM domain.fail_short(p.lines);
    END IF;

    IF person IS NOT NULL THEN
        book := domain.address_snapshots(shipping_address_id, billing_address_id);
        shipping_address := coalesce(shipping_address, book.shipping);
        billing_address := coalesce(billing_address, book.billing);
    END IF;

    later := payment_method <> 'manual' AND p.total > 0;

    INSERT INTO shop.orders AS n (
        tenant_id, id, cart_id, number, user_id, guest, email, status, currency, tax_inclusive, subtotal_amount,
        discount_amount, tax_amount, shipping_amount, shipping_discount_amount, total_amount, coupons, shipping_address,
        billing_address, payment_method, note, timeline, events)
    VALUES (
        tenant, order_id, order_place.cart_id, domain.order_number(p.order_secret), person,
        CASE WHEN person IS NULL THEN guest END, email, CASE WHEN later THEN 'pending' ELSE 'confirmed' END, p.currency,
        p.tax_inclusive, p.subtotal, p.discount, p.tax, p.shipping, p.shipping_discount, p.total,
        domain.coupons_shown(p.coupons, p.currency), shipping_address, coalesce(billing_address, shipping_address), payment_method,
        note, ('[{"at":"' || at || '","by":' || coalesce('"' || person || '"', 'null') || ',"status":"pending"}'
         || CASE WHEN later THEN ']' ELSE ',{"at":"' || at || '","by":"payment","status":"confirmed"}]' END)::jsonb,
        CASE WHEN later THEN 0 ELSE 4 END)
        ON CONFLICT ON CONSTRAINT orders_cart DO NOTHING
    RETURNING n.* INTO o;

    IF NOT FOUND THEN
        PERFORM domain.fail_if_ordered(cart_id, cart_version IS NOT NULL);
    END IF;

    INSERT INTO shop.order_item (
        tenant_id, order_id, line, variant_id, product_id, quantity, unit_amount, discount_amount, tax_amount,
        total_amount, sku, name, slug, image)
    SELECT tenant, order_id, l.ordinality, l.variant_id, l.product_id, l.quantity, l.unit_amount, l.discount_amount, l.tax_amount,
           l.line_amount, l.sku, l.name, l.slug, l.image
      FROM unnest(p.lines) WITH ORDINALITY l;

    FOREACH one IN ARRAY p.lines LOOP
        items := concat_ws(',', items, domain.order_item_text(
                     one.variant_id, one.product_id, one.sku, one.name, one.slug, one.image, one.quantity, one.unit_amount,
                     one.discount_amount, one.tax_amount, one.line_amount, money_end));
        bought := concat_ws(',', bought, format('{"product_id":%s,"variant_id":%s,"quantity":%s,"unit_price":%s}',
                                                one.product_id, one.variant_id, one.quantity, one.unit_amount));
        tags := concat_ws(',', tags, format('"product:%s"', one.product_id));
    END LOOP;

    IF later THEN
        call := domain.saga_begin(o, payment_token, return_url, mode, owner, cart_version + 1);
        PERFORM domain.stock_reserve(order_id, order_id, p.lines,
                                     (SELECT s.deadline_at FROM shop.saga s WHERE s.tenant_id = tenant AND s.order_id = o.id));
        IF p.coupons IS NOT NULL THEN
            PERFORM domain.coupons_take(order_id, p.coupons, domain.coupon_customer(email));
        END IF;
        RETURN domain.payment_reply(order_id, ('{"invalidate":[' || tags || ']' || coalesce(',"fetch":' || call::text, '') || '}')::json);
    END IF;

    INSERT INTO shop.payment (tenant_id, order_id, attempt, method, status, amount, currency)
    VALUES (tenant, order_id, 1, payment_method, 'accepted', p.total, p.currency);

    -- Payloads are the words of M1 and M4.  An event's id is the order's with other last digits: a UUIDv7 too, and no other order has it.
    event := left(order_id::text, 34);
    head := '{"order_id":"' || order_id || '","order_number":"' || o.number || '","user_id":'
            || coalesce('"' || person || '"', 'null');
    tail := '"timestamp":"' || at || '"}';
    bought := '"items":[' || bought || '],';
    total := '"total":{"amount":' || p.total || money_end || ',' || tail;

    INSERT INTO event.outbox (tenant_id, event_id, topic, type, aggregate, aggregate_id, aggregate_version, payload,
                              correlation_id, traceparent, shard)
    SELECT tenant, (event || e.digits)::uuid, e.topic, e.type, e.aggregate, e.aggregate_id, e.version, e.payload,
           domain.correlation_id(), domain.traceparent(), domain.shard(e.aggregate_id)
      FROM (VALUES
            ('01', 'order-events', 'OrderCreated', 'order', order_id::text, 1::bigint,
             head || ',"status":"pending",' || bought || total),
            ('02', 'order-events', 'OrderConfirmed', 'order', order_id::text, 2, head || ',"status":"confirmed",' || total),
            ('03', 'order.completed', 'shop.order.completed.v1', 'order', order_id::text, 3, head || ',' || bought || total),
            ('04', 'inventory-events', 'InventoryDeducted', 'order', order_id::text, 4,
             '{"order_id":"' || order_id || '",' || bought || tail),
            ('05', 'cart.updated', 'shop.cart.updated.v1', 'cart', owner, cart_version + 1,
             '{"user_id":' || coalesce('"' || person || '"', 'null')
             || ',"action":"clear","affected_product_id":null,"items":[],' || tail))
           AS e (digits, topic, type, aggregate, aggregate_id, version, payload)
     WHERE e.version IS NOT NULL;

    PERFORM domain.stock_take(order_id, p.lines);
    IF p.coupons IS NOT NULL THEN
        PERFORM domain.coupons_take(order_id, p.coupons, domain.coupon_customer(email));
    END IF;

    RETURN (201,
            domain.order_text(o, items),
            ('{"Location":"/api/v1/orders/' || order_id || '","ETag":"\"1\""}')::json,
            ('{"invalidate":[' || tags || ']}')::json)::api.reply;
END
$$;


-- The state machine: what may follow what.
CREATE OR REPLACE FUNCTION domain.order_may(from_status text, to_status text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT to_status = ANY (CASE from_status
        WHEN 'pending'    THEN '{confirmed,payment_review,cancelled}'::text[]
        WHEN 'payment_review' THEN '{confirmed,cancelled}'
        WHEN 'confirmed'  THEN '{processing,shipped,cancelled}'
        WHEN 'processing' THEN '{shipped,cancelled}'
        WHEN 'shipped'    THEN '{delivered}'
        ELSE '{}' END)
$$;


-- Moves an order that the caller holds locked: status, timeline, version, events.  One that becomes confirmed has its reservation sold;
-- a cancelled one gives back its stock, its coupons and what was paid.  Being there already is no error and changes nothing.
-- by: who moves it when that is not the caller (payment).
CREATE OR REPLACE FUNCTION domain.order_advance(
    o shop.orders, to_status text, note text, by text DEFAULT NULL, OUT moved shop.orders, OUT edge json)
LANGUAGE plpgsql AS $$
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
                          'status', to_status, 'at', domain.ts(now()), 'by', coalesce(order_advance.by, domain.principal()::text),
                          'note', order_advance.note))
     WHERE n.tenant_id = o.tenant_id AND n.id = o.id AND n.status = o.status
    RETURNING n.* INTO STRICT moved;

    IF order_advance.by IS NULL AND domain.has_role('orders.write') AND domain.principal() IS DISTINCT FROM o.user_id THEN
        PERFORM domain.audit('Order' || initcap(to_status), 'order', o.id::text, jsonb_build_object('status', o.status),
                             jsonb_strip_nulls(jsonb_build_object('status', to_status, 'note', order_advance.note)));
    END IF;

    PERFORM domain.order_emit(o.id, 'order-events',
                              CASE to_status WHEN 'payment_review' THEN 'OrderPaymentReview' ELSE 'Order' || initcap(to_status) END,
                              domain.order_payload(o, to_status));

    CASE to_status
    WHEN 'confirmed' THEN
        PERFORM domain.order_settle(o);
    WHEN 'cancelled' THEN
        edge := domain.order_undo(o, coalesce(order_advance.note, 'cancelled'));
    WHEN 'payment_review' THEN
        PERFORM domain.saga_move(o.id, 'review', order_advance.note);
    ELSE
    END CASE;
END
$$;


-- The rest of a confirmation: what was reserved is sold.
CREATE OR REPLACE FUNCTION domain.order_settle(o shop.orders) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    bought  jsonb := domain.order_bought(o);
BEGIN
    PERFORM domain.order_emit(o.id, 'order.completed', 'shop.order.completed.v1',
                              domain.order_payload(o, NULL) - 'status' || jsonb_build_object('items', bought));
    PERFORM domain.order_emit(o.id, 'inventory-events', 'InventoryDeducted', jsonb_build_object(
                                  'order_id', o.id, 'items', bought, 'timestamp', domain.ts(now())));
    IF EXISTS (SELECT FROM shop.saga s WHERE s.tenant_id = o.tenant_id AND s.order_id = o.id) THEN
        PERFORM domain.saga_cart_command(o);
    END IF;
    PERFORM domain.saga_move(o.id, 'completed');
    PERFORM domain.stock_sell(o.id);
END
$$;


-- The rest of a cancellation, P4: payments, stock, coupons.  A cart of which nothing was ever paid may be ordered again.
CREATE OR REPLACE FUNCTION domain.order_undo(o shop.orders, reason text) RETURNS json
LANGUAGE plpgsql AS $$
DECLARE
    variants  bigint[];
BEGIN
    PERFORM domain.payments_undo(o, CASE WHEN o.status = 'pending' THEN reason ELSE 'cancelled' END);
    PERFORM domain.order_emit(o.id, 'inventory-events', 'InventoryReleased', jsonb_build_object(
                                  'order_id', o.id, 'timestamp', domain.ts(now()),
                                  'items', (SELECT jsonb_agg(i - 'unit_price') FROM jsonb_array_elements(domain.order_bought(o)) i)));
    PERFORM domain.saga_move(o.id, 'compensated', reason);

    IF o.status = 'pending' AND NOT EXISTS (SELECT FROM shop.payment y
                                             WHERE y.tenant_id = o.tenant_id AND y.order_id = o.id
                                               AND y.status NOT IN ('failed', 'voided')) THEN
        UPDATE shop.orders n SET cart_id = n.id WHERE n.tenant_id = o.tenant_id AND n.id = o.id;
    END IF;
    PERFORM domain.payment_remember(o.id);

    variants := domain.stock_release(o.id) || domain.stock_return(o.id);
    PERFORM domain.coupons_release(o.id);
    RETURN json_build_object('invalidate', (SELECT coalesce(json_agg(DISTINCT 'product:' || v.product_id), '[]')
                                              FROM shop.variant v
                                             WHERE v.tenant_id = o.tenant_id AND v.id = ANY (variants)));
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


-- A page of somebody's orders, newest first: UUIDv7 sorts by time.
CREATE OR REPLACE FUNCTION domain.order_page(owner uuid, page_limit int, cursor jsonb, wanted text) RETURNS api.reply
LANGUAGE plpgsql STABLE AS $$
DECLARE
    tenant  bigint := domain.tenant_id();
    place   uuid := coalesce((cursor ->> 'id')::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff');
    ids     uuid[];
    list    text;
    n       int;
BEGIN
    -- planned once, unlike domain.page_list(): customers ask for this one
    IF domain.page_back(cursor) THEN
        ids := ARRAY(SELECT o.id FROM shop.orders o
                      WHERE o.tenant_id = tenant AND o.user_id = owner AND o.id > place AND (wanted IS NULL OR o.status = wanted)
                      ORDER BY o.id LIMIT page_limit + 1);
    ELSE
        ids := ARRAY(SELECT o.id FROM shop.orders o
                      WHERE o.tenant_id = tenant AND o.user_id = owner AND o.id < place AND (wanted IS NULL OR o.status = wanted)
                      ORDER BY o.id DESC LIMIT page_limit + 1);
    END IF;
    n := least(cardinality(ids), page_limit);

    SELECT string_agg(domain.order_text(o, domain.order_items(o)), ',' ORDER BY o.id DESC) INTO list
      FROM shop.orders o
     WHERE o.tenant_id = tenant AND o.id = ANY (ids[:n]);

    RETURN (200, '{"data":[' || coalesce(list, '') || ']}', NULL,
            json_build_object('page', domain.page(page_limit, cursor, n, cardinality(ids) > page_limit,
                jsonb_build_object('id', ids[CASE WHEN domain.page_back(cursor) THEN n ELSE 1 END]),
                jsonb_build_object('id', ids[CASE WHEN domain.page_back(cursor) THEN 1 ELSE n END]))))::api.reply;
END
$$;
