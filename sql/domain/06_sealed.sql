-- Sealed fields (A13): text that the edge has encrypted. SQL keeps and copies it, and says whose it is.

-- What a reply shows of a sealed field: the edge opens it for this owner, u:<uuid> of a user or g:<hash> of a guest, who must be the
-- owner of the row. What was written before there was a key is answered as it is.
CREATE OR REPLACE FUNCTION domain.sealed(value text, owner text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN value LIKE 'v1:%' THEN value || '@' || coalesce(owner, '') ELSE value END
$$;

-- The same for the phone in an order's copy of an address.
CREATE OR REPLACE FUNCTION domain.sealed_address(address jsonb, owner text) RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN address ->> 'phone' LIKE 'v1:%'
                THEN jsonb_set(address, '{phone}', to_jsonb((address ->> 'phone') || '@' || coalesce(owner, '')))
                ELSE address END
$$;

-- Is there something to do for this kid and these keys? A pass is repeated once, two minutes after the keys came into use: by then
-- the workers of the configuration before have left, who sealed with the key from before (worker_shutdown_timeout is shorter).
-- And after a week, for what a node that lagged behind has written.
CREATE OR REPLACE FUNCTION domain.sealed_due(r shop.sealed_renewal, kid text, keys text) RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT r.kid <> sealed_due.kid OR r.keys <> sealed_due.keys
        OR r.finished_at IS NULL
        OR r.finished_at <= now() - interval '7 days'
        OR (r.finished_at < r.since + interval '2 minutes' AND now() >= r.since + interval '2 minutes')
$$;

-- Tables that keep another key than "kid" from being dropped, with why: what privacy.md asks before it is.
CREATE OR REPLACE FUNCTION domain.sealed_pending(kid text) RETURNS TABLE (tenant_id bigint, relation text, reason text)
LANGUAGE sql STABLE AS $$
    SELECT x.tenant_id, x.relation,
           CASE WHEN x.kid <> sealed_pending.kid THEN format('an edge still seals with "%s"', x.kid)
                WHEN x.finished_at IS NULL THEN 'under way'
                WHEN x.unopened > 0 THEN format('%s fields that none of the keys %s opens', x.unopened, x.keys)
                ELSE 'looked at once, to be looked at again 2 minutes after the reload' END
      FROM shop.sealed_renewal x
     WHERE x.kid <> sealed_pending.kid OR x.finished_at IS NULL OR x.unopened > 0
        OR x.finished_at < x.since + interval '2 minutes'
$$;

-- Tables with sealed fields, for domain.sealed_rows() and api.sealed_renew().
CREATE OR REPLACE FUNCTION domain.sealed_relations() RETURNS text[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT ARRAY['shop.app_user', 'shop.address', 'shop.orders', 'shop.totp', 'shop.notification', 'shop.notification_adapter',
                 'shop.webhook_endpoint', 'shop.payment_secret']
$$;

-- The fields of a table's next rows after the last one looked at, that are not sealed with this key. fields: [{"field", "purpose",
-- "value"}]; field is a column, or column.member of a jsonb.
CREATE OR REPLACE FUNCTION domain.sealed_rows(relation text, after_id uuid, batch int, OUT id uuid, OUT owner text, OUT fields jsonb)
RETURNS SETOF record LANGUAGE plpgsql STABLE AS $$
BEGIN
    CASE relation
    WHEN 'shop.app_user' THEN
        RETURN QUERY
        SELECT u.id, 'u:' || u.id, jsonb_build_array(
                   jsonb_build_object('field', 'phone', 'purpose', 'phone', 'value', u.phone),
                   jsonb_build_object('field', 'date_of_birth', 'purpose', 'date_of_birth', 'value', u.date_of_birth))
          FROM shop.app_user u
         WHERE u.tenant_id = domain.tenant_id() AND (after_id IS NULL OR u.id > after_id)
         ORDER BY u.id LIMIT batch;
    WHEN 'shop.address' THEN
        RETURN QUERY
        SELECT a.id, 'u:' || a.user_id,
               jsonb_build_array(jsonb_build_object('field', 'phone', 'purpose', 'phone', 'value', a.phone))
          FROM shop.address a
         WHERE a.tenant_id = domain.tenant_id() AND (after_id IS NULL OR a.id > after_id)
         ORDER BY a.id LIMIT batch;
    WHEN 'shop.orders' THEN
        RETURN QUERY
        SELECT o.id, coalesce('u:' || o.user_id, o.guest), jsonb_build_array(
                   jsonb_build_object('field', 'shipping_address.phone', 'purpose', 'phone', 'value', o.shipping_address ->> 'phone'),
                   jsonb_build_object('field', 'billing_address.phone', 'purpose', 'phone', 'value', o.billing_address ->> 'phone'))
          FROM shop.orders o
         WHERE o.tenant_id = domain.tenant_id() AND (after_id IS NULL OR o.id > after_id)
         ORDER BY o.id LIMIT batch;
    -- sealed by the native field_encrypt, whose place is "<table> <tenant> <row> <name>": purpose and owner here, with the tenant between
    WHEN 'shop.totp' THEN
        RETURN QUERY
        SELECT t.user_id, t.user_id || ' secret',
               jsonb_build_array(jsonb_build_object('field', 'secret', 'purpose', 'shop.totp', 'value', t.secret))
          FROM shop.totp t
         WHERE t.tenant_id = domain.tenant_id() AND (after_id IS NULL OR t.user_id > after_id)
         ORDER BY t.user_id LIMIT batch;
    WHEN 'shop.notification' THEN
        RETURN QUERY
        SELECT n.id, n.id || ' secret',
               jsonb_build_array(jsonb_build_object('field', 'secret', 'purpose', 'shop.notification', 'value', n.secret))
          FROM shop.notification n
         WHERE n.tenant_id = domain.tenant_id() AND (after_id IS NULL OR n.id > after_id)
         ORDER BY n.id LIMIT batch;
    WHEN 'shop.notification_adapter' THEN
        RETURN QUERY
        SELECT a.id, a.id || ' secret',
               jsonb_build_array(jsonb_build_object('field', 'secret', 'purpose', 'shop.notification_adapter', 'value', a.secret))
          FROM shop.notification_adapter a
         WHERE a.tenant_id = domain.tenant_id() AND (after_id IS NULL OR a.id > after_id)
         ORDER BY a.id LIMIT batch;
    WHEN 'shop.webhook_endpoint' THEN           -- the secret from before is bound to the same place
        RETURN QUERY
        SELECT w.id, w.id || ' secret', jsonb_build_array(
                   jsonb_build_object('field', 'secret', 'purpose', 'shop.webhook_endpoint', 'value', w.secret),
                   jsonb_build_object('field', 'previous_secret', 'purpose', 'shop.webhook_endpoint', 'value', w.previous_secret))
          FROM shop.webhook_endpoint w
         WHERE w.tenant_id = domain.tenant_id() AND (after_id IS NULL OR w.id > after_id)
         ORDER BY w.id LIMIT batch;
    WHEN 'shop.payment_secret' THEN
        RETURN QUERY
        SELECT s.id, s.id || ' ' || s.place,
               jsonb_build_array(jsonb_build_object('field', 'secret', 'purpose', 'shop.payment_secret', 'value', s.secret))
          FROM shop.payment_secret s
         WHERE s.tenant_id = domain.tenant_id() AND (after_id IS NULL OR s.id > after_id)
         ORDER BY s.id LIMIT batch;
    END CASE;
END
$$;
