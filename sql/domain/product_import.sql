-- Import: other catalogues' rows made ours, one at a time, with a report for each that fails.

-- Minor units of a decimal amount ("9.99" → 999). Refuses what the currency cannot say exactly.
CREATE OR REPLACE FUNCTION domain.minor_units(amount text, currency text) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    units  numeric;
BEGIN
    IF amount !~ '^[0-9]{1,12}(\.[0-9]{1,12})?$' THEN
        PERFORM domain.fail(422, 'invalid-value', format('"%s" is no amount', left(amount, 40)), '{"field": "price"}');
    END IF;
    units := amount::numeric * 10 ^ domain.currency_exponent(currency);
    IF units <> trunc(units) THEN
        PERFORM domain.fail(422, 'invalid-value', format('%s has more decimals than %s', amount, currency), '{"field": "price"}');
    END IF;
    RETURN units::bigint;
END
$$;

-- A whole number of an import, or a refusal that names the field.
CREATE OR REPLACE FUNCTION domain.import_int(field text, value text, high bigint) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF value IS NULL OR btrim(value) = '' THEN
        RETURN NULL;
    END IF;
    IF value !~ '^\s*[0-9]{1,15}(\.0+)?\s*$' OR value::numeric > high THEN
        PERFORM domain.fail(422, 'invalid-value', format('must be a whole number from 0 to %s', high),
                            jsonb_build_object('field', field));
    END IF;
    RETURN value::numeric::bigint;
END
$$;

-- One row of DummyJSON, Fake Store or a CSV file as the document that product_write takes. What has no column of its own
-- (dimensions, warranty, discountPercentage …) becomes an attribute.
CREATE OR REPLACE FUNCTION domain.import_document(r jsonb, currency text) RETURNS jsonb
LANGUAGE plpgsql STABLE AS $$
DECLARE
    name    text := btrim(coalesce(r ->> 'title', r ->> 'name'));
    price   text := btrim(r ->> 'price');
    images  jsonb;
    known   text[] := '{id,external_id,title,name,description,category,brand,price,sale_price,stock,tags,sku,weight,images,image,
                       thumbnail,reviews,rating,meta,slug,barcode,low_stock_threshold,track_stock,allow_backorder,status,
                       availabilityStatus,attributes,currency}';
BEGIN
    IF coalesce(name, '') = '' THEN
        PERFORM domain.fail(422, 'required', 'a title or name is required', '{"field": "title"}');
    ELSIF length(name) > 300 THEN
        PERFORM domain.fail(422, 'invalid-value', 'must have at most 300 characters', '{"field": "title"}');
    ELSIF coalesce(price, '') = '' THEN
        PERFORM domain.fail(422, 'required', 'a price is required', '{"field": "price"}');
    END IF;

    IF r ->> 'currency' <> currency THEN
        PERFORM domain.fail(422, 'invalid-value', format('must be %s', currency), '{"field": "currency"}');
    END IF;

    images := CASE
        WHEN jsonb_typeof(r -> 'images') = 'array' THEN
            (SELECT jsonb_agg(jsonb_build_object('url', u)) FROM jsonb_array_elements_text(r -> 'images') u WHERE u <> '')
        WHEN r ->> 'images' <> '' THEN
            (SELECT jsonb_agg(jsonb_build_object('url', btrim(u))) FROM regexp_split_to_table(r ->> 'images', '[|]') u WHERE btrim(u) <> '')
        WHEN r ->> 'image' <> '' THEN jsonb_build_array(jsonb_build_object('url', r ->> 'image')) END;

    RETURN jsonb_strip_nulls(jsonb_build_object(
        'external_id', coalesce(r ->> 'external_id', r ->> 'id'),
        'name', name,
        'description', coalesce(r ->> 'description', ''),
        'brand', nullif(btrim(r ->> 'brand'), ''),
        'status', nullif(r ->> 'status', ''),
        'slug', nullif(r ->> 'slug', ''),
        'sku', nullif(btrim(r ->> 'sku'), ''),
        'barcode', coalesce(nullif(r ->> 'barcode', ''), r -> 'meta' ->> 'barcode'),
        'price', jsonb_build_object('amount', domain.minor_units(price, currency), 'currency', currency),
        'sale_price', CASE WHEN coalesce(btrim(r ->> 'sale_price'), '') <> '' THEN
            jsonb_build_object('amount', domain.minor_units(btrim(r ->> 'sale_price'), currency), 'currency', currency) END,
        'stock', domain.import_int('stock', r ->> 'stock', 1000000000),
        'low_stock_threshold', domain.import_int('low_stock_threshold', r ->> 'low_stock_threshold', 1000000000),
        'track_stock', nullif(r ->> 'track_stock', '')::boolean,
        'allow_backorder', nullif(r ->> 'allow_backorder', '')::boolean,
        'tags', CASE
            WHEN jsonb_typeof(r -> 'tags') = 'array' THEN r -> 'tags'
            WHEN r ->> 'tags' <> '' THEN to_jsonb(regexp_split_to_array(btrim(r ->> 'tags'), '\s*[,|]\s*')) END,
        'images', images,
        'image', coalesce(nullif(r ->> 'thumbnail', ''), images -> 0 ->> 'url'),
        'created_at', r -> 'meta' ->> 'createdAt'))
        || jsonb_build_object('attributes', jsonb_strip_nulls(
            coalesce(CASE WHEN jsonb_typeof(r -> 'attributes') = 'object' THEN r -> 'attributes' END, '{}')
            || (r - known)
            || CASE WHEN r ->> 'weight' <> '' THEN jsonb_build_object('weight', r -> 'weight') ELSE '{}' END
            || CASE WHEN jsonb_typeof(r -> 'rating') = 'number' THEN jsonb_build_object('source_rating', r -> 'rating') ELSE '{}' END));
