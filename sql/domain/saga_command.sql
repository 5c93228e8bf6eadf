-- A checkout that a command begins.


-- F8.  The order of the command, as the customer it names; refusals are told, not raised.  One customer and key make one order, that of
-- POST /orders with this key: what is there already is left as it is.
CREATE OR REPLACE FUNCTION domain.saga_initiate(m event.message) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    c         jsonb := m.payload;
    person    uuid := (c ->> 'user_id')::uuid;
    key       text := c ->> 'idempotency_key';
    owner     text := coalesce('u:' || person, 'e:' || encode(sha256(convert_to(lower(coalesce(c ->> 'email', '')), 'UTF8')), 'hex'));
    cart      shop.cart_backup;
    natural_  uuid;
    r         api.reply;
    o         shop.orders;
    told      json;
BEGIN
    IF coalesce(key, '') = '' THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'The command has no idempotency_key.';
    END IF;

    IF person IS NOT NULL THEN
        IF NOT EXISTS (SELECT FROM shop.app_user u WHERE u.tenant_id = m.tenant_id AND u.id = person) THEN
            PERFORM domain.saga_refuse(m, 'not-found', 'There is no such customer.');
            RETURN;
        END IF;
        SELECT * INTO cart FROM shop.cart_backup b
         WHERE b.tenant_id = m.tenant_id AND b.owner = 'u:' || person AND b.cart_id = (c ->> 'cart_id')::uuid;
    END IF;

    -- as api.checkout and api.order_create have it
    natural_ := coalesce(cart.cart_id, md5(coalesce(person::text, owner) || ' ' || key)::uuid);
    IF EXISTS (SELECT FROM shop.orders x WHERE x.tenant_id = m.tenant_id AND x.cart_id = natural_) THEN
        RETURN;
    END IF;

    PERFORM set_config('commerce.principal', coalesce(person::text, ''), true),
            set_config('commerce.roles', 'customer', true), set_config('commerce.idempotency_key', '', true);
    BEGIN
        r := domain.order_place(
            domain.uuid7(), natural_, CASE WHEN cart.cart_id IS NOT NULL THEN cart.version END,
            domain.order_lines(coalesce(c -> 'items', cart.document -> 'items', '[]')), (c ->> 'expected_total')::bigint,
            CASE WHEN person IS NULL THEN owner END, c ->> 'email', nullif(c -> 'shipping_address', 'null'), nullif(c -> 'billing_address', 'null'),
            (c ->> 'shipping_address_id')::uuid, (c ->> 'billing_address_id')::uuid, coalesce(c ->> 'payment_method', 'manual'),
            c ->> 'note', domain.coupon_codes(c -> 'coupon_codes', cart.document -> 'coupons'), c ->> 'payment_token', c ->> 'return_url',
            'events');
    EXCEPTION WHEN others THEN
        IF SQLSTATE NOT LIKE 'SH4%' THEN
            RAISE;
        END IF;
        GET STACKED DIAGNOSTICS told = PG_EXCEPTION_DETAIL;
        PERFORM domain.saga_refuse(m, told ->> 'code', SQLERRM);
    END;
    PERFORM set_config('commerce.principal', '', true), set_config('commerce.roles', '', true);

    -- one that needs no provider has no saga that would tell
    SELECT * INTO o FROM shop.orders x WHERE x.tenant_id = m.tenant_id AND x.cart_id = natural_;
    IF o.status = 'confirmed' THEN
        PERFORM domain.order_emit(o.id, 'checkout.checkout-events', 'checkout.OrderCreated',
                                  domain.order_payload(o, 'confirmed') || jsonb_build_object('items', domain.order_bought(o)));
        PERFORM domain.saga_cart_command(o);
    END IF;
END
$$;


-- Tells whoever sent a command why there is no order.
CREATE OR REPLACE FUNCTION domain.saga_refuse(m event.message, code text, detail text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM domain.emit('checkout.checkout-events', 'checkout.OrderCreationFailed', 'command', m.id::text, jsonb_build_object(
                            'idempotency_key', m.payload ->> 'idempotency_key', 'user_id', m.payload -> 'user_id', 'code', code,
                            'detail', detail, 'timestamp', domain.ts(now())), 1);
END
$$;


CREATE OR REPLACE FUNCTION domain.saga_cart_command(o shop.orders) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM domain.order_emit(o.id, 'checkout.cart-command', 'checkout.ClearCart', jsonb_build_object(
                                  'order_id', o.id, 'user_id', o.user_id, 'cart_id', o.cart_id,
                                  'owner', coalesce('u:' || o.user_id, o.guest), 'timestamp', domain.ts(now())));
END
$$;


-- The stored cart of an order is emptied; the copy in Redis is known by its id to be ordered (domain.cart_ordered).  The customer may have
-- begun another meanwhile, which stays.
CREATE OR REPLACE FUNCTION domain.saga_clear_cart(m event.message) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    c  shop.cart_backup;
BEGIN
    SELECT * INTO c FROM shop.cart_backup b
     WHERE b.tenant_id = m.tenant_id AND b.owner = m.payload ->> 'owner' AND b.cart_id = (m.payload ->> 'cart_id')::uuid
       FOR UPDATE;
    IF FOUND AND c.document -> 'items' <> '[]' THEN
        PERFORM domain.cart_keep(c.owner, domain.cart_empty(c.version, c.document -> 'merged'), 'checkout', NULL);
    END IF;

    PERFORM FROM shop.orders o WHERE o.tenant_id = m.tenant_id AND o.id = (m.payload ->> 'order_id')::uuid FOR UPDATE;
    IF FOUND THEN
        PERFORM domain.order_emit((m.payload ->> 'order_id')::uuid, 'checkout.checkout-events', 'checkout.CartCleared',
                                  m.payload || jsonb_build_object('timestamp', domain.ts(now())));
    ELSE
        PERFORM domain.emit('checkout.checkout-events', 'checkout.CartClearanceFailed', 'command', m.id::text,
                            m.payload || jsonb_build_object('code', 'not-found', 'timestamp', domain.ts(now())), 1);
    END IF;
END
$$;
