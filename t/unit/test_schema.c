/* Schemas: each keyword against values, messages, faults of the compiler, parameters. */

#include "unit.h"


typedef struct {
    const char  *schema;
    const char  *value;
    const char  *code;          /* NULL: valid */
    const char  *pointer;
    const char  *message;       /* NULL: any */
} row_t;

#define OBJECT  "{\"type\":\"object\",\"required\":[\"id\"],\"properties\":"      \
                "{\"id\":{\"type\":\"integer\",\"minimum\":1},"               \
                "\"name\":{\"type\":[\"string\",\"null\"],\"maxLength\":5}}}"
#define ALL     "{\"allOf\":[{\"type\":\"object\",\"properties\":{\"a\":{}}},"  \
                "{\"properties\":{\"b\":{}}}],\"properties\":{\"c\":{}}}"
#define ONE     "{\"oneOf\":[{\"type\":\"object\",\"required\":[\"card\"],"      \
                "\"properties\":{\"card\":{}}},{\"type\":\"object\","          \
                "\"required\":[\"iban\"],\"properties\":{\"iban\":{}}}]}"

static const row_t  rows[] = {
    { "{\"type\":\"integer\"}", "7", NULL, "", NULL },
    { "{\"type\":\"integer\"}", "7.0", "type", "", NULL },
    { "{\"type\":\"integer\"}", "7e0", "type", "", NULL },
    { "{\"type\":\"integer\"}", "9007199254740992", "type", "", NULL },
    { "{\"type\":\"integer\"}", "\"7\"", "type", "", "must be an integer" },
    { "{\"type\":\"number\"}", "7", NULL, "", NULL },
    { "{\"type\":\"number\"}", "7.5", NULL, "", NULL },
    { "{\"type\":\"number\"}", "true", "type", "", "must be a number" },
    { "{\"type\":\"boolean\"}", "false", NULL, "", NULL },
    { "{\"type\":\"boolean\"}", "0", "type", "", "must be a boolean" },
    { "{\"type\":[\"string\",\"null\"]}", "null", NULL, "", NULL },
    { "{\"type\":[\"string\",\"null\"]}", "1", "type", "", "must be null or a string" },
    { "{\"type\":[\"string\",\"null\",\"number\"]}", "[]", "type", "", "must be null, a number or a string" },
    { "{}", "[1,\"x\",null]", NULL, "", NULL },
    { "true", "1", NULL, "", NULL },
    { "{\"properties\":{\"a\":false}}", "{\"a\":1}", "unknown-member", "/a", "must be absent" },

    { "{\"enum\":[\"a\",2,null]}", "2", NULL, "", NULL },
    { "{\"enum\":[\"a\",2,null]}", "2.0", NULL, "", NULL },
    { "{\"enum\":[\"a\",2,null]}", "\"b\"", "enum", "", "must be one of \"a\", 2, null" },
    { "{\"const\":{\"a\":[1,2]}}", "{\"a\":[1,2]}", NULL, "", NULL },
    { "{\"const\":{\"a\":[1,2]}}", "{\"a\":[2,1]}", "const", "", NULL },

    { "{\"minimum\":1}", "1", NULL, "", NULL },
    { "{\"minimum\":1}", "0", "minimum", "", "must be at least 1" },
    { "{\"minimum\":1}", "0.999", "minimum", "", NULL },
    { "{\"maximum\":9007199254740991}", "9007199254740991", NULL, "", NULL },
    { "{\"maximum\":9007199254740990}", "9007199254740991", "maximum", "", NULL },
    { "{\"maximum\":5}", "5.5", "maximum", "", "must be at most 5" },
    { "{\"exclusiveMinimum\":0}", "0", "minimum", "", "must be greater than 0" },
    { "{\"exclusiveMaximum\":10}", "10", "maximum", "", "must be less than 10" },
    { "{\"multipleOf\":5}", "15", NULL, "", NULL },
    { "{\"multipleOf\":5}", "-5", NULL, "", NULL },
    { "{\"multipleOf\":5}", "16", "multiple-of", "", "must be a multiple of 5" },
    { "{\"type\":\"integer\",\"format\":\"int32\"}", "2147483647", NULL, "", NULL },
    { "{\"type\":\"integer\",\"format\":\"int32\"}", "2147483648", "maximum", "", NULL },
    { "{\"type\":\"integer\",\"format\":\"int32\"}", "-2147483649", "minimum", "", NULL },

    { "{\"minLength\":1}", "\"\"", "min-length", "", "must not be empty" },
    { "{\"minLength\":2}", "\"\\u4e2d\"", "min-length", "", "must have at least 2 characters" },
    { "{\"maxLength\":2}", "\"\xe4\xb8\xad\xe4\xb8\xad\"", NULL, "", NULL },
    { "{\"maxLength\":2}", "\"\xf0\x9f\x98\x80\xf0\x9f\x98\x80\xf0\x9f\x98\x80\"", "max-length", "", "must have at most 2 characters" },
    { "{\"maxLength\":9}", "\"\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\"", NULL, "", NULL },
    { "{\"pattern\":\"^[a-z]+$\"}", "\"abc\"", NULL, "", NULL },
    { "{\"pattern\":\"^[a-z]+$\"}", "\"abc\\n\"", "pattern", "", NULL },
    { "{\"pattern\":\"^.{3}$\"}", "\"\xe4\xb8\xad\xe4\xb8\xad\xe4\xb8\xad\"", NULL, "", NULL },
    { "{\"pattern\":\"^(a+)+$\"}", "\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!\"", "pattern", "", NULL },

    { OBJECT, "{\"id\":1}", NULL, "", NULL },
    { OBJECT, "{\"id\":1,\"name\":null}", NULL, "", NULL },
    { OBJECT, "{}", "required", "/id", "is required" },
    { OBJECT, "{\"id\":0}", "minimum", "/id", "must be at least 1" },
    { OBJECT, "{\"id\":1,\"nmae\":\"x\"}", "unknown-member", "/nmae", "is not known here; members are id, name" },
    { OBJECT, "{\"id\":1,\"a/b~c\":1}", "unknown-member", "/a~1b~0c", NULL },
    { OBJECT, "[]", "type", "", "must be an object" },
    { "{\"type\":\"object\"}", "{\"any\":1}", NULL, "", NULL },
    { "{\"properties\":{\"a\":{}},\"additionalProperties\":true}", "{\"b\":1}", NULL, "", NULL },
    { "{\"additionalProperties\":{\"type\":\"string\"}}", "{\"b\":1}", "type", "/b", NULL },
    { "{\"properties\":{\"a\":{}},\"additionalProperties\":{\"type\":\"string\"}}", "{\"a\":1,\"b\":\"x\"}", NULL, "", NULL },
    { "{\"type\":\"object\",\"additionalProperties\":false}", "{\"b\":1}", "unknown-member", "/b", NULL },
    { "{\"patternProperties\":{\"^x_\":{\"type\":\"integer\"}}}", "{\"x_a\":1}", NULL, "", NULL },
    { "{\"patternProperties\":{\"^x_\":{\"type\":\"integer\"}}}", "{\"x_a\":\"\"}", "type", "/x_a", NULL },
    { "{\"patternProperties\":{\"^x_\":{\"type\":\"integer\"}}}", "{\"y\":1}", "unknown-member", "/y", NULL },
    { "{\"minProperties\":1}", "{}", "min-properties", "", "must have at least 1 member" },
    { "{\"type\":\"object\",\"maxProperties\":1}", "{\"a\":1,\"b\":2}", "max-properties", "", NULL },
    { "{\"required\":[\"a\"]}", "{\"b\":1}", "required", "/a", NULL },

    { ALL, "{\"a\":1,\"b\":2,\"c\":3}", NULL, "", NULL },
    { ALL, "{\"a\":1,\"d\":2}", "unknown-member", "/d", NULL },
    { ONE, "{\"card\":1}", NULL, "", NULL },
    { ONE, "{\"iban\":1}", NULL, "", NULL },
    { ONE, "{\"card\":1,\"iban\":1}", "one-of", "", NULL },
    { ONE, "{}", "one-of", "", "must have one of the 2 allowed forms" },
    { "{\"oneOf\":[{\"type\":\"integer\"},{\"minimum\":5}]}", "7", "one-of", "", "must have only one of the 2 allowed forms" },
    { "{\"anyOf\":[{\"type\":\"null\"},{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\"}}}]}", "{\"a\":1}", "type", "/a", "must be a string" },
    { "{\"anyOf\":[{\"type\":\"null\"},{\"type\":\"object\",\"properties\":{\"a\":{}}}]}", "null", NULL, "", NULL },
    { "{\"not\":{\"const\":1}}", "1", "not", "", NULL },
    { "{\"not\":{\"const\":1}}", "2", NULL, "", NULL },

    { "{\"items\":{\"type\":\"integer\"}}", "[1,2,\"x\"]", "type", "/2", NULL },
    { "{\"minItems\":1}", "[]", "min-items", "", "must have at least 1 element" },
    { "{\"maxItems\":1}", "[1,2]", "max-items", "", NULL },
    { "{\"uniqueItems\":true}", "[1,2,3]", NULL, "", NULL },
    { "{\"uniqueItems\":true}", "[{\"a\":1,\"b\":2},{\"b\":2,\"a\":1}]", "unique", "", NULL },
    { "{\"uniqueItems\":true}", "[0,-0]", "unique", "", NULL },
    { "{\"prefixItems\":[{\"type\":\"integer\"}],\"items\":{\"type\":\"string\"}}", "[1,\"a\",\"b\"]", NULL, "", NULL },
    { "{\"prefixItems\":[{\"type\":\"integer\"}],\"items\":{\"type\":\"string\"}}", "[1,2]", "type", "/1", NULL },

    { "{\"format\":\"date\"}", "\"2024-02-29\"", NULL, "", NULL },
    { "{\"format\":\"date\"}", "\"2023-02-29\"", "format", "", NULL },
    { "{\"format\":\"date-time\"}", "\"2024-02-29T12:00:00.123Z\"", NULL, "", NULL },
    { "{\"format\":\"date-time\"}", "\"2024-02-29T12:00:00+02:00\"", NULL, "", NULL },
    { "{\"format\":\"date-time\"}", "\"2024-02-29T24:00:00Z\"", "format", "", NULL },
    { "{\"format\":\"date-time\"}", "\"2024-02-29T12:00:00\"", "format", "", NULL },
    { "{\"format\":\"date-time\"}", "\"2024-02-29T12:00:00.Z\"", "format", "", NULL },
    { "{\"format\":\"email\"}", "\"a.b+c@example.com\"", NULL, "", NULL },
    { "{\"format\":\"email\"}", "\"a@b@example.com\"", "format", "", "must be an e-mail address" },
    { "{\"format\":\"email\"}", "\"a..b@example.com\"", "format", "", NULL },
    { "{\"format\":\"email\"}", "\"a@localhost\"", "format", "", NULL },
    { "{\"format\":\"email\"}", "\"a b@example.com\"", "format", "", NULL },
    { "{\"format\":\"email\"}", "\"@example.com\"", "format", "", NULL },
    { "{\"format\":\"email\"}", "\"a@\"", "format", "", NULL },
    { "{\"format\":\"email\"}", "\"a@m\xC3\xBCnchen.example\"", NULL, "", NULL },
    { "{\"format\":\"email\"}", "\"a@xn--zzzzzzzz.example\"", "format", "", NULL },
    { "{\"format\":\"hostname\"}", "\"xn--zzzzzzzz.example\"", "format", "", "must be the name of a host (IDNA 2008)" },
    { "{\"format\":\"hostname\"}", "\"\xE2\x80\x8B.example\"", "format", "", NULL },
    { "{\"format\":\"password\"}", "\"pass w\xC3\xB6rd\"", NULL, "", NULL },
    { "{\"format\":\"password\"}", "\"a\\tb\"", "format", "", "must not hold control characters" },
    { "{\"format\":\"password\"}", "\"a\xC2\x85\"", "format", "", "must not hold control characters" },
    { "{\"format\":\"uuid\"}", "\"0190163d-8694-739b-aea5-966c26f8ad91\"", NULL, "", NULL },
    { "{\"format\":\"uuid\"}", "\"0190163d8694739baea5966c26f8ad91\"", "format", "", NULL },
    { "{\"format\":\"uri\"}", "\"https://example.com/a?b=%20\"", NULL, "", NULL },
    { "{\"format\":\"uri\"}", "\"example.com\"", "format", "", NULL },
    { "{\"format\":\"uri\"}", "\"https://example.com/%2\"", "format", "", NULL },
    { "{\"format\":\"uri\"}", "\"https://a b\"", "format", "", NULL },
    { "{\"format\":\"hostname\"}", "\"shop.example.com\"", NULL, "", NULL },
    { "{\"format\":\"hostname\"}", "\"-a.example.com\"", "format", "", NULL },
    { "{\"format\":\"hostname\"}", "\"a..b\"", "format", "", NULL },
    { "{\"format\":\"ipv4\"}", "\"192.0.2.1\"", NULL, "", NULL },
    { "{\"format\":\"ipv4\"}", "\"192.0.2.256\"", "format", "", NULL },
    { "{\"format\":\"ipv4\"}", "\"192.0.2\"", "format", "", NULL },
    { "{\"format\":\"ipv4\"}", "\"192.0.2.01\"", "format", "", NULL },
    { "{\"format\":\"ipv6\"}", "\"2001:db8::1\"", NULL, "", NULL },
    { "{\"format\":\"ipv6\"}", "\"::\"", NULL, "", NULL },
    { "{\"format\":\"ipv6\"}", "\"::ffff:192.0.2.1\"", NULL, "", NULL },
    { "{\"format\":\"ipv6\"}", "\"1:2:3:4:5:6:7:8\"", NULL, "", NULL },
    { "{\"format\":\"ipv6\"}", "\"1::2::3\"", "format", "", NULL },
    { "{\"format\":\"ipv6\"}", "\"1:2:3:4:5:6:7\"", "format", "", NULL },
    { "{\"format\":\"ipv6\"}", "\"1:2:3:4:5:6:7:\"", "format", "", NULL },
    { "{\"format\":\"slug\"}", "\"red-shoes-2\"", NULL, "", NULL },
    { "{\"format\":\"slug\"}", "\"Red\"", "format", "", NULL },
    { "{\"format\":\"slug\"}", "\"a--b\"", "format", "", NULL },
    { "{\"format\":\"currency\"}", "\"EUR\"", NULL, "", NULL },
    { "{\"format\":\"currency\"}", "\"eur\"", "format", "", NULL },
};


