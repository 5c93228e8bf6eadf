/*
 * Bearer tokens: header → cache → shape → key → signature → claims.
 */

#include "ngx_commerce_auth_internal.h"
#include "ngx_commerce_pool.h"


static void ngx_commerce_auth_judge(ngx_http_request_t *r,
    ngx_commerce_auth_ctx_t *ctx);
static void ngx_commerce_auth_kept(void *data);
static ngx_int_t ngx_commerce_auth_bearer(ngx_http_request_t *r,
    ngx_str_t *token, const char **why);
static ngx_table_elt_t *ngx_commerce_auth_second(ngx_http_request_t *r);
static ngx_uint_t ngx_commerce_auth_endless(ngx_http_request_t *r);
static ngx_int_t ngx_commerce_auth_check(ngx_http_request_t *r,
    ngx_commerce_auth_main_conf_t *amcf, ngx_str_t *token,
    ngx_commerce_principal_t *principal, const char **why);
static ngx_uint_t ngx_commerce_auth_contains(ngx_str_t *roles, u_char *name,
    size_t len);


ngx_int_t
ngx_commerce_auth_verify(ngx_http_request_t *r,
    ngx_commerce_principal_t *principal, const char **why)
{
    ngx_commerce_auth_ctx_t  *ctx;

    ctx = ngx_commerce_auth_get(r);

    if (ctx == NULL) {
        ngx_memzero(principal, sizeof(ngx_commerce_principal_t));
        *why = "no memory";
        return NGX_ERROR;
    }

    *principal = ctx->principal;
    *why = ctx->why;

    return ctx->rc;
}


const ngx_commerce_principal_t *
ngx_commerce_auth_principal(ngx_http_request_t *r)
{
    ngx_commerce_auth_ctx_t       *ctx;
    ngx_commerce_auth_loc_conf_t  *alcf;

    ctx = ngx_commerce_auth_found(r);

    if (ctx == NULL) {
        alcf = ngx_http_get_module_loc_conf(r, ngx_commerce_auth_module);

        if (alcf->mode == NGX_COMMERCE_AUTH_OFF) {
            return NULL;
        }

        ctx = ngx_commerce_auth_get(r);
    }

    return (ctx != NULL && ctx->rc == NGX_OK) ? &ctx->principal : NULL;
}


ngx_uint_t
ngx_commerce_auth_refused(ngx_http_request_t *r)
{
    ngx_commerce_auth_ctx_t  *ctx;

    if ((r->headers_in.authorization == NULL
         || ngx_commerce_auth_second(r) == NULL)
        && !ngx_commerce_auth_endless(r))
    {
        return 0;
    }

    ctx = ngx_commerce_auth_get(r);

    if (ctx != NULL) {
        ctx->rc = NGX_ERROR;
    }

    return 1;
}


/*
 * An internal redirect drops the contexts of all modules, a subrequest begins
 * without: the verdict on the same header is found at the pool's cleanups.
 */

ngx_commerce_auth_ctx_t *
ngx_commerce_auth_found(ngx_http_request_t *r)
{
    ngx_pool_cleanup_t       *cln;
    ngx_commerce_auth_ctx_t  *ctx;

    ctx = ngx_http_get_module_ctx(r, ngx_commerce_auth_module);

    if (ctx != NULL || (!r->internal && r == r->main)) {
        return ctx;
    }

    for (cln = r->pool->cleanup; cln != NULL; cln = cln->next) {

        if (cln->handler == ngx_commerce_auth_kept) {
            ctx = cln->data;
            ngx_http_set_ctx(r, ctx, ngx_commerce_auth_module);
            break;
        }
    }

    return ctx;
}


ngx_commerce_auth_ctx_t *
ngx_commerce_auth_get(ngx_http_request_t *r)
{
    ngx_pool_cleanup_t       *cln;
    ngx_commerce_auth_ctx_t  *ctx;

    ctx = ngx_commerce_auth_found(r);

    if (ctx != NULL) {
        return ctx;
    }

    cln = ngx_pool_cleanup_add(r->pool, sizeof(ngx_commerce_auth_ctx_t));
    if (cln == NULL) {
        return NULL;
    }

    ctx = cln->data;
    ngx_memzero(ctx, sizeof(ngx_commerce_auth_ctx_t));
    cln->handler = ngx_commerce_auth_kept;

    ngx_commerce_auth_judge(r, ctx);

    ngx_http_set_ctx(r, ctx, ngx_commerce_auth_module);

    return ctx;
}


/* Only a mark: the pool's memory goes with it. */

static void
ngx_commerce_auth_kept(void *data)
{
    /* void */
}


