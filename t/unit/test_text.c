/* Text: NFC against the library's own normaliser, hosts, passwords, and what a schema completes. */

#include "unit.h"
#include "ngx_commerce_text.h"
#include "ngx_commerce_utf8.h"

#include <utf8proc.h>


static size_t
encode(uint8_t *dst, int32_t c)
{
    return (size_t) utf8proc_encode_char(c, dst);
}


static bool
is_character(int32_t c)
{
    return (c < 0xD800 || c > 0xDFFF) && (c & 0xFFFE) != 0xFFFE
           && (c < 0xFDD0 || c > 0xFDEF);
}


static void
same_as_library(const uint8_t *data, size_t len)
{
    char                 copy[256];
    uint8_t             *expected;
    unit_arena_t         arena;
    ngx_commerce_str_t   text;

    unit_arena(&arena);

    assert_true(len < sizeof(copy));
    memcpy(copy, data, len);
    copy[len] = '\0';

    expected = utf8proc_NFC((uint8_t *) copy);
    assert_non_null(expected);

    text.data = unit_tight(&arena, data, len);
    text.len = len;

    assert_int_equal(ngx_commerce_text_nfc(&arena.alloc, &text),
                     NGX_COMMERCE_OK);

    if (text.len != strlen((char *) expected)
        || memcmp(text.data, expected, text.len) != 0)
    {
        fail_msg("\"%s\" became \"%.*s\", not \"%s\"", copy, (int) text.len,
                 text.data, expected);
    }

    free(expected);
    unit_free(&arena);
}


static void
test_every_character(void **state)
{
    size_t    n;
    int32_t   c;
    uint8_t   buf[16];

    (void) state;

    for (c = 1; c < 0x30000; c++) {
        if (is_character(c)) {
            /* one that joins what is before it is seen with a base, too */
            buf[0] = 'a';
            n = encode(buf + 1, c);
            same_as_library(buf + 1, n);
            same_as_library(buf, n + 1);
        }
    }
}


/* Characters that compose, in any order: every pair of a base and a mark is among them. */

static void
test_compositions(void **state)
{
    int        bound = UTF8PROC_BOUNDCLASS_START;
    size_t     n, i, k, count;
    int32_t    c, parts[8], *pool;
    uint8_t    buf[128];
    uint32_t   seed;

    (void) state;

    pool = malloc(sizeof(int32_t) * 0x10000);
    assert_non_null(pool);
    count = 0;

    for (c = 0xC0; c < 0x30000; c++) {
        utf8proc_ssize_t  m = utf8proc_decompose_char(c, parts, 8,
                                  UTF8PROC_STABLE|UTF8PROC_DECOMPOSE, &bound);

        if (m < 2 || (c >= 0xAC00 && c <= 0xD7A3 && c % 97)) {
            continue;
        }

        for (i = 0, n = 0; i < (size_t) m; i++) {
            n += encode(buf + n, parts[i]);
            pool[count++] = parts[i];
        }

        pool[count++] = c;
        same_as_library(buf, n);
    }

    seed = 20;

    for (k = 0; k < 200000 / UNIT_SLOW; k++) {
        for (i = 0, n = 0; i < 1 + k % 8; i++) {
            seed = seed * 1664525U + 1013904223U;
            n += encode(buf + n, (seed >> 9) % 4 ? pool[(seed >> 12) % count]
                                                 : 'a');
        }

        same_as_library(buf, n);
    }

    free(pool);
}


static void
test_nfc_stays(void **state)
{
    size_t               i;
    unit_arena_t         arena;
    ngx_commerce_str_t   text;
    static const char   *texts[] = {
        "", "plain ASCII of more than eight bytes", "cr\xC3\xA8me br\xC3\xBBl\xC3\xA9" "e",
        "\xE4\xB8\xAD\xE6\x96\x87", "\xED\x95\x9C\xEA\xB8\x80",
        "\xD0\x9F\xD1\x80\xD0\xB8\xD0\xB2\xD0\xB5\xD1\x82 \xD0\xB9",
        "ti\xE1\xBA\xBFng Vi\xE1\xBB\x87t",
    };

    (void) state;

    for (i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        unit_arena(&arena);
        arena.left = 0;                 /* what is NFC needs no memory */

        text.data = (uint8_t *) texts[i];
        text.len = strlen(texts[i]);

        assert_int_equal(ngx_commerce_text_nfc(&arena.alloc, &text),
                         NGX_COMMERCE_OK);
        assert_ptr_equal(text.data, texts[i]);
        unit_free(&arena);
    }

    unit_arena(&arena);
    arena.left = 0;
    text = ngx_commerce_str("e\xCC\x81");
    assert_int_equal(ngx_commerce_text_nfc(&arena.alloc, &text),
                     NGX_COMMERCE_NOMEM);
}