static void
test_rows(void **state)
{
    size_t                      i;
    unit_arena_t                arena;
    ngx_commerce_rc_t           rc;
    ngx_commerce_json_t        *schema;
    ngx_commerce_fault_t        fault;
    ngx_commerce_schema_t      *compiled;
    ngx_commerce_violation_t   *v;
    ngx_commerce_violations_t   violations;

    (void) state;

    for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        unit_arena(&arena);
        schema = unit_json(&arena, rows[i].schema);

        if (ngx_commerce_schema_compile(&arena.alloc, schema, schema, "s",
                                        &compiled, &fault)
            != NGX_COMMERCE_OK)
        {
            fail_msg("%s: %s: %s", rows[i].schema, fault.place, fault.message);
        }

        violations.alloc = &arena.alloc;
        violations.count = 0;

        rc = ngx_commerce_schema_check(compiled, unit_json(&arena,
                                                           rows[i].value),
                                       &violations);

        if (rows[i].code == NULL) {
            if (rc != NGX_COMMERCE_OK || violations.count != 0) {
                fail_msg("%s: %s", rows[i].schema, rows[i].value);
            }

            unit_free(&arena);
            continue;
        }

        if (rc != NGX_COMMERCE_INVALID || violations.count == 0) {
            fail_msg("%s took %s", rows[i].schema, rows[i].value);
        }

        v = &violations.list[0];

        if (strcmp(v->code, rows[i].code) != 0
            || v->pointer.len != strlen(rows[i].pointer)
            || memcmp(v->pointer.data, rows[i].pointer, v->pointer.len) != 0
            || (rows[i].message != NULL
                && (v->message.len != strlen(rows[i].message)
                    || memcmp(v->message.data, rows[i].message,
                              v->message.len) != 0)))
        {
            fail_msg("%s: %s: %s at %.*s: %.*s", rows[i].schema, rows[i].value,
                     v->code, (int) v->pointer.len, v->pointer.data,
                     (int) v->message.len, v->message.data);
        }

        unit_free(&arena);
    }
}


