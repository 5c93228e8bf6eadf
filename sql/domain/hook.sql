-- Addresses on the web that a shop names: webhooks, adapters.

-- Is it http(s), with a host and nothing hidden in it? Where the host leads to is looked at when it is called, by who calls (guard: public).
CREATE OR REPLACE FUNCTION domain.hook_url_check(url text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF length(url) > 2048 OR url !~ '^https?://[A-Za-z0-9.:\[\]-]+(/[!-~]*|\?[!-~]*)?$' OR url ~ '^https?://[^/?]*@' OR url ~ '[{}\\"<>]' THEN
        PERFORM domain.fail(422, 'invalid-value', 'url is not an address like https://hooks.example/shop.',
                            '{"errors": [{"pointer": "/url", "code": "url", "message": "is not an address like https://hooks.example/shop"}]}');
    END IF;
END
$$;
