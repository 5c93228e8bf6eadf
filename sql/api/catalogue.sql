-- Reading the catalogue: lists, search, single products, suggestions, taxonomy.

-- ── lists ────────────────────────────────────────────────────────────────────────────────────────────────────────────

-- What a list is narrowed by, as a client asks for it and as the tables know it.
DROP TYPE IF EXISTS domain.product_filters CASCADE;
CREATE TYPE domain.product_filters AS (
    valid           boolean,        -- false: a filter names nothing that exists, the list is empty
    query           tsquery,
    categories      bigint[],       -- with all below them
    brands          bigint[],
    min_price       bigint,
    max_price       bigint,
    min_rating      real,
    in_stock        boolean,
    created_after   timestamptz,
    created_before  timestamptz
);

-- The conditions of a list beyond the tenant, over product_card c. They refer to $1 tenant, $2 filters.
CREATE OR REPLACE FUNCTION domain.product_where(f domain.product_filters) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT 'c.tenant_id = $1'
           || CASE WHEN f.query IS NOT NULL THEN ' AND c.search @@ ($2).query' ELSE '' END
           || CASE WHEN cardinality(f.categories) = 1 THEN ' AND c.category_id = (($2).categories)[1]'
                   WHEN f.categories IS NOT NULL THEN ' AND c.category_id = ANY (($2).categories)' ELSE '' END
           || CASE WHEN cardinality(f.brands) = 1 THEN ' AND c.brand_id = (($2).brands)[1]'
                   WHEN f.brands IS NOT NULL THEN ' AND c.brand_id = ANY (($2).brands)' ELSE '' END
           || CASE WHEN f.min_price IS NOT NULL THEN ' AND c.price >= ($2).min_price' ELSE '' END
           || CASE WHEN f.max_price IS NOT NULL THEN ' AND c.price <= ($2).max_price' ELSE '' END
           || CASE WHEN f.min_rating IS NOT NULL THEN ' AND c.rating >= ($2).min_rating' ELSE '' END
           || CASE WHEN f.created_after IS NOT NULL THEN ' AND c.created_at > ($2).created_after' ELSE '' END
           || CASE WHEN f.created_before IS NOT NULL THEN ' AND c.created_at < ($2).created_before' ELSE '' END
           || CASE WHEN f.in_stock THEN
                   ' AND (SELECT s.in_stock FROM shop.product_stock s WHERE s.tenant_id = $1 AND s.product_id = c.product_id)'
                   WHEN NOT f.in_stock THEN
                   ' AND c.product_id IN (SELECT s.product_id FROM shop.product_stock s'
                   '                       WHERE s.tenant_id = $1 AND s.stock = 0 AND NOT s.in_stock)'
                   ELSE '' END
$$;

-- What a list's filters mean. Of several categories or brands any one will do; names that do not exist add nothing.
CREATE OR REPLACE FUNCTION domain.product_filter(
    search text, category jsonb, brand jsonb, min_price bigint, max_price bigint, min_rating real, in_stock boolean,
    created_after timestamptz, created_before timestamptz) RETURNS domain.product_filters
LANGUAGE plpgsql STABLE AS $$
DECLARE
    tenant  bigint := domain.tenant_id();
    f       domain.product_filters;
BEGIN
    f.valid := true;
    f.min_price := min_price;
    f.max_price := max_price;
    f.min_rating := min_rating;
    f.in_stock := in_stock;
    f.created_after := created_after;
    f.created_before := created_before;

    IF search IS NOT NULL AND search ~ '\w' THEN
        f.query := domain.search_query(search);
    END IF;

    IF category IS NOT NULL THEN
        SELECT array_agg(DISTINCT below.id) INTO f.categories
          FROM jsonb_array_elements_text(category) AS wanted (name)
          JOIN shop.category c ON c.tenant_id = tenant AND c.deleted_at IS NULL
                              AND (CASE WHEN wanted.name ~ '^[0-9]{1,18}$' THEN c.id = wanted.name::bigint ELSE c.slug = wanted.name END)
         CROSS JOIN LATERAL unnest(domain.category_tree(c.id)) AS below (id);
        f.valid := f.categories IS NOT NULL;
    END IF;

    IF brand IS NOT NULL THEN
        SELECT array_agg(DISTINCT b.id) INTO f.brands
          FROM jsonb_array_elements_text(brand) AS wanted (name)
          JOIN shop.brand b ON b.tenant_id = tenant AND b.deleted_at IS NULL AND b.slug = domain.slugify(wanted.name);
        f.valid := f.valid AND f.brands IS NOT NULL;
    END IF;

    RETURN f;
END
$$;

