/*
 * ngx_commerce_fetch_module: directives, the worker's start and end.
 */

#include "ngx_commerce_fetch_internal.h"
#include "ngx_commerce_exchange.h"
#include "ngx_commerce_password.h"


static void *ngx_commerce_fetch_create_main_conf(ngx_conf_t *cf);
static char *ngx_commerce_fetch_init_main_conf(ngx_conf_t *cf, void *conf);
static ngx_int_t ngx_commerce_fetch_postconfiguration(ngx_conf_t *cf);
static ngx_int_t ngx_commerce_fetch_init_process(ngx_cycle_t *cycle);
static void ngx_commerce_fetch_exit_process(ngx_cycle_t *cycle);

static char *ngx_commerce_fetch_secret_directive(ngx_conf_t *cf,
    ngx_command_t *cmd, void *conf);
static char *ngx_commerce_fetch_url_directive(ngx_conf_t *cf,
    ngx_command_t *cmd, void *conf);
static char *ngx_commerce_fetch_allow_directive(ngx_conf_t *cf,
    ngx_command_t *cmd, void *conf);
static char *ngx_commerce_fetch_ca_directive(ngx_conf_t *cf,
    ngx_command_t *cmd, void *conf);
static char *ngx_commerce_fetch_mail_directive(ngx_conf_t *cf,
    ngx_command_t *cmd, void *conf);
static char *ngx_commerce_fetch_add(ngx_conf_t *cf, ngx_array_t **list,
    ngx_str_t *name, ngx_commerce_fetch_named_t **named);
static ngx_uint_t ngx_commerce_fetch_is_origin(ngx_str_t *origin);


