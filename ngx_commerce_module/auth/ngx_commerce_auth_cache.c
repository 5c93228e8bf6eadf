/*
 * Verified tokens: a fixed table per worker, so without locks.
 *
 * The key is the SHA-256 of the whole token: the signature alone would let a
 * changed payload through.  Only tokens that were found good come in, hence a
 * client without one cannot push others out.
 */

#include "ngx_commerce_auth_internal.h"

#include <openssl/crypto.h>


#define NGX_COMMERCE_AUTH_CACHE_SETS   1024
#define NGX_COMMERCE_AUTH_CACHE_WAYS   4
#define NGX_COMMERCE_AUTH_CACHE_ROLES  256


typedef struct {
    u_char       digest[32];
    time_t       expires;           /* 0: free */
    ngx_uint_t   generation;
    uint64_t     used;
    uint16_t     roles_len;
    uint8_t      subject_len;
    uint8_t      tenant_len;
    uint8_t      session_len;
    unsigned     customer:1;
    unsigned     staff:1;
    unsigned     owner:1;
    unsigned     service:1;
    u_char       text[36 + 18 + 36 + NGX_COMMERCE_AUTH_CACHE_ROLES];
} ngx_commerce_auth_entry_t;


static u_char *ngx_commerce_auth_cache_copy(u_char *p, ngx_str_t *text);
static ngx_commerce_auth_entry_t *ngx_commerce_auth_cache_set(
    u_char digest[32]);


static ngx_commerce_auth_entry_t  *ngx_commerce_auth_table;
static EVP_MD                     *ngx_commerce_auth_sha256;
static EVP_MD_CTX                 *ngx_commerce_auth_digest;
static uint64_t                    ngx_commerce_auth_clock;


ngx_int_t
ngx_commerce_auth_cache_init(ngx_cycle_t *cycle)
{
    ngx_commerce_auth_sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
    ngx_commerce_auth_digest = EVP_MD_CTX_new();
    ngx_commerce_auth_table = ngx_calloc(NGX_COMMERCE_AUTH_CACHE_SETS
                                         * NGX_COMMERCE_AUTH_CACHE_WAYS
                                         * sizeof(ngx_commerce_auth_entry_t),
                                         cycle->log);

    if (ngx_commerce_auth_sha256 == NULL || ngx_commerce_auth_digest == NULL
        || ngx_commerce_auth_table == NULL)
    {
        return NGX_ERROR;
    }

    return NGX_OK;
}


void
ngx_commerce_auth_cache_exit(void)
{
    EVP_MD_CTX_free(ngx_commerce_auth_digest);
    EVP_MD_free(ngx_commerce_auth_sha256);

    if (ngx_commerce_auth_table != NULL) {
        ngx_free(ngx_commerce_auth_table);
    }

    ngx_commerce_auth_table = NULL;
    ngx_commerce_auth_sha256 = NULL;
    ngx_commerce_auth_digest = NULL;
}


/* NGX_ERROR cannot be cached nor found: the caller goes on without. */

ngx_int_t
ngx_commerce_auth_cache_digest(ngx_str_t *token, u_char digest[32])
{
    if (ngx_commerce_auth_table == NULL
        || EVP_DigestInit_ex2(ngx_commerce_auth_digest,
                              ngx_commerce_auth_sha256, NULL) != 1
        || EVP_DigestUpdate(ngx_commerce_auth_digest, token->data, token->len)
           != 1
        || EVP_DigestFinal_ex(ngx_commerce_auth_digest, digest, NULL) != 1)
    {
        return NGX_ERROR;
    }

    return NGX_OK;
}


ngx_int_t
ngx_commerce_auth_cache_get(u_char digest[32], ngx_uint_t generation,
    ngx_commerce_principal_t *principal, ngx_pool_t *pool)
{
    u_char                     *p;
    size_t                      len;
    ngx_uint_t                  i;
    ngx_commerce_auth_entry_t  *e;

    e = ngx_commerce_auth_cache_set(digest);

    for (i = 0; i < NGX_COMMERCE_AUTH_CACHE_WAYS; i++, e++) {

        if (e->expires > ngx_time() && e->generation == generation
            && CRYPTO_memcmp(e->digest, digest, 32) == 0)
        {
            break;
        }
    }

    if (i == NGX_COMMERCE_AUTH_CACHE_WAYS) {
        return NGX_DECLINED;
    }

    e->used = ++ngx_commerce_auth_clock;

    /* a copy: the entry may be replaced while the request waits */

    len = e->subject_len + e->tenant_len + e->session_len + e->roles_len;

    p = ngx_pnalloc(pool, len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    ngx_memcpy(p, e->text, len);

    principal->subject.data = p;
    principal->subject.len = e->subject_len;
    p += e->subject_len;

    principal->tenant_id.data = p;
    principal->tenant_id.len = e->tenant_len;
    p += e->tenant_len;

    principal->session.data = p;
    principal->session.len = e->session_len;
    p += e->session_len;

    principal->roles.data = p;
    principal->roles.len = e->roles_len;

    principal->expires = e->expires;
    principal->customer = e->customer;
    principal->staff = e->staff;
    principal->owner = e->owner;
    principal->service = e->service;

    return NGX_OK;
}


void
ngx_commerce_auth_cache_put(u_char digest[32], ngx_uint_t generation,
    ngx_commerce_principal_t *principal)
{
    u_char                     *p;
    ngx_uint_t                  i;
    ngx_commerce_auth_entry_t  *e, *victim;

    if (principal->roles.len > NGX_COMMERCE_AUTH_CACHE_ROLES
        || principal->expires <= ngx_time())
    {
        return;
    }

    e = ngx_commerce_auth_cache_set(digest);
    victim = e;

    for (i = 0; i < NGX_COMMERCE_AUTH_CACHE_WAYS; i++, e++) {

        if (e->expires <= ngx_time() || e->generation != generation) {
            victim = e;
            break;
        }

        if (e->used < victim->used) {
            victim = e;
        }
    }

    ngx_memcpy(victim->digest, digest, 32);
    victim->expires = principal->expires;
    victim->generation = generation;
    victim->used = ++ngx_commerce_auth_clock;
    victim->subject_len = principal->subject.len;
    victim->tenant_len = principal->tenant_id.len;
    victim->session_len = principal->session.len;
    victim->roles_len = principal->roles.len;
    victim->customer = principal->customer;
    victim->staff = principal->staff;
    victim->owner = principal->owner;
    victim->service = principal->service;

    p = ngx_commerce_auth_cache_copy(victim->text, &principal->subject);
    p = ngx_commerce_auth_cache_copy(p, &principal->tenant_id);
    p = ngx_commerce_auth_cache_copy(p, &principal->session);
    (void) ngx_commerce_auth_cache_copy(p, &principal->roles);
}


/* memcpy() from NULL is undefined even for no bytes. */

static u_char *
ngx_commerce_auth_cache_copy(u_char *p, ngx_str_t *text)
{
    return text->len ? ngx_cpymem(p, text->data, text->len) : p;
}


static ngx_commerce_auth_entry_t *
ngx_commerce_auth_cache_set(u_char digest[32])
{
    ngx_uint_t  set;

    set = (digest[0] | digest[1] << 8) % NGX_COMMERCE_AUTH_CACHE_SETS;

    return &ngx_commerce_auth_table[set * NGX_COMMERCE_AUTH_CACHE_WAYS];
}
