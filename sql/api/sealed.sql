-- Sealing anew: rows from before there was a key, and rows under a key that is to be retired. Asked by one worker, after api.maintain().

-- The next fields that are not sealed with the key "kid", of any shop, at most so many rows; and what to call api.sealed_renew() with.
-- keys: the ids of all keys of the edge; another list is a new pass, since it may open what this one could not.
CREATE OR REPLACE FUNCTION api.sealed_stale(kid text, batch int DEFAULT 200, keys text DEFAULT '') RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    tenant  bigint;
    name    text;
    r       shop.sealed_renewal;
    last    uuid;
    seen    int;
    stale   jsonb;
BEGIN
    FOR tenant IN SELECT t.id FROM platform.tenants() t LOOP
        PERFORM set_config('commerce.tenant_id', tenant::text, true);

        FOREACH name IN ARRAY domain.sealed_relations() LOOP
            CONTINUE WHEN EXISTS (SELECT FROM shop.sealed_renewal x
                                   WHERE x.tenant_id = tenant AND x.relation = name
                                     AND NOT domain.sealed_due(x, sealed_stale.kid, sealed_stale.keys));

            INSERT INTO shop.sealed_renewal AS x (tenant_id, relation, kid, keys)
            VALUES (tenant, name, sealed_stale.kid, sealed_stale.keys)
                ON CONFLICT (tenant_id, relation) DO UPDATE
               SET kid = excluded.kid, keys = excluded.keys, after_id = NULL, finished_at = NULL, unopened = 0, updated_at = now(),
                   since = CASE WHEN (x.kid, x.keys) = (excluded.kid, excluded.keys) THEN x.since ELSE now() END
             WHERE (x.kid, x.keys) <> (excluded.kid, excluded.keys) OR x.finished_at IS NOT NULL;

            SELECT * INTO r FROM shop.sealed_renewal x
             WHERE x.tenant_id = tenant AND x.relation = name
               FOR UPDATE SKIP LOCKED;          -- another node is at it
            CONTINUE WHEN NOT FOUND;

            last := r.after_id;
            LOOP
                SELECT count(*), (array_agg(x.id ORDER BY x.id DESC))[1],
                       jsonb_agg(jsonb_build_object('id', x.id, 'owner', x.owner, 'fields', f.list)) FILTER (WHERE f.list IS NOT NULL)
                  INTO seen, last, stale
                  FROM domain.sealed_rows(name, last, batch) x
                 CROSS JOIN LATERAL (
                       SELECT jsonb_agg(e.value) AS list
                         FROM jsonb_array_elements(x.fields) e
                        WHERE e.value ->> 'value' <> '' AND NOT starts_with(e.value ->> 'value', 'v1:' || sealed_stale.kid || ':')) f;

                IF stale IS NOT NULL THEN
                    PERFORM set_config('commerce.tenant_id', '', true);
                    RETURN (200, jsonb_build_object('tenant_id', tenant, 'relation', name, 'kid', sealed_stale.kid,
                                                    'keys', sealed_stale.keys, 'last', last,
                                                    'rows', stale)::text, NULL, NULL)::api.reply;
                END IF;

                UPDATE shop.sealed_renewal x
                   SET after_id = coalesce(last, x.after_id), updated_at = now(), finished_at = CASE WHEN seen < batch THEN now() END
                 WHERE x.tenant_id = tenant AND x.relation = name;
                EXIT WHEN seen < batch;
            END LOOP;
        END LOOP;
    END LOOP;

    PERFORM set_config('commerce.tenant_id', '', true);
    RETURN (200, NULL, NULL, NULL)::api.reply;
END
$$;

-- What the edge has sealed anew: fields with "value" as it was and "sealed" as it is to be; one that was changed meanwhile stays, one
-- without "sealed" could not be opened and is counted. The body is empty when there was none, else {"relation", "renewed", "unopened"}.
CREATE OR REPLACE FUNCTION api.sealed_renew(work jsonb) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    tenant  bigint := (work ->> 'tenant_id')::bigint;
    f       record;
    done    int;
    total   int := 0;
    missed  int;
