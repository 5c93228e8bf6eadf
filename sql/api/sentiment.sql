-- Sentiment of reviews, for staff (K3). The edge reads the texts; here is what is stored of it.

-- What a customer's reviews sound like, the newest first, and in sum.
CREATE OR REPLACE FUNCTION api.user_sentiment(id uuid, "limit" int DEFAULT 20, cursor jsonb DEFAULT NULL) RETURNS api.reply
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    tenant  bigint := domain.tenant_id();
    p       record;
    list    jsonb;
    total   jsonb;
BEGIN
    PERFORM domain.need('customers.read');
    IF NOT EXISTS (SELECT FROM shop.app_user u WHERE u.tenant_id = tenant AND u.id = user_sentiment.id AND u.deleted_at IS NULL) THEN
        PERFORM domain.fail(404, 'not-found', 'There is no such customer.');
    END IF;

    p := domain.review_page(jsonb_build_object('user_id', id), NULL, "limit", cursor);

    SELECT jsonb_agg(jsonb_build_object(
               'review_id', r.id, 'product_id', r.product_id, 'rating', r.rating, 'status', r.status,
               'sentiment_score', round(r.sentiment_score::numeric, 4), 'sentiment_label', r.sentiment_label,
               'sentiment_confidence', round(r.sentiment_confidence::numeric, 4),
               'sentiment_analyzed_at', domain.ts(r.sentiment_analyzed_at), 'created_at', domain.ts(r.created_at))
               ORDER BY array_position(p.ids, r.id)) INTO list
      FROM shop.review r WHERE r.tenant_id = tenant AND r.id = ANY (p.ids);

    SELECT jsonb_build_object(
               'reviews', count(*), 'analyzed', count(r.sentiment_score), 'average_score', round(avg(r.sentiment_score)::numeric, 4),
               'positive', count(*) FILTER (WHERE r.sentiment_label = 'positive'),
               'neutral', count(*) FILTER (WHERE r.sentiment_label = 'neutral'),
               'negative', count(*) FILTER (WHERE r.sentiment_label = 'negative')) INTO total
      FROM shop.review r WHERE r.tenant_id = tenant AND r.user_id = user_sentiment.id AND r.deleted_at IS NULL;

    RETURN (200, jsonb_build_object('user_id', id, 'summary', total, 'data', coalesce(list, '[]'))::text, NULL,
            json_build_object('page', p.page))::api.reply;
END
$$;

-- Reviews that nobody has looked at yet, imported ones, say: {"review_ids": […], "texts": […]}. before: those too that
-- were read before that moment, by another model.
CREATE OR REPLACE FUNCTION api.sentiment_wanted("limit" int DEFAULT 100, before timestamptz DEFAULT NULL) RETURNS api.reply
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    tenant  bigint := domain.tenant_id();
    ids     bigint[];
    texts   text[];
BEGIN
    PERFORM domain.need('content.write');

    SELECT array_agg(x.id), array_agg(x.comment) INTO ids, texts
      FROM (SELECT r.id, r.comment
              FROM shop.review r
             WHERE r.tenant_id = tenant AND r.deleted_at IS NULL
               AND (r.sentiment_analyzed_at IS NULL OR r.sentiment_analyzed_at < before)
             ORDER BY r.id LIMIT "limit") x;

    RETURN (200, json_build_object('review_ids', coalesce(ids, '{}'), 'texts', coalesce(texts, '{}'))::text, NULL, NULL)::api.reply;
END
$$;

-- What the edge has found, in the order of review_ids. model: NULL, nothing was read, and nothing changes.
CREATE OR REPLACE FUNCTION api.sentiment_found(review_ids jsonb, texts jsonb, data jsonb, model jsonb) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    tenant  bigint := domain.tenant_id();
    done    int := 0;
    tags    text[];
BEGIN
    PERFORM domain.need('content.write');

    IF model IS NOT NULL THEN
        WITH found AS (
            UPDATE shop.review r
               SET sentiment_score = (e.value ->> 'score')::real, sentiment_label = e.value ->> 'label',
                   sentiment_confidence = (e.value ->> 'confidence')::real, sentiment_analyzed_at = now()
              FROM jsonb_array_elements(sentiment_found.data) WITH ORDINALITY e
             WHERE r.tenant_id = tenant AND r.id = (review_ids ->> (e.ordinality - 1)::int)::bigint
               -- not what somebody has changed meanwhile
               AND r.comment = texts ->> (e.ordinality - 1)::int
            RETURNING r.product_id)
        SELECT count(*), array_agg(DISTINCT 'product:' || f.product_id) INTO done, tags FROM found f;
        PERFORM domain.invalidate(tags);
    END IF;

    RETURN (200, json_build_object('analyzed', done,
                                   'remaining', (SELECT count(*) FROM (SELECT FROM shop.review r
                                                                        WHERE r.tenant_id = tenant AND r.deleted_at IS NULL
                                                                          AND r.sentiment_analyzed_at IS NULL LIMIT 10000) x))::text,
            NULL, json_build_object('invalidate', coalesce(tags, '{}')))::api.reply;
END
$$;
