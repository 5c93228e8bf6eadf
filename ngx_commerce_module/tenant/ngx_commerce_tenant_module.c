/*
 * Directives, zone and variables of the tenants.
 */

#include "ngx_commerce_tenant_internal.h"


#define NGX_COMMERCE_TENANT_ZONE_MIN  (1024 * 1024)
#define NGX_COMMERCE_TENANT_ZONE      (32 * 1024 * 1024)


static void *ngx_commerce_tenant_create_main_conf(ngx_conf_t *cf);
static void *ngx_commerce_tenant_create_loc_conf(ngx_conf_t *cf);
static char *ngx_commerce_tenant_merge_loc_conf(ngx_conf_t *cf, void *parent,
    void *child);
static ngx_int_t ngx_commerce_tenant_add_variables(ngx_conf_t *cf);
static ngx_int_t ngx_commerce_tenant_postconfiguration(ngx_conf_t *cf);
static ngx_int_t ngx_commerce_tenant_init_process(ngx_cycle_t *cycle);

static char *ngx_commerce_tenant_zone(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_commerce_tenant_bases(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_commerce_tenant_default(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static ngx_int_t ngx_commerce_tenant_zone_add(ngx_conf_t *cf,
    ngx_commerce_tenant_main_conf_t *tmcf, size_t size);
static ngx_int_t ngx_commerce_tenant_init_zone(ngx_shm_zone_t *zone,
    void *data);

static ngx_int_t ngx_commerce_tenant_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_commerce_tenant_setting_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_uint_t ngx_commerce_tenant_spelled(ngx_str_t *name,
    ngx_str_t *variable);
static ngx_int_t ngx_commerce_tenant_flag_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);


static ngx_command_t  ngx_commerce_tenant_commands[] = {

    { ngx_string("commerce_tenant"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_str_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_commerce_tenant_loc_conf_t, tenant),
      NULL },

    { ngx_string("commerce_tenant_zone"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_commerce_tenant_zone,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("commerce_base_domain"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_1MORE,
      ngx_commerce_tenant_bases,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("commerce_flag"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE2,
      ngx_commerce_tenant_default,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("commerce_cors"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_FLAG,
      ngx_conf_set_flag_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_commerce_tenant_loc_conf_t, cors),
      NULL },

    { ngx_string("commerce_security_headers"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_FLAG,
      ngx_conf_set_flag_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_commerce_tenant_loc_conf_t, security_headers),
      NULL },

    { ngx_string("commerce_security_header"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE2,
      ngx_commerce_tenant_header,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

      ngx_null_command
};


static ngx_http_module_t  ngx_commerce_tenant_module_ctx = {
    ngx_commerce_tenant_add_variables,     /* preconfiguration */
    ngx_commerce_tenant_postconfiguration, /* postconfiguration */

    ngx_commerce_tenant_create_main_conf,  /* create main configuration */
    NULL,                                  /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    ngx_commerce_tenant_create_loc_conf,   /* create location configuration */
    ngx_commerce_tenant_merge_loc_conf     /* merge location configuration */
};


ngx_module_t  ngx_commerce_tenant_module = {
    NGX_MODULE_V1,
    &ngx_commerce_tenant_module_ctx,       /* module context */
    ngx_commerce_tenant_commands,          /* module directives */
    NGX_HTTP_MODULE,                       /* module type */
    NULL,                                  /* init master */
    NULL,                                  /* init module */
    ngx_commerce_tenant_init_process,      /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    NULL,                                  /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


enum {
    NGX_COMMERCE_TENANT_VAR_SLUG = 0,
    NGX_COMMERCE_TENANT_VAR_ID,
    NGX_COMMERCE_TENANT_VAR_KEY
};


static ngx_http_variable_t  ngx_commerce_tenant_variables[] = {

    { ngx_string("commerce_tenant"), NULL, ngx_commerce_tenant_variable,
      NGX_COMMERCE_TENANT_VAR_SLUG, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("commerce_tenant_id"), NULL, ngx_commerce_tenant_variable,
      NGX_COMMERCE_TENANT_VAR_ID, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("commerce_api_key"), NULL, ngx_commerce_tenant_variable,
      NGX_COMMERCE_TENANT_VAR_KEY, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("commerce_tenant_setting_"), NULL,
      ngx_commerce_tenant_setting_variable,
      0, NGX_HTTP_VAR_NOCACHEABLE|NGX_HTTP_VAR_PREFIX, 0 },

    { ngx_string("commerce_flag_"), NULL, ngx_commerce_tenant_flag_variable,
      0, NGX_HTTP_VAR_NOCACHEABLE|NGX_HTTP_VAR_PREFIX, 0 },

      ngx_http_null_variable
};


static ngx_str_t  ngx_commerce_tenant_snapshot_text = ngx_string(
    "SELECT as_of, id, slug, status, settings, hosts, keys"
    " FROM api.edge_directory($1, 500, $2)");

static ngx_str_t  ngx_commerce_tenant_used_text = ngx_string(
    "SELECT api.edge_keys_used($1)");


static ngx_int_t
ngx_commerce_tenant_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_str_t                s;
    ngx_commerce_tenancy_t  *t;

    ngx_str_null(&s);

    if (ngx_commerce_tenancy(r, &t) == NGX_OK) {

        switch (data) {

        case NGX_COMMERCE_TENANT_VAR_SLUG:
            s = t->tenant.slug;
            break;

        case NGX_COMMERCE_TENANT_VAR_ID:
            s = t->tenant.id;
            break;

        default:
            s = t->key.id;
        }
    }

    if (s.len == 0) {
        v->not_found = 1;
        return NGX_OK;
    }

    v->data = s.data;
    v->len = s.len;
    v->valid = 1;
    v->no_cacheable = 1;
    v->not_found = 0;

    return NGX_OK;
}


/* $commerce_tenant_setting_mail_sender_email is "mail_sender.email" */

static ngx_int_t
ngx_commerce_tenant_setting_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_str_t *name = (ngx_str_t *) data;

    ngx_str_t                wanted, value;
    ngx_commerce_tenancy_t  *t;

    wanted.data = name->data + sizeof("commerce_tenant_setting_") - 1;
    wanted.len = name->len - (sizeof("commerce_tenant_setting_") - 1);

    if (ngx_commerce_tenancy(r, &t) == NGX_OK && t->tenant.id.len
        && ngx_commerce_tenant_setting_spelled(&t->tenant, &wanted, &value,
                                               ngx_commerce_tenant_spelled)
           == NGX_OK)
    {
        v->data = value.data;
        v->len = value.len;
        v->valid = 1;
        v->no_cacheable = 1;
        v->not_found = 0;

        return NGX_OK;
    }

    v->not_found = 1;

    return NGX_OK;
}


/* A variable's name has no dots. */

static ngx_uint_t
ngx_commerce_tenant_spelled(ngx_str_t *name, ngx_str_t *variable)
{
    size_t  i;

    if (name->len != variable->len) {
        return 0;
    }

    for (i = 0; i < name->len; i++) {
        if (name->data[i] != variable->data[i]
            && !(name->data[i] == '.' && variable->data[i] == '_'))
        {
            return 0;
        }
    }

    return 1;
}


/* "1" or empty, as "if" and "map" like it */

static ngx_int_t
ngx_commerce_tenant_flag_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_str_t *name = (ngx_str_t *) data;

    ngx_str_t                flag;
    ngx_commerce_tenancy_t  *t;

    flag.data = name->data + sizeof("commerce_flag_") - 1;
    flag.len = name->len - (sizeof("commerce_flag_") - 1);

    v->valid = 1;
    v->no_cacheable = 1;
    v->not_found = 0;
    v->data = (u_char *) "1";
    v->len = (ngx_commerce_tenancy(r, &t) == NGX_OK && t->tenant.id.len
              && ngx_commerce_tenant_flag(r, &t->tenant, &flag));

    return NGX_OK;
}


ngx_uint_t
ngx_commerce_tenant_flag(ngx_http_request_t *r, ngx_commerce_tenant_t *tenant,
    ngx_str_t *name)
{
    u_char                            full[sizeof("flags.") + 64];
    ngx_str_t                         key, value;
    ngx_uint_t                        i;
    ngx_commerce_tenant_default_t    *flag;
    ngx_commerce_tenant_main_conf_t  *tmcf;

    if (name->len > 64) {
        return 0;
    }

    key.data = full;
    key.len = ngx_sprintf(full, "flags.%V", name) - full;

    if (ngx_commerce_tenant_setting(tenant, &key, &value) == NGX_OK) {
        return value.len == 4 && ngx_memcmp(value.data, "true", 4) == 0;
    }

    tmcf = ngx_http_get_module_main_conf(r, ngx_commerce_tenant_module);
    flag = tmcf->flags.elts;

    for (i = 0; i < tmcf->flags.nelts; i++) {
        if (flag[i].name.len == name->len
            && ngx_memcmp(flag[i].name.data, name->data, name->len) == 0)
        {
            return flag[i].on;
        }
    }

    return 0;
}


static ngx_int_t
ngx_commerce_tenant_add_variables(ngx_conf_t *cf)
{
    return ngx_commerce_variables_add(cf, ngx_commerce_tenant_variables);
}


static void *
ngx_commerce_tenant_create_main_conf(ngx_conf_t *cf)
{
    ngx_commerce_tenant_main_conf_t  *tmcf;

    tmcf = ngx_pcalloc(cf->pool, sizeof(ngx_commerce_tenant_main_conf_t));

    if (tmcf == NULL
        || ngx_array_init(&tmcf->bases, cf->pool, 2, sizeof(ngx_str_t))
           != NGX_OK
        || ngx_array_init(&tmcf->flags, cf->pool, 4,
                          sizeof(ngx_commerce_tenant_default_t))
           != NGX_OK)
    {
        return NULL;
    }

    return tmcf;
}


static void *
ngx_commerce_tenant_create_loc_conf(ngx_conf_t *cf)
{
    ngx_commerce_tenant_loc_conf_t  *tlcf;

    /*
     * set by ngx_pcalloc():
     *
     *     tlcf->tenant = { 0, NULL };
     *     tlcf->headers = NULL;
     *     tlcf->effective = NULL;
     */

    tlcf = ngx_pcalloc(cf->pool, sizeof(ngx_commerce_tenant_loc_conf_t));
    if (tlcf == NULL) {
        return NULL;
    }

    tlcf->cors = NGX_CONF_UNSET;
    tlcf->security_headers = NGX_CONF_UNSET;

    return tlcf;
}


static char *
ngx_commerce_tenant_merge_loc_conf(ngx_conf_t *cf, void *parent, void *child)
{
    ngx_commerce_tenant_loc_conf_t  *prev = parent;
    ngx_commerce_tenant_loc_conf_t  *conf = child;

    ngx_conf_merge_str_value(conf->tenant, prev->tenant, "");
    ngx_conf_merge_value(conf->cors, prev->cors, 0);

    return ngx_commerce_tenant_headers_merge(cf, prev, conf);
}


static ngx_int_t
ngx_commerce_tenant_postconfiguration(ngx_conf_t *cf)
{
    ngx_commerce_tenant_main_conf_t  *tmcf;

    tmcf = ngx_http_conf_get_module_main_conf(cf, ngx_commerce_tenant_module);

    if (tmcf->zone == NULL
        && ngx_commerce_tenant_zone_add(cf, tmcf, NGX_COMMERCE_TENANT_ZONE)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    tmcf->snapshot = ngx_commerce_pg_statement(cf,
                                        &ngx_commerce_tenant_snapshot_text, 2);
    tmcf->used = ngx_commerce_pg_statement(cf, &ngx_commerce_tenant_used_text,
                                           1);

    if (tmcf->snapshot == NULL || tmcf->used == NULL) {
        return NGX_ERROR;
    }

    return ngx_commerce_tenant_headers_init(cf);
}


static ngx_int_t
ngx_commerce_tenant_init_process(ngx_cycle_t *cycle)
{
    ngx_commerce_tenant_main_conf_t  *tmcf;

    if (ngx_process != NGX_PROCESS_WORKER && ngx_process != NGX_PROCESS_SINGLE)
    {
        return NGX_OK;
    }

    tmcf = ngx_http_cycle_get_module_main_conf(cycle,
                                               ngx_commerce_tenant_module);
    if (tmcf == NULL) {
        return NGX_OK;
    }

    ngx_commerce_tenant_init(tmcf, cycle->log);
    ngx_commerce_tenant_snapshot_init(tmcf->snapshot, cycle->log);
    ngx_commerce_tenant_used_init(tmcf->used, cycle->log);

    return NGX_OK;
}


static char *
ngx_commerce_tenant_zone(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_commerce_tenant_main_conf_t *tmcf = conf;

    ssize_t     size;
    ngx_str_t  *value;

    value = cf->args->elts;

    if (tmcf->zone) {
        return "is duplicate";
    }

    size = ngx_parse_size(&value[1]);

    if (size < NGX_COMMERCE_TENANT_ZONE_MIN) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "commerce_tenant_zone: \"%V\" is no size of at "
                           "least 1m; write for example "
                           "\"commerce_tenant_zone 32m;\"", &value[1]);
        return NGX_CONF_ERROR;
    }

    return (ngx_commerce_tenant_zone_add(cf, tmcf, size) == NGX_OK)
           ? NGX_CONF_OK : NGX_CONF_ERROR;
}


static ngx_int_t
ngx_commerce_tenant_zone_add(ngx_conf_t *cf,
    ngx_commerce_tenant_main_conf_t *tmcf, size_t size)
{
    ngx_str_t  name;

    ngx_str_set(&name, "commerce_tenants");

    tmcf->zone = ngx_shared_memory_add(cf, &name, size,
                                       &ngx_commerce_tenant_module);
    if (tmcf->zone == NULL) {
        return NGX_ERROR;
    }

    tmcf->zone->init = ngx_commerce_tenant_init_zone;
    tmcf->zone->data = tmcf;

    return NGX_OK;
}


/* The slab holds the directory and nothing else; a reload that keeps the size only looks at it. */

static ngx_int_t
ngx_commerce_tenant_init_zone(ngx_shm_zone_t *zone, void *data)
{
    size_t                            size;
    ngx_slab_pool_t                  *shpool;
    ngx_commerce_tenant_main_conf_t  *tmcf;

    tmcf = zone->data;
    shpool = (ngx_slab_pool_t *) zone->shm.addr;

    if (data) {
        tmcf->directory = shpool->data;

        if (ngx_commerce_directory_open(tmcf->directory)) {
            return NGX_OK;
        }

        ngx_log_error(NGX_LOG_EMERG, zone->shm.log, 0,
                      "commerce_tenant_zone was laid out by another version; "
                      "change its size or restart nginx");
        return NGX_ERROR;
    }

    size = shpool->pfree * ngx_pagesize;

    tmcf->directory = ngx_slab_alloc(shpool, size);

    if (tmcf->directory == NULL
        || !ngx_commerce_directory_create(tmcf->directory, size))
    {
        return NGX_ERROR;
    }

    shpool->data = tmcf->directory;

    return NGX_OK;
}


static char *
ngx_commerce_tenant_bases(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_commerce_tenant_main_conf_t *tmcf = conf;

    ngx_str_t   *value, *base;
    ngx_uint_t   i;

    value = cf->args->elts;

    for (i = 1; i < cf->args->nelts; i++) {

        if (value[i].len == 0 || value[i].data[0] == '.') {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "commerce_base_domain: \"%V\" is no domain; "
                               "write it without a leading dot", &value[i]);
            return NGX_CONF_ERROR;
        }

        base = ngx_array_push(&tmcf->bases);
        if (base == NULL) {
            return NGX_CONF_ERROR;
        }

        base->len = value[i].len + 1;
        base->data = ngx_pnalloc(cf->pool, base->len);
        if (base->data == NULL) {
            return NGX_CONF_ERROR;
        }

        base->data[0] = '.';
        ngx_strlow(base->data + 1, value[i].data, value[i].len);
    }

    return NGX_CONF_OK;
}


/* commerce_flag name on|off */

static char *
ngx_commerce_tenant_default(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_commerce_tenant_main_conf_t *tmcf = conf;

    ngx_str_t                      *value;
    ngx_commerce_tenant_default_t  *flag;

    value = cf->args->elts;

    flag = ngx_array_push(&tmcf->flags);
    if (flag == NULL) {
        return NGX_CONF_ERROR;
    }

    flag->name = value[1];
    flag->on = ngx_strcmp(value[2].data, "on") == 0;

    if (!flag->on && ngx_strcmp(value[2].data, "off") != 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "commerce_flag: \"%V\" is neither \"on\" nor "
                           "\"off\"", &value[2]);
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}
