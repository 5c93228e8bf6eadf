/*
 * Verified tokens: a fixed table per worker, so without locks.
 *
 * A keyed hash of the token's end chooses the set, the comparison with the
 * whole token decides: the signature alone would let a changed payload
 * through.  Only tokens that were found good come in, hence a client without
 * one cannot push others out, and without the hash's key nobody can tell by
 * the time it takes how much of a guess is right.
 */

#include "ngx_commerce_auth_internal.h"
#include "ngx_commerce_gcra.h"

#include <openssl/rand.h>


#define NGX_COMMERCE_AUTH_CACHE_SETS   1024
#define NGX_COMMERCE_AUTH_CACHE_WAYS   4
#define NGX_COMMERCE_AUTH_CACHE_ROLES  256
#define NGX_COMMERCE_AUTH_CACHE_TOKEN  2048
#define NGX_COMMERCE_AUTH_CACHE_HASHED 32       /* bytes of the token's end: its signature */


struct ngx_commerce_auth_entry_s {
    uint64_t                    hash;
    ngx_str_t                   token;
    size_t                      room;           /* allocated for token */
    uint64_t                    used;
    uint64_t                    verdict;        /* version of the deny set that did not have it */
    ngx_uint_t                  generation;     /* 0: free */
    ngx_commerce_principal_t    principal;      /* its strings are in text */
    u_char                      text[36 + 18 + 36
                                     + NGX_COMMERCE_AUTH_CACHE_ROLES];
};


static u_char *ngx_commerce_auth_cache_text(u_char *p, ngx_str_t *text);
static uint64_t ngx_commerce_auth_cache_hash(ngx_str_t *token);
static ngx_commerce_auth_entry_t *ngx_commerce_auth_cache_set(uint64_t hash);


static ngx_commerce_auth_entry_t  *ngx_commerce_auth_table;
static u_char                      ngx_commerce_auth_seed[16];
static uint64_t                    ngx_commerce_auth_clock;


ngx_int_t
ngx_commerce_auth_cache_init(ngx_cycle_t *cycle)
{
    if (RAND_bytes(ngx_commerce_auth_seed, sizeof(ngx_commerce_auth_seed))
        != 1)
    {
        return NGX_ERROR;
    }

    ngx_commerce_auth_table = ngx_calloc(NGX_COMMERCE_AUTH_CACHE_SETS
                                         * NGX_COMMERCE_AUTH_CACHE_WAYS
                                         * sizeof(ngx_commerce_auth_entry_t),
                                         cycle->log);

    return (ngx_commerce_auth_table != NULL) ? NGX_OK : NGX_ERROR;
}


void
ngx_commerce_auth_cache_exit(void)
{
    ngx_uint_t  i;

    if (ngx_commerce_auth_table == NULL) {
        return;
    }

    for (i = 0;
         i < NGX_COMMERCE_AUTH_CACHE_SETS * NGX_COMMERCE_AUTH_CACHE_WAYS;
         i++)
    {
        if (ngx_commerce_auth_table[i].token.data != NULL) {
            ngx_free(ngx_commerce_auth_table[i].token.data);
        }
    }

    ngx_free(ngx_commerce_auth_table);
    ngx_commerce_auth_table = NULL;
}


ngx_commerce_auth_entry_t *
ngx_commerce_auth_cache_find(ngx_str_t *token, ngx_uint_t generation)
{
    uint64_t                    hash;
    ngx_uint_t                  i;
    ngx_commerce_auth_entry_t  *e;

    if (ngx_commerce_auth_table == NULL
        || token->len < NGX_COMMERCE_AUTH_CACHE_HASHED)
    {
        return NULL;
    }

    hash = ngx_commerce_auth_cache_hash(token);
    e = ngx_commerce_auth_cache_set(hash);

    for (i = 0; i < NGX_COMMERCE_AUTH_CACHE_WAYS; i++, e++) {

        if (e->hash == hash && e->generation == generation
            && e->principal.expires > ngx_time()
            && e->token.len == token->len
            && ngx_memcmp(e->token.data, token->data, token->len) == 0)
        {
            e->used = ++ngx_commerce_auth_clock;
            return e;
        }
    }

    return NULL;
}


