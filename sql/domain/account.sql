-- Addresses and wishlists of customers.


CREATE OR REPLACE FUNCTION domain.address_json(a shop.address) RETURNS json
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN json_build_object(
        'id', a.id, 'type', a.type, 'is_default', a.is_default, 'name', a.name, 'company', a.company, 'line1', a.line1,
        'line2', a.line2, 'city', a.city, 'region', a.region, 'postal_code', a.postal_code, 'country', a.country,
        'phone', domain.sealed(a.phone, 'u:' || a.user_id), 'version', a.version, 'created_at', domain.ts(a.created_at), 'updated_at', domain.ts(a.updated_at));
END
$$;


-- The customer's own address, locked for a change; 404 when it is not theirs.  All changes of somebody's addresses take turns at the
-- user's row, so that two of them cannot both become the default.
CREATE OR REPLACE FUNCTION domain.address_hold(id uuid) RETURNS shop.address
LANGUAGE plpgsql AS $$
DECLARE
    a  shop.address;
BEGIN
    PERFORM domain.account_hold();

    SELECT * INTO a
      FROM shop.address x
     WHERE x.tenant_id = domain.tenant_id() AND x.id = address_hold.id AND x.user_id = domain.principal()
       AND x.deleted_at IS NULL;
    IF NOT FOUND THEN
        PERFORM domain.fail(404, 'not-found', 'You have no such address.');
    END IF;
    RETURN a;
END
$$;


-- Takes the user's row until the end of the transaction; 401 when the account is gone.
CREATE OR REPLACE FUNCTION domain.account_hold() RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM shop.app_user u
      WHERE u.tenant_id = domain.tenant_id() AND u.id = domain.principal() AND u.deleted_at IS NULL
        FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        PERFORM domain.fail(401, 'not-authenticated', 'This account is not active any more.');
    END IF;
END
$$;


-- What a guest looked at and thought of it is from now on the customer's, as the cart is: the last 1,000 interactions and as much feedback,
-- of which another login at the same moment may take a part. Orders stay the guest's: whoever has a cart's token has not proven
-- to have bought anything. All edges are told, as of a new event of the customer's. The caller holds the customer's row. guest: as the
-- module names a guest's cart, not empty. Returns whether there was any.
CREATE OR REPLACE FUNCTION domain.history_adopt(person uuid, guest text) RETURNS boolean
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    tenant  bigint := domain.tenant_id();
    last    record;
BEGIN
    WITH seen AS (
        UPDATE shop.interaction i
           SET user_id = person, guest = NULL
          FROM (SELECT x.id FROM shop.interaction x
                 WHERE x.tenant_id = tenant AND x.user_id IS NULL AND x.guest = history_adopt.guest
                 ORDER BY x.id DESC LIMIT 1000
                   FOR UPDATE SKIP LOCKED) x
         WHERE i.tenant_id = tenant AND i.id = x.id
        RETURNING i.product_id, i.created_at
    ), told AS (
        UPDATE shop.recommendation_feedback f
           SET user_id = person, guest = NULL
          FROM (SELECT x.id FROM shop.recommendation_feedback x
                 WHERE x.tenant_id = tenant AND x.user_id IS NULL AND x.guest = history_adopt.guest
                 ORDER BY x.id DESC LIMIT 1000
                   FOR UPDATE SKIP LOCKED) x
         WHERE f.tenant_id = tenant AND f.id = x.id
        RETURNING f.product_id, f.created_at
    )
    SELECT * INTO last FROM (SELECT * FROM seen UNION ALL SELECT * FROM told) x ORDER BY created_at DESC LIMIT 1;

    IF NOT FOUND THEN
        RETURN false;
    END IF;

    PERFORM domain.recent_tell(tenant, 'u:' || person, last.product_id, last.created_at);

    RETURN true;
END
$$;


-- Tells all edges what somebody did: those that do not know of it ask again. Without a product something was taken back, which an edge
-- cannot leave out of what it knows: it forgets that customer. owner: 'u:' and the user's id, or a guest as the module names his cart;
-- product: 0 when it is none.
CREATE OR REPLACE FUNCTION domain.recent_tell(tenant bigint, owner text, product bigint DEFAULT NULL, at timestamptz DEFAULT NULL)
RETURNS void
LANGUAGE sql AS $$
    SELECT pg_notify('commerce_recent', concat_ws(' ', tenant || ':' || owner, product, (extract(epoch FROM at) * 1000)::bigint))
$$;


-- Makes an address the only default of its type.
CREATE OR REPLACE FUNCTION domain.address_make_default(a shop.address) RETURNS shop.address
LANGUAGE plpgsql AS $$
DECLARE
    changed  shop.address;
BEGIN
    UPDATE shop.address x
       SET is_default = false, version = x.version + 1, updated_at = now()
     WHERE x.tenant_id = a.tenant_id AND x.user_id = a.user_id AND x.type = a.type AND x.is_default AND x.deleted_at IS NULL
       AND x.id <> a.id;

    UPDATE shop.address x
       SET is_default = true, version = x.version + 1, updated_at = now()
     WHERE x.tenant_id = a.tenant_id AND x.id = a.id AND NOT x.is_default
    RETURNING x.* INTO changed;

    RETURN CASE WHEN FOUND THEN changed ELSE a END;
END
$$;
