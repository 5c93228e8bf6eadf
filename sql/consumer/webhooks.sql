-- Events for the programs of the shop (B25): a delivery for each endpoint that wants the type. Once, however often the event comes. An
-- endpoint gets what happens after it was made, also of what is replayed; times of events have milliseconds.
CREATE OR REPLACE FUNCTION consumer.webhooks(m event.message) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    name  text := domain.event_ce_type(m.type);
BEGIN
    PERFORM domain.webhook_queue(e, m.id, name, m.created_at, m.payload || jsonb_build_object(
                                     'aggregate', m.aggregate, 'aggregate_id', m.aggregate_id, 'aggregate_version', m.aggregate_version),
                                 m.correlation_id)
       FROM shop.webhook_endpoint e
      WHERE e.tenant_id = m.tenant_id AND e.status = 'active' AND date_trunc('milliseconds', e.created_at) <= m.created_at
        AND domain.webhook_wants(e.types, name);
END
$$;

-- Most shops have no endpoints, or for a few types only.
CREATE OR REPLACE FUNCTION consumer.webhooks_wanted(type text) RETURNS boolean
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN EXISTS (SELECT FROM shop.webhook_endpoint e
                    WHERE e.tenant_id = domain.tenant_id() AND e.status = 'active'
                      AND domain.webhook_wants(e.types, domain.event_ce_type(webhooks_wanted.type)));
END
$$;