/* Marks in a row cost their number squared: there is an end. */

static void
test_marks(void **state)
{
    size_t               n;
    uint8_t              buf[256];
    unit_arena_t         arena;
    ngx_commerce_str_t   text;

    (void) state;

    for (n = 28; n <= 40; n++) {
        unit_arena(&arena);
        buf[0] = 'a';

        for (text.len = 1; text.len < 1 + 2 * n; text.len += 2) {
            memcpy(buf + text.len, text.len % 4 == 1 ? "\xCC\x81" : "\xCC\xA3", 2);
        }

        text.data = buf;
        assert_int_equal(ngx_commerce_text_nfc(&arena.alloc, &text),
                         n <= NGX_COMMERCE_TEXT_MARKS ? NGX_COMMERCE_OK
                                                      : NGX_COMMERCE_INVALID);
        unit_free(&arena);
    }
}


static void
test_hosts(void **state)
{
    size_t             i;
    uint8_t            out[NGX_COMMERCE_HOST_MAX];
    ptrdiff_t          n;
    static const char *hosts[][2] = {
        { "example.com", "example.com" },
        { "Shop.EXAMPLE.com", "shop.example.com" },
        { "M\xC3\x9CNCHEN.example", "xn--mnchen-3ya.example" },
        { "mu\xCC\x88nchen.example", "xn--mnchen-3ya.example" },
        { "XN--MNCHEN-3YA.Example", "xn--mnchen-3ya.example" },
        { "fa\xC3\x9F.example", "xn--fa-hia.example" },
        { "r3---sn.example", "r3---sn.example" },
        { "xn--zzzzzzzz.example", NULL },
        { "xn--.example", NULL },
    };

    (void) state;

    for (i = 0; i < sizeof(hosts) / sizeof(hosts[0]); i++) {
        n = ngx_commerce_text_host(out, (uint8_t *) hosts[i][0],
                                   strlen(hosts[i][0]));

        if (hosts[i][1] == NULL) {
            assert_int_equal(n, -1);
            continue;
        }

        assert_int_equal(n, strlen(hosts[i][1]));
        assert_memory_equal(out, hosts[i][1], n);
    }
}


static void
test_json(void **state)
{
    unit_arena_t                 arena;
    ngx_commerce_json_t         *root;
    ngx_commerce_json_error_t    error;
    ngx_commerce_json_limits_t   limits = { 0, 0, true };

#define parse(text)                                                           \
    ngx_commerce_json_parse(&arena.alloc, unit_tight(&arena, text,            \
                            strlen(text)), strlen(text), &limits, &root, &error)

    (void) state;

    unit_arena(&arena);

    assert_int_equal(parse("{ \"n\":{\"e\xCC\x81\":[1.50,\"\\u0041\\u030A\"]}}"),
                     NGX_COMMERCE_OK);
    unit_is(root->raw, "{\"n\":{\"\xC3\xA9\":[1.50,\"\xC3\x85\"]}}");
    unit_is(root->child->child->key, "\xC3\xA9");
    unit_is(root->child->child->child->next->text, "\xC3\x85");

    /* an escape is no letter that a mark could join */
    assert_int_equal(parse("[\"\\n\xCC\x83\"]"), NGX_COMMERCE_OK);
    unit_is(root->raw, "[\"\\n\xCC\x83\"]");

    /* what is NFC is as it came */
    assert_int_equal(parse("{ \"b\":\"\xC3\xA9\", \"a\":1}"), NGX_COMMERCE_OK);
    unit_is(root->raw, "{ \"b\":\"\xC3\xA9\", \"a\":1}");

    /* two spellings are one name */
    assert_int_equal(parse("{\"\xC3\xA9\":1,\"e\xCC\x81\":2}"),
                     NGX_COMMERCE_INVALID);
    assert_string_equal(error.code, "duplicate-key");

    assert_int_equal(parse("{\"x\":\"a\xCC\x81\xCC\x81\xCC\x81\xCC\x81\xCC\x81"
                           "\xCC\x81\xCC\x81\xCC\x81\xCC\x81\xCC\x81\xCC\x81"
                           "\xCC\x81\xCC\x81\xCC\x81\xCC\x81\xCC\x81\xCC\x81"
                           "\xCC\x81\xCC\x81\xCC\x81\xCC\x81\xCC\x81\xCC\x81"
                           "\xCC\x81\xCC\x81\xCC\x81\xCC\x81\xCC\x81\xCC\x81"
                           "\xCC\x81\xCC\x81\"}"),
                     NGX_COMMERCE_INVALID);
    assert_string_equal(error.code, "too-many-marks");
    assert_string_equal(error.pointer, "/x");

    unit_free(&arena);
}


