/*
 * Routes and cursors: a path against a fixed contract, the same bytes as a
 * cursor that nobody signed.
 */

#include "fuzz.h"


static const char  contract_text[] =
    "{\"paths\":{"
    "\"/\":{\"get\":{\"operationId\":\"root\",\"x-commerce\":{\"auth\":\"public\",\"lane\":\"read\",\"call\":\"api.a\"}}},"
    "\"/api/v1/a/{x}/b/{y}\":{\"parameters\":[{\"name\":\"x\",\"in\":\"path\",\"required\":true,\"schema\":{}},"
    "{\"name\":\"y\",\"in\":\"path\",\"required\":true,\"schema\":{}}],\"x-aliases\":[\"/y/{y}/x/{x}\"],"
    "\"get\":{\"operationId\":\"xy\",\"x-commerce\":{\"auth\":\"public\",\"lane\":\"read\",\"call\":\"api.a\"}}},"
    "\"/api/v1/a/b/b/c\":{\"post\":{\"operationId\":\"abc\",\"x-commerce\":{\"auth\":\"public\",\"lane\":\"read\",\"call\":\"api.a\"}}}"
    "}}";


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    uint32_t                         i, method;
    uint8_t                         *out, key[32] = { 7 };
    ngx_commerce_str_t               cursor;
    ngx_commerce_fault_t             fault;
    ngx_commerce_match_t             match;
    static fuzz_block_t             *kept;
    static ngx_commerce_contract_t  *contract;

    if (contract == NULL) {
        ngx_commerce_alloc_t  alloc = { fuzz_alloc, &kept };

        contract = ngx_commerce_contract_create(&alloc, NULL);
        assert(ngx_commerce_contract_add(contract, "fuzz",
                                         (const uint8_t *) contract_text,
                                         sizeof(contract_text) - 1, &fault)
               == NGX_COMMERCE_OK);
    }

    for (method = 0; method <= NGX_COMMERCE_METHODS; method++) {
        if (!ngx_commerce_contract_match(contract, method, data, len, &match)) {
            assert(match.op == NULL);
            continue;
        }

        assert(match.allow != NULL);

        for (i = 0; i < match.params_count; i++) {
            assert(match.params[i].len > 0);
            assert(match.params[i].data >= data
                   && match.params[i].data + match.params[i].len <= data + len);
            assert(memchr(match.params[i].data, '/', match.params[i].len)
                   == NULL);
        }
    }

    cursor.data = (uint8_t *) data;
    cursor.len = len;
    out = malloc(ngx_commerce_base64url_decoded_max(len) + 1);
    assert(out != NULL);
    assert(ngx_commerce_cursor_verify(out, key, ngx_commerce_str("b"), cursor)
           == -1);
    free(out);

    return 0;
}
