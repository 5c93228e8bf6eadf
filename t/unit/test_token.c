/*
 * Access tokens: what must be refused, and the little that must pass.
 */

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ngx_commerce_codec.h"
#include "ngx_commerce_token.h"


#define NOW      1700000000
#define SUB      "0190a5c4-7b1e-7c3a-9f10-2b8c6d4e5f60"
#define SID      "0190a5c4-7b1e-7c3a-9f10-2b8c6d4e5f61"
#define HEADER   "{\"alg\":\"HS256\",\"typ\":\"at+jwt\",\"kid\":\"k1\"}"
#define BASE     "\"iss\":\"shop\",\"aud\":\"api\",\"sub\":\"" SUB "\""
#define TIMES    "\"exp\":1700000900,\"iat\":1700000000"


/* Every allocation of a test, freed at its end. */

typedef struct block_s {
    struct block_s  *next;
    max_align_t      data[];
} block_t;

static block_t  *blocks;


static void *
take(void *ctx, size_t size)
{
    block_t  *b;

    b = malloc(sizeof(block_t) + size);
    assert_non_null(b);
    b->next = blocks;
    blocks = b;

    return b->data;
}


static int
give_back(void **state)
{
    block_t  *next;

    for ( /* void */ ; blocks != NULL; blocks = next) {
        next = blocks->next;
        free(blocks);
    }

    return 0;
}


static const ngx_commerce_alloc_t  alloc = { take, NULL };


static char *
encode(const char *text)
{
    char    *out;
    size_t   len;

    out = take(NULL, ngx_commerce_base64url_encoded_len(strlen(text)) + 1);
    len = ngx_commerce_base64url_encode((uint8_t *) out,
                                        (const uint8_t *) text, strlen(text));
    out[len] = '\0';

    return out;
}


static const char *
open_text(const char *text, ngx_commerce_token_t *token)
{
    const char          *why = NULL;
    ngx_commerce_str_t   s = { strlen(text), (uint8_t *) text };

    if (ngx_commerce_token_open(&alloc, s, token, &why) == NGX_COMMERCE_OK) {
        return NULL;
    }

    assert_non_null(why);

    return why;
}


static const char *
open_header(const char *header)
{
    char                  text[4096];
    ngx_commerce_token_t  token;

    snprintf(text, sizeof(text), "%s.%s.%s", encode(header), encode("{}"),
             encode("signature"));

    return open_text(text, &token);
}


static const char *
read_claims(const char *payload, ngx_commerce_token_claims_t *claims)
{
    char                         *text;
    size_t                        size;
    const char                   *why = NULL, *failed;
    ngx_commerce_token_t          token;
    ngx_commerce_token_policy_t   policy;

    size = strlen(payload) * 2 + 256;
    text = take(NULL, size);
    snprintf(text, size, "%s.%s.%s", encode(HEADER), encode(payload),
             encode("signature"));

    failed = open_text(text, &token);
    assert_null(failed);

    policy.now = NOW;
    policy.leeway = 60;
    policy.issuer = ngx_commerce_str("shop");
    policy.audience = ngx_commerce_str("api");

    if (ngx_commerce_token_claims(&alloc, &token, &policy, claims, &why)
        == NGX_COMMERCE_OK)
    {
        return NULL;
    }

    assert_non_null(why);

    return why;
}


static const char *
claims_of(const char *payload)
{
    ngx_commerce_token_claims_t  claims;

    return read_claims(payload, &claims);
}


static void
opens(void **state)
{
    char                  text[1024];
    ngx_commerce_token_t  token;

    snprintf(text, sizeof(text), "%s.%s.%s",
             encode("{\"alg\":\"ES256\",\"typ\":\"application/AT+JWT\","
                    "\"kid\":\"2026-11\",\"jku\":\"https://evil.example\"}"),
             encode("{\"a\":1}"), encode("xyz"));

    assert_null(open_text(text, &token));
    assert_int_equal(token.alg, NGX_COMMERCE_TOKEN_ES256);
    assert_int_equal(token.kid.len, 7);
    assert_memory_equal(token.kid.data, "2026-11", 7);
    assert_int_equal(token.payload.len, 7);
    assert_memory_equal(token.payload.data, "{\"a\":1}", 7);
    assert_int_equal(token.signature.len, 3);
    assert_memory_equal(token.signature.data, "xyz", 3);
    assert_ptr_equal(token.input.data, text);
    assert_int_equal(token.input.len, strrchr(text, '.') - text);
}