BEGIN
    PERFORM set_config('commerce.tenant_id', tenant::text, true);

    FOR f IN
        SELECT (r.value ->> 'id')::uuid AS id, e.value ->> 'field' AS field, e.value ->> 'value' AS was, e.value ->> 'sealed' AS sealed
          FROM jsonb_array_elements(work -> 'rows') r
         CROSS JOIN LATERAL jsonb_array_elements(r.value -> 'fields') e
         WHERE e.value ->> 'sealed' IS NOT NULL
         ORDER BY 1
    LOOP
        CASE work ->> 'relation' || '.' || f.field
        WHEN 'shop.app_user.phone' THEN
            UPDATE shop.app_user u SET phone = f.sealed WHERE u.tenant_id = tenant AND u.id = f.id AND u.phone = f.was;
        WHEN 'shop.app_user.date_of_birth' THEN
            UPDATE shop.app_user u SET date_of_birth = f.sealed
             WHERE u.tenant_id = tenant AND u.id = f.id AND u.date_of_birth = f.was;
        WHEN 'shop.address.phone' THEN
            UPDATE shop.address a SET phone = f.sealed WHERE a.tenant_id = tenant AND a.id = f.id AND a.phone = f.was;
        WHEN 'shop.orders.shipping_address.phone' THEN
            UPDATE shop.orders o SET shipping_address = jsonb_set(o.shipping_address, '{phone}', to_jsonb(f.sealed))
             WHERE o.tenant_id = tenant AND o.id = f.id AND o.shipping_address ->> 'phone' = f.was;
        WHEN 'shop.orders.billing_address.phone' THEN
            UPDATE shop.orders o SET billing_address = jsonb_set(o.billing_address, '{phone}', to_jsonb(f.sealed))
             WHERE o.tenant_id = tenant AND o.id = f.id AND o.billing_address ->> 'phone' = f.was;
        WHEN 'shop.totp.secret' THEN
            UPDATE shop.totp t SET secret = f.sealed WHERE t.tenant_id = tenant AND t.user_id = f.id AND t.secret = f.was;
        WHEN 'shop.notification.secret' THEN
            UPDATE shop.notification n SET secret = f.sealed WHERE n.tenant_id = tenant AND n.id = f.id AND n.secret = f.was;
        WHEN 'shop.notification_adapter.secret' THEN
            UPDATE shop.notification_adapter a SET secret = f.sealed WHERE a.tenant_id = tenant AND a.id = f.id AND a.secret = f.was;
        WHEN 'shop.webhook_endpoint.secret' THEN
            UPDATE shop.webhook_endpoint w SET secret = f.sealed WHERE w.tenant_id = tenant AND w.id = f.id AND w.secret = f.was;
        WHEN 'shop.webhook_endpoint.previous_secret' THEN
            UPDATE shop.webhook_endpoint w SET previous_secret = f.sealed
             WHERE w.tenant_id = tenant AND w.id = f.id AND w.previous_secret = f.was;
        WHEN 'shop.payment_secret.secret' THEN
            UPDATE shop.payment_secret s SET secret = f.sealed WHERE s.tenant_id = tenant AND s.id = f.id AND s.secret = f.was;
        END CASE;
        GET DIAGNOSTICS done = ROW_COUNT;
        total := total + done;
    END LOOP;

    SELECT count(*) INTO missed
      FROM jsonb_array_elements(work -> 'rows') r
     CROSS JOIN LATERAL jsonb_array_elements(r.value -> 'fields') e
     WHERE e.value ->> 'sealed' IS NULL;

    UPDATE shop.sealed_renewal x
       SET after_id = (work ->> 'last')::uuid, unopened = x.unopened + missed, updated_at = now()
     WHERE x.tenant_id = tenant AND x.relation = work ->> 'relation' AND x.kid = work ->> 'kid' AND x.keys = work ->> 'keys';

    PERFORM set_config('commerce.tenant_id', '', true);
    RETURN (200, CASE WHEN missed > 0 THEN json_build_object('relation', work ->> 'relation', 'renewed', total, 'unopened', missed)::text END,
            NULL, NULL)::api.reply;
END
$$;