static const struct {
    const char  *schema;
    const char  *message;       /* a part of it */
    const char  *place;
}  faults[] = {
    { "{\"type\":\"strnig\"}", "is no type", "s.type" },
    { "{\"properties\":{\"a\":{\"minimun\":1}}}", "\"minimun\" is not supported", "s.properties.a.minimun" },
    { "{\"nullable\":true}", "write type: [string, \"null\"]", "s.nullable" },
    { "{\"format\":\"phone\"}", "no format that is checked", "s.format" },
    { "{\"pattern\":\"(\"}", "does not compile", "s.pattern" },
    { "{\"minimum\":\"1\"}", "must be a number", "s.minimum" },
    { "{\"exclusiveMinimum\":true}", "must be a number", "s.exclusiveMinimum" },
    { "{\"multipleOf\":0.01}", "positive integer", "s.multipleOf" },
    { "{\"minLength\":-1}", "integer from 0 up", "s.minLength" },
    { "{\"required\":\"a\"}", "list of names", "s.required" },
    { "{\"enum\":[]}", "at least one value", "s.enum" },
    { "{\"items\":[{}]}", "a schema must be an object", "s.items" },
    { "{\"allOf\":{}}", "at least one schema", "s.allOf" },
    { "{\"$ref\":\"#/nowhere\"}", "there is nothing at", "s.$ref" },
    { "{\"$ref\":\"#\"}", "refers to itself", "" },
    { "{\"allOf\":[{\"$ref\":\"#\"}]}", "refers to itself", "" },
    { "{\"type\":\"integer\",\"minimum\":5,\"default\":1}", "the default 1 is not what the schema allows: must be at least 5", "s" },
    { "{\"type\":\"string\",\"format\":\"int32\"}", "needs type integer", "s" },
    { "7", "a schema must be an object", "s" },
};


