-- Brakes and tokens of identity.

-- A number of the tenant's settings, {"identity": {"reset_ttl": 3600}}, or what applies without: docs/identity.md lists them.
CREATE OR REPLACE FUNCTION domain.identity_setting(name text, fallback bigint) RETURNS bigint
LANGUAGE plpgsql STABLE AS $$
DECLARE
    value  text;
BEGIN
    SELECT t.settings #>> ARRAY['identity', identity_setting.name] INTO value
      FROM shop.tenant t
     WHERE t.id = domain.tenant_id();

    RETURN CASE WHEN value ~ '^[0-9]{1,9}$' THEN value::bigint
                WHEN value = 'true' THEN 1
                WHEN value = 'false' THEN 0
                ELSE fallback END;
END
$$;

CREATE OR REPLACE FUNCTION domain.identity_interval(name text, fallback interval) RETURNS interval
LANGUAGE sql STABLE AS $$
    SELECT make_interval(secs => domain.identity_setting(name, extract(epoch FROM fallback)::bigint))
$$;

-- Where a client is, as far as it is one customer's: an IPv4 address, 64 bits of an IPv6 address. NULL: not a network.
CREATE OR REPLACE FUNCTION domain.client_network(address text) RETURNS inet
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    client  inet := domain.client_address(address);
BEGIN
    RETURN network(set_masklen(client, CASE family(client) WHEN 4 THEN 32 ELSE 64 END));
END
$$;

-- Counts an event under a key and returns how many there were since the window began; it begins anew after a pause of its length.
-- The row is held until the end of the transaction, so parallel events count one after another.
CREATE OR REPLACE FUNCTION domain.throttle(key text, "window" interval) RETURNS shop.throttle
LANGUAGE plpgsql AS $$
DECLARE
    t  shop.throttle;
BEGIN
    INSERT INTO shop.throttle AS x (tenant_id, key)
    VALUES (domain.tenant_id(), sha256(convert_to(throttle.key, 'UTF8')))
    ON CONFLICT ON CONSTRAINT throttle_pkey DO UPDATE
       SET count = CASE WHEN x.last_at < now() - "window" THEN 1
                        WHEN x.blocked_until > now() THEN x.count
                        ELSE x.count + 1 END,
           first_at = CASE WHEN x.last_at < now() - "window" THEN now() ELSE x.first_at END,
           last_at = now()
    RETURNING x.* INTO t;

    RETURN t;
END
$$;

-- May this address get another mail that anybody can cause? Says so for addresses nobody has as well.
CREATE OR REPLACE FUNCTION domain.mail_allowed(email text) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    t  shop.throttle := domain.throttle('mail ' || lower(email), interval '1 hour');
BEGIN
    -- a window of its own: who asks again and again must not be kept out for ever by asking
    IF t.first_at < now() - interval '1 hour' THEN
        UPDATE shop.throttle x
           SET count = 1, first_at = now()
         WHERE x.tenant_id = t.tenant_id AND x.key = t.key;
        RETURN true;
    END IF;

    RETURN t.count <= domain.identity_setting('mails_per_hour', 5);
END
$$;

-- The brake on guessing passwords, counted before the password is looked at and for accounts that do not exist alike. Returns the
-- seconds to wait, or NULL.
--
-- At one network: after ten failures in a row at one account each further one doubles a pause, from 30 seconds to 15 minutes. That is
-- the guesser's own pause: nobody else notices. Over all networks: after a hundred failures one attempt in 30 seconds is let through,
-- but from where this account has logged in before (shop.user_network) all are. Whoever is at a new place while their account is
-- under attack asks for a new password by mail, which makes the place known.
CREATE OR REPLACE FUNCTION domain.login_brake(email text, address text) RETURNS int
LANGUAGE plpgsql AS $$
DECLARE
    tenant     bigint := domain.tenant_id();
    place      inet := domain.client_network(address);
    free       bigint := domain.identity_setting('login_attempts', 10);
    pair       shop.throttle;
    attempt    shop.login_attempt;
    admitted   boolean;
