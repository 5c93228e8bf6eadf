/*
 * commerce_auth and commerce_auth_require: what a location demands.
 */

#include "ngx_commerce_auth_internal.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/lsan_interface.h>
#endif


static char *ngx_commerce_auth_parameter(ngx_conf_t *cf,
    ngx_commerce_auth_loc_conf_t *alcf, ngx_str_t *text);
static char *ngx_commerce_auth_demand(ngx_conf_t *cf,
    ngx_commerce_auth_loc_conf_t *alcf, ngx_commerce_auth_demand_kind_t kind,
    ngx_str_t *names);
static char *ngx_commerce_auth_tenant(ngx_conf_t *cf,
    ngx_commerce_auth_loc_conf_t *alcf, ngx_str_t *value);
static char *ngx_commerce_auth_regex(ngx_conf_t *cf,
    ngx_commerce_auth_value_t *v, ngx_str_t *pattern);


static const struct {
    ngx_str_t                        prefix;
    ngx_commerce_auth_demand_kind_t  kind;
} ngx_commerce_auth_parameters[] = {

    { ngx_string("role="), NGX_COMMERCE_AUTH_ROLE },
    { ngx_string("permission="), NGX_COMMERCE_AUTH_PERMISSION },
    { ngx_string("scope="), NGX_COMMERCE_AUTH_SCOPE },
    { ngx_null_string, 0 }
};


void *
ngx_commerce_auth_create_loc_conf(ngx_conf_t *cf)
{
    ngx_commerce_auth_loc_conf_t  *alcf;

    alcf = ngx_pcalloc(cf->pool, sizeof(ngx_commerce_auth_loc_conf_t));
    if (alcf == NULL) {
        return NULL;
    }

    /*
     * set by ngx_pcalloc():
     *
     *     alcf->demands = NULL;
     *     alcf->tenant = NULL;
     *     alcf->tenant_by_host = 0;
     */

    alcf->mode = NGX_CONF_UNSET_UINT;
    alcf->requires = NGX_CONF_UNSET_PTR;

    return alcf;
}


/* commerce_auth is taken over as a whole, with its parameters. */

char *
ngx_commerce_auth_merge_loc_conf(ngx_conf_t *cf, void *parent, void *child)
{
    ngx_commerce_auth_loc_conf_t *prev = parent;
    ngx_commerce_auth_loc_conf_t *conf = child;

    ngx_uint_t                 own;
    ngx_http_core_loc_conf_t  *clcf;

    own = (conf->requires != NGX_CONF_UNSET_PTR);

    if (conf->mode == NGX_CONF_UNSET_UINT) {
        conf->mode = (prev->mode == NGX_CONF_UNSET_UINT)
                     ? NGX_COMMERCE_AUTH_OFF : prev->mode;
        conf->demands = prev->demands;
        conf->tenant = prev->tenant;
        conf->tenant_by_host = prev->tenant_by_host;
    }

    ngx_conf_merge_ptr_value(conf->requires, prev->requires, NULL);

    if (own && conf->mode != NGX_COMMERCE_AUTH_REQUIRED) {
        clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);

        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "commerce_auth_require in \"%V\" lets everybody in "
                           "who sends no token: add \"commerce_auth "
                           "required;\" there", &clcf->name);
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