static void
shapes(void **state)
{
    char                  text[1024], *h, *p, *s, *big;
    ngx_commerce_token_t  token;

    h = encode(HEADER);
    p = encode("{}");
    s = encode("sig");

    assert_non_null(open_text("", &token));
    assert_non_null(open_text("a", &token));
    assert_non_null(open_text("..", &token));

    snprintf(text, sizeof(text), "%s.%s", h, p);
    assert_non_null(open_text(text, &token));

    snprintf(text, sizeof(text), "%s.%s.", h, p);
    assert_non_null(open_text(text, &token));

    snprintf(text, sizeof(text), ".%s.%s", p, s);
    assert_non_null(open_text(text, &token));

    snprintf(text, sizeof(text), "%s.%s.%s.%s.%s", h, p, s, s, s);
    assert_non_null(open_text(text, &token));

    snprintf(text, sizeof(text), "%s.%s.%s ", h, p, s);
    assert_non_null(open_text(text, &token));

    big = take(NULL, NGX_COMMERCE_TOKEN_MAX + 2);
    memset(big, 'A', NGX_COMMERCE_TOKEN_MAX + 1);
    big[NGX_COMMERCE_TOKEN_MAX + 1] = '\0';
    big[4] = '.';
    big[8] = '.';
    assert_string_equal(open_text(big, &token), "token too long");
}


/* One token has one spelling: padding, the other alphabet, loose bits and line breaks make another. */

static void
base64(void **state)
{
    char                  text[1024], *h, *p;
    unsigned              i;
    ngx_commerce_token_t  token;
    static const char    *bad[] = {
        "c2ln=", "c2k=", "c2ln\n", "c2+n", "c2/n", "c2 n",
        "c2lnA",                        /* a lone character */
        "c2l", "cx",                    /* bits behind the last byte */
        NULL
    };

    h = encode(HEADER);
    p = encode("{}");

    snprintf(text, sizeof(text), "%s.%s.c2ln", h, p);
    assert_null(open_text(text, &token));

    snprintf(text, sizeof(text), "%s.%s.c2k", h, p);
    assert_null(open_text(text, &token));

    for (i = 0; bad[i] != NULL; i++) {
        snprintf(text, sizeof(text), "%s.%s.%s", h, p, bad[i]);

        if (open_text(text, &token) == NULL) {
            fail_msg("accepted signature \"%s\"", bad[i]);
        }
    }
}