BEGIN
    pair := domain.throttle('login ' || lower(email) || ' ' || coalesce(host(place), 'local'), interval '1 hour');

    IF pair.blocked_until > now() THEN
        RETURN greatest(1, ceil(extract(epoch FROM pair.blocked_until - now())));
    END IF;

    IF pair.count >= free THEN
        UPDATE shop.throttle t
           SET blocked_until = now() + least(interval '15 minutes',
                                             interval '30 seconds' * power(2, least(pair.count - free, 10)))
         WHERE t.tenant_id = tenant AND t.key = pair.key;
    END IF;

    INSERT INTO shop.login_attempt AS a (tenant_id, account)
    VALUES (tenant, domain.login_account(email))
    ON CONFLICT (tenant_id, account) DO UPDATE
       SET attempts = CASE WHEN a.last_at < now() - interval '1 hour' THEN 1 ELSE a.attempts + 1 END,
           admitted_at = CASE WHEN a.attempts < 100 OR a.last_at < now() - interval '1 hour'
                                   OR a.admitted_at < now() - interval '30 seconds'
                              THEN now() ELSE a.admitted_at END,
           last_at = now()
    RETURNING a.* INTO attempt;

    admitted := attempt.admitted_at = now()
                OR EXISTS (SELECT
                             FROM shop.user_network n
                             JOIN shop.app_user u ON u.tenant_id = n.tenant_id AND u.id = n.user_id
                            WHERE u.tenant_id = tenant AND u.email_key = lower(login_brake.email) AND u.deleted_at IS NULL
                              AND n.network = place);

    RETURN CASE WHEN NOT admitted THEN 30 END;
END
$$;

