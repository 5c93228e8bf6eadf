/*
 * The JSON reader.  What it takes has a canonical form that is read again to
 * the same canonical form, and whose length was told before.
 */

#include "fuzz.h"


static uint8_t *
canonical(const ngx_commerce_json_t *root, size_t *len)
{
    uint8_t  *out, *end;

    *len = (size_t) (uintptr_t) ngx_commerce_json_canonical(NULL, root);

    out = malloc(*len + 1);
    assert(out != NULL);

    end = ngx_commerce_json_canonical(out, root);
    assert(end == out + *len);

    return out;
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    size_t                      n, m;
    uint8_t                    *one, *two;
    fuzz_block_t               *list = NULL;
    ngx_commerce_alloc_t        alloc = { fuzz_alloc, &list };
    ngx_commerce_json_t        *root, *again;
    ngx_commerce_json_error_t   error;
    ngx_commerce_json_limits_t  limits = { 0, 0, true };

    memset(&error, 0, sizeof(error));

    /* what was made NFC is, also in the raw bytes */
    if (ngx_commerce_json_parse(&alloc, data, len, &limits, &root, &error)
        == NGX_COMMERCE_OK)
    {
        one = canonical(root, &n);
        assert(ngx_commerce_json_parse(&alloc, root->raw.data, root->raw.len,
                                       NULL, &again, &error)
               == NGX_COMMERCE_OK);
        two = canonical(again, &m);
        assert(n == m && memcmp(one, two, n) == 0);
        assert(ngx_commerce_json_parse(&alloc, one, n, &limits, &again, &error)
               == NGX_COMMERCE_OK
               && again->raw.data == one);

        free(one);
        free(two);
    }

    if (ngx_commerce_json_parse(&alloc, data, len, NULL, &root, &error)
        == NGX_COMMERCE_OK)
    {
        assert(ngx_commerce_utf8_valid(data, len));

        one = canonical(root, &n);
        assert(ngx_commerce_json_parse(&alloc, one, n, NULL, &again, &error)
               == NGX_COMMERCE_OK);
        two = canonical(again, &m);
        assert(n == m && memcmp(one, two, n) == 0);

        free(one);
        free(two);

    } else {
        assert(error.code != NULL && error.message != NULL);
        assert(error.offset <= len);
        assert(memchr(error.pointer, '\0', sizeof(error.pointer)) != NULL);
    }

    fuzz_free(list);

    return 0;
}
