/*
 * The public keys as a JWK Set (RFC 7517), made once when the configuration
 * is read.  A secret (HS256) is never among them.
 */

#include "ngx_commerce_auth_internal.h"
#include "ngx_commerce_codec.h"

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/sha.h>


#define NGX_COMMERCE_JWKS_KEY_MAX  4096         /* bytes of one key: RSA of 16384 bits */


static u_char *ngx_commerce_auth_jwks_rsa(ngx_commerce_auth_key_t *key,
    u_char *p);
static u_char *ngx_commerce_auth_jwks_ec(ngx_commerce_auth_key_t *key,
    u_char *p);
static u_char *ngx_commerce_auth_jwks_number(EVP_PKEY *pkey,
    const char *param, const char *name, int size, u_char *p);
static ngx_int_t ngx_commerce_auth_jwks_handler(ngx_http_request_t *r);


static ngx_str_t  ngx_commerce_jwks_etag = ngx_string("ETag");
static ngx_str_t  ngx_commerce_jwks_age = ngx_string("public, max-age=300");


ngx_int_t
ngx_commerce_auth_jwks_build(ngx_conf_t *cf,
    ngx_commerce_auth_main_conf_t *amcf)
{
    u_char                   *p, *start, digest[SHA256_DIGEST_LENGTH];
    ngx_uint_t                i;
    const char               *comma;
    ngx_commerce_auth_key_t  *key;

    p = ngx_pnalloc(cf->pool, sizeof("{\"keys\":[]}")
                              + amcf->keys.nelts * NGX_COMMERCE_JWKS_KEY_MAX);
    if (p == NULL) {
        return NGX_ERROR;
    }

    amcf->jwks.data = p;
    p = ngx_sprintf(p, "{\"keys\":[");
    comma = "";

    key = amcf->keys.elts;

    for (i = 0; i < amcf->keys.nelts; i++) {

        if (key[i].alg == NGX_COMMERCE_TOKEN_HS256) {
            continue;
        }

        start = ngx_sprintf(p, "%s", comma);

        p = (key[i].alg == NGX_COMMERCE_TOKEN_RS256)
            ? ngx_commerce_auth_jwks_rsa(&key[i], start)
            : ngx_commerce_auth_jwks_ec(&key[i], start);

        if (p == NULL) {
            ngx_ssl_error(NGX_LOG_EMERG, cf->log, 0,
                          "the public part of key \"%V\" cannot be told",
                          &key[i].kid);
            return NGX_ERROR;
        }

        p = ngx_sprintf(p, ",\"use\":\"sig\",\"alg\":\"%s\",\"kid\":\"%V\"}",
                        ngx_commerce_token_alg_name(key[i].alg), &key[i].kid);
        comma = ",";
    }

    p = ngx_sprintf(p, "]}");
    amcf->jwks.len = p - amcf->jwks.data;

    SHA256(amcf->jwks.data, amcf->jwks.len, digest);

    p = ngx_pnalloc(cf->pool, sizeof("\"\"") + 32);
    if (p == NULL) {
        return NGX_ERROR;
    }

    amcf->jwks_etag.data = p;
    amcf->jwks_etag.len = sizeof("\"\"") - 1 + 32;

    *p++ = '"';
    ngx_commerce_hex(p, digest, 16);
    p[32] = '"';

    return NGX_OK;
}


static u_char *
ngx_commerce_auth_jwks_rsa(ngx_commerce_auth_key_t *key, u_char *p)
{
    /* what does not fit is refused below: "n" alone takes 4/3 of its bytes */

    if (EVP_PKEY_get_bits(key->pkey) > 16384) {
        return NULL;
    }

    p = ngx_sprintf(p, "{\"kty\":\"RSA\"");
    p = ngx_commerce_auth_jwks_number(key->pkey, OSSL_PKEY_PARAM_RSA_N, "n",
                                      0, p);
    return ngx_commerce_auth_jwks_number(key->pkey, OSSL_PKEY_PARAM_RSA_E,
                                         "e", 0, p);
}


/* Coordinates have all their bytes, leading zeroes included (RFC 7518 §6.2.1.2). */

static u_char *
ngx_commerce_auth_jwks_ec(ngx_commerce_auth_key_t *key, u_char *p)
{
    p = ngx_sprintf(p, "{\"kty\":\"EC\",\"crv\":\"P-256\"");
    p = ngx_commerce_auth_jwks_number(key->pkey, OSSL_PKEY_PARAM_EC_PUB_X,
                                      "x", 32, p);
    return ngx_commerce_auth_jwks_number(key->pkey, OSSL_PKEY_PARAM_EC_PUB_Y,
                                         "y", 32, p);
}


static u_char *
ngx_commerce_auth_jwks_number(EVP_PKEY *pkey, const char *param,
    const char *name, int size, u_char *p)
{
    int      len;
    BIGNUM  *n;
    u_char   bytes[2048];

    n = NULL;

    if (p == NULL || EVP_PKEY_get_bn_param(pkey, param, &n) != 1) {
        return NULL;
    }

    len = size ? size : BN_num_bytes(n);
    len = (len <= (int) sizeof(bytes)) ? BN_bn2binpad(n, bytes, len) : -1;
    BN_free(n);

    if (len <= 0) {
        return NULL;
    }

    p = ngx_sprintf(p, ",\"%s\":\"", name);
    p += ngx_commerce_base64url_encode(p, bytes, len);
    *p++ = '"';

    return p;
}


char *
ngx_commerce_auth_jwks_directive(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_http_core_loc_conf_t  *clcf;

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);

    if (clcf->handler) {
        return "conflicts with another handler of this location";
    }

    clcf->handler = ngx_commerce_auth_jwks_handler;

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_commerce_auth_jwks_handler(ngx_http_request_t *r)
{
    ngx_int_t                       rc;
    ngx_buf_t                      *b;
    ngx_chain_t                     out;
    ngx_commerce_auth_main_conf_t  *amcf;

    if (!(r->method & (NGX_HTTP_GET|NGX_HTTP_HEAD))) {
        return NGX_HTTP_NOT_ALLOWED;
    }

    rc = ngx_http_discard_request_body(r);
    if (rc != NGX_OK) {
        return rc;
    }

    amcf = ngx_http_get_module_main_conf(r, ngx_commerce_auth_module);

    if (ngx_commerce_header_add(r, "Cache-Control", &ngx_commerce_jwks_age)
        != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    /* nginx's own filter compares it with If-None-Match */

    r->headers_out.etag = ngx_commerce_header_push(r, &ngx_commerce_jwks_etag,
                                                   &amcf->jwks_etag);
    if (r->headers_out.etag == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    r->headers_out.status = NGX_HTTP_OK;
    r->headers_out.content_length_n = amcf->jwks.len;
    ngx_str_set(&r->headers_out.content_type, "application/jwk-set+json");
    r->headers_out.content_type_len = r->headers_out.content_type.len;

    rc = ngx_http_send_header(r);

    if (rc == NGX_ERROR || rc > NGX_OK || r->header_only) {
        return rc;
    }

    b = ngx_calloc_buf(r->pool);
    if (b == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    b->pos = amcf->jwks.data;
    b->last = b->pos + amcf->jwks.len;
    b->memory = 1;
    b->last_buf = (r == r->main);
    b->last_in_chain = 1;

    out.buf = b;
    out.next = NULL;

    return ngx_http_output_filter(r, &out);
}