-- What shoppers type, as a query: words are stemmed and without accents, "…" is a phrase, - excludes. A word that no product
-- of the shop has is replaced by the nearest that one has.
CREATE OR REPLACE FUNCTION domain.search_query(search text) RETURNS tsquery
LANGUAGE plpgsql STABLE AS $$
DECLARE
    tenant  bigint := domain.tenant_id();
    wanted  tsquery := websearch_to_tsquery('shop.words', search);
    fixed   text;
BEGIN
    -- SKUs and model numbers are not stemmed; of words that are all too common to be kept something must be left
    IF search ~ '[0-9]' OR numnode(wanted) = 0 THEN
        wanted := wanted || plainto_tsquery('simple', search);
    END IF;

    -- words that only descriptions have are unknown to the list of words, but not unfindable
    fixed := domain.search_corrected(search);
    IF fixed IS NULL OR EXISTS (SELECT FROM shop.product_card c WHERE c.tenant_id = tenant AND c.search @@ wanted) THEN
        RETURN wanted;
    END IF;

    RETURN websearch_to_tsquery('shop.words', fixed);
END
$$;

-- All words that are one slip of the finger away from the typed one: those with two letters swapped, the most frequent slip,
-- first, then those with one too many, wrong or missing.
CREATE OR REPLACE FUNCTION domain.search_slips(typed text) RETURNS text[]
LANGUAGE sql IMMUTABLE AS $$
    SELECT ARRAY(SELECT overlay(typed PLACING reverse(substr(typed, i, 2)) FROM i FOR 2) FROM generate_series(1, length(typed) - 1) i)
        || ARRAY(SELECT overlay(typed PLACING '' FROM i FOR 1) FROM generate_series(1, length(typed)) i)
        || ARRAY(SELECT overlay(typed PLACING chr(letter) FROM i FOR wrong)
                   FROM generate_series(1, length(typed) + 1) i, generate_series(ascii('a'), ascii('z')) letter,
                        generate_series(0, 1) wrong)
$$;

-- The text with each unknown word replaced by the nearest known one; NULL when nothing was replaced.
CREATE OR REPLACE FUNCTION domain.search_corrected(search text) RETURNS text
LANGUAGE plpgsql STABLE AS $$
DECLARE
    tenant   bigint := domain.tenant_id();
    typed    text;
    slips    text[];
    better   text;
    fixed    text := '';
    changed  boolean := false;
BEGIN
    FOR typed IN SELECT w FROM regexp_split_to_table(domain.fold(left(search, 200)), '[^a-z0-9]+') w WHERE w <> '' LIMIT 8 LOOP
        better := NULL;
        IF length(typed) BETWEEN 3 AND 40
           AND NOT EXISTS (SELECT FROM shop.search_word s WHERE s.tenant_id = tenant AND s.word = typed) THEN
            -- two letters swapped leave a short word without a common trigram, so what is one slip away is looked up by
            -- name; a long word keeps enough of them
            IF length(typed) <= 12 THEN
                slips := domain.search_slips(typed);
                SELECT s.word INTO better
                  FROM shop.search_word s
                 WHERE s.tenant_id = tenant AND s.word = ANY (slips)
                 ORDER BY array_position(slips, s.word) < length(typed) DESC, public.similarity(s.word, typed) DESC, s.word
                 LIMIT 1;
            END IF;
            IF better IS NULL THEN
                SELECT s.word INTO better
                  FROM shop.search_word s
                 WHERE s.tenant_id = tenant AND s.word OPERATOR(public.%) typed
                 ORDER BY public.similarity(s.word, typed) - 0.1 * abs(length(s.word) - length(typed)) DESC, s.word
                 LIMIT 1;
            END IF;
        END IF;
        changed := changed OR better IS NOT NULL;
        fixed := fixed || ' ' || coalesce(better, typed);
    END LOOP;

    RETURN CASE WHEN changed THEN btrim(fixed) END;
END
$$;

-- Products for sale, a page at a time (C1). The order is by up to three columns and the id, each either way; a cursor is
-- {"k": [key, …], "id": id}, with "back": true when it leads to the page before.
-- Searching without sort ranks by relevance; so many hits that ranking says little are ranked by popularity.
-- total, facet_counts: what the steps before this one counted, passed through.
CREATE OR REPLACE FUNCTION api.product_list(
    search text DEFAULT NULL, category jsonb DEFAULT NULL, brand jsonb DEFAULT NULL,
    min_price bigint DEFAULT NULL, max_price bigint DEFAULT NULL, min_rating real DEFAULT NULL,
    in_stock boolean DEFAULT NULL, created_after timestamptz DEFAULT NULL, created_before timestamptz DEFAULT NULL,
    sort jsonb DEFAULT NULL, sort_by text DEFAULT NULL, sort_dir text DEFAULT NULL,
    "limit" int DEFAULT 20, cursor jsonb DEFAULT NULL, page int DEFAULT NULL, per_page int DEFAULT NULL,
    total bigint DEFAULT NULL, facet_counts jsonb DEFAULT NULL)
