/*
 * What the files of cache/ share.
 */

#ifndef NGX_COMMERCE_CACHE_INTERNAL_H
#define NGX_COMMERCE_CACHE_INTERNAL_H


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "ngx_commerce_cache.h"
#include "ngx_commerce_near.h"
#include "ngx_commerce_pg.h"


/* In the cache's zone: a new listener's question to the one before. */

typedef struct {
    ngx_atomic_t                asked;
    ngx_atomic_t                answered;
} ngx_commerce_handover_t;


/* One zone: answers, or what gates remember. */

typedef struct {
    ngx_shm_zone_t             *zone;       /* NULL: off */
    ngx_commerce_store_t        store;
    size_t                      near;       /* bytes that each worker keeps for itself */
    ngx_commerce_handover_t    *handover;
} ngx_commerce_cache_zone_t;


typedef struct {
    ngx_commerce_cache_zone_t   answers;
    ngx_commerce_cache_zone_t   gates;
    ngx_commerce_pg_stmt_t     *notify;
} ngx_commerce_cache_main_conf_t;


/* ngx_commerce_invalidate.c: PostgreSQL's notices.  sh == NULL: there is no cache. */

void ngx_commerce_invalidate_init(ngx_commerce_handover_t *sh,
    ngx_commerce_pg_stmt_t *stmt, ngx_log_t *log);


#endif /* NGX_COMMERCE_CACHE_INTERNAL_H */
