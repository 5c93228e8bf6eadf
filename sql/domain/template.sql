-- Templates: a subset of Mustache. Variables, sections, inverted sections, lists, comments; no partials, no code. docs/notifications.md.

-- Refuses a template, saying where. part: subject, text or html.
CREATE OR REPLACE FUNCTION domain.template_fault(part text, line int, message text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM domain.fail(422, 'template-fault', format('Line %s of %s: %s', line, part, message), jsonb_build_object(
        'errors', jsonb_build_array(jsonb_build_object('pointer', '/' || part, 'code', 'template', 'line', line, 'message', message))));
END
$$;

-- A template as nodes: "literal", {"v": path} escaped, {"r": path} as it is, {"s": path, "n": nodes} section, {"i": path, "n": nodes}
-- inverted section. raw: the names that {{{ }}} may be said of. Refuses what is wrong with its line.
CREATE OR REPLACE FUNCTION domain.template_parse(source text, part text, raw text[] DEFAULT '{}') RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    segments  text[] := string_to_array(source, '{{');
    rest      text;
    tag       text;
    sign      text;
    name      text;
    literal   text := segments[1];      -- what stands before the tag at hand
    line      int := 1;
    here      int;                      -- line of the tag at hand
    alone     boolean := true;          -- no tag yet on the line at hand
    frames    jsonb[] := '{[]}';        -- nodes of each open section
    names     text[] := '{}';
    signs     text[] := '{}';
    opened    int[] := '{}';
    nodes     jsonb;
    close     int;
    depth     int := 1;
BEGIN
    IF octet_length(source) > 65536 THEN
        PERFORM domain.template_fault(part, 1, 'A template has at most 65536 bytes.');
    END IF;
    IF cardinality(segments) > 1001 THEN
        PERFORM domain.template_fault(part, 1, 'A template has at most 1000 tags.');
    END IF;

    FOR i IN 2 .. coalesce(cardinality(segments), 0) LOOP
        line := line + length(literal) - length(replace(literal, E'\n', ''));
        IF strpos(literal, E'\n') > 0 THEN
            alone := true;
        END IF;

        here := line;
        rest := segments[i];
        sign := left(rest, 1);
        IF sign = '{' THEN
            close := strpos(rest, '}}}');
            tag := substr(rest, 2, close - 2);
            rest := substr(rest, close + 3);
        ELSE
            close := strpos(rest, '}}');
            tag := left(rest, close - 1);
            rest := substr(rest, close + 2);
        END IF;
        IF close = 0 THEN
            PERFORM domain.template_fault(part, line, 'A tag is not closed.');
        END IF;

        IF sign IN ('>', '=', '<', '$', '*', '%') THEN
            PERFORM domain.template_fault(part, line, format('There is no {{%s.', sign));
        ELSIF sign IN ('#', '^', '/', '&', '!') THEN
            tag := substr(tag, 2);
        ELSIF sign <> '{' THEN
            sign := '';
        END IF;

        name := btrim(tag, E' \t');
        IF sign <> '!' AND (length(name) > 100 OR name !~ '^(\.|[A-Za-z_][A-Za-z0-9_]*(\.([A-Za-z_][A-Za-z0-9_]*|[0-9]{1,4}))*)$') THEN
            PERFORM domain.template_fault(part, line, format('"%s" is not a name.', left(name, 40)));
        END IF;

        -- a line with nothing but one of these is not there at all
        IF sign IN ('#', '^', '/', '!') AND alone AND substring(literal FROM '[^\n]*$') ~ '^[ \t]*$'
           AND (rest ~ '^[ \t]*\r?\n' OR (i = cardinality(segments) AND rest ~ '^[ \t]*$')) THEN
            literal := regexp_replace(literal, '[ \t]*$', '');
            line := line + CASE WHEN strpos(rest, E'\n') > 0 THEN 1 ELSE 0 END;
            rest := regexp_replace(rest, '^[ \t]*(\r?\n)?', '');
        ELSE
            alone := false;
        END IF;

        nodes := frames[depth];
        IF literal <> '' THEN
            nodes := nodes || to_jsonb(literal);
        END IF;

        CASE sign
        WHEN '' THEN
            nodes := nodes || jsonb_build_object('v', name);
        WHEN '{', '&' THEN
            IF name <> ALL (raw) THEN
                PERFORM domain.template_fault(part, here, format('"%s" may not stand here unescaped: write {{%s}}.', name, name));
            END IF;
            nodes := nodes || jsonb_build_object('r', name);
        WHEN '!' THEN
            NULL;
        WHEN '#', '^' THEN
            IF depth > 16 THEN
                PERFORM domain.template_fault(part, here, 'Sections are nested at most 16 deep.');
            END IF;
            frames[depth] := nodes;
            depth := depth + 1;
            nodes := '[]';
            names := names || name;
            signs := signs || sign;
            opened := opened || here;
        WHEN '/' THEN
            IF depth = 1 THEN
                PERFORM domain.template_fault(part, here, format('{{/%s}} closes nothing.', name));
            ELSIF name <> names[depth - 1] THEN
                PERFORM domain.template_fault(part, here, format('{{/%s}} stands where {{/%s}}, opened in line %s, should.', name,
                                                                 names[depth - 1], opened[depth - 1]));
            END IF;
            nodes := frames[depth - 1] || jsonb_build_object(CASE signs[depth - 1] WHEN '#' THEN 's' ELSE 'i' END, name, 'n', nodes);
            depth := depth - 1;
            names := names[: depth - 1];
            signs := signs[: depth - 1];
            opened := opened[: depth - 1];
        END CASE;
        frames[depth] := nodes;

        line := line + length(tag) - length(replace(tag, E'\n', ''));
        literal := rest;
    END LOOP;

    IF depth > 1 THEN
        PERFORM domain.template_fault(part, opened[depth - 1], format('{{%s%s}} is never closed.', signs[depth - 1], names[depth - 1]));
    END IF;

    RETURN frames[1] || CASE WHEN coalesce(literal, '') = '' THEN '[]' ELSE jsonb_build_array(literal) END;
END
$$;

-- What a name means: the innermost object that has its first part.
CREATE OR REPLACE FUNCTION domain.template_lookup(stack jsonb[], path text) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    parts  text[];
BEGIN
    IF path = '.' THEN
        RETURN stack[cardinality(stack)];
    END IF;

    parts := string_to_array(path, '.');
    FOR i IN REVERSE cardinality(stack) .. 1 LOOP
        IF jsonb_typeof(stack[i]) = 'object' AND stack[i] ? parts[1] THEN
            RETURN stack[i] #> parts;
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;

-- An amount as people write it: 1,999.00 USD; in German 1.999,00 EUR.
CREATE OR REPLACE FUNCTION domain.money_text(amount bigint, currency text, language text DEFAULT 'en') RETURNS text
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    digits  int := domain.currency_exponent(currency);
    shown   text := to_char(abs(amount)::numeric / 10 ^ digits,
                            'FM999,999,999,999,999,990' || CASE WHEN digits > 0 THEN '.' || repeat('0', digits) ELSE '' END);
BEGIN
    IF left(language, 2) IN ('de', 'es', 'it', 'nl', 'pt', 'fr', 'da', 'pl', 'tr') THEN
        shown := translate(shown, ',.', '.,');
    END IF;
    RETURN CASE WHEN amount < 0 THEN '-' ELSE '' END || shown || ' ' || currency;
END
$$;

-- A value as text: money as an amount; objects and lists are not shown.
CREATE OR REPLACE FUNCTION domain.template_text(value jsonb, language text) RETURNS text
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN CASE jsonb_typeof(value)
        WHEN 'object' THEN
            CASE WHEN jsonb_typeof(value -> 'amount') = 'number' AND value ->> 'currency' ~ '^[A-Z]{3}$' AND value ->> 'amount' ~ '^-?[0-9]{1,15}$'
                 THEN domain.money_text((value ->> 'amount')::bigint, value ->> 'currency', language) ELSE '' END
        WHEN 'array' THEN ''
        ELSE coalesce(value #>> '{}', '') END;
END
$$;

-- html: what has a meaning there; line: one line without control characters; text: no control characters but ends of lines and tabs.
CREATE OR REPLACE FUNCTION domain.template_escape(value text, style text) RETURNS text
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF style = 'line' THEN
        RETURN regexp_replace(value, E'[\\u0001-\\u001f\\u007f-\\u009f\\u2028\\u2029]+', ' ', 'g');
    END IF;
    value := regexp_replace(value, E'[\\u0001-\\u0008\\u000b-\\u001f\\u007f-\\u009f]+', '', 'g');
    IF style = 'html' THEN
        RETURN replace(replace(replace(replace(replace(value, '&', '&amp;'), '<', '&lt;'), '>', '&gt;'), '"', '&quot;'), '''', '&#39;');
    END IF;
    RETURN value;
END
$$;

-- Renders nodes. style: of template_escape. budget: nodes that may still be rendered; when it is used up the template is refused.
CREATE OR REPLACE FUNCTION domain.template_walk(nodes jsonb, stack jsonb[], style text, language text, INOUT budget int, OUT result text)
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    node   jsonb;
    value  jsonb;
    item   jsonb;
    part   record;
    truth  boolean;
BEGIN
    result := '';
    FOR node IN SELECT e.value FROM jsonb_array_elements(nodes) e LOOP
        budget := budget - 1;
        IF budget < 0 THEN
            PERFORM domain.fail(422, 'template-too-long', 'The template makes too much of these data.');
        END IF;

        IF jsonb_typeof(node) = 'string' THEN
            result := result || (node #>> '{}');
            CONTINUE;
        ELSIF node ? 'v' THEN
            result := result || domain.template_escape(domain.template_text(domain.template_lookup(stack, node ->> 'v'), language), style);
            CONTINUE;
        ELSIF node ? 'r' THEN
            result := result || domain.template_text(domain.template_lookup(stack, node ->> 'r'), language);
            CONTINUE;
        END IF;

        value := domain.template_lookup(stack, coalesce(node ->> 's', node ->> 'i'));
        truth := value IS NOT NULL AND value NOT IN ('null', 'false', '""', '[]');

        IF node ? 'i' AND NOT truth THEN
            SELECT * INTO part FROM domain.template_walk(node -> 'n', stack, style, language, budget);
            budget := part.budget;
            result := result || part.result;
        ELSIF node ? 's' AND truth THEN
            FOR item IN SELECT e.value FROM jsonb_array_elements(CASE jsonb_typeof(value) WHEN 'array' THEN value
                                                                      ELSE jsonb_build_array(value) END) e LOOP
                SELECT * INTO part FROM domain.template_walk(node -> 'n', stack || item, style, language, budget);
                budget := part.budget;
                result := result || part.result;
                IF octet_length(result) > 262144 THEN
                    PERFORM domain.fail(422, 'template-too-long', 'What the template makes of these data is too long.');
                END IF;
            END LOOP;
        END IF;
    END LOOP;
END
$$;

CREATE OR REPLACE FUNCTION domain.template_render(source text, part text, data jsonb, style text, raw text[] DEFAULT '{}') RETURNS text
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN (domain.template_walk(domain.template_parse(source, part, raw), ARRAY[data], style, data ->> 'language', 5000)).result;
END
$$;

-- Text as HTML: paragraphs, ends of lines, and links to the shop (base) only, so that nothing that a stranger wrote becomes one.
CREATE OR REPLACE FUNCTION domain.text_html(source text, base text) RETURNS text
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    shown  text := domain.template_escape(btrim(source, E' \r\n\t'), 'html');
    place  text := regexp_replace(domain.template_escape(base, 'html'), '([.*+?^$(){}|\[\]\\])', '\\\1', 'g');
BEGIN
    IF base <> '' THEN
        shown := regexp_replace(shown, '(' || place || '(?:[/?#][A-Za-z0-9_.~:/?#@!$''()*+,;=%-]*)?(?:&amp;[A-Za-z0-9_.~:/?#@!$''()*+,;=%-]+)*)',
                                '<a href="\1">\1</a>', 'g');
    END IF;
    shown := regexp_replace(shown, '\n[ \t]*\n\s*', E'</p>\n<p>', 'g');
    RETURN '<p>' || replace(regexp_replace(shown, '\n(?!<p>)', E'<br>\n', 'g'), '</p><br>', '</p>') || '</p>';
END
$$;