RETURNS api.reply LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    tenant    bigint := domain.tenant_id();
    f         domain.product_filters;
    size      int := coalesce(per_page, "limit", 20);
    skip      int := (coalesce(page, 1) - 1) * coalesce(per_page, "limit", 20);
    names     text[];
    downs     boolean[];
    back      boolean := domain.page_back(cursor);
    cards     text[];
    keys      text[];
    ids       bigint[];
    n         int;
    more      boolean;
BEGIN
    IF skip > 10000 THEN
        PERFORM domain.fail(400, 'page-too-far', 'Pages end at 10000 products: follow page.next, a cursor, instead');
    END IF;
    IF page IS NOT NULL AND cursor IS NOT NULL THEN
        PERFORM domain.fail(400, 'page-and-cursor', 'A cursor says where the page begins: leave page out');
    END IF;
    IF sort IS NOT NULL AND coalesce(sort_by, sort_dir) IS NOT NULL THEN
        PERFORM domain.fail(400, 'sort-twice', 'Sort by sort, or by sort_by and sort_dir, not by both');
    END IF;

    IF sort IS NULL THEN
        names := ARRAY[coalesce(sort_by, CASE WHEN search IS NOT NULL THEN 'relevance' ELSE 'created_at' END)];
        downs := ARRAY[(coalesce(sort_dir, CASE WHEN sort_by IN ('price', 'name') THEN 'asc' ELSE 'desc' END) = 'desc') <> back];
    ELSE
        SELECT array_agg(ltrim(x.name, '-') ORDER BY x.place), array_agg((x.name LIKE '-%') <> back ORDER BY x.place)
          INTO names, downs
          FROM jsonb_array_elements_text(sort) WITH ORDINALITY x (name, place);
    END IF;

    IF cardinality(names) = 1 AND search IS NULL AND category IS NULL AND brand IS NULL AND min_rating IS NULL
       AND in_stock IS NOT FALSE AND skip = 0 AND created_after IS NULL AND created_before IS NULL
       AND (min_price IS NULL AND max_price IS NULL OR names[1] = 'price') THEN
        SELECT p.cards, p.keys, p.ids INTO cards, keys, ids
          FROM domain.product_page(tenant, names[1], downs[1], in_stock, min_price, max_price, cursor #>> '{k,0}',
                                   (cursor ->> 'id')::bigint, size + 1) p;
    ELSE
        f := domain.product_filter(search, category, brand, min_price, max_price, min_rating, in_stock, created_after, created_before);
        IF f.valid THEN
            SELECT p.cards, p.keys, p.ids INTO cards, keys, ids
              FROM domain.product_page_where(tenant, f, names, downs, cursor, size + 1, skip) p;
        END IF;
    END IF;

    n := coalesce(cardinality(cards), 0);
    more := n > size;
    IF more THEN
        n := size;
        cards := cards[:size];
    END IF;

    -- the last row that is shown; the one beyond is only known to exist
    IF back THEN
        cards := domain.reversed(cards);
        keys := domain.reversed(keys[:n]);
        ids := domain.reversed(ids[:n]);
    END IF;

    RETURN (200,
            '{"data":[' || coalesce(array_to_string(cards, ','), '') || ']' || coalesce(',"facets":' || facet_counts::text, '') || '}',
            NULL,
            '{"page":{"limit":' || size
                || CASE WHEN n > 0 AND (more OR back) THEN ',"next":' || domain.product_position(names, keys[n], ids[n]) || '}'
                        ELSE ',"next":null' END
                || CASE WHEN n > 0 AND (skip > 0 OR cursor IS NOT NULL) AND (more OR NOT back)
                        THEN ',"prev":' || domain.product_position(names, keys[1], ids[1]) || ',"back":true}' ELSE ',"prev":null' END
                || ',"has_more":' || (n > 0 AND (more OR back))::text || coalesce(',"total":' || total, '') || '}}')::api.reply;
END
$$;

-- Where a row stands, as the beginning of a JSON object. keys: one key as text, or several as a JSON array.
CREATE OR REPLACE FUNCTION domain.product_position(names text[], keys text, id bigint) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT '{"k":' || CASE WHEN cardinality(names) = 1 THEN '[' || coalesce(to_json(keys)::text, 'null') || ']' ELSE keys END
           || ',"id":' || id
$$;

-- What a list can be sorted by. ranked: the hits have scores.
CREATE OR REPLACE FUNCTION domain.product_sort_key(name text, ranked boolean, OUT key text, OUT kind text)
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN name = 'relevance' AND ranked THEN 'c.score'
                WHEN name IN ('relevance', 'popularity') THEN 'c.popularity'
                WHEN name = 'price' THEN 'c.price'
                WHEN name = 'name' THEN 'c.name'
                WHEN name = 'stock' THEN 'l.stock'
                ELSE 'c.created_at' END,
           CASE WHEN name = 'relevance' AND ranked THEN 'float8'
                WHEN name IN ('relevance', 'popularity') THEN 'real'
                WHEN name = 'price' THEN 'bigint'
                WHEN name = 'name' THEN 'text COLLATE "C"'
                WHEN name = 'stock' THEN 'int'
                ELSE 'timestamptz' END