static void
ngx_commerce_auth_judge(ngx_http_request_t *r, ngx_commerce_auth_ctx_t *ctx)
{
    uint64_t                        verdict;
    ngx_commerce_auth_entry_t      *e;
    ngx_commerce_auth_main_conf_t  *amcf;

    ctx->why = "no token";
    ctx->rc = ngx_commerce_auth_bearer(r, &ctx->token, &ctx->why);

    if (ctx->rc != NGX_OK) {
        return;
    }

    amcf = ngx_http_get_module_main_conf(r, ngx_commerce_auth_module);

    if (amcf->deny == NULL) {
        ctx->why = "no commerce_jwt_key is configured";
        ctx->rc = NGX_ERROR;
        return;
    }

    e = ngx_commerce_auth_cache_find(&ctx->token, amcf->generation);

    if (e != NULL) {

        ctx->rc = ngx_commerce_auth_cache_copy(e, &ctx->principal, r->pool);

        if (ctx->rc == NGX_OK
            && ngx_commerce_auth_revoked(amcf, &ctx->principal,
                                         ngx_commerce_auth_cache_verdict(e))
               != NGX_OK)
        {
            ngx_commerce_auth_cache_drop(e);
            ctx->why = NGX_COMMERCE_AUTH_REVOKED;
            ctx->rc = NGX_ERROR;
        }

    } else {

        verdict = 0;
        ctx->rc = ngx_commerce_auth_check(r, amcf, &ctx->token,
                                          &ctx->principal, &ctx->why);

        if (ctx->rc == NGX_OK
            && ngx_commerce_auth_revoked(amcf, &ctx->principal, &verdict)
               != NGX_OK)
        {
            ctx->why = NGX_COMMERCE_AUTH_REVOKED;
            ctx->rc = NGX_ERROR;
        }

        if (ctx->rc == NGX_OK) {
            ngx_commerce_auth_cache_put(&ctx->token, amcf->generation,
                                        &ctx->principal, verdict);
        }
    }

    if (ctx->rc != NGX_OK) {
        ngx_memzero(&ctx->principal, sizeof(ngx_commerce_principal_t));
        return;
    }

    ctx->why = "";
}


ngx_uint_t
ngx_commerce_auth_has(ngx_commerce_principal_t *principal, ngx_str_t *name)
{
    if (principal->owner
        && ngx_strlchr(name->data, name->data + name->len, '.') != NULL)
    {
        return 1;
    }

    return ngx_commerce_auth_listed(&principal->roles, name);
}


ngx_uint_t
ngx_commerce_auth_listed(ngx_str_t *list, ngx_str_t *name)
{
    return ngx_commerce_auth_contains(list, name->data, name->len);
}


ngx_commerce_json_t *
ngx_commerce_auth_claim(ngx_http_request_t *r, ngx_commerce_auth_ctx_t *ctx,
    ngx_str_t *name)
{
    ngx_commerce_str_t    token;
    ngx_commerce_alloc_t  alloc;

    if (ctx->rc != NGX_OK) {
        return NULL;
    }

    if (ctx->claims == NULL) {
        alloc = ngx_commerce_pool_alloc(r->pool);

        token.data = ctx->token.data;
        token.len = ctx->token.len;

        if (ngx_commerce_token_payload(&alloc, token, &ctx->claims)
            != NGX_COMMERCE_OK)
        {
            ctx->claims = NULL;
            return NULL;
        }
    }

    return ngx_commerce_json_get_n(ctx->claims, name->data, name->len);
}


/* Another scheme is not ours to judge: NGX_DECLINED, as without the header. */

static ngx_int_t
ngx_commerce_auth_bearer(ngx_http_request_t *r, ngx_str_t *token,
    const char **why)
{
    u_char     *p, *end;
    ngx_str_t  *value;

    if (r->headers_in.authorization == NULL) {
        return NGX_DECLINED;
    }

    if (ngx_commerce_auth_second(r) != NULL) {
        *why = "two Authorization headers";
        return NGX_ERROR;
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

    if (token->len == 0 || token->len > NGX_COMMERCE_TOKEN_MAX) {
        *why = token->len ? "token too long" : "empty token";
        return NGX_ERROR;
    }

    return NGX_OK;
}


/* nginx takes the first of several and keeps them all in its list; a backend may take the last. */

static ngx_table_elt_t *
ngx_commerce_auth_second(ngx_http_request_t *r)
{
    ngx_uint_t        i, hash;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *h;

    hash = r->headers_in.authorization->hash;

    for (part = &r->headers_in.headers.part; part; part = part->next) {
        h = part->elts;

        for (i = 0; i < part->nelts; i++) {

            if (h[i].hash == hash && &h[i] != r->headers_in.authorization
                && h[i].key.len == sizeof("authorization") - 1
                && ngx_strncmp(h[i].lowcase_key, "authorization",
                               sizeof("authorization") - 1)
                   == 0)
            {
                return &h[i];
            }
        }
    }

    return NULL;
}


/*
 * Is Authorization the header line for which nginx had no buffer?  Then it has
 * read all of the last one and is still within the line.  Over HTTP/2 there are
 * no lines.
 */

static ngx_uint_t
ngx_commerce_auth_endless(ngx_http_request_t *r)
{
    u_char  *p;

    p = r->header_name_start;

    return p != NULL && r->header_in != NULL
           && r->header_in->pos == r->header_in->end
           && p >= r->header_in->start
           && r->header_in->end - p > (ssize_t) sizeof("Authorization:") - 1
           && ngx_strncasecmp(p, (u_char *) "Authorization:",
                              sizeof("Authorization:") - 1)
              == 0;
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

    alloc = ngx_commerce_pool_alloc(r->pool);

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
    principal->issued = claims.issued;
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
