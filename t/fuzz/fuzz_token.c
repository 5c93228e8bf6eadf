/*
 * libFuzzer target: access tokens.  The first byte says what the rest is: a
 * whole token, a header, or a payload.  What is accepted must hold what the
 * reader promises.
 */

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "ngx_commerce_codec.h"
#include "ngx_commerce_token.h"


#define ROOM  (4 << 20)


typedef struct {
    size_t   used;
    _Alignas(16) uint8_t  data[ROOM];
} arena_t;


static void *
take(void *ctx, size_t size)
{
    uint8_t  *p;
    arena_t  *arena = ctx;

    size = (size + 15) & ~(size_t) 15;

    if (size > ROOM - arena->used) {
        return NULL;
    }

    p = arena->data + arena->used;
    arena->used += size;

    return p;
}


static void
check(const ngx_commerce_token_claims_t *claims)
{
    const uint8_t  *p, *end, *space;

    assert(ngx_commerce_uuid_valid(claims->subject.data, claims->subject.len));
    assert(claims->expires > 0);
    assert(claims->roles.len <= NGX_COMMERCE_TOKEN_ROLES);
    assert(claims->tenant_id.len == 0
           || ngx_commerce_token_tenant_valid(claims->tenant_id.data,
                                              claims->tenant_id.len));

    p = claims->roles.data;
    end = p + claims->roles.len;

    while (p < end) {
        space = memchr(p, ' ', end - p);
        space = (space != NULL) ? space : end;
        assert(ngx_commerce_token_role_valid(p, space - p));
        p = space + 1;
    }
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static arena_t  arena;

    static const char  header[] =
        "{\"alg\":\"HS256\",\"typ\":\"at+jwt\",\"kid\":\"k1\"}";

    uint8_t                      *p, mode;
    const char                   *why = NULL;
    ngx_commerce_rc_t             rc;
    ngx_commerce_str_t            text;
    ngx_commerce_alloc_t          alloc = { take, &arena };
    ngx_commerce_token_t          token;
    ngx_commerce_token_policy_t   policy;
    ngx_commerce_token_claims_t   claims;

    if (size == 0) {
        return 0;
    }

    arena.used = 0;
    mode = data[0] % 3;
    data++;
    size--;

    text.data = take(&arena, size * 2 + 256);
    if (text.data == NULL) {
        return 0;
    }

    p = text.data;

    switch (mode) {

    case 0:
        memcpy(p, data, size);
        p += size;
        break;

    case 1:
        p += ngx_commerce_base64url_encode(p, data, size);
        memcpy(p, ".e30.c2ln", 9);
        p += 9;
        break;

    default:
        p += ngx_commerce_base64url_encode(p, (const uint8_t *) header,
                                           sizeof(header) - 1);
        *p++ = '.';
        p += ngx_commerce_base64url_encode(p, data, size);
        memcpy(p, ".c2ln", 5);
        p += 5;
    }

    text.len = p - text.data;

    rc = ngx_commerce_token_open(&alloc, text, &token, &why);

    if (rc != NGX_COMMERCE_OK) {
        assert(rc == NGX_COMMERCE_NOMEM || why != NULL);
        return 0;
    }

    assert(token.kid.len != 0 && token.alg < NGX_COMMERCE_TOKEN_ALGS);
    assert(token.input.data == text.data && token.input.len < text.len
           && text.data[token.input.len] == '.');

    policy.now = 1700000000;
    policy.leeway = 60;
    policy.issuer = ngx_commerce_str("shop");
    policy.audience = ngx_commerce_str("api");

    rc = ngx_commerce_token_claims(&alloc, &token, &policy, &claims, &why);

    if (rc == NGX_COMMERCE_OK) {
        check(&claims);

    } else {
        assert(rc == NGX_COMMERCE_NOMEM || why != NULL);
    }

    return 0;
}