char *
ngx_commerce_auth_directive(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_commerce_auth_loc_conf_t *alcf = conf;

    char                           *rv;
    ngx_str_t                      *value;
    ngx_uint_t                      i;
    ngx_commerce_auth_main_conf_t  *amcf;

    if (alcf->mode != NGX_CONF_UNSET_UINT) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (ngx_strcmp(value[1].data, "off") == 0) {
        alcf->mode = NGX_COMMERCE_AUTH_OFF;

    } else if (ngx_strcmp(value[1].data, "optional") == 0) {
        alcf->mode = NGX_COMMERCE_AUTH_IF_SENT;

    } else if (ngx_strcmp(value[1].data, "required") == 0) {
        alcf->mode = NGX_COMMERCE_AUTH_REQUIRED;

    } else {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "commerce_auth begins with \"off\", \"optional\" or "
                           "\"required\", not with \"%V\"", &value[1]);
        return NGX_CONF_ERROR;
    }

    if (cf->args->nelts > 2 && alcf->mode != NGX_COMMERCE_AUTH_REQUIRED) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"commerce_auth %V\" lets everybody in who sends "
                           "no token, so \"%V\" would mean nothing: write "
                           "\"commerce_auth required %V\"",
                           &value[1], &value[2], &value[2]);
        return NGX_CONF_ERROR;
    }

    for (i = 2; i < cf->args->nelts; i++) {
        rv = ngx_commerce_auth_parameter(cf, alcf, &value[i]);
        if (rv != NGX_CONF_OK) {
            return rv;
        }
    }

    if (alcf->mode != NGX_COMMERCE_AUTH_OFF) {
        amcf = ngx_http_conf_get_module_main_conf(cf,
                                                  ngx_commerce_auth_module);
        amcf->guarded = 1;
    }

    return NGX_CONF_OK;
}


static char *
ngx_commerce_auth_parameter(ngx_conf_t *cf,
    ngx_commerce_auth_loc_conf_t *alcf, ngx_str_t *text)
{
    ngx_str_t    value;
    ngx_uint_t   i;

    for (i = 0; ngx_commerce_auth_parameters[i].prefix.len; i++) {

        value = ngx_commerce_auth_parameters[i].prefix;

        if (text->len > value.len
            && ngx_strncmp(text->data, value.data, value.len) == 0)
        {
            value.data = text->data + value.len;
            value.len = text->len - value.len;

            return ngx_commerce_auth_demand(cf, alcf,
                                        ngx_commerce_auth_parameters[i].kind,
                                        &value);
        }
    }

    if (text->len > 7 && ngx_strncmp(text->data, "tenant=", 7) == 0) {
        value.data = text->data + 7;
        value.len = text->len - 7;

        return ngx_commerce_auth_tenant(cf, alcf, &value);
    }

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "commerce_auth takes role=NAME, permission=NAME, "
                       "scope=NAME and tenant=ID|SLUG|host, not \"%V\"", text);

    return NGX_CONF_ERROR;
}


/* "a,b": one of them.  Several parameters: each must hold. */

static char *
ngx_commerce_auth_demand(ngx_conf_t *cf, ngx_commerce_auth_loc_conf_t *alcf,
    ngx_commerce_auth_demand_kind_t kind, ngx_str_t *names)
{
    u_char                      *p, *end, *comma;
    ngx_str_t                   *name;
    ngx_commerce_auth_demand_t  *demand;

    if (alcf->demands == NULL) {
        alcf->demands = ngx_array_create(cf->pool, 2,
                                         sizeof(ngx_commerce_auth_demand_t));
        if (alcf->demands == NULL) {
            return NGX_CONF_ERROR;
        }
    }

    demand = ngx_array_push(alcf->demands);

    if (demand == NULL
        || ngx_array_init(&demand->names, cf->pool, 2, sizeof(ngx_str_t))
           != NGX_OK)
    {
        return NGX_CONF_ERROR;
    }

    demand->kind = kind;

    for (p = names->data, end = p + names->len; p <= end; p = comma + 1) {

        comma = ngx_strlchr(p, end, ',');

        if (comma == NULL) {
            comma = end;
        }

        name = ngx_array_push(&demand->names);
        if (name == NULL) {
            return NGX_CONF_ERROR;
        }

        name->data = p;
        name->len = comma - p;

        if (!ngx_commerce_token_role_valid(name->data, name->len)) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "\"%V\" in \"%V\" can be in no token: names "
                               "consist of 1 to 64 of a-z, 0-9, \".\", \"_\", "
                               "\"-\" and are separated by commas",
                               name, names);
            return NGX_CONF_ERROR;
        }
    }

    return NGX_CONF_OK;
}


