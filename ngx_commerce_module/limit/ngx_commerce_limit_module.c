/*
 * Rate limits: directives, phases, variables.
 *
 *   commerce_limit_zone SIZE;
 *   commerce_limit_policy NAME key= rate= …;
 *   commerce_limit_redis_timeout TIME;
 *   commerce_limit NAME … | off;
 *   commerce_limit_log_level LEVEL;
 *
 * What needs only the address is counted in the preaccess phase, before a
 * token costs anything; the rest in the precontent phase, when every access
 * module, satisfy included, has spoken.
 */

#include "ngx_commerce_limit_internal.h"


static ngx_int_t ngx_commerce_limit_preaccess(ngx_http_request_t *r);
static ngx_int_t ngx_commerce_limit_precontent(ngx_http_request_t *r);
static ngx_int_t ngx_commerce_limit_phase(ngx_http_request_t *r,
    ngx_commerce_stage_t stage, const ngx_commerce_limit_subject_t *subject);
static void ngx_commerce_limit_resume(ngx_http_request_t *r);
static ngx_int_t ngx_commerce_limit_refuse(ngx_http_request_t *r);
static ngx_uint_t ngx_commerce_limit_error_page(ngx_http_request_t *r,
    ngx_uint_t status);
static ngx_int_t ngx_commerce_limit_status(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_commerce_limit_add_variables(ngx_conf_t *cf);
static void *ngx_commerce_limit_create_main_conf(ngx_conf_t *cf);
static char *ngx_commerce_limit_init_main_conf(ngx_conf_t *cf, void *conf);
static void *ngx_commerce_limit_create_loc_conf(ngx_conf_t *cf);
static char *ngx_commerce_limit_merge_loc_conf(ngx_conf_t *cf, void *parent,
    void *child);
static ngx_int_t ngx_commerce_limit_resolve(ngx_conf_t *cf,
    ngx_commerce_limit_loc_conf_t *llcf);
static char *ngx_commerce_limit_policies(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static ngx_int_t ngx_commerce_limit_init(ngx_conf_t *cf);


static ngx_conf_enum_t  ngx_commerce_limit_log_levels[] = {
    { ngx_string("info"), NGX_LOG_INFO },
    { ngx_string("notice"), NGX_LOG_NOTICE },
    { ngx_string("warn"), NGX_LOG_WARN },
    { ngx_string("error"), NGX_LOG_ERR },
    { ngx_null_string, 0 }
};


static ngx_command_t  ngx_commerce_limit_commands[] = {

    { ngx_string("commerce_limit_zone"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_commerce_limit_zone,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("commerce_limit_policy"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_2MORE,
      ngx_commerce_limit_policy,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("commerce_limit_redis_timeout"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_msec_slot,
      NGX_HTTP_MAIN_CONF_OFFSET,
      offsetof(ngx_commerce_limit_main_conf_t, patience),
      NULL },

    { ngx_string("commerce_limit"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF
                        |NGX_HTTP_LIF_CONF|NGX_CONF_1MORE,
      ngx_commerce_limit_policies,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("commerce_limit_log_level"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_enum_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_commerce_limit_loc_conf_t, log_level),
      &ngx_commerce_limit_log_levels },

      ngx_null_command
};


static ngx_http_module_t  ngx_commerce_limit_module_ctx = {
    ngx_commerce_limit_add_variables,      /* preconfiguration */
    ngx_commerce_limit_init,               /* postconfiguration */

    ngx_commerce_limit_create_main_conf,   /* create main configuration */
    ngx_commerce_limit_init_main_conf,     /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    ngx_commerce_limit_create_loc_conf,    /* create location configuration */
    ngx_commerce_limit_merge_loc_conf      /* merge location configuration */
};


ngx_module_t  ngx_commerce_limit_module = {
    NGX_MODULE_V1,
    &ngx_commerce_limit_module_ctx,        /* module context */
    ngx_commerce_limit_commands,           /* module directives */
    NGX_HTTP_MODULE,                       /* module type */
    NULL,                                  /* init master */
    NULL,                                  /* init module */
    NULL,                                  /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    NULL,                                  /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


static ngx_str_t  ngx_commerce_limit_status_name =
                                         ngx_string("commerce_limit_status");

const ngx_commerce_limit_hooks_t  *ngx_commerce_limit_hooks;


void
ngx_commerce_limit_set_hooks(const ngx_commerce_limit_hooks_t *hooks)
{
    ngx_commerce_limit_hooks = hooks;
}


ngx_commerce_limit_policy_t *
ngx_commerce_limit_find(ngx_conf_t *cf, ngx_str_t *name)
{
    ngx_commerce_limit_main_conf_t  *lmcf;

    lmcf = ngx_http_conf_get_module_main_conf(cf, ngx_commerce_limit_module);

    return ngx_commerce_limit_lookup(lmcf, name);
}


static ngx_int_t
ngx_commerce_limit_preaccess(ngx_http_request_t *r)
{
    static const ngx_commerce_limit_subject_t  nobody;

    return ngx_commerce_limit_phase(r, NGX_COMMERCE_STAGE_ADDRESS, &nobody);
}


static ngx_int_t
ngx_commerce_limit_precontent(ngx_http_request_t *r)
{
    ngx_commerce_limit_subject_t    subject;
    ngx_commerce_limit_loc_conf_t  *llcf;

    llcf = ngx_http_get_module_loc_conf(r, ngx_commerce_limit_module);

    if (llcf->count == 0 || r != r->main) {
        return NGX_DECLINED;
    }

    ngx_memzero(&subject, sizeof(ngx_commerce_limit_subject_t));

    if (ngx_commerce_limit_hooks
        && ngx_commerce_limit_hooks->identify(r, &subject) != NGX_OK)
    {
        return NGX_DECLINED;
    }

    return ngx_commerce_limit_phase(r, NGX_COMMERCE_STAGE_PRINCIPAL, &subject);
}


static ngx_int_t
ngx_commerce_limit_phase(ngx_http_request_t *r, ngx_commerce_stage_t stage,
    const ngx_commerce_limit_subject_t *subject)
{
    ngx_int_t  rc;

    if (r != r->main) {
        return NGX_DECLINED;
    }

    rc = ngx_commerce_limit_check_location(r, stage, subject,
                                           ngx_commerce_limit_resume);

    switch (rc) {

    case NGX_OK:
        return NGX_DECLINED;

    case NGX_BUSY:
        return ngx_commerce_limit_refuse(r);

    case NGX_AGAIN:

        if (ngx_handle_read_event(r->connection->read, 0) != NGX_OK) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }

        r->read_event_handler = ngx_http_test_reading;
        r->write_event_handler = ngx_http_request_empty_handler;

        return NGX_AGAIN;

    default:
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }
}


ngx_int_t
ngx_commerce_limit_check_location(ngx_http_request_t *r,
    ngx_commerce_stage_t stage, const ngx_commerce_limit_subject_t *subject,
    ngx_commerce_limit_resume_pt resume)
{
    ngx_commerce_limit_loc_conf_t  *llcf;

    llcf = ngx_http_get_module_loc_conf(r, ngx_commerce_limit_module);

    if (llcf->count == 0) {
        return NGX_OK;
    }

    return ngx_commerce_limit_check(r, stage, llcf->policies, llcf->count,
                                    subject, resume);
}


static void
ngx_commerce_limit_resume(ngx_http_request_t *r)
{
    r->read_event_handler = ngx_http_block_reading;
    r->write_event_handler = ngx_http_core_run_phases;

    ngx_http_core_run_phases(r);
}


/* An error_page of the configuration has the word, else a problem document. */

static ngx_int_t
ngx_commerce_limit_refuse(ngx_http_request_t *r)
{
    ngx_int_t                     rc;
    ngx_commerce_limit_refusal_t  refusal;

    if (ngx_commerce_limit_refusal(r, &refusal) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (ngx_commerce_limit_hooks == NULL
        || ngx_commerce_limit_error_page(r, refusal.status))
    {
        return refusal.status;
    }

    rc = ngx_commerce_limit_hooks->refuse(r, &refusal);

    ngx_http_finalize_request(r, rc);

    return NGX_DONE;
}


static ngx_uint_t
ngx_commerce_limit_error_page(ngx_http_request_t *r, ngx_uint_t status)
{
    ngx_uint_t                 i;
    ngx_http_err_page_t       *page;
    ngx_http_core_loc_conf_t  *clcf;

    clcf = ngx_http_get_module_loc_conf(r, ngx_http_core_module);

    if (clcf->error_pages == NULL || r->error_page) {
        return 0;
    }

    page = clcf->error_pages->elts;

    for (i = 0; i < clcf->error_pages->nelts; i++) {
        if (page[i].status == (ngx_int_t) status) {
            return 1;
        }
    }

    return 0;
}


static ngx_int_t
ngx_commerce_limit_status(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_str_t                  s;
    ngx_commerce_limit_ctx_t  *ctx;

    ctx = ngx_commerce_limit_ctx(r->main);

    if (ctx == NULL || ctx->taken.nelts == 0) {
        v->not_found = 1;
        return NGX_OK;
    }

    if (ctx->refused) {
        ngx_str_set(&s, "REJECTED");

    } else if (ctx->dry) {
        ngx_str_set(&s, "REJECTED_DRY_RUN");

    } else {
        ngx_str_set(&s, "PASSED");
    }

    v->data = s.data;
    v->len = s.len;
    v->valid = 1;
    v->no_cacheable = 1;
    v->not_found = 0;

    return NGX_OK;
}


static ngx_int_t
ngx_commerce_limit_add_variables(ngx_conf_t *cf)
{
    ngx_http_variable_t  *var;

    var = ngx_http_add_variable(cf, &ngx_commerce_limit_status_name,
                                NGX_HTTP_VAR_NOCACHEABLE);
    if (var == NULL) {
        return NGX_ERROR;
    }

    var->get_handler = ngx_commerce_limit_status;

    return NGX_OK;
}


static void *
ngx_commerce_limit_create_main_conf(ngx_conf_t *cf)
{
    ngx_commerce_limit_main_conf_t  *lmcf;

    lmcf = ngx_pcalloc(cf->pool, sizeof(ngx_commerce_limit_main_conf_t));
    if (lmcf == NULL) {
        return NULL;
    }

    /*
     * set by ngx_pcalloc():
     *
     *     lmcf->zone = NULL;
     *     lmcf->leases = NULL;
     *     lmcf->script = NULL;
     *     lmcf->cluster = 0;
     *     lmcf->located = 0;
     */

    lmcf->patience = NGX_CONF_UNSET_MSEC;

    if (ngx_array_init(&lmcf->policies, cf->pool, 8,
                       sizeof(ngx_commerce_limit_policy_t *))
        != NGX_OK)
    {
        return NULL;
    }

    return lmcf;
}


static char *
ngx_commerce_limit_init_main_conf(ngx_conf_t *cf, void *conf)
{
    ngx_commerce_limit_main_conf_t  *lmcf = conf;

    ngx_conf_init_msec_value(lmcf->patience, 50);

    if (lmcf->policies.nelts != 0 && lmcf->zone == NULL) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "commerce_limit_policy needs shared memory: add "
                           "\"commerce_limit_zone 1m;\" to http{}");
        return NGX_CONF_ERROR;
    }

    if (lmcf->cluster && ngx_commerce_limit_lease_zone(cf, lmcf) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


static void *
ngx_commerce_limit_create_loc_conf(ngx_conf_t *cf)
{
    ngx_commerce_limit_loc_conf_t  *llcf;

    llcf = ngx_pcalloc(cf->pool, sizeof(ngx_commerce_limit_loc_conf_t));
    if (llcf == NULL) {
        return NULL;
    }

    /*
     * set by ngx_pcalloc():
     *
     *     llcf->names = NULL;
     *     llcf->policies = NULL;
     *     llcf->count = 0;
     *     llcf->set = 0;
     */

    llcf->log_level = NGX_CONF_UNSET_UINT;

    return llcf;
}


static char *
ngx_commerce_limit_merge_loc_conf(ngx_conf_t *cf, void *parent, void *child)
{
    ngx_commerce_limit_loc_conf_t  *prev = parent;
    ngx_commerce_limit_loc_conf_t  *conf = child;

    ngx_conf_merge_uint_value(conf->log_level, prev->log_level,
                              NGX_LOG_NOTICE);

    /* that of http{} is nobody's child */

    if (ngx_commerce_limit_resolve(cf, prev) != NGX_OK
        || ngx_commerce_limit_resolve(cf, conf) != NGX_OK)
    {
        return NGX_CONF_ERROR;
    }

    if (!conf->set) {
        conf->set = prev->set;
        conf->policies = prev->policies;
        conf->count = prev->count;
    }

    return NGX_CONF_OK;
}


/* All policies have been read by now, so a location may stand before them. */

static ngx_int_t
ngx_commerce_limit_resolve(ngx_conf_t *cf,
    ngx_commerce_limit_loc_conf_t *llcf)
{
    ngx_str_t                       *name;
    ngx_uint_t                       i;
    ngx_commerce_limit_main_conf_t  *lmcf;

    if (llcf->names == NULL || llcf->policies) {
        return NGX_OK;
    }

    lmcf = ngx_http_conf_get_module_main_conf(cf, ngx_commerce_limit_module);

    llcf->policies = ngx_palloc(cf->pool, llcf->names->nelts
                                * sizeof(ngx_commerce_limit_policy_t *));
    if (llcf->policies == NULL) {
        return NGX_ERROR;
    }

    name = llcf->names->elts;

    for (i = 0; i < llcf->names->nelts; i++) {

        llcf->policies[i] = ngx_commerce_limit_lookup(lmcf, &name[i]);

        if (llcf->policies[i] == NULL) {
            ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                          "commerce_limit: there is no policy \"%V\"; add "
                          "\"commerce_limit_policy %V key=ip rate=60r/m;\" to "
                          "http{}", &name[i], &name[i]);
            return NGX_ERROR;
        }
    }

    llcf->count = llcf->names->nelts;
    lmcf->located = 1;

    return NGX_OK;
}


static char *
ngx_commerce_limit_policies(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_commerce_limit_loc_conf_t  *llcf = conf;

    ngx_str_t   *value, *name;
    ngx_uint_t   i;

    value = cf->args->elts;

    if (ngx_strcmp(value[1].data, "off") == 0) {

        if (llcf->set || cf->args->nelts != 2) {
            return "\"off\" stands alone";
        }

        llcf->set = 1;
        return NGX_CONF_OK;
    }

    if (llcf->set && llcf->names == NULL) {
        return "\"off\" stands alone";
    }

    llcf->set = 1;

    if (llcf->names == NULL) {
        llcf->names = ngx_array_create(cf->pool, 4, sizeof(ngx_str_t));
        if (llcf->names == NULL) {
            return NGX_CONF_ERROR;
        }
    }

    for (i = 1; i < cf->args->nelts; i++) {
        name = ngx_array_push(llcf->names);
        if (name == NULL) {
            return NGX_CONF_ERROR;
        }

        *name = value[i];
    }

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_commerce_limit_init(ngx_conf_t *cf)
{
    ngx_str_t                        name;
    ngx_http_handler_pt             *h;
    ngx_http_core_main_conf_t       *cmcf;
    ngx_commerce_limit_main_conf_t  *lmcf;

    lmcf = ngx_http_conf_get_module_main_conf(cf, ngx_commerce_limit_module);

    if (lmcf->cluster) {
        ngx_str_set(&name, "limit");

        lmcf->script = ngx_commerce_redis_script(cf, &name);
        if (lmcf->script == NULL) {
            return NGX_ERROR;
        }
    }

    /* no location asks for it: no request pays for it */

    if (!lmcf->located) {
        return NGX_OK;
    }

    cmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_core_module);

    h = ngx_array_push(&cmcf->phases[NGX_HTTP_PREACCESS_PHASE].handlers);
    if (h == NULL) {
        return NGX_ERROR;
    }

    *h = ngx_commerce_limit_preaccess;

    h = ngx_array_push(&cmcf->phases[NGX_HTTP_PRECONTENT_PHASE].handlers);
    if (h == NULL) {
        return NGX_ERROR;
    }

    *h = ngx_commerce_limit_precontent;

    return NGX_OK;
}
