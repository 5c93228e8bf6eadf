-- How products are written: staff and import share it.

-- An amount of a body: {"amount", "currency"} in the tenant's currency, or NULL.
CREATE OR REPLACE FUNCTION domain.amount_of(money jsonb, member text) RETURNS bigint
LANGUAGE plpgsql STABLE AS $$
DECLARE
    own  text;
BEGIN
    IF money IS NULL OR jsonb_typeof(money) = 'null' THEN
        RETURN NULL;
    END IF;

    SELECT t.currency INTO own FROM shop.tenant t WHERE t.id = domain.tenant_id();
    IF money ->> 'currency' IS DISTINCT FROM own THEN
        PERFORM domain.fail(422, 'invalid-value', format('This shop sells in %s', own),
                            domain.field_error('/' || member || '/currency', 'currency', 'must be ' || own));
    END IF;

    RETURN (money ->> 'amount')::bigint;
END
$$;

-- The members "errors" of a problem document with one entry.
CREATE OR REPLACE FUNCTION domain.field_error(pointer text, code text, message text) RETURNS jsonb
LANGUAGE sql IMMUTABLE AS $$
    SELECT jsonb_build_object('errors', jsonb_build_array(
               jsonb_build_object('pointer', pointer, 'code', code, 'message', message)))
$$;

-- A slug that no other product has, now or in its past: base, base-2, base-3 …
CREATE OR REPLACE FUNCTION domain.free_slug(base text, product bigint DEFAULT NULL) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    tenant     bigint := domain.tenant_id();
    candidate  text := base;
    n          int := 1;
BEGIN
    WHILE EXISTS (SELECT FROM shop.product p
                   WHERE p.tenant_id = tenant AND p.slug = candidate AND p.deleted_at IS NULL AND p.id IS DISTINCT FROM product)
    LOOP
        n := n + 1;
        candidate := base || '-' || n;
    END LOOP;
    RETURN candidate;
END
$$;

-- The brand of this name; made when there is none.
CREATE OR REPLACE FUNCTION domain.brand_named(p_name text) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    found_id bigint;
BEGIN
    SELECT b.id INTO found_id FROM shop.brand b
     WHERE b.tenant_id = domain.tenant_id() AND b.slug = domain.slugify(p_name) AND b.deleted_at IS NULL;
    IF NOT FOUND THEN
        INSERT INTO shop.brand AS b (tenant_id, slug, name) VALUES (domain.tenant_id(), domain.slugify(p_name), p_name)
        ON CONFLICT (tenant_id, slug) WHERE deleted_at IS NULL DO UPDATE SET name = b.name
        RETURNING b.id INTO found_id;
    END IF;
    RETURN found_id;
END
$$;

-- The category of this slug or name; made at the top level when there is none and "make" says so.
CREATE OR REPLACE FUNCTION domain.category_named(p_name text, make boolean) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    found_id bigint;
BEGIN
    SELECT c.id INTO found_id FROM shop.category c
     WHERE c.tenant_id = domain.tenant_id() AND c.slug = domain.slugify(p_name) AND c.deleted_at IS NULL;
    IF NOT FOUND AND make THEN
        INSERT INTO shop.category AS c (tenant_id, id, slug, name, path)
        SELECT domain.tenant_id(), n.id, domain.slugify(p_name),
               CASE WHEN p_name ~ '^[a-z0-9-]+$' THEN initcap(replace(p_name, '-', ' ')) ELSE p_name END, ARRAY[n.id]
          FROM (SELECT nextval(pg_get_serial_sequence('shop.category', 'id')) AS id) n
        ON CONFLICT (tenant_id, slug) WHERE deleted_at IS NULL DO UPDATE SET name = c.name
        RETURNING c.id INTO found_id;
    END IF;
    RETURN found_id;
END
$$;

