/*
 * Directives of auth/: keys, issuer and audience, secrets, the thread pool.
 */

#include "ngx_commerce_auth_internal.h"
#include "ngx_commerce_codec.h"

#include <openssl/core_names.h>
#include <openssl/kdf.h>
#include <openssl/params.h>


#if !(NGX_THREADS)
#error nginx-commerce needs nginx configured with --with-threads
#endif


static void *ngx_commerce_auth_create_main_conf(ngx_conf_t *cf);
static char *ngx_commerce_auth_init_main_conf(ngx_conf_t *cf, void *conf);
static ngx_uint_t ngx_commerce_auth_party_valid(ngx_str_t *name);
static ngx_int_t ngx_commerce_auth_init(ngx_conf_t *cf);
static ngx_int_t ngx_commerce_auth_pool(ngx_conf_t *cf,
    ngx_commerce_auth_main_conf_t *amcf);
static char *ngx_commerce_auth_jwt_key(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static ngx_uint_t ngx_commerce_auth_kid_valid(ngx_str_t *kid);
static char *ngx_commerce_auth_secret_file(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static ngx_int_t ngx_commerce_auth_init_process(ngx_cycle_t *cycle);
static void ngx_commerce_auth_exit_process(ngx_cycle_t *cycle);


/* core/ngx_thread_pool.c exports it without a header */
extern ngx_module_t  ngx_thread_pool_module;


static ngx_conf_num_bounds_t  ngx_commerce_auth_cost_bounds = {
    ngx_conf_check_num_bounds, 10, 15
};


static ngx_command_t  ngx_commerce_auth_commands[] = {

    { ngx_string("commerce_jwt_key"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE3|NGX_CONF_TAKE4,
      ngx_commerce_auth_jwt_key,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("commerce_jwt_issuer"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_str_slot,
      NGX_HTTP_MAIN_CONF_OFFSET,
      offsetof(ngx_commerce_auth_main_conf_t, issuer),
      NULL },

    { ngx_string("commerce_jwt_audience"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_str_slot,
      NGX_HTTP_MAIN_CONF_OFFSET,
      offsetof(ngx_commerce_auth_main_conf_t, audience),
      NULL },

    { ngx_string("commerce_jwt_ttl"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_sec_slot,
      NGX_HTTP_MAIN_CONF_OFFSET,
      offsetof(ngx_commerce_auth_main_conf_t, ttl),
      NULL },

    { ngx_string("commerce_password_cost"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_num_slot,
      NGX_HTTP_MAIN_CONF_OFFSET,
      offsetof(ngx_commerce_auth_main_conf_t, password_cost),
      &ngx_commerce_auth_cost_bounds },

    { ngx_string("commerce_secret_file"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_commerce_auth_secret_file,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

      ngx_null_command
};


static ngx_http_module_t  ngx_commerce_auth_module_ctx = {
    NULL,                                  /* preconfiguration */
    ngx_commerce_auth_init,                /* postconfiguration */

    ngx_commerce_auth_create_main_conf,    /* create main configuration */
    ngx_commerce_auth_init_main_conf,      /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    NULL,                                  /* create location configuration */
    NULL                                   /* merge location configuration */
};


ngx_module_t  ngx_commerce_auth_module = {
    NGX_MODULE_V1,
    &ngx_commerce_auth_module_ctx,         /* module context */
    ngx_commerce_auth_commands,            /* module directives */
    NGX_HTTP_MODULE,                       /* module type */
    NULL,                                  /* init master */
    NULL,                                  /* init module */
    ngx_commerce_auth_init_process,        /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    ngx_commerce_auth_exit_process,        /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


static ngx_str_t  ngx_commerce_auth_pool_name = ngx_string("commerce_crypto");

/* tells the tokens of one configuration from those of the one before */
static ngx_uint_t  ngx_commerce_auth_generation;


ngx_int_t
ngx_commerce_auth_secret(ngx_conf_t *cf, const char *purpose, u_char key[32])
{
    int                             rc;
    EVP_KDF                        *kdf;
    OSSL_PARAM                      params[5], *p;
    EVP_KDF_CTX                    *ctx;
    ngx_commerce_auth_main_conf_t  *amcf;

    amcf = ngx_http_conf_get_module_main_conf(cf, ngx_commerce_auth_module);

    if (amcf->secret.len == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "commerce_secret_file is not set: make one with "
                           "\"openssl rand -hex 32\", mode 0400");
        return NGX_ERROR;
    }

    kdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
    ctx = (kdf != NULL) ? EVP_KDF_CTX_new(kdf) : NULL;
    EVP_KDF_free(kdf);

    if (ctx == NULL) {
        ngx_ssl_error(NGX_LOG_EMERG, cf->log, 0, "no HKDF in libcrypto");
        return NGX_ERROR;
    }

    p = params;
    *p++ = OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, "SHA256",
                                            0);
    *p++ = OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY,
                                             amcf->secret.data,
                                             amcf->secret.len);
    *p++ = OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SALT,
                                             "nginx-commerce",
                                             sizeof("nginx-commerce") - 1);
    *p++ = OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO,
                                             (void *) purpose,
                                             ngx_strlen(purpose));
    *p = OSSL_PARAM_construct_end();

    rc = EVP_KDF_derive(ctx, key, 32, params);
    EVP_KDF_CTX_free(ctx);

    if (rc != 1) {
        ngx_ssl_error(NGX_LOG_EMERG, cf->log, 0, "HKDF failed");
        return NGX_ERROR;
    }

    return NGX_OK;
}


static void *
ngx_commerce_auth_create_main_conf(ngx_conf_t *cf)
{
    ngx_commerce_auth_main_conf_t  *amcf;

    amcf = ngx_pcalloc(cf->pool, sizeof(ngx_commerce_auth_main_conf_t));
    if (amcf == NULL) {
        return NULL;
    }

    /*
     * set by ngx_pcalloc():
     *
     *     amcf->issuer = { 0, NULL };
     *     amcf->audience = { 0, NULL };
     *     amcf->secret = { 0, NULL };
     *     amcf->pool = NULL;
     */

    amcf->sign = -1;
    amcf->ttl = NGX_CONF_UNSET;
    amcf->password_cost = NGX_CONF_UNSET;
    amcf->generation = ++ngx_commerce_auth_generation;

    if (ngx_array_init(&amcf->keys, cf->pool, 4,
                       sizeof(ngx_commerce_auth_key_t))
        != NGX_OK)
    {
        return NULL;
    }

    return amcf;
}


static char *
ngx_commerce_auth_init_main_conf(ngx_conf_t *cf, void *conf)
{
    ngx_commerce_auth_main_conf_t *amcf = conf;

    ngx_conf_init_value(amcf->ttl, 900);
    ngx_conf_init_value(amcf->password_cost, 12);

    /* iss and aud are checked on every token, so both always have a value */

    if (amcf->issuer.len == 0) {
        ngx_str_set(&amcf->issuer, "nginx-commerce");
    }

    if (amcf->audience.len == 0) {
        ngx_str_set(&amcf->audience, "nginx-commerce");
    }

    if (!ngx_commerce_auth_party_valid(&amcf->issuer)
        || !ngx_commerce_auth_party_valid(&amcf->audience))
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "commerce_jwt_issuer and commerce_jwt_audience "
                           "are UTF-8 of at most 255 bytes");
        return NGX_CONF_ERROR;
    }

    if (amcf->ttl < 60 || amcf->ttl > 86400) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "commerce_jwt_ttl must be between 1m and 1d: an "
                           "access token cannot be called back");
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


static ngx_uint_t
ngx_commerce_auth_party_valid(ngx_str_t *name)
{
    return name->len <= 255
           && ngx_commerce_utf8_valid(name->data, name->len);
}


static ngx_int_t
ngx_commerce_auth_init(ngx_conf_t *cf)
{
    ngx_commerce_auth_main_conf_t  *amcf;

    amcf = ngx_http_conf_get_module_main_conf(cf, ngx_commerce_auth_module);

    if (amcf->keys.nelts == 0) {
        return NGX_OK;
    }

    return ngx_commerce_auth_pool(cf, amcf);
}


/*
 * The pool of the operator's `thread_pool commerce_crypto …`, else one of our
 * own.  ngx_thread_pool_add() alone would make a pool without threads, which
 * nginx refuses at the end, so the directive itself is run.
 */

static ngx_int_t
ngx_commerce_auth_pool(ngx_conf_t *cf, ngx_commerce_auth_main_conf_t *amcf)
{
    void           *conf;
    ngx_str_t       words[4];
    ngx_array_t     args, *saved;
    ngx_command_t  *cmd;

    amcf->pool = ngx_thread_pool_get(cf->cycle, &ngx_commerce_auth_pool_name);

    if (amcf->pool != NULL) {
        return NGX_OK;
    }

    ngx_str_set(&words[0], "thread_pool");
    words[1] = ngx_commerce_auth_pool_name;
    ngx_str_set(&words[2], "threads=2");
    ngx_str_set(&words[3], "max_queue=16");

    args.elts = words;
    args.nelts = 4;
    args.size = sizeof(ngx_str_t);
    args.nalloc = 4;
    args.pool = cf->pool;

    conf = ngx_get_conf(cf->cycle->conf_ctx, ngx_thread_pool_module);

    for (cmd = ngx_thread_pool_module.commands; cmd->name.len; cmd++) {

        if (cmd->name.len != words[0].len
            || ngx_strncmp(cmd->name.data, words[0].data, words[0].len) != 0)
        {
            continue;
        }

        saved = cf->args;
        cf->args = &args;

        if (cmd->set(cf, cmd, conf) != NGX_CONF_OK) {
            cf->args = saved;
            return NGX_ERROR;
        }

        cf->args = saved;
        break;
    }

    amcf->pool = ngx_thread_pool_get(cf->cycle, &ngx_commerce_auth_pool_name);

    if (amcf->pool == NULL) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "no thread pool for passwords: write \"thread_pool "
                           "commerce_crypto threads=2 max_queue=16;\" before "
                           "http{}");
        return NGX_ERROR;
    }

    return NGX_OK;
}


static char *
ngx_commerce_auth_jwt_key(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_commerce_auth_main_conf_t *amcf = conf;

    ngx_str_t                 *value;
    ngx_uint_t                 i, sign;
    ngx_commerce_str_t         name;
    ngx_commerce_auth_key_t   *key;
    ngx_commerce_token_alg_t   alg;

    value = cf->args->elts;
    sign = 0;

    if (!ngx_commerce_auth_kid_valid(&value[1])) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "key id \"%V\" must be 1 to 64 of "
                           "[A-Za-z0-9._-]", &value[1]);
        return NGX_CONF_ERROR;
    }

    name.data = value[2].data;
    name.len = value[2].len;

    if (!ngx_commerce_token_alg(name, &alg)) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "algorithm \"%V\" is not one of HS256, RS256, "
                           "ES256", &value[2]);
        return NGX_CONF_ERROR;
    }

    if (cf->args->nelts == 5) {

        if (ngx_strcmp(value[4].data, "sign") != 0) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid parameter \"%V\", it can only be "
                               "\"sign\"", &value[4]);
            return NGX_CONF_ERROR;
        }

        if (amcf->sign != -1) {
            key = amcf->keys.elts;
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "key \"%V\" signs already: give \"sign\" to "
                               "one key only", &key[amcf->sign].kid);
            return NGX_CONF_ERROR;
        }

        sign = 1;
    }

    key = amcf->keys.elts;

    for (i = 0; i < amcf->keys.nelts; i++) {
        if (key[i].kid.len == value[1].len
            && ngx_strncmp(key[i].kid.data, value[1].data, value[1].len) == 0)
        {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "duplicate key id \"%V\": a new key needs a "
                               "new id", &value[1]);
            return NGX_CONF_ERROR;
        }
    }

    key = ngx_array_push(&amcf->keys);
    if (key == NULL) {
        return NGX_CONF_ERROR;
    }

    ngx_memzero(key, sizeof(ngx_commerce_auth_key_t));
    key->kid = value[1];
    key->alg = alg;

    if (sign) {
        amcf->sign = amcf->keys.nelts - 1;
    }

    return ngx_commerce_auth_key_load(cf, key, &value[3], sign);
}


