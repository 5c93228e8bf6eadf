-- Housekeeping, asked for by one worker every commerce_maintenance interval. What is to be done is a list: a job is one line of it.

-- The jobs: name in the answer, expression that does a piece of it and answers how much (batch: $1), and when: once a round before
-- the shops (0), for each shop in its context (1), once after them (2).
CREATE OR REPLACE FUNCTION domain.maintenance_plan() RETURNS TABLE (name text, work text, stage int)
LANGUAGE sql IMMUTABLE AS $$
    VALUES ('partitions',        'domain.outbox_partitions() + audit.partitions()', 0),
           ('outbox_days',       'domain.outbox_drop()',                           0),
           ('inbox',             'domain.inbox_sweep($1)',                         1),
           ('idempotency_keys',  'domain.idempotency_sweep($1)',                    1),
           ('login_attempts',    'domain.login_attempt_sweep($1)',                  1),
           ('abandoned_carts',   'api.cart_sweep(batch => $1)',                     1),
           ('identity',          'domain.identity_tidy($1)',                        1),
           ('webhooks',          'domain.webhooks_forget($1)',                     1),
           ('erased_again',      'domain.erasures_repeat()',                        1),
           -- a shop that is erased is not among those of 1 any more
           ('erased_tenants',    'domain.erase_due($1 * 10)',                       2)
$$;

-- Answers of idempotent commands whose time is over.
CREATE OR REPLACE FUNCTION domain.idempotency_sweep(batch int) RETURNS int
LANGUAGE plpgsql AS $$
DECLARE
    tenant  bigint := domain.tenant_id();
    done    int;
