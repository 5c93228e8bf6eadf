-- Who is told of what happened (I1, I3).

-- How orders go, to whom ordered. One notification for each event, however often it comes: its id is made of the event's. An order that
-- was never confirmed (its payment was declined while the customer looked on) is nothing to write of when it is cancelled. All of them are
-- written by one statement: for each one PostgreSQL reads the table's CHECKs anew.
CREATE OR REPLACE FUNCTION consumer.notify_orders(ms event.message[]) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    m           event.message;
    kind        text;
    o           shop.orders;
    recipient   text;
    ids         uuid[];
    kinds       text[];
    recipients  text[];
    users       uuid[];
    datas       jsonb[];
    traces      text[];
BEGIN
    FOREACH m IN ARRAY ms LOOP
        kind := CASE m.type WHEN 'OrderConfirmed' THEN 'order-confirmation' WHEN 'OrderCancelled' THEN 'order-cancelled'
                            WHEN 'OrderShipped' THEN 'shipping-update' WHEN 'OrderDelivered' THEN 'order-delivered'
                            WHEN 'PaymentRefunded' THEN 'order-refunded' END;
        SELECT * INTO o FROM shop.orders x WHERE x.tenant_id = m.tenant_id AND x.id = (m.payload ->> 'order_id')::uuid;
        CONTINUE WHEN NOT FOUND OR kind IS NULL OR (kind = 'order-cancelled' AND NOT o.timeline @> '[{"status": "confirmed"}]');

        -- as the account says now, which no erasure ends before this is written; what was given with the order is for guests
        SELECT u.email INTO recipient
          FROM shop.app_user u
         WHERE u.tenant_id = o.tenant_id AND u.id = o.user_id AND u.deleted_at IS NULL
           FOR KEY SHARE;
        recipient := coalesce(recipient, CASE WHEN o.user_id IS NULL THEN o.email END);
        CONTINUE WHEN recipient IS NULL;

        ids := ids || domain.notification_id(kind, m.id::text);
        kinds := kinds || kind;
        recipients := recipients || recipient;
        users := array_append(users, o.user_id);
        traces := array_append(traces, m.correlation_id);
        datas := datas || jsonb_strip_nulls(jsonb_build_object(
                              'order_id', o.id, 'tracking', m.payload -> 'tracking', 'refund',
                              CASE WHEN kind = 'order-refunded' THEN jsonb_build_object('amount', m.payload -> 'amount') END));
    END LOOP;

    INSERT INTO shop.notification (tenant_id, id, channel, recipient, template, data, correlation_id, expires_at, user_id)
    SELECT domain.tenant_id(), n.id, 'email', n.recipient, n.kind, n.data, n.correlation_id, now() + interval '3 days', n.user_id
      FROM unnest(ids, recipients, kinds, datas, traces, users) n (id, recipient, kind, data, correlation_id, user_id)
        ON CONFLICT (tenant_id, id) DO NOTHING;
END
$$;

CREATE OR REPLACE FUNCTION consumer.notify_order(m event.message) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM consumer.notify_orders(ARRAY[m]);
END
$$;

-- What a program of the shop asks to send, by the topic notifications instead of POST /send. The event's id is the notification's.
CREATE OR REPLACE FUNCTION consumer.notification_request(m event.message) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM domain.notification_request(
                m.id, m.payload ->> 'channel', coalesce(m.payload ->> 'template', 'message'), m.payload ->> 'to',
                (m.payload ->> 'user_id')::uuid, m.payload ->> 'language',
                CASE WHEN jsonb_typeof(m.payload -> 'data') = 'object' THEN m.payload -> 'data' ELSE '{}' END
                    || jsonb_strip_nulls(jsonb_build_object('subject', m.payload -> 'subject', 'text', m.payload -> 'text',
                                                            'html', m.payload -> 'html')));
END
$$;
