-- What the edge asks when its shared memory has no answer (L1 to L3), and what comes back from customers.

-- {"recent": [[product, event, ms since 1970], …], "never": [product, …]}, newest first: the last 50 things that somebody did, and the
-- last 250 products that were bought or dismissed, which are not to be recommended however much was looked at since.
-- guest: as the module names a guest's cart; whoever is logged in is known by the context.
-- Of each pair of SELECTs the plan runs the one whose first condition holds. Bought is what the last 250 orders say; of feedback 2,000
-- rows are read, for a product may be dismissed again and again.
CREATE OR REPLACE FUNCTION api.recent_items(guest text DEFAULT NULL) RETURNS api.reply
LANGUAGE plpgsql STABLE SECURITY DEFINER SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    tenant   bigint := domain.tenant_id();
    person   uuid := domain.principal();
    visitor  text := CASE WHEN person IS NULL THEN nullif(recent_items.guest, '') END;
    recent   json;
    never    json;
BEGIN
    WITH bought AS MATERIALIZED (
        SELECT l.product_id, 'purchase' AS event, o.created_at AS at
          FROM (
               (SELECT o.id, o.created_at FROM shop.orders o
                 WHERE person IS NOT NULL AND o.tenant_id = tenant AND o.user_id = person AND o.status <> 'cancelled'
                 ORDER BY o.id DESC LIMIT 250)
                UNION ALL
               (SELECT o.id, o.created_at FROM shop.orders o
                 WHERE visitor IS NOT NULL AND o.tenant_id = tenant AND o.user_id IS NULL AND o.guest = visitor
                   AND o.status <> 'cancelled'
                 ORDER BY o.id DESC LIMIT 250)) o
         CROSS JOIN LATERAL (SELECT l.product_id FROM shop.order_item l
                              WHERE l.tenant_id = tenant AND l.order_id = o.id OFFSET 0) l
    ), told AS MATERIALIZED (
       (SELECT f.product_id, f.action AS event, f.created_at AS at FROM shop.recommendation_feedback f
         WHERE person IS NOT NULL AND f.tenant_id = tenant AND f.user_id = person AND f.action IN ('dismiss', 'purchase')
         ORDER BY f.id DESC LIMIT 2000)
        UNION ALL
       (SELECT f.product_id, f.action, f.created_at FROM shop.recommendation_feedback f
         WHERE visitor IS NOT NULL AND f.tenant_id = tenant AND f.user_id IS NULL AND f.guest = visitor
           AND f.action IN ('dismiss', 'purchase')
         ORDER BY f.id DESC LIMIT 2000)
    ), done AS (
        SELECT * FROM bought UNION ALL SELECT * FROM told
    ), seen AS (
       (SELECT i.product_id, i.action AS event, i.created_at AS at FROM shop.interaction i
         WHERE person IS NOT NULL AND i.tenant_id = tenant AND i.user_id = person ORDER BY i.id DESC LIMIT 50)
        UNION ALL
       (SELECT i.product_id, i.action, i.created_at FROM shop.interaction i
         WHERE visitor IS NOT NULL AND i.tenant_id = tenant AND i.user_id IS NULL AND i.guest = visitor ORDER BY i.id DESC LIMIT 50)
        UNION ALL
       (SELECT w.product_id, 'wishlist', w.created_at FROM shop.wishlist_item w
         WHERE person IS NOT NULL AND w.tenant_id = tenant AND w.user_id = person ORDER BY w.created_at DESC LIMIT 50)
    )
    SELECT (SELECT json_agg(json_build_array(x.product_id, x.event, (extract(epoch FROM x.at) * 1000)::bigint) ORDER BY x.at DESC)
              FROM (SELECT * FROM done UNION ALL SELECT * FROM seen ORDER BY at DESC LIMIT 50) x),
           (SELECT json_agg(x.product_id ORDER BY x.at DESC)
              FROM (SELECT d.product_id, max(d.at) AS at FROM done d GROUP BY d.product_id ORDER BY max(d.at) DESC LIMIT 250) x)
      INTO recent, never;

    RETURN (200, json_build_object('recent', coalesce(recent, '[]'), 'never', coalesce(never, '[]'))::text, NULL, NULL)::api.reply;
