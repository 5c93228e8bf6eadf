-- Addresses (J2), wishlist (J3) and interactions (L5) of whoever asks.


-- J2: my addresses, defaults first.
CREATE OR REPLACE FUNCTION api.address_list(type text DEFAULT NULL)
RETURNS api.reply LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
BEGIN
    RETURN (200, json_build_object('data', coalesce(
            (SELECT json_agg(domain.address_json(a) ORDER BY a.is_default DESC, a.id)
               FROM shop.address a
              WHERE a.tenant_id = domain.tenant_id() AND a.user_id = domain.principal() AND a.deleted_at IS NULL
                AND (address_list.type IS NULL OR a.type = address_list.type)), '[]'))::text, NULL, NULL)::api.reply;
END
$$;


-- At most 50 for each customer; the first of a type is its default.
CREATE OR REPLACE FUNCTION api.address_create(
    address_id uuid, type text, name text, line1 text, city text, country text, company text DEFAULT NULL,
    line2 text DEFAULT NULL, region text DEFAULT NULL, postal_code text DEFAULT NULL, phone text DEFAULT NULL,
    is_default boolean DEFAULT NULL)
RETURNS api.reply LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    a      shop.address;
    count  int;
    first  boolean;
BEGIN
    PERFORM domain.account_hold();

    SELECT count(*), coalesce(bool_and(x.type <> address_create.type), true) INTO count, first
      FROM shop.address x
     WHERE x.tenant_id = domain.tenant_id() AND x.user_id = domain.principal() AND x.deleted_at IS NULL;
    IF count >= 50 THEN
        PERFORM domain.fail(409, 'too-many-addresses', 'You have 50 addresses: delete one first.');
    END IF;

    INSERT INTO shop.address AS x (tenant_id, id, user_id, type, name, company, line1, line2, city, region, postal_code, country,
                                   phone)
    VALUES (domain.tenant_id(), address_id, domain.principal(), type, name, company, line1, line2, city, region, postal_code,
            country, phone)
    RETURNING x.* INTO a;

    IF is_default OR first THEN
        a := domain.address_make_default(a);
    END IF;

    RETURN (201, domain.address_json(a)::text,
            json_build_object('Location', '/api/v1/users/addresses/' || a.id, 'ETag', '"' || a.version || '"'), NULL)::api.reply;
END
$$;


CREATE OR REPLACE FUNCTION api.address_get(id uuid)
RETURNS api.reply LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    a  shop.address;
BEGIN
    SELECT * INTO a
      FROM shop.address x
     WHERE x.tenant_id = domain.tenant_id() AND x.id = address_get.id AND x.user_id = domain.principal()
       AND x.deleted_at IS NULL;
    IF NOT FOUND THEN
        PERFORM domain.fail(404, 'not-found', 'You have no such address.');
    END IF;
    RETURN (200, domain.address_json(a)::text, json_build_object('ETag', '"' || a.version || '"'), NULL)::api.reply;
END
$$;


-- Replaces an address whole; its type stays.
CREATE OR REPLACE FUNCTION api.address_put(
    id uuid, name text, line1 text, city text, country text, company text DEFAULT NULL, line2 text DEFAULT NULL,
    region text DEFAULT NULL, postal_code text DEFAULT NULL, phone text DEFAULT NULL, is_default boolean DEFAULT NULL,
    if_match text DEFAULT NULL)
RETURNS api.reply LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    a  shop.address := domain.address_hold(id);
BEGIN
    IF if_match IS NOT NULL THEN
        PERFORM domain.check_version(if_match, a.version);
    END IF;

    UPDATE shop.address x
       SET name = address_put.name, company = address_put.company, line1 = address_put.line1, line2 = address_put.line2,
           city = address_put.city, region = address_put.region, postal_code = address_put.postal_code,
           country = address_put.country, phone = address_put.phone, version = x.version + 1, updated_at = now()
     WHERE x.tenant_id = a.tenant_id AND x.id = a.id
    RETURNING x.* INTO a;

    IF is_default THEN
        a := domain.address_make_default(a);
    END IF;

    RETURN (200, domain.address_json(a)::text, json_build_object('ETag', '"' || a.version || '"'), NULL)::api.reply;
END
$$;


-- A deleted default passes the role to the oldest that is left.
CREATE OR REPLACE FUNCTION api.address_delete(id uuid)
RETURNS api.reply LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    a     shop.address := domain.address_hold(id);
    heir  shop.address;
BEGIN
    UPDATE shop.address x
       SET deleted_at = now(), updated_at = now(), is_default = false, version = x.version + 1
     WHERE x.tenant_id = a.tenant_id AND x.id = a.id;

    IF a.is_default THEN
        SELECT * INTO heir
          FROM shop.address x
         WHERE x.tenant_id = a.tenant_id AND x.user_id = a.user_id AND x.type = a.type AND x.deleted_at IS NULL
         ORDER BY x.id
         LIMIT 1;
        IF FOUND THEN
            PERFORM domain.address_make_default(heir);
        END IF;
    END IF;

    RETURN (204, NULL, NULL, NULL)::api.reply;
END
$$;


CREATE OR REPLACE FUNCTION api.address_default(id uuid)
RETURNS api.reply LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    a  shop.address := domain.address_make_default(domain.address_hold(id));
BEGIN
    RETURN (200, domain.address_json(a)::text, json_build_object('ETag', '"' || a.version || '"'), NULL)::api.reply;
END
$$;


