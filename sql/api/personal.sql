-- My data (A26): export and erasure, by whom it is about, and by staff for them.

-- A26: everything that the shop has about me. cart: as Redis has it, newer than its backup.
CREATE OR REPLACE FUNCTION api.user_export(items jsonb DEFAULT NULL) RETURNS api.reply
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    u  shop.app_user := domain.current_app_user();
BEGIN
    RETURN (200, jsonb_build_object('exported_at', domain.ts(now()), 'cart', coalesce(items, '[]'),
                                    'data', domain.personal_export(u.id))::text, NULL, NULL)::api.reply;
END
$$;

-- A26: the same for a customer who has asked the shop.
CREATE OR REPLACE FUNCTION api.customer_export(id uuid, items jsonb DEFAULT NULL) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    PERFORM domain.need('customers.read');
    PERFORM domain.customer_row(id);
    PERFORM domain.audit('CustomerExported', 'user', id::text);
    RETURN (200, jsonb_build_object('exported_at', domain.ts(now()), 'cart', coalesce(items, '[]'),
                                    'data', domain.personal_export(id))::text, NULL, NULL)::api.reply;
END
$$;

-- First half of an erasure: the hash that the worker compares the password with.
CREATE OR REPLACE FUNCTION api.user_erase_begin() RETURNS api.reply
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    u  shop.app_user := domain.current_app_user();
BEGIN
    RETURN (200, json_build_object('password_hash', u.password_hash)::text, NULL, NULL)::api.reply;
END
$$;

-- Second half, the password was right. The last owner of a shop cannot leave it alone.
CREATE OR REPLACE FUNCTION api.user_erase() RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    u  shop.app_user := domain.current_app_user();
BEGIN
    IF 'owner' = ANY (u.roles) AND NOT EXISTS (
            SELECT FROM shop.app_user a
             WHERE a.tenant_id = u.tenant_id AND a.id <> u.id AND a.roles && '{owner}' AND a.status = 'active' AND a.deleted_at IS NULL) THEN
        PERFORM domain.fail(409, 'last-owner', 'You are the only owner of this shop: make somebody else its owner first.');
    END IF;

    IF u.roles && '{staff,owner}' THEN
        PERFORM domain.audit('UserErased', 'user', u.id::text);
    END IF;

    RETURN (200, json_build_object('erased', true, 'user_id', u.id)::text, NULL, (domain.user_erase_and_revoke(u.id)).edge)::api.reply;
END
$$;

-- A26: for a customer who has asked the shop. Again: the same answer, nothing is done.
CREATE OR REPLACE FUNCTION api.customer_erase(id uuid) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    edge  jsonb;
BEGIN
    PERFORM domain.need('customers.write');
    PERFORM domain.customer_row(id);
    edge := (domain.user_erase_and_revoke(id)).edge;
    PERFORM domain.audit('CustomerErased', 'user', id::text);
    RETURN (200, json_build_object('erased', true, 'user_id', id)::text, NULL, edge)::api.reply;
END
$$;

-- The cart of a customer, from its backup: for an export by staff.
CREATE OR REPLACE FUNCTION api.cart_restore_of(id uuid) RETURNS api.reply
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
BEGIN
    PERFORM domain.need('customers.read');
    RETURN api.cart_restore('u:' || id);
END
$$;