static ngx_uint_t
ngx_commerce_auth_kid_valid(ngx_str_t *kid)
{
    u_char  ch;
    size_t  i;

    if (kid->len == 0 || kid->len > 64) {
        return 0;
    }

    for (i = 0; i < kid->len; i++) {
        ch = kid->data[i];

        if (!((ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z')
              || (ch >= '0' && ch <= '9')
              || ch == '.' || ch == '_' || ch == '-'))
        {
            return 0;
        }
    }

    return 1;
}


static char *
ngx_commerce_auth_secret_file(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_commerce_auth_main_conf_t *amcf = conf;

    ngx_str_t  *value;

    if (amcf->secret.data != NULL) {
        return "is duplicate";
    }

    value = cf->args->elts;

    return ngx_commerce_auth_secret_load(cf, &value[1], &amcf->secret);
}


static ngx_int_t
ngx_commerce_auth_init_process(ngx_cycle_t *cycle)
{
    ngx_commerce_auth_main_conf_t  *amcf;

    if (ngx_process != NGX_PROCESS_WORKER && ngx_process != NGX_PROCESS_SINGLE)
    {
        return NGX_OK;
    }

    amcf = ngx_http_cycle_get_module_main_conf(cycle, ngx_commerce_auth_module);

    if (amcf == NULL || amcf->keys.nelts == 0) {
        return NGX_OK;
    }

    return ngx_commerce_auth_cache_init(cycle);
}


static void
ngx_commerce_auth_exit_process(ngx_cycle_t *cycle)
{
    ngx_commerce_auth_cache_exit();
}