-- Somebody has shown who they are, from there: their failures are forgotten, the place is known.
CREATE OR REPLACE FUNCTION domain.login_proven(u shop.app_user, address text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    place  inet := domain.client_network(address);
BEGIN
    -- in the order in which domain.login_brake() takes them
    DELETE FROM shop.throttle t
     WHERE t.tenant_id = u.tenant_id
       AND t.key = sha256(convert_to('login ' || lower(u.email) || ' ' || coalesce(host(place), 'local'), 'UTF8'));

    DELETE FROM shop.login_attempt a
     WHERE a.tenant_id = u.tenant_id AND a.account = domain.login_account(u.email);

    IF place IS NOT NULL THEN
        INSERT INTO shop.user_network AS n (tenant_id, user_id, network)
        VALUES (u.tenant_id, u.id, place)
        ON CONFLICT (tenant_id, user_id, network) DO UPDATE
           SET last_at = now();
    END IF;
END
$$;

-- Takes a token of this purpose, once; 422 when it was taken, is over or never was.
CREATE OR REPLACE FUNCTION domain.user_token_take(token_hash text, purpose text) RETURNS shop.user_token
LANGUAGE plpgsql AS $$
DECLARE
    t  shop.user_token;
BEGIN
    DELETE FROM shop.user_token x
     WHERE x.tenant_id = domain.tenant_id()
       AND x.hash = decode(token_hash, 'hex')
       AND x.purpose = user_token_take.purpose
       AND x.expires_at > now()
    RETURNING x.* INTO t;

    IF NOT FOUND THEN
        PERFORM domain.user_token_refused();
    END IF;

    RETURN t;
END
$$;

CREATE OR REPLACE FUNCTION domain.user_token_refused() RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM domain.fail(422, 'token-invalid', 'This link is not valid any more: it was used, or its time is over. Ask for a new one.');
END
$$;

CREATE OR REPLACE FUNCTION domain.user_token_put(token_hash text, user_id uuid, purpose text, payload jsonb,
                                                 expires_at timestamptz) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO shop.user_token (tenant_id, hash, user_id, purpose, payload, created_by, expires_at)
    VALUES (domain.tenant_id(), decode(token_hash, 'hex'), user_token_put.user_id, user_token_put.purpose,
            coalesce(user_token_put.payload, '{}'), domain.principal(), user_token_put.expires_at);
END
$$;

-- Ends sessions of a user, all but "keep": their refresh tokens and their access tokens are void. edge belongs into the reply. Order of
-- locks: user, session, refresh token.
CREATE OR REPLACE FUNCTION domain.sessions_end(p_user_id uuid, keep uuid DEFAULT NULL, OUT ended int, OUT edge jsonb)
LANGUAGE plpgsql AS $$
DECLARE
    tenant  bigint := domain.tenant_id();
    ids     uuid[];
BEGIN
    PERFORM FROM shop.session s
      WHERE s.tenant_id = tenant AND s.user_id = p_user_id AND s.revoked_at IS NULL
      ORDER BY s.id
        FOR UPDATE;

    WITH done AS (
        UPDATE shop.session s
           SET revoked_at = now()
         WHERE s.tenant_id = tenant AND s.user_id = p_user_id AND s.revoked_at IS NULL AND s.id IS DISTINCT FROM keep
        RETURNING s.id
    )
    SELECT coalesce(array_agg(d.id), '{}') INTO ids FROM done d;

    UPDATE shop.refresh_token r
       SET revoked_at = now()
     WHERE r.tenant_id = tenant AND r.session_id = ANY (ids) AND r.revoked_at IS NULL;

    ended := cardinality(ids);
    edge := domain.revoke_user(p_user_id, keep, ids);
END
$$;

-- Ends one session, whoever's it is; NULL when it had ended before.
CREATE OR REPLACE FUNCTION domain.session_end(p_session_id uuid) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
    tenant  bigint := domain.tenant_id();
BEGIN
    UPDATE shop.session s
       SET revoked_at = now()
     WHERE s.tenant_id = tenant AND s.id = p_session_id AND s.revoked_at IS NULL;

    IF NOT FOUND THEN
        RETURN NULL;
    END IF;

    UPDATE shop.refresh_token r
       SET revoked_at = now()
     WHERE r.tenant_id = tenant AND r.session_id = p_session_id AND r.revoked_at IS NULL;

    RETURN domain.revoke_sessions(ARRAY[p_session_id]);
END
$$;

-- What is over, of one tenant, at most so many of each kind; true when nothing is left over. The lifetimes are the tenant's settings.
CREATE OR REPLACE FUNCTION domain.identity_sweep(batch int, OUT removed int, OUT finished boolean)
LANGUAGE plpgsql AS $$
DECLARE
    tenant   bigint := domain.tenant_id();
    expired  timestamptz := now() - domain.identity_interval('refresh_keep_expired', interval '24 hours');
    revoked  timestamptz := now() - domain.identity_interval('refresh_keep_revoked', interval '30 days');
    told     timestamptz := now() - domain.identity_interval('notification_keep', interval '30 days');
    done     int;
BEGIN
    removed := 0;
    finished := true;

    DELETE FROM shop.refresh_token r
     WHERE r.tenant_id = tenant
       AND r.hash IN (SELECT o.hash
                        FROM shop.refresh_token o
                       WHERE o.tenant_id = tenant AND (o.expires_at < expired OR o.revoked_at < revoked)
                       LIMIT batch
                         FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS done = ROW_COUNT;
    removed := removed + done;
    finished := finished AND done < batch;

    DELETE FROM shop.session s
     WHERE s.tenant_id = tenant
       AND s.id IN (SELECT o.id
                      FROM shop.session o
                     WHERE o.tenant_id = tenant AND (o.last_used_at < expired OR o.revoked_at < revoked)
                       AND NOT EXISTS (SELECT FROM shop.refresh_token r WHERE r.tenant_id = tenant AND r.session_id = o.id)
                     LIMIT batch
                       FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS done = ROW_COUNT;
    removed := removed + done;
    finished := finished AND done < batch;

    DELETE FROM shop.user_token t
     WHERE t.tenant_id = tenant
       AND t.hash IN (SELECT o.hash
                        FROM shop.user_token o
                       WHERE o.tenant_id = tenant AND o.expires_at < now()
                       LIMIT batch
                         FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS done = ROW_COUNT;
    removed := removed + done;
    finished := finished AND done < batch;

    -- a secret does not outlive its use
    UPDATE shop.notification n
       SET secret = NULL
     WHERE n.tenant_id = tenant AND n.secret IS NOT NULL AND (n.sent_at IS NOT NULL OR n.expires_at < now());

    DELETE FROM shop.notification n
     WHERE n.tenant_id = tenant
       AND n.id IN (SELECT o.id
                      FROM shop.notification o
                     WHERE o.tenant_id = tenant AND o.created_at < told AND (o.sent_at IS NOT NULL OR o.expires_at < now())
                     LIMIT batch
                       FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS done = ROW_COUNT;
    removed := removed + done;
    finished := finished AND done < batch;

    DELETE FROM shop.throttle t
     WHERE t.tenant_id = tenant
       AND t.key IN (SELECT o.key
                       FROM shop.throttle o
                      WHERE o.tenant_id = tenant AND o.last_at < now() - interval '1 day'
                      LIMIT batch
                        FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS done = ROW_COUNT;
    removed := removed + done;
    finished := finished AND done < batch;

    DELETE FROM shop.user_network n
     WHERE n.tenant_id = tenant
       AND (n.user_id, n.network) IN (SELECT o.user_id, o.network
                                        FROM shop.user_network o
                                       WHERE o.tenant_id = tenant AND o.last_at < now() - interval '90 days'
                                       LIMIT batch
                                         FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS done = ROW_COUNT;
    removed := removed + done;
    finished := finished AND done < batch;
END
$$;

-- Is it so long ago that this job came to its end, in this shop?
CREATE OR REPLACE FUNCTION domain.housekeeping_due(p_job text, pause interval) RETURNS boolean
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN NOT EXISTS (SELECT FROM shop.housekeeping h
                        WHERE h.tenant_id = domain.tenant_id() AND h.job = p_job AND h.ran_at > now() - pause);
END
$$;

CREATE OR REPLACE FUNCTION domain.housekeeping_done(p_job text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO shop.housekeeping AS h (tenant_id, job, ran_at)
    VALUES (domain.tenant_id(), p_job, now())
    ON CONFLICT (tenant_id, job) DO UPDATE
       SET ran_at = excluded.ran_at;
END
$$;
