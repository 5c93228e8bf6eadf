/*
 * Native steps for tenants: API keys, which SQL never sees, and the token with
 * which the platform's staff act in a tenant.
 */

#include "ngx_commerce_http.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>


#define NGX_COMMERCE_KEY_BYTES    32
#define NGX_COMMERCE_KEY_LEN      (3 + 43)  /* "sk_", the bytes in base64url */
#define NGX_COMMERCE_KEY_PREFIX   8
#define NGX_COMMERCE_ACTING_TIME  300       /* s */


static ngx_int_t ngx_commerce_native_api_key_mint(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step);
static ngx_int_t ngx_commerce_native_acting_token(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step);


const ngx_commerce_native_t  ngx_commerce_natives_tenant[] = {

    { ngx_string("api_key_mint"), ngx_commerce_native_api_key_mint, NULL },
    { ngx_string("acting_token"), ngx_commerce_native_acting_token, NULL },
    { ngx_null_string, NULL, NULL }
};


/* kind → {"key","key_hash","key_prefix"}: 256 random bits, and what is stored of them */

static ngx_int_t
ngx_commerce_native_api_key_mint(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step)
{
    u_char     *p, random[NGX_COMMERCE_KEY_BYTES],
                digest[SHA256_DIGEST_LENGTH];
    ngx_str_t   body, key, prefix, *kind;

    kind = ngx_commerce_scope_get(c, "kind");

    if (kind == NULL) {
        return ngx_commerce_problem_internal(c);
    }

    body.data = ngx_pnalloc(c->request->pool,
                            sizeof("{\"key\":\"\",\"key_prefix\":\"\","
                                   "\"key_hash\":\"\"}")
                            + NGX_COMMERCE_KEY_LEN + NGX_COMMERCE_KEY_PREFIX
                            + 2 * SHA256_DIGEST_LENGTH);
    if (body.data == NULL) {
        return NGX_ERROR;
    }

    ngx_commerce_random(random, sizeof(random));

    p = ngx_cpymem(body.data, "{\"key\":\"", sizeof("{\"key\":\"") - 1);

    key.data = p;
    p = ngx_cpymem(p, kind->data[0] == 's' ? "sk_" : "pk_", 3);
    p += ngx_commerce_base64url_encode(p, random, sizeof(random));
    key.len = p - key.data;

    SHA256(key.data, key.len, digest);
    OPENSSL_cleanse(random, sizeof(random));

    prefix.data = key.data;
    prefix.len = NGX_COMMERCE_KEY_PREFIX;

    p = ngx_sprintf(p, "\",\"key_prefix\":\"%V\",\"key_hash\":\"", &prefix);
    ngx_commerce_hex(p, digest, sizeof(digest));
    p += 2 * sizeof(digest);
    p = ngx_cpymem(p, "\"}", 2);

    body.len = p - body.data;

    ngx_commerce_step_reply(c, NGX_HTTP_OK, &body);

    return NGX_OK;
}


/*
 * acting_tenant, acting_roles → {"token","expires_in"}: of who asks, for
 * another tenant, for minutes.  The role "platform" in a tenant that is not the
 * platform's tells the log who it was; "act" (RFC 8693) tells other services.
 */

static ngx_int_t
ngx_commerce_native_acting_token(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step)
{
    u_char                *p;
    ngx_str_t              body, token, *tenant, *roles;
    ngx_uint_t             expires_in;
    ngx_commerce_claims_t  claims;

    tenant = ngx_commerce_scope_get(c, "acting_tenant");
    roles = ngx_commerce_scope_get(c, "acting_roles");

    if (tenant == NULL || roles == NULL) {
        return ngx_commerce_problem_internal(c);
    }

    ngx_memzero(&claims, sizeof(ngx_commerce_claims_t));

    claims.subject = c->principal.subject;
    claims.session = c->principal.session;
    claims.actor = c->principal.subject;
    claims.tenant_id = *tenant;
    claims.roles = *roles;
    claims.ttl = NGX_COMMERCE_ACTING_TIME;

    if (ngx_commerce_auth_issue(c->request, &claims, &token, &expires_in)
        != NGX_OK)
    {
        return ngx_commerce_problem_internal(c);
    }

    p = ngx_pnalloc(c->request->pool, sizeof("{\"token\":\"\","
                                             "\"expires_in\":}")
                                      + token.len + NGX_INT_T_LEN);
    if (p == NULL) {
        return NGX_ERROR;
    }

    body.data = p;
    body.len = ngx_sprintf(p, "{\"token\":\"%V\",\"expires_in\":%ui}", &token,
                           expires_in)
               - p;

    ngx_commerce_step_reply(c, NGX_HTTP_OK, &body);

    return NGX_OK;
}
