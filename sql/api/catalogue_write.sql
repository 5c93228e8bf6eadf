-- Writing the catalogue: staff with catalog.write, and import.

CREATE OR REPLACE FUNCTION domain.need(permission text) RETURNS void
LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF NOT domain.has_role(permission) THEN
        PERFORM domain.fail(403, 'forbidden', format('This needs the permission %s', permission));
    END IF;
END
$$;

-- What follows every write of a product: reading side, event, caches, audit log; and the answer. before: its product_input(), or NULL.
CREATE OR REPLACE FUNCTION domain.product_written(product bigint, status int, event text, before jsonb) RETURNS api.reply
LANGUAGE plpgsql AS $$
DECLARE
    b     record;
    tags  text[] := ARRAY['catalog', 'product:' || product];
    body  jsonb := domain.product_event(product);
BEGIN
    PERFORM domain.product_refresh(ARRAY[product]);
    PERFORM domain.emit('product-events', event, 'product', product::text, body, (body ->> 'version')::bigint);
    PERFORM domain.invalidate(tags);
    PERFORM domain.audit(event, 'product', product::text, before,
                         CASE WHEN event <> 'ProductDeleted' THEN domain.product_input(product) END);

    b := domain.product_body(product);
    RETURN (status, b.body,
            CASE WHEN b.etag IS NOT NULL THEN jsonb_build_object('ETag', b.etag) ELSE '{}' END
            || CASE WHEN status = 201 THEN jsonb_build_object('Location', '/api/v1/products/' || product) ELSE '{}' END,
            jsonb_build_object('invalidate', tags))::api.reply;
END
$$;

