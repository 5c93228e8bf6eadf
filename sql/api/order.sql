-- Checkout and orders (F1 to F5).


-- F1: the cart becomes an order.  order_id is the edge's; cart_id, cart_version, lines and coupons are what Redis holds; coupon_codes are
-- said with the request, besides.
CREATE OR REPLACE FUNCTION api.checkout(
    order_id uuid, cart_id uuid, cart_version bigint, lines jsonb, guest text, expected_total bigint, email text,
    shipping_address jsonb, billing_address jsonb, shipping_address_id uuid, billing_address_id uuid,
    payment_method text DEFAULT 'manual', note text DEFAULT NULL, coupons jsonb DEFAULT NULL, coupon_codes jsonb DEFAULT NULL,
    payment_token text DEFAULT NULL, return_url text DEFAULT NULL)
RETURNS api.reply LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    codes  text[];
BEGIN
    IF coupons <> '[]' OR coupon_codes <> '[]' THEN
        codes := domain.coupon_codes(coupons, coupon_codes);
    END IF;

    IF cart_id IS NULL OR jsonb_array_length(lines) = 0 THEN
        PERFORM domain.fail(422, 'cart-empty', 'There is nothing in the cart.');
    END IF;

    RETURN domain.order_place(order_id, cart_id, coalesce(cart_version, 0), lines, expected_total, guest, email, shipping_address,
                              billing_address, shipping_address_id, billing_address_id, coalesce(payment_method, 'manual'), note,
                              codes, payment_token, return_url);
END
$$;


-- F2: an order of the lines given.  Its natural key is made of who asks and the Idempotency-Key, so that one key makes one order
-- even after the record of the key has expired.
CREATE OR REPLACE FUNCTION api.order_create(
    order_id uuid, items jsonb, guest text, expected_total bigint, email text,
    shipping_address jsonb, billing_address jsonb, shipping_address_id uuid, billing_address_id uuid,
    payment_method text DEFAULT 'manual', note text DEFAULT NULL, coupon_codes jsonb DEFAULT NULL,
    payment_token text DEFAULT NULL, return_url text DEFAULT NULL)
RETURNS api.reply LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    key  text := nullif(current_setting('commerce.idempotency_key', true), '');
BEGIN
    IF key IS NULL THEN
        PERFORM domain.fail(400, 'idempotency-key-missing', 'Send an Idempotency-Key.');
    END IF;

    RETURN domain.order_place(order_id, md5(coalesce(domain.principal()::text, guest, '') || ' ' || key)::uuid, NULL,
                              domain.order_lines(items), expected_total, guest, email, shipping_address, billing_address,
                              shipping_address_id, billing_address_id, coalesce(payment_method, 'manual'), note,
                              CASE WHEN coupon_codes <> '[]' THEN domain.coupon_codes(coupon_codes) END, payment_token, return_url);
END
$$;


CREATE OR REPLACE FUNCTION api.order_get(id uuid, guest text DEFAULT NULL)
RETURNS api.reply LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    o  shop.orders;
BEGIN
    SELECT * INTO o FROM shop.orders x WHERE x.tenant_id = domain.tenant_id() AND x.id = order_get.id;

    IF NOT domain.order_visible(o, guest, 'orders.read') THEN
        PERFORM domain.fail(404, 'not-found', 'There is no such order.');
    END IF;

    RETURN (200, domain.order_text(o, domain.order_items(o)), json_build_object('ETag', '"' || o.version || '"'),
            NULL)::api.reply;
END
$$;


-- F3: my orders, newest first.
CREATE OR REPLACE FUNCTION api.order_list("limit" int DEFAULT 20, cursor jsonb DEFAULT NULL, status text DEFAULT NULL)
RETURNS api.reply LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
BEGIN
    RETURN domain.order_page(domain.principal(), "limit", cursor, status);
END
$$;


-- F3: a customer's orders, for staff.
CREATE OR REPLACE FUNCTION api.orders_of_user(
    user_id uuid, "limit" int DEFAULT 20, cursor jsonb DEFAULT NULL, status text DEFAULT NULL)
RETURNS api.reply LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM shop.app_user u WHERE u.tenant_id = domain.tenant_id() AND u.id = orders_of_user.user_id) THEN
        PERFORM domain.fail(404, 'not-found', 'There is no such customer.');
    END IF;

    RETURN domain.order_page(user_id, "limit", cursor, status);
END
$$;


-- F4: cancels and gives the stock back.  Cancelling again answers the same and does nothing.
CREATE OR REPLACE FUNCTION api.order_cancel(id uuid, guest text DEFAULT NULL, reason text DEFAULT NULL)
RETURNS api.reply LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    o     shop.orders;
    done  record;
BEGIN
    SELECT * INTO o FROM shop.orders x WHERE x.tenant_id = domain.tenant_id() AND x.id = order_cancel.id FOR UPDATE;

    IF NOT domain.order_visible(o, guest, 'orders.write') THEN
        PERFORM domain.fail(404, 'not-found', 'There is no such order.');
    END IF;

    done := domain.order_advance(o, 'cancelled', reason);
    o := done.moved;
    RETURN (200, domain.order_text(o, domain.order_items(o)), json_build_object('ETag', '"' || o.version || '"'),
            done.edge)::api.reply;
END
$$;


-- F5: staff moves an order on.  if_match: the version that staff has seen, or NULL.
CREATE OR REPLACE FUNCTION api.order_status_put(id uuid, status text, note text DEFAULT NULL, if_match text DEFAULT NULL)
RETURNS api.reply LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    o     shop.orders;
    done  record;
BEGIN
    SELECT * INTO o FROM shop.orders x WHERE x.tenant_id = domain.tenant_id() AND x.id = order_status_put.id FOR UPDATE;

    IF NOT FOUND THEN
        PERFORM domain.fail(404, 'not-found', 'There is no such order.');
    END IF;
    IF if_match IS NOT NULL THEN
        PERFORM domain.check_version(if_match, o.version);
    END IF;

    IF status = 'payment_review' AND o.status <> status THEN
        PERFORM domain.fail(409, 'order-status-conflict', 'Only a payment that is not what is due brings an order there.',
                            jsonb_build_object('order_status', o.status));
    END IF;

    done := domain.order_advance(o, status, note);
    o := done.moved;
    RETURN (200, domain.order_text(o, domain.order_items(o)), json_build_object('ETag', '"' || o.version || '"'),
            done.edge)::api.reply;
END
$$;
