/*
 * Directives and zones of recommendations; the workers' view of the tables
 * and of what customers did last.
 */

#include "ngx_commerce_recs_internal.h"
#include "ngx_commerce_pg.h"
#include "ngx_commerce_pool.h"

#include <ngx_http.h>

#include <openssl/rand.h>


#define NGX_COMMERCE_RECS_ZONE_MIN    (4 * 1024 * 1024)
#define NGX_COMMERCE_RECS_RECENT_MIN  (64 * 1024)
#define NGX_COMMERCE_RECS_CACHED      256         /* tables that a worker has open */
#define NGX_COMMERCE_RECS_REFUSALS    128         /* of the zone, one part for what was refused: two to four names a table */


/* A table that this worker has looked into. */

typedef struct {
    uint64_t                    tenant;
    uint64_t                    serial;     /* 0: none */
    ngx_commerce_similarity_t   table;
} ngx_commerce_recs_open_t;

typedef struct {
    ngx_commerce_tables_t               tables;     /* shm == NULL: off */
    ngx_commerce_refusals_t             refusals;
    ngx_commerce_recent_t               recent;     /* shm == NULL: off */
    ngx_commerce_recs_sh_t             *sh;
    ngx_msec_t                          valid;
    ngx_commerce_recommend_scratch_t   *scratch;
    ngx_commerce_recs_open_t           *open;       /* by tenant % CACHED */
} ngx_commerce_recs_t;


static void *ngx_commerce_recs_create_main_conf(ngx_conf_t *cf);
static char *ngx_commerce_recs_init_main_conf(ngx_conf_t *cf, void *conf);
static ngx_int_t ngx_commerce_recs_init(ngx_conf_t *cf);
static ngx_int_t ngx_commerce_recs_init_process(ngx_cycle_t *cycle);
static char *ngx_commerce_recs_similarity_zone(ngx_conf_t *cf,
    ngx_command_t *cmd, void *conf);
