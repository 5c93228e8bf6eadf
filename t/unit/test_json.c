/* The strict JSON reader: what it takes, what it refuses and with which code and place. */

#include "unit.h"

#include <time.h>


typedef struct {
    const char  *name;
    const char  *text;
    size_t       len;
    const char  *code;          /* NULL: accepted */
    const char  *pointer;
} row_t;

#define text(s)  s, sizeof(s) - 1

static const row_t  rows[] = {
    { "object", text("{\"a\":[1,2,{\"b\":null}]}"), NULL, NULL },
    { "white space", text(" \t\r\n{ \"a\" : 1 }\n"), NULL, NULL },
    { "scalar", text("true"), NULL, NULL },
    { "number forms", text("[0,-0,1.5,-1e3,1E+2,1e-2]"), NULL, NULL },
    { "unicode", text("\"\xc3\xa9\xe4\xb8\xad\xf0\x9f\x98\x80\""), NULL, NULL },
    { "pair", text("\"\\ud83d\\ude00\""), NULL, NULL },
    { "delete", text("\"\x7f\""), NULL, NULL },

    { "empty", text(""), "empty", "" },
    { "blank", text("  \n"), "empty", "" },
    { "mark", text("\xef\xbb\xbf{}"), "byte-order-mark", "" },
    { "duplicate", text("{\"a\":1,\"a\":2}"), "duplicate-key", "/a" },
    { "duplicate by escape", text("{\"a\":1,\"\\u0061\":2}"), "duplicate-key", "/a" },
    { "duplicate below", text("{\"x\":[0,{\"a\":1,\"b\":2,\"a\":2}]}"), "duplicate-key", "/x/1/a" },
    { "cut sequence", text("\"\xe4\xb8\""), "invalid-utf8", "" },
    { "cut at the end", text("\"\xf0\x9f"), "invalid-utf8", "" },
    { "overlong 2", text("\"\xc0\xaf\""), "invalid-utf8", "" },
    { "overlong 3", text("\"\xe0\x80\xaf\""), "invalid-utf8", "" },
    { "overlong 4", text("\"\xf0\x80\x80\xaf\""), "invalid-utf8", "" },
    { "surrogate in UTF-8", text("\"\xed\xa0\x80\""), "invalid-utf8", "" },
    { "beyond U+10FFFF", text("\"\xf4\x90\x80\x80\""), "invalid-utf8", "" },
    { "stray continuation", text("{\"a\":\"\x80\"}"), "invalid-utf8", "/a" },
    { "latin-1 in a name", text("{\"\xe9\":1}"), "invalid-utf8", "" },
    { "lone high", text("[\"\\ud800\"]"), "lone-surrogate", "/0" },
    { "lone low", text("\"\\udc00\""), "lone-surrogate", "" },
    { "high and letter", text("\"\\ud800a\""), "lone-surrogate", "" },
    { "two highs", text("\"\\ud800\\ud800\""), "lone-surrogate", "" },
    { "high at the end", text("\"\\ud800"), "lone-surrogate", "" },
    { "nul escaped", text("{\"a\":\"x\\u0000\"}"), "nul-character", "/a" },
    { "nul raw", text("\"a\0b\""), "nul-character", "" },
    { "control", text("\"a\nb\""), "control-character", "" },
    { "control late", text("\"0123456789abcde\x1f\""), "control-character", "" },
    { "noncharacter", text("\"\xef\xbf\xbf\""), "noncharacter", "" },
    { "noncharacter escaped", text("\"\\uffff\""), "noncharacter", "" },
    { "noncharacter pair", text("\"\\ud83f\\udffe\""), "noncharacter", "" },
    { "trailing text", text("{} x"), "trailing-bytes", "" },
    { "trailing nul", text("{}\0"), "trailing-bytes", "" },
    { "two values", text("1 2"), "trailing-bytes", "" },
    { "leading zero", text("01"), "syntax", "" },
    { "minus zero one", text("-01"), "syntax", "" },
    { "plus", text("+1"), "syntax", "" },
    { "no fraction", text("1."), "syntax", "" },
    { "no integer", text(".5"), "syntax", "" },
    { "no exponent", text("1e"), "syntax", "" },
    { "no exponent signed", text("1e+"), "syntax", "" },
    { "hex", text("0x10"), "trailing-bytes", "" },
    { "NaN", text("NaN"), "syntax", "" },
    { "infinity", text("-Infinity"), "syntax", "" },
    { "huge exponent", text("1e999"), "number-range", "" },
    { "huge exponent of SQL", text("{\"a\":1e131071}"), "number-range", "/a" },
    { "exponent that overflows", text("1e99999999999999999999"), "number-range", "" },
    { "tiny exponent", text("1e-99999"), "number-range", "" },
    { "cut word", text("tru"), "syntax", "" },
    { "wrong case", text("True"), "syntax", "" },
    { "comma at the end", text("[1,]"), "syntax", "/1" },
    { "comma at the end of an object", text("{\"a\":1,}"), "syntax", "/a" },
    { "no comma", text("[1 2]"), "syntax", "/0" },
    { "no colon", text("{\"a\" 1}"), "syntax", "" },
    { "no name", text("{1:2}"), "syntax", "" },
    { "single quotes", text("{'a':1}"), "syntax", "" },
    { "comment", text("[1/*x*/]"), "syntax", "/0" },
    { "open object", text("{"), "syntax", "" },
    { "open array", text("["), "syntax", "/0" },
    { "open string", text("\"a"), "syntax", "" },
    { "open name", text("{\"a"), "syntax", "" },
    { "no value", text("{\"a\":"), "syntax", "/a" },
    { "wrong escape", text("\"\\x41\""), "syntax", "" },
    { "cut escape", text("\"\\"), "syntax", "" },
    { "cut \\u", text("\"\\u00"), "syntax", "" },
    { "wrong hex", text("\"\\u00g0\""), "syntax", "" },
    { "wrong brace", text("{\"a\":[1}"), "syntax", "/a/0" },
    { "form feed", text("\f1"), "syntax", "" },
    { "pointer escapes", text("{\"a/b~c\":[01]}"), "syntax", "/a~1b~0c/0" },
};