-- Locks a product for writing and checks the version that the writer has read.
CREATE OR REPLACE FUNCTION domain.product_lock(product bigint, if_match text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    found_version  bigint;
BEGIN
    PERFORM domain.need('catalog.write');

    SELECT p.version INTO found_version
      FROM shop.product p
     WHERE p.tenant_id = domain.tenant_id() AND p.id = product AND p.deleted_at IS NULL
       FOR NO KEY UPDATE;

    IF NOT FOUND THEN
        PERFORM domain.fail(404, 'not-found', 'There is no such product');
    END IF;
    PERFORM domain.check_version(if_match, found_version);
END
$$;

CREATE OR REPLACE FUNCTION api.product_create(product jsonb) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    PERFORM domain.need('catalog.write');
    RETURN domain.product_written(domain.product_write(NULL, jsonb_strip_nulls(product)), 201, 'ProductCreated', NULL);
END
$$;

CREATE OR REPLACE FUNCTION api.product_replace(id bigint, if_match text, product jsonb) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    before  jsonb;
BEGIN
    PERFORM domain.product_lock(id, if_match);
    before := domain.product_input(id);
    RETURN domain.product_written(domain.product_write(id, jsonb_strip_nulls(product)), 200, 'ProductUpdated', before);
END
$$;

-- JSON Merge Patch over the product as a body would write it. "variants" is one value: a list replaces the list.
CREATE OR REPLACE FUNCTION api.product_patch(id bigint, if_match text, patch jsonb) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    doc     jsonb;
    before  jsonb;
BEGIN
    PERFORM domain.product_lock(id, if_match);
    before := domain.product_input(id);
    doc := before;

    IF jsonb_typeof(patch -> 'name') = 'null' THEN
        PERFORM domain.fail(422, 'invalid-value', 'A product needs a name', domain.field_error('/name', 'required', 'is required'));
    END IF;
    IF patch ? 'category' THEN
        doc := doc - 'category_id';
    END IF;
    IF patch ? 'brand' THEN
        doc := doc - 'brand_id';
    END IF;
    -- a new gallery has its own first picture, a new list of variants its own prices
    IF patch ? 'images' AND NOT patch ? 'image' THEN
        doc := doc - 'image';
    END IF;
    IF doc ? 'variants' AND NOT patch ? 'variants' AND patch ?| '{sku,price,sale_price,barcode,weight_grams,stock}' THEN
        PERFORM domain.fail(422, 'variants-required', 'The product has several variants: patch "variants"');
    END IF;
    IF patch ? 'variants' THEN
        doc := doc - '{sku,price,sale_price,barcode,weight_grams}'::text[];
    END IF;

    RETURN domain.product_written(domain.product_write(id, jsonb_strip_nulls(domain.merge_patch(doc, patch))), 200, 'ProductUpdated',
                                  before);
END
$$;

-- Marks a product deleted: orders keep their snapshots, its slug and SKUs become free.
CREATE OR REPLACE FUNCTION api.product_delete(id bigint, if_match text) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    tenant  bigint := domain.tenant_id();
    before  jsonb;
    reply   api.reply;
BEGIN
    PERFORM domain.product_lock(id, if_match);
    before := domain.product_input(id);

    UPDATE shop.product p SET deleted_at = now(), updated_at = now(), version = p.version + 1
     WHERE p.tenant_id = tenant AND p.id = product_delete.id;
    UPDATE shop.variant v SET deleted_at = now(), updated_at = now(), version = v.version + 1
     WHERE v.tenant_id = tenant AND v.product_id = product_delete.id AND v.deleted_at IS NULL;

    reply := domain.product_written(id, 204, 'ProductDeleted', before);
    RETURN (204, NULL, NULL, reply.edge)::api.reply;
END
$$;

-- ── taxonomy ─────────────────────────────────────────────────────────────────────────────────────────────────────────

CREATE OR REPLACE FUNCTION domain.category_json(c shop.category) RETURNS json
LANGUAGE sql STABLE AS $$
    SELECT to_json(x) FROM (SELECT c.id, c.parent_id, c.slug, c.name, c.description, c.image, c.position, c.path, c.seo, c.version,
                                   domain.ts(c.created_at) AS created_at, domain.ts(c.updated_at) AS updated_at) x
$$;

CREATE OR REPLACE FUNCTION domain.brand_json(b shop.brand) RETURNS json
LANGUAGE sql STABLE AS $$
    SELECT to_json(x) FROM (SELECT b.id, b.slug, b.name, b.description, b.image, b.version,
                                   domain.ts(b.created_at) AS created_at, domain.ts(b.updated_at) AS updated_at) x
$$;

-- All categories, parents before children; clients build the tree by parent_id.
CREATE OR REPLACE FUNCTION api.category_list() RETURNS api.reply
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
BEGIN
    RETURN (200, '{"data":' || (
        SELECT coalesce(json_agg(domain.category_json(c) ORDER BY cardinality(c.path), c.position, c.id), '[]')
          FROM shop.category c
         WHERE c.tenant_id = domain.tenant_id() AND c.deleted_at IS NULL)::text || '}', NULL, NULL)::api.reply;
END
$$;

-- By id or slug.
CREATE OR REPLACE FUNCTION api.category_get(category text) RETURNS api.reply
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    c  shop.category;
BEGIN
    SELECT * INTO c FROM shop.category x
     WHERE x.tenant_id = domain.tenant_id() AND x.deleted_at IS NULL
       AND CASE WHEN category ~ '^[0-9]{1,18}$' THEN x.id = category::bigint ELSE x.slug = category END;
    IF NOT FOUND THEN
        PERFORM domain.fail(404, 'not-found', 'There is no such category');
    END IF;
    RETURN (200, domain.category_json(c)::text, json_build_object('ETag', '"' || c.version || '"'), NULL)::api.reply;
END
$$;

-- Products of these categories show them in their cards: made anew.
CREATE OR REPLACE FUNCTION domain.taxonomy_changed(category bigint, brand bigint) RETURNS json
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM domain.product_refresh(ARRAY(
        SELECT p.id FROM shop.product p
         WHERE p.tenant_id = domain.tenant_id() AND p.deleted_at IS NULL AND (p.category_id = category OR p.brand_id = brand)));
    PERFORM domain.invalidate('{catalog}');
    RETURN '{"invalidate":["catalog"]}';
END
$$;

-- Makes a category (id NULL) or replaces one. Moving it moves what is below.
CREATE OR REPLACE FUNCTION domain.category_write(category bigint, doc jsonb) RETURNS shop.category
LANGUAGE plpgsql AS $$
DECLARE
    tenant   bigint := domain.tenant_id();
    above    bigint := (doc ->> 'parent_id')::bigint;
    trail    bigint[] := '{}';
    old      bigint[];
    v_slug   text := coalesce(doc ->> 'slug', domain.slugify(doc ->> 'name'));
    c        shop.category;
BEGIN
    -- the shape of the tree changes for one writer at a time
    PERFORM pg_advisory_xact_lock(hashtextextended('category', tenant));

    IF above IS NOT NULL THEN
        SELECT x.path INTO trail FROM shop.category x WHERE x.tenant_id = tenant AND x.id = above AND x.deleted_at IS NULL;
        IF NOT FOUND THEN
            PERFORM domain.fail(422, 'invalid-value', 'There is no such parent',
                                domain.field_error('/parent_id', 'unknown', 'there is no such category'));
        ELSIF category = ANY (trail) THEN
            PERFORM domain.fail(422, 'invalid-value', 'A category cannot lie below itself',
                                domain.field_error('/parent_id', 'cycle', 'lies below the category'));
        ELSIF cardinality(trail) >= 8 THEN
            PERFORM domain.fail(422, 'invalid-value', 'Categories are at most 8 levels deep',
                                domain.field_error('/parent_id', 'depth', 'is too deep'));
        END IF;
    END IF;

    IF EXISTS (SELECT FROM shop.category x WHERE x.tenant_id = tenant AND x.slug = v_slug AND x.deleted_at IS NULL
                  AND x.id IS DISTINCT FROM category) THEN
        PERFORM domain.fail(409, 'slug-taken', format('Another category has the slug %s', v_slug),
                            domain.field_error('/slug', 'taken', 'another category has it'));
    END IF;

    IF category IS NULL THEN
        INSERT INTO shop.category (tenant_id, slug, name) VALUES (tenant, v_slug, doc ->> 'name') RETURNING id INTO category;
        old := '{}';
    ELSE
        SELECT x.path INTO old FROM shop.category x WHERE x.tenant_id = tenant AND x.id = category;
    END IF;

    UPDATE shop.category x
       SET parent_id = above, slug = v_slug, name = doc ->> 'name', description = doc ->> 'description', image = doc ->> 'image',
           position = coalesce((doc ->> 'position')::int, 0), seo = coalesce(doc -> 'seo', '{}'), path = trail || category,
           version = x.version + (cardinality(old) > 0)::int, updated_at = now()
     WHERE x.tenant_id = tenant AND x.id = category
    RETURNING * INTO c;

    UPDATE shop.category x
       SET path = c.path || x.path[cardinality(old) + 1:], version = x.version + 1, updated_at = now()
     WHERE x.tenant_id = tenant AND x.path @> ARRAY[category] AND x.id <> category;

    RETURN c;
END
$$;

-- The category to be changed, locked: 404 without it, what check_version says of if_match.
CREATE OR REPLACE FUNCTION domain.category_hold(category bigint, if_match text) RETURNS shop.category
LANGUAGE plpgsql AS $$
DECLARE
    c  shop.category;
BEGIN
    SELECT * INTO c FROM shop.category x
     WHERE x.tenant_id = domain.tenant_id() AND x.id = category AND x.deleted_at IS NULL FOR UPDATE;
    IF NOT FOUND THEN
        PERFORM domain.fail(404, 'not-found', 'There is no such category');
    END IF;
    PERFORM domain.check_version(if_match, c.version);
    RETURN c;
END
$$;

CREATE OR REPLACE FUNCTION api.category_create(category jsonb) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    c  shop.category;
BEGIN
    PERFORM domain.need('catalog.write');
    c := domain.category_write(NULL, jsonb_strip_nulls(category));
    PERFORM domain.audit('CategoryCreated', 'category', c.id::text, NULL, domain.category_json(c)::jsonb);
    RETURN (201, domain.category_json(c)::text,
            json_build_object('Location', '/api/v1/categories/' || c.id, 'ETag', '"' || c.version || '"'),
            domain.taxonomy_changed(NULL, NULL))::api.reply;
END
$$;

CREATE OR REPLACE FUNCTION api.category_replace(id bigint, if_match text, category jsonb) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    c       shop.category;
    before  shop.category;
BEGIN
    PERFORM domain.need('catalog.write');
    before := domain.category_hold(id, if_match);
    c := domain.category_write(id, jsonb_strip_nulls(category));
    PERFORM domain.audit('CategoryUpdated', 'category', c.id::text, domain.category_json(before)::jsonb, domain.category_json(c)::jsonb);
    RETURN (200, domain.category_json(c)::text, json_build_object('ETag', '"' || c.version || '"'),
            domain.taxonomy_changed(id, NULL))::api.reply;
END
$$;

CREATE OR REPLACE FUNCTION api.category_delete(id bigint, if_match text) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    tenant  bigint := domain.tenant_id();
    c       shop.category;
BEGIN
    PERFORM domain.need('catalog.write');
    c := domain.category_hold(id, if_match);

    IF EXISTS (SELECT FROM shop.category x WHERE x.tenant_id = tenant AND x.parent_id = c.id AND x.deleted_at IS NULL)
       OR EXISTS (SELECT FROM shop.product p WHERE p.tenant_id = tenant AND p.category_id = c.id AND p.deleted_at IS NULL) THEN
        PERFORM domain.fail(409, 'category-in-use', 'Products or categories are in it: move them first');
    END IF;

    UPDATE shop.category x SET deleted_at = now(), updated_at = now(), version = x.version + 1
     WHERE x.tenant_id = tenant AND x.id = c.id;
    PERFORM domain.audit('CategoryDeleted', 'category', c.id::text, domain.category_json(c)::jsonb);
    RETURN (204, NULL, NULL, domain.taxonomy_changed(NULL, NULL))::api.reply;
END
$$;

-- All brands by name.
CREATE OR REPLACE FUNCTION api.brand_list("limit" int DEFAULT 100, cursor jsonb DEFAULT NULL) RETURNS api.reply
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
BEGIN
    -- a slug is a brand's name folded: it sorts like one, and it is unique
    RETURN domain.page_list('shop.brand', 'domain.brand_json(r)', '{slug}', false, ' AND r.deleted_at IS NULL', "limit", cursor);
END
$$;

CREATE OR REPLACE FUNCTION api.brand_get(brand text) RETURNS api.reply
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    b  shop.brand;
BEGIN
    SELECT * INTO b FROM shop.brand x
     WHERE x.tenant_id = domain.tenant_id() AND x.deleted_at IS NULL
       AND CASE WHEN brand ~ '^[0-9]{1,18}$' THEN x.id = brand::bigint ELSE x.slug = brand END;
    IF NOT FOUND THEN
        PERFORM domain.fail(404, 'not-found', 'There is no such brand');
    END IF;
    RETURN (200, domain.brand_json(b)::text, json_build_object('ETag', '"' || b.version || '"'), NULL)::api.reply;
END
$$;

CREATE OR REPLACE FUNCTION domain.brand_write(brand bigint, doc jsonb) RETURNS shop.brand
LANGUAGE plpgsql AS $$
DECLARE
    v_slug  text := coalesce(doc ->> 'slug', domain.slugify(doc ->> 'name'));
    b       shop.brand;
BEGIN
    IF EXISTS (SELECT FROM shop.brand x WHERE x.tenant_id = domain.tenant_id() AND x.slug = v_slug AND x.deleted_at IS NULL
                  AND x.id IS DISTINCT FROM brand) THEN
        PERFORM domain.fail(409, 'slug-taken', format('Another brand has the slug %s', v_slug),
                            domain.field_error('/slug', 'taken', 'another brand has it'));
    END IF;

    IF brand IS NULL THEN
        INSERT INTO shop.brand (tenant_id, slug, name, description, image)
        VALUES (domain.tenant_id(), v_slug, doc ->> 'name', doc ->> 'description', doc ->> 'image')
        RETURNING * INTO b;
    ELSE
        UPDATE shop.brand x
           SET slug = v_slug, name = doc ->> 'name', description = doc ->> 'description', image = doc ->> 'image',
               version = x.version + 1, updated_at = now()
         WHERE x.tenant_id = domain.tenant_id() AND x.id = brand
        RETURNING * INTO b;
    END IF;
    RETURN b;
END
$$;

-- The brand to be changed, locked: 404 without it, what check_version says of if_match.
CREATE OR REPLACE FUNCTION domain.brand_hold(brand bigint, if_match text) RETURNS shop.brand
LANGUAGE plpgsql AS $$
DECLARE
    b  shop.brand;
BEGIN
    SELECT * INTO b FROM shop.brand x
     WHERE x.tenant_id = domain.tenant_id() AND x.id = brand AND x.deleted_at IS NULL FOR UPDATE;
    IF NOT FOUND THEN
        PERFORM domain.fail(404, 'not-found', 'There is no such brand');
    END IF;
    PERFORM domain.check_version(if_match, b.version);
    RETURN b;
END
$$;

CREATE OR REPLACE FUNCTION api.brand_create(brand jsonb) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    b  shop.brand;
BEGIN
    PERFORM domain.need('catalog.write');
    b := domain.brand_write(NULL, jsonb_strip_nulls(brand));
    PERFORM domain.audit('BrandCreated', 'brand', b.id::text, NULL, domain.brand_json(b)::jsonb);
    RETURN (201, domain.brand_json(b)::text,
            json_build_object('Location', '/api/v1/brands/' || b.id, 'ETag', '"' || b.version || '"'),
            domain.taxonomy_changed(NULL, NULL))::api.reply;
END
$$;

CREATE OR REPLACE FUNCTION api.brand_replace(id bigint, if_match text, brand jsonb) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    b       shop.brand;
    before  shop.brand;
BEGIN
    PERFORM domain.need('catalog.write');
    before := domain.brand_hold(id, if_match);
    b := domain.brand_write(id, jsonb_strip_nulls(brand));
    PERFORM domain.audit('BrandUpdated', 'brand', b.id::text, domain.brand_json(before)::jsonb, domain.brand_json(b)::jsonb);
    RETURN (200, domain.brand_json(b)::text, json_build_object('ETag', '"' || b.version || '"'),
            domain.taxonomy_changed(NULL, id))::api.reply;
END
$$;

CREATE OR REPLACE FUNCTION api.brand_delete(id bigint, if_match text) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    tenant  bigint := domain.tenant_id();
    b       shop.brand;
BEGIN
    PERFORM domain.need('catalog.write');
    b := domain.brand_hold(id, if_match);

    IF EXISTS (SELECT FROM shop.product p WHERE p.tenant_id = tenant AND p.brand_id = b.id AND p.deleted_at IS NULL) THEN
        PERFORM domain.fail(409, 'brand-in-use', 'Products have this brand: change them first');
    END IF;

    UPDATE shop.brand x SET deleted_at = now(), updated_at = now(), version = x.version + 1
     WHERE x.tenant_id = tenant AND x.id = b.id;
    PERFORM domain.audit('BrandDeleted', 'brand', b.id::text, domain.brand_json(b)::jsonb);
    RETURN (204, NULL, NULL, domain.taxonomy_changed(NULL, NULL))::api.reply;
END
$$;

-- ── import and export (C13) ──────────────────────────────────────────────────────────────────────────────────────────

CREATE OR REPLACE FUNCTION domain.import_reply(rows_in jsonb[]) RETURNS api.reply
LANGUAGE plpgsql AS $$
DECLARE
    report  jsonb;
BEGIN
    PERFORM domain.need('catalog.write');
    IF cardinality(rows_in) > 50000 THEN
        PERFORM domain.fail(422, 'too-many-rows', 'Import at most 50000 rows at once');
    END IF;

    report := domain.import_rows(coalesce(rows_in, '{}'));
    PERFORM domain.invalidate('{catalog}');
    PERFORM domain.audit('ProductsImported', 'product', NULL, NULL, report - 'errors');
    RETURN (200, report::text, NULL, '{"invalidate":["catalog"]}')::api.reply;
END
$$;

-- DummyJSON ({"products": [...]} or the bare array) and Fake Store (array).
CREATE OR REPLACE FUNCTION api.product_import(catalogue jsonb) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    list  jsonb := CASE WHEN jsonb_typeof(catalogue) = 'array' THEN catalogue ELSE catalogue -> 'products' END;
BEGIN
    IF jsonb_typeof(list) IS DISTINCT FROM 'array' THEN
        PERFORM domain.fail(422, 'invalid-value', 'Send an array of products, or an object with "products"',
                            domain.field_error('/products', 'required', 'must be an array'));
    END IF;
    RETURN domain.import_reply(ARRAY(SELECT e.value FROM jsonb_array_elements(list) WITH ORDINALITY AS e ORDER BY e.ordinality));
END
$$;

-- CSV with a first line of names: the members of DummyJSON's products; images and tags are separated by |.
CREATE OR REPLACE FUNCTION api.product_import_csv(csv text) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    RETURN domain.import_reply(ARRAY(SELECT r FROM domain.csv_rows(csv) r));
END
$$;

-- Products as import takes them, by id.
CREATE OR REPLACE FUNCTION api.product_export("limit" int DEFAULT 100, cursor jsonb DEFAULT NULL) RETURNS api.reply
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
BEGIN
    PERFORM domain.need('catalog.read');

    RETURN domain.page_list('shop.product', $q$domain.product_input((r).id) || jsonb_build_object('id', (r).id, 'stock', (
            SELECT coalesce(sum(s.on_hand), 0) FROM shop.stock s WHERE s.tenant_id = (r).tenant_id AND s.product_id = (r).id))$q$,
        '{id}', false, ' AND r.deleted_at IS NULL', "limit", cursor);
END
$$;