static void
test_faults(void **state)
{
    size_t                  i;
    unit_arena_t            arena;
    ngx_commerce_json_t    *schema;
    ngx_commerce_fault_t    fault;
    ngx_commerce_schema_t  *compiled;

    (void) state;

    for (i = 0; i < sizeof(faults) / sizeof(faults[0]); i++) {
        unit_arena(&arena);
        schema = unit_json(&arena, faults[i].schema);

        if (ngx_commerce_schema_compile(&arena.alloc, schema, schema, "s",
                                        &compiled, &fault)
            != NGX_COMMERCE_INVALID)
        {
            fail_msg("%s compiles", faults[i].schema);
        }

        if (strstr(fault.message, faults[i].message) == NULL
            || strcmp(fault.place, faults[i].place) != 0 || fault.line != 1)
        {
            fail_msg("%s: %u: %s: %s", faults[i].schema, fault.line,
                     fault.place, fault.message);
        }

        unit_free(&arena);
    }
}


/* A tree: a schema that refers to itself for other values. */

static void
test_recursive(void **state)
{
    unit_arena_t                arena;
    ngx_commerce_json_t        *root;
    ngx_commerce_fault_t        fault;
    ngx_commerce_schema_t      *compiled;
    ngx_commerce_violations_t   violations;

    (void) state;
    unit_arena(&arena);

    root = unit_json(&arena,
        "{\"s\":{\"$ref\":\"#/defs/tree\"},\"defs\":{\"tree\":{\"allOf\":"
        "[{\"$ref\":\"#/defs/named\"}],\"properties\":{\"children\":"
        "{\"type\":\"array\",\"items\":{\"$ref\":\"#/defs/tree\"}}}},"
        "\"named\":{\"type\":\"object\",\"required\":[\"name\"],"
        "\"properties\":{\"name\":{\"type\":\"string\"}}}}}");

    assert_int_equal(ngx_commerce_schema_compile(&arena.alloc,
                         ngx_commerce_json_get(root, "s"), root, "s",
                         &compiled, &fault), NGX_COMMERCE_OK);

    violations.alloc = &arena.alloc;
    violations.count = 0;

    assert_int_equal(ngx_commerce_schema_check(compiled, unit_json(&arena,
        "{\"name\":\"a\",\"children\":[{\"name\":\"b\",\"children\":[]}]}"),
        &violations), NGX_COMMERCE_OK);

    assert_int_equal(ngx_commerce_schema_check(compiled, unit_json(&arena,
        "{\"name\":\"a\",\"children\":[{\"name\":\"b\",\"children\":[{}]},"
        "{\"name\":\"c\",\"x\":1}]}"), &violations), NGX_COMMERCE_INVALID);

    assert_int_equal(violations.count, 2);
    unit_is(violations.list[0].pointer, "/children/0/children/0/name");
    unit_is(violations.list[1].pointer, "/children/1/x");

    unit_free(&arena);
}