static void
test_rows(void **state)
{
    size_t                     i;
    unit_arena_t               arena;
    ngx_commerce_rc_t          rc;
    ngx_commerce_json_t       *root;
    ngx_commerce_json_error_t  error;

    (void) state;

    for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        unit_arena(&arena);
        error.code = "none";

        rc = ngx_commerce_json_parse(&arena.alloc,
                                     unit_tight(&arena, rows[i].text,
                                                rows[i].len),
                                     rows[i].len, NULL, &root, &error);

        if (rows[i].code == NULL) {
            if (rc != NGX_COMMERCE_OK) {
                fail_msg("%s: %s", rows[i].name, error.code);
            }

        } else if (rc != NGX_COMMERCE_INVALID
                   || strcmp(error.code, rows[i].code) != 0
                   || strcmp(error.pointer, rows[i].pointer) != 0)
        {
            fail_msg("%s: %s at \"%s\"", rows[i].name, error.code,
                     rc == NGX_COMMERCE_OK ? "" : error.pointer);
        }

        unit_free(&arena);
    }
}


static void
test_values(void **state)
{
    unit_arena_t          arena;
    ngx_commerce_json_t  *root, *v;

    (void) state;
    unit_arena(&arena);

    root = unit_json(&arena,
        "{\"t\":\"a\\u00e9\\ud83d\\ude00\\n\\/\",\"n\":-42,\"f\":1.0,"
        "\"max\":9007199254740991,\"over\":9007199254740992,"
        "\"long\":123456789012345678901234567890,\"e\":1e3,\"o\":{\"x\":1},"
        "\"\":7,\"l\":[1,2,3]}");

    unit_is(ngx_commerce_json_get(root, "t")->text, "a\xc3\xa9\xf0\x9f\x98\x80\n/");

    v = ngx_commerce_json_get(root, "n");
    assert_true(v->integer);
    assert_int_equal(v->number, -42);
    unit_is(v->raw, "-42");

    assert_false(ngx_commerce_json_get(root, "f")->integer);
    assert_false(ngx_commerce_json_get(root, "e")->integer);
    assert_true(ngx_commerce_json_get(root, "max")->integer);
    assert_int_equal(ngx_commerce_json_get(root, "max")->number,
                     9007199254740991LL);
    assert_false(ngx_commerce_json_get(root, "over")->integer);
    assert_false(ngx_commerce_json_get(root, "long")->integer);

    unit_is(ngx_commerce_json_get(root, "o")->raw, "{\"x\":1}");
    assert_int_equal(ngx_commerce_json_get(root, "")->number, 7);

    v = ngx_commerce_json_get(root, "l");
    assert_int_equal(v->count, 3);
    assert_int_equal(v->child->next->next->number, 3);
    assert_null(v->child->next->next->next);

    /* case counts, and a name is not a prefix */
    assert_null(ngx_commerce_json_get(root, "T"));
    assert_null(ngx_commerce_json_get(root, "ma"));
    assert_null(ngx_commerce_json_get(v, "x"));
    assert_null(ngx_commerce_json_get(NULL, "x"));

    unit_free(&arena);
}