END
$$;

-- The reviews of an imported row. Their place in the row is their identity: importing again changes nothing.
CREATE OR REPLACE FUNCTION domain.import_reviews(product bigint, r jsonb) RETURNS int
LANGUAGE plpgsql AS $$
DECLARE
    made  int := 0;
BEGIN
    IF jsonb_typeof(r -> 'reviews') = 'array' THEN
        INSERT INTO shop.review AS v (tenant_id, product_id, rating, title, comment, author_name, author_email, external_id, created_at)
        SELECT domain.tenant_id(), product, (e.value ->> 'rating')::smallint, e.value ->> 'title', coalesce(e.value ->> 'comment', ''),
               e.value ->> 'reviewerName', e.value ->> 'reviewerEmail', 'import-' || e.ordinality,
               coalesce((e.value ->> 'date')::timestamptz, now())
          FROM jsonb_array_elements(r -> 'reviews') WITH ORDINALITY AS e
        ON CONFLICT (tenant_id, product_id, external_id) DO UPDATE
           SET rating = excluded.rating, title = excluded.title, comment = excluded.comment,
               author_name = excluded.author_name, author_email = excluded.author_email, updated_at = now()
         WHERE (v.rating, v.title, v.comment, v.author_name, v.author_email)
               IS DISTINCT FROM (excluded.rating, excluded.title, excluded.comment, excluded.author_name, excluded.author_email);
        GET DIAGNOSTICS made = ROW_COUNT;

        PERFORM domain.rating_changed(product);
    ELSIF jsonb_typeof(r -> 'rating') = 'object' THEN
        -- Fake Store: an average and a count, no reviews
        UPDATE shop.product p
           SET rating_count = (r -> 'rating' ->> 'count')::int,
               rating_sum = round((r -> 'rating' ->> 'rate')::numeric * (r -> 'rating' ->> 'count')::int)
         WHERE p.tenant_id = domain.tenant_id() AND p.id = product;
    END IF;
    RETURN made;
END
$$;

-- The first line of a CSV file; 422 says which columns are missing or there twice.
CREATE OR REPLACE FUNCTION domain.csv_names(names text[]) RETURNS void
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    missing  text[] := array_remove(ARRAY[CASE WHEN NOT names && '{title,name}' THEN 'title' END,
                                          CASE WHEN NOT names && '{price}' THEN 'price' END], NULL);
    twice    text[] := ARRAY(SELECT n FROM unnest(names) n WHERE n <> '' GROUP BY n HAVING count(*) > 1 ORDER BY n);
