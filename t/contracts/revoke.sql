CREATE OR REPLACE FUNCTION api.probe_revoke(sessions jsonb, "user" uuid, keep uuid, status int, quiet boolean)
RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    ids   uuid[] := ARRAY(SELECT jsonb_array_elements_text(coalesce(sessions, '[]'))::uuid);
    edge  jsonb;
BEGIN
    IF quiet THEN
        -- neither a row nor a notice: what is void now, the edge can only know from the reply
        SELECT jsonb_build_object('revoke', jsonb_agg(domain.revocation_entry('session', i.id, NULL, clock_timestamp())))
          INTO edge
          FROM unnest(ids) AS i (id);
    ELSIF "user" IS NULL THEN
        edge := domain.revoke_sessions(ids);
    ELSE
        edge := domain.revoke_user("user", keep, ids);
    END IF;

    RETURN (coalesce(status, 200), '{"done":true}', NULL, edge || '{"invalidate":["nothing"]}')::api.reply;
END
$$;
