/*
 * Schemas: the first line is a schema, the rest a value for it, as JSON and as
 * the text of a parameter.  A value that is refused has a reason.
 */

#include "fuzz.h"


static void
check(const ngx_commerce_alloc_t *alloc, const ngx_commerce_schema_t *schema,
    const uint8_t *data, size_t len)
{
    ngx_commerce_rc_t           rc;
    ngx_commerce_str_t          text;
    ngx_commerce_json_t        *value;
    ngx_commerce_json_error_t   error;
    ngx_commerce_violations_t   violations;

    violations.alloc = alloc;
    violations.count = 0;

    if (ngx_commerce_json_parse(alloc, data, len, NULL, &value, &error)
        == NGX_COMMERCE_OK)
    {
        rc = ngx_commerce_schema_check(schema, value, &violations);
        assert(rc != NGX_COMMERCE_NOMEM);
        assert((rc == NGX_COMMERCE_OK) == (violations.count == 0));

        if (rc == NGX_COMMERCE_OK) {
            assert(ngx_commerce_schema_complete(schema, value, alloc)
                   == NGX_COMMERCE_OK);
            assert(ngx_commerce_json_parse(alloc, value->raw.data,
                                           value->raw.len,
                                           &(ngx_commerce_json_limits_t)
                                           { 64, 1 << 20, false }, &value,
                                           &error)
                   == NGX_COMMERCE_OK);
        }
    }

    violations.count = 0;
    text.data = (uint8_t *) data;
    text.len = len;

    rc = ngx_commerce_schema_check_text(schema, ngx_commerce_str("p"), text,
                                        &value, &violations);
    assert(rc != NGX_COMMERCE_NOMEM);
    assert((rc == NGX_COMMERCE_OK) == (violations.count == 0));

    if (rc == NGX_COMMERCE_OK) {
        /* what a parameter became is JSON */
        assert(ngx_commerce_json_parse(alloc, value->raw.data, value->raw.len,
                                       &(ngx_commerce_json_limits_t)
                                       { 32, 1 << 20, false }, &value, &error)
               == NGX_COMMERCE_OK);
    }
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    const uint8_t              *line;
    fuzz_block_t               *list = NULL;
    ngx_commerce_alloc_t        alloc = { fuzz_alloc, &list };
    ngx_commerce_json_t        *root;
    ngx_commerce_fault_t        fault;
    ngx_commerce_schema_t      *schema;
    ngx_commerce_json_error_t   error;

    line = len ? memchr(data, '\n', len) : NULL;

    /* patterns are kept for the process: a fuzzer's would fill the memory */
    if (line == NULL || memmem(data, (size_t) (line - data), "attern", 6)) {
        return 0;
    }

    if (ngx_commerce_json_parse(&alloc, data, (size_t) (line - data), NULL,
                                &root, &error)
        == NGX_COMMERCE_OK
        && ngx_commerce_schema_compile(&alloc, root, root, "s", &schema,
                                       &fault)
           == NGX_COMMERCE_OK)
    {
        check(&alloc, schema, line + 1, len - (size_t) (line + 1 - data));
    }

    fuzz_free(list);

    return 0;
}