uint64_t *
ngx_commerce_auth_cache_verdict(ngx_commerce_auth_entry_t *e)
{
    return &e->verdict;
}


void
ngx_commerce_auth_cache_drop(ngx_commerce_auth_entry_t *e)
{
    e->generation = 0;
}


/* A copy: the entry may be replaced while the request waits. */

ngx_int_t
ngx_commerce_auth_cache_copy(ngx_commerce_auth_entry_t *e,
    ngx_commerce_principal_t *principal, ngx_pool_t *pool)
{
    u_char  *p;
    size_t   len;

    len = e->principal.subject.len + e->principal.tenant_id.len
          + e->principal.session.len + e->principal.roles.len;

    p = ngx_pnalloc(pool, len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    ngx_memcpy(p, e->text, len);

    *principal = e->principal;

    principal->subject.data = p;
    p += principal->subject.len;
    principal->tenant_id.data = p;
    p += principal->tenant_id.len;
    principal->session.data = p;
    p += principal->session.len;
    principal->roles.data = p;

    return NGX_OK;
}


void
ngx_commerce_auth_cache_put(ngx_str_t *token, ngx_uint_t generation,
    ngx_commerce_principal_t *principal, uint64_t verdict)
{
    u_char                     *p;
    uint64_t                    hash;
    ngx_uint_t                  i;
    ngx_commerce_auth_entry_t  *e, *victim;

    if (ngx_commerce_auth_table == NULL
        || token->len < NGX_COMMERCE_AUTH_CACHE_HASHED
        || token->len > NGX_COMMERCE_AUTH_CACHE_TOKEN
        || principal->roles.len > NGX_COMMERCE_AUTH_CACHE_ROLES
        || principal->expires <= ngx_time())
    {
        return;
    }

    hash = ngx_commerce_auth_cache_hash(token);
    e = ngx_commerce_auth_cache_set(hash);
    victim = e;

    for (i = 0; i < NGX_COMMERCE_AUTH_CACHE_WAYS; i++, e++) {

        if (e->generation != generation
            || e->principal.expires <= ngx_time())
        {
            victim = e;
            break;
        }

        if (e->used < victim->used) {
            victim = e;
        }
    }

    e = victim;
    e->generation = 0;

    if (e->room < token->len) {

        if (e->token.data != NULL) {
            ngx_free(e->token.data);
        }

        e->room = 0;
        e->token.data = ngx_alloc(ngx_align(token->len, 128), ngx_cycle->log);

        if (e->token.data == NULL) {
            return;
        }

        e->room = ngx_align(token->len, 128);
    }

    ngx_memcpy(e->token.data, token->data, token->len);
    e->token.len = token->len;

    e->hash = hash;
    e->used = ++ngx_commerce_auth_clock;
    e->verdict = verdict;
    e->generation = generation;
    e->principal = *principal;

    p = ngx_commerce_auth_cache_text(e->text, &principal->subject);
    p = ngx_commerce_auth_cache_text(p, &principal->tenant_id);
    p = ngx_commerce_auth_cache_text(p, &principal->session);
    (void) ngx_commerce_auth_cache_text(p, &principal->roles);
}


/* memcpy() from NULL is undefined even for no bytes. */

static u_char *
ngx_commerce_auth_cache_text(u_char *p, ngx_str_t *text)
{
    return text->len ? ngx_cpymem(p, text->data, text->len) : p;
}


static uint64_t
ngx_commerce_auth_cache_hash(ngx_str_t *token)
{
    ngx_commerce_str_t  end, none;

    end.len = NGX_COMMERCE_AUTH_CACHE_HASHED;
    end.data = token->data + token->len - NGX_COMMERCE_AUTH_CACHE_HASHED;
    none.len = 0;
    none.data = NULL;

    return ngx_commerce_siphash(ngx_commerce_auth_seed, end, none);
}


static ngx_commerce_auth_entry_t *
ngx_commerce_auth_cache_set(uint64_t hash)
{
    return &ngx_commerce_auth_table[(hash % NGX_COMMERCE_AUTH_CACHE_SETS)
                                    * NGX_COMMERCE_AUTH_CACHE_WAYS];
}
