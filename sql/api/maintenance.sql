-- Housekeeping, asked for by one worker every commerce_maintenance interval.

-- One small round for every shop: idempotency records whose time is over, login attempts that nobody remembers, carts that
-- were abandoned, the outbox's next days. Whoever comes second while it runs (another node) goes home with null. Answers
-- how much was done; "batch" bounds each kind per shop, the rest waits for the next round.
CREATE OR REPLACE FUNCTION api.maintain(batch int DEFAULT 1000) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    tenant      bigint;
    done        int;
    keys        int := 0;
    attempts    int := 0;
    carts       int := 0;
    partitions  int;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('commerce.maintain')) THEN
        RETURN (200, NULL, NULL, NULL)::api.reply;
    END IF;

    partitions := domain.outbox_partitions();

    FOR tenant IN SELECT t.id FROM platform.tenants() t LOOP
        PERFORM set_config('commerce.tenant_id', tenant::text, true);

        DELETE FROM shop.idempotency i
         WHERE i.tenant_id = tenant
           AND (i.scope, i.key) IN (SELECT k.scope, k.key
                                      FROM shop.idempotency k
                                     WHERE k.tenant_id = tenant AND k.expires_at < now()
                                     LIMIT batch
                                       FOR UPDATE SKIP LOCKED);
        GET DIAGNOSTICS done = ROW_COUNT;
        keys := keys + done;

        DELETE FROM shop.login_attempt a
         WHERE a.tenant_id = tenant
           AND a.account IN (SELECT o.account
                               FROM shop.login_attempt o
                              WHERE o.tenant_id = tenant AND o.last_at < now() - interval '1 day'
                              LIMIT batch
                                FOR UPDATE SKIP LOCKED);
        GET DIAGNOSTICS done = ROW_COUNT;
        attempts := attempts + done;

        carts := carts + api.cart_sweep(batch => batch);
    END LOOP;

    PERFORM set_config('commerce.tenant_id', '', true);

    RETURN (200,
            json_build_object('idempotency_keys', keys, 'login_attempts', attempts, 'abandoned_carts', carts,
                              'outbox_partitions', partitions)::text,
            NULL, NULL)::api.reply;
END
$$;
