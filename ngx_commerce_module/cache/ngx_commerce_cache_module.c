/*
 * Directives and zones of the response cache; getting, putting, invalidating.
 */

#include "ngx_commerce_cache_internal.h"
#include <ngx_http.h>

#include <openssl/rand.h>


#define NGX_COMMERCE_CACHE_ZONE_MIN      (1024 * 1024)
#define NGX_COMMERCE_CACHE_TENANTS_ZONE  (8 * 1024 * 1024)


/* At shpool->data: where the store is, for the next cycle. */

typedef struct {
    void                      *memory;
    size_t                     size;
    ngx_commerce_handover_t    handover;
} ngx_commerce_cache_sh_t;


static void *ngx_commerce_cache_create_main_conf(ngx_conf_t *cf);
static ngx_int_t ngx_commerce_cache_init(ngx_conf_t *cf);
static ngx_int_t ngx_commerce_cache_init_process(ngx_cycle_t *cycle);
static char *ngx_commerce_cache_zone(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static ngx_int_t ngx_commerce_cache_init_zone(ngx_shm_zone_t *zone,
    void *data);


static ngx_command_t  ngx_commerce_cache_commands[] = {

    { ngx_string("commerce_cache_zone"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_commerce_cache_zone,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("commerce_tenant_zone"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_commerce_cache_zone,
      NGX_HTTP_MAIN_CONF_OFFSET,
      1,
      NULL },

      ngx_null_command
};


static ngx_http_module_t  ngx_commerce_cache_module_ctx = {
    NULL,                                  /* preconfiguration */
    ngx_commerce_cache_init,               /* postconfiguration */

    ngx_commerce_cache_create_main_conf,   /* create main configuration */
    NULL,                                  /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    NULL,                                  /* create location configuration */
    NULL                                   /* merge location configuration */
};


ngx_module_t  ngx_commerce_cache_module = {
    NGX_MODULE_V1,
    &ngx_commerce_cache_module_ctx,        /* module context */
    ngx_commerce_cache_commands,           /* module directives */
    NGX_HTTP_MODULE,                       /* module type */
    NULL,                                  /* init master */
    NULL,                                  /* init module */
    ngx_commerce_cache_init_process,       /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    NULL,                                  /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


static ngx_str_t  ngx_commerce_cache_snapshot_text = ngx_string(
    "SELECT as_of, id, slug, currency, status, settings, hosts"
    " FROM api.edge_snapshot()");

static ngx_str_t  ngx_commerce_cache_notify_text = ngx_string(
    "SELECT pg_notify('commerce_handover', $1)");

/* this worker's view; shm == NULL: no cache */
static ngx_commerce_store_t  ngx_commerce_cache_store;


ngx_int_t
ngx_commerce_cache_get(ngx_str_t *key, ngx_str_t *tags, ngx_uint_t tags_count,
    ngx_commerce_cache_ticket_t *ticket, ngx_commerce_cache_entry_t *entry,
    ngx_pool_t *pool)
{
    u_char                      *data;
    ngx_uint_t                   i;
    ngx_commerce_str_t           bytes, names[NGX_COMMERCE_CACHE_TAGS_MAX];
    ngx_commerce_store_t        *store;
    ngx_commerce_store_found_t   found;

    store = &ngx_commerce_cache_store;

    if (store->shm == NULL || tags_count > NGX_COMMERCE_CACHE_TAGS_MAX) {
        ticket->usable = false;
        return NGX_DECLINED;
    }

    bytes.data = key->data;
    bytes.len = key->len;

    for (i = 0; i < tags_count; i++) {
        names[i].data = tags[i].data;
        names[i].len = tags[i].len;
    }

    ngx_commerce_store_ticket(store, bytes, names, tags_count, ticket);

    if (!ngx_commerce_store_find(store, ticket, ngx_current_msec, &found)) {
        return NGX_DECLINED;
    }

    data = ngx_palloc(pool, found.size + 1);
    if (data == NULL) {
        return NGX_DECLINED;
    }

    if (!ngx_commerce_store_read(store, &found, data)) {
        return NGX_DECLINED;
    }

    entry->status = found.status;
    entry->age = found.age;
    entry->headers.data = data;
    entry->headers.len = found.len[0];
    entry->body.data = data + ngx_commerce_store_offset(&found, 1);
    entry->body.len = found.len[1];
    entry->edge.data = data + ngx_commerce_store_offset(&found, 2);
    entry->edge.len = found.len[2];

    return NGX_OK;
}


void
ngx_commerce_cache_put(ngx_commerce_cache_ticket_t *ticket,
    ngx_commerce_cache_entry_t *entry, ngx_uint_t ttl)
{
    ngx_commerce_str_t  parts[NGX_COMMERCE_STORE_PARTS];

    if (ngx_commerce_cache_store.shm == NULL || !ticket->usable) {
        return;
    }

    parts[0].data = entry->headers.data;
    parts[0].len = entry->headers.len;
    parts[1].data = entry->body.data;
    parts[1].len = entry->body.len;
    parts[2].data = entry->edge.data;
    parts[2].len = entry->edge.len;

    (void) ngx_commerce_store_put(&ngx_commerce_cache_store, ticket,
                                  entry->status, parts, ngx_current_msec,
                                  (uint64_t) ttl * 1000);
}


void
ngx_commerce_cache_invalidate(ngx_str_t *tag)
{
    ngx_commerce_str_t  bytes;

    if (ngx_commerce_cache_store.shm == NULL) {
        return;
    }

    bytes.data = tag->data;
    bytes.len = tag->len;

    ngx_commerce_store_invalidate(&ngx_commerce_cache_store, bytes);
}


void
ngx_commerce_cache_invalidate_all(void)
{
    if (ngx_commerce_cache_store.shm) {
        ngx_commerce_store_invalidate_all(&ngx_commerce_cache_store);
    }
}


ngx_uint_t
ngx_commerce_cache_configured(void)
{
    return ngx_commerce_cache_store.shm != NULL;
}


void
ngx_commerce_cache_stats(ngx_commerce_store_stats_t *stats)
{
    ngx_memzero(stats, sizeof(ngx_commerce_store_stats_t));

    if (ngx_commerce_cache_store.shm) {
        ngx_commerce_store_stats(&ngx_commerce_cache_store, stats);
    }
}


static void *
ngx_commerce_cache_create_main_conf(ngx_conf_t *cf)
{
    return ngx_pcalloc(cf->pool, sizeof(ngx_commerce_cache_main_conf_t));
}


static ngx_int_t
ngx_commerce_cache_init(ngx_conf_t *cf)
{
    ngx_str_t                        name;
    ngx_commerce_cache_main_conf_t  *cmcf;

    cmcf = ngx_http_conf_get_module_main_conf(cf, ngx_commerce_cache_module);

    if (cmcf->tenants_zone == NULL) {
        ngx_str_set(&name, "commerce_tenants");

        cmcf->tenants_zone = ngx_shared_memory_add(cf, &name,
                                            NGX_COMMERCE_CACHE_TENANTS_ZONE,
                                            &ngx_commerce_cache_module);
        if (cmcf->tenants_zone == NULL) {
            return NGX_ERROR;
        }

        cmcf->tenants_zone->init = ngx_commerce_tenant_init_zone;
        cmcf->tenants_zone->data = cmcf;
    }

    cmcf->snapshot = ngx_commerce_pg_statement(cf,
                                        &ngx_commerce_cache_snapshot_text, 0);

    cmcf->notify = ngx_commerce_pg_statement(cf,
                                        &ngx_commerce_cache_notify_text, 1);

    return (cmcf->snapshot && cmcf->notify) ? NGX_OK : NGX_ERROR;
}


static ngx_int_t
ngx_commerce_cache_init_process(ngx_cycle_t *cycle)
{
    ngx_commerce_cache_main_conf_t  *cmcf;

    ngx_commerce_cache_store.shm = NULL;

    if (ngx_process != NGX_PROCESS_WORKER && ngx_process != NGX_PROCESS_SINGLE)
    {
        return NGX_OK;
    }

    cmcf = ngx_http_cycle_get_module_main_conf(cycle,
                                               ngx_commerce_cache_module);

    if (cmcf == NULL) {
        return NGX_OK;
    }

    ngx_commerce_cache_store.shm = cmcf->store.shm;
    ngx_commerce_cache_store.stripe = ngx_worker;

    ngx_commerce_tenant_init(cmcf->tenants,
                      (ngx_slab_pool_t *) cmcf->tenants_zone->shm.addr,
                      cycle->log);
    ngx_commerce_snapshot_init(cmcf->snapshot, cycle->log);

    ngx_commerce_invalidate_init(cmcf->handover, cmcf->notify, cycle->log);

    return NGX_OK;
}


/* commerce_cache_zone (offset 0) and commerce_tenant_zone (offset 1) */

static char *
ngx_commerce_cache_zone(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_commerce_cache_main_conf_t *cmcf = conf;

    ssize_t           size;
    ngx_str_t        *value, name;
    ngx_shm_zone_t  **zone;

    value = cf->args->elts;
    zone = cmd->offset ? &cmcf->tenants_zone : &cmcf->zone;

    if (*zone) {
        return "is duplicate";
    }

    size = ngx_parse_size(&value[1]);

    if (size < NGX_COMMERCE_CACHE_ZONE_MIN) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "%V: \"%V\" is no size of at least 1m; "
                           "write for example \"%V 64m;\"",
                           &cmd->name, &value[1], &cmd->name);
        return NGX_CONF_ERROR;
    }

    if (cmd->offset) {
        ngx_str_set(&name, "commerce_tenants");

    } else {
        ngx_str_set(&name, "commerce_cache");
    }

    *zone = ngx_shared_memory_add(cf, &name, size, &ngx_commerce_cache_module);
    if (*zone == NULL) {
        return NGX_CONF_ERROR;
    }

    (*zone)->init = cmd->offset ? ngx_commerce_tenant_init_zone
                                : ngx_commerce_cache_init_zone;
    (*zone)->data = cmcf;

    return NGX_CONF_OK;
}


/*
 * The slab holds two things, made once: the control block and the store's
 * memory.  A reload that keeps the size only looks at them.
 */

static ngx_int_t
ngx_commerce_cache_init_zone(ngx_shm_zone_t *zone, void *data)
{
    u_char                           secret[16];
    ngx_slab_pool_t                 *shpool;
    ngx_commerce_cache_sh_t         *sh;
    ngx_commerce_cache_main_conf_t  *cmcf;

    cmcf = zone->data;
    shpool = (ngx_slab_pool_t *) zone->shm.addr;

    if (data) {
        sh = shpool->data;

        if (ngx_commerce_store_open(&cmcf->store, sh->memory, sh->size)
            != NGX_COMMERCE_OK)
        {
            ngx_log_error(NGX_LOG_EMERG, zone->shm.log, 0,
                          "commerce_cache_zone was laid out by another "
                          "version; change its size or restart nginx");
            return NGX_ERROR;
        }

        cmcf->handover = &sh->handover;
        return NGX_OK;
    }

    sh = ngx_slab_calloc(shpool, sizeof(ngx_commerce_cache_sh_t));
    if (sh == NULL) {
        return NGX_ERROR;
    }

    sh->size = shpool->pfree * ngx_pagesize;
    sh->memory = ngx_slab_alloc(shpool, sh->size);

    if (sh->memory == NULL || RAND_bytes(secret, sizeof(secret)) != 1) {
        return NGX_ERROR;
    }

    shpool->data = sh;
    cmcf->handover = &sh->handover;

    if (ngx_commerce_store_create(&cmcf->store, sh->memory, sh->size, secret)
        != NGX_COMMERCE_OK)
    {
        ngx_log_error(NGX_LOG_EMERG, zone->shm.log, 0,
                      "commerce_cache_zone is too small, give it 1m or more");
        return NGX_ERROR;
    }

    return NGX_OK;
}