END
$$;

-- {"adopted": bool}: what a guest looked at becomes that of the customer who asks. An erasure waits for it, or leaves nobody to adopt.
CREATE OR REPLACE FUNCTION api.history_adopt(guest text DEFAULT NULL) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    adopted  boolean := false;
BEGIN
    IF history_adopt.guest <> '' THEN
        PERFORM FROM shop.app_user u
          WHERE u.tenant_id = domain.tenant_id() AND u.id = domain.principal() AND u.deleted_at IS NULL
            FOR KEY SHARE;
        adopted := FOUND AND domain.history_adopt(domain.principal(), history_adopt.guest);
    END IF;

    RETURN (200, json_build_object('adopted', adopted)::text, NULL, NULL)::api.reply;
END
$$;

-- {"cards": […]}: what the edge shows of these products; those not for sale are left out.
CREATE OR REPLACE FUNCTION api.product_cards(ids jsonb) RETURNS api.reply
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
BEGIN
    RETURN (200, '{"cards":[' || array_to_string(domain.product_cards(
                ARRAY(SELECT e::bigint FROM jsonb_array_elements_text(ids) WITH ORDINALITY AS x (e, n) WHERE n <= 200 ORDER BY n)), ',')
            || ']}', NULL, NULL)::api.reply;
END
$$;

-- {"cards": […]}: the most popular products in stock, of a category and what is below it or of all: while nothing is trained.
CREATE OR REPLACE FUNCTION api.products_popular("limit" int DEFAULT 10, category_id bigint DEFAULT NULL) RETURNS api.reply
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    tenant  bigint := domain.tenant_id();
    below   bigint[];
    ids     bigint[];
BEGIN
    IF products_popular.category_id IS NULL THEN
        ids := ARRAY(SELECT c.product_id
                       FROM shop.product_card c
                       JOIN shop.product_stock s ON s.tenant_id = tenant AND s.product_id = c.product_id AND s.in_stock
                      WHERE c.tenant_id = tenant
                      ORDER BY c.popularity DESC, c.product_id DESC LIMIT "limit");
    ELSE
        below := domain.category_tree(products_popular.category_id);
        ids := ARRAY(SELECT c.product_id
                       FROM shop.product_card c
                       JOIN shop.product_stock s ON s.tenant_id = tenant AND s.product_id = c.product_id AND s.in_stock
                      WHERE c.tenant_id = tenant AND c.category_id = ANY (below)
                      ORDER BY c.popularity DESC, c.product_id DESC LIMIT "limit");
    END IF;

    RETURN (200, '{"cards":[' || array_to_string(domain.product_cards(ids), ',') || ']}', NULL, NULL)::api.reply;
END
$$;

-- {"cards": […]}: what shares category and brand with a product that the table does not know yet, the popular first.
CREATE OR REPLACE FUNCTION api.products_alike(id bigint, "limit" int DEFAULT 5) RETURNS api.reply
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    tenant  bigint := domain.tenant_id();
    one     record;
    ids     bigint[];
BEGIN
    SELECT c.category_id, c.brand_id INTO one
      FROM shop.product_card c WHERE c.tenant_id = tenant AND c.product_id = products_alike.id;

    IF NOT FOUND THEN
        PERFORM domain.fail(404, 'not-found', 'There is no such product.');
    END IF;

    ids := ARRAY(SELECT x.product_id
                   FROM (SELECT c.product_id, c.popularity, c.brand_id
                           FROM shop.product_card c
                           JOIN shop.product_stock s ON s.tenant_id = tenant AND s.product_id = c.product_id AND s.in_stock
                          WHERE c.tenant_id = tenant AND c.category_id = one.category_id AND c.product_id <> products_alike.id
                          ORDER BY c.popularity DESC LIMIT 500) x
                  ORDER BY (x.brand_id = one.brand_id) DESC NULLS LAST, x.popularity DESC, x.product_id DESC LIMIT "limit");

    RETURN (200, '{"cards":[' || array_to_string(domain.product_cards(ids), ',') || ']}', NULL, NULL)::api.reply;
END
$$;