$$;

-- The rows after a position, in an order by several keys: the first key bounds the index, the rest decides among equals.
-- $3: the keys as text, $4: the id. The id follows the first key's direction.
CREATE OR REPLACE FUNCTION domain.product_after(keys text[], kinds text[], downs boolean[]) RETURNS text
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    condition  text := format('c.product_id %s $4', CASE WHEN downs[1] THEN '<' ELSE '>' END);
    value      text;
BEGIN
    IF cardinality(keys) = 1 THEN
        RETURN format('(%s, c.product_id) %s (($3)[1]::%s, $4)', keys[1], CASE WHEN downs[1] THEN '<' ELSE '>' END, kinds[1]);
    END IF;

    FOR i IN REVERSE cardinality(keys) .. 1 LOOP
        value := format('($3)[%s]::%s', i, kinds[i]);
        condition := format('(%1$s %2$s %3$s OR %1$s = %3$s AND %4$s)', keys[i], CASE WHEN downs[i] THEN '<' ELSE '>' END, value, condition);
    END LOOP;

    RETURN format('%s %s ($3)[1]::%s AND %s', keys[1], CASE WHEN downs[1] THEN '<=' ELSE '>=' END, kinds[1], condition);
END
$$;

-- A page under any filters. Planned for the values at hand: a category of ten products and one of ten thousand want different plans.
CREATE OR REPLACE FUNCTION domain.product_page_where(
    tenant bigint, f domain.product_filters, names text[], downs boolean[], cursor jsonb, size int, skip int,
    OUT cards text[], OUT keys text[], OUT ids bigint[])
LANGUAGE plpgsql STABLE AS $$
DECLARE
    conditions  text := domain.product_where(f);
    source      text := 'shop.product_card c';
    few         bigint[];
    ranked      boolean := false;
    columns     text[] := '{}';
    kinds       text[] := '{}';
    shown       text;
    sorted     record;
BEGIN
    IF 'relevance' = ANY (names) AND f.query IS NOT NULL THEN
        -- ranking reads every hit: up to 500 are ranked, more are too common a word for rank to tell them apart
        EXECUTE 'SELECT array_agg(product_id) FROM (SELECT c.product_id FROM shop.product_card c WHERE ' || conditions || ' LIMIT 501) x'
           INTO few USING tenant, f;
        IF few IS NULL THEN
            RETURN;
        END IF;
        ranked := cardinality(few) <= 500;
    END IF;

    IF ranked THEN
        source := '(SELECT c.*, (ts_rank(''{0.05,0.2,0.5,1}'', c.search, ($2).query) * (1 + c.popularity))::float8 AS score '
                  '   FROM shop.product_card c WHERE c.tenant_id = $1 AND c.product_id = ANY ($7) OFFSET 0) c';
        conditions := 'true';
    END IF;

    IF 'stock' = ANY (names) THEN
        source := source || ' JOIN shop.product_stock l ON l.tenant_id = c.tenant_id AND l.product_id = c.product_id';
    END IF;

    FOR i IN 1 .. cardinality(names) LOOP
        sorted := domain.product_sort_key(names[i], ranked);
        columns := columns || sorted.key;
        kinds := kinds || sorted.kind;
    END LOOP;

    IF cursor IS NOT NULL THEN
        conditions := conditions || ' AND ' || domain.product_after(columns, kinds, downs);
    END IF;

    shown := CASE WHEN cardinality(columns) = 1 THEN columns[1] || '::text'
                  ELSE 'json_build_array(' || array_to_string(columns, '::text, ') || '::text)::text' END;

    EXECUTE format(
        'SELECT array_agg(x.card || domain.stock_tail(s.stock, s.in_stock)), array_agg(x.key), array_agg(x.product_id) '
        '  FROM (SELECT c.product_id, c.card, %1$s AS key FROM %2$s WHERE %3$s ORDER BY %4$s LIMIT $5 OFFSET $6) x '
        ' CROSS JOIN LATERAL (SELECT s.stock, s.in_stock FROM shop.product_stock s '
        '                      WHERE s.tenant_id = $1 AND s.product_id = x.product_id OFFSET 0) s',
        shown, source, conditions,
        (SELECT string_agg(o.key || CASE WHEN o.down THEN ' DESC' ELSE ' ASC' END, ', ' ORDER BY o.place)
           FROM unnest(columns || 'c.product_id'::text, downs || downs[1]) WITH ORDINALITY o (key, down, place)))
       INTO cards, keys, ids
      USING tenant, f, ARRAY(SELECT jsonb_array_elements_text(cursor -> 'k')), (cursor ->> 'id')::bigint, size, skip, few;