static char *ngx_commerce_recs_recent_zone(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static ngx_shm_zone_t *ngx_commerce_recs_zone(ngx_conf_t *cf,
    ngx_command_t *cmd, ngx_str_t *value, ssize_t min);
static ngx_int_t ngx_commerce_recs_init_zone(ngx_shm_zone_t *zone,
    void *data);
static ngx_int_t ngx_commerce_recs_init_recent(ngx_shm_zone_t *zone,
    void *data);
static ngx_int_t ngx_commerce_recs_memory(ngx_slab_pool_t *shpool,
    ngx_commerce_recs_area_t *area);
static void ngx_commerce_recs_notify(ngx_str_t *channel, ngx_str_t *payload);
static ngx_commerce_str_t ngx_commerce_recs_shop(ngx_str_t *tenant,
    u_char *buf);


static ngx_command_t  ngx_commerce_recs_commands[] = {

    { ngx_string("commerce_similarity_zone"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE123,
      ngx_commerce_recs_similarity_zone,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("commerce_recent_zone"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE12,
      ngx_commerce_recs_recent_zone,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

      ngx_null_command
};


static ngx_http_module_t  ngx_commerce_recs_module_ctx = {
    NULL,                                  /* preconfiguration */
    ngx_commerce_recs_init,                /* postconfiguration */

    ngx_commerce_recs_create_main_conf,    /* create main configuration */
    ngx_commerce_recs_init_main_conf,      /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    NULL,                                  /* create location configuration */
    NULL                                   /* merge location configuration */
};


ngx_module_t  ngx_commerce_recs_module = {
    NGX_MODULE_V1,
    &ngx_commerce_recs_module_ctx,         /* module context */
    ngx_commerce_recs_commands,            /* module directives */
    NGX_HTTP_MODULE,                       /* module type */
    NULL,                                  /* init master */
    NULL,                                  /* init module */
    ngx_commerce_recs_init_process,        /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    NULL,                                  /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


static ngx_str_t  ngx_commerce_recs_pool_name = ngx_string("commerce_files");

static ngx_commerce_recs_t  ngx_commerce_recs;


const ngx_commerce_similarity_t *
ngx_commerce_recs_enter(ngx_str_t *tenant, uint64_t *serial)
{
    uint64_t                      id;
    const char                   *why;
    ngx_commerce_recs_open_t     *open;
    ngx_commerce_tables_found_t   found;

    if (ngx_commerce_recs.tables.shm == NULL) {
        return NULL;
    }

    id = ngx_atoof(tenant->data, tenant->len);
    open = &ngx_commerce_recs.open[id % NGX_COMMERCE_RECS_CACHED];

    ngx_commerce_tables_enter(&ngx_commerce_recs.tables);

    if (!ngx_commerce_tables_find(&ngx_commerce_recs.tables, id, &found)) {
        ngx_commerce_tables_leave(&ngx_commerce_recs.tables);
        return NULL;
    }

    if (open->serial != found.serial || open->tenant != id) {

        open->serial = 0;

        if (ngx_commerce_similarity_attach(&open->table, found.data,
                                           found.size, &why)
            != NGX_COMMERCE_OK)
        {
            ngx_commerce_tables_leave(&ngx_commerce_recs.tables);

            ngx_log_error(NGX_LOG_ALERT, ngx_cycle->log, 0,
                          "the table of tenant %V in "
                          "commerce_similarity_zone is damaged: %s", tenant,
                          why);
            return NULL;
        }

        open->tenant = id;
        open->serial = found.serial;
    }

    *serial = found.serial;

    return &open->table;
}


void
ngx_commerce_recs_leave(void)
{
    ngx_commerce_tables_leave(&ngx_commerce_recs.tables);
}


ngx_commerce_recommend_scratch_t *
ngx_commerce_recs_scratch(void)
{
    return ngx_commerce_recs.scratch;
}


uint64_t
ngx_commerce_recs_who(ngx_str_t *tenant, ngx_str_t *customer)
{
    u_char  buf[NGX_INT64_LEN + 1];

    if (ngx_commerce_recs.recent.shm == NULL) {
        return 0;
    }

    return ngx_commerce_recent_key(&ngx_commerce_recs.recent,
                       ngx_commerce_recs_shop(tenant, buf),
                       (ngx_commerce_str_t) { customer->len, customer->data });
}


ngx_commerce_recent_rc_t
ngx_commerce_recs_look(uint64_t who, uint64_t *state, uint64_t *heard)
{
    ngx_time_t  *tp;

    if (ngx_commerce_recs.recent.shm == NULL) {
        *state = 0;
        *heard = 0;
        return NGX_COMMERCE_RECENT_FILL_IT;
    }

    tp = ngx_timeofday();

    return ngx_commerce_recent_look(&ngx_commerce_recs.recent, who,
                                    (int64_t) tp->sec * 1000 + tp->msec,
                                    ngx_commerce_recs.valid, state, heard);
}


ngx_commerce_recent_rc_t
ngx_commerce_recs_recent(ngx_str_t *tenant, ngx_str_t *customer,
    ngx_commerce_recent_event_t events[NGX_COMMERCE_RECENT_EVENTS],
    uint32_t *n, ngx_commerce_recent_never_t *never, uint64_t *state)
{
    u_char       buf[NGX_INT64_LEN + 1];
    ngx_time_t  *tp;

    if (ngx_commerce_recs.recent.shm == NULL) {
        *n = 0;
        *state = 0;
        never->n = 0;
        return NGX_COMMERCE_RECENT_FILL_IT;
    }

    tp = ngx_timeofday();

    return ngx_commerce_recent_read(&ngx_commerce_recs.recent,
                       ngx_commerce_recs_shop(tenant, buf),
                       (ngx_commerce_str_t) { customer->len, customer->data },
                       (int64_t) tp->sec * 1000 + tp->msec,
                       INT64_MAX, events, n, never, state);
}


void
ngx_commerce_recs_recent_add(ngx_str_t *tenant, ngx_str_t *customer,
    uint64_t item, ngx_commerce_event_t event)
{
    u_char                        buf[NGX_INT64_LEN + 1];
    ngx_time_t                   *tp;
    ngx_commerce_recent_event_t   e;

    if (ngx_commerce_recs.recent.shm == NULL) {
        return;
    }

    tp = ngx_timeofday();

    e.item = item;
    e.event = event;
    e.time = (int64_t) tp->sec * 1000 + tp->msec;

    (void) ngx_commerce_recent_add(&ngx_commerce_recs.recent,
                       ngx_commerce_recs_shop(tenant, buf),
                       (ngx_commerce_str_t) { customer->len, customer->data },
                       &e, event == NGX_COMMERCE_EVENT_PURCHASE
                           || event == NGX_COMMERCE_EVENT_DISMISS);
}


void
ngx_commerce_recs_recent_fill(ngx_str_t *tenant, ngx_str_t *customer,
    uint64_t heard, const ngx_commerce_recent_event_t *events, uint32_t n,
    const uint64_t *never, uint32_t m)
{
    u_char       buf[NGX_INT64_LEN + 1];
    ngx_time_t  *tp;

    if (ngx_commerce_recs.recent.shm == NULL) {
        return;
    }

    tp = ngx_timeofday();

    ngx_commerce_recent_fill(&ngx_commerce_recs.recent,
                       ngx_commerce_recs_shop(tenant, buf),
                       (ngx_commerce_str_t) { customer->len, customer->data },
                       (int64_t) tp->sec * 1000 + tp->msec, heard, events, n,
                       never, m);
}


void
ngx_commerce_recs_recent_forget(ngx_str_t *tenant, ngx_str_t *customer)
{
    u_char  buf[NGX_INT64_LEN + 1];

    if (ngx_commerce_recs.recent.shm) {
        ngx_commerce_recent_forget(&ngx_commerce_recs.recent,
                       ngx_commerce_recs_shop(tenant, buf),
                       (ngx_commerce_str_t) { customer->len, customer->data });
    }
}


/*
 * "TENANT:CUSTOMER PRODUCT MS": what a customer did, on whatever node;
 * "TENANT:CUSTOMER": who is to be forgotten, for something was taken back.
 */

static void
ngx_commerce_recs_notify(ngx_str_t *channel, ngx_str_t *payload)
{
    off_t       product, time;
    u_char     *colon, *first, *second, *last, buf[NGX_INT64_LEN + 1];
    ngx_str_t   tenant, customer;

    last = payload->data + payload->len;
    colon = ngx_strlchr(payload->data, last, ':');
    first = colon ? ngx_strlchr(colon, last, ' ') : NULL;
    second = first ? ngx_strlchr(first + 1, last, ' ') : NULL;

    if (channel->len == 0 || colon == NULL) {
        return;
    }

    tenant.data = payload->data;
    tenant.len = colon - payload->data;

    if (first == NULL) {
        customer.data = colon + 1;
        customer.len = last - customer.data;
        ngx_commerce_recs_recent_forget(&tenant, &customer);
        return;
    }

    if (second == NULL) {
        return;
    }

    product = ngx_atoof(first + 1, second - first - 1);
    time = ngx_atoof(second + 1, last - second - 1);

    if (product == NGX_ERROR || time == NGX_ERROR) {
        return;
    }

    ngx_commerce_recent_heard(&ngx_commerce_recs.recent,
                       ngx_commerce_recs_shop(&tenant, buf),
                       (ngx_commerce_str_t) { first - colon - 1, colon + 1 },
                       product, time);
}


/* With the byte that ends it: tenant 1 and customer 23 are not tenant 12 and customer 3. */

static ngx_commerce_str_t
ngx_commerce_recs_shop(ngx_str_t *tenant, u_char *buf)
{
    size_t  len;

    len = ngx_min(tenant->len, NGX_INT64_LEN);

    ngx_memcpy(buf, tenant->data, len);
    buf[len] = '\0';

    return (ngx_commerce_str_t) { len + 1, buf };
}


void
ngx_commerce_recs_status(ngx_commerce_recs_status_t *status)
{
    ngx_memzero(status, sizeof(ngx_commerce_recs_status_t));

    if (ngx_commerce_recs.sh == NULL) {
        return;
    }

    status->configured = 1;
    status->tables = ngx_commerce_recs.sh->tables;
    status->refused = ngx_commerce_recs.sh->refused;
    status->generation = ngx_commerce_recs.sh->generation;
    status->created = (int64_t) ngx_commerce_recs.sh->created * 1000;
}


ngx_int_t
ngx_commerce_recs_loaded(ngx_str_t *tenant, int64_t *loaded,
    uint64_t *refusals)
{
    uint64_t                      id;
    ngx_commerce_tables_found_t   found;

    if (ngx_commerce_recs.tables.shm == NULL) {
        return NGX_DECLINED;
    }

    id = ngx_atoof(tenant->data, tenant->len);

    ngx_commerce_tables_enter(&ngx_commerce_recs.tables);

    *loaded = ngx_commerce_tables_find(&ngx_commerce_recs.tables, id, &found)
              ? found.loaded : 0;

    ngx_commerce_tables_leave(&ngx_commerce_recs.tables);

    *refusals = ngx_commerce_refusals_count(&ngx_commerce_recs.refusals, id);

    return NGX_OK;
}


static void *
ngx_commerce_recs_create_main_conf(ngx_conf_t *cf)
{
    ngx_commerce_recs_main_conf_t  *rmcf;

    rmcf = ngx_pcalloc(cf->pool, sizeof(ngx_commerce_recs_main_conf_t));
    if (rmcf == NULL) {
        return NULL;
    }

    /*
     * set by ngx_pcalloc():
     *
     *     rmcf->zone = rmcf->recent_zone = NULL;
     *     rmcf->path = { 0, NULL };
     *     rmcf->pool = NULL;
     *     rmcf->sh = NULL;
     *     rmcf->tables.shm = rmcf->refusals.shm = rmcf->recent.shm = NULL;
     */

    rmcf->interval = NGX_CONF_UNSET_MSEC;
    rmcf->valid = NGX_CONF_UNSET_MSEC;

    return rmcf;
}


static char *
ngx_commerce_recs_init_main_conf(ngx_conf_t *cf, void *conf)
{
    ngx_commerce_recs_main_conf_t *rmcf = conf;

    ngx_conf_init_msec_value(rmcf->interval, 1000);
    ngx_conf_init_msec_value(rmcf->valid, 300000);

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_commerce_recs_init(ngx_conf_t *cf)
{
    ngx_commerce_recs_main_conf_t  *rmcf;

    rmcf = ngx_http_conf_get_module_main_conf(cf, ngx_commerce_recs_module);

    if (rmcf->zone == NULL) {
        return NGX_OK;
    }

    rmcf->pool = ngx_commerce_threads(cf, &ngx_commerce_recs_pool_name, 1, 16);

    return rmcf->pool ? NGX_OK : NGX_ERROR;
}


static ngx_int_t
ngx_commerce_recs_init_process(ngx_cycle_t *cycle)
{
    ngx_commerce_alloc_t            alloc;
    ngx_commerce_recs_main_conf_t  *rmcf;

    ngx_memzero(&ngx_commerce_recs, sizeof(ngx_commerce_recs_t));

    if (ngx_process != NGX_PROCESS_WORKER && ngx_process != NGX_PROCESS_SINGLE)
    {
        return NGX_OK;
    }

    rmcf = ngx_http_cycle_get_module_main_conf(cycle,
                                               ngx_commerce_recs_module);

    if (rmcf == NULL) {
        return NGX_OK;
    }

    ngx_commerce_recs.recent = rmcf->recent;
    ngx_commerce_recs.valid = rmcf->valid;

    if (rmcf->recent_zone) {
        ngx_commerce_pg_on_notify("commerce_recent", ngx_commerce_recs_notify);
    }

    if (rmcf->zone == NULL) {
        return NGX_OK;
    }

    alloc = ngx_commerce_pool_alloc(cycle->pool);

    ngx_commerce_recs.scratch = ngx_commerce_recommend_scratch(&alloc,
                                                NGX_COMMERCE_RECENT_EVENTS);
    ngx_commerce_recs.open = ngx_pcalloc(cycle->pool,
                   NGX_COMMERCE_RECS_CACHED * sizeof(ngx_commerce_recs_open_t));

    if (ngx_commerce_recs.scratch == NULL || ngx_commerce_recs.open == NULL) {
        return NGX_ERROR;
    }

    ngx_commerce_recs.sh = rmcf->sh;
    ngx_commerce_recs.tables = rmcf->tables;
    ngx_commerce_recs.refusals = rmcf->refusals;
    ngx_commerce_tables_join(&ngx_commerce_recs.tables, ngx_process_slot);

    if (ngx_worker == 0) {
        ngx_commerce_recs_loader_init(cycle, rmcf);
    }

    return NGX_OK;
}


/* name:size path=FOLDER [interval=TIME] */

static char *
ngx_commerce_recs_similarity_zone(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_commerce_recs_main_conf_t *rmcf = conf;

    ngx_str_t   *value, s;
    ngx_uint_t   i;

    if (rmcf->zone) {
        return "is duplicate";
    }

    value = cf->args->elts;

    for (i = 2; i < cf->args->nelts; i++) {

        if (ngx_strncmp(value[i].data, "path=", 5) == 0 && value[i].len > 5) {
            rmcf->path.data = value[i].data + 5;
            rmcf->path.len = value[i].len - 5;

            if (ngx_conf_full_name(cf->cycle, &rmcf->path, 0) != NGX_OK) {
                return NGX_CONF_ERROR;
            }

            continue;
        }

        if (ngx_strncmp(value[i].data, "interval=", 9) == 0) {
            s.data = value[i].data + 9;
            s.len = value[i].len - 9;

            rmcf->interval = ngx_parse_time(&s, 0);

            if (rmcf->interval == (ngx_msec_t) NGX_ERROR
                || rmcf->interval < 100)
            {
                ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                                   "%V: \"%V\" is no time of at least 100ms; "
                                   "write for example \"interval=1s\"",
                                   &cmd->name, &value[i]);
                return NGX_CONF_ERROR;
            }

            continue;
        }

        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "%V: unknown parameter \"%V\"; there are "
                           "path=FOLDER and interval=TIME",
                           &cmd->name, &value[i]);
        return NGX_CONF_ERROR;
    }

    if (rmcf->path.len == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "%V: say where the tables are: "
                           "\"%V %V path=/var/lib/commerce;\"",
                           &cmd->name, &cmd->name, &value[1]);
        return NGX_CONF_ERROR;
    }

    rmcf->zone = ngx_commerce_recs_zone(cf, cmd, &value[1],
                                        NGX_COMMERCE_RECS_ZONE_MIN);
    if (rmcf->zone == NULL) {
        return NGX_CONF_ERROR;
    }

    rmcf->zone->init = ngx_commerce_recs_init_zone;
    rmcf->zone->data = rmcf;

    return NGX_CONF_OK;
}


/* name:size [valid=TIME] */

static char *
ngx_commerce_recs_recent_zone(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_commerce_recs_main_conf_t *rmcf = conf;

    ngx_str_t  *value, s;

    if (rmcf->recent_zone) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (cf->args->nelts == 3) {

        s.data = value[2].data + 6;
        s.len = value[2].len - 6;

        if (value[2].len <= 6 || ngx_strncmp(value[2].data, "valid=", 6) != 0
            || (rmcf->valid = ngx_parse_time(&s, 0)) == (ngx_msec_t) NGX_ERROR
            || rmcf->valid == 0)
        {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "%V: unknown parameter \"%V\"; there is "
                               "valid=TIME", &cmd->name, &value[2]);
            return NGX_CONF_ERROR;
        }
    }

    rmcf->recent_zone = ngx_commerce_recs_zone(cf, cmd, &value[1],
                                               NGX_COMMERCE_RECS_RECENT_MIN);
    if (rmcf->recent_zone == NULL) {
        return NGX_CONF_ERROR;
    }

    rmcf->recent_zone->init = ngx_commerce_recs_init_recent;
    rmcf->recent_zone->data = rmcf;

    return NGX_CONF_OK;
}


static ngx_shm_zone_t *
ngx_commerce_recs_zone(ngx_conf_t *cf, ngx_command_t *cmd, ngx_str_t *value,
    ssize_t min)
{
    u_char     *p;
    ssize_t     size;
    ngx_str_t   name, s;

    p = (u_char *) ngx_strlchr(value->data, value->data + value->len, ':');
    size = NGX_ERROR;

    if (p && p != value->data) {
        s.data = p + 1;
        s.len = value->data + value->len - s.data;
        size = ngx_parse_size(&s);
    }

    if (size < min) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "%V: \"%V\" is not name:size with a size of at "
                           "least %zk; write for example \"%V recs:64m …;\"",
                           &cmd->name, value, min / 1024, &cmd->name);
        return NULL;
    }

    name.data = value->data;
    name.len = p - value->data;

    return ngx_shared_memory_add(cf, &name, size, &ngx_commerce_recs_module);
}


