-- Reviews (K1, K4, K5) and what they sound like (K2, K3). sentiment_…: as the edge has read the comment; all NULL without a model.

-- A product's reviews, the newest first (K1).
CREATE OR REPLACE FUNCTION api.product_reviews(id bigint, "limit" int DEFAULT 20, cursor jsonb DEFAULT NULL, sort jsonb DEFAULT NULL,
                                               rating jsonb DEFAULT NULL, verified boolean DEFAULT NULL, sentiment jsonb DEFAULT NULL)
RETURNS api.reply LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    tenant  bigint := domain.tenant_id();
    p       record;
    list    json[];
BEGIN
    IF NOT EXISTS (SELECT FROM shop.product_card c WHERE c.tenant_id = tenant AND c.product_id = product_reviews.id) THEN
        PERFORM domain.fail(404, 'not-found', 'There is no such product');
    END IF;

    p := domain.review_page(jsonb_strip_nulls(jsonb_build_object('product_id', id, 'status', '["approved"]'::jsonb, 'rating', rating,
                                                                 'verified', verified, 'sentiment', sentiment)),
                            sort, "limit", cursor);

    SELECT array_agg(to_json(x) ORDER BY array_position(p.ids, x.id)) INTO list
      FROM (SELECT r.id, r.rating, r.title, r.comment, r.author_name AS author, r.verified_purchase, r.sentiment_label,
                   domain.ts(r.created_at) AS created_at, domain.ts(r.updated_at) AS updated_at
              FROM shop.review r
             WHERE r.tenant_id = tenant AND r.id = ANY (p.ids)) x;

    RETURN (200, '{"data":' || array_to_json(coalesce(list, '{}'))::text || '}', NULL,
            json_build_object('page', p.page))::api.reply;
END
$$;

-- K1: a customer says what they think of a product, once.
CREATE OR REPLACE FUNCTION api.review_create(
    id bigint, rating int, comment text, title text DEFAULT NULL, sentiment_score real DEFAULT NULL, sentiment_label text DEFAULT NULL,
    sentiment_confidence real DEFAULT NULL, sentiment_analyzed boolean DEFAULT NULL)
RETURNS api.reply LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    tenant  bigint := domain.tenant_id();
    person  shop.app_user;
    r       shop.review;
    tags    text[];
BEGIN
    SELECT * INTO person FROM shop.app_user u WHERE u.tenant_id = tenant AND u.id = domain.principal() AND u.deleted_at IS NULL;
    IF NOT FOUND THEN
        PERFORM domain.fail(401, 'not-authenticated', 'This account is not active any more.');
    END IF;

    IF NOT EXISTS (SELECT FROM shop.product_card c WHERE c.tenant_id = tenant AND c.product_id = review_create.id) THEN
        PERFORM domain.fail(404, 'not-found', 'There is no such product');
    END IF;

    INSERT INTO shop.review AS x (tenant_id, product_id, user_id, rating, title, comment, author_name, status, verified_purchase,
                                  sentiment_score, sentiment_label, sentiment_confidence, sentiment_analyzed_at)
    VALUES (tenant, review_create.id, person.id, review_create.rating, nullif(btrim(review_create.title), ''), review_create.comment,
            domain.review_author(person.name), domain.review_status(), domain.purchase_verified(person.id, review_create.id),
            review_create.sentiment_score, review_create.sentiment_label, review_create.sentiment_confidence,
            CASE WHEN sentiment_analyzed THEN now() END)
        ON CONFLICT (tenant_id, user_id, product_id) WHERE user_id IS NOT NULL AND deleted_at IS NULL DO NOTHING
    RETURNING x.* INTO r;
    IF NOT FOUND THEN
        PERFORM domain.fail(409, 'review-exists', 'You have reviewed this product already: change that review.', jsonb_build_object(
                    'review_id', (SELECT x.id FROM shop.review x
                                   WHERE x.tenant_id = tenant AND x.user_id = person.id AND x.product_id = review_create.id
                                     AND x.deleted_at IS NULL)));
    END IF;

    tags := domain.review_written(NULL, r);
    PERFORM domain.emit('review.created', 'shop.review.created.v1', 'review', r.id::text, jsonb_build_object(
                            'review_id', r.id, 'user_id', r.user_id, 'product_id', r.product_id, 'rating', r.rating, 'comment', r.comment,
                            'timestamp', domain.ts(r.created_at)), r.version);
    IF r.status = 'approved' THEN
        PERFORM domain.review_event('ReviewApproved', r);
    END IF;

    RETURN (201, domain.review_json(r)::text,
            json_build_object('ETag', '"' || r.version || '"', 'Location', '/api/v1/reviews/' || r.id),
            json_build_object('invalidate', tags))::api.reply;
