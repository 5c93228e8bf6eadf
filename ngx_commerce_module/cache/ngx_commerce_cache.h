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
} ngx_commerce_cache_entry_t;

/* NGX_OK: entry, copied into pool.  NGX_DECLINED: miss, and ticket is ready for put().  Off (no zone): NGX_DECLINED. */
ngx_int_t ngx_commerce_cache_get(ngx_str_t *key, ngx_str_t *tags,
    ngx_uint_t tags_count, ngx_commerce_cache_ticket_t *ticket,
    ngx_commerce_cache_entry_t *entry, ngx_pool_t *pool);
void ngx_commerce_cache_put(ngx_commerce_cache_ticket_t *ticket,
    ngx_commerce_cache_entry_t *entry, ngx_uint_t ttl);
/* Tags are per tenant: "3:product:7". */
void ngx_commerce_cache_invalidate(ngx_str_t *tag);
void ngx_commerce_cache_invalidate_all(void);

ngx_uint_t ngx_commerce_cache_configured(void);
void ngx_commerce_cache_stats(ngx_commerce_store_stats_t *stats);


/*
 * Tenants: host name → tenant, a snapshot in shared memory that the listening worker refreshes
 * (api.edge_snapshot()); each worker keeps a hash of it, rebuilt when the generation changes.
 */

typedef struct {
    ngx_str_t  id;                  /* decimal */
    ngx_str_t  slug;
    ngx_str_t  currency;
    unsigned   active:1;
} ngx_commerce_tenant_t;

/* NGX_OK; NGX_DECLINED: no such tenant; NGX_AGAIN: no snapshot yet (503). Valid until the next event-loop turn: copy what must stay. */
ngx_int_t ngx_commerce_tenant_by_host(ngx_str_t *host,
    ngx_commerce_tenant_t *tenant);
ngx_int_t ngx_commerce_tenant_by_slug(ngx_str_t *slug,
    ngx_commerce_tenant_t *tenant);
ngx_int_t ngx_commerce_tenant_by_id(ngx_str_t *id,
    ngx_commerce_tenant_t *tenant);


extern ngx_module_t  ngx_commerce_cache_module;


#endif /* NGX_COMMERCE_CACHE_H */