static void
test_limits(void **state)
{
    char                        text[5000], *p;
    unsigned                    i;
    unit_arena_t                arena;
    ngx_commerce_json_t        *root;
    ngx_commerce_json_error_t   error;
    ngx_commerce_json_limits_t  limits = { 3, 5, false };

    (void) state;
    unit_arena(&arena);

#define parse(s, l)                                                           \
    ngx_commerce_json_parse(&arena.alloc, (uint8_t *) (s), strlen(s), l,      \
                            &root, &error)

    assert_int_equal(parse("[[[1]]]", &limits), NGX_COMMERCE_OK);
    assert_int_equal(parse("[[[[1]]]]", &limits), NGX_COMMERCE_INVALID);
    assert_string_equal(error.code, "too-deep");
    assert_int_equal(parse("[1,2,3,4,5]", &limits), NGX_COMMERCE_OK);
    assert_int_equal(parse("[1,2,{\"a\":1,\"b\":1,\"c\":1}]", &limits),
                     NGX_COMMERCE_INVALID);
    assert_string_equal(error.code, "too-many-members");

    /* the defaults: 32 levels, 1,000 members */
    memset(text, '[', 32);
    memset(text + 32, ']', 32);
    text[64] = '\0';
    assert_int_equal(parse(text, NULL), NGX_COMMERCE_OK);
    memset(text, '[', 33);
    memset(text + 33, ']', 33);
    text[66] = '\0';
    assert_int_equal(parse(text, NULL), NGX_COMMERCE_INVALID);

    for (p = text, *p++ = '[', i = 0; i < 1001; i++) {
        p += sprintf(p, "1,");
    }

    strcpy(p - 1, "]");
    assert_int_equal(parse(text, NULL), NGX_COMMERCE_INVALID);
    assert_string_equal(error.pointer, "/999");
    strcpy(p - 3, "]");
    assert_int_equal(parse(text, NULL), NGX_COMMERCE_OK);

    unit_free(&arena);
}


/* A big object finds its duplicate wherever it is. */

static void
test_big_object(void **state)
{
    char                       *text, *p;
    unsigned                    i, n, twice;
    unit_arena_t                arena;
    ngx_commerce_rc_t           rc;
    ngx_commerce_json_t        *root;
    ngx_commerce_json_error_t   error;
    ngx_commerce_json_limits_t  limits = { 8, 100000, false };

    (void) state;

    text = malloc(1 << 17);

    for (n = 2; n < 3000; n = n * 3 + 1) {
        for (twice = 0; twice < n; twice += n / 7 + 1) {
            unit_arena(&arena);

            for (p = text, *p++ = '{', i = 0; i < n; i++) {
                p += sprintf(p, "\"key-of-a-member-%u\":%u,", i, i);
            }

            i = (unsigned) sprintf(p, "\"key-of-a-member-%u\":0}", twice);

            rc = ngx_commerce_json_parse(&arena.alloc, (uint8_t *) text,
                                         (size_t) (p - text) + i, &limits,
                                         &root, &error);
            assert_int_equal(rc, NGX_COMMERCE_INVALID);
            assert_string_equal(error.code, "duplicate-key");

            sprintf(p, "\"other\":0}");
            rc = ngx_commerce_json_parse(&arena.alloc, (uint8_t *) text,
                                         strlen(text), &limits, &root, &error);
            assert_int_equal(rc, NGX_COMMERCE_OK);
            assert_int_equal(root->count, n + 1);

            unit_free(&arena);
        }
    }

    free(text);
}


