/*
 * The module that owns the request: directives, the contract, variables.
 */

#include "ngx_commerce_http.h"
#include "ngx_commerce_health.h"


static void *ngx_commerce_create_main_conf(ngx_conf_t *cf);
static void *ngx_commerce_create_loc_conf(ngx_conf_t *cf);
static char *ngx_commerce_merge_loc_conf(ngx_conf_t *cf, void *parent,
    void *child);
static ngx_int_t ngx_commerce_add_variables(ngx_conf_t *cf);
static ngx_int_t ngx_commerce_postconfiguration(ngx_conf_t *cf);
static ngx_int_t ngx_commerce_init_process(ngx_cycle_t *cycle);

static char *ngx_commerce_api(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
static char *ngx_commerce_problem_page(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_commerce_contract(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);

static ngx_int_t ngx_commerce_load_contract(ngx_conf_t *cf,
    ngx_commerce_main_conf_t *mcf, ngx_str_t *file);
static ngx_int_t ngx_commerce_read_file(ngx_conf_t *cf, ngx_str_t *file,
    ngx_str_t *text);

static ngx_int_t ngx_commerce_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);


enum {
    NGX_COMMERCE_VAR_CORRELATION = 0,
    NGX_COMMERCE_VAR_ROUTE,
    NGX_COMMERCE_VAR_PRINCIPAL,
    NGX_COMMERCE_VAR_CODE,
    NGX_COMMERCE_VAR_CACHE,
    NGX_COMMERCE_VAR_PG_TIME,
    NGX_COMMERCE_VAR_PG_CALLS,
    NGX_COMMERCE_VAR_TRACEPARENT
};


static ngx_command_t  ngx_commerce_commands[] = {

    { ngx_string("commerce_contract"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_commerce_contract,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("commerce_environment"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_str_slot,
      NGX_HTTP_MAIN_CONF_OFFSET,
      offsetof(ngx_commerce_main_conf_t, environment),
      NULL },

    { ngx_string("commerce_problem_base"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_str_slot,
      NGX_HTTP_MAIN_CONF_OFFSET,
      offsetof(ngx_commerce_main_conf_t, problem_base),
      NULL },

    { ngx_string("commerce_maintenance"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_msec_slot,
      NGX_HTTP_MAIN_CONF_OFFSET,
      offsetof(ngx_commerce_main_conf_t, maintenance),
      NULL },

    { ngx_string("commerce_fetch_wait"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_msec_slot,
      NGX_HTTP_MAIN_CONF_OFFSET,
      offsetof(ngx_commerce_main_conf_t, fetch_wait),
      NULL },

    { ngx_string("commerce_cache"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_FLAG,
      ngx_conf_set_flag_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_commerce_loc_conf_t, cache),
      NULL },

    { ngx_string("commerce_api"),
      NGX_HTTP_LOC_CONF|NGX_CONF_NOARGS,
      ngx_commerce_api,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("commerce_problem"),
      NGX_HTTP_LOC_CONF|NGX_CONF_NOARGS,
      ngx_commerce_problem_page,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

      ngx_null_command
};


static ngx_http_module_t  ngx_commerce_module_ctx = {
    ngx_commerce_add_variables,            /* preconfiguration */
    ngx_commerce_postconfiguration,        /* postconfiguration */

    ngx_commerce_create_main_conf,         /* create main configuration */
    NULL,                                  /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    ngx_commerce_create_loc_conf,          /* create location configuration */
    ngx_commerce_merge_loc_conf            /* merge location configuration */
};


ngx_module_t  ngx_http_commerce_module = {
    NGX_MODULE_V1,
    &ngx_commerce_module_ctx,              /* module context */
    ngx_commerce_commands,                 /* module directives */
    NGX_HTTP_MODULE,                       /* module type */
    NULL,                                  /* init master */
    NULL,                                  /* init module */
    ngx_commerce_init_process,             /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    NULL,                                  /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


static ngx_http_variable_t  ngx_commerce_variables[] = {

    { ngx_string("commerce_correlation_id"), NULL, ngx_commerce_variable,
      NGX_COMMERCE_VAR_CORRELATION, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("commerce_route"), NULL, ngx_commerce_variable,
      NGX_COMMERCE_VAR_ROUTE, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("commerce_principal"), NULL, ngx_commerce_variable,
      NGX_COMMERCE_VAR_PRINCIPAL, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("commerce_code"), NULL, ngx_commerce_variable,
      NGX_COMMERCE_VAR_CODE, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("commerce_cache_status"), NULL, ngx_commerce_variable,
      NGX_COMMERCE_VAR_CACHE, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("commerce_pg_time"), NULL, ngx_commerce_variable,
      NGX_COMMERCE_VAR_PG_TIME, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("commerce_pg_calls"), NULL, ngx_commerce_variable,
      NGX_COMMERCE_VAR_PG_CALLS, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("commerce_traceparent"), NULL, ngx_commerce_variable,
      NGX_COMMERCE_VAR_TRACEPARENT, NGX_HTTP_VAR_NOCACHEABLE, 0 },

      ngx_http_null_variable
};


static ngx_int_t
ngx_commerce_variable(ngx_http_request_t *r, ngx_http_variable_value_t *v,
    uintptr_t data)
{
    u_char                          *p;
    ngx_str_t                        s;
    ngx_commerce_request_t          *c;
    const ngx_commerce_principal_t  *principal;

    ngx_str_null(&s);

    c = ngx_http_get_module_ctx(r, ngx_http_commerce_module);

    if (data == NGX_COMMERCE_VAR_PRINCIPAL
        && (c == NULL || c->principal.subject.len == 0))
    {
        /* a location without the API, guarded by commerce_auth */
        principal = ngx_commerce_auth_principal(r);

        if (principal) {
            s = principal->subject;
        }

        c = NULL;
    }

    if (c) {

        switch (data) {

        case NGX_COMMERCE_VAR_CORRELATION:
            s = c->correlation_id;
            break;

        case NGX_COMMERCE_VAR_ROUTE:
            if (c->op) {
                s = ngx_commerce_from_core(&c->op->id);
            }
            break;

        case NGX_COMMERCE_VAR_PRINCIPAL:
            s = c->principal.subject;
            break;

        case NGX_COMMERCE_VAR_CODE:
            s = c->code;
            break;

        case NGX_COMMERCE_VAR_CACHE:
            if (c->cache_hit) {
                ngx_str_set(&s, "HIT");

            } else if (c->op && c->op->cache.ttl) {
                ngx_str_set(&s, "MISS");
            }
            break;

        case NGX_COMMERCE_VAR_TRACEPARENT:
            s = c->traceparent;
            break;

        default:
            if (c->pg_calls == 0) {
                break;
            }

            p = ngx_pnalloc(r->pool, NGX_TIME_T_LEN + 4);
            if (p == NULL) {
                return NGX_ERROR;
            }

            s.data = p;
            s.len = ((data == NGX_COMMERCE_VAR_PG_CALLS)
                     ? ngx_sprintf(p, "%ui", c->pg_calls)
                     : ngx_sprintf(p, "%T.%03M", (time_t) c->pg_time / 1000,
                                   c->pg_time % 1000))
                    - p;
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


static ngx_int_t
ngx_commerce_add_variables(ngx_conf_t *cf)
{
    return ngx_commerce_variables_add(cf, ngx_commerce_variables);
}


static void *
ngx_commerce_create_main_conf(ngx_conf_t *cf)
{
    ngx_commerce_main_conf_t  *mcf;

    /*
     * set by ngx_pcalloc():
     *
     *     mcf->contract = NULL;
     *     mcf->ops = NULL;
     *     mcf->environment = { 0, NULL };
     *     mcf->problem_base = { 0, NULL };
     */

    mcf = ngx_pcalloc(cf->pool, sizeof(ngx_commerce_main_conf_t));
    if (mcf == NULL) {
        return NULL;
    }

    mcf->maintenance = NGX_CONF_UNSET_MSEC;
    mcf->fetch_wait = NGX_CONF_UNSET_MSEC;

    mcf->files = ngx_array_create(cf->pool, 2, sizeof(ngx_str_t));
    if (mcf->files == NULL) {
        return NULL;
    }

    return mcf;
}


static void *
ngx_commerce_create_loc_conf(ngx_conf_t *cf)
{
    ngx_commerce_loc_conf_t  *lcf;

    lcf = ngx_pcalloc(cf->pool, sizeof(ngx_commerce_loc_conf_t));
    if (lcf == NULL) {
        return NULL;
    }

    lcf->cache = NGX_CONF_UNSET;

    return lcf;
}


static char *
ngx_commerce_merge_loc_conf(ngx_conf_t *cf, void *parent, void *child)
{
    ngx_commerce_loc_conf_t  *prev = parent;
    ngx_commerce_loc_conf_t  *conf = child;

    ngx_conf_merge_value(conf->cache, prev->cache, 1);

    return NGX_CONF_OK;
}


static char *
ngx_commerce_api(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_core_loc_conf_t  *clcf;

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);

    if (clcf->handler) {
        return "conflicts with another handler of this location";
    }

    clcf->handler = ngx_commerce_request_handler;

    return NGX_CONF_OK;
}


static char *
ngx_commerce_problem_page(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_core_loc_conf_t  *clcf;

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);

    if (clcf->handler) {
        return "conflicts with another handler of this location";
    }

    clcf->handler = ngx_commerce_problem_handler;

    return NGX_CONF_OK;
}


static char *
ngx_commerce_contract(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_commerce_main_conf_t  *mcf = conf;

    ngx_str_t  *value, *file;

    value = cf->args->elts;

    file = ngx_array_push(mcf->files);
    if (file == NULL) {
        return NGX_CONF_ERROR;
    }

    *file = value[1];

    if (ngx_conf_full_name(cf->cycle, file, 1) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


/* All directives are read: policies, scripts and lanes can be looked up. */

static ngx_int_t
ngx_commerce_postconfiguration(ngx_conf_t *cf)
{
    uint32_t                   i, n;
    ngx_str_t                 *files, text;
    ngx_commerce_alloc_t      *alloc;
    ngx_commerce_main_conf_t  *mcf;

    mcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_commerce_module);

    ngx_conf_init_msec_value(mcf->maintenance, 60000);
    ngx_conf_init_msec_value(mcf->fetch_wait, 10000);

    ngx_commerce_limits_init();

    if (ngx_commerce_maintenance_register(cf, mcf) != NGX_OK
        || ngx_commerce_health_register(cf) != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (mcf->environment.len == 0) {
        ngx_str_set(&mcf->environment, "development");
    }

    if (mcf->problem_base.len == 0) {
        ngx_str_set(&mcf->problem_base, "/docs/problems/");
    }

    alloc = ngx_palloc(cf->pool, sizeof(ngx_commerce_alloc_t));
    if (alloc == NULL) {
        return NGX_ERROR;
    }

    *alloc = ngx_commerce_pool_alloc(cf->pool);

    ngx_commerce_address_forget();

    mcf->contract = ngx_commerce_contract_create(alloc,
                                                 ngx_commerce_native_known);
    if (mcf->contract == NULL) {
        return NGX_ERROR;
    }

    if (mcf->files->nelts == 0) {
        return NGX_OK;
    }

    files = mcf->files->elts;

    for (i = 0; i < mcf->files->nelts; i++) {
        if (ngx_commerce_load_contract(cf, mcf, &files[i]) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    ngx_str_set(&text, "SELECT api.begin_request($1, $2, $3, $4, $5)");
    mcf->begin_request = ngx_commerce_pg_statement(cf, &text, 5);

    ngx_str_set(&text,
                "SELECT api.begin_command($1, $2, $3, $4, $5, $6, $7, $8, $9, "
                "$10, $11)");
    mcf->begin_command = ngx_commerce_pg_statement(cf, &text, 11);

    if (mcf->begin_request == NULL || mcf->begin_command == NULL) {
        return NGX_ERROR;
    }

    n = ngx_commerce_contract_count(mcf->contract);

    mcf->ops = ngx_pcalloc(cf->pool,
                           (n + 1) * sizeof(ngx_commerce_op_conf_t));
    if (mcf->ops == NULL) {
        return NGX_ERROR;
    }

    for (i = 0; i < n; i++) {
        if (ngx_commerce_bind_operation(cf, mcf,
                ngx_commerce_contract_operation(mcf->contract, i))
            != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    return ngx_commerce_auth_secret(cf, "cursor", mcf->cursor_key);
}


static ngx_int_t
ngx_commerce_init_process(ngx_cycle_t *cycle)
{
    if (ngx_process == NGX_PROCESS_WORKER || ngx_process == NGX_PROCESS_SINGLE)
    {
        ngx_commerce_health_init(cycle);
    }

    return NGX_OK;
}


static ngx_int_t
ngx_commerce_load_contract(ngx_conf_t *cf, ngx_commerce_main_conf_t *mcf,
    ngx_str_t *file)
{
    ngx_str_t             text;
    ngx_commerce_rc_t     rc;
    ngx_commerce_fault_t  fault;

    if (ngx_commerce_read_file(cf, file, &text) != NGX_OK) {
        return NGX_ERROR;
    }

    ngx_memzero(&fault, sizeof(ngx_commerce_fault_t));

    rc = ngx_commerce_contract_add(mcf->contract, (char *) file->data,
                                   text.data, text.len, &fault);

    if (rc == NGX_COMMERCE_INVALID) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "commerce_contract: %V:%uD:%uD: %s: %s", file,
                      fault.line, fault.column, fault.place, fault.message);
    }

    return (rc == NGX_COMMERCE_OK) ? NGX_OK : NGX_ERROR;
}


static ngx_int_t
ngx_commerce_read_file(ngx_conf_t *cf, ngx_str_t *file, ngx_str_t *text)
{
    ssize_t     n;
    ngx_file_t  f;

    ngx_memzero(&f, sizeof(ngx_file_t));
    f.name = *file;
    f.log = cf->log;

    f.fd = ngx_open_file(file->data, NGX_FILE_RDONLY, NGX_FILE_OPEN, 0);

    if (f.fd == NGX_INVALID_FILE) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, ngx_errno,
                      "commerce_contract: cannot open \"%V\" (make it with "
                      "\"scripts/contract bundle\")", file);
        return NGX_ERROR;
    }

    n = NGX_ERROR;
    ngx_str_null(text);

    if (ngx_fd_info(f.fd, &f.info) != NGX_FILE_ERROR) {
        text->len = ngx_file_size(&f.info);
        text->data = ngx_pnalloc(cf->pool, text->len + 1);

        if (text->data) {
            n = ngx_read_file(&f, text->data, text->len, 0);
        }
    }

    ngx_close_file(f.fd);

    if (n != (ssize_t) text->len) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "commerce_contract: cannot read \"%V\"", file);
        return NGX_ERROR;
    }

    return NGX_OK;
}
