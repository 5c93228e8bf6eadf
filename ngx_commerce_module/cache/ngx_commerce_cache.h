/*
 * Response cache of the edge in shared memory, with tags.
 *
 * Lock-free, safe against a worker killed at any instruction (core/ngx_commerce_store.h).  An entry carries the
 * generations of its tags as they were before its content was asked for; invalidation adds one to a tag's generation.
 */

#ifndef NGX_COMMERCE_CACHE_H
#define NGX_COMMERCE_CACHE_H


#include <ngx_config.h>
#include <ngx_core.h>

#include "ngx_commerce_store.h"


#define NGX_COMMERCE_CACHE_TAGS_MAX  NGX_COMMERCE_STORE_TAGS

/* Taken before the content is asked for, so that an invalidation in between is not lost. */
typedef ngx_commerce_store_ticket_t  ngx_commerce_cache_ticket_t;

typedef struct {
    ngx_uint_t  status;
    ngx_str_t   headers;            /* text in the form that its keeper reads, or empty */
    ngx_str_t   body;
    ngx_str_t   edge;               /* JSON text, or empty */
    ngx_msec_t  age;
    const void *place;              /* for expect() */
} ngx_commerce_cache_entry_t;

/*
 * NGX_OK: entry, to be read only, as long as pool lives.  NGX_DECLINED: a miss; who makes the content and keeps it names its
 * tags first.  Off (no zone): NGX_DECLINED.
 */
ngx_int_t ngx_commerce_cache_get(ngx_str_t *key,
    ngx_commerce_cache_ticket_t *ticket, ngx_commerce_cache_entry_t *entry,
    ngx_pool_t *pool);
/* The same of a key that was asked for before: ticket->key is what that get() made of it. */
ngx_int_t ngx_commerce_cache_again(ngx_commerce_cache_ticket_t *ticket,
    ngx_commerce_cache_entry_t *entry, ngx_pool_t *pool);
void ngx_commerce_cache_tags(ngx_commerce_cache_ticket_t *ticket,
    ngx_str_t *tags, ngx_uint_t count);
/* The next get() will probably find what an earlier one found at this place (NULL: nothing): it is fetched meanwhile. */
void ngx_commerce_cache_expect(const void *place);
void ngx_commerce_cache_put(ngx_commerce_cache_ticket_t *ticket,
    ngx_commerce_cache_entry_t *entry, ngx_uint_t ttl);
/* Tags are per tenant: "3:product:7". */
void ngx_commerce_cache_invalidate(ngx_str_t *tag);
void ngx_commerce_cache_invalidate_all(void);

/*
 * Numbers for a short time in a zone of their own (commerce_gate_zone).  find():
 * true: *number; in any case the ticket is ready for keep().  Tags are those
 * of the cache.  Never older than the time that keep() was given, in seconds.
 */
ngx_uint_t ngx_commerce_gate_configured(void);
ngx_uint_t ngx_commerce_gate_find(ngx_str_t *key, ngx_str_t *tag,
    ngx_commerce_cache_ticket_t *ticket, uint32_t *number);
void ngx_commerce_gate_keep(ngx_commerce_cache_ticket_t *ticket,
    uint32_t number, ngx_uint_t ttl);

ngx_uint_t ngx_commerce_cache_configured(void);
void ngx_commerce_cache_stats(ngx_commerce_store_stats_t *stats);


extern ngx_module_t  ngx_commerce_cache_module;


#endif /* NGX_COMMERCE_CACHE_H */