static const struct {
    const char  *schema;
    const char  *value;
    const char  *completed;     /* NULL: as it came */
}  completions[] = {
    { "{\"properties\":{\"a\":{\"default\":1},\"b\":{}}}", "{\"b\":2}", "{\"b\":2,\"a\":1}" },
    { "{\"properties\":{\"a\":{\"default\":1}}}", "{ \"a\": null }", NULL },
    { "{\"properties\":{\"a\":{\"default\":[]}}}", "{}", "{\"a\":[]}" },
    { "{\"properties\":{\"a\":{\"default\":1}}}", "[]", NULL },
    { "{\"properties\":{\"o\":{\"properties\":{\"a\":{\"default\":\"x\"}}}}}", "{\"o\":{}}", "{\"o\":{\"a\":\"x\"}}" },
    { "{\"properties\":{\"o\":{\"properties\":{\"a\":{\"default\":\"x\"}}}}}", "{}", NULL },
    { "{\"items\":{\"properties\":{\"a\":{\"default\":1}}}}", "[{},7,{\"a\":2}]", "[{\"a\":1},7,{\"a\":2}]" },
    { "{\"properties\":{\"b\":{}},\"allOf\":[{\"properties\":{\"a\":{\"default\":1}}}]}", "{\"b\":1}", "{\"b\":1,\"a\":1}" },
    { "{\"oneOf\":[{\"required\":[\"c\"],\"properties\":{\"c\":{},\"a\":{\"default\":1}}},"
      "{\"required\":[\"d\"],\"properties\":{\"d\":{},\"b\":{\"default\":2}}}]}", "{\"d\":0}", "{\"d\":0,\"b\":2}" },
    { "{\"not\":{\"required\":[\"z\"],\"properties\":{\"a\":{\"default\":1}}}}", "{}", NULL },
    { "{\"additionalProperties\":{\"format\":\"hostname\"}}", "{\"h\":\"A.b\"}", "{\"h\":\"a.b\"}" },
    { "{\"format\":\"email\"}", "\"Me@M\xC3\x9CNCHEN.example\"", "\"Me@xn--mnchen-3ya.example\"" },
    { "{\"format\":\"email\"}", "\"me@xn--mnchen-3ya.example\"", NULL },
    { "{\"type\":[\"string\",\"null\"],\"format\":\"email\"}", "null", NULL },
    { "{\"anyOf\":[{\"type\":\"null\"},{\"type\":\"string\",\"format\":\"email\"}]}", "\"a@B.example\"", "\"a@b.example\"" },
    { "{\"format\":\"password\"}", "\"a\xC2\xA0" "b\xE3\x80\x80" "c\"", "\"a b c\"" },
    { "{\"properties\":{\"n\":{\"$ref\":\"#\"},\"a\":{\"default\":1}}}", "{\"n\":{\"n\":{}}}",
      "{\"n\":{\"n\":{\"a\":1},\"a\":1},\"a\":1}" },
};


static void
test_complete(void **state)
{
    long                        left;
    size_t                      i;
    const char                 *expected;
    unit_arena_t                arena;
    ngx_commerce_rc_t           rc;
    ngx_commerce_json_t        *schema, *value;
    ngx_commerce_fault_t        fault;
    ngx_commerce_schema_t      *compiled;
    ngx_commerce_violations_t   violations;

    (void) state;

    for (i = 0; i < sizeof(completions) / sizeof(completions[0]); i++) {
        expected = completions[i].completed ? completions[i].completed
                                            : completions[i].value;

        for (left = 0, rc = NGX_COMMERCE_NOMEM; rc == NGX_COMMERCE_NOMEM; left++) {
            unit_arena(&arena);
            schema = unit_json(&arena, completions[i].schema);

            if (ngx_commerce_schema_compile(&arena.alloc, schema, schema, "s",
                                            &compiled, &fault)
                != NGX_COMMERCE_OK)
            {
                fail_msg("%s: %s", completions[i].schema, fault.message);
            }

            value = unit_json(&arena, completions[i].value);

            violations.alloc = &arena.alloc;
            violations.count = 0;
            assert_int_equal(ngx_commerce_schema_check(compiled, value,
                                                       &violations),
                             NGX_COMMERCE_OK);

            arena.left = left;
            rc = ngx_commerce_schema_complete(compiled, value, &arena.alloc);

            if (rc == NGX_COMMERCE_OK) {
                unit_is(value->raw, expected);
            }

            unit_free(&arena);
        }
    }
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_every_character),
        cmocka_unit_test(test_compositions),
        cmocka_unit_test(test_nfc_stays),
        cmocka_unit_test(test_marks),
        cmocka_unit_test(test_hosts),
        cmocka_unit_test(test_json),
        cmocka_unit_test(test_complete),
    };

    return cmocka_run_group_tests_name("text", tests, NULL, NULL);
}