/* Every allocation may fail, and every prefix is refused. */

static void
test_no_memory(void **state)
{
    long                       left;
    size_t                     len;
    unit_arena_t               arena;
    ngx_commerce_rc_t          rc;
    ngx_commerce_json_t       *root;
    ngx_commerce_json_error_t  error;
    const char                *text =
        "{\"a\":\"\\n\",\"b\":[1,2,{\"c\\t\":true}],\"d\":\"\\u00e9\"}";

    (void) state;

    for (left = 0, rc = NGX_COMMERCE_NOMEM; rc != NGX_COMMERCE_OK; left++) {
        unit_arena(&arena);
        arena.left = left;
        rc = ngx_commerce_json_parse(&arena.alloc, (const uint8_t *) text,
                                     strlen(text), NULL, &root, &error);
        assert_int_not_equal(rc, NGX_COMMERCE_INVALID);
        unit_free(&arena);
    }

    assert_true(left > 2);

    for (len = 0; len < strlen(text); len++) {
        unit_arena(&arena);
        rc = ngx_commerce_json_parse(&arena.alloc,
                                     unit_tight(&arena, text, len), len, NULL,
                                     &root, &error);
        assert_int_equal(rc, NGX_COMMERCE_INVALID);
        unit_free(&arena);
    }
}


static void
canonical(const char *text, const char *expected)
{
    size_t                len;
    uint8_t              *out, *end;
    unit_arena_t          arena;
    ngx_commerce_json_t  *root;

    unit_arena(&arena);
    root = unit_json(&arena, text);

    len = (size_t) (uintptr_t) ngx_commerce_json_canonical(NULL, root);
    out = unit_alloc(&arena, len);
    end = ngx_commerce_json_canonical(out, root);

    assert_int_equal(end - out, len);
    assert_int_equal(len, strlen(expected));
    assert_memory_equal(out, expected, len);
    unit_free(&arena);
}


static void
test_canonical(void **state)
{
    char      in[4000], out[4000], *p, *q;
    unsigned  i;

    (void) state;

    canonical(" { \"b\" : 1 , \"a\" : [ true , null ] } ",
              "{\"a\":[true,null],\"b\":1}");
    canonical("{\"\\u0061\":\"\\u002f\\u00e9\"}", "{\"a\":\"/\xc3\xa9\"}");
    canonical("[\"\\u0001\\n\\\"\\\\\"]", "[\"\\u0001\\n\\\"\\\\\"]");
    canonical("{}", "{}");
    canonical("[]", "[]");
    canonical("{\"ab\":1,\"a\":2,\"\":3}", "{\"\":3,\"a\":2,\"ab\":1}");

    /* UTF-16 order: a supplementary character before U+FB33 (RFC 8785, 3.2.3) */
    canonical("{\"\\ufb33\":1,\"\\ud83d\\ude00\":2,\"\\u20ac\":3}",
              "{\"\xe2\x82\xac\":3,\"\xf0\x9f\x98\x80\":2,\"\xef\xac\xb3\":1}");

    /* more members than fit on the stack */
    p = in;
    q = out;
    *p++ = '{';
    *q++ = '{';

    for (i = 0; i < 200; i++) {
        p += sprintf(p, "\"k%03u\":1,", 199 - i);
        q += sprintf(q, "\"k%03u\":1,", i);
    }

    strcpy(p - 1, "}");
    strcpy(q - 1, "}");
    canonical(in, out);
}


