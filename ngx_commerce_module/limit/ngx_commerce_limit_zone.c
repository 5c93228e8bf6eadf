/*
 * The zone: what was taken, by whom, in shared memory; and taking from it.
 */

#include "ngx_commerce_limit_internal.h"

#include <openssl/rand.h>


/* some 64,000 clients that are busy enough for a lease */
#define NGX_COMMERCE_LIMIT_LEASES  (1024 * 1024)


static ngx_shm_zone_t *ngx_commerce_limit_add_zone(ngx_conf_t *cf,
    ngx_str_t *name, size_t size);
static ngx_int_t ngx_commerce_limit_init_zone(ngx_shm_zone_t *shm_zone,
    void *data);


char *
ngx_commerce_limit_zone(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_commerce_limit_main_conf_t  *lmcf = conf;

    ssize_t     size;
    ngx_str_t  *value, name;

    if (lmcf->zone != NULL) {
        return "is duplicate";
    }

    value = cf->args->elts;
    size = ngx_parse_size(&value[1]);

    if (size == NGX_ERROR || size < (ssize_t) (8 * ngx_pagesize)) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid zone size \"%V\": at least 32k, 1m holds "
                           "about 64,000 clients", &value[1]);
        return NGX_CONF_ERROR;
    }

    ngx_str_set(&name, "commerce_limit");

    lmcf->zone = ngx_commerce_limit_add_zone(cf, &name, size);

    return lmcf->zone ? NGX_CONF_OK : NGX_CONF_ERROR;
}


ngx_int_t
ngx_commerce_limit_lease_zone(ngx_conf_t *cf,
    ngx_commerce_limit_main_conf_t *lmcf)
{
    ngx_str_t  name;

    ngx_str_set(&name, "commerce_limit_leases");

    lmcf->leases = ngx_commerce_limit_add_zone(cf, &name,
                                               NGX_COMMERCE_LIMIT_LEASES);

    return lmcf->leases ? NGX_OK : NGX_ERROR;
}


static ngx_shm_zone_t *
ngx_commerce_limit_add_zone(ngx_conf_t *cf, ngx_str_t *name, size_t size)
{
    ngx_shm_zone_t              *zone;
    ngx_commerce_limit_shctx_t  *sh;

    sh = ngx_pcalloc(cf->pool, sizeof(ngx_commerce_limit_shctx_t));
    if (sh == NULL) {
        return NULL;
    }

    zone = ngx_shared_memory_add(cf, name, size, &ngx_commerce_limit_module);
    if (zone == NULL) {
        return NULL;
    }

    zone->init = ngx_commerce_limit_init_zone;
    zone->data = sh;

    return zone;
}


/*
 * A zone of the same size lives on over a reload, and nothing in it is changed
 * here: the new configuration may still be refused.
 */

static ngx_int_t
ngx_commerce_limit_init_zone(ngx_shm_zone_t *shm_zone, void *data)
{
    void                        *mem;
    size_t                       size;
    u_char                       seed[16];
    ngx_slab_pool_t             *shpool;
    ngx_commerce_limit_shctx_t  *sh = shm_zone->data;

    shpool = (ngx_slab_pool_t *) shm_zone->shm.addr;

    if (data != NULL || shm_zone->shm.exists) {
        sh->table = ngx_commerce_gcra_attach(shpool->data);

        if (sh->table == NULL) {
            ngx_log_error(NGX_LOG_EMERG, shm_zone->shm.log, 0,
                          "zone \"%V\" was made by another version of the "
                          "module: restart nginx, or change "
                          "commerce_limit_zone's size", &shm_zone->shm.name);
            return NGX_ERROR;
        }

        return NGX_OK;
    }

    /* all pages are free and in one run; slab pages are aligned for a set */

    size = shpool->pfree * ngx_pagesize;
    mem = ngx_slab_alloc(shpool, size);

    if (mem == NULL) {
        return NGX_ERROR;
    }

    if (RAND_bytes(seed, sizeof(seed)) != 1) {
        ngx_log_error(NGX_LOG_EMERG, shm_zone->shm.log, 0,
                      "no randomness for zone \"%V\"", &shm_zone->shm.name);
        return NGX_ERROR;
    }

    sh->table = ngx_commerce_gcra_create(mem, size, seed);
    if (sh->table == NULL) {
        return NGX_ERROR;
    }

    shpool->data = sh->table;

    return NGX_OK;
}


ngx_commerce_gcra_table_t *
ngx_commerce_limit_table(const ngx_shm_zone_t *zone)
{
    ngx_commerce_limit_shctx_t  *sh = zone->data;

    return sh->table;
}


/*
 * Not nginx's cached time: that of a worker whose turn takes long would be
 * behind what another has written, and what came back meanwhile would be refused.
 */

uint64_t
ngx_commerce_limit_now(void)
{
    struct timespec  ts;

    (void) clock_gettime(CLOCK_MONOTONIC, &ts);

    return (uint64_t) ts.tv_sec * 1000000 + (uint64_t) ts.tv_nsec / 1000;
}


void
ngx_commerce_limit_take(ngx_commerce_limit_taken_t *t)
{
    ngx_commerce_gcra_take(ngx_commerce_limit_table(t->policy->conf->zone), &t->rate,
                           ngx_commerce_limit_bytes(&t->policy->scope),
                           ngx_commerce_limit_bytes(&t->key),
                           ngx_commerce_limit_now(), t->cost, &t->verdict);
}


void
ngx_commerce_limit_look(ngx_commerce_limit_taken_t *t)
{
    ngx_commerce_gcra_look(ngx_commerce_limit_table(t->policy->conf->zone), &t->rate,
                           ngx_commerce_limit_bytes(&t->policy->scope),
                           ngx_commerce_limit_bytes(&t->key),
                           ngx_commerce_limit_now(), t->cost, &t->verdict);
}


void
ngx_commerce_limit_give(ngx_commerce_limit_taken_t *t)
{
    ngx_commerce_gcra_give(ngx_commerce_limit_table(t->policy->conf->zone), &t->rate,
                           ngx_commerce_limit_bytes(&t->policy->scope),
                           ngx_commerce_limit_bytes(&t->key), t->cost);
}