BEGIN
    IF missing <> '{}' THEN
        PERFORM domain.fail(422, 'csv-columns', 'The first line has to name the columns; there is no '
                                                || array_to_string(missing, ' and no ') || '.',
                            jsonb_build_object('missing', missing));
    ELSIF twice <> '{}' THEN
        PERFORM domain.fail(422, 'csv-columns', 'The first line names ' || array_to_string(twice, ', ') || ' more than once.',
                            jsonb_build_object('duplicate', twice));
    END IF;
END
$$;

-- The rows of a CSV text (RFC 4180, first line: names) as objects. 422 names the row, as a report does, where a quote stands in a field
-- or does not end; 0 is the first line.
CREATE OR REPLACE FUNCTION domain.csv_rows(body text) RETURNS SETOF jsonb
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    part    text[];
    field   text;
    names   text[];
    fields  text[] := '{}';
    n       int := 0;
BEGIN
    body := regexp_replace(ltrim(body, E'\uFEFF'), '\r?\n?$', E'\n');

    -- the last choice is one character of what is no CSV
    FOR part IN SELECT regexp_matches(body, '("(?:[^"]|"")*"|[^,"\r\n]*)(,|\r?\n)|[^,\n]', 'g') LOOP
        IF part[2] IS NULL THEN
            PERFORM domain.fail(422, 'csv-malformed', format('Row %s is no CSV: a field with a quote, comma or line break in it stands in '
                                                             'quotes, and each quote in it is doubled.', n),
                                jsonb_build_object('row', n));
        END IF;

        field := part[1];
        IF left(field, 1) = '"' THEN
            field := replace(substr(field, 2, length(field) - 2), '""', '"');
        END IF;
        fields := fields || field;

        IF part[2] <> ',' THEN
            IF names IS NULL THEN
                n := 1;
                names := ARRAY(SELECT btrim(f) FROM unnest(fields) WITH ORDINALITY AS u (f, i) ORDER BY i);
                PERFORM domain.csv_names(names);
            ELSIF fields <> ARRAY[''] THEN
                RETURN NEXT (SELECT jsonb_object_agg(u.name, u.value)
                               FROM unnest(names, fields[:cardinality(names)]) AS u (name, value)
                              WHERE u.name <> '' AND u.value <> '');
                n := n + 1;
            END IF;
            fields := '{}';
        END IF;
    END LOOP;
END
$$;

-- Imports rows. Each stands alone: one that fails is reported and leaves nothing behind. A row whose external id or SKU is
-- known changes that product, if it differs.
CREATE OR REPLACE FUNCTION domain.import_rows(rows_in jsonb[]) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
    tenant     bigint := domain.tenant_id();
    money      text := (SELECT t.currency FROM shop.tenant t WHERE t.id = domain.tenant_id());
    doc        jsonb;
    before     text;
    r          jsonb;
    n          int := 0;
    p_id       bigint;
    known      bigint;
    touched    bigint[] := '{}';
    created    bigint[] := '{}';
    imported   int := 0;
    updated    int := 0;
    unchanged  int := 0;
    reviews    int := 0;
    more       int;
    same       boolean;
    errors     jsonb := '[]';
    message    text;
    detail     text;
    state      text;
