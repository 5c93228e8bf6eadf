-- Deploy nginx-commerce:94_webhooks to pg
-- requires: 86_events
-- requires: 92_notifications
-- Merchants' webhooks: where a shop wants its events sent to, and what became of each.

BEGIN;

SET LOCAL ROLE commerce_owner;

CREATE TABLE shop.webhook_endpoint (
    tenant_id        bigint       NOT NULL REFERENCES shop.tenant,
    id               uuid         NOT NULL,
    url              text         NOT NULL CHECK (length(url) BETWEEN 8 AND 2048),
    description      text         CHECK (length(description) <= 200),
    -- shop.order.confirmed.v1, shop.order.* or *
    types            text[]       NOT NULL CHECK (cardinality(types) BETWEEN 1 AND 50),
    -- both sealed for "shop.webhook_endpoint <tenant> <id> secret"; the one before signs beside it until then
    secret           text         NOT NULL CHECK (secret ~ '^v1:[A-Za-z0-9._-]{1,64}:[A-Za-z0-9_-]+$'),
    previous_secret  text,
    previous_until   timestamptz,
    status           text         NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'disabled')),
    -- why it was disabled, if not by hand: gone (410), failing
    reason           text,
    -- a delivery was given up; a success ends it
    failing_since    timestamptz,
    succeeded_at     timestamptz,
    version          int          NOT NULL DEFAULT 1,
    created_at       timestamptz  NOT NULL DEFAULT now(),
    updated_at       timestamptz  NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id)
);

COMMENT ON TABLE shop.webhook_endpoint IS 'Programs of a shop that its events are sent to';

CREATE TABLE shop.webhook_delivery (
    tenant_id       bigint       NOT NULL,
    id              uuid         NOT NULL,
    endpoint_id     uuid         NOT NULL,
    event_id        uuid         NOT NULL,
    type            text         NOT NULL,
    body            text         NOT NULL CHECK (octet_length(body) <= 20480),
    status          text         NOT NULL DEFAULT 'queued' CHECK (status IN ('queued', 'delivered', 'failed')),
    attempts        int          NOT NULL DEFAULT 0,
    next_at         timestamptz  NOT NULL DEFAULT now(),
    lease           uuid,
    -- the last tries: [{"at", "status", "error", "ms"}]
    tries           jsonb        NOT NULL DEFAULT '[]',
    response        text         CHECK (length(response) <= 1000),
    correlation_id  text,
    created_at      timestamptz  NOT NULL DEFAULT now(),
    finished_at     timestamptz,
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, endpoint_id, event_id),
    FOREIGN KEY (tenant_id, endpoint_id) REFERENCES shop.webhook_endpoint ON DELETE CASCADE
);

COMMENT ON COLUMN shop.webhook_delivery.next_at IS 'when it is due; while it is being sent, when whoever does so is given up';
COMMENT ON TABLE shop.webhook_delivery IS 'Events on their way to an endpoint, and the log of those that were';

CREATE INDEX webhook_delivery_due ON shop.webhook_delivery (tenant_id, next_at) WHERE status = 'queued';
CREATE INDEX webhook_delivery_log ON shop.webhook_delivery (tenant_id, endpoint_id, id);
CREATE INDEX webhook_delivery_over ON shop.webhook_delivery (tenant_id, finished_at) WHERE status <> 'queued';

CALL domain.isolate('shop.webhook_endpoint');
CALL domain.isolate('shop.webhook_delivery');

RESET ROLE;

GRANT SELECT (tenant_id, id, endpoint_id, status, next_at, lease) ON shop.webhook_delivery TO commerce_platform;
CREATE POLICY platform ON shop.webhook_delivery FOR SELECT TO commerce_platform USING (true);

SET LOCAL ROLE commerce_platform;

-- Deliveries that are due, of every shop. No endpoint has more than eight under way, and each shop has its first before any has its
-- second: a program that answers slowly holds up its own events only.
CREATE FUNCTION platform.webhooks_due(many int, OUT tenant_id bigint, OUT id uuid) RETURNS SETOF record
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    shops  bigint[] := '{}';
    shop   bigint := 0;
BEGIN
    LOOP                                        -- from shop to shop along the index
        SELECT d.tenant_id INTO shop
          FROM shop.webhook_delivery d
         WHERE d.status = 'queued' AND d.tenant_id > shop
         ORDER BY d.tenant_id
         LIMIT 1;
        EXIT WHEN NOT FOUND;
        shops := shops || shop;
    END LOOP;

    RETURN QUERY
    SELECT y.tenant_id, y.id
      FROM (SELECT x.tenant_id, x.id, x.next_at, row_number() OVER (PARTITION BY x.tenant_id ORDER BY x.next_at, x.id) AS place
              FROM (SELECT d.tenant_id, d.id, d.endpoint_id, d.next_at,
                           row_number() OVER (PARTITION BY d.tenant_id, d.endpoint_id ORDER BY d.next_at, d.id) AS turn
                      FROM unnest(shops) s
                     CROSS JOIN LATERAL (
                           SELECT q.tenant_id, q.id, q.endpoint_id, q.next_at
                             FROM shop.webhook_delivery q
                            WHERE q.tenant_id = s AND q.status = 'queued' AND q.next_at <= now()
                            ORDER BY q.next_at
                            LIMIT 20 * many) d) x
             WHERE x.turn <= 8 - (SELECT count(*)
                                    FROM shop.webhook_delivery b
                                   WHERE b.tenant_id = x.tenant_id AND b.endpoint_id = x.endpoint_id AND b.status = 'queued'
                                     AND b.lease IS NOT NULL AND b.next_at > now())) y
     ORDER BY y.place, y.next_at
     LIMIT many;
END
$$;

REVOKE ALL ON FUNCTION platform.webhooks_due(int) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION platform.webhooks_due(int) TO commerce_owner;

RESET ROLE;

COMMIT;