static double
milliseconds(void)
{
    struct timespec  t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);

    return (double) t.tv_sec * 1e3 + (double) t.tv_nsec / 1e6;
}


/* 1 MB of anything: bounded work and memory.  The sanitizers cost about ten times. */

static void
test_hostile_size(void **state)
{
    size_t                      i, n, len = 1 << 20;
    double                      start, spent;
    uint8_t                    *body;
    unit_arena_t                arena;
    ngx_commerce_json_t        *root;
    ngx_commerce_json_error_t   error;
    static const char          *units[] = {
        "[", "{\"a\":", "\"", "\\n", "\\u00e9", "\\ud83d\\ude00", " ", "1", "1,",
        "\"a\",", "\xe4\xb8\xad", "-", "{}", "[],", "\\\\", "a"
    };

    (void) state;
    body = malloc(len);

    for (i = 0; i < 2 * sizeof(units) / sizeof(units[0]); i++) {
        body[0] = i % 2 ? '"' : '[';

        for (n = 1; n < len; n++) {
            body[n] = (uint8_t) units[i / 2][(n - 1) % strlen(units[i / 2])];
        }

        body[len - 1] = i % 2 ? '"' : ']';

        unit_arena(&arena);
        start = milliseconds();
        ngx_commerce_json_parse(&arena.alloc, body, len, NULL, &root, &error);
        spent = milliseconds() - start;

        if (spent > 10 * UNIT_SLOW || arena.used > len) {
            fail_msg("%s: %.1f ms, %zu bytes", units[i / 2], spent,
                     arena.used);
        }

        unit_free(&arena);
    }

    free(body);
}


static void
test_select(void **state)
{
    size_t               i;
    unit_arena_t         arena;
    ngx_commerce_str_t   body, names;
    static const struct {
        const char  *body;
        const char  *names;
        const char  *selected;      /* NULL: no JSON */
    }  rows_select[] = {
        { "{\"data\":[{\"a\":1,\"b\":[1, 2],\"c\":{}},{\"c\":0}],\"page\":{\"a\":1}}", "[\"b\",\"a\"]",
          "{\"data\":[{\"a\":1,\"b\":[1, 2]},{}],\"page\":{\"a\":1}}" },
        { "{\"data\":{\"a\":1,\"b\":2}}", "[\"b\"]", "{\"data\":{\"b\":2}}" },
        { "{\"data\":[]}", "[\"b\"]", "{\"data\":[]}" },
        { "{\"data\":[7,null,[{\"a\":1,\"b\":1}]]}", "[\"b\"]", "{\"data\":[7,null,[{\"b\":1}]]}" },
        { "{ \"a\" : \"x\\u0041\" , \"b\":2 }", "[\"a\"]", "{\"a\":\"x\\u0041\"}" },
        { "{\"\\u00e9\\u0001\":1}", "[\"\xC3\xA9\\u0001\"]", "{\"\xC3\xA9\\u0001\":1}" },
        { "7", "[\"a\"]", "7" },
        { "{\"data\":", "[\"a\"]", NULL },
    };

    (void) state;

    for (i = 0; i < sizeof(rows_select) / sizeof(rows_select[0]); i++) {
        unit_arena(&arena);

        body.len = strlen(rows_select[i].body);
        body.data = unit_tight(&arena, rows_select[i].body, body.len);
        names.len = strlen(rows_select[i].names);
        names.data = unit_tight(&arena, rows_select[i].names, names.len);

        if (rows_select[i].selected == NULL) {
            assert_int_equal(ngx_commerce_json_select(&arena.alloc, &body,
                                                      &names),
                             NGX_COMMERCE_INVALID);

        } else {
            assert_int_equal(ngx_commerce_json_select(&arena.alloc, &body,
                                                      &names),
                             NGX_COMMERCE_OK);
            unit_is(body, rows_select[i].selected);
        }

        unit_free(&arena);
    }
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_big_object),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_canonical),
        cmocka_unit_test(test_hostile_size),
        cmocka_unit_test(test_select),
    };

    return cmocka_run_group_tests_name("json", tests, NULL, NULL);
}