BEGIN
    FOREACH r IN ARRAY rows_in LOOP
        n := n + 1;
        BEGIN
            IF jsonb_typeof(r) IS DISTINCT FROM 'object' THEN
                PERFORM domain.fail(422, 'invalid-value', 'a row must be an object', '{"field": ""}');
            END IF;

            doc := domain.import_document(r, money);

            SELECT p.id INTO known FROM shop.product p
             WHERE p.tenant_id = tenant AND p.external_id = doc ->> 'external_id' AND p.deleted_at IS NULL;
            IF NOT FOUND AND doc ? 'sku' THEN
                SELECT v.product_id INTO known FROM shop.variant v
                 WHERE v.tenant_id = tenant AND v.sku = doc ->> 'sku' AND v.deleted_at IS NULL;
            END IF;

            IF coalesce(r ->> 'category', '') <> '' THEN
                doc := doc || jsonb_build_object('category_id', domain.category_named(r ->> 'category', true));
            END IF;

            IF known IS NOT NULL THEN
                doc := domain.import_merge(known, doc);
                same := doc IS NULL;
                p_id := known;
            ELSE
                same := false;
            END IF;

            IF NOT same THEN
                p_id := domain.product_write(known, doc);
            END IF;
            more := domain.import_reviews(p_id, r);

            reviews := reviews + more;
            IF known IS NULL THEN
                imported := imported + 1;
                created := created || p_id;
                touched := touched || p_id;
            ELSIF same AND more = 0 THEN
                unchanged := unchanged + 1;
            ELSE
                updated := updated + 1;
                touched := touched || p_id;
            END IF;
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, state = RETURNED_SQLSTATE;
            -- a lock or a deadline lost, the server going down: no fault of the row
            IF left(state, 2) IN ('40', '53', '55', '57', '58', 'XX') THEN
                RAISE;
            END IF;
            IF jsonb_array_length(errors) < 1000 THEN
                errors := errors || jsonb_build_object(
                    'row', n,
                    'field', CASE WHEN left(state, 2) = 'SH' THEN
                                 coalesce(detail::jsonb ->> 'field', ltrim(detail::jsonb -> 'errors' -> 0 ->> 'pointer', '/'), '')
                             ELSE '' END,
                    'message', CASE WHEN left(state, 2) IN ('SH', '22') THEN message ELSE 'the row breaks a rule of the catalogue' END);
            END IF;
        END;
    END LOOP;

    PERFORM domain.product_refresh(touched);

    PERFORM domain.emit('product-events', CASE WHEN t.id = ANY (created) THEN 'ProductCreated' ELSE 'ProductUpdated' END, 'product',
                        t.id::text, domain.product_event(t.id), NULL)
       FROM unnest(touched) AS t (id);

    RETURN jsonb_build_object('rows', n, 'imported', imported, 'updated', updated, 'unchanged', unchanged,
                              'failed', n - imported - updated - unchanged, 'reviews', reviews, 'errors', errors);
END
$$;

-- What an imported row makes of the product that is there: the product's own document under the row's, or NULL when
-- nothing differs. A stock that the row does not name stays, one that equals today's changes nothing.
CREATE OR REPLACE FUNCTION domain.import_merge(product bigint, doc jsonb) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
    present  jsonb := domain.product_input(product);
    target   jsonb;
    level    int;
BEGIN
    IF doc ? 'brand' THEN
        doc := doc - 'brand' || jsonb_build_object('brand_id', domain.brand_named(doc ->> 'brand'));
    END IF;
    target := present || (doc - 'created_at' - 'stock');

    SELECT sum(s.on_hand) INTO level FROM shop.stock s WHERE s.tenant_id = domain.tenant_id() AND s.product_id = product;

    IF target = present AND (NOT doc ? 'stock' OR (doc ->> 'stock')::int IS NOT DISTINCT FROM level) THEN
        RETURN NULL;
    END IF;
    RETURN target || CASE WHEN doc ? 'stock' THEN jsonb_build_object('stock', doc -> 'stock') ELSE '{}' END;
END
$$;

-- The payload of a product's event.
CREATE OR REPLACE FUNCTION domain.product_event(product bigint) RETURNS jsonb
LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object('product_id', p.id, 'slug', p.slug, 'name', p.name, 'status', p.status,
                              'category_id', p.category_id, 'brand_id', p.brand_id, 'version', p.version,
                              'price_amount', v.price_amount, 'sale_amount', v.sale_amount,
                              'timestamp', domain.ts(now()))
      FROM shop.product p
      LEFT JOIN shop.variant v ON v.tenant_id = p.tenant_id AND v.id = p.default_variant_id
     WHERE p.tenant_id = domain.tenant_id() AND p.id = product
$$;
