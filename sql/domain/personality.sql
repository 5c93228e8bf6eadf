-- The style of shopping of customers who have agreed (L4): features that anybody could count, each between 0 and 1.
--
--   variety            how evenly views and purchases are spread over categories (entropy by that of as many categories, all equal)
--   price_sensitivity  share of bought lines that were reduced, or in the cheaper half of their category
--   planning           share of bought products that were looked at or remembered a day or more before
--   loyalty            share of purchases of brands that were bought more than once
--   deliberation       looks, comparisons and readings of reviews for each purchase: n / (n + 5)
--   review_engagement  share of bought products that were reviewed
--   tone               what the reviews sound like: 0 bad, 1 good
--
-- None of it is a reading of somebody's mind, and nothing of the shop's prices may depend on it.

-- What one of these customers did: kind view, click, wishlist, … of shop.interaction, the events told for this purpose, buy, review.
-- The last 500 of each kind of source.
CREATE OR REPLACE FUNCTION domain.style_events(users uuid[], OUT user_id uuid, OUT kind text, OUT product_id bigint, OUT at timestamptz,
                                               OUT reduced boolean, OUT sentiment real)
RETURNS SETOF record LANGUAGE plpgsql STABLE AS $$
DECLARE
    tenant  bigint := domain.tenant_id();
BEGIN
    RETURN QUERY
    SELECT u.id, x.*
      FROM unnest(users) u (id)
     CROSS JOIN LATERAL (
           (SELECT i.action, i.product_id, i.created_at, NULL::boolean, NULL::real
              FROM shop.interaction i WHERE i.tenant_id = tenant AND i.user_id = u.id ORDER BY i.id DESC LIMIT 500)
            UNION ALL
           (SELECT 'wishlist', w.product_id, w.created_at, NULL, NULL
              FROM shop.wishlist_item w WHERE w.tenant_id = tenant AND w.user_id = u.id LIMIT 500)
            UNION ALL
           (SELECT e.action, e.product_id, e.created_at, NULL, NULL
              FROM shop.personality_event e WHERE e.tenant_id = tenant AND e.user_id = u.id ORDER BY e.id DESC LIMIT 500)
            UNION ALL
           (SELECT 'buy', l.product_id, o.created_at,
                   l.discount_amount > 0 OR l.unit_amount < v.price_amount OR l.unit_amount <= m.middle, NULL
              FROM (SELECT o.id, o.created_at FROM shop.orders o
                     WHERE o.tenant_id = tenant AND o.user_id = u.id AND o.status <> 'cancelled' ORDER BY o.id DESC LIMIT 200) o
              JOIN shop.order_item l ON l.tenant_id = tenant AND l.order_id = o.id
              LEFT JOIN shop.variant v ON v.tenant_id = tenant AND v.id = l.variant_id
              LEFT JOIN shop.product p ON p.tenant_id = tenant AND p.id = l.product_id
              LEFT JOIN LATERAL (SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY k.price) AS middle
                                   FROM (SELECT c.price FROM shop.product_card c
                                          WHERE c.tenant_id = tenant AND c.category_id = p.category_id LIMIT 1000) k) m ON true)
            UNION ALL
           (SELECT 'review', r.product_id, r.created_at, NULL, r.sentiment_score
              FROM shop.review r WHERE r.tenant_id = tenant AND r.user_id = u.id AND r.deleted_at IS NULL LIMIT 500)) x;
END
$$;

-- The features of customers: value NULL when there is nothing to count. contributions: what counted most, [{"name", "share"}].
CREATE OR REPLACE FUNCTION domain.style_features(users uuid[], OUT user_id uuid, OUT feature text, OUT value real, OUT events int,
                                                 OUT contributions jsonb)
RETURNS SETOF record LANGUAGE plpgsql STABLE AS $$
DECLARE
    tenant  bigint := domain.tenant_id();
