-- Pages of lists: what stands in edge.page.

-- A page of n rows (at most size) that begins at the position "first" and ends at "last". cursor: the position that the client
-- came with; one with "back": true was followed backwards. more: there are rows beyond, in the direction that was read.
CREATE OR REPLACE FUNCTION domain.page(size int, cursor jsonb, n int, more boolean, first jsonb, last jsonb, total bigint DEFAULT NULL)
RETURNS json LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    back   boolean := coalesce((cursor ->> 'back')::boolean, false);
    ahead  boolean := n > 0 AND (more OR back);
BEGIN
    RETURN ('{"limit":' || size
            || ',"next":' || CASE WHEN ahead THEN last::text ELSE 'null' END
            || ',"prev":' || CASE WHEN n > 0 AND cursor IS NOT NULL AND (more OR NOT back) THEN (first || '{"back":true}')::text
                                  ELSE 'null' END
            || ',"has_more":' || ahead::text
            || coalesce(',"total":' || total, '') || '}')::json;
END
$$;

-- Whether a cursor goes backwards.
CREATE OR REPLACE FUNCTION domain.page_back(cursor jsonb) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce((cursor ->> 'back')::boolean, false)
$$;

-- An array from its end.
CREATE OR REPLACE FUNCTION domain.reversed(list anyarray) RETURNS anyarray
LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(array_agg(x ORDER BY place DESC), '{}') FROM unnest(list) WITH ORDINALITY u (x, place)
$$;

-- A page of a list as the reply of its function: rows of "source", a table or a query in parentheses with a column tenant_id, called r.
-- shown: an expression over the row r that makes JSON of it, like domain.coupon_json(r) or (r).id; keys: the columns that the list is in
-- the order of, unique together, and that a cursor holds; newest: from the greatest on; condition: ' AND …' over r, see domain.page_where().
CREATE OR REPLACE FUNCTION domain.page_list(source text, shown text, keys text[], newest boolean, condition text, size int, cursor jsonb)
RETURNS api.reply LANGUAGE plpgsql STABLE AS $$
DECLARE
    back    boolean := domain.page_back(cursor);
    falling boolean := newest <> back;
    ordered text;
    place   text;
    beyond  text := '';
    list    text;
    first   jsonb;
    last    jsonb;
    n       int;
    more    boolean;
BEGIN
    SELECT string_agg(format('r.%I %s', k, CASE WHEN falling THEN 'DESC' ELSE 'ASC' END), ', '),
           string_agg(format('%L, (x.r).%I', k, k), ', ')
      INTO ordered, place
      FROM unnest(keys) k;
    IF cursor IS NOT NULL THEN
        IF NOT cursor ?& keys THEN
            PERFORM domain.fail(400, 'cursor-mismatch', 'The cursor is of an older version of this list; begin again without it.');
        END IF;
        SELECT format(' AND (%s) %s (%s)', string_agg(format('r.%I', k), ', '), CASE WHEN falling THEN '<' ELSE '>' END,
                      string_agg(quote_nullable(cursor ->> k), ', '))
          INTO beyond
          FROM unnest(keys) k;
    END IF;

    EXECUTE format('SELECT string_agg((%s)::text, '','' ORDER BY x.place %s) FILTER (WHERE x.place <= $1), least(count(*), $1), count(*) > $1, '
                   '       (array_agg(jsonb_build_object(%s) ORDER BY x.place))[1], '
                   '       (array_agg(jsonb_build_object(%3$s) ORDER BY x.place))[least(count(*), $1)] '
                   '  FROM (SELECT r, row_number() OVER (ORDER BY %s) AS place FROM %s r WHERE r.tenant_id = domain.tenant_id()%s%s '
                   '         ORDER BY %4$s LIMIT $1 + 1) x',
                   shown, CASE WHEN back THEN 'DESC' ELSE 'ASC' END, place, ordered, source, condition, beyond)
      INTO list, n, more, first, last
     USING size;

    RETURN (200, '{"data":[' || coalesce(list, '') || ']}', NULL,
            json_build_object('page', domain.page(size, cursor, n, more, CASE WHEN back THEN last ELSE first END,
                                                  CASE WHEN back THEN first ELSE last END)))::api.reply;
END
$$;

-- The condition that columns of r have these values; those that are null do not matter.
CREATE OR REPLACE FUNCTION domain.page_where(wanted jsonb) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(string_agg(format(' AND r.%I = %L', w.key, w.value), '' ORDER BY w.key), '')
      FROM jsonb_each_text(jsonb_strip_nulls(wanted)) w
$$;
