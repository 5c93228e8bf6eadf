/*
 * Issuing access tokens: the only place that calls libjwt, and only its
 * writing half (its jwt_decode() is never used, see README).
 */

#include "ngx_commerce_auth_internal.h"
#include "ngx_commerce_codec.h"

#include <jwt.h>
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <stdlib.h>


/* A C string for libjwt: claims of ours are short. */
typedef char  ngx_commerce_auth_cstr_t[128];


static ngx_int_t ngx_commerce_auth_fill(jwt_t *jwt,
    ngx_commerce_auth_main_conf_t *amcf, ngx_commerce_claims_t *claims);
static ngx_int_t ngx_commerce_auth_roles_json(ngx_str_t *roles, u_char *dst,
    size_t size);
static ngx_int_t ngx_commerce_auth_grant(jwt_t *jwt, const char *name,
    ngx_str_t *value);


static const jwt_alg_t  ngx_commerce_auth_jwt_algs[] = {
    JWT_ALG_HS256,
    JWT_ALG_RS256,
    JWT_ALG_ES256
};


ngx_int_t
ngx_commerce_auth_issue(ngx_http_request_t *r, ngx_commerce_claims_t *claims,
    ngx_str_t *token, ngx_uint_t *expires_in)
{
    char                           *text;
    jwt_t                          *jwt;
    ngx_int_t                       rc;
    ngx_commerce_auth_key_t        *key;
    ngx_commerce_auth_cstr_t        kid;
    ngx_commerce_auth_main_conf_t  *amcf;

    amcf = ngx_http_get_module_main_conf(r, ngx_commerce_auth_module);

    if (amcf->sign == -1) {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "no token issued: give one commerce_jwt_key the "
                      "parameter \"sign\"");
        return NGX_DECLINED;
    }

    key = (ngx_commerce_auth_key_t *) amcf->keys.elts + amcf->sign;

    if (jwt_new(&jwt) != 0) {
        return NGX_ERROR;
    }

    text = NULL;
    rc = NGX_ERROR;

    ngx_cpystrn((u_char *) kid, key->kid.data,
                ngx_min(key->kid.len + 1, sizeof(kid)));

    if (jwt_set_alg(jwt, ngx_commerce_auth_jwt_algs[key->alg], key->text.data,
                    key->text.len) == 0
        && jwt_add_header(jwt, "typ", "at+jwt") == 0
        && jwt_add_header(jwt, "kid", kid) == 0
        && ngx_commerce_auth_fill(jwt, amcf, claims) == NGX_OK)
    {
        text = jwt_encode_str(jwt);
    }

    jwt_free(jwt);

    if (text != NULL) {
        token->len = ngx_strlen(text);
        token->data = ngx_pnalloc(r->pool, token->len);

        if (token->data != NULL) {
            ngx_memcpy(token->data, text, token->len);
            *expires_in = amcf->ttl;
            rc = NGX_OK;
        }

        free(text);
    }

    if (rc != NGX_OK) {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "access token could not be made (subject \"%V\")",
                      &claims->subject);
    }

    return rc;
}


static ngx_int_t
ngx_commerce_auth_fill(jwt_t *jwt, ngx_commerce_auth_main_conf_t *amcf,
    ngx_commerce_claims_t *claims)
{
    u_char       jti[36], random[10], json[NGX_COMMERCE_TOKEN_ROLES * 4];
    ngx_str_t    id;
    ngx_time_t  *tp;

    if (!ngx_commerce_uuid_valid(claims->subject.data, claims->subject.len)
        || RAND_bytes(random, sizeof(random)) != 1
        || ngx_commerce_auth_roles_json(&claims->roles, json, sizeof(json))
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    tp = ngx_timeofday();
    ngx_commerce_uuid7(jti, (uint64_t) tp->sec * 1000 + tp->msec, random);
    id.data = jti;
    id.len = sizeof(jti);

    if (ngx_commerce_auth_grant(jwt, "iss", &amcf->issuer) != NGX_OK
        || ngx_commerce_auth_grant(jwt, "aud", &amcf->audience) != NGX_OK
        || ngx_commerce_auth_grant(jwt, "sub", &claims->subject) != NGX_OK
        || ngx_commerce_auth_grant(jwt, "tid", &claims->tenant_id) != NGX_OK
        || ngx_commerce_auth_grant(jwt, "sid", &claims->session) != NGX_OK
        || ngx_commerce_auth_grant(jwt, "jti", &id) != NGX_OK
        || jwt_add_grant_int(jwt, "iat", tp->sec) != 0
        || jwt_add_grant_int(jwt, "nbf", tp->sec) != 0
        || jwt_add_grant_int(jwt, "exp", tp->sec + amcf->ttl) != 0
        || jwt_add_grant_int(jwt, "ver", 1) != 0
        || jwt_add_grants_json(jwt, (char *) json) != 0)
    {
        return NGX_ERROR;
    }

    return NGX_OK;
}


/* "staff catalog.write" → {"roles":["staff"],"scope":"catalog.write"}, terminated */

static ngx_int_t
ngx_commerce_auth_roles_json(ngx_str_t *roles, u_char *dst, size_t size)
{
    u_char      *p, *end, *space, *q, *s, scope[NGX_COMMERCE_TOKEN_ROLES];
    const char  *comma;

    if (roles->len > NGX_COMMERCE_TOKEN_ROLES - 1) {
        return NGX_ERROR;
    }

    comma = "";
    q = ngx_slprintf(dst, dst + size, "{\"roles\":[");
    s = scope;

    p = roles->data;
    end = p + roles->len;

    while (p < end) {
        space = ngx_strlchr(p, end, ' ');

        if (space == NULL) {
            space = end;
        }

        if (!ngx_commerce_token_role_valid(p, space - p)) {
            return NGX_ERROR;
        }

        if (ngx_strlchr(p, space, '.') != NULL) {
            if (s != scope) {
                *s++ = ' ';
            }

            s = ngx_cpymem(s, p, space - p);

        } else {
            q = ngx_slprintf(q, dst + size, "%s\"%*s\"", comma,
                             (size_t) (space - p), p);
            comma = ",";
        }

        p = space + 1;
    }

    q = ngx_slprintf(q, dst + size, "],\"scope\":\"%*s\"}%Z",
                     (size_t) (s - scope), scope);

    return (q < dst + size) ? NGX_OK : NGX_ERROR;
}


/* An empty value makes no claim. */

static ngx_int_t
ngx_commerce_auth_grant(jwt_t *jwt, const char *name, ngx_str_t *value)
{
    ngx_commerce_auth_cstr_t  text;

    if (value->len == 0) {
        return NGX_OK;
    }

    if (value->len >= sizeof(text)) {
        return NGX_ERROR;
    }

    ngx_cpystrn((u_char *) text, value->data, value->len + 1);

    return (jwt_add_grant(jwt, name, text) == 0) ? NGX_OK : NGX_ERROR;
}