static void
headers(void **state)
{
    unsigned            i;
    static const char  *bad[] = {
        /* alg */
        "{\"alg\":\"none\",\"typ\":\"at+jwt\",\"kid\":\"k1\"}",
        "{\"alg\":\"None\",\"typ\":\"at+jwt\",\"kid\":\"k1\"}",
        "{\"alg\":\"NONE\",\"typ\":\"at+jwt\",\"kid\":\"k1\"}",
        "{\"alg\":\"nOnE\",\"typ\":\"at+jwt\",\"kid\":\"k1\"}",
        "{\"alg\":\"\",\"typ\":\"at+jwt\",\"kid\":\"k1\"}",
        "{\"alg\":\"hs256\",\"typ\":\"at+jwt\",\"kid\":\"k1\"}",
        "{\"alg\":\"HS256 \",\"typ\":\"at+jwt\",\"kid\":\"k1\"}",
        "{\"alg\":\"HS384\",\"typ\":\"at+jwt\",\"kid\":\"k1\"}",
        "{\"alg\":\"PS256\",\"typ\":\"at+jwt\",\"kid\":\"k1\"}",
        "{\"alg\":\"EdDSA\",\"typ\":\"at+jwt\",\"kid\":\"k1\"}",
        "{\"alg\":null,\"typ\":\"at+jwt\",\"kid\":\"k1\"}",
        "{\"alg\":[\"HS256\"],\"typ\":\"at+jwt\",\"kid\":\"k1\"}",
        "{\"alg\":256,\"typ\":\"at+jwt\",\"kid\":\"k1\"}",
        "{\"typ\":\"at+jwt\",\"kid\":\"k1\"}",
        "{\"alg\":\"HS256\",\"alg\":\"none\",\"typ\":\"at+jwt\",\"kid\":\"k1\"}",
        "{\"alg\":\"none\",\"alg\":\"HS256\",\"typ\":\"at+jwt\",\"kid\":\"k1\"}",
        /* the same name, spelled with an escape */
        "{\"alg\":\"HS256\",\"\\u0061lg\":\"none\",\"typ\":\"at+jwt\",\"kid\":\"k1\"}",
        /* typ */
        "{\"alg\":\"HS256\",\"kid\":\"k1\"}",
        "{\"alg\":\"HS256\",\"typ\":\"JWT\",\"kid\":\"k1\"}",
        "{\"alg\":\"HS256\",\"typ\":\"at+jwtx\",\"kid\":\"k1\"}",
        "{\"alg\":\"HS256\",\"typ\":[],\"kid\":\"k1\"}",
        /* kid */
        "{\"alg\":\"HS256\",\"typ\":\"at+jwt\"}",
        "{\"alg\":\"HS256\",\"typ\":\"at+jwt\",\"kid\":\"\"}",
        "{\"alg\":\"HS256\",\"typ\":\"at+jwt\",\"kid\":1}",
        /* crit, in any form */
        "{\"alg\":\"HS256\",\"typ\":\"at+jwt\",\"kid\":\"k1\",\"crit\":[\"exp\"]}",
        "{\"alg\":\"HS256\",\"typ\":\"at+jwt\",\"kid\":\"k1\",\"crit\":[]}",
        "{\"alg\":\"HS256\",\"typ\":\"at+jwt\",\"kid\":\"k1\",\"crit\":null}",
        /* no object, no strict JSON */
        "[]", "\"HS256\"", "null", "{", "{}{}", "{\"alg\":\"HS256\",}",
        "\xef\xbb\xbf" HEADER,
        "{\"alg\":\"HS256\",\"typ\":\"at+jwt\",\"kid\":\"k\xff\"}",
        "{\"alg\":\"HS256\",\"typ\":\"at+jwt\",\"kid\":\"k1\\u0000\"}",
        NULL
    };

    assert_null(open_header(HEADER));

    for (i = 0; bad[i] != NULL; i++) {
        if (open_header(bad[i]) == NULL) {
            fail_msg("accepted header %s", bad[i]);
        }
    }
}


static void
times(void **state)
{
    unsigned            i;
    static const char  *good[] = {
        TIMES,
        "\"exp\":1699999941,\"iat\":1699999000",            /* in the leeway */
        "\"exp\":1700000900,\"iat\":1700000060",
        "\"exp\":1700000900,\"iat\":1700000000,\"nbf\":1700000060",
        "\"exp\":9007199254740991,\"iat\":0",
        NULL
    };
    static const char  *bad[] = {
        "\"iat\":1700000000",
        "\"exp\":1700000900",
        "\"exp\":1699999940,\"iat\":1699999000",
        "\"exp\":\"1700000900\",\"iat\":1700000000",
        "\"exp\":1700000900.5,\"iat\":1700000000",
        "\"exp\":17000009e2,\"iat\":1700000000",
        "\"exp\":null,\"iat\":1700000000",
        "\"exp\":true,\"iat\":1700000000",
        "\"exp\":[1700000900],\"iat\":1700000000",
        "\"exp\":-1,\"iat\":1700000000",
        "\"exp\":0,\"iat\":0",
        "\"exp\":9223372036854775808,\"iat\":1700000000",
        "\"exp\":1e999,\"iat\":1700000000",
        "\"exp\":1700000900,\"iat\":1700000061",
        "\"exp\":1700000900,\"iat\":\"1700000000\"",
        "\"exp\":1700000900,\"iat\":-5",
        "\"exp\":1700000900,\"iat\":1700000000,\"nbf\":1700000061",
        "\"exp\":1700000900,\"iat\":1700000000,\"nbf\":\"1\"",
        "\"exp\":1700000900,\"iat\":1700000000,\"nbf\":null",
        "\"exp\":1,\"exp\":1700000900,\"iat\":1700000000",
        NULL
    };
    char  payload[1024];

    for (i = 0; good[i] != NULL; i++) {
        snprintf(payload, sizeof(payload), "{" BASE ",%s}", good[i]);

        if (claims_of(payload) != NULL) {
            fail_msg("refused %s: %s", payload, claims_of(payload));
        }
    }

    for (i = 0; bad[i] != NULL; i++) {
        snprintf(payload, sizeof(payload), "{" BASE ",%s}", bad[i]);

        if (claims_of(payload) == NULL) {
            fail_msg("accepted %s", payload);
        }
    }
}


