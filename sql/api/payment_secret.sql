-- A shop's own keys at its payment provider. They arrive sealed: nobody here can read them, and nothing shows more than the last four
-- characters.

CREATE OR REPLACE FUNCTION domain.payment_secret_json(s shop.payment_secret) RETURNS jsonb
LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object('id', s.id, 'last4', s.last4, 'set_at', domain.ts(s.created_at))
$$;

-- {"provider", "key": … or null, "webhook_secrets": […]}
CREATE OR REPLACE FUNCTION domain.payment_secrets_json(provider text) RETURNS jsonb
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (SELECT jsonb_build_object(
                'provider', payment_secrets_json.provider,
                'key', (jsonb_agg(domain.payment_secret_json(s)) FILTER (WHERE s.kind = 'key')) -> 0,
                'webhook_secrets', coalesce(jsonb_agg(domain.payment_secret_json(s) ORDER BY s.created_at, s.id)
                                            FILTER (WHERE s.kind = 'webhook'), '[]'))
              FROM shop.payment_secret s
             WHERE s.tenant_id = domain.tenant_id() AND s.provider = payment_secrets_json.provider);
END
$$;

-- place: the end of what the edge has sealed it for. A key replaces the one before; of secrets that sign events a shop has a few at
-- once, while they are exchanged.
CREATE OR REPLACE FUNCTION domain.payment_secret_set(provider text, kind text, id uuid, place text, sealed text, last4 text)
RETURNS shop.payment_secret LANGUAGE plpgsql AS $$
DECLARE
    was  shop.payment_secret;
    s    shop.payment_secret;
BEGIN
    PERFORM domain.need('settings.write');

    -- one after the other, so that two do not count the same
    PERFORM FROM shop.tenant t WHERE t.id = domain.tenant_id() FOR NO KEY UPDATE;

    IF kind = 'key' THEN
        DELETE FROM shop.payment_secret x
         WHERE x.tenant_id = domain.tenant_id() AND x.provider = payment_secret_set.provider AND x.kind = 'key'
        RETURNING * INTO was;
    ELSIF (SELECT count(*) FROM shop.payment_secret x
            WHERE x.tenant_id = domain.tenant_id() AND x.provider = payment_secret_set.provider AND x.kind = 'webhook') >= 4 THEN
        PERFORM domain.fail(409, 'too-many-secrets', 'A shop has at most 4 of them: delete one that is no longer used.');
    END IF;

    INSERT INTO shop.payment_secret AS x (tenant_id, id, provider, kind, place, secret, last4)
    VALUES (domain.tenant_id(), payment_secret_set.id, payment_secret_set.provider, payment_secret_set.kind, payment_secret_set.place,
            sealed, payment_secret_set.last4)
    RETURNING * INTO s;

    PERFORM domain.audit('payment_secret.set', 'payment_' || kind, provider,
                         CASE WHEN was.id IS NOT NULL THEN domain.payment_secret_json(was) END, domain.payment_secret_json(s));
    RETURN s;
END
$$;

-- id NULL: the key.
CREATE OR REPLACE FUNCTION domain.payment_secret_drop(provider text, kind text, id uuid) RETURNS api.reply
LANGUAGE plpgsql AS $$
DECLARE
    s  shop.payment_secret;
BEGIN
    PERFORM domain.need('settings.write');

    DELETE FROM shop.payment_secret x
     WHERE x.tenant_id = domain.tenant_id() AND x.provider = payment_secret_drop.provider AND x.kind = payment_secret_drop.kind
       AND (payment_secret_drop.id IS NULL OR x.id = payment_secret_drop.id)
    RETURNING * INTO s;
    IF NOT FOUND THEN
        PERFORM domain.fail(404, 'not-found', 'The shop has no such secret.');
    END IF;

    PERFORM domain.audit('payment_secret.delete', 'payment_' || kind, provider, domain.payment_secret_json(s), NULL);
    RETURN (204, NULL, NULL, NULL)::api.reply;
END
$$;

CREATE OR REPLACE FUNCTION api.stripe_secrets() RETURNS api.reply
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
BEGIN
    PERFORM domain.need('settings.read');
    RETURN (200, domain.payment_secrets_json('stripe')::text, NULL, NULL)::api.reply;
END
$$;

-- The places are those of the contract's "key", after the id.
CREATE OR REPLACE FUNCTION api.stripe_key_put(secret_id uuid, sealed text, last4 text) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    -- what was set, and no more: to see the others takes settings.read
    RETURN (200, domain.payment_secret_json(domain.payment_secret_set('stripe', 'key', secret_id, 'for=stripe,https://api.stripe.com key',
                                                                      sealed, last4))::text, NULL, NULL)::api.reply;
END
$$;

CREATE OR REPLACE FUNCTION api.stripe_key_delete() RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    RETURN domain.payment_secret_drop('stripe', 'key', NULL);
END
$$;

CREATE OR REPLACE FUNCTION api.stripe_webhook_secret_create(secret_id uuid, sealed text, last4 text) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    s  shop.payment_secret;
BEGIN
    s := domain.payment_secret_set('stripe', 'webhook', secret_id, 'for= webhook', sealed, last4);
    RETURN (201, domain.payment_secret_json(s)::text,
            json_build_object('Location', '/api/v1/admin/payments/stripe/webhook-secrets/' || s.id), NULL)::api.reply;
END
$$;

CREATE OR REPLACE FUNCTION api.stripe_webhook_secret_delete(id uuid) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    RETURN domain.payment_secret_drop('stripe', 'webhook', id);
END
$$;