/* A reload that keeps the size only looks. */

static ngx_int_t
ngx_commerce_recs_init_zone(ngx_shm_zone_t *zone, void *data)
{
    ngx_slab_pool_t                *shpool;
    ngx_commerce_recs_sh_t         *sh;
    ngx_commerce_recs_main_conf_t  *rmcf;

    rmcf = zone->data;
    shpool = (ngx_slab_pool_t *) zone->shm.addr;

    if (data) {
        rmcf->sh = shpool->data;

        if (ngx_commerce_tables_open(&rmcf->tables, rmcf->sh->area.memory,
                                     rmcf->sh->area.size)
            != NGX_COMMERCE_OK
            || ngx_commerce_refusals_open(&rmcf->refusals,
                                          rmcf->sh->refusals.memory,
                                          rmcf->sh->refusals.size)
               != NGX_COMMERCE_OK)
        {
            ngx_log_error(NGX_LOG_EMERG, zone->shm.log, 0,
                          "commerce_similarity_zone \"%V\" was laid out by "
                          "another version; change its size or restart "
                          "nginx", &zone->shm.name);
            return NGX_ERROR;
        }

        return NGX_OK;
    }

    sh = ngx_slab_calloc(shpool, sizeof(ngx_commerce_recs_sh_t));
    if (sh == NULL) {
        return NGX_ERROR;
    }

    sh->refusals.size = zone->shm.size / NGX_COMMERCE_RECS_REFUSALS
                        + ngx_pagesize;
    sh->refusals.memory = ngx_slab_calloc(shpool, sh->refusals.size);

    if (sh->refusals.memory == NULL
        || ngx_commerce_refusals_create(&rmcf->refusals, sh->refusals.memory,
                                        sh->refusals.size)
           != NGX_COMMERCE_OK
        || ngx_commerce_recs_memory(shpool, &sh->area) != NGX_OK
        || ngx_commerce_tables_create(&rmcf->tables, sh->area.memory,
                                      sh->area.size)
           != NGX_COMMERCE_OK)
    {
        ngx_log_error(NGX_LOG_EMERG, zone->shm.log, 0,
                      "commerce_similarity_zone \"%V\" is too small, give it "
                      "%uzm or more", &zone->shm.name,
                      (size_t) NGX_COMMERCE_RECS_ZONE_MIN / 1024 / 1024);
        return NGX_ERROR;
    }

    shpool->data = sh;
    rmcf->sh = sh;

    return NGX_OK;
}