static void
parties(void **state)
{
    unsigned            i;
    static const char  *bad[] = {
        "\"aud\":\"api\",\"sub\":\"" SUB "\"",
        "\"iss\":\"shop2\",\"aud\":\"api\",\"sub\":\"" SUB "\"",
        "\"iss\":\"sho\",\"aud\":\"api\",\"sub\":\"" SUB "\"",
        "\"iss\":\"Shop\",\"aud\":\"api\",\"sub\":\"" SUB "\"",
        "\"iss\":[\"shop\"],\"aud\":\"api\",\"sub\":\"" SUB "\"",
        "\"iss\":null,\"aud\":\"api\",\"sub\":\"" SUB "\"",
        "\"iss\":\"evil\",\"iss\":\"shop\",\"aud\":\"api\",\"sub\":\"" SUB "\"",
        "\"iss\":\"shop\",\"sub\":\"" SUB "\"",
        "\"iss\":\"shop\",\"aud\":\"api2\",\"sub\":\"" SUB "\"",
        "\"iss\":\"shop\",\"aud\":[],\"sub\":\"" SUB "\"",
        "\"iss\":\"shop\",\"aud\":[\"a\",\"b\"],\"sub\":\"" SUB "\"",
        "\"iss\":\"shop\",\"aud\":[\"api\",1],\"sub\":\"" SUB "\"",
        "\"iss\":\"shop\",\"aud\":[[\"api\"]],\"sub\":\"" SUB "\"",
        "\"iss\":\"shop\",\"aud\":{\"api\":1},\"sub\":\"" SUB "\"",
        "\"iss\":\"shop\",\"aud\":null,\"sub\":\"" SUB "\"",
        "\"iss\":\"shop\",\"aud\":\"x\",\"aud\":\"api\",\"sub\":\"" SUB "\"",
        NULL
    };
    char  payload[1024];

    assert_null(claims_of("{" BASE "," TIMES "}"));
    assert_null(claims_of("{\"iss\":\"shop\",\"aud\":[\"other\",\"api\"],"
                          "\"sub\":\"" SUB "\"," TIMES "}"));

    for (i = 0; bad[i] != NULL; i++) {
        snprintf(payload, sizeof(payload), "{%s," TIMES "}", bad[i]);

        if (claims_of(payload) == NULL) {
            fail_msg("accepted %s", payload);
        }
    }
}