-- J3: my wishlist, newest first: the products as lists show them.  What is not for sale now is left out, and comes back with it.
CREATE OR REPLACE FUNCTION api.wishlist_get()
RETURNS api.reply LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
BEGIN
    RETURN (200, '{"data":[' || array_to_string(domain.product_cards(ARRAY(
                SELECT w.product_id
                  FROM shop.wishlist_item w
                 WHERE w.tenant_id = domain.tenant_id() AND w.user_id = domain.principal()
                 ORDER BY w.created_at DESC, w.product_id DESC)), ',') || ']}', NULL, NULL)::api.reply;
END
$$;


-- At most 500 products; putting one there again is no error.
CREATE OR REPLACE FUNCTION api.wishlist_add(product_id bigint)
RETURNS api.reply LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    PERFORM domain.account_hold();

    IF NOT EXISTS (SELECT FROM shop.product p
                    WHERE p.tenant_id = domain.tenant_id() AND p.id = wishlist_add.product_id AND p.deleted_at IS NULL
                      AND p.status = 'active') THEN
        PERFORM domain.fail(404, 'not-found', 'There is no such product.');
    END IF;
    IF (SELECT count(*) >= 500 FROM shop.wishlist_item w
         WHERE w.tenant_id = domain.tenant_id() AND w.user_id = domain.principal()) THEN
        PERFORM domain.fail(409, 'wishlist-full', 'The wishlist holds 500 products: remove one first.');
    END IF;

    INSERT INTO shop.wishlist_item (tenant_id, user_id, product_id)
    VALUES (domain.tenant_id(), domain.principal(), wishlist_add.product_id)
        ON CONFLICT DO NOTHING;

    RETURN (CASE WHEN FOUND THEN 201 ELSE 200 END, json_build_object('product_id', product_id)::text,
            json_build_object('Location', '/api/v1/wishlist/' || product_id), NULL)::api.reply;
END
$$;


CREATE OR REPLACE FUNCTION api.wishlist_remove(product bigint)
RETURNS api.reply LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    DELETE FROM shop.wishlist_item w
     WHERE w.tenant_id = domain.tenant_id() AND w.user_id = domain.principal() AND w.product_id = wishlist_remove.product;
    IF NOT FOUND THEN
        PERFORM domain.fail(404, 'not-found', 'This product is not on your wishlist.');
    END IF;
    RETURN (204, NULL, NULL, NULL)::api.reply;
END
$$;


-- The event of an interaction of whoever asks.
CREATE OR REPLACE FUNCTION domain.interaction_tell(product bigint, action text, metadata jsonb) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM domain.emit('user.interaction', 'shop.user.interaction.v1', 'product', product::text, jsonb_build_object(
                            'user_id', domain.principal(), 'product_id', product, 'action', action, 'metadata', metadata,
                            'timestamp', domain.ts(now())));
END
$$;


-- L5: somebody looked at a product.  guest: hash of the cart token, so that a visit can be followed before anybody logs in.
CREATE OR REPLACE FUNCTION api.interaction_add(product_id bigint, action text, metadata jsonb DEFAULT NULL, guest text DEFAULT NULL)
RETURNS api.reply LANGUAGE plpgsql SECURITY DEFINER SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    INSERT INTO shop.interaction (tenant_id, user_id, guest, product_id, action, metadata)
    SELECT p.tenant_id, domain.principal(), CASE WHEN domain.principal() IS NULL THEN nullif(interaction_add.guest, '') END,
           p.id, interaction_add.action, interaction_add.metadata
      FROM shop.product p
     WHERE p.tenant_id = domain.tenant_id() AND p.id = interaction_add.product_id AND p.deleted_at IS NULL
       AND p.status = 'active';
    IF NOT FOUND THEN
        PERFORM domain.fail(404, 'not-found', 'There is no such product.');
    END IF;

    PERFORM domain.interaction_tell(product_id, action, metadata);

    RETURN (202, '{"accepted":true}', NULL, NULL)::api.reply;
END
$$;


-- The same for a list of {"product_id", "action", "metadata"}, oldest first, in one transaction.  rejected: the places of those
-- whose product is not there; 404 when none is.
CREATE OR REPLACE FUNCTION api.interactions_add(interactions jsonb, guest text DEFAULT NULL)
RETURNS api.reply LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    tenant    bigint := domain.tenant_id();
    person    uuid := domain.principal();
    one       record;
    accepted  int := 0;
    rejected  int[] := '{}';
BEGIN
    FOR one IN
        SELECT x.n - 1 AS place, p.id AS product, x.i ->> 'action' AS action, x.i -> 'metadata' AS metadata
          FROM jsonb_array_elements(interactions) WITH ORDINALITY AS x (i, n)
          LEFT JOIN shop.product p ON p.tenant_id = tenant AND p.id = (x.i ->> 'product_id')::bigint
               AND p.deleted_at IS NULL AND p.status = 'active'
         ORDER BY x.n
    LOOP
        IF one.product IS NULL THEN
            rejected := rejected || one.place::int;
            CONTINUE;
        END IF;

        INSERT INTO shop.interaction (tenant_id, user_id, guest, product_id, action, metadata)
        VALUES (tenant, person, CASE WHEN person IS NULL THEN nullif(interactions_add.guest, '') END,
                one.product, one.action, one.metadata);

        PERFORM domain.interaction_tell(one.product, one.action, one.metadata);
        accepted := accepted + 1;
    END LOOP;

    IF accepted = 0 THEN
        PERFORM domain.fail(404, 'not-found', 'There are no such products.');
    END IF;

    RETURN (202, json_build_object('accepted', accepted, 'rejected', rejected)::text, NULL, NULL)::api.reply;
END
$$;
