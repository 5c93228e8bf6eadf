-- The notification outbox: what is to be told to somebody, in the transaction of what it tells of.

-- Queues a message and returns its id. channel: email, sms, push; data: what the template needs, nothing secret. secret: what only the
-- recipient may know (the token of a link), sealed by the edge for the place "shop.notification <tenant> <notification_id> secret";
-- then notification_id is the edge's. A message that was not sent until expires_at is not sent at all. An id that is there already is
-- the same message: nothing happens, and NULL is returned. user_id: whose account it is about, by which an erasure finds it when the
-- address has changed, or is not the account's yet. Whose account it is has been read with a lock (FOR KEY SHARE at least): an
-- erasure at the same time would miss the mail, or the mail the erasure.
CREATE OR REPLACE FUNCTION domain.notify(channel text, recipient text, template text, data jsonb DEFAULT '{}',
                                         secret text DEFAULT NULL, notification_id uuid DEFAULT NULL,
                                         expires_at timestamptz DEFAULT NULL, user_id uuid DEFAULT NULL,
                                         language text DEFAULT NULL) RETURNS uuid
LANGUAGE plpgsql AS $$
DECLARE
    made  uuid;
BEGIN
    INSERT INTO shop.notification (tenant_id, id, channel, recipient, template, data, secret, correlation_id, expires_at, user_id, language)
    VALUES (domain.tenant_id(), coalesce(notify.notification_id, domain.uuid7()), notify.channel, notify.recipient, notify.template,
            coalesce(notify.data, '{}'), notify.secret, domain.correlation_id(),
            coalesce(notify.expires_at, now() + interval '3 days'), notify.user_id, notify.language)
    ON CONFLICT (tenant_id, id) DO NOTHING
    RETURNING id INTO made;

    -- somebody sits before the screen and waits for this one
    IF notify.secret IS NOT NULL THEN
        PERFORM domain.job_wake('notifications');
    END IF;

    RETURN made;
END
$$;

-- The id of what is told once of a thing: the same for the same kind and thing, so that however often it is asked for, it is one mail.
CREATE OR REPLACE FUNCTION domain.notification_id(template text, thing text) RETURNS uuid
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    h  bytea := substring(sha256(convert_to(template || ' ' || thing, 'UTF8')) FROM 1 FOR 16);
BEGIN
    -- a UUIDv8 (RFC 9562): its bits are ours
    RETURN encode(set_byte(set_byte(h, 6, get_byte(h, 6) & 15 | 128), 8, get_byte(h, 8) & 63 | 128), 'hex')::uuid;
END
$$;
