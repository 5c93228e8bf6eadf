/*
 * Directives of Redis and the life of the worker's connections.
 *
 *   commerce_redis host:port|unix:path [user=] [password_file=] [timeout=]
 *                  [connections=] [queue=] | off;
 *   commerce_redis_scripts DIR;
 *   commerce_redis_backup_interval TIME;
 */

#include "ngx_commerce_redis_internal.h"


#define NGX_COMMERCE_REDIS_PORT  6379


static char *ngx_commerce_redis_directive(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_commerce_redis_address(ngx_conf_t *cf,
    ngx_commerce_redis_main_conf_t *rmcf, ngx_str_t *value);
static char *ngx_commerce_redis_parameter(ngx_conf_t *cf,
    ngx_commerce_redis_main_conf_t *rmcf, ngx_str_t *value);
static char *ngx_commerce_redis_scripts(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static ngx_int_t ngx_commerce_redis_init_zone(ngx_shm_zone_t *zone,
    void *data);
static void *ngx_commerce_redis_create_main_conf(ngx_conf_t *cf);
static char *ngx_commerce_redis_init_main_conf(ngx_conf_t *cf, void *conf);
static ngx_int_t ngx_commerce_redis_init_process(ngx_cycle_t *cycle);
static void ngx_commerce_redis_exit_process(ngx_cycle_t *cycle);


static ngx_command_t  ngx_commerce_redis_commands[] = {

    { ngx_string("commerce_redis"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_1MORE,
      ngx_commerce_redis_directive,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("commerce_redis_scripts"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_commerce_redis_scripts,
      NGX_HTTP_MAIN_CONF_OFFSET,
      offsetof(ngx_commerce_redis_main_conf_t, scripts_dir),
      NULL },

    { ngx_string("commerce_redis_backup_interval"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_msec_slot,
      NGX_HTTP_MAIN_CONF_OFFSET,
      offsetof(ngx_commerce_redis_main_conf_t, backup_interval),
      NULL },

      ngx_null_command
};


static ngx_http_module_t  ngx_commerce_redis_module_ctx = {
    NULL,                                  /* preconfiguration */
    NULL,                                  /* postconfiguration */

    ngx_commerce_redis_create_main_conf,   /* create main configuration */
    ngx_commerce_redis_init_main_conf,     /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    NULL,                                  /* create location configuration */
    NULL                                   /* merge location configuration */
};


ngx_module_t  ngx_commerce_redis_module = {
    NGX_MODULE_V1,
    &ngx_commerce_redis_module_ctx,        /* module context */
    ngx_commerce_redis_commands,           /* module directives */
    NGX_HTTP_MODULE,                       /* module type */
    NULL,                                  /* init master */
    NULL,                                  /* init module */
    ngx_commerce_redis_init_process,       /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    ngx_commerce_redis_exit_process,       /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


ngx_commerce_redis_pool_t  ngx_commerce_redis_pool;


ngx_uint_t
ngx_commerce_redis_configured(void)
{
    return ngx_commerce_redis_pool.conf != NULL;
}


ngx_uint_t
ngx_commerce_redis_available(void)
{
    return ngx_commerce_redis_pool.synced && ngx_commerce_redis_ready();
}


const char *
ngx_commerce_redis_breaker(void)
{
    return ngx_commerce_breaker_text(&ngx_commerce_redis_pool.breaker);
}


static void *
ngx_commerce_redis_create_main_conf(ngx_conf_t *cf)
{
    ngx_commerce_redis_main_conf_t  *rmcf;

    rmcf = ngx_pcalloc(cf->pool, sizeof(ngx_commerce_redis_main_conf_t));
    if (rmcf == NULL) {
        return NULL;
    }

    /*
     * set by ngx_pcalloc():
     *
     *     rmcf->name, host, user, password, scripts_dir = { 0, NULL };
     *     rmcf->port = 0;
     */

    rmcf->enable = NGX_CONF_UNSET;
    rmcf->timeout = 1000;
    rmcf->connections = 1;
    rmcf->queue = 1024;
    rmcf->backup_interval = NGX_CONF_UNSET_MSEC;

    if (ngx_array_init(&rmcf->scripts, cf->pool, 16,
                       sizeof(ngx_commerce_redis_script_t *))
        != NGX_OK
        || ngx_array_init(&rmcf->backups, cf->pool, 2,
                          sizeof(ngx_commerce_backup_t *))
           != NGX_OK)
    {
        return NULL;
    }

    return rmcf;
}


static char *
ngx_commerce_redis_init_main_conf(ngx_conf_t *cf, void *conf)
{
    ngx_str_t                        name;
    ngx_commerce_redis_main_conf_t  *rmcf = conf;

    ngx_conf_init_value(rmcf->enable, 0);
    ngx_conf_init_msec_value(rmcf->backup_interval, 1000);

    if (rmcf->backup_interval == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"commerce_redis_backup_interval\" must not be "
                           "0; the default is 1s");
        return NGX_CONF_ERROR;
    }

    if (rmcf->enable) {
        ngx_str_set(&name, "commerce_redis");

        rmcf->zone = ngx_shared_memory_add(cf, &name, 8 * ngx_pagesize,
                                           &ngx_commerce_redis_module);
        if (rmcf->zone == NULL) {
            return NGX_CONF_ERROR;
        }

        rmcf->zone->init = ngx_commerce_redis_init_zone;

        ngx_str_set(&name, "commerce_redis_breaker");

        rmcf->breaker = ngx_commerce_breaker_zone(cf, &name,
                                                  &ngx_commerce_redis_module);
        if (rmcf->breaker == NULL) {
            return NGX_CONF_ERROR;
        }
    }

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_commerce_redis_init_zone(ngx_shm_zone_t *zone, void *data)
{
    ngx_slab_pool_t  *shpool;

    if (data) {
        zone->data = data;
        return NGX_OK;
    }

    shpool = (ngx_slab_pool_t *) zone->shm.addr;

    if (zone->shm.exists) {
        zone->data = shpool->data;
        return NGX_OK;
    }

    zone->data = ngx_slab_calloc(shpool, sizeof(ngx_commerce_redis_shared_t));
    if (zone->data == NULL) {
        return NGX_ERROR;
    }

    shpool->data = zone->data;

    return NGX_OK;
}


static char *
ngx_commerce_redis_directive(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    char                            *rv;
    ngx_str_t                       *value;
    ngx_uint_t                       i;
    ngx_commerce_redis_main_conf_t  *rmcf = conf;

    if (rmcf->enable != NGX_CONF_UNSET) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (cf->args->nelts == 2 && ngx_strcmp(value[1].data, "off") == 0) {
        rmcf->enable = 0;
        return NGX_CONF_OK;
    }

    rmcf->enable = 1;

    rv = ngx_commerce_redis_address(cf, rmcf, &value[1]);

    for (i = 2; rv == NGX_CONF_OK && i < cf->args->nelts; i++) {
        rv = ngx_commerce_redis_parameter(cf, rmcf, &value[i]);
    }

    if (rv == NGX_CONF_OK && rmcf->user.len && rmcf->password.len == 0) {
        return "has \"user=\" but no \"password_file=\"";
    }

    return rv;
}


/* Names are resolved here, once; a worker never asks a resolver. */

static char *
ngx_commerce_redis_address(ngx_conf_t *cf,
    ngx_commerce_redis_main_conf_t *rmcf, ngx_str_t *value)
{
    ngx_url_t  u;

    rmcf->name = *value;

    ngx_memzero(&u, sizeof(ngx_url_t));
    u.url = *value;
    u.default_port = NGX_COMMERCE_REDIS_PORT;

    if (ngx_parse_url(cf->pool, &u) != NGX_OK || u.naddrs == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "%s in \"commerce_redis %V\"; write host:port or "
                           "unix:/path",
                           u.err ? u.err : "no address", value);
        return NGX_CONF_ERROR;
    }

    if (u.family == AF_UNIX) {
        rmcf->host.len = value->len - (sizeof("unix:") - 1);
        rmcf->host.data = value->data + sizeof("unix:") - 1;
        rmcf->port = 0;
        return NGX_CONF_OK;
    }

    rmcf->host.data = ngx_pnalloc(cf->pool, NGX_SOCKADDR_STRLEN + 1);
    if (rmcf->host.data == NULL) {
        return NGX_CONF_ERROR;
    }

    rmcf->host.len = ngx_sock_ntop(u.addrs[0].sockaddr, u.addrs[0].socklen,
                                   rmcf->host.data, NGX_SOCKADDR_STRLEN, 0);

    /* hiredis wants IPv6 without brackets */

    if (rmcf->host.len && rmcf->host.data[0] == '[') {
        rmcf->host.data++;
        rmcf->host.len -= 2;
    }

    rmcf->host.data[rmcf->host.len] = '\0';
    rmcf->port = ngx_inet_get_port(u.addrs[0].sockaddr);

    return NGX_CONF_OK;
}


static char *
ngx_commerce_redis_parameter(ngx_conf_t *cf,
    ngx_commerce_redis_main_conf_t *rmcf, ngx_str_t *value)
{
    u_char     *p;
    ngx_int_t   n;
    ngx_str_t   name, v;

    p = ngx_strlchr(value->data, value->data + value->len, '=');
    if (p == NULL) {
        goto invalid;
    }

    name.data = value->data;
    name.len = p - value->data;
    v.data = p + 1;
    v.len = value->data + value->len - v.data;

    if (v.len == 0) {
        goto invalid;
    }

#define ngx_commerce_redis_is(s)                                              \
    (name.len == sizeof(s) - 1                                                \
     && ngx_strncmp(name.data, s, sizeof(s) - 1) == 0)

    if (ngx_commerce_redis_is("password")) {
        return ngx_commerce_password_inline(cf, "commerce_redis");
    }

    if (ngx_commerce_redis_is("password_file")) {
        return ngx_commerce_password_file(cf, "commerce_redis", &v,
                                          &rmcf->password);
    }

    if (ngx_commerce_redis_is("user")) {
        rmcf->user = v;
        return NGX_CONF_OK;
    }

    if (ngx_commerce_redis_is("timeout")) {
        n = ngx_parse_time(&v, 0);
        if (n <= 0) {
            goto invalid;
        }

        rmcf->timeout = n;
        return NGX_CONF_OK;
    }

    n = ngx_atoi(v.data, v.len);

    if (ngx_commerce_redis_is("connections")
        && n >= 1 && n <= NGX_COMMERCE_REDIS_MAX_CONNS)
    {
        rmcf->connections = n;
        return NGX_CONF_OK;
    }

    if (ngx_commerce_redis_is("queue") && n >= 1 && n <= 65536) {
        rmcf->queue = n;
        return NGX_CONF_OK;
    }

invalid:

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "invalid parameter \"%V\" of \"commerce_redis\"; "
                       "there are user=, password_file=, timeout= (above 0), "
                       "connections= (1-%d) and queue= (1-65536)",
                       value, NGX_COMMERCE_REDIS_MAX_CONNS);
    return NGX_CONF_ERROR;
}


static char *
ngx_commerce_redis_scripts(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_str_t                       *value;
    ngx_commerce_redis_main_conf_t  *rmcf = conf;

    if (rmcf->scripts_dir.len) {
        return "is duplicate";
    }

    value = cf->args->elts;
    rmcf->scripts_dir = value[1];

    if (ngx_conf_full_name(cf->cycle, &rmcf->scripts_dir, 1) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    while (rmcf->scripts_dir.len > 1
           && rmcf->scripts_dir.data[rmcf->scripts_dir.len - 1] == '/')
    {
        rmcf->scripts_dir.len--;
    }

    return NGX_CONF_OK;
}


/*
 * Registers what a write-behind needs.  f is "api.<what>_backup"; beside it
 * stand api.<what>_stale, api.<what>_settled and the script <what>_resync.
 */

ngx_commerce_backup_t *
ngx_commerce_backup_function(ngx_conf_t *cf, ngx_str_t *function)
{
    size_t                            suffix;
    u_char                            text[256];
    ngx_str_t                         what, s;
    ngx_uint_t                        i;
    ngx_commerce_backup_t            *backup, **backups;
    ngx_commerce_redis_main_conf_t   *rmcf;

    rmcf = ngx_http_conf_get_module_main_conf(cf, ngx_commerce_redis_module);

    backups = rmcf->backups.elts;
    for (i = 0; i < rmcf->backups.nelts; i++) {
        if (backups[i]->function.len == function->len
            && ngx_strncmp(backups[i]->function.data, function->data,
                           function->len)
               == 0)
        {
            return backups[i];
        }
    }

    suffix = sizeof("_backup") - 1;

    if (function->len <= suffix + 4 || function->len > 64
        || ngx_strncmp(function->data, "api.", 4) != 0
        || ngx_strncmp(function->data + function->len - suffix, "_backup",
                       suffix)
           != 0)
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"backup: %V\": the function's name must be "
                           "api.<name>_backup", function);
        return NULL;
    }

    what.data = function->data + 4;
    what.len = function->len - 4 - suffix;

    backup = ngx_pcalloc(cf->pool, sizeof(ngx_commerce_backup_t));
    if (backup == NULL) {
        return NULL;
    }

    backup->function = *function;

    ngx_str_set(&s, "SELECT api.begin_command($1, $2, $3, $4, $5, $6, $7, $8,"
                    " $9)");
    backup->begin = ngx_commerce_pg_statement(cf, &s, 9);

    s.data = text;
    s.len = ngx_sprintf(text, "SELECT %V($1, $2)%Z", function) - text - 1;
    backup->save = ngx_commerce_pg_statement(cf, &s, 2);

    s.len = ngx_sprintf(text, "SELECT tenant_id, key, version, document, "
                        "token FROM api.%V_stale($1)%Z", &what) - text - 1;
    backup->stale = ngx_commerce_pg_statement(cf, &s, 1);

    s.len = ngx_sprintf(text, "SELECT api.%V_settled($1)%Z", &what)
            - text - 1;
    backup->settled = ngx_commerce_pg_statement(cf, &s, 1);

    s.len = ngx_sprintf(text, "%V_resync", &what) - text;
    s.data = ngx_pstrdup(cf->pool, &s);
    if (s.data == NULL) {
        return NULL;
    }

    backup->resync = ngx_commerce_redis_script(cf, &s);

    if (backup->begin == NULL || backup->save == NULL
        || backup->stale == NULL || backup->settled == NULL
        || backup->resync == NULL)
    {
        return NULL;
    }

    backups = ngx_array_push(&rmcf->backups);
    if (backups == NULL) {
        return NULL;
    }

    *backups = backup;

    return backup;
}


static ngx_int_t
ngx_commerce_redis_init_process(ngx_cycle_t *cycle)
{
    ngx_uint_t                             i;
    const ngx_commerce_redis_main_conf_t  *conf;

    if (ngx_process != NGX_PROCESS_WORKER
        && ngx_process != NGX_PROCESS_SINGLE)
    {
        return NGX_OK;
    }

    ngx_memzero(&ngx_commerce_redis_pool, sizeof(ngx_commerce_redis_pool_t));
    ngx_queue_init(&ngx_commerce_redis_pool.free);

    if (ngx_get_conf(cycle->conf_ctx, ngx_http_module) == NULL) {
        return NGX_OK;
    }

    conf = ngx_http_cycle_get_module_main_conf(cycle,
                                               ngx_commerce_redis_module);
    if (conf == NULL || !conf->enable) {
        return NGX_OK;
    }

    ngx_commerce_redis_pool.conf = conf;
    ngx_commerce_redis_pool.shared = conf->zone->data;
    ngx_commerce_redis_pool.breaker.shared = conf->breaker->data;
    ngx_commerce_redis_pool.breaker.backend = "redis";
    ngx_commerce_redis_pool.breaker.name = conf->name;
    ngx_commerce_redis_pool.down_since = ngx_current_msec;

    ngx_commerce_redis_pool.conns =
        ngx_pcalloc(cycle->pool, conf->connections
                                 * sizeof(ngx_commerce_redis_conn_t));
    if (ngx_commerce_redis_pool.conns == NULL) {
        return NGX_ERROR;
    }

    ngx_commerce_redis_hold_init();
    ngx_commerce_backup_init(conf);
    ngx_commerce_redis_resync_init();

    for (i = 0; i < conf->connections; i++) {
        ngx_commerce_redis_conn_init(&ngx_commerce_redis_pool.conns[i]);
    }

    return NGX_OK;
}


static void
ngx_commerce_redis_exit_process(ngx_cycle_t *cycle)
{
    ngx_uint_t  i;

    if (ngx_commerce_redis_pool.conf == NULL) {
        return;
    }

    ngx_commerce_redis_pool.gone = 1;

    for (i = 0; i < ngx_commerce_redis_pool.conf->connections; i++) {
        ngx_commerce_redis_conn_exit(&ngx_commerce_redis_pool.conns[i]);
    }

    ngx_commerce_backup_exit();
}