static ngx_command_t  ngx_commerce_fetch_commands[] = {

    { ngx_string("commerce_secret"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE23,
      ngx_commerce_fetch_secret_directive,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("commerce_fetch_url"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE2,
      ngx_commerce_fetch_url_directive,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("commerce_fetch_allow"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_1MORE,
      ngx_commerce_fetch_allow_directive,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("commerce_fetch_ca"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_commerce_fetch_ca_directive,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("commerce_fetch_timeout"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_msec_slot,
      NGX_HTTP_MAIN_CONF_OFFSET,
      offsetof(ngx_commerce_fetch_conf_t, timeout),
      NULL },

    { ngx_string("commerce_fetch_connections"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_num_slot,
      NGX_HTTP_MAIN_CONF_OFFSET,
      offsetof(ngx_commerce_fetch_conf_t, connections),
      NULL },

    { ngx_string("commerce_fetch_queue"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_num_slot,
      NGX_HTTP_MAIN_CONF_OFFSET,
      offsetof(ngx_commerce_fetch_conf_t, queue),
      NULL },

    { ngx_string("commerce_mail_server"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_1MORE,
      ngx_commerce_fetch_mail_directive,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

      ngx_null_command
};


static ngx_http_module_t  ngx_commerce_fetch_module_ctx = {
    NULL,                                  /* preconfiguration */
    ngx_commerce_fetch_postconfiguration,  /* postconfiguration */

    ngx_commerce_fetch_create_main_conf,   /* create main configuration */
    ngx_commerce_fetch_init_main_conf,     /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    NULL,                                  /* create location configuration */
    NULL                                   /* merge location configuration */
};


ngx_module_t  ngx_commerce_fetch_module = {
    NGX_MODULE_V1,
    &ngx_commerce_fetch_module_ctx,        /* module context */
    ngx_commerce_fetch_commands,           /* module directives */
    NGX_HTTP_MODULE,                       /* module type */
    NULL,                                  /* init master */
    NULL,                                  /* init module */
    ngx_commerce_fetch_init_process,       /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    ngx_commerce_fetch_exit_process,       /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


static void *
ngx_commerce_fetch_create_main_conf(ngx_conf_t *cf)
{
    ngx_commerce_fetch_conf_t  *conf;

    /*
     * set by ngx_pcalloc():
     *
     *     conf->secrets, urls, allow = NULL;
     *     conf->ca, mail_server, mail_user, mail_password = { 0, NULL };
     *     conf->mail_tls = 0;
     */

    conf = ngx_pcalloc(cf->pool, sizeof(ngx_commerce_fetch_conf_t));
    if (conf == NULL) {
        return NULL;
    }

    conf->timeout = NGX_CONF_UNSET_MSEC;
    conf->connections = NGX_CONF_UNSET_UINT;
    conf->queue = NGX_CONF_UNSET_UINT;

    return conf;
}


static char *
ngx_commerce_fetch_init_main_conf(ngx_conf_t *cf, void *data)
{
    ngx_commerce_fetch_conf_t *conf = data;

    ngx_conf_init_msec_value(conf->timeout, 10000);
    ngx_conf_init_uint_value(conf->connections, 64);
    ngx_conf_init_uint_value(conf->queue, 1024);

    if (conf->timeout == 0 || conf->connections == 0) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "commerce_fetch_timeout and commerce_fetch_connections "
                      "cannot be 0");
        return NGX_CONF_ERROR;
    }

    conf->max_timeout = ngx_max(conf->timeout, 60000);

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_commerce_fetch_postconfiguration(ngx_conf_t *cf)
{
    return ngx_commerce_exchange_register(cf);
}


static ngx_int_t
ngx_commerce_fetch_init_process(ngx_cycle_t *cycle)
{
    ngx_commerce_fetch_conf_t  *conf;

    if (ngx_process != NGX_PROCESS_WORKER && ngx_process != NGX_PROCESS_SINGLE)
    {
        return NGX_OK;
    }

    conf = ngx_http_cycle_get_module_main_conf(cycle,
                                               ngx_commerce_fetch_module);
    if (conf == NULL) {
        return NGX_OK;
    }

    ngx_commerce_exchange_init(cycle->log);

    return ngx_commerce_fetch_init(conf, cycle->log);
}


static void
ngx_commerce_fetch_exit_process(ngx_cycle_t *cycle)
{
    ngx_commerce_exchange_exit();
    ngx_commerce_fetch_exit();
}


/* commerce_secret NAME file=FILE [for=https://host[:port]] */

static char *
ngx_commerce_fetch_secret_directive(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_commerce_fetch_conf_t *fcf = conf;

    char                        *rv;
    ngx_str_t                   *value, file;
    ngx_uint_t                   i;
    ngx_commerce_fetch_named_t  *named;

    value = cf->args->elts;
    ngx_str_null(&file);

    rv = ngx_commerce_fetch_add(cf, &fcf->secrets, &value[1], &named);
    if (rv != NGX_CONF_OK) {
        return rv;
    }

    for (i = 2; i < cf->args->nelts; i++) {

        if (ngx_strncmp(value[i].data, "file=", 5) == 0) {
            file.data = value[i].data + 5;
            file.len = value[i].len - 5;

        } else if (ngx_strncmp(value[i].data, "for=", 4) == 0) {
            named->origin.data = value[i].data + 4;
            named->origin.len = value[i].len - 4;

            if (!ngx_commerce_fetch_is_origin(&named->origin)) {
                ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                                   "\"%V\" is no origin: write "
                                   "for=https://host or "
                                   "for=https://host:port, without a path",
                                   &value[i]);
                return NGX_CONF_ERROR;
            }

        } else {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid parameter \"%V\": it takes file= and "
                               "for=", &value[i]);
            return NGX_CONF_ERROR;
        }
    }

    if (file.len == 0) {
        return "needs file=: secrets are kept in files of mode 0400, never "
               "in the configuration";
    }

    return ngx_commerce_password_file(cf, "commerce_secret", &file,
                                      &named->value);
}


/* commerce_fetch_url NAME URL */

static char *
ngx_commerce_fetch_url_directive(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_commerce_fetch_conf_t *fcf = conf;

    char                        *rv;
    ngx_str_t                   *value;
    ngx_commerce_fetch_named_t  *named;

    value = cf->args->elts;

    if (ngx_strncmp(value[2].data, "https://", 8) != 0
        && ngx_strncmp(value[2].data, "http://", 7) != 0)
    {
        return "needs a URL that begins with https:// or http://";
    }

    rv = ngx_commerce_fetch_add(cf, &fcf->urls, &value[1], &named);
    if (rv != NGX_CONF_OK) {
        return rv;
    }

    named->value = value[2];

    return NGX_CONF_OK;
}


static char *
ngx_commerce_fetch_add(ngx_conf_t *cf, ngx_array_t **list, ngx_str_t *name,
    ngx_commerce_fetch_named_t **named)
{
    size_t                       i;
    ngx_commerce_fetch_named_t  *all;

    for (i = 0; i < name->len; i++) {
        if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                    "0123456789._-", name->data[i]))
        {
            return "has a name with a character beyond [A-Za-z0-9._-]";
        }
    }

    if (*list == NULL) {
        *list = ngx_array_create(cf->pool, 4,
                                 sizeof(ngx_commerce_fetch_named_t));
        if (*list == NULL) {
            return NGX_CONF_ERROR;
        }
    }

    all = (*list)->elts;

    for (i = 0; i < (*list)->nelts; i++) {
        if (all[i].name.len == name->len
            && ngx_memcmp(all[i].name.data, name->data, name->len) == 0)
        {
            return "is duplicate: give the second one another name";
        }
    }

    *named = ngx_array_push(*list);
    if (*named == NULL) {
        return NGX_CONF_ERROR;
    }

    ngx_memzero(*named, sizeof(ngx_commerce_fetch_named_t));
    (*named)->name = *name;

    return NGX_CONF_OK;
}


static ngx_uint_t
ngx_commerce_fetch_is_origin(ngx_str_t *origin)
{
    size_t  skip;

    skip = (ngx_strncmp(origin->data, "https://", 8) == 0) ? 8
           : (ngx_strncmp(origin->data, "http://", 7) == 0) ? 7 : 0;

    return skip && origin->len > skip
           && strcspn((char *) origin->data + skip, "/?#@\\ ")
              == origin->len - skip;
}


/* commerce_fetch_allow CIDR… */

static char *
ngx_commerce_fetch_allow_directive(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_commerce_fetch_conf_t *fcf = conf;

    ngx_int_t    rc;
    ngx_str_t   *value;
    ngx_cidr_t  *cidr;
    ngx_uint_t   i;

    value = cf->args->elts;

    if (fcf->allow == NULL) {
        fcf->allow = ngx_array_create(cf->pool, 4, sizeof(ngx_cidr_t));
        if (fcf->allow == NULL) {
            return NGX_CONF_ERROR;
        }
    }

    for (i = 1; i < cf->args->nelts; i++) {

        cidr = ngx_array_push(fcf->allow);
        if (cidr == NULL) {
            return NGX_CONF_ERROR;
        }

        rc = ngx_ptocidr(&value[i], cidr);

        if (rc == NGX_ERROR) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "\"%V\" is neither an address nor a network "
                               "like 10.1.0.0/16", &value[i]);
            return NGX_CONF_ERROR;
        }

        if (rc == NGX_DONE) {
            ngx_conf_log_error(NGX_LOG_WARN, cf, 0,
                               "low address bits of %V are meaningless",
                               &value[i]);
        }
    }

    return NGX_CONF_OK;
}


/* commerce_fetch_ca FILE: read by OpenSSL at the first call, so it must be readable now */

static char *
ngx_commerce_fetch_ca_directive(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_commerce_fetch_conf_t *fcf = conf;

    ngx_str_t  *value;

    if (fcf->ca.len) {
        return "is duplicate";
    }

    value = cf->args->elts;
    fcf->ca = value[1];

    if (ngx_conf_full_name(cf->cycle, &fcf->ca, 1) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    if (access((char *) fcf->ca.data, R_OK) == -1) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno,
                           "the certificates \"%V\" cannot be read",
                           &fcf->ca);
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


/* commerce_mail_server smtp://host[:port] [user= password_file=] [tls=required|try|off] */

static char *
ngx_commerce_fetch_mail_directive(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_commerce_fetch_conf_t *fcf = conf;

    char        *rv;
    ngx_str_t   *value, text;
    ngx_uint_t   i;

    if (fcf->mail_server.len) {
        return "is duplicate";
    }

    value = cf->args->elts;
    fcf->mail_server = value[1];

    if (ngx_strncmp(value[1].data, "smtp://", 7) != 0
        && ngx_strncmp(value[1].data, "smtps://", 8) != 0)
    {
        return "needs a URL that begins with smtp:// or smtps://";
    }

    fcf->mail_tls = CURLUSESSL_TRY;

    for (i = 2; i < cf->args->nelts; i++) {

        text = value[i];

        if (ngx_strncmp(text.data, "user=", 5) == 0) {
            fcf->mail_user.data = text.data + 5;
            fcf->mail_user.len = text.len - 5;

        } else if (ngx_strncmp(text.data, "password_file=", 14) == 0) {
            text.data += 14;
            text.len -= 14;

            rv = ngx_commerce_password_file(cf, "commerce_mail_server", &text,
                                            &fcf->mail_password);
            if (rv != NGX_CONF_OK) {
                return rv;
            }

        } else if (ngx_strcmp(text.data, "tls=required") == 0) {
            fcf->mail_tls = CURLUSESSL_ALL;

        } else if (ngx_strcmp(text.data, "tls=try") == 0) {
            fcf->mail_tls = CURLUSESSL_TRY;

        } else if (ngx_strcmp(text.data, "tls=off") == 0) {
            fcf->mail_tls = CURLUSESSL_NONE;

        } else if (ngx_strncmp(text.data, "password=", 9) == 0) {
            return ngx_commerce_password_inline(cf, "commerce_mail_server");

        } else {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid parameter \"%V\": it takes user=, "
                               "password_file= and tls=required, tls=try or "
                               "tls=off", &text);
            return NGX_CONF_ERROR;
        }
    }

    if (fcf->mail_user.len && fcf->mail_password.len == 0) {
        return "has user= without password_file=";
    }

    return NGX_CONF_OK;
}
