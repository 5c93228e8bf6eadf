/*
 * Directives and zones of the response cache; getting, putting, invalidating.
 */

#include "ngx_commerce_cache_internal.h"
#include <ngx_http.h>

#include <openssl/rand.h>


#define NGX_COMMERCE_CACHE_ZONE_MIN  (1024 * 1024)
#define NGX_COMMERCE_CACHE_NEAR      (4 * 1024 * 1024)


/* At shpool->data: where the store is, for the next cycle. */

typedef struct {
    void                      *memory;
    size_t                     size;
    ngx_commerce_handover_t    handover;
} ngx_commerce_cache_sh_t;


static void *ngx_commerce_cache_create_main_conf(ngx_conf_t *cf);
static ngx_int_t ngx_commerce_cache_init(ngx_conf_t *cf);
static ngx_int_t ngx_commerce_cache_init_process(ngx_cycle_t *cycle);
static void ngx_commerce_cache_exit_process(ngx_cycle_t *cycle);
static void ngx_commerce_cache_release(void *data);
static char *ngx_commerce_cache_zone(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static ngx_int_t ngx_commerce_cache_parameter(ngx_conf_t *cf,
    ngx_commerce_cache_zone_t *place, ngx_str_t *value);
static ngx_int_t ngx_commerce_cache_init_zone(ngx_shm_zone_t *zone,
    void *data);


static ngx_command_t  ngx_commerce_cache_commands[] = {

    { ngx_string("commerce_cache_zone"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE12,
      ngx_commerce_cache_zone,
      NGX_HTTP_MAIN_CONF_OFFSET,
      offsetof(ngx_commerce_cache_main_conf_t, answers),
      NULL },

    { ngx_string("commerce_gate_zone"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_commerce_cache_zone,
      NGX_HTTP_MAIN_CONF_OFFSET,
      offsetof(ngx_commerce_cache_main_conf_t, gates),
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
    ngx_commerce_cache_exit_process,       /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


static ngx_str_t  ngx_commerce_cache_notify_text = ngx_string(
    "SELECT pg_notify('commerce_handover', $1)");

/* this worker's view; shm == NULL: no cache */
static ngx_commerce_store_t  ngx_commerce_cache_store;
static ngx_commerce_near_t   ngx_commerce_cache_near;
static ngx_commerce_store_t  ngx_commerce_gate_store;


ngx_int_t
ngx_commerce_cache_get(ngx_str_t *key, ngx_commerce_cache_ticket_t *ticket,
    ngx_commerce_cache_entry_t *entry, ngx_pool_t *pool)
{
    if (ngx_commerce_cache_store.shm) {
        ngx_commerce_store_key(&ngx_commerce_cache_store,
                               (ngx_commerce_str_t) { key->len, key->data },
                               ticket);
    }

    return ngx_commerce_cache_again(ticket, entry, pool);
}


ngx_int_t
ngx_commerce_cache_again(ngx_commerce_cache_ticket_t *ticket,
    ngx_commerce_cache_entry_t *entry, ngx_pool_t *pool)
{
    u_char                      *data;
    ngx_pool_cleanup_t          *cln;
    ngx_commerce_store_t        *store;
    ngx_commerce_near_entry_t   *near;
    ngx_commerce_store_found_t   found;

    store = &ngx_commerce_cache_store;
    ticket->usable = false;

    if (store->shm == NULL) {
        return NGX_DECLINED;
    }

    near = ngx_commerce_near_find(&ngx_commerce_cache_near, ticket,
                                  ngx_current_msec);

    if (near == NULL
        && ngx_commerce_store_find(store, ticket, ngx_current_msec, &found))
    {
        near = ngx_commerce_near_read(&ngx_commerce_cache_near, &found);
    }

    if (near == NULL) {
        return NGX_DECLINED;
    }

    cln = ngx_pool_cleanup_add(pool, 0);

    if (cln == NULL) {
        ngx_commerce_near_release(near);
        return NGX_DECLINED;
    }

    cln->handler = ngx_commerce_cache_release;
    cln->data = near;

    data = (u_char *) near->data;

    entry->status = near->found.status;
    entry->age = near->found.age;
    entry->headers.data = data;
    entry->headers.len = near->found.len[0];
    entry->body.data = data + ngx_commerce_store_offset(&near->found, 1);
    entry->body.len = near->found.len[1];
    entry->edge.data = data + ngx_commerce_store_offset(&near->found, 2);
    entry->edge.len = near->found.len[2];
    entry->place = near;

    return NGX_OK;
}


void
ngx_commerce_cache_expect(const void *place)
{
    if (place) {
        ngx_commerce_near_expect(place);
    }
}


static void
ngx_commerce_cache_release(void *data)
{
    ngx_commerce_near_release(data);
}


void
ngx_commerce_cache_tags(ngx_commerce_cache_ticket_t *ticket, ngx_str_t *tags,
    ngx_uint_t count)
{
    if (ngx_commerce_cache_store.shm) {
        ngx_commerce_store_tags(&ngx_commerce_cache_store,
                                (ngx_commerce_str_t *) tags, count, ticket);
    }
}


void
ngx_commerce_cache_put(ngx_commerce_cache_ticket_t *ticket,
    ngx_commerce_cache_entry_t *entry, ngx_uint_t ttl)
{
    uint64_t            ms;
    ngx_commerce_str_t  parts[NGX_COMMERCE_STORE_PARTS];

    if (ngx_commerce_cache_store.shm == NULL || !ticket->usable) {
        return;
    }

    /* what was made together is not due together: by up to an eighth earlier, each by its name */

    ms = (uint64_t) ttl * 1000;
    ms -= ticket->key[1] % (ms / 8 + 1);

    parts[0].data = entry->headers.data;
    parts[0].len = entry->headers.len;
    parts[1].data = entry->body.data;
    parts[1].len = entry->body.len;
    parts[2].data = entry->edge.data;
    parts[2].len = entry->edge.len;

    ngx_commerce_near_forget(&ngx_commerce_cache_near, ticket);

    (void) ngx_commerce_store_put(&ngx_commerce_cache_store, ticket,
                                  entry->status, parts, ngx_current_msec, ms);
}


ngx_uint_t
ngx_commerce_gate_configured(void)
{
    return ngx_commerce_gate_store.shm != NULL;
}


ngx_uint_t
ngx_commerce_gate_find(ngx_str_t *key, ngx_str_t *tag,
    ngx_commerce_cache_ticket_t *ticket, uint32_t *number)
{
    uint64_t                     none;
    ngx_commerce_store_t        *store;
    ngx_commerce_store_found_t   found;

    store = &ngx_commerce_gate_store;

    if (store->shm == NULL) {
        ticket->usable = false;
        return 0;
    }

    ngx_commerce_store_key(store, (ngx_commerce_str_t) { key->len, key->data },
                           ticket);
    ngx_commerce_store_tags(store, (ngx_commerce_str_t *) tag, tag ? 1 : 0,
                            ticket);

    /* an answer may be served past its time, a refusal may not */

    if (!ngx_commerce_store_find(store, ticket, ngx_current_msec, &found)
        || found.stale || found.size
        || !ngx_commerce_store_read(store, &found, (uint8_t *) &none))
    {
        return 0;
    }

    *number = found.status;

    return 1;
}


void
ngx_commerce_gate_keep(ngx_commerce_cache_ticket_t *ticket, uint32_t number,
    ngx_uint_t ttl)
{
    ngx_commerce_str_t  parts[NGX_COMMERCE_STORE_PARTS];

    if (ngx_commerce_gate_store.shm == NULL || !ticket->usable) {
        return;
    }

    ngx_memzero(parts, sizeof(parts));

    (void) ngx_commerce_store_put(&ngx_commerce_gate_store, ticket, number,
                                  parts, ngx_current_msec,
                                  (uint64_t) ttl * 1000);
}


void
ngx_commerce_cache_invalidate(ngx_str_t *tag)
{
    ngx_commerce_str_t  bytes;

    bytes.data = tag->data;
    bytes.len = tag->len;

    if (ngx_commerce_cache_store.shm) {
        ngx_commerce_store_invalidate(&ngx_commerce_cache_store, bytes);
    }

    if (ngx_commerce_gate_store.shm) {
        ngx_commerce_store_invalidate(&ngx_commerce_gate_store, bytes);
    }
}


void
ngx_commerce_cache_invalidate_all(void)
{
    if (ngx_commerce_cache_store.shm) {
        ngx_commerce_store_invalidate_all(&ngx_commerce_cache_store);
    }

    if (ngx_commerce_gate_store.shm) {
        ngx_commerce_store_invalidate_all(&ngx_commerce_gate_store);
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
    ngx_commerce_cache_main_conf_t  *cmcf;

    cmcf = ngx_http_conf_get_module_main_conf(cf, ngx_commerce_cache_module);

    cmcf->notify = ngx_commerce_pg_statement(cf,
                                        &ngx_commerce_cache_notify_text, 1);

    return cmcf->notify ? NGX_OK : NGX_ERROR;
}


static ngx_int_t
ngx_commerce_cache_init_process(ngx_cycle_t *cycle)
{
    ngx_commerce_cache_main_conf_t  *cmcf;

    ngx_commerce_cache_store.shm = NULL;
    ngx_commerce_gate_store.shm = NULL;

    if (ngx_process != NGX_PROCESS_WORKER && ngx_process != NGX_PROCESS_SINGLE)
    {
        return NGX_OK;
    }

    cmcf = ngx_http_cycle_get_module_main_conf(cycle,
                                               ngx_commerce_cache_module);

    if (cmcf == NULL) {
        return NGX_OK;
    }

    ngx_commerce_cache_store.shm = cmcf->answers.store.shm;
    ngx_commerce_cache_store.stripe = ngx_worker;

    if (ngx_commerce_cache_store.shm) {
        ngx_commerce_near_init(&ngx_commerce_cache_near,
                               &ngx_commerce_cache_store,
                               cmcf->answers.near);
    }

    ngx_commerce_gate_store.shm = cmcf->gates.store.shm;
    ngx_commerce_gate_store.stripe = ngx_worker;

    ngx_commerce_invalidate_init(cmcf->answers.zone ? cmcf->answers.handover
                                                    : cmcf->gates.handover,
                                 cmcf->notify, cycle->log);

    return NGX_OK;
}


static void
ngx_commerce_cache_exit_process(ngx_cycle_t *cycle)
{
    ngx_commerce_near_free(&ngx_commerce_cache_near);
}


static char *
ngx_commerce_cache_zone(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ssize_t                     size;
    ngx_str_t                  *value, name;
    ngx_commerce_cache_zone_t  *place;

    value = cf->args->elts;
    place = (ngx_commerce_cache_zone_t *) ((char *) conf + cmd->offset);

    if (place->zone) {
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

    place->near = NGX_COMMERCE_CACHE_NEAR;

    if (cf->args->nelts == 3
        && ngx_commerce_cache_parameter(cf, place, &value[2]) != NGX_OK)
    {
        return NGX_CONF_ERROR;
    }

    if (cmd->offset == offsetof(ngx_commerce_cache_main_conf_t, gates)) {
        ngx_str_set(&name, "commerce_gate");

    } else {
        ngx_str_set(&name, "commerce_cache");
    }

    place->zone = ngx_shared_memory_add(cf, &name, size,
                                        &ngx_commerce_cache_module);
    if (place->zone == NULL) {
        return NGX_CONF_ERROR;
    }

    place->zone->init = ngx_commerce_cache_init_zone;
    place->zone->data = place;

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_commerce_cache_parameter(ngx_conf_t *cf,
    ngx_commerce_cache_zone_t *place, ngx_str_t *value)
{
    ssize_t    size;
    ngx_str_t  text;

    if (value->len > 5 && ngx_strncmp(value->data, "near=", 5) == 0) {
        text.data = value->data + 5;
        text.len = value->len - 5;
        size = ngx_parse_size(&text);

        if (size >= 0) {
            place->near = size;
            return NGX_OK;
        }
    }

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "commerce_cache_zone: \"%V\" is unknown; after the size "
                       "only \"near=4m\" may stand, the memory of each worker "
                       "for what is asked for most (0: none)", value);

    return NGX_ERROR;
}


/*
 * The slab holds two things, made once: the control block and the store's
 * memory.  A reload that keeps the size only looks at them.
 */

static ngx_int_t
ngx_commerce_cache_init_zone(ngx_shm_zone_t *zone, void *data)
{
    u_char                      secret[16];
    ngx_slab_pool_t            *shpool;
    ngx_commerce_cache_sh_t    *sh;
    ngx_commerce_cache_zone_t  *place;

    place = zone->data;
    shpool = (ngx_slab_pool_t *) zone->shm.addr;

    if (data) {
        sh = shpool->data;

        if (ngx_commerce_store_open(&place->store, sh->memory, sh->size)
            != NGX_COMMERCE_OK)
        {
            ngx_log_error(NGX_LOG_EMERG, zone->shm.log, 0,
                          "the zone %V was laid out by another version; "
                          "change its size or restart nginx",
                          &zone->shm.name);
            return NGX_ERROR;
        }

        place->handover = &sh->handover;
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
    place->handover = &sh->handover;

    if (ngx_commerce_store_create(&place->store, sh->memory, sh->size, secret)
        != NGX_COMMERCE_OK)
    {
        ngx_log_error(NGX_LOG_EMERG, zone->shm.log, 0,
                      "the zone %V is too small, give it 1m or more",
                      &zone->shm.name);
        return NGX_ERROR;
    }

    return NGX_OK;
}
