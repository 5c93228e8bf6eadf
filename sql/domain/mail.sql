-- Mails as they leave (RFC 5322, 2045, 2047). Nothing that comes from data can become a header: values lose their control characters
-- before anything is made of them. Nor can it name a secret: { is always encoded.

-- Text in a header: as it is when it is plain ASCII, else in encoded words of at most 75 characters, cut between characters.
CREATE OR REPLACE FUNCTION domain.mail_words(value text) RETURNS text
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    words  text[] := '{}';
    word   text := '';
    c      text;
BEGIN
    value := btrim(domain.template_escape(value, 'line'));
    IF value ~ '^[ -z|}~]*$' AND strpos(value, '=?') = 0 AND length(value) <= 900 THEN
        RETURN value;
    END IF;

    FOREACH c IN ARRAY regexp_split_to_array(value, '') LOOP
        IF octet_length(word) + octet_length(c) > 39 THEN
            words := words || word;
            word := '';
        END IF;
        word := word || c;
    END LOOP;
    words := words || word;

    RETURN (SELECT string_agg('=?UTF-8?B?' || translate(encode(convert_to(w, 'UTF8'), 'base64'), E'\n', '') || '?=', E'\r\n ' ORDER BY place)
              FROM unnest(words) WITH ORDINALITY u (w, place));
END
$$;

-- May a mail be sent there? One address in plain ASCII, as SMTP takes it without SMTPUTF8; quoted local parts are not taken.
CREATE OR REPLACE FUNCTION domain.mail_address_ok(address text) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
    SELECT length(address) <= 254
           AND address ~ '^[A-Za-z0-9.!#$%&''*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$'
$$;

-- "Name" <address>
CREATE OR REPLACE FUNCTION domain.mail_mailbox(name text, address text) RETURNS text
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    name := btrim(domain.template_escape(coalesce(name, ''), 'line'));
    IF name = '' THEN
        RETURN '<' || address || '>';
    ELSIF name ~ '^[ -z|}~]*$' AND strpos(name, '=?') = 0 AND length(name) <= 200 THEN
        RETURN '"' || regexp_replace(name, '(["\\])', '\\\1', 'g') || '" <' || address || '>';
    END IF;
    RETURN domain.mail_words(left(name, 200)) || E'\r\n <' || address || '>';
END
$$;

-- Quoted-printable with lines of at most 76 characters. A { is encoded, so that nothing in it can be taken for {sealed:…}. whole: texts
-- that must stay in one piece, because something takes their place after this: each gets a line of its own.
CREATE OR REPLACE FUNCTION domain.mail_quoted(source text, whole text[] DEFAULT '{}') RETURNS text
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    result  text := '';
    line    text;
    piece   text;
    first   boolean := true;
    width   int;
    marks   text := array_to_string(whole, '|');
BEGIN
    FOREACH line IN ARRAY string_to_array(replace(source, E'\r\n', E'\n'), E'\n') LOOP
        result := result || CASE WHEN first THEN '' ELSE E'\r\n' END;
        first := false;

        IF line ~ '[^ -<>-z|}~]' THEN
            SELECT string_agg(CASE WHEN c ~ '^[ -<>-z|}~]$' THEN c
                                   ELSE regexp_replace(upper(encode(convert_to(c, 'UTF8'), 'hex')), '(..)', '=\1', 'g') END, '' ORDER BY place)
              INTO line
              FROM regexp_split_to_table(line, '') WITH ORDINALITY s (c, place);
        END IF;
        line := regexp_replace(line, '^From ', '=46rom ');
        line := regexp_replace(line, ' $', '=20');

        IF length(line) <= 76 AND (marks = '' OR line !~ marks) THEN
            result := result || line;
            CONTINUE;
        END IF;

        IF marks <> '' THEN
            line := regexp_replace(line, '(' || marks || ')', E'\n\\1\n', 'g');
        END IF;
        FOR piece, first IN
            SELECT s.p, s.place = 1 FROM string_to_table(line, E'\n') WITH ORDINALITY s (p, place) ORDER BY s.place
        LOOP
            result := result || CASE WHEN first THEN '' ELSE E'=\r\n' END;
            WHILE length(piece) > 75 AND piece <> ALL (whole) LOOP
                width := 75;
                IF substr(piece, 75, 1) = '=' THEN
                    width := 74;
                ELSIF substr(piece, 74, 1) = '=' THEN
                    width := 73;
                END IF;
                result := result || left(piece, width) || E'=\r\n';
                piece := substr(piece, width + 1);
            END LOOP;
            result := result || piece;
        END LOOP;
        first := false;
    END LOOP;

    RETURN result;
END
$$;

-- A whole mail. sender and reply: {"email", "name"}. html: NULL for a mail of text only. The boundary is made of the message id, so that
-- the same mail is the same bytes. mark: stands in the parts for what only the edge can open, sealed: what takes its place there.
CREATE OR REPLACE FUNCTION domain.mail_message(sender jsonb, recipient text, reply jsonb, subject text, body text, html text,
                                               message_id text, at timestamptz, language text, mark text DEFAULT NULL,
                                               sealed text DEFAULT NULL) RETURNS text
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    boundary  text := '=_' || md5(message_id);
    whole     text[] := array_remove(ARRAY[mark], NULL);
    head      text;
    parts     text;
BEGIN
    head := 'Date: ' || to_char(at AT TIME ZONE 'UTC', 'Dy, DD Mon YYYY HH24:MI:SS') || ' +0000' || E'\r\n'
         || 'From: ' || domain.mail_mailbox(sender ->> 'name', sender ->> 'email') || E'\r\n'
         || CASE WHEN reply ->> 'email' <> '' THEN 'Reply-To: ' || domain.mail_mailbox(reply ->> 'name', reply ->> 'email') || E'\r\n' ELSE '' END
         || 'To: <' || recipient || '>' || E'\r\n'
         || 'Subject: ' || domain.mail_words(left(subject, 500)) || E'\r\n'
         || 'Message-ID: <' || message_id || '>' || E'\r\n'
         || CASE WHEN language ~ '^[A-Za-z-]{2,20}$' THEN 'Content-Language: ' || language || E'\r\n' ELSE '' END
         || 'Auto-Submitted: auto-generated' || E'\r\n'
         || 'MIME-Version: 1.0' || E'\r\n';

    IF html IS NULL THEN
        parts := 'Content-Type: text/plain; charset=utf-8' || E'\r\n' || 'Content-Transfer-Encoding: quoted-printable' || E'\r\n\r\n'
              || domain.mail_quoted(body, whole) || E'\r\n';
    ELSE
        parts := 'Content-Type: multipart/alternative;' || E'\r\n boundary="' || boundary || '"' || E'\r\n\r\n'
              || '--' || boundary || E'\r\n' || 'Content-Type: text/plain; charset=utf-8' || E'\r\n'
              || 'Content-Transfer-Encoding: quoted-printable' || E'\r\n\r\n' || domain.mail_quoted(body, whole) || E'\r\n'
              || '--' || boundary || E'\r\n' || 'Content-Type: text/html; charset=utf-8' || E'\r\n'
              || 'Content-Transfer-Encoding: quoted-printable' || E'\r\n\r\n' || domain.mail_quoted(html, whole) || E'\r\n'
              || '--' || boundary || '--' || E'\r\n';
    END IF;

    RETURN head || CASE WHEN mark IS NULL THEN parts ELSE replace(parts, mark, sealed) END;
END
$$;
