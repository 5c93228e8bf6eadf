/*
 * Bearer tokens: header → cache → shape → key → signature → claims.
 */

#include "ngx_commerce_auth_internal.h"


static ngx_int_t ngx_commerce_auth_bearer(ngx_http_request_t *r,
    ngx_str_t *token);
static ngx_int_t ngx_commerce_auth_check(ngx_http_request_t *r,
    ngx_commerce_auth_main_conf_t *amcf, ngx_str_t *token,
    ngx_commerce_principal_t *principal, const char **why);
static ngx_uint_t ngx_commerce_auth_contains(ngx_str_t *roles, u_char *name,
    size_t len);
static void *ngx_commerce_auth_alloc(void *ctx, size_t size);


ngx_int_t
ngx_commerce_auth_verify(ngx_http_request_t *r,
    ngx_commerce_principal_t *principal, const char **why)
{
    u_char                          digest[32];
    ngx_int_t                       rc;
    ngx_str_t                       token;
    ngx_uint_t                      cached;
    ngx_commerce_auth_main_conf_t  *amcf;

    *why = "";
    ngx_memzero(principal, sizeof(ngx_commerce_principal_t));

    if (ngx_commerce_auth_bearer(r, &token) != NGX_OK) {
        return NGX_DECLINED;
    }

    if (token.len == 0 || token.len > NGX_COMMERCE_TOKEN_MAX) {
        *why = token.len ? "token too long" : "empty token";
        return NGX_ERROR;
    }

    amcf = ngx_http_get_module_main_conf(r, ngx_commerce_auth_module);

    cached = (ngx_commerce_auth_cache_digest(&token, digest) == NGX_OK);

    if (cached) {
        rc = ngx_commerce_auth_cache_get(digest, amcf->generation, principal,
                                         r->pool);
        if (rc == NGX_OK) {
            return NGX_OK;
        }
    }

    rc = ngx_commerce_auth_check(r, amcf, &token, principal, why);

    if (rc != NGX_OK) {
        ngx_memzero(principal, sizeof(ngx_commerce_principal_t));
        return NGX_ERROR;
    }

    if (cached) {
        ngx_commerce_auth_cache_put(digest, amcf->generation, principal);
    }

    return NGX_OK;
}


ngx_uint_t
ngx_commerce_auth_has(ngx_commerce_principal_t *principal, ngx_str_t *name)
{
    if (principal->owner
        && ngx_strlchr(name->data, name->data + name->len, '.') != NULL)
    {
        return 1;
    }

    return ngx_commerce_auth_contains(&principal->roles, name->data,
                                      name->len);
}


/* Another scheme is not ours to judge: NGX_DECLINED, as without the header. */

static ngx_int_t
ngx_commerce_auth_bearer(ngx_http_request_t *r, ngx_str_t *token)
{
    u_char     *p, *end;
    ngx_str_t  *value;

    if (r->headers_in.authorization == NULL) {
        return NGX_DECLINED;
    }

    value = &r->headers_in.authorization->value;

    if (value->len < sizeof("Bearer") - 1
        || ngx_strncasecmp(value->data, (u_char *) "Bearer",
                           sizeof("Bearer") - 1) != 0)
    {
        return NGX_DECLINED;
    }

    p = value->data + sizeof("Bearer") - 1;
    end = value->data + value->len;

    if (p < end && *p != ' ') {
        return NGX_DECLINED;
    }

    while (p < end && *p == ' ') {
        p++;
    }

    token->data = p;
    token->len = end - p;

    return NGX_OK;
}


static ngx_int_t
ngx_commerce_auth_check(ngx_http_request_t *r,
    ngx_commerce_auth_main_conf_t *amcf, ngx_str_t *text,
    ngx_commerce_principal_t *principal, const char **why)
{
    ngx_int_t                     rc;
    ngx_commerce_str_t            input;
    ngx_commerce_token_t          token;
    ngx_commerce_alloc_t          alloc;
    ngx_commerce_auth_key_t      *key;
    ngx_commerce_token_claims_t   claims;
    ngx_commerce_token_policy_t   policy;

    alloc.alloc = ngx_commerce_auth_alloc;
    alloc.ctx = r->pool;

    input.data = text->data;
    input.len = text->len;

    *why = "no memory";

    if (ngx_commerce_token_open(&alloc, input, &token, why)
        != NGX_COMMERCE_OK)
    {
        return NGX_ERROR;
    }

    key = ngx_commerce_auth_key_find(amcf, &token.kid, token.alg);
    if (key == NULL) {
        *why = "no key with this kid and alg";
        return NGX_ERROR;
    }

    rc = ngx_commerce_auth_key_verify(key, &token);
    if (rc != NGX_OK) {
        *why = (rc == NGX_DECLINED) ? "bad signature" : "libcrypto failed";
        return NGX_ERROR;
    }

    policy.now = ngx_time();
    policy.leeway = NGX_COMMERCE_AUTH_LEEWAY;
    policy.issuer.data = amcf->issuer.data;
    policy.issuer.len = amcf->issuer.len;
    policy.audience.data = amcf->audience.data;
    policy.audience.len = amcf->audience.len;

    *why = "no memory";

    if (ngx_commerce_token_claims(&alloc, &token, &policy, &claims, why)
        != NGX_COMMERCE_OK)
    {
        return NGX_ERROR;
    }

    *why = "";

    principal->subject.data = claims.subject.data;
    principal->subject.len = claims.subject.len;
    principal->tenant_id.data = claims.tenant_id.data;
    principal->tenant_id.len = claims.tenant_id.len;
    principal->session.data = claims.session.data;
    principal->session.len = claims.session.len;
    principal->roles.data = claims.roles.data;
    principal->roles.len = claims.roles.len;
    principal->expires = claims.expires;

    principal->customer = ngx_commerce_auth_contains(&principal->roles,
                                           (u_char *) "customer", 8);
    principal->owner = ngx_commerce_auth_contains(&principal->roles,
                                           (u_char *) "owner", 5);
    principal->staff = principal->owner
                       || ngx_commerce_auth_contains(&principal->roles,
                                           (u_char *) "staff", 5);
    principal->service = ngx_commerce_auth_contains(&principal->roles,
                                           (u_char *) "service", 7);

    return NGX_OK;
}


static ngx_uint_t
ngx_commerce_auth_contains(ngx_str_t *roles, u_char *name, size_t len)
{
    u_char  *p, *end, *space;

    p = roles->data;
    end = p + roles->len;

    while (p < end) {
        space = ngx_strlchr(p, end, ' ');

        if (space == NULL) {
            space = end;
        }

        if ((size_t) (space - p) == len && ngx_memcmp(p, name, len) == 0) {
            return 1;
        }

        p = space + 1;
    }

    return 0;
}


static void *
ngx_commerce_auth_alloc(void *ctx, size_t size)
{
    return ngx_palloc(ctx, size);
}
