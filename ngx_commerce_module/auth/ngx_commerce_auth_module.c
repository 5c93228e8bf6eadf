/*
 * Directives of auth/: keys, issuer and audience, secrets, the thread pool.
 */

#include "ngx_commerce_auth_internal.h"
#include "ngx_commerce_codec.h"
#include "ngx_commerce_threads.h"

#include <openssl/core_names.h>
#include <openssl/kdf.h>
#include <openssl/params.h>


static void *ngx_commerce_auth_create_main_conf(ngx_conf_t *cf);
static char *ngx_commerce_auth_init_main_conf(ngx_conf_t *cf, void *conf);
static ngx_uint_t ngx_commerce_auth_party_valid(ngx_str_t *name);
static ngx_int_t ngx_commerce_auth_realm(ngx_conf_t *cf,
    ngx_commerce_auth_main_conf_t *amcf);
static ngx_int_t ngx_commerce_auth_init(ngx_conf_t *cf);
static char *ngx_commerce_auth_jwt_key(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_commerce_auth_secret_file(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_commerce_auth_revocation_zone(ngx_conf_t *cf,
    ngx_command_t *cmd, void *conf);
static ngx_int_t ngx_commerce_auth_init_process(ngx_cycle_t *cycle);
static void ngx_commerce_auth_exit_process(ngx_cycle_t *cycle);


#define NGX_COMMERCE_AUTH_REVOCATION_ZONE      (1024 * 1024)
#define NGX_COMMERCE_AUTH_REVOCATION_ZONE_MIN  (64 * 1024)
#define NGX_COMMERCE_AUTH_POOL_QUEUE           64


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

    { ngx_string("commerce_jwks"),
      NGX_HTTP_LOC_CONF|NGX_CONF_NOARGS,
      ngx_commerce_auth_jwks_directive,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    /* not within "if": only the last block whose condition holds counts there, so a guard would be lost */

    { ngx_string("commerce_auth"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_HTTP_LMT_CONF
                        |NGX_CONF_1MORE,
      ngx_commerce_auth_directive,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("commerce_auth_require"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_HTTP_LMT_CONF
                        |NGX_CONF_2MORE,
      ngx_commerce_auth_require_directive,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("commerce_revocation_zone"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_commerce_auth_revocation_zone,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("commerce_password_cost"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_num_slot,
      NGX_HTTP_MAIN_CONF_OFFSET,
      offsetof(ngx_commerce_auth_main_conf_t, password_cost),
      &ngx_commerce_auth_cost_bounds },

    { ngx_string("commerce_password_limit"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE12,
      ngx_commerce_auth_queue_directive,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("commerce_secret_file"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_commerce_auth_secret_file,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("commerce_field_key"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE2|NGX_CONF_TAKE3,
      ngx_commerce_auth_field_key,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

      ngx_null_command
};


static ngx_http_module_t  ngx_commerce_auth_module_ctx = {
    ngx_commerce_auth_add_variables,       /* preconfiguration */
    ngx_commerce_auth_init,                /* postconfiguration */

    ngx_commerce_auth_create_main_conf,    /* create main configuration */
    ngx_commerce_auth_init_main_conf,      /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    ngx_commerce_auth_create_loc_conf,     /* create location configuration */
    ngx_commerce_auth_merge_loc_conf       /* merge location configuration */
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
    ngx_commerce_auth_main_conf_t  *amcf;

    amcf = ngx_http_conf_get_module_main_conf(cf, ngx_commerce_auth_module);

    if (amcf->secret.len == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "commerce_secret_file is not set: make one with "
                           "\"openssl rand -hex 32\", mode 0400");
        return NGX_ERROR;
    }

    return ngx_commerce_auth_derive(cf->log, &amcf->secret, purpose, key);
}


ngx_int_t
ngx_commerce_auth_derive(ngx_log_t *log, ngx_str_t *secret,
    const char *purpose, u_char key[32])
{
    int           rc;
    EVP_KDF      *kdf;
    OSSL_PARAM    params[5], *p;
    EVP_KDF_CTX  *ctx;

    kdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
    ctx = (kdf != NULL) ? EVP_KDF_CTX_new(kdf) : NULL;
    EVP_KDF_free(kdf);

    if (ctx == NULL) {
        ngx_ssl_error(NGX_LOG_EMERG, log, 0, "no HKDF in libcrypto");
        return NGX_ERROR;
    }

    p = params;
    *p++ = OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, "SHA256",
                                            0);
    *p++ = OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY,
                                             secret->data, secret->len);
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
        ngx_ssl_error(NGX_LOG_EMERG, log, 0, "HKDF failed");
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
     *     amcf->fields_count = 0;
     */

    amcf->sign = -1;
    amcf->field_encrypt = -1;
    amcf->ttl = NGX_CONF_UNSET;
    amcf->password_cost = NGX_CONF_UNSET;
    amcf->password_limit = NGX_CONF_UNSET;
    amcf->password_wait = NGX_CONF_UNSET_MSEC;
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

    if (amcf->deny_size == 0) {
        amcf->deny_size = NGX_COMMERCE_AUTH_REVOCATION_ZONE;
    }

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
                           "access token is taken without asking anybody");
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

    if (ngx_commerce_auth_realm(cf, amcf) != NGX_OK
        || ngx_commerce_auth_jwks_build(cf, amcf) != NGX_OK
        || ngx_commerce_auth_access_init(cf) != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (amcf->keys.nelts == 0) {

        if (amcf->guarded) {
            ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                          "commerce_auth needs a key to verify tokens with: "
                          "commerce_jwt_key KID ES256 FILE; in http{}");
            return NGX_ERROR;
        }

        return NGX_OK;
    }

    if (ngx_commerce_auth_revoke_conf(cf, amcf) != NGX_OK
        || ngx_commerce_auth_queue_conf(cf, amcf) != NGX_OK)
    {
        return NGX_ERROR;
    }

    /* all of the node's turns may be this worker's */

    amcf->pool = ngx_commerce_threads(cf, &ngx_commerce_auth_pool_name,
                                      amcf->password_limit,
                                      NGX_COMMERCE_AUTH_POOL_QUEUE);

    return amcf->pool ? NGX_OK : NGX_ERROR;
}


/* The issuer as a quoted string (RFC 9110). */

static ngx_int_t
ngx_commerce_auth_realm(ngx_conf_t *cf, ngx_commerce_auth_main_conf_t *amcf)
{
    u_char  *p;
    size_t   i;

    p = ngx_pnalloc(cf->pool, 2 * amcf->issuer.len + 2);
    if (p == NULL) {
        return NGX_ERROR;
    }

    amcf->realm.data = p;
    *p++ = '"';

    for (i = 0; i < amcf->issuer.len; i++) {

        if (amcf->issuer.data[i] < 0x20 || amcf->issuer.data[i] >= 0x7f) {
            continue;
        }

        if (amcf->issuer.data[i] == '"' || amcf->issuer.data[i] == '\\') {
            *p++ = '\\';
        }

        *p++ = amcf->issuer.data[i];
    }

    *p++ = '"';
    amcf->realm.len = p - amcf->realm.data;

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


ngx_uint_t
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


static char *
ngx_commerce_auth_revocation_zone(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_commerce_auth_main_conf_t *amcf = conf;

    ssize_t     size;
    ngx_str_t  *value;

    if (amcf->deny_size) {
        return "is duplicate";
    }

    value = cf->args->elts;
    size = ngx_parse_size(&value[1]);

    if (size < NGX_COMMERCE_AUTH_REVOCATION_ZONE_MIN) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"%V\" is no size of at least 64k: write for "
                           "example \"commerce_revocation_zone 1m;\"",
                           &value[1]);
        return NGX_CONF_ERROR;
    }

    amcf->deny_size = size;

    return NGX_CONF_OK;
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

    ngx_commerce_auth_revoke_init(amcf, cycle->log);
    ngx_commerce_auth_queue_init(amcf, cycle->log);

    return ngx_commerce_auth_cache_init(cycle);
}


static void
ngx_commerce_auth_exit_process(ngx_cycle_t *cycle)
{
    ngx_commerce_auth_queue_exit();
    ngx_commerce_auth_cache_exit();
}