END
$$;

-- My reviews, the newest first, whatever their status.
CREATE OR REPLACE FUNCTION api.review_mine("limit" int DEFAULT 20, cursor jsonb DEFAULT NULL) RETURNS api.reply
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    p     record;
    list  jsonb;
BEGIN
    p := domain.review_page(jsonb_build_object('user_id', domain.principal()), NULL, "limit", cursor);

    SELECT jsonb_agg(domain.review_json(r) ORDER BY array_position(p.ids, r.id)) INTO list
      FROM shop.review r WHERE r.tenant_id = domain.tenant_id() AND r.id = ANY (p.ids);

    RETURN (200, jsonb_build_object('data', coalesce(list, '[]'))::text, NULL, json_build_object('page', p.page))::api.reply;
END
$$;

CREATE OR REPLACE FUNCTION api.review_get(id bigint) RETURNS api.reply
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    r  shop.review;
BEGIN
    SELECT * INTO r
      FROM shop.review x
     WHERE x.tenant_id = domain.tenant_id() AND x.id = review_get.id AND x.user_id = domain.principal() AND x.deleted_at IS NULL;
    IF NOT FOUND THEN
        PERFORM domain.fail(404, 'not-found', 'You have no such review.');
    END IF;
    RETURN (200, domain.review_json(r)::text, json_build_object('ETag', '"' || r.version || '"'), NULL)::api.reply;
END
$$;

-- Changes my review (JSON Merge Patch). What says something else is looked at again by staff, unless the shop trusts everybody.
CREATE OR REPLACE FUNCTION api.review_patch(
    id bigint, patch jsonb, sentiment_score real DEFAULT NULL, sentiment_label text DEFAULT NULL, sentiment_confidence real DEFAULT NULL,
    sentiment_analyzed boolean DEFAULT NULL)
RETURNS api.reply LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    was    shop.review := domain.review_hold(id);
    r      shop.review := was;
    tags   text[];
BEGIN
    r.rating := coalesce((patch ->> 'rating')::int, r.rating);
    r.comment := coalesce(patch ->> 'comment', r.comment);
    IF patch ? 'title' THEN
        r.title := nullif(btrim(patch ->> 'title'), '');
    END IF;

    IF r.comment <> was.comment OR sentiment_analyzed THEN
        r.sentiment_score := review_patch.sentiment_score;
        r.sentiment_label := review_patch.sentiment_label;
        r.sentiment_confidence := review_patch.sentiment_confidence;
        r.sentiment_analyzed_at := CASE WHEN sentiment_analyzed THEN now() END;
    END IF;

    IF (r.rating, r.title, r.comment) IS DISTINCT FROM (was.rating, was.title, was.comment) THEN
        r.status := domain.review_status();
        r.moderation_note := NULL;
    END IF;

    UPDATE shop.review x
       SET rating = r.rating, title = r.title, comment = r.comment, status = r.status, moderation_note = r.moderation_note,
           verified_purchase = x.verified_purchase OR domain.purchase_verified(x.user_id, x.product_id),
           sentiment_score = r.sentiment_score, sentiment_label = r.sentiment_label, sentiment_confidence = r.sentiment_confidence,
           sentiment_analyzed_at = r.sentiment_analyzed_at, version = x.version + 1, updated_at = now()
     WHERE x.tenant_id = was.tenant_id AND x.id = was.id
    RETURNING x.* INTO r;

    tags := domain.review_written(was, r);
    PERFORM domain.review_event('ReviewUpdated', r);

    RETURN (200, domain.review_json(r)::text, json_build_object('ETag', '"' || r.version || '"'),
            json_build_object('invalidate', tags))::api.reply;
END
$$;

-- The same with the whole review.
CREATE OR REPLACE FUNCTION api.review_put(
    id bigint, review jsonb, sentiment_score real DEFAULT NULL, sentiment_label text DEFAULT NULL, sentiment_confidence real DEFAULT NULL,
    sentiment_analyzed boolean DEFAULT NULL)
RETURNS api.reply LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    RETURN api.review_patch(id, '{"title": null}' || review, sentiment_score, sentiment_label, sentiment_confidence, sentiment_analyzed);
END
$$;

CREATE OR REPLACE FUNCTION api.review_delete(id bigint) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    was   shop.review := domain.review_hold(id);
    r     shop.review;
    tags  text[];