static ngx_int_t
ngx_commerce_recs_init_recent(ngx_shm_zone_t *zone, void *data)
{
    u_char                          secret[16];
    ngx_slab_pool_t                *shpool;
    ngx_commerce_recs_area_t       *area;
    ngx_commerce_recs_main_conf_t  *rmcf;

    rmcf = zone->data;
    shpool = (ngx_slab_pool_t *) zone->shm.addr;

    if (data) {
        area = shpool->data;

        if (ngx_commerce_recent_open(&rmcf->recent, area->memory, area->size)
            != NGX_COMMERCE_OK)
        {
            ngx_log_error(NGX_LOG_EMERG, zone->shm.log, 0,
                          "commerce_recent_zone \"%V\" was laid out by "
                          "another version; change its size or restart "
                          "nginx", &zone->shm.name);
            return NGX_ERROR;
        }

        return NGX_OK;
    }

    area = ngx_slab_calloc(shpool, sizeof(ngx_commerce_recs_area_t));

    if (area == NULL || ngx_commerce_recs_memory(shpool, area) != NGX_OK
        || RAND_bytes(secret, sizeof(secret)) != 1
        || ngx_commerce_recent_create(&rmcf->recent, area->memory, area->size,
                                      secret)
           != NGX_COMMERCE_OK)
    {
        ngx_log_error(NGX_LOG_EMERG, zone->shm.log, 0,
                      "commerce_recent_zone \"%V\" cannot be laid out",
                      &zone->shm.name);
        return NGX_ERROR;
    }

    shpool->data = area;

    return NGX_OK;
}


/* All that the slab has left, in one piece, as it came from the kernel: zeroed, and not touched. */

static ngx_int_t
ngx_commerce_recs_memory(ngx_slab_pool_t *shpool,
    ngx_commerce_recs_area_t *area)
{
    area->size = shpool->pfree * ngx_pagesize;
    area->memory = ngx_slab_alloc(shpool, area->size);

    return area->memory ? NGX_OK : NGX_ERROR;
}