-- Puts a price on record, when it is another than before.
CREATE OR REPLACE FUNCTION domain.price_kept(variant bigint, price bigint, sale bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO shop.price_history (tenant_id, variant_id, price_amount, sale_amount)
    SELECT domain.tenant_id(), variant, price, sale
     WHERE (price, sale) IS DISTINCT FROM
           (SELECT (h.price_amount, h.sale_amount) FROM shop.price_history h
             WHERE h.tenant_id = domain.tenant_id() AND h.variant_id = variant
             ORDER BY h.id DESC LIMIT 1);
END
$$;

-- A product as the body that would write it: what a merge patch is applied to. Without stock, which has a life of its own.
CREATE OR REPLACE FUNCTION domain.product_input(product bigint) RETURNS jsonb
LANGUAGE plpgsql STABLE AS $$
DECLARE
    tenant  bigint := domain.tenant_id();
    money   text := (SELECT t.currency FROM shop.tenant t WHERE t.id = domain.tenant_id());
BEGIN
    RETURN (
        SELECT jsonb_strip_nulls(jsonb_build_object(
                   'name', p.name, 'slug', p.slug, 'external_id', p.external_id, 'status', p.status, 'description', p.description,
                   'category_id', p.category_id, 'brand_id', p.brand_id, 'tags', p.tags, 'image', p.image,
                   'low_stock_threshold', p.low_stock_threshold,
                   'images', (SELECT coalesce(jsonb_agg(jsonb_strip_nulls(jsonb_build_object('url', m.url, 'alt', m.alt))
                                                        ORDER BY m.position, m.id), '[]')
                                FROM shop.product_image m WHERE m.tenant_id = tenant AND m.product_id = p.id)))
               || jsonb_build_object('attributes', p.attributes, 'seo', p.seo)
               || CASE WHEN v.n = 1 THEN v.first ELSE jsonb_build_object('variants', v.list) END
          FROM shop.product p
         CROSS JOIN LATERAL (
               SELECT count(*) AS n,
                      jsonb_agg(jsonb_strip_nulls(jsonb_build_object(
                          'sku', x.sku, 'name', x.name, 'barcode', x.barcode, 'price', domain.money(x.price_amount, money),
                          'sale_price', domain.money(x.sale_amount, money), 'image', x.image,
                          'weight_grams', x.weight_grams)) || jsonb_build_object('attributes', x.attributes)
                          ORDER BY x.position, x.id) AS list,
                      (array_agg(jsonb_strip_nulls(jsonb_build_object(
                          'sku', x.sku, 'price', domain.money(x.price_amount, money),
                          'sale_price', domain.money(x.sale_amount, money), 'barcode', x.barcode,
                          'weight_grams', x.weight_grams))))[1] AS first
                 FROM shop.variant x
                WHERE x.tenant_id = tenant AND x.product_id = p.id AND x.deleted_at IS NULL) v
         WHERE p.tenant_id = tenant AND p.id = product);
END
$$;

-- Writes a product whole: "product" NULL makes one. What the document leaves out gets its default; stock that it leaves out
-- stays. Without "variants" the product has one, described by sku, price, sale_price, barcode, weight_grams, stock.
-- Returns the id. The reading side is the caller's to refresh.
CREATE OR REPLACE FUNCTION domain.product_write(product bigint, doc jsonb) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    tenant    bigint := domain.tenant_id();
    p_id      bigint := product;
    old_slug  text;
    new_slug  text;
    category  bigint := (doc ->> 'category_id')::bigint;
    brand     bigint := (doc ->> 'brand_id')::bigint;
    variants  jsonb := doc -> 'variants';
    item      record;
    v_id      bigint;
    kept      bigint[] := '{}';
    v_sku     text;
    v_price   bigint;
    v_sale    bigint;
BEGIN
    IF category IS NULL AND doc ->> 'category' IS NOT NULL THEN
        category := domain.category_named(doc ->> 'category', false);
    END IF;
    IF category IS NULL AND (doc ->> 'category' IS NOT NULL)
       OR category IS NOT NULL AND NOT EXISTS (SELECT FROM shop.category c WHERE c.tenant_id = tenant AND c.id = category
                                                 AND c.deleted_at IS NULL) THEN
        PERFORM domain.fail(422, 'invalid-value', 'There is no such category',
            domain.field_error(CASE WHEN doc ? 'category_id' THEN '/category_id' ELSE '/category' END, 'unknown', 'there is no such category'));
    END IF;

    IF brand IS NULL AND doc ->> 'brand' IS NOT NULL THEN
        brand := domain.brand_named(doc ->> 'brand');
    ELSIF brand IS NOT NULL AND NOT EXISTS (SELECT FROM shop.brand b WHERE b.tenant_id = tenant AND b.id = brand
                                             AND b.deleted_at IS NULL) THEN
        PERFORM domain.fail(422, 'invalid-value', 'There is no such brand',
                            domain.field_error('/brand_id', 'unknown', 'there is no such brand'));
    END IF;

    IF p_id IS NOT NULL THEN
        SELECT p.slug INTO STRICT old_slug FROM shop.product p WHERE p.tenant_id = tenant AND p.id = p_id;
    END IF;

    new_slug := doc ->> 'slug';
    IF new_slug IS NULL THEN
        new_slug := coalesce(old_slug, domain.free_slug(domain.slugify(doc ->> 'name')));
    ELSIF EXISTS (SELECT FROM shop.product p WHERE p.tenant_id = tenant AND p.slug = new_slug AND p.deleted_at IS NULL
                     AND p.id IS DISTINCT FROM p_id) THEN
        PERFORM domain.fail(409, 'slug-taken', format('Another product has the slug %s', new_slug),
                            domain.field_error('/slug', 'taken', 'another product has it'));
    END IF;

    IF EXISTS (SELECT FROM shop.product p
                WHERE p.tenant_id = tenant AND p.external_id = doc ->> 'external_id' AND p.deleted_at IS NULL
                  AND p.id IS DISTINCT FROM p_id) THEN
        PERFORM domain.fail(409, 'external-id-taken', format('Another product has the external id %s', doc ->> 'external_id'),
                            domain.field_error('/external_id', 'taken', 'another product has it'));
    END IF;

    IF p_id IS NULL THEN
        INSERT INTO shop.product (tenant_id, slug, name, external_id, created_at)
        VALUES (tenant, new_slug, doc ->> 'name', doc ->> 'external_id', coalesce((doc ->> 'created_at')::timestamptz, now()))
        RETURNING id INTO p_id;
    END IF;

    UPDATE shop.product p
       SET slug = new_slug, name = doc ->> 'name', description = coalesce(doc ->> 'description', ''),
           external_id = coalesce(doc ->> 'external_id', p.external_id),
           status = coalesce(doc ->> 'status', 'active'), category_id = category, brand_id = brand,
           tags = ARRAY(SELECT jsonb_array_elements_text(coalesce(doc -> 'tags', '[]'))),
           attributes = coalesce(doc -> 'attributes', '{}'), seo = coalesce(doc -> 'seo', '{}'),
           image = coalesce(doc ->> 'image', doc -> 'images' -> 0 ->> 'url'),
           low_stock_threshold = coalesce((doc ->> 'low_stock_threshold')::int, 5),
           version = p.version + (product IS NOT NULL)::int, updated_at = now()
     WHERE p.tenant_id = tenant AND p.id = p_id;

    IF old_slug <> new_slug THEN
        INSERT INTO shop.product_slug AS s (tenant_id, slug, product_id) VALUES (tenant, old_slug, p_id)
        ON CONFLICT (tenant_id, slug) DO UPDATE SET product_id = excluded.product_id, created_at = now();
    END IF;
    DELETE FROM shop.product_slug s WHERE s.tenant_id = tenant AND s.slug = new_slug;

    IF (SELECT coalesce(jsonb_agg(jsonb_strip_nulls(jsonb_build_object('url', m.url, 'alt', m.alt)) ORDER BY m.position, m.id), '[]')
          FROM shop.product_image m WHERE m.tenant_id = tenant AND m.product_id = p_id)
       <> jsonb_strip_nulls(coalesce(doc -> 'images', '[]')) THEN
        DELETE FROM shop.product_image m WHERE m.tenant_id = tenant AND m.product_id = p_id;
        INSERT INTO shop.product_image (tenant_id, product_id, url, alt, position)
        SELECT tenant, p_id, e.value ->> 'url', e.value ->> 'alt', e.ordinality
          FROM jsonb_array_elements(doc -> 'images') WITH ORDINALITY AS e;
    END IF;

    IF variants IS NULL THEN
        variants := jsonb_build_array(doc - ARRAY['name', 'image', 'attributes']);
    END IF;

    FOR item IN SELECT e.value AS v, e.ordinality::int AS place
                  FROM jsonb_array_elements(variants) WITH ORDINALITY AS e LOOP
        v_price := domain.amount_of(coalesce(item.v -> 'price', doc -> 'price'), 'price');
        v_sale := domain.amount_of(coalesce(item.v -> 'sale_price', CASE WHEN item.v -> 'price' IS NULL THEN doc -> 'sale_price' END),
                                 'sale_price');
        IF v_price IS NULL THEN
            PERFORM domain.fail(422, 'invalid-value', 'A price is missing', domain.field_error(
                CASE WHEN doc ? 'variants' THEN format('/variants/%s/price', item.place - 1) ELSE '/price' END,
                'required', 'is required'));
        ELSIF v_sale > v_price THEN
            PERFORM domain.fail(422, 'invalid-value', 'A sale price must not exceed the price', domain.field_error(
                CASE WHEN doc ? 'variants' THEN format('/variants/%s/sale_price', item.place - 1) ELSE '/sale_price' END,
                'maximum', 'must not exceed the price'));
        END IF;

        -- the same variant by SKU; a product's only variant may change its SKU
        v_sku := item.v ->> 'sku';
        v_id := NULL;
        IF product IS NOT NULL THEN
            SELECT x.id, coalesce(item.v ->> 'sku', x.sku) INTO v_id, v_sku
              FROM shop.variant x
             WHERE x.tenant_id = tenant AND x.product_id = p_id AND x.deleted_at IS NULL
               AND (x.sku = item.v ->> 'sku' OR jsonb_array_length(variants) = 1)
             ORDER BY (x.sku = item.v ->> 'sku') DESC NULLS LAST, x.position, x.id
             LIMIT 1;
            v_sku := coalesce(v_sku, item.v ->> 'sku');
        END IF;
        v_sku := coalesce(v_sku, format('P%s-%s', p_id, item.place));

        IF EXISTS (SELECT FROM shop.variant x WHERE x.tenant_id = tenant AND x.sku = v_sku AND x.deleted_at IS NULL
                      AND x.id IS DISTINCT FROM v_id) THEN
            PERFORM domain.fail(409, 'sku-taken', format('Another variant has the SKU %s', v_sku), domain.field_error(
                CASE WHEN doc ? 'variants' THEN format('/variants/%s/sku', item.place - 1) ELSE '/sku' END,
                'taken', 'another variant has it'));
        END IF;

        IF v_id IS NULL THEN
            INSERT INTO shop.variant (tenant_id, product_id, sku, price_amount)
            VALUES (tenant, p_id, v_sku, v_price)
            RETURNING id INTO v_id;
        END IF;

        UPDATE shop.variant x
           SET sku = v_sku, name = item.v ->> 'name', barcode = item.v ->> 'barcode', price_amount = v_price,
               sale_amount = v_sale, attributes = coalesce(item.v -> 'attributes', '{}'), image = item.v ->> 'image',
               weight_grams = (item.v ->> 'weight_grams')::int, position = item.place, version = x.version + 1,
               updated_at = now()
         WHERE x.tenant_id = tenant AND x.id = v_id;

        PERFORM domain.price_kept(v_id, v_price, v_sale);
        PERFORM domain.stock_put(v_id, p_id, (item.v ->> 'stock')::int,
                                 coalesce((item.v ->> 'track_stock')::boolean, (doc ->> 'track_stock')::boolean),
                                 coalesce((item.v ->> 'allow_backorder')::boolean, (doc ->> 'allow_backorder')::boolean));
        kept := kept || v_id;
    END LOOP;

    UPDATE shop.variant x SET deleted_at = now(), updated_at = now(), version = x.version + 1
     WHERE x.tenant_id = tenant AND x.product_id = p_id AND x.deleted_at IS NULL AND x.id <> ALL (kept);

    RETURN p_id;
END
$$;