-- {"category_id"}: of a category's slug.
CREATE OR REPLACE FUNCTION api.category_id(category text) RETURNS api.reply
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    found_id  bigint;
BEGIN
    SELECT c.id INTO found_id
      FROM shop.category c
     WHERE c.tenant_id = domain.tenant_id() AND c.deleted_at IS NULL AND c.slug = category_id.category;

    IF NOT FOUND THEN
        PERFORM domain.fail(404, 'not-found', 'There is no such category.');
    END IF;

    RETURN (200, json_build_object('category_id', found_id)::text, NULL, NULL)::api.reply;
END
$$;

-- L3: what somebody did with a recommendation. guest: hash of the cart token.
CREATE OR REPLACE FUNCTION api.recommendation_feedback(product_id bigint, action text, generation bigint DEFAULT NULL,
                                                       guest text DEFAULT NULL) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO shop.recommendation_feedback (tenant_id, user_id, guest, product_id, action, generation)
    SELECT p.tenant_id, domain.principal(), CASE WHEN domain.principal() IS NULL THEN nullif(recommendation_feedback.guest, '') END,
           p.id, recommendation_feedback.action, recommendation_feedback.generation
      FROM shop.product p
     WHERE p.tenant_id = domain.tenant_id() AND p.id = recommendation_feedback.product_id AND p.deleted_at IS NULL
       AND p.status = 'active';

    IF NOT FOUND THEN
        PERFORM domain.fail(404, 'not-found', 'There is no such product.');
    END IF;

    RETURN (202, '{"accepted":true}', NULL, NULL)::api.reply;
END
$$;

-- ── training ─────────────────────────────────────────────────────────────────────────────────────────────────────────

CREATE OR REPLACE FUNCTION domain.training_json(r shop.training_run) RETURNS json
LANGUAGE sql STABLE AS $$
    SELECT json_build_object('id', r.id, 'status', r.status, 'generation', r.generation, 'watermark', domain.ts(r.watermark),
                             'report', r.report, 'created_at', domain.ts(r.created_at), 'finished_at', domain.ts(r.finished_at))
$$;

-- L17: asks for a training; who asks while one is asked for gets that one. scripts/train --queued does it.
CREATE OR REPLACE FUNCTION api.training_request() RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    r  shop.training_run;
BEGIN
    PERFORM domain.need('catalog.write');
    PERFORM pg_advisory_xact_lock(hashtextextended('training', domain.tenant_id()));

    SELECT x.* INTO r FROM shop.training_run x WHERE x.tenant_id = domain.tenant_id() AND x.status = 'queued' ORDER BY x.id LIMIT 1;
    IF NOT FOUND THEN
        INSERT INTO shop.training_run AS x (tenant_id, status, requested_by) VALUES (domain.tenant_id(), 'queued', domain.principal())
        RETURNING x.* INTO r;
    END IF;

    PERFORM domain.audit('TrainingRequested', 'training', r.id::text, NULL, domain.training_json(r)::jsonb);
    RETURN (202, domain.training_json(r)::text,
            json_build_object('Location', '/api/v1/admin/recommendations/runs/' || r.id), NULL)::api.reply;
END
$$;

-- Trainings, newest first, with what was measured (L16).
CREATE OR REPLACE FUNCTION api.training_list("limit" int DEFAULT 20) RETURNS api.reply
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    runs  json;
BEGIN
    PERFORM domain.need('catalog.read');

    SELECT json_agg(domain.training_json(r) ORDER BY r.id DESC) INTO runs
      FROM (SELECT x.* FROM shop.training_run x WHERE x.tenant_id = domain.tenant_id() ORDER BY x.id DESC LIMIT "limit") r;

    RETURN (200, json_build_object('data', coalesce(runs, '[]'))::text, NULL, NULL)::api.reply;
END
$$;

CREATE OR REPLACE FUNCTION api.training_get(id bigint) RETURNS api.reply
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    r  shop.training_run;
BEGIN
    PERFORM domain.need('catalog.read');

    SELECT x.* INTO r FROM shop.training_run x WHERE x.tenant_id = domain.tenant_id() AND x.id = training_get.id;
    IF NOT FOUND THEN
        PERFORM domain.fail(404, 'not-found', 'There is no such training.');
    END IF;

    RETURN (200, domain.training_json(r)::text, NULL, NULL)::api.reply;
END
$$;
