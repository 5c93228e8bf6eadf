-- The style of shopping (L4): of the customer who asks, who has agreed to it, and of nobody else.

CREATE OR REPLACE FUNCTION api.personality_consent() RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    since  timestamptz;
BEGIN
    PERFORM domain.account_hold();
    INSERT INTO shop.personality_consent (tenant_id, user_id) VALUES (domain.tenant_id(), domain.principal()) ON CONFLICT DO NOTHING;
    PERFORM domain.personality_norms(interval '1 hour');
    since := domain.personality_consent();
    RETURN (200, json_build_object('consent', true, 'since', domain.ts(since))::text, NULL, NULL)::api.reply;
END
$$;

-- Takes the consent back: what was kept for this purpose alone goes with it. Again: the same answer.
CREATE OR REPLACE FUNCTION api.personality_erase() RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    DELETE FROM shop.personality_consent c WHERE c.tenant_id = domain.tenant_id() AND c.user_id = domain.principal();
    RETURN (204, NULL, NULL, NULL)::api.reply;
END
$$;

-- Something that tells of the style, besides views, carts, orders and reviews, which are known.
CREATE OR REPLACE FUNCTION api.personality_interaction(action text, product_id bigint DEFAULT NULL) RETURNS api.reply
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    PERFORM domain.personality_consent();
    IF product_id IS NOT NULL AND NOT EXISTS (
            SELECT FROM shop.product_card c
             WHERE c.tenant_id = domain.tenant_id() AND c.product_id = personality_interaction.product_id) THEN
        PERFORM domain.fail(404, 'not-found', 'There is no such product.');
    END IF;

    INSERT INTO shop.personality_event (tenant_id, user_id, product_id, action)
    VALUES (domain.tenant_id(), domain.principal(), personality_interaction.product_id, personality_interaction.action);
    RETURN (202, '{"accepted":true}', NULL, NULL)::api.reply;
END
$$;

-- Features as they are counted, each with how it came about.
CREATE OR REPLACE FUNCTION api.personality_get() RETURNS api.reply
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    since  timestamptz := domain.personality_consent();
    list   jsonb;
BEGIN
    SELECT jsonb_agg(jsonb_build_object('feature', k.name, 'value', round(f.value::numeric, 4), 'events', coalesce(f.events, 0),
                                        'percentile', domain.personality_percentile(k.name, f.value),
                                        'contributions', coalesce(f.contributions, '[]')) ORDER BY k.place) INTO list
      FROM unnest('{variety,price_sensitivity,planning,loyalty,deliberation,review_engagement,tone}'::text[]) WITH ORDINALITY k (name, place)
      LEFT JOIN domain.style_features(ARRAY[domain.principal()]) f ON f.feature = k.name;

    RETURN (200, jsonb_build_object(
                'since', domain.ts(since),
                'events', (SELECT count(*) FROM domain.style_events(ARRAY[domain.principal()])),
                'features', list,
                'compared_with', (SELECT max(n.customers) FROM shop.personality_norm n WHERE n.tenant_id = domain.tenant_id()))::text,
            NULL, NULL)::api.reply;
END
$$;

-- Four of the Big Five from features, with the arithmetic in the answer. No feature speaks for neuroticism. NULL below 10 events.
CREATE OR REPLACE FUNCTION api.personality_traits() RETURNS api.reply
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    since   timestamptz := domain.personality_consent();
    events  int;
    list    jsonb;
BEGIN
    SELECT count(*) INTO events FROM domain.style_events(ARRAY[domain.principal()]);

    SELECT jsonb_agg(jsonb_build_object('trait', t.name, 'score', CASE WHEN t.events >= 10 THEN t.score END, 'basis', 'heuristic',
                                        'events', t.events, 'from', t.parts) ORDER BY t.place) INTO list
      FROM (SELECT k.name, k.place, round(avg(f.value)::numeric, 4) AS score, coalesce(sum(f.events), 0)::int AS events,
                   jsonb_agg(jsonb_build_object('feature', m.feature, 'value', round(f.value::numeric, 4))) AS parts
              FROM (VALUES ('openness', 1, '{variety}'::text[]), ('conscientiousness', 2, '{planning,deliberation}'),
                           ('extraversion', 3, '{review_engagement}'), ('agreeableness', 4, '{tone}')) k (name, place, features)
             CROSS JOIN unnest(k.features) m (feature)
              LEFT JOIN domain.style_features(ARRAY[domain.principal()]) f ON f.feature = m.feature
             GROUP BY k.name, k.place) t;

    RETURN (200, jsonb_build_object(
                'basis', 'heuristic', 'events', events, 'minimum_events', 10, 'traits', list,
                'note', 'Counted from shopping, not measured: what people buy tells little of who they are (r about 0.15).')::text,
            NULL, NULL)::api.reply;
END
$$;
