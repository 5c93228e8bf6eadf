-- Deploy nginx-commerce:120_relay_mark to pg
-- requires: 86_events
-- What the relay marks is named by its event too: the number alone may be another event's, where the server has lost its last commits.

BEGIN;

SET LOCAL ROLE commerce_relay;

CREATE FUNCTION relay.mark(ids bigint[], events uuid[], since timestamptz) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    UPDATE event.outbox o SET sent_at = clock_timestamp()
      FROM unnest(ids, events) i (id, event_id)
     WHERE o.id = i.id AND o.created_at >= since AND o.event_id = i.event_id;
END
$$;

REVOKE ALL ON FUNCTION relay.mark(bigint[], uuid[], timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION relay.mark(bigint[], uuid[], timestamptz) TO commerce_owner;

COMMIT;
