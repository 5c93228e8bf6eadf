-- Reviews of products: who may write them, which count, how lists are read.

-- The product's rating from its approved reviews. The reading side is the caller's to refresh. The product's row is taken first, in a
-- statement of its own: the next one then sees what everybody who had it before has written, so that the sum is exact.
CREATE OR REPLACE FUNCTION domain.rating_changed(product bigint) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    tenant  bigint := domain.tenant_id();
BEGIN
    PERFORM FROM shop.product p WHERE p.tenant_id = tenant AND p.id = product FOR NO KEY UPDATE;

    UPDATE shop.product p
       SET rating_sum = a.total, rating_count = a.n
      FROM (SELECT coalesce(sum(r.rating), 0) AS total, count(*)::int AS n
              FROM shop.review r
             WHERE r.tenant_id = tenant AND r.product_id = product AND r.status = 'approved' AND r.deleted_at IS NULL) a
     WHERE p.tenant_id = tenant AND p.id = product;
END
$$;

-- Has this customer bought the product? An order counts from its confirmation on, unless it was cancelled.
CREATE OR REPLACE FUNCTION domain.purchase_verified(user_id uuid, product bigint) RETURNS boolean
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN EXISTS (SELECT FROM shop.orders o
                     JOIN shop.order_item l ON l.tenant_id = o.tenant_id AND l.order_id = o.id
                    WHERE o.tenant_id = domain.tenant_id() AND o.user_id = purchase_verified.user_id
                      AND o.status IN ('confirmed', 'processing', 'shipped', 'delivered') AND l.product_id = product);
END
$$;

-- How an author is shown: "Ann Lee Brown" is Ann B.
CREATE OR REPLACE FUNCTION domain.review_author(name text) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT nullif(btrim(regexp_replace(btrim(name), '^(\S+)(?:\s.*)?\s(\S)\S*$', '\1 \2.')), '')
$$;

-- A review as its author sees it, or as staff do.
CREATE OR REPLACE FUNCTION domain.review_json(r shop.review, staff boolean DEFAULT false) RETURNS jsonb
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN jsonb_build_object(
               'id', r.id, 'product_id', r.product_id, 'rating', r.rating, 'title', r.title, 'comment', r.comment,
               'author', r.author_name, 'verified_purchase', r.verified_purchase, 'status', r.status,
               'moderation_note', r.moderation_note,
               'sentiment_score', round(r.sentiment_score::numeric, 4), 'sentiment_label', r.sentiment_label,
               'sentiment_confidence', round(r.sentiment_confidence::numeric, 4),
               'sentiment_analyzed_at', domain.ts(r.sentiment_analyzed_at),
               'version', r.version, 'created_at', domain.ts(r.created_at), 'updated_at', domain.ts(r.updated_at))
           || CASE WHEN staff THEN jsonb_build_object('user_id', r.user_id, 'moderated_at', domain.ts(r.moderated_at),
                                                      'product_name', (SELECT p.name FROM shop.product p
                                                                        WHERE p.tenant_id = r.tenant_id AND p.id = r.product_id))
                   ELSE '{}' END;
END
$$;

CREATE OR REPLACE FUNCTION domain.review_counts(r shop.review) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(r.status = 'approved' AND r.deleted_at IS NULL, false)
$$;

-- What follows every write of a review: the product's rating when it is another one, its reading side; the tags that are void. was: the
-- row before, or NULL.
CREATE OR REPLACE FUNCTION domain.review_written(was shop.review, r shop.review) RETURNS text[]
LANGUAGE plpgsql AS $$
BEGIN
    IF NOT domain.review_counts(was) AND NOT domain.review_counts(r) THEN
        RETURN '{}';
    END IF;

    IF domain.review_counts(was) <> domain.review_counts(r) OR was.rating IS DISTINCT FROM r.rating THEN
        PERFORM domain.rating_changed(r.product_id);
        PERFORM domain.product_refresh(ARRAY[r.product_id]);
        RETURN ARRAY['product:' || r.product_id, 'catalog'];
    END IF;

    RETURN ARRAY['product:' || r.product_id];
END
$$;

-- ReviewUpdated, ReviewApproved, ReviewRejected, ReviewDeleted.
CREATE OR REPLACE FUNCTION domain.review_event(type text, r shop.review) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM domain.emit('product-events', type, 'review', r.id::text, jsonb_build_object(
                            'review_id', r.id, 'user_id', r.user_id, 'product_id', r.product_id, 'rating', r.rating, 'status', r.status,
                            'timestamp', domain.ts(now())), r.version);
END
$$;

-- The customer's own review, locked for a change; 404 when it is not theirs.
CREATE OR REPLACE FUNCTION domain.review_hold(id bigint) RETURNS shop.review
LANGUAGE plpgsql AS $$
DECLARE
    r  shop.review;
