-- Sales reach the reading side in turns: a sale itself writes no list.

-- Brings what lists show of stock up to the sales since the last call, of all shops. A transaction that began before the last call may have
-- committed after it, so each call looks back 30 seconds more, longer than a command may run; what was published already costs a lookup.
-- What was sold out, given back or set by staff needs no call: these publish themselves (domain.stock_changed). Whoever comes second while
-- it runs (another node) goes home with null.
CREATE OR REPLACE FUNCTION api.stock_publish() RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    since    timestamptz;
    sold     record;
    changed  int := 0;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('commerce.stock_publish')) THEN
        RETURN (200, NULL, NULL, NULL)::api.reply;
    END IF;

    SELECT p.until - interval '30 seconds' INTO since FROM domain.progress p WHERE p.job = 'stock_publish';

    PERFORM set_config('commerce.sweep', 'stock', true);
    -- planned for this time: whoever does not know it reads every movement that there ever was
    FOR sold IN EXECUTE
        $text$SELECT m.tenant_id, array_agg(DISTINCT m.variant_id) AS variants
                FROM shop.stock_movement m
               WHERE m.created_at >= $1 AND m.reason IN ('sale', 'reserved')
               GROUP BY m.tenant_id
               ORDER BY m.tenant_id$text$
    USING coalesce(since, now() - interval '1 hour')
    LOOP
        PERFORM set_config('commerce.tenant_id', sold.tenant_id::text, true);
        PERFORM domain.stock_changed(sold.variants);
        changed := changed + cardinality(sold.variants);
    END LOOP;
    PERFORM set_config('commerce.sweep', '', true), set_config('commerce.tenant_id', '', true);

    IF changed > 0 OR since IS NULL OR since < now() - interval '1 minute' THEN
        INSERT INTO domain.progress AS p (job, until) VALUES ('stock_publish', now())
            ON CONFLICT (job) DO UPDATE SET until = excluded.until;
    END IF;

    RETURN (200, json_build_object('variants', changed)::text, NULL, NULL)::api.reply;
END
$$;
