-- The greeting of a shop; parameters bear the contract's names.
CREATE OR REPLACE FUNCTION api.greeting_get(name text, times int) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    shop_name  text;
BEGIN
    IF name = 'nobody' THEN
        PERFORM domain.fail(404, 'not-found', 'There is nobody to greet.');
    END IF;

    SELECT t.name INTO shop_name FROM shop.tenant t WHERE t.id = domain.tenant_id();

    RETURN (200,
            json_build_object('greeting', repeat('Hello ', times) || name, 'from', shop_name)::text,
            NULL, NULL)::api.reply;
END
$$;

ALTER FUNCTION api.greeting_get OWNER TO commerce_owner;
REVOKE ALL ON FUNCTION api.greeting_get FROM PUBLIC;
GRANT EXECUTE ON FUNCTION api.greeting_get TO commerce_edge;