BEGIN
    SELECT * INTO r
      FROM shop.review x
     WHERE x.tenant_id = domain.tenant_id() AND x.id = review_hold.id AND x.user_id = domain.principal() AND x.deleted_at IS NULL
       FOR UPDATE;
    IF NOT FOUND THEN
        PERFORM domain.fail(404, 'not-found', 'You have no such review.');
    END IF;
    RETURN r;
END
$$;

-- The status of what customers write: for staff to decide, unless the shop trusts everybody.
CREATE OR REPLACE FUNCTION domain.review_status() RETURNS text
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN CASE WHEN (domain.tenant_setting('reviews_auto_approve'))::boolean THEN 'approved' ELSE 'pending' END;
END
$$;

-- A page of reviews: ids in their order, where the page begins and ends, whether there are more. f: product_id, user_id, verified, and
-- lists status, rating, sentiment. sort: names of the contract, at most three; the newest first without.
CREATE OR REPLACE FUNCTION domain.review_page(f jsonb, sort jsonb, size int, cursor jsonb, OUT ids bigint[], OUT page json)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    back   boolean := domain.page_back(cursor);
    keys   text := '';
    ordered text;
    wanted text;
    name   text;
    places jsonb[];
    more   boolean;
    n      int;
BEGIN
    FOR name IN SELECT jsonb_array_elements_text(sort) LOOP
        keys := keys || CASE WHEN left(name, 1) = '-' THEN '-' ELSE '' END || CASE ltrim(name, '-')
            WHEN 'rating' THEN 'r.rating::bigint'
            WHEN 'sentiment' THEN '(coalesce(r.sentiment_score, 0) * 10000)::bigint'
            ELSE '(extract(epoch FROM r.created_at) * 1000000)::bigint' END || ', ';
    END LOOP;

    -- the last key is the id, newest first; alone it is read from the index
    ordered := CASE WHEN keys = '' THEN 'r.id ' || CASE WHEN back THEN 'ASC' ELSE 'DESC' END
                    ELSE 'ARRAY[' || keys || '-r.id]' || CASE WHEN back THEN ' DESC' ELSE ' ASC' END END;
    wanted := CASE WHEN f ? 'product_id' THEN ' AND r.product_id = ($3 ->> ''product_id'')::bigint' ELSE '' END
              || CASE WHEN f ? 'user_id' THEN ' AND r.user_id = ($3 ->> ''user_id'')::uuid' ELSE '' END
              || CASE WHEN f ? 'verified' THEN ' AND r.verified_purchase = ($3 ->> ''verified'')::boolean' ELSE '' END
              || CASE WHEN f ? 'status' THEN ' AND r.status = ANY (ARRAY(SELECT jsonb_array_elements_text($3 -> ''status'')))' ELSE '' END
              || CASE WHEN f ? 'rating' THEN ' AND r.rating = ANY (ARRAY(SELECT jsonb_array_elements_text($3 -> ''rating'')::int))'
                      ELSE '' END
              || CASE WHEN f ? 'sentiment'
                      THEN ' AND r.sentiment_label = ANY (ARRAY(SELECT jsonb_array_elements_text($3 -> ''sentiment'')))' ELSE '' END
              || CASE WHEN cursor IS NULL THEN ''
                      WHEN keys = '' THEN ' AND r.id ' || CASE WHEN back THEN '>' ELSE '<' END || ' -$4[1]'
                      ELSE ' AND ARRAY[' || keys || '-r.id] ' || CASE WHEN back THEN '<' ELSE '>' END || ' $4' END;

    EXECUTE format('SELECT array_agg(x.id ORDER BY x.n), array_agg(x.k ORDER BY x.n)
                      FROM (SELECT r.id, to_jsonb(ARRAY[%s-r.id]) AS k, row_number() OVER (ORDER BY %s) AS n
                              FROM shop.review r
                             WHERE r.tenant_id = $1 AND r.deleted_at IS NULL%s
                             ORDER BY %s LIMIT $2) x', keys, ordered, wanted, ordered)
       INTO ids, places
      USING domain.tenant_id(), size + 1, f, ARRAY(SELECT jsonb_array_elements_text(cursor -> 'k')::bigint);

    more := coalesce(cardinality(ids), 0) > size;
    ids := coalesce(ids[:size], '{}');
    places := places[:size];
    IF back THEN
        ids := domain.reversed(ids);
        places := domain.reversed(places);
    END IF;
    n := cardinality(ids);
    page := domain.page(size, cursor, n, more, jsonb_build_object('k', places[1]), jsonb_build_object('k', places[n]));
END
$$;