static char *
ngx_commerce_auth_tenant(ngx_conf_t *cf, ngx_commerce_auth_loc_conf_t *alcf,
    ngx_str_t *value)
{
    ngx_http_compile_complex_value_t  ccv;

    if (alcf->tenant != NULL || alcf->tenant_by_host) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "commerce_auth takes one \"tenant=\": a token is "
                           "of one tenant");
        return NGX_CONF_ERROR;
    }

    if (value->len == 4 && ngx_strncmp(value->data, "host", 4) == 0) {
        alcf->tenant_by_host = 1;
        return NGX_CONF_OK;
    }

    alcf->tenant = ngx_palloc(cf->pool, sizeof(ngx_http_complex_value_t));
    if (alcf->tenant == NULL) {
        return NGX_CONF_ERROR;
    }

    ngx_memzero(&ccv, sizeof(ngx_http_compile_complex_value_t));

    ccv.cf = cf;
    ccv.value = value;
    ccv.complex_value = alcf->tenant;

    return (ngx_http_compile_complex_value(&ccv) == NGX_OK)
           ? NGX_CONF_OK : NGX_CONF_ERROR;
}


char *
ngx_commerce_auth_require_directive(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_commerce_auth_loc_conf_t *alcf = conf;

    ngx_str_t                          *value, pattern;
    ngx_uint_t                          i;
    ngx_commerce_auth_value_t          *v;
    ngx_commerce_auth_require_t        *require;
    ngx_http_compile_complex_value_t    ccv;

    value = cf->args->elts;

    if (alcf->requires == NGX_CONF_UNSET_PTR) {
        alcf->requires = ngx_array_create(cf->pool, 2,
                                          sizeof(ngx_commerce_auth_require_t));
        if (alcf->requires == NULL) {
            return NGX_CONF_ERROR;
        }
    }

    require = ngx_array_push(alcf->requires);

    if (require == NULL
        || ngx_array_init(&require->values, cf->pool, 2,
                          sizeof(ngx_commerce_auth_value_t))
           != NGX_OK)
    {
        return NGX_CONF_ERROR;
    }

    require->claim = value[1];

    for (i = 2; i < cf->args->nelts; i++) {

        v = ngx_array_push(&require->values);
        if (v == NULL) {
            return NGX_CONF_ERROR;
        }

        ngx_memzero(v, sizeof(ngx_commerce_auth_value_t));

        if (value[i].len > 1 && value[i].data[0] == '~') {
            pattern.data = value[i].data + 1;
            pattern.len = value[i].len - 1;

            if (ngx_commerce_auth_regex(cf, v, &pattern) != NGX_CONF_OK) {
                return NGX_CONF_ERROR;
            }

            continue;
        }

        ngx_memzero(&ccv, sizeof(ngx_http_compile_complex_value_t));

        ccv.cf = cf;
        ccv.value = &value[i];
        ccv.complex_value = &v->value;

        if (ngx_http_compile_complex_value(&ccv) != NGX_OK) {
            return NGX_CONF_ERROR;
        }
    }

    return NGX_CONF_OK;
}


static char *
ngx_commerce_auth_regex(ngx_conf_t *cf, ngx_commerce_auth_value_t *v,
    ngx_str_t *pattern)
{
    u_char               errstr[NGX_MAX_CONF_ERRSTR];
    ngx_int_t            code;
    ngx_regex_compile_t  rc;

    ngx_memzero(&rc, sizeof(ngx_regex_compile_t));

    if (pattern->data[0] == '*' && pattern->len > 1) {
        pattern->data++;
        pattern->len--;
        rc.options = NGX_REGEX_CASELESS;
    }

    rc.pattern = *pattern;
    rc.pool = cf->pool;
    rc.err.len = NGX_MAX_CONF_ERRSTR;
    rc.err.data = errstr;

    /* nginx makes PCRE2's compile context here, and forgets it when all is read: no leak of ours */

#if defined(__SANITIZE_ADDRESS__)
    __lsan_disable();
#endif

    code = ngx_regex_compile(&rc);

#if defined(__SANITIZE_ADDRESS__)
    __lsan_enable();
#endif

    if (code != NGX_OK) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "%V", &rc.err);
        return NGX_CONF_ERROR;
    }

    v->regex = rc.regex;

    return NGX_CONF_OK;
}