END
$$;

-- How many products the filters leave: exact, or the planner's estimate. {"total": n}. Not STABLE: EXPLAIN would be refused.
CREATE OR REPLACE FUNCTION api.product_count(
    search text DEFAULT NULL, category jsonb DEFAULT NULL, brand jsonb DEFAULT NULL,
    min_price bigint DEFAULT NULL, max_price bigint DEFAULT NULL, min_rating real DEFAULT NULL,
    in_stock boolean DEFAULT NULL, created_after timestamptz DEFAULT NULL, created_before timestamptz DEFAULT NULL,
    count text DEFAULT 'exact')
RETURNS api.reply LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    f       domain.product_filters := domain.product_filter(search, category, brand, min_price, max_price, min_rating, in_stock,
                                                            created_after, created_before);
    source  text := 'FROM shop.product_card c WHERE ' || domain.product_where(f);
    plan    json;
    total   bigint := 0;
BEGIN
    IF NOT f.valid THEN
        NULL;
    ELSIF count = 'estimate' THEN
        EXECUTE 'EXPLAIN (FORMAT JSON) SELECT ' || source INTO plan USING domain.tenant_id(), f;
        total := (plan -> 0 -> 'Plan' ->> 'Plan Rows')::numeric;
    ELSE
        EXECUTE 'SELECT count(*) ' || source INTO total USING domain.tenant_id(), f;
    END IF;

    RETURN (200, '{"total":' || total || '}', NULL, NULL)::api.reply;
END
$$;

-- How many products of the list fall into each category, brand, rating and price range, and how many are in stock.
-- {"facet_counts": {…}}
CREATE OR REPLACE FUNCTION api.product_facets(
    search text DEFAULT NULL, category jsonb DEFAULT NULL, brand jsonb DEFAULT NULL,
    min_price bigint DEFAULT NULL, max_price bigint DEFAULT NULL, min_rating real DEFAULT NULL,
    in_stock boolean DEFAULT NULL, created_after timestamptz DEFAULT NULL, created_before timestamptz DEFAULT NULL)
RETURNS api.reply LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    f       domain.product_filters := domain.product_filter(search, category, brand, min_price, max_price, min_rating, in_stock,
                                                            created_after, created_before);
    counts  json;
BEGIN
    EXECUTE
        'WITH hit AS MATERIALIZED ('
        '    SELECT c.category_id, c.brand_id, c.price, c.rating, s.in_stock'
        '      FROM shop.product_card c'
        '      JOIN shop.product_stock s ON s.tenant_id = c.tenant_id AND s.product_id = c.product_id'
        '     WHERE ' || CASE WHEN f.valid THEN domain.product_where(f) ELSE 'false' END || ')'
        'SELECT json_build_object('
        '    ''categories'', (SELECT coalesce(json_agg(x), ''[]'') FROM ('
        '        SELECT k.id, k.slug, k.name, n.count'
        '          FROM (SELECT category_id, count(*) AS count FROM hit GROUP BY 1) n'
        '          JOIN shop.category k ON k.tenant_id = $1 AND k.id = n.category_id'
        '         ORDER BY n.count DESC, k.id LIMIT 50) x),'
        '    ''brands'', (SELECT coalesce(json_agg(x), ''[]'') FROM ('
        '        SELECT k.id, k.slug, k.name, n.count'
        '          FROM (SELECT brand_id, count(*) AS count FROM hit GROUP BY 1) n'
        '          JOIN shop.brand k ON k.tenant_id = $1 AND k.id = n.brand_id'
        '         ORDER BY n.count DESC, k.id LIMIT 50) x),'
        '    ''ratings'', (SELECT coalesce(json_agg(x), ''[]'') FROM ('
        '        SELECT floor(rating)::int AS rating, count(*) AS count FROM hit WHERE rating > 0 GROUP BY 1 ORDER BY 1 DESC) x),'
        '    ''price'', (SELECT json_build_object(''min'', min(price), ''max'', max(price)) FROM hit),'
        '    ''in_stock'', (SELECT count(*) FROM hit WHERE in_stock))'
        INTO counts
       USING domain.tenant_id(), f;

    RETURN (200, json_build_object('facet_counts', counts)::text, NULL, NULL)::api.reply;
END
$$;

-- Lists without filters, by one index each: plans are made once per connection. One function for each order, made here
-- from one text, because a column's name cannot be a parameter; domain.product_page chooses.
DO $$
DECLARE
    sort    record;
    down    boolean;
    source  text;
