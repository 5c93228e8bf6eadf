/*
 * What the files of cache/ share: the zones, the tenants' life cycle.
 */

#ifndef NGX_COMMERCE_CACHE_INTERNAL_H
#define NGX_COMMERCE_CACHE_INTERNAL_H


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "ngx_commerce_cache.h"
#include "ngx_commerce_pg.h"


typedef struct ngx_commerce_tenants_sh_s  ngx_commerce_tenants_sh_t;


/* In the cache's zone: a new listener's question to the one before. */

typedef struct {
    ngx_atomic_t                asked;
    ngx_atomic_t                answered;
} ngx_commerce_handover_t;


typedef struct {
    ngx_shm_zone_t             *zone;       /* NULL: no response cache */
    ngx_shm_zone_t             *tenants_zone;
    ngx_commerce_store_t        store;
    ngx_commerce_tenants_sh_t  *tenants;
    ngx_commerce_handover_t    *handover;
    ngx_commerce_pg_stmt_t     *snapshot;
    ngx_commerce_pg_stmt_t     *notify;
} ngx_commerce_cache_main_conf_t;


/* ngx_commerce_tenant.c: the snapshot in shared memory and each worker's hash of it */

ngx_int_t ngx_commerce_tenant_init_zone(ngx_shm_zone_t *zone, void *data);
void ngx_commerce_tenant_init(ngx_commerce_tenants_sh_t *sh,
    ngx_slab_pool_t *shpool, ngx_log_t *log);

/* columns: as_of (microseconds), id, slug, currency, status, settings, hosts */
ngx_int_t ngx_commerce_tenant_publish(const PGresult *result, ngx_log_t *log);


/* ngx_commerce_snapshot.c: asks PostgreSQL for it */

void ngx_commerce_snapshot_init(ngx_commerce_pg_stmt_t *stmt, ngx_log_t *log);


/* ngx_commerce_invalidate.c: PostgreSQL's notices.  sh == NULL: there is no cache. */

void ngx_commerce_invalidate_init(ngx_commerce_handover_t *sh,
    ngx_commerce_pg_stmt_t *stmt, ngx_log_t *log);


#endif /* NGX_COMMERCE_CACHE_INTERNAL_H */