/* No more than the list holds is written, and silence is cheap. */

static void
test_many(void **state)
{
    char                        text[4096], *p;
    unsigned                    i;
    unit_arena_t                arena;
    ngx_commerce_json_t        *schema;
    ngx_commerce_fault_t        fault;
    ngx_commerce_schema_t      *compiled;
    ngx_commerce_violations_t   violations;

    (void) state;
    unit_arena(&arena);

    for (p = text, *p++ = '[', i = 0; i < 500; i++) {
        p += sprintf(p, "\"x\",");
    }

    strcpy(p - 1, "]");

    schema = unit_json(&arena, "{\"items\":{\"type\":\"integer\"}}");
    assert_int_equal(ngx_commerce_schema_compile(&arena.alloc, schema, schema,
                         "s", &compiled, &fault), NGX_COMMERCE_OK);

    violations.alloc = &arena.alloc;
    violations.count = 0;
    assert_int_equal(ngx_commerce_schema_check(compiled,
                         unit_json(&arena, text), &violations),
                     NGX_COMMERCE_INVALID);
    assert_int_equal(violations.count, NGX_COMMERCE_VIOLATIONS_MAX);
    unit_is(violations.list[15].pointer, "/15");

    unit_free(&arena);
}


static const struct {
    const char  *schema;
    const char  *text;
    const char  *raw;           /* NULL: a violation */
    const char  *pointer;
}  params[] = {
    { "{\"type\":\"integer\"}", "7", "7", NULL },
    { "{\"type\":\"integer\"}", "-7", "-7", NULL },
    { "{\"type\":\"integer\"}", "+7", NULL, "p" },
    { "{\"type\":\"integer\"}", "07", NULL, "p" },
    { "{\"type\":\"integer\"}", " 7", NULL, "p" },
    { "{\"type\":\"integer\"}", "7 ", NULL, "p" },
    { "{\"type\":\"integer\"}", "7.0", NULL, "p" },
    { "{\"type\":\"integer\"}", "", NULL, "p" },
    { "{\"type\":\"integer\"}", "99999999999999999999", NULL, "p" },
    { "{\"type\":\"number\"}", "7.5", "7.5", NULL },
    { "{\"type\":\"boolean\"}", "true", "true", NULL },
    { "{\"type\":\"boolean\"}", "yes", NULL, "p" },
    { "{\"type\":\"string\"}", "7", "\"7\"", NULL },
    { "{\"type\":\"string\"}", "a\"b", "\"a\\\"b\"", NULL },
    { "{\"type\":\"string\"}", "\xff", NULL, "p" },
    { "{\"type\":\"string\"}", "a\xEF\xBF\xBF", NULL, "p" },
    { "{\"type\":\"string\"}", "e\xCC\x81", "\"\xC3\xA9\"", NULL },
    { "{\"type\":\"array\",\"items\":{\"format\":\"email\"}}", "a@B.example,c@D.example", "[\"a@b.example\",\"c@d.example\"]", NULL },
    { "{\"type\":[\"integer\",\"string\"]}", "x", "\"x\"", NULL },
    { "{\"type\":[\"integer\",\"string\"]}", "5", "5", NULL },
    { "{\"type\":\"array\",\"items\":{\"type\":\"integer\"}}", "1,2,3", "[1,2,3]", NULL },
    { "{\"type\":\"array\",\"items\":{\"type\":\"integer\"}}", "1,x", NULL, "p/1" },
    { "{\"type\":\"array\",\"items\":{\"type\":\"string\"}}", "a,b", "[\"a\",\"b\"]", NULL },
    { "{\"type\":\"array\",\"items\":{\"type\":\"string\"}}", "", "[]", NULL },
    { "{\"type\":\"array\",\"items\":{\"type\":\"string\"}}", "a,", "[\"a\",\"\"]", NULL },
    { "{\"type\":\"array\",\"maxItems\":1}", "a,b", NULL, "p" },
    { "{\"allOf\":[{\"type\":\"integer\"}],\"default\":1}", "7", "7", NULL },
    { "{\"type\":\"string\",\"format\":\"cursor\"}", "abc_-9", "\"abc_-9\"", NULL },
    { "{\"type\":\"string\",\"format\":\"cursor\"}", "a+b", NULL, "p" },
};


