-- Personal data (A26): where it lies, what an export shows of it, what an erasure does to it.

-- One row for each table with something that leads to a person. t/test_gdpr.py fails when a table with such a column is missing here.
--   match    which rows t are the user's: $1 the user's id, $2 the tenant's
--   export   expression that a row is shown as; NULL: not shown, "why" says the reason
--   erase    delete, keep (why), or what is SET to make it nobody's
-- In the order of an erasure: what others are found by comes last.
CREATE OR REPLACE FUNCTION domain.personal_data(OUT relation text, OUT match text, OUT export text, OUT erase text, OUT why text)
RETURNS SETOF record LANGUAGE sql IMMUTABLE AS $$
    VALUES
    ('shop.idempotency', 't.scope LIKE ''u:'' || $1 || '' %''', NULL, 'delete', 'copies of answers that other tables hold'),
    ('shop.interaction', 't.user_id = $1', 'to_jsonb(t) - ''{tenant_id,user_id}''::text[]', 'delete', NULL),
    ('shop.recommendation_feedback', 't.user_id = $1', 'to_jsonb(t) - ''{tenant_id,user_id,guest}''::text[]', 'delete', NULL),
    ('shop.wishlist_item', 't.user_id = $1', 'to_jsonb(t) - ''{tenant_id,user_id}''::text[]', 'delete', NULL),
    ('shop.address', 't.user_id = $1', 'to_jsonb(t) - ''{tenant_id,user_id}''::text[] || jsonb_build_object(
         ''phone'', domain.sealed(t.phone, ''u:'' || t.user_id))', 'delete', NULL),
    ('shop.cart_backup', 't.owner = ''u:'' || $1', 'to_jsonb(t) - ''{tenant_id,owner,redis_stale}''::text[]', 'delete', NULL),
    ('shop.personality_event', 't.user_id = $1', 'to_jsonb(t) - ''{tenant_id,user_id}''::text[]', 'delete', NULL),
    ('shop.personality_consent', 't.user_id = $1', 'to_jsonb(t) - ''{tenant_id,user_id}''::text[]', 'delete', NULL),
    ('shop.review', 't.user_id = $1', 'to_jsonb(t) - ''{tenant_id,user_id}''::text[]',
         'user_id = NULL, author_name = NULL, author_email = NULL, version = t.version + 1, updated_at = now()', 'the rating stays, nobody''s'),
    ('shop.order_item', 't.order_id IN (SELECT o.id FROM shop.orders o WHERE o.tenant_id = $2 AND o.user_id = $1)',
         'to_jsonb(t) - ''{tenant_id}''::text[]', 'keep', 'the books must stand; nothing personal'),
    ('shop.payment', 't.order_id IN (SELECT o.id FROM shop.orders o WHERE o.tenant_id = $2 AND o.user_id = $1)',
         'to_jsonb(t) - ''{tenant_id,token,action}''::text[]', 'token = NULL, return_url = NULL, action = NULL, updated_at = now()',
         'the books must stand'),
    ('shop.payment_transaction', 't.order_id IN (SELECT o.id FROM shop.orders o WHERE o.tenant_id = $2 AND o.user_id = $1)',
         'to_jsonb(t) - ''{tenant_id}''::text[]', 'keep', 'the books must stand; nothing personal'),
    ('shop.payment_event', 't.order_id IN (SELECT o.id FROM shop.orders o WHERE o.tenant_id = $2 AND o.user_id = $1)',
         NULL, 'delete', 'what the provider told; the ledger holds what it meant'),
    ('shop.refund', 't.order_id IN (SELECT o.id FROM shop.orders o WHERE o.tenant_id = $2 AND o.user_id = $1)',
         'to_jsonb(t) - ''{tenant_id,actor}''::text[]', 'note = NULL, updated_at = now()', 'the books must stand'),
    ('shop.saga', 't.order_id IN (SELECT o.id FROM shop.orders o WHERE o.tenant_id = $2 AND o.user_id = $1)',
         'jsonb_build_object(''order_id'', t.order_id, ''state'', t.state)', 'idem_scope = NULL, idem_key = NULL', 'how far an order came; nothing personal'),
    ('shop.reservation', 't.actor = $1',
         'jsonb_build_object(''created_at'', t.created_at, ''state'', t.state)', 'keep', 'who reserved stock; an id without a name'),
    ('shop.orders', 't.user_id = $1', 'to_jsonb(t) - ''{tenant_id,user_id,guest}''::text[] || jsonb_build_object(
         ''shipping_address'', domain.sealed_address(t.shipping_address, ''u:'' || t.user_id),
         ''billing_address'', domain.sealed_address(t.billing_address, ''u:'' || t.user_id))',
         'email = NULL, note = NULL, updated_at = now(),
          shipping_address = jsonb_build_object(''country'', t.shipping_address -> ''country''),
          billing_address = jsonb_build_object(''country'', t.billing_address -> ''country''),
          timeline = (SELECT jsonb_agg(e.value - ''note'' ORDER BY e.ordinality)
                        FROM jsonb_array_elements(t.timeline) WITH ORDINALITY e)',
         'the books must stand: amounts, lines and the country stay, under the id of a user who is nobody now'),
    ('shop.stock_movement', 't.actor = $1', 'jsonb_build_object(''created_at'', t.created_at, ''reason'', t.reason)', 'keep', 'who moved stock; an id without a name'),
    ('shop.audit_log', 't.actor IN (''user:'' || $1, ''platform:'' || $1) OR (t.entity = ''user'' AND t.entity_id = $1::text)',
         'jsonb_build_object(''created_at'', t.created_at, ''actor'', t.actor, ''action'', t.action, ''entity'', t.entity)', 'keep', 'never changed; holds ids, not persons: personal members are hidden when it is written'),
    ('shop.notification', 't.user_id = $1 OR t.recipient = (SELECT u.email FROM shop.app_user u WHERE u.tenant_id = $2 AND u.id = $1)',
         'to_jsonb(t) - ''{tenant_id,secret,lease}''::text[]', 'delete', NULL),
    ('shop.webhook_delivery', 'strpos(t.body, $1::text) > 0', NULL, 'delete', 'copies of events; goes with its month'),
    ('shop.notification_preference', 't.user_id = $1', 'to_jsonb(t) - ''{tenant_id,user_id}''::text[]', 'delete', NULL),
    ('shop.user_network', 't.user_id = $1', 'to_jsonb(t) - ''{tenant_id,user_id}''::text[]', 'delete', NULL),
    ('shop.user_token', 't.user_id = $1', 'jsonb_build_object(''purpose'', t.purpose, ''created_at'', t.created_at)', 'delete', NULL),
    ('shop.recovery_code', 't.user_id = $1', NULL, 'delete', 'hashes of secrets'),
    ('shop.totp', 't.user_id = $1', 'jsonb_build_object(''confirmed_at'', t.confirmed_at, ''created_at'', t.created_at)', 'delete', NULL),
    ('shop.refresh_token', 't.session_id IN (SELECT s.id FROM shop.session s WHERE s.tenant_id = $2 AND s.user_id = $1)', NULL,
         'delete', 'hashes of secrets'),
    ('shop.session', 't.user_id = $1', 'to_jsonb(t) - ''{tenant_id,user_id}''::text[]', 'delete', NULL),
    ('shop.revocation', 't.kind = ''user'' AND t.id = $1', NULL, 'keep', 'tokens that are void, for a day'),
    ('shop.login_attempt', 't.account = (SELECT domain.login_account(u.email) FROM shop.app_user u
                                          WHERE u.tenant_id = $2 AND u.id = $1)',
         'to_jsonb(t) - ''{tenant_id,account}''::text[]', 'delete', NULL),
    ('shop.api_key', 't.created_by = $1', NULL, 'keep', 'the shop''s; who made it, an id without a name'),
    ('shop.coupon_redemption', 't.customer = ''u:'' || $1', 'to_jsonb(t) - ''{tenant_id,customer}''::text[]', 'keep',
         'a coupon''s uses are counted; an id without a name'),
    ('event.outbox', 'strpos(t.payload, $1::text) > 0', NULL,
         'payload = (t.payload::jsonb - ''metadata'')::text', 'ids, no persons; tells of what other tables hold, and goes with its day'),
    ('event.dead_letter', 'strpos(coalesce(t.payload, ''''), $1::text) > 0', NULL, 'delete', 'an event that nobody could use'),
    ('event.retry', 't.aggregate_id = ''u:'' || $1', NULL, 'keep', 'an id without a name, for minutes'),
    ('shop.erasure', 't.user_id = $1', 'to_jsonb(t) - ''{tenant_id,user_id}''::text[]', 'keep', 'that it was done: an id without a name'),
    ('shop.app_user', 't.id = $1', 'to_jsonb(t) - ''{tenant_id,email_key,password_hash,password_version}''::text[] || jsonb_build_object(
         ''phone'', domain.sealed(t.phone, ''u:'' || t.id), ''date_of_birth'', domain.sealed(t.date_of_birth, ''u:'' || t.id))',
         'email = ''erased-'' || t.id || ''@erased.invalid'', name = '''', phone = NULL, date_of_birth = NULL, avatar_url = NULL,
          preferences = ''{}'', password_hash = '''', permissions = ''{}'', roles = ''{customer}'', last_login_at = NULL,
          status = ''disabled'', version = t.version + 1, updated_at = now(), deleted_at = coalesce(t.deleted_at, now())', NULL)
$$;

-- Everything about a user, by table: {"app_user": [...], "orders": [...]}. Sealed members are told of whom they are.
CREATE OR REPLACE FUNCTION domain.personal_export(user_id uuid) RETURNS jsonb
LANGUAGE plpgsql STABLE AS $$
DECLARE
    p      record;
    rows   jsonb;
    found  jsonb := '{}';
BEGIN
    FOR p IN SELECT * FROM domain.personal_data() x WHERE x.export IS NOT NULL AND to_regclass(x.relation) IS NOT NULL LOOP
        EXECUTE format('SELECT coalesce(jsonb_agg(%s), ''[]'') FROM %s t WHERE t.tenant_id = $2 AND (%s)', p.export, p.relation, p.match)
           INTO rows USING personal_export.user_id, domain.tenant_id();
        found := found || jsonb_build_object(split_part(p.relation, '.', 2), rows);
    END LOOP;
    RETURN found;
END
$$;

-- Erasures and carts of a shop take turns: whoever writes carts holds this together with others, an erasure alone and before anything else.
-- Without it a cart written at the same time would not see the tombstone, nor the erasure the cart.
CREATE OR REPLACE FUNCTION domain.erasure_turn(alone boolean) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF alone THEN
        PERFORM pg_advisory_xact_lock(hashtextextended('erasure', domain.tenant_id()));
    ELSE
        PERFORM pg_advisory_xact_lock_shared(hashtextextended('erasure', domain.tenant_id()));
    END IF;
END
$$;

-- Makes a user nobody: what the books need stays without the person, all else goes. A second time does nothing; false then. A cart that
-- is still on its way from Redis finds the tombstone and is not written any more.
CREATE OR REPLACE FUNCTION domain.user_erase(user_id uuid) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    tenant  bigint := domain.tenant_id();
    u       shop.app_user;
    p       record;
BEGIN
    PERFORM domain.erasure_turn(true);
    SELECT * INTO u FROM shop.app_user a WHERE a.tenant_id = tenant AND a.id = user_erase.user_id FOR UPDATE;

    INSERT INTO shop.erasure AS e (tenant_id, user_id, actor)
    VALUES (tenant, user_erase.user_id, domain.actor())
        ON CONFLICT DO NOTHING;

    IF u.id IS NULL OR u.email LIKE 'erased-%@erased.invalid' THEN
        RETURN false;
    END IF;

    FOR p IN SELECT * FROM domain.personal_data() x WHERE x.erase <> 'keep' AND to_regclass(x.relation) IS NOT NULL LOOP
        EXECUTE CASE WHEN p.erase = 'delete' THEN format('DELETE FROM %s t WHERE t.tenant_id = $2 AND (%s)', p.relation, p.match)
                     ELSE format('UPDATE %s t SET %s WHERE t.tenant_id = $2 AND (%s)', p.relation, p.erase, p.match) END
          USING user_erase.user_id, tenant;
    END LOOP;

    PERFORM domain.emit('user-events', 'UserErased', 'user', user_erase.user_id::text,
                        jsonb_build_object('user_id', user_erase.user_id, 'timestamp', domain.ts(now())));
    RETURN true;
END
$$;

-- The same, and no access token of the user is good any more. Sessions are named, so that an edge whose clock is ahead of this one does not
-- take their tokens for younger. erased: as above; edge belongs into the reply.
CREATE OR REPLACE FUNCTION domain.user_erase_and_revoke(user_id uuid, OUT erased boolean, OUT edge jsonb)
LANGUAGE plpgsql AS $$
DECLARE
    -- the erasure deletes them
    sessions  uuid[] := ARRAY(SELECT s.id
                                FROM shop.session s
                               WHERE s.tenant_id = domain.tenant_id() AND s.user_id = user_erase_and_revoke.user_id
                                 AND s.revoked_at IS NULL);
BEGIN
    erased := domain.user_erase(user_id);
    edge := domain.revoke_user(user_id, sessions => sessions);
END
$$;

-- Erases again whom a restore has brought back. Returns how many; asked in every round of maintenance, and by scripts/erasures.
CREATE OR REPLACE FUNCTION domain.erasures_repeat() RETURNS int
LANGUAGE plpgsql AS $$
DECLARE
    e     record;
    done  int := 0;
BEGIN
    FOR e IN
        SELECT x.user_id
          FROM shop.erasure x
          JOIN shop.app_user u ON u.tenant_id = x.tenant_id AND u.id = x.user_id
         WHERE x.tenant_id = domain.tenant_id() AND u.email NOT LIKE 'erased-%@erased.invalid'
    LOOP
        IF (domain.user_erase_and_revoke(e.user_id)).erased THEN
            done := done + 1;
        END IF;
    END LOOP;
    RETURN done;
END
$$;

-- A customer by id, erased ones too; 404 for anybody else. Staff accounts are not dealt with here.
CREATE OR REPLACE FUNCTION domain.customer_row(id uuid) RETURNS shop.app_user
LANGUAGE plpgsql STABLE AS $$
DECLARE
    u  shop.app_user;
BEGIN
    SELECT * INTO u FROM shop.app_user a WHERE a.tenant_id = domain.tenant_id() AND a.id = customer_row.id;
    IF NOT FOUND THEN
        PERFORM domain.fail(404, 'not-found', 'There is no such customer.');
    END IF;
    IF u.roles && '{staff,owner,service,platform}' THEN
        PERFORM domain.fail(409, 'not-a-customer', 'This is an account of staff: take its roles away first.');
    END IF;
    RETURN u;
END
$$;