BEGIN
    DELETE FROM shop.idempotency i
     WHERE i.tenant_id = tenant
       AND (i.scope, i.key) IN (SELECT k.scope, k.key
                                  FROM shop.idempotency k
                                 WHERE k.tenant_id = tenant AND k.expires_at < now()
                                 LIMIT batch
                                   FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS done = ROW_COUNT;
    RETURN done;
END
$$;

-- Login attempts that nobody remembers.
CREATE OR REPLACE FUNCTION domain.login_attempt_sweep(batch int) RETURNS int
LANGUAGE plpgsql AS $$
DECLARE
    tenant  bigint := domain.tenant_id();
    done    int;
BEGIN
    DELETE FROM shop.login_attempt a
     WHERE a.tenant_id = tenant
       AND a.account IN (SELECT o.account
                           FROM shop.login_attempt o
                          WHERE o.tenant_id = tenant AND o.last_at < now() - interval '1 day'
                          LIMIT batch
                            FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS done = ROW_COUNT;
    RETURN done;
END
$$;

-- Tokens, sessions and mails of identity that are over: each hour, or as the shop's settings say.
CREATE OR REPLACE FUNCTION domain.identity_tidy(batch int) RETURNS int
LANGUAGE plpgsql AS $$
DECLARE
    swept  record;
BEGIN
    IF NOT domain.housekeeping_due('identity', domain.identity_interval('cleanup_interval', interval '1 hour')) THEN
        RETURN 0;
    END IF;

    SELECT * INTO swept FROM domain.identity_sweep(batch);
    IF swept.finished THEN
        PERFORM domain.housekeeping_done('identity');
    END IF;
    RETURN swept.removed;
END
$$;

-- One job, for one shop (0: for all). A job that fails is undone by itself and named in "failed": its first fault, and how often.
CREATE OR REPLACE FUNCTION domain.maintenance_work(name text, work text, shop bigint, batch int, INOUT round jsonb, OUT done int)
LANGUAGE plpgsql AS $$
DECLARE
    before  jsonb := round -> 'failed' -> name;
BEGIN
    PERFORM set_config('commerce.tenant_id', CASE WHEN shop > 0 THEN shop::text ELSE '' END, true);
    EXECUTE 'SELECT ' || work INTO done USING batch;
    round := jsonb_set(round, ARRAY['counts', name], to_jsonb((round -> 'counts' ->> name)::bigint + done));
-- statement_timeout, too: a shop that takes too long must not keep the others waiting for ever
EXCEPTION WHEN query_canceled OR OTHERS THEN
    done := 0;
    round := jsonb_set(round, ARRAY['failed', name],
                       coalesce(before, jsonb_build_object('job', name, 'tenant_id', nullif(shop, 0), 'sqlstate', SQLSTATE, 'message', SQLERRM))
                       || jsonb_build_object('times', coalesce((before ->> 'times')::int, 0) + 1));
END
$$;

-- A round: a small piece of each job, in every shop. Whoever comes second while it runs (another node) goes home with null.
-- "batch" bounds each kind per shop, the rest waits for the next round.
--
-- A call is a part of a round: it ends after about "most", and when a shop in which something was done gives way to the next, so that
-- no transaction is long and none holds locks in two shops. It says "more": true then, and where the round stands is in domain.progress.
-- Answers how much was done of each job in the round so far; at its end with what failed, and then the status is 500, which the edge logs.
CREATE OR REPLACE FUNCTION api.maintain(batch int DEFAULT 1000, most interval DEFAULT interval '500 ms') RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
<<here>>
DECLARE
    page    constant int := 100;
    began   timestamptz := clock_timestamp();
    round   jsonb;
    unit    record;
    shops   bigint[];
    many    int;
    last    bigint;
    stage   int;
    shop    bigint;
    job     bigint;
    done    int;
    busy    boolean := false;
    more    boolean := false;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('commerce.maintain')) THEN
        RETURN (200, NULL, NULL, NULL)::api.reply;
    END IF;

    SELECT p.state INTO round FROM domain.progress p WHERE p.job = 'maintain';
    round := coalesce(round, jsonb_build_object('stage', 0, 'shop', 0, 'job', 0, 'failed', '{}'::jsonb, 'counts',
                                                (SELECT jsonb_object_agg(j.name, 0) FROM domain.maintenance_plan() j)));
    -- what was done last
    stage := round ->> 'stage';
    shop := round ->> 'shop';
    job := round ->> 'job';

    -- those that are deleted are counted, so that a page full of them is no end
    SELECT array_agg(t.id) FILTER (WHERE t.status <> 'deleted' AND t.deleted_at IS NULL), count(*), max(t.id)
      INTO shops, many, last
      FROM platform.tenant_page(greatest(shop - 1, 0), page, NULL, NULL) t;

    FOR unit IN
        SELECT u.*
          FROM (SELECT j.stage, coalesce(s.id, 0) AS shop, j.number, j.name, j.work
                  FROM ROWS FROM (domain.maintenance_plan()) WITH ORDINALITY AS j(name, work, stage, number)
                  LEFT JOIN unnest(shops) s(id) ON j.stage = 1
                 WHERE (j.stage <> 1 OR s.id IS NOT NULL)
                   AND (j.stage < 2 OR many < page)) u
         WHERE (u.stage, u.shop, u.number) > (here.stage, here.shop, here.job)
         ORDER BY u.stage, u.shop, u.number
    LOOP
        -- one at least, however late it is
        more := done IS NOT NULL
                AND (clock_timestamp() - began > most OR (busy AND (unit.stage, unit.shop) <> (here.stage, here.shop)));
        EXIT WHEN more;

        SELECT w.round, w.done INTO round, done FROM domain.maintenance_work(unit.name, unit.work, unit.shop, batch, round) w;
        busy := busy OR done > 0;
        stage := unit.stage;
        shop := unit.shop;
        job := unit.number;
    END LOOP;

    IF NOT more AND many = page THEN
        more := true;
        stage := 1;
        shop := last;
        job := 1000;
    END IF;

    PERFORM set_config('commerce.tenant_id', '', true);

    INSERT INTO domain.progress AS p (job, until, state)
    VALUES ('maintain', now(),
            CASE WHEN more THEN round || jsonb_build_object('stage', stage, 'shop', shop, 'job', here.job) END)
    ON CONFLICT ON CONSTRAINT progress_pkey DO UPDATE
       SET until = excluded.until, state = excluded.state;

    IF more THEN
        RETURN (200, (round -> 'counts' || '{"more": true}')::text, NULL, NULL)::api.reply;
    END IF;
    IF round -> 'failed' <> '{}' THEN
        RETURN (500, (round -> 'counts' || jsonb_build_object('failed', (SELECT jsonb_agg(f.value) FROM jsonb_each(round -> 'failed') f)))::text,
                NULL, NULL)::api.reply;
    END IF;
    RETURN (200, (round -> 'counts')::text, NULL, NULL)::api.reply;
END
$$;
