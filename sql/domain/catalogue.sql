-- The catalogue's rules: words and slugs, the reading side, stock levels.

-- Lower case without accents: what names are compared and sorted by.
CREATE OR REPLACE FUNCTION domain.fold(t text) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT lower(public.unaccent('public.unaccent', t))
$$;

-- "Crème brûlée, 2 pcs" → creme-brulee-2-pcs. Never empty.
CREATE OR REPLACE FUNCTION domain.slugify(t text) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT coalesce(nullif(btrim(left(regexp_replace(domain.fold(t), '[^a-z0-9]+', '-', 'g'), 110), '-'), ''), 'item')
$$;

-- Digits after the point of a currency (ISO 4217).
CREATE OR REPLACE FUNCTION domain.currency_exponent(currency text) RETURNS int
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN currency IN ('BIF', 'CLP', 'DJF', 'GNF', 'ISK', 'JPY', 'KMF', 'KRW', 'PYG', 'RWF', 'UGX', 'UYI', 'VND', 'VUV',
                          'XAF', 'XOF', 'XPF') THEN 0
        WHEN currency IN ('BHD', 'IQD', 'JOD', 'KWD', 'LYD', 'OMR', 'TND') THEN 3
        ELSE 2 END
$$;

-- RFC 7396: what a merge patch makes of a document.
CREATE OR REPLACE FUNCTION domain.merge_patch(target jsonb, patch jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    result  jsonb := CASE WHEN jsonb_typeof(target) = 'object' THEN target ELSE '{}' END;
    member  record;
BEGIN
    IF jsonb_typeof(patch) <> 'object' THEN
        RETURN patch;
    END IF;

    FOR member IN SELECT key, value FROM jsonb_each(patch) LOOP
        IF jsonb_typeof(member.value) = 'null' THEN
            result := result - member.key;
        ELSE
            result := result || jsonb_build_object(member.key, domain.merge_patch(result -> member.key, member.value));
        END IF;
    END LOOP;

    RETURN result;
END
$$;

-- The version that an If-Match header names ("7" or "7-99", the second part is of the stock): NULL for *.
-- Refuses a missing header with 428, an old version with 412.
CREATE OR REPLACE FUNCTION domain.check_version(if_match text, version bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF if_match IS NULL THEN
        PERFORM domain.fail(428, 'if-match-missing', 'Send If-Match with the ETag that you read, or *');
    END IF;

    IF btrim(if_match) <> '*'
       AND version IS DISTINCT FROM substring(if_match FROM '^\s*"([0-9]{1,18})(?:-[^"]*)?"\s*$')::bigint THEN
        PERFORM domain.fail(412, 'version-mismatch', 'Somebody has changed it since you read it',
                            jsonb_build_object('current_version', version));
    END IF;
END
$$;

-- A category and everything below it.
CREATE OR REPLACE FUNCTION domain.category_tree(category bigint) RETURNS bigint[]
LANGUAGE sql STABLE AS $$
    SELECT array_agg(c.id)
      FROM shop.category c
     WHERE c.tenant_id = domain.tenant_id() AND c.deleted_at IS NULL AND c.path @> ARRAY[category]
$$;

-- ── stock ────────────────────────────────────────────────────────────────────────────────────────────────────────────

-- Tells the reading side that these variants' rows in shop.stock have changed. Call it last, in the transaction that
-- changed them and while their locks are held. Order of locks: stock by (variant, location), then product_stock by product.
-- The levels are locked first and summed by a second statement, whose snapshot is younger than the locks: two sales of two
-- variants of one product cannot lose each other's change.
CREATE OR REPLACE FUNCTION domain.stock_changed(variant_ids bigint[]) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    tenant    bigint := domain.tenant_id();
    products  bigint[];
BEGIN
    products := ARRAY(SELECT DISTINCT s.product_id
                        FROM shop.stock s
                       WHERE s.tenant_id = tenant AND s.variant_id = ANY (variant_ids)
                       ORDER BY s.product_id);

    PERFORM FROM shop.product_stock l
      WHERE l.tenant_id = tenant AND l.product_id = ANY (products)
      ORDER BY l.product_id
        FOR NO KEY UPDATE;

    UPDATE shop.product_stock l
       SET stock = n.stock, in_stock = n.in_stock
      FROM unnest(products) AS p (id)
     CROSS JOIN LATERAL (
           SELECT coalesce(sum(greatest(s.on_hand - s.reserved, 0)), 0)::int AS stock,
                  coalesce(bool_or(s.on_hand > s.reserved OR s.allow_backorder OR NOT s.track_stock), false) AS in_stock
             FROM shop.stock s
            WHERE s.tenant_id = tenant AND s.product_id = p.id
           OFFSET 0) n
     WHERE l.tenant_id = tenant AND l.product_id = p.id
       AND (l.stock, l.in_stock) IS DISTINCT FROM (n.stock, n.in_stock);
END
$$;

-- The location that stock is at when nobody names one; made when the tenant has none.
CREATE OR REPLACE FUNCTION domain.default_location() RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    found_id bigint;
BEGIN
    SELECT l.id INTO found_id
      FROM shop.location l
     WHERE l.tenant_id = domain.tenant_id() AND l.deleted_at IS NULL
     ORDER BY l.priority DESC, l.id
     LIMIT 1;

    IF NOT FOUND THEN
        INSERT INTO shop.location (tenant_id, code, name) VALUES (domain.tenant_id(), 'main', 'Main')
        ON CONFLICT (tenant_id, code) DO UPDATE SET deleted_at = NULL
        RETURNING id INTO found_id;
    END IF;

    RETURN found_id;
END
$$;

-- Sets a variant's level at the default location, with the movement that explains it. NULL leaves as it is.
CREATE OR REPLACE FUNCTION domain.stock_put(variant bigint, product bigint, quantity int, track boolean DEFAULT NULL,
                                            backorder boolean DEFAULT NULL) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    tenant  bigint := domain.tenant_id();
    place   bigint := domain.default_location();
    old     int;
    made    boolean;
BEGIN
    INSERT INTO shop.stock (tenant_id, variant_id, location_id, product_id, on_hand, track_stock, allow_backorder)
    VALUES (tenant, variant, place, product, coalesce(quantity, 0), coalesce(track, true), coalesce(backorder, false))
    ON CONFLICT DO NOTHING;
    made := FOUND;

    IF made THEN
        old := 0;
    ELSE
        SELECT s.on_hand INTO old
          FROM shop.stock s
         WHERE s.tenant_id = tenant AND s.variant_id = variant AND s.location_id = place
           FOR UPDATE;

        UPDATE shop.stock s
           SET on_hand = coalesce(quantity, s.on_hand), track_stock = coalesce(track, s.track_stock),
               allow_backorder = coalesce(backorder, s.allow_backorder), version = s.version + 1, updated_at = now()
         WHERE s.tenant_id = tenant AND s.variant_id = variant AND s.location_id = place;
    END IF;

    IF quantity <> old THEN
        INSERT INTO shop.stock_movement (tenant_id, variant_id, location_id, delta, on_hand, reason, actor)
        VALUES (tenant, variant, place, quantity - old, quantity, CASE WHEN made THEN 'received' ELSE 'adjustment' END,
                domain.principal());
    END IF;
END
$$;

-- ── the reading side ─────────────────────────────────────────────────────────────────────────────────────────────────

-- What follows a card: its stock. The card's text has no closing brace. STABLE, as its operators are: declared IMMUTABLE it
-- would not be inlined, and parsed at each call.
CREATE OR REPLACE FUNCTION domain.stock_tail(stock int, in_stock boolean) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT ',"stock":' || stock || CASE WHEN in_stock THEN ',"in_stock":true}' ELSE ',"in_stock":false}' END
$$;

-- The whole cards of products, as JSON texts in the order of ids; those not for sale are left out.
CREATE OR REPLACE FUNCTION domain.product_cards(ids bigint[]) RETURNS text[]
LANGUAGE plpgsql STABLE AS $$
DECLARE
    tenant  bigint := domain.tenant_id();
BEGIN
    RETURN ARRAY(
        SELECT c.card || domain.stock_tail(s.stock, s.in_stock)
          FROM unnest(ids) WITH ORDINALITY AS i (id, place)
         CROSS JOIN LATERAL (SELECT c.card FROM shop.product_card c
                              WHERE c.tenant_id = tenant AND c.product_id = i.id OFFSET 0) c
         CROSS JOIN LATERAL (SELECT s.stock, s.in_stock FROM shop.product_stock s
                              WHERE s.tenant_id = tenant AND s.product_id = i.id OFFSET 0) s
         ORDER BY i.place);
END
$$;

-- Makes the reading side of products anew: documents, cards, search, words, levels. Call it after any change of a product,
-- its variants, images, rating, category or brand.
CREATE OR REPLACE FUNCTION domain.product_refresh(ids bigint[]) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    tenant  bigint := domain.tenant_id();
    money   text;
BEGIN
    SELECT t.currency INTO STRICT money FROM shop.tenant t WHERE t.id = tenant;

    UPDATE shop.variant v
       SET document = left(to_json(d)::text, -1)
      FROM shop.variant x
     CROSS JOIN LATERAL (
           SELECT x.id, x.sku, x.name, x.barcode,
                  domain.money(x.price_amount, money) AS price, domain.money(x.sale_amount, money) AS sale_price,
                  x.attributes, x.image, x.weight_grams) d
     WHERE x.tenant_id = tenant AND x.product_id = ANY (ids) AND x.deleted_at IS NULL
       AND v.tenant_id = tenant AND v.id = x.id
       AND v.document IS DISTINCT FROM left(to_json(d)::text, -1);

    UPDATE shop.product p
       SET default_variant_id = f.id
      FROM (SELECT DISTINCT ON (v.product_id) v.product_id, v.id
              FROM shop.variant v
             WHERE v.tenant_id = tenant AND v.product_id = ANY (ids) AND v.deleted_at IS NULL
             ORDER BY v.product_id, v.position, v.id) f
     WHERE p.tenant_id = tenant AND p.id = f.product_id AND p.default_variant_id IS DISTINCT FROM f.id;

    INSERT INTO shop.product_stock (tenant_id, product_id)
    SELECT tenant, i.id FROM unnest(ids) AS i (id) ORDER BY i.id
    ON CONFLICT DO NOTHING;

    PERFORM domain.stock_changed(ARRAY(
        SELECT v.id FROM shop.variant v WHERE v.tenant_id = tenant AND v.product_id = ANY (ids)));

    DELETE FROM shop.product_card c
     USING shop.product p
     WHERE c.tenant_id = tenant AND c.product_id = ANY (ids)
       AND p.tenant_id = tenant AND p.id = c.product_id
       AND (p.deleted_at IS NOT NULL OR p.status <> 'active');

    INSERT INTO shop.product_document AS d (tenant_id, product_id, version, document, rated)
    SELECT tenant, p.id, p.version, left(to_json(j)::text, -1),
           CASE WHEN p.rating_count > 0 THEN '-' || p.rating_count || '.' || p.rating_sum ELSE '' END
      FROM shop.product p
      LEFT JOIN shop.category c ON c.tenant_id = p.tenant_id AND c.id = p.category_id
      LEFT JOIN shop.brand b ON b.tenant_id = p.tenant_id AND b.id = p.brand_id
      LEFT JOIN shop.variant v ON v.tenant_id = p.tenant_id AND v.id = p.default_variant_id
     CROSS JOIN LATERAL (
           SELECT p.id, p.slug, p.external_id, p.status, p.name, p.description,
                  b.name AS brand, b.id AS brand_id,
                  CASE WHEN c.id IS NOT NULL THEN (SELECT to_json(k) FROM (SELECT c.id, c.slug, c.name) k) END AS category,
                  p.tags, p.attributes, p.seo,
                  domain.money(v.price_amount, money) AS price, domain.money(v.sale_amount, money) AS sale_price,
                  p.image,
                  coalesce((SELECT json_agg(k) FROM (SELECT m.id, m.url, m.alt FROM shop.product_image m
                                                      WHERE m.tenant_id = p.tenant_id AND m.product_id = p.id
                                                      ORDER BY m.position, m.id) k), '[]') AS images,
                  (SELECT to_json(k) FROM (SELECT coalesce(round(p.rating_sum::numeric / nullif(p.rating_count, 0), 2), 0)::float8
                                                      AS average, p.rating_count AS count) k) AS rating,
                  p.low_stock_threshold, v.sku, p.default_variant_id, p.version,
                  domain.ts(p.created_at) AS created_at, domain.ts(p.updated_at) AS updated_at) j
     WHERE p.tenant_id = tenant AND p.id = ANY (ids) AND p.deleted_at IS NULL
    ON CONFLICT (tenant_id, product_id) DO UPDATE
       SET version = excluded.version, document = excluded.document, rated = excluded.rated;

    DELETE FROM shop.product_document d
     USING shop.product p
     WHERE d.tenant_id = tenant AND d.product_id = ANY (ids)
       AND p.tenant_id = tenant AND p.id = d.product_id AND p.deleted_at IS NOT NULL;

    INSERT INTO shop.product_card AS k (tenant_id, product_id, price, created_at, category_id, brand_id, rating, popularity,
                                        name, card, search)
    SELECT tenant, p.id, coalesce(v.sale_amount, v.price_amount), p.created_at, p.category_id, p.brand_id, r.rating,
           p.popularity, domain.fold(p.name), left(to_json(j)::text, -1),
           setweight(to_tsvector('shop.words', p.name), 'A')
           || setweight(to_tsvector('shop.words', concat_ws(' ', b.name, c.name, array_to_string(p.tags, ' '))), 'B')
           || setweight(to_tsvector('simple', v.sku), 'B')
           || setweight(to_tsvector('shop.words', left(p.description, 4000)), 'D')
      FROM shop.product p
      JOIN shop.variant v ON v.tenant_id = p.tenant_id AND v.id = p.default_variant_id
      LEFT JOIN shop.category c ON c.tenant_id = p.tenant_id AND c.id = p.category_id
      LEFT JOIN shop.brand b ON b.tenant_id = p.tenant_id AND b.id = p.brand_id
     CROSS JOIN LATERAL (
           SELECT coalesce(round(p.rating_sum::numeric / nullif(p.rating_count, 0), 2), 0)::float8 AS rating) r
     CROSS JOIN LATERAL (
           SELECT p.id, p.slug, p.name, b.name AS brand,
                  CASE WHEN c.id IS NOT NULL THEN (SELECT to_json(k) FROM (SELECT c.id, c.slug, c.name) k) END AS category,
                  domain.money(v.price_amount, money) AS price, domain.money(v.sale_amount, money) AS sale_price,
                  p.image,
                  (SELECT to_json(k) FROM (SELECT r.rating AS average, p.rating_count AS count) k) AS rating,
                  p.default_variant_id) j
     WHERE p.tenant_id = tenant AND p.id = ANY (ids) AND p.deleted_at IS NULL AND p.status = 'active'
    ON CONFLICT (tenant_id, product_id) DO UPDATE
       SET price = excluded.price, created_at = excluded.created_at, category_id = excluded.category_id,
           brand_id = excluded.brand_id, rating = excluded.rating, popularity = excluded.popularity, name = excluded.name,
           card = excluded.card, search = excluded.search;

    INSERT INTO shop.search_word (tenant_id, word)
    SELECT DISTINCT tenant, w.word
      FROM shop.product p
      LEFT JOIN shop.category c ON c.tenant_id = p.tenant_id AND c.id = p.category_id
      LEFT JOIN shop.brand b ON b.tenant_id = p.tenant_id AND b.id = p.brand_id
     CROSS JOIN LATERAL regexp_split_to_table(
               domain.fold(concat_ws(' ', p.name, b.name, c.name, array_to_string(p.tags, ' '))), '[^a-z0-9]+') AS w (word)
     WHERE p.tenant_id = tenant AND p.id = ANY (ids) AND p.deleted_at IS NULL
       AND length(w.word) BETWEEN 3 AND 40 AND w.word !~ '[0-9]'
     ORDER BY 2
    ON CONFLICT DO NOTHING;
END
$$;