BEGIN
    FOR sort IN SELECT * FROM (VALUES
        ('price',      'c.price',      'bigint',      '-1',        '9223372036854775807'),
        ('name',       'c.name',       'text',        '',          E'\U0010FFFF'),
        ('created_at', 'c.created_at', 'timestamptz', '-infinity', 'infinity'),
        ('popularity', 'c.popularity', 'real',        '-infinity', 'infinity'),
        ('stock',      's.stock',      'int',         '-2147483648', '2147483647')) AS x (name, key, kind, low, high)
    LOOP
        FOREACH down IN ARRAY ARRAY[false, true] LOOP
            source := CASE WHEN sort.name = 'stock'
                THEN 'SELECT s.product_id, s.stock AS key, s.stock, s.in_stock FROM shop.product_stock s
                       WHERE s.tenant_id = tenant AND (s.stock, s.product_id) %5$s (after, after_id)
                         AND (only_stocked IS NULL OR s.in_stock)
                         AND EXISTS (SELECT FROM shop.product_card c WHERE c.tenant_id = tenant AND c.product_id = s.product_id)'
                ELSE 'SELECT c.product_id, %1$s AS key, c.card FROM shop.product_card c
                       WHERE c.tenant_id = tenant AND (%1$s, c.product_id) %5$s (after, after_id)'
                     || CASE WHEN sort.name = 'price' THEN ' AND c.price >= low AND c.price <= high' ELSE '' END
                     || ' AND (only_stocked IS NULL OR (SELECT s.in_stock FROM shop.product_stock s
                                                         WHERE s.tenant_id = tenant AND s.product_id = c.product_id))'
                END;
            EXECUTE format($f$
                CREATE OR REPLACE FUNCTION domain.product_page_%2$s_%3$s(
                    tenant bigint, only_stocked boolean, low bigint, high bigint, after %4$s, after_id bigint, size int,
                    OUT cards text[], OUT keys text[], OUT ids bigint[])
                LANGUAGE plpgsql STABLE AS $body$
                BEGIN
                    SELECT array_agg(x.card || domain.stock_tail(x.stock, x.in_stock)), array_agg(x.key::text), array_agg(x.product_id)
                      INTO cards, keys, ids
                      FROM (SELECT p.product_id, p.key, o.*
                              FROM ($f$ || source || $f$ ORDER BY %6$s %7$s, %8$s.product_id %7$s LIMIT size) p
                             CROSS JOIN LATERAL ($f$ || CASE WHEN sort.name = 'stock'
                                THEN 'SELECT c.card, p.stock, p.in_stock FROM shop.product_card c
                                       WHERE c.tenant_id = tenant AND c.product_id = p.product_id OFFSET 0'
                                ELSE 'SELECT p.card, s.stock, s.in_stock FROM shop.product_stock s
                                       WHERE s.tenant_id = tenant AND s.product_id = p.product_id OFFSET 0' END || $f$) o) x;
                END
                $body$ $f$,
                sort.key, sort.name, CASE WHEN down THEN 'desc' ELSE 'asc' END, sort.kind, CASE WHEN down THEN '<' ELSE '>' END,
                sort.key, CASE WHEN down THEN 'DESC' ELSE 'ASC' END, left(sort.key, 1));
        END LOOP;
    END LOOP;
END
$$;

-- Chooses the order. Before the first row stands a position that every row is after. NULL for only_stocked: all.
CREATE OR REPLACE FUNCTION domain.product_page(
    tenant bigint, sort text, down boolean, only_stocked boolean, low bigint, high bigint, after text, after_id bigint, size int,
    OUT cards text[], OUT keys text[], OUT ids bigint[])
LANGUAGE plpgsql STABLE AS $$
DECLARE
    least_id  bigint := coalesce(after_id, 0);
    most_id   bigint := coalesce(after_id, 9223372036854775807);
BEGIN
    low := coalesce(low, 0);
    high := coalesce(high, 9223372036854775807);

    CASE sort
        WHEN 'price' THEN
            IF down THEN
                SELECT * INTO cards, keys, ids FROM domain.product_page_price_desc(
                    tenant, only_stocked, low, high, coalesce(after::bigint, high), most_id, size);
            ELSE
                SELECT * INTO cards, keys, ids FROM domain.product_page_price_asc(
                    tenant, only_stocked, low, high, coalesce(after::bigint, low), least_id, size);
            END IF;
        WHEN 'name' THEN
            IF down THEN
                SELECT * INTO cards, keys, ids FROM domain.product_page_name_desc(
                    tenant, only_stocked, low, high, coalesce(after, E'\U0010FFFF'), most_id, size);
            ELSE
                SELECT * INTO cards, keys, ids FROM domain.product_page_name_asc(
                    tenant, only_stocked, low, high, coalesce(after, ''), least_id, size);
            END IF;
        WHEN 'popularity' THEN
            IF down THEN
                SELECT * INTO cards, keys, ids FROM domain.product_page_popularity_desc(
                    tenant, only_stocked, low, high, coalesce(after::real, 'infinity'), most_id, size);
            ELSE
                SELECT * INTO cards, keys, ids FROM domain.product_page_popularity_asc(
                    tenant, only_stocked, low, high, coalesce(after::real, '-infinity'), least_id, size);
            END IF;
        WHEN 'stock' THEN
            IF down THEN
                SELECT * INTO cards, keys, ids FROM domain.product_page_stock_desc(
                    tenant, only_stocked, low, high, coalesce(after::int, 2147483647), most_id, size);
            ELSE
                SELECT * INTO cards, keys, ids FROM domain.product_page_stock_asc(
                    tenant, only_stocked, low, high, coalesce(after::int, -1), least_id, size);
            END IF;
        ELSE
            IF down THEN
                SELECT * INTO cards, keys, ids FROM domain.product_page_created_at_desc(
                    tenant, only_stocked, low, high, coalesce(after::timestamptz, 'infinity'), most_id, size);
            ELSE
                SELECT * INTO cards, keys, ids FROM domain.product_page_created_at_asc(
                    tenant, only_stocked, low, high, coalesce(after::timestamptz, '-infinity'), least_id, size);
            END IF;
    END CASE;
END
$$;

-- ── single products ──────────────────────────────────────────────────────────────────────────────────────────────────

-- The ready-made document, its variants and what is in stock of each. NULL: there is no such product. version: of the ETag,
-- which names the stock too, so that a cached copy is not taken for fresh after a sale.
CREATE OR REPLACE FUNCTION domain.product_body(product bigint, OUT body text, OUT etag text)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    tenant    bigint := domain.tenant_id();
    head      text;
    revision  bigint;
    rated     text;
    variants  text;
    level     bigint;
    open      boolean;
BEGIN
    SELECT d.document, d.version, d.rated INTO head, revision, rated
      FROM shop.product_document d
     WHERE d.tenant_id = tenant AND d.product_id = product;

    IF NOT FOUND THEN
        RETURN;
    END IF;

    SELECT string_agg(x.document || ',"track_stock":' || x.track::text || domain.stock_tail(x.stock, x.open), ','),
           sum(x.stock), bool_or(x.open)
      INTO variants, level, open
      FROM (SELECT v.document, s.*
              FROM shop.variant v
             CROSS JOIN LATERAL (
                   SELECT coalesce(sum(greatest(s.on_hand - s.reserved, 0)), 0)::int AS stock,
                          coalesce(bool_or(s.on_hand > s.reserved OR s.allow_backorder OR NOT s.track_stock), false) AS open,
                          coalesce(bool_and(s.track_stock), true) AS track
                     FROM shop.stock s
                    WHERE s.tenant_id = tenant AND s.variant_id = v.id) s
             WHERE v.tenant_id = tenant AND v.product_id = product AND v.deleted_at IS NULL
             ORDER BY v.position, v.id) x;

    body := head || ',"variants":[' || coalesce(variants, '') || ']'
            || domain.stock_tail(coalesce(level, 0)::int, coalesce(open, false));
    etag := '"' || revision || '-' || coalesce(level, 0) || CASE WHEN open THEN 's' ELSE 'n' END || rated || '"';
END
$$;

CREATE OR REPLACE FUNCTION domain.product_reply(product bigint, staff boolean) RETURNS api.reply
LANGUAGE plpgsql STABLE AS $$
DECLARE
    b  record;
BEGIN
    b := domain.product_body(product);
    -- drafts are for staff: only what is for sale has a card
    IF b.body IS NULL
       OR NOT staff AND NOT EXISTS (SELECT FROM shop.product_card c WHERE c.tenant_id = domain.tenant_id() AND c.product_id = product) THEN
        PERFORM domain.fail(404, 'not-found', 'There is no such product');
    END IF;
    RETURN (200, b.body, ('{"ETag":' || to_json(b.etag)::text || '}')::json, NULL)::api.reply;
END
$$;

-- A product by its id (C2). The answer is cached for everybody, so it never depends on who asks.
CREATE OR REPLACE FUNCTION api.product_get(id bigint) RETURNS api.reply
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
BEGIN
    RETURN domain.product_reply(id, false);
END
$$;

-- A product as staff see it, drafts included.
CREATE OR REPLACE FUNCTION api.product_admin_get(id bigint) RETURNS api.reply
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
BEGIN
    PERFORM domain.need('catalog.read');
    RETURN domain.product_reply(id, true);
END
$$;

-- A product by its slug; 308 to the slug it has now when it had this one before (C17).
CREATE OR REPLACE FUNCTION api.product_get_by_slug(slug text) RETURNS api.reply
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    tenant   bigint := domain.tenant_id();
    product  bigint;
    now_at   text;
BEGIN
    SELECT p.id INTO product
      FROM shop.product p
     WHERE p.tenant_id = tenant AND p.slug = product_get_by_slug.slug AND p.deleted_at IS NULL;

    IF FOUND THEN
        RETURN domain.product_reply(product, false);
    END IF;

    SELECT p.slug INTO now_at
      FROM shop.product_slug s
      JOIN shop.product p ON p.tenant_id = s.tenant_id AND p.id = s.product_id
     WHERE s.tenant_id = tenant AND s.slug = product_get_by_slug.slug AND p.deleted_at IS NULL AND p.status = 'active';

    IF NOT FOUND THEN
        PERFORM domain.fail(404, 'not-found', 'There is no such product');
    END IF;

    RETURN (308, json_build_object('slug', now_at)::text,
            json_build_object('Location', '/api/v1/products/by-slug/' || now_at), NULL)::api.reply;
END
$$;

-- What a search box offers while somebody types (C9): products whose words begin like the typed ones, mistypes corrected.
CREATE OR REPLACE FUNCTION api.product_suggest(q text, "limit" int DEFAULT 8) RETURNS api.reply
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    tenant   bigint := domain.tenant_id();
    prefix   text;
    fixed    text;
    cards    text[];
BEGIN
    FOR pass IN 1 .. 2 LOOP
        SELECT string_agg(w || ':*AB', ' & ') INTO prefix
          FROM regexp_split_to_table(domain.fold(left(coalesce(fixed, q), 100)), '[^a-z0-9]+') w WHERE w <> '';

        IF prefix IS NOT NULL THEN
            SELECT array_agg(x.card || domain.stock_tail(s.stock, s.in_stock)) INTO cards
              FROM (SELECT h.card, h.product_id
                      FROM (SELECT c.card, c.product_id, c.popularity
                              FROM shop.product_card c
                             WHERE c.tenant_id = tenant
                               AND c.search @@ (to_tsquery('simple', prefix) || to_tsquery('shop.words', prefix))
                             LIMIT 500) h
                     ORDER BY h.popularity DESC, h.product_id LIMIT "limit") x
             CROSS JOIN LATERAL (SELECT s.stock, s.in_stock FROM shop.product_stock s
                                  WHERE s.tenant_id = tenant AND s.product_id = x.product_id OFFSET 0) s;
        END IF;

        EXIT WHEN cards IS NOT NULL OR pass = 2;
        fixed := domain.search_corrected(q);
        EXIT WHEN fixed IS NULL;
    END LOOP;

    RETURN (200, '{"query":' || to_json(q)::text || ',"corrected":' || coalesce(to_json(fixed)::text, 'null')
                 || ',"data":[' || coalesce(array_to_string(cards, ','), '') || ']}', NULL, NULL)::api.reply;
END
$$;

-- ── expand= ──────────────────────────────────────────────────────────────────────────────────────────────────────────

-- A reply about products (a page or a single one) with categories and brands in place of what refers to them.
-- expand: names of the contract's list.
CREATE OR REPLACE FUNCTION api.expand_products(reply jsonb, expand jsonb) RETURNS api.reply
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    tenant    bigint := domain.tenant_id();
    page      boolean := reply ? 'data';
    products  jsonb := CASE WHEN page THEN reply -> 'data' ELSE jsonb_build_array(reply) END;
    deep      boolean := expand ? 'category.parent';
BEGIN
    IF expand ? 'category' OR deep THEN
        SELECT jsonb_agg(p.doc || jsonb_build_object('category',
                   (SELECT domain.category_json(c)::jsonb
                           || CASE WHEN deep THEN jsonb_build_object('parent', (
                                  SELECT domain.category_json(u) FROM shop.category u
                                   WHERE u.tenant_id = tenant AND u.id = c.parent_id AND u.deleted_at IS NULL)) ELSE '{}' END
                      FROM shop.category c
                     WHERE c.tenant_id = tenant AND c.id = (p.doc #>> '{category,id}')::bigint)) ORDER BY p.place)
          INTO products
          FROM jsonb_array_elements(products) WITH ORDINALITY p (doc, place);
    END IF;

    IF expand ? 'brand' THEN
        SELECT jsonb_agg(p.doc || jsonb_build_object('brand',
                   (SELECT domain.brand_json(b)
                      FROM shop.product x
                      JOIN shop.brand b ON b.tenant_id = x.tenant_id AND b.id = x.brand_id
                     WHERE x.tenant_id = tenant AND x.id = (p.doc ->> 'id')::bigint)) ORDER BY p.place)
          INTO products
          FROM jsonb_array_elements(products) WITH ORDINALITY p (doc, place);
    END IF;

    RETURN (200, CASE WHEN page THEN jsonb_set(reply, '{data}', coalesce(products, '[]')) ELSE products -> 0 END::text,
            NULL, NULL)::api.reply;
END
$$;
