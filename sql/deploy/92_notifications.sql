-- Deploy nginx-commerce:92_notifications to pg
-- requires: 60_identity
-- requires: 65_tenants
-- Sending: templates of a shop, what people do not want to hear of, where text messages and pushes go, what became of each notification.

BEGIN;

SET LOCAL ROLE commerce_owner;

CREATE DOMAIN shop.language AS text CHECK (VALUE ~ '^[a-z]{2,3}(-[A-Z][a-z]{3})?(-([A-Z]{2}|[0-9]{3}))?$');

ALTER TABLE shop.notification
    -- suppressed: the recipient does not want this kind. expired: nobody could be told in time
    ADD COLUMN status       text         NOT NULL DEFAULT 'queued'
                                         CHECK (status IN ('queued', 'sent', 'failed', 'expired', 'suppressed')),
    ADD COLUMN user_id      uuid,
    ADD COLUMN language     shop.language,
    -- who is sending it just now; next_at is the lease's end then
    ADD COLUMN lease        uuid,
    ADD COLUMN message_id   text         CHECK (length(message_id) <= 300),
    ADD COLUMN last_status  int,
    ADD COLUMN finished_at  timestamptz;

COMMENT ON COLUMN shop.notification.next_at IS 'when it is due; while it is being sent, when whoever does so is given up';

DROP INDEX shop.notification_unsent;
CREATE INDEX notification_due ON shop.notification (tenant_id, next_at) WHERE status = 'queued';
CREATE INDEX notification_status ON shop.notification (tenant_id, status, id);

-- What a shop says instead of what is shipped, and kinds of its own.
CREATE TABLE shop.notification_template (
    tenant_id   bigint         NOT NULL REFERENCES shop.tenant,
    kind        text           NOT NULL CHECK (kind ~ '^[a-z0-9-]{1,64}$'),
    channel     text           NOT NULL CHECK (channel IN ('email', 'sms', 'push')),
    language    shop.language  NOT NULL,
    subject     text           CHECK (length(subject) <= 1000),
    text        text           CHECK (octet_length(text) <= 65536),
    html        text           CHECK (octet_length(html) <= 65536),
    version     int            NOT NULL DEFAULT 1,
    created_at  timestamptz    NOT NULL DEFAULT now(),
    updated_at  timestamptz    NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, kind, channel, language)
);

COMMENT ON TABLE shop.notification_template IS 'Templates of a shop; where it has none, domain.template_shipped() counts';

-- One row for each choice that differs from the kind's default.
CREATE TABLE shop.notification_preference (
    tenant_id   bigint       NOT NULL,
    user_id     uuid         NOT NULL,
    kind        text         NOT NULL CHECK (kind ~ '^[a-z0-9-]{1,64}$'),
    channel     text         NOT NULL CHECK (channel IN ('email', 'sms', 'push')),
    enabled     boolean      NOT NULL,
    updated_at  timestamptz  NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, user_id, kind, channel),
    FOREIGN KEY (tenant_id, user_id) REFERENCES shop.app_user ON DELETE CASCADE
);

COMMENT ON TABLE shop.notification_preference IS 'Which notifications somebody wants by which channel';

-- Text messages and pushes leave by a signed request to a program of the shop or of its provider.
CREATE TABLE shop.notification_adapter (
    tenant_id   bigint       NOT NULL REFERENCES shop.tenant,
    id          uuid         NOT NULL,
    channel     text         NOT NULL CHECK (channel IN ('sms', 'push')),
    url         text         NOT NULL CHECK (length(url) BETWEEN 8 AND 2048),
    -- sealed for "shop.notification_adapter <tenant> <id> secret"
    secret      text         NOT NULL CHECK (secret ~ '^v1:[A-Za-z0-9._-]{1,64}:[A-Za-z0-9_-]+$'),
    created_at  timestamptz  NOT NULL DEFAULT now(),
    updated_at  timestamptz  NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, channel)
);

COMMENT ON TABLE shop.notification_adapter IS 'Where text messages and pushes of a shop are sent to';

CALL domain.isolate('shop.notification_template');
CALL domain.isolate('shop.notification_preference');
CALL domain.isolate('shop.notification_adapter');

RESET ROLE;

UPDATE shop.notification SET status = CASE WHEN sent_at IS NOT NULL THEN 'sent' WHEN expires_at <= now() THEN 'expired' ELSE 'queued' END;

-- ── whose turn it is ─────────────────────────────────────────────────────────────────────────────────────────────────

GRANT SELECT (tenant_id, id, status, next_at) ON shop.notification TO commerce_platform;
CREATE POLICY platform ON shop.notification FOR SELECT TO commerce_platform USING (true);

SET LOCAL ROLE commerce_platform;

-- Notifications that are due, of every shop: each has its first before any has its second, so that a shop that tells a hundred
-- thousand customers something does not make the others wait.
CREATE FUNCTION platform.notifications_due(many int, OUT tenant_id bigint, OUT id uuid) RETURNS SETOF record
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    shops  bigint[] := '{}';
    shop   bigint := 0;
BEGIN
    LOOP                                        -- from shop to shop along the index
        SELECT n.tenant_id INTO shop
          FROM shop.notification n
         WHERE n.status = 'queued' AND n.tenant_id > shop
         ORDER BY n.tenant_id
         LIMIT 1;
        EXIT WHEN NOT FOUND;
        shops := shops || shop;
    END LOOP;

    RETURN QUERY
    SELECT x.tenant_id, x.id
      FROM (SELECT d.tenant_id, d.id, d.next_at, row_number() OVER (PARTITION BY d.tenant_id ORDER BY d.next_at) AS place
              FROM unnest(shops) s
             CROSS JOIN LATERAL (
                   SELECT n.tenant_id, n.id, n.next_at
                     FROM shop.notification n
                    WHERE n.tenant_id = s AND n.status = 'queued' AND n.next_at <= now()
                    ORDER BY n.next_at
                    LIMIT many) d) x
     ORDER BY x.place, x.next_at
     LIMIT many;
END
$$;

REVOKE ALL ON FUNCTION platform.notifications_due(int) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION platform.notifications_due(int) TO commerce_owner;

RESET ROLE;

COMMIT;
