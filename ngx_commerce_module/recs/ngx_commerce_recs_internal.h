/* What the files of recs/ share. */

#ifndef NGX_COMMERCE_RECS_INTERNAL_H
#define NGX_COMMERCE_RECS_INTERNAL_H


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "ngx_commerce_recs.h"
#include "ngx_commerce_refusals.h"
#include "ngx_commerce_tables.h"
#include "ngx_commerce_threads.h"


/* What is left of a zone for us. */

typedef struct {
    void                     *memory;
    size_t                    size;
} ngx_commerce_recs_area_t;

/* At shpool->data of the similarity zone; its counts are the loader's. */

typedef struct {
    ngx_commerce_recs_area_t  area;
    ngx_commerce_recs_area_t  refusals;
    ngx_atomic_t              tables;
    ngx_atomic_t              refused;
    ngx_atomic_t              generation;
    ngx_atomic_t              created;      /* s since 1970 */
} ngx_commerce_recs_sh_t;


typedef struct {
    ngx_shm_zone_t           *zone;         /* NULL: no recommendations */
    ngx_shm_zone_t           *recent_zone;
    ngx_str_t                 path;
    ngx_msec_t                interval;
    ngx_msec_t                valid;        /* of what was filled into a ring */
    ngx_thread_pool_t        *pool;
    ngx_commerce_recs_sh_t   *sh;
    ngx_commerce_tables_t     tables;
    ngx_commerce_refusals_t   refusals;
    ngx_commerce_recent_t     recent;
} ngx_commerce_recs_main_conf_t;


/* ngx_commerce_recs_loader.c: in worker 0 */

void ngx_commerce_recs_loader_init(ngx_cycle_t *cycle,
    const ngx_commerce_recs_main_conf_t *rmcf);


#endif /* NGX_COMMERCE_RECS_INTERNAL_H */