static void
test_params(void **state)
{
    size_t                      i;
    unit_arena_t                arena;
    ngx_commerce_rc_t           rc;
    ngx_commerce_str_t          text;
    ngx_commerce_json_t        *schema, *value;
    ngx_commerce_fault_t        fault;
    ngx_commerce_schema_t      *compiled;
    ngx_commerce_violations_t   violations;

    (void) state;

    for (i = 0; i < sizeof(params) / sizeof(params[0]); i++) {
        unit_arena(&arena);
        schema = unit_json(&arena, params[i].schema);
        assert_int_equal(ngx_commerce_schema_compile(&arena.alloc, schema,
                             schema, "s", &compiled, &fault), NGX_COMMERCE_OK);

        text.len = strlen(params[i].text);
        text.data = unit_tight(&arena, params[i].text, text.len);
        violations.alloc = &arena.alloc;
        violations.count = 0;

        rc = ngx_commerce_schema_check_text(compiled, ngx_commerce_str("p"),
                                            text, &value, &violations);

        if ((rc == NGX_COMMERCE_OK) != (params[i].raw != NULL)) {
            fail_msg("%s: \"%s\"", params[i].schema, params[i].text);
        }

        if (params[i].raw != NULL) {
            unit_is(value->raw, params[i].raw);

        } else {
            assert_true(violations.count > 0);
            unit_is(violations.list[0].pointer, params[i].pointer);
        }

        unit_free(&arena);
    }

    unit_arena(&arena);
    schema = unit_json(&arena, "{\"d\":{\"type\":\"integer\",\"default\":20},\"c\":"
                               "{\"$ref\":\"#/x\",\"description\":\"\"},\"x\":"
                               "{\"type\":\"string\",\"format\":\"cursor\"}}");
    assert_int_equal(ngx_commerce_schema_compile(&arena.alloc,
                         ngx_commerce_json_get(schema, "d"), schema, "s",
                         &compiled, &fault), NGX_COMMERCE_OK);
    assert_int_equal(ngx_commerce_schema_default(compiled)->number, 20);
    assert_false(ngx_commerce_schema_is_cursor(compiled));
    assert_int_equal(ngx_commerce_schema_compile(&arena.alloc,
                         ngx_commerce_json_get(schema, "c"), schema, "s",
                         &compiled, &fault), NGX_COMMERCE_OK);
    assert_true(ngx_commerce_schema_is_cursor(compiled));
    assert_null(ngx_commerce_schema_default(compiled));
    unit_free(&arena);
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_faults),
        cmocka_unit_test(test_recursive),
        cmocka_unit_test(test_many),
        cmocka_unit_test(test_params),
    };

    return cmocka_run_group_tests_name("schema", tests, NULL, NULL);
}