BEGIN
    UPDATE shop.review x SET deleted_at = now(), updated_at = now(), version = x.version + 1
     WHERE x.tenant_id = was.tenant_id AND x.id = was.id
    RETURNING x.* INTO r;

    tags := domain.review_written(was, r);
    PERFORM domain.review_event('ReviewDeleted', r);

    RETURN (204, NULL, NULL, json_build_object('invalidate', tags))::api.reply;
END
$$;

-- ── staff ────────────────────────────────────────────────────────────────────────────────────────────────────────────

-- K4: what customers have written, the newest first.
CREATE OR REPLACE FUNCTION api.review_admin_list(
    "limit" int DEFAULT 20, cursor jsonb DEFAULT NULL, sort jsonb DEFAULT NULL, status jsonb DEFAULT NULL, product_id bigint DEFAULT NULL,
    user_id uuid DEFAULT NULL, rating jsonb DEFAULT NULL, verified boolean DEFAULT NULL, sentiment jsonb DEFAULT NULL)
RETURNS api.reply LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    p     record;
    list  jsonb;
BEGIN
    PERFORM domain.need('content.write');
    p := domain.review_page(jsonb_strip_nulls(jsonb_build_object(
                                'status', status, 'product_id', product_id, 'user_id', user_id, 'rating', rating, 'verified', verified,
                                'sentiment', sentiment)), sort, "limit", cursor);

    SELECT jsonb_agg(domain.review_json(r, true) ORDER BY array_position(p.ids, r.id)) INTO list
      FROM shop.review r WHERE r.tenant_id = domain.tenant_id() AND r.id = ANY (p.ids);

    RETURN (200, jsonb_build_object('data', coalesce(list, '[]'))::text, NULL, json_build_object('page', p.page))::api.reply;
END
$$;

CREATE OR REPLACE FUNCTION api.review_admin_get(id bigint) RETURNS api.reply
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    r  shop.review;
BEGIN
    PERFORM domain.need('content.write');
    SELECT * INTO r FROM shop.review x WHERE x.tenant_id = domain.tenant_id() AND x.id = review_admin_get.id AND x.deleted_at IS NULL;
    IF NOT FOUND THEN
        PERFORM domain.fail(404, 'not-found', 'There is no such review.');
    END IF;
    RETURN (200, domain.review_json(r, true)::text, json_build_object('ETag', '"' || r.version || '"'), NULL)::api.reply;
END
$$;

-- Approves or rejects. Again: the same answer, and no second event.
CREATE OR REPLACE FUNCTION domain.review_moderate(id bigint, decision text, note text) RETURNS api.reply
LANGUAGE plpgsql AS $$
DECLARE
    was   shop.review;
    r     shop.review;
    tags  text[] := '{}';
BEGIN
    PERFORM domain.need('content.write');
    SELECT * INTO was FROM shop.review x
     WHERE x.tenant_id = domain.tenant_id() AND x.id = review_moderate.id AND x.deleted_at IS NULL
       FOR UPDATE;
    IF NOT FOUND THEN
        PERFORM domain.fail(404, 'not-found', 'There is no such review.');
    END IF;

    IF (was.status, was.moderation_note) IS NOT DISTINCT FROM (decision, note) THEN
        r := was;
    ELSE
        UPDATE shop.review x
           SET status = decision, moderation_note = note, moderated_at = now(), updated_at = now(), version = x.version + 1
         WHERE x.tenant_id = was.tenant_id AND x.id = was.id
        RETURNING x.* INTO r;

        tags := domain.review_written(was, r);
        PERFORM domain.invalidate(tags);
        IF was.status <> decision THEN
            PERFORM domain.review_event(CASE decision WHEN 'approved' THEN 'ReviewApproved' ELSE 'ReviewRejected' END, r);
        END IF;
        PERFORM domain.audit(CASE decision WHEN 'approved' THEN 'ReviewApproved' ELSE 'ReviewRejected' END, 'review', r.id::text,
                             jsonb_build_object('status', was.status, 'moderation_note', was.moderation_note),
                             jsonb_build_object('status', r.status, 'moderation_note', r.moderation_note));
    END IF;

    RETURN (200, domain.review_json(r, true)::text, json_build_object('ETag', '"' || r.version || '"'),
            json_build_object('invalidate', tags))::api.reply;
END
$$;

CREATE OR REPLACE FUNCTION api.review_approve(id bigint, note text DEFAULT NULL) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    RETURN domain.review_moderate(id, 'approved', note);
END
$$;

CREATE OR REPLACE FUNCTION api.review_reject(id bigint, note text DEFAULT NULL) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    RETURN domain.review_moderate(id, 'rejected', note);
END
$$;