BEGIN
    RETURN QUERY
    WITH e AS MATERIALIZED (
        SELECT s.*, p.name AS product, c.name AS category, b.name AS brand
          FROM domain.style_events(users) s
          LEFT JOIN shop.product p ON p.tenant_id = tenant AND p.id = s.product_id
          LEFT JOIN shop.category c ON c.tenant_id = tenant AND c.id = p.category_id
          LEFT JOIN shop.brand b ON b.tenant_id = tenant AND b.id = p.brand_id),
    bought AS MATERIALIZED (    -- each product once, when it was bought first
        SELECT x.user_id, x.product_id, min(x.at) AS at, min(x.product) AS product, min(x.brand) AS brand,
               bool_or(x.reduced) AS reduced,
               EXISTS (SELECT FROM e y WHERE y.user_id = x.user_id AND y.product_id = x.product_id AND y.kind <> 'buy'
                          AND y.at < min(x.at) - interval '1 day') AS planned,
               EXISTS (SELECT FROM e y WHERE y.user_id = x.user_id AND y.product_id = x.product_id AND y.kind = 'review') AS reviewed
          FROM e x WHERE x.kind = 'buy' GROUP BY x.user_id, x.product_id),
    parts (user_id, feature, name, weight, counted) AS (   -- weight: of a contribution; counted: events behind it
        SELECT e.user_id, 'variety', e.category, count(*)::real, count(*) FROM e
         WHERE e.category IS NOT NULL AND e.kind NOT IN ('review') GROUP BY 1, 3
         UNION ALL
        SELECT b.user_id, 'price_sensitivity', b.product, coalesce(b.reduced, false)::int, 1 FROM bought b
         UNION ALL
        SELECT b.user_id, 'planning', b.product, b.planned::int, 1 FROM bought b
         UNION ALL
        SELECT b.user_id, 'loyalty', b.brand, CASE WHEN count(*) > 1 THEN count(*) ELSE 0 END, count(*) FROM bought b
         WHERE b.brand IS NOT NULL GROUP BY 1, 3
         UNION ALL
        SELECT e.user_id, 'deliberation', e.kind, count(*), count(*) FROM e
         WHERE e.kind NOT IN ('buy', 'review') GROUP BY 1, 3
         UNION ALL
        SELECT b.user_id, 'review_engagement', b.product, b.reviewed::int, 1 FROM bought b
         UNION ALL
        SELECT e.user_id, 'tone', e.product, (e.sentiment + 1) / 2, 1 FROM e WHERE e.kind = 'review' AND e.sentiment IS NOT NULL),
    sums AS (
        SELECT p.user_id, p.feature, sum(p.weight) AS total, sum(p.counted) AS counted, count(*) AS n,
               jsonb_agg(jsonb_build_object('name', p.name, 'share', CASE WHEN p.feature = 'tone' THEN round(p.weight::numeric, 4)
                                                                          ELSE p.weight END)
                         ORDER BY p.weight DESC, p.name) FILTER (WHERE p.weight > 0 OR p.feature = 'tone') AS names
          FROM parts p GROUP BY p.user_id, p.feature)
    SELECT s.user_id, s.feature,
           (CASE s.feature
                WHEN 'variety' THEN CASE WHEN s.n > 1 THEN
                    (SELECT -sum(p.weight / s.total * ln(p.weight / s.total)) FROM parts p
                      WHERE p.user_id = s.user_id AND p.feature = 'variety') / ln(s.n) ELSE 0 END
                WHEN 'deliberation' THEN s.total / greatest((SELECT count(*) FROM bought b WHERE b.user_id = s.user_id), 1)
                                         / (s.total / greatest((SELECT count(*) FROM bought b WHERE b.user_id = s.user_id), 1) + 5)
                WHEN 'tone' THEN s.total / s.n
                ELSE s.total / s.counted END)::real,
           s.counted::int,
           coalesce((SELECT jsonb_agg(jsonb_build_object('name', n.value -> 'name', 'share', CASE WHEN s.feature = 'tone'
                                      THEN n.value -> 'share' ELSE to_jsonb(round(((n.value ->> 'share')::numeric / s.total::numeric), 4)) END)
                                      ORDER BY n.ordinality)
                       FROM jsonb_array_elements(s.names) WITH ORDINALITY n WHERE n.ordinality <= 5), '[]')
      FROM sums s;
END
$$;

-- What is usual among those who have agreed, the last 1,000 of them; made anew when it is older than "age".
CREATE OR REPLACE FUNCTION domain.personality_norms(age interval) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    tenant  bigint := domain.tenant_id();
BEGIN
    IF EXISTS (SELECT FROM shop.personality_norm n WHERE n.tenant_id = tenant AND n.created_at > now() - age)
       -- two at once would make the same
       OR NOT pg_try_advisory_xact_lock(hashtextextended('commerce.personality', tenant)) THEN
        RETURN;
    END IF;

    DELETE FROM shop.personality_norm n WHERE n.tenant_id = tenant;
    INSERT INTO shop.personality_norm (tenant_id, feature, customers, quantiles)
    SELECT tenant, f.feature, count(*), percentile_cont((SELECT array_agg(i / 100.0::float8 ORDER BY i) FROM generate_series(0, 100) i))
                                        WITHIN GROUP (ORDER BY f.value)::real[]
      FROM domain.style_features(ARRAY(SELECT c.user_id FROM shop.personality_consent c
                                        WHERE c.tenant_id = tenant ORDER BY c.created_at DESC LIMIT 1000)) f
     WHERE f.value IS NOT NULL
     GROUP BY f.feature;
END
$$;

-- Share of the others whose value is smaller (half of those who have the same), 0 to 100. NULL for fewer than 5 customers.
CREATE OR REPLACE FUNCTION domain.personality_percentile(feature text, value real) RETURNS int
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (SELECT round((SELECT sum(CASE WHEN q < value THEN 1 WHEN q = value THEN 0.5 ELSE 0 END) FROM unnest(n.quantiles) q)
                         / 1.01)::int
              FROM shop.personality_norm n
             WHERE n.tenant_id = domain.tenant_id() AND n.feature = personality_percentile.feature AND n.customers >= 5);
END
$$;

-- Without consent nothing is counted: 403.
CREATE OR REPLACE FUNCTION domain.personality_consent() RETURNS timestamptz
LANGUAGE plpgsql STABLE AS $$
DECLARE
    since  timestamptz;
BEGIN
    SELECT c.created_at INTO since
      FROM shop.personality_consent c WHERE c.tenant_id = domain.tenant_id() AND c.user_id = domain.principal();
    IF NOT FOUND THEN
        PERFORM domain.fail(403, 'consent-missing', 'You have not agreed to this: PUT /api/v1/user/personality/consent');
    END IF;
    RETURN since;
END
$$;