static void
ids(void **state)
{
    unsigned                      i;
    static const char            *bad[] = {
        "\"tid\":1",
        "\"tid\":\"\"",
        "\"tid\":\"0\"",
        "\"tid\":\"01\"",
        "\"tid\":\"-1\"",
        "\"tid\":\" 1\"",
        "\"tid\":\"1 \"",
        "\"tid\":\"1e3\"",
        "\"tid\":\"0x1\"",
        "\"tid\":\"9999999999999999999\"",
        "\"tid\":null",
        "\"tid\":[\"1\"]",
        "\"tid\":\"1\",\"tid\":\"2\"",
        "\"sid\":\"session\"",
        "\"sid\":1",
        "\"sub\":\"" SUB "\"",
        NULL
    };
    static const char            *subs[] = {
        "\"admin\"", "1", "\"\"", "null", "[\"" SUB "\"]",
        "\"" SUB "x\"", "\"0190a5c4_7b1e_7c3a_9f10_2b8c6d4e5f60\"", NULL
    };
    char                          payload[1024];
    ngx_commerce_token_claims_t   claims;

    assert_null(read_claims("{" BASE "," TIMES ",\"tid\":\"42\",\"sid\":\""
                            SID "\",\"future\":{\"x\":[1]}}", &claims));
    assert_int_equal(claims.subject.len, 36);
    assert_memory_equal(claims.subject.data, SUB, 36);
    assert_int_equal(claims.tenant_id.len, 2);
    assert_memory_equal(claims.tenant_id.data, "42", 2);
    assert_memory_equal(claims.session.data, SID, 36);
    assert_int_equal(claims.expires, 1700000900);
    assert_int_equal(claims.roles.len, 0);

    for (i = 0; bad[i] != NULL; i++) {
        snprintf(payload, sizeof(payload), "{" BASE "," TIMES ",%s}", bad[i]);

        if (claims_of(payload) == NULL) {
            fail_msg("accepted %s", payload);
        }
    }

    for (i = 0; subs[i] != NULL; i++) {
        snprintf(payload, sizeof(payload),
                 "{\"iss\":\"shop\",\"aud\":\"api\",\"sub\":%s," TIMES "}",
                 subs[i]);

        if (claims_of(payload) == NULL) {
            fail_msg("accepted sub %s", subs[i]);
        }
    }
}


static void
roles(void **state)
{
    char                         *payload;
    unsigned                      i;
    static const char            *bad[] = {
        "\"roles\":\"staff\"",
        "\"roles\":[\"customer staff\"]",
        "\"roles\":[\"\"]",
        "\"roles\":[1]",
        "\"roles\":[\"Staff\"]",
        "\"roles\":[\"sta\\u0066f\\n\"]",
        "\"roles\":null",
        "\"roles\":{\"staff\":true}",
        "\"roles\":[\"customer\"],\"roles\":[\"staff\"]",
        "\"scope\":[\"catalog.read\"]",
        "\"scope\":\"catalog.read  orders.read\"",
        "\"scope\":\" catalog.read\"",
        "\"scope\":\"catalog.read \"",
        "\"scope\":\"catalog.read,orders.read\"",
        NULL
    };
    ngx_commerce_token_claims_t   claims;

    assert_null(read_claims("{" BASE "," TIMES ",\"roles\":[\"staff\","
                            "\"customer\"],\"scope\":\"catalog.read "
                            "catalog.write\"}", &claims));
    assert_int_equal(claims.roles.len,
                     strlen("staff customer catalog.read catalog.write"));
    assert_memory_equal(claims.roles.data,
                        "staff customer catalog.read catalog.write",
                        claims.roles.len);

    assert_null(read_claims("{" BASE "," TIMES ",\"roles\":[],\"scope\":\"\"}",
                            &claims));
    assert_int_equal(claims.roles.len, 0);

    payload = take(NULL, 8192);

    for (i = 0; bad[i] != NULL; i++) {
        snprintf(payload, 8192, "{" BASE "," TIMES ",%s}", bad[i]);

        if (claims_of(payload) == NULL) {
            fail_msg("accepted %s", payload);
        }
    }

    /* more than the joined roles have room for */

    strcpy(payload, "{" BASE "," TIMES ",\"scope\":\"a.a");

    for (i = 0; i < 200; i++) {
        strcat(payload, " a.b");
    }

    strcat(payload, "\"}");
    assert_non_null(claims_of(payload));
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test_teardown(opens, give_back),
        cmocka_unit_test_teardown(shapes, give_back),
        cmocka_unit_test_teardown(base64, give_back),
        cmocka_unit_test_teardown(headers, give_back),
        cmocka_unit_test_teardown(times, give_back),
        cmocka_unit_test_teardown(parties, give_back),
        cmocka_unit_test_teardown(ids, give_back),
        cmocka_unit_test_teardown(roles, give_back)
    };

    return cmocka_run_group_tests_name("token", tests, NULL, NULL);
}
