/*
 * What the files of auth/ share.
 */

#ifndef NGX_COMMERCE_AUTH_INTERNAL_H
#define NGX_COMMERCE_AUTH_INTERNAL_H


#include "ngx_commerce_auth.h"
#include "ngx_commerce_token.h"

#include <openssl/evp.h>


#define NGX_COMMERCE_AUTH_SECRET_MIN  32
#define NGX_COMMERCE_AUTH_FILE_MAX    16384
#define NGX_COMMERCE_AUTH_LEEWAY      60        /* seconds between two clocks */


/* One kid is one key is one algorithm. */

typedef struct {
    ngx_str_t                  kid;
    ngx_commerce_token_alg_t   alg;
    ngx_str_t                  secret;  /* HS256 */
    EVP_PKEY                  *pkey;    /* RS256, ES256 */
} ngx_commerce_auth_key_t;


typedef struct {
    ngx_array_t                keys;    /* of ngx_commerce_auth_key_t */
    ngx_int_t                  sign;    /* index of the signing key, or -1 */
    ngx_str_t                  issuer;
    ngx_str_t                  audience;
    time_t                     ttl;
    ngx_int_t                  password_cost;
    ngx_str_t                  secret;
    ngx_uint_t                 generation;
    ngx_thread_pool_t         *pool;
} ngx_commerce_auth_main_conf_t;


/* ngx_commerce_auth_key.c */

char *ngx_commerce_auth_key_load(ngx_conf_t *cf, ngx_commerce_auth_key_t *key,
    ngx_str_t *file, ngx_uint_t sign);
/* A file with a secret: at least 32 bytes, not open to everyone; one line break at its end is dropped. */
char *ngx_commerce_auth_secret_load(ngx_conf_t *cf, ngx_str_t *file,
    ngx_str_t *secret);
ngx_commerce_auth_key_t *ngx_commerce_auth_key_find(
    ngx_commerce_auth_main_conf_t *conf, ngx_commerce_str_t *kid,
    ngx_commerce_token_alg_t alg);
/* NGX_OK, NGX_DECLINED: the signature is not of this key. */
ngx_int_t ngx_commerce_auth_key_verify(ngx_commerce_auth_key_t *key,
    ngx_commerce_token_t *token);
/* Writes at most *len bytes to sig. */
ngx_int_t ngx_commerce_auth_key_sign(ngx_commerce_auth_key_t *key,
    ngx_str_t *input, u_char *sig, size_t *len);


/* ngx_commerce_auth_cache.c: verified tokens, per worker */

ngx_int_t ngx_commerce_auth_cache_init(ngx_cycle_t *cycle);
void ngx_commerce_auth_cache_exit(void);
ngx_int_t ngx_commerce_auth_cache_digest(ngx_str_t *token, u_char digest[32]);
ngx_int_t ngx_commerce_auth_cache_get(u_char digest[32], ngx_uint_t generation,
    ngx_commerce_principal_t *principal, ngx_pool_t *pool);
void ngx_commerce_auth_cache_put(u_char digest[32], ngx_uint_t generation,
    ngx_commerce_principal_t *principal);


#endif /* NGX_COMMERCE_AUTH_INTERNAL_H */
