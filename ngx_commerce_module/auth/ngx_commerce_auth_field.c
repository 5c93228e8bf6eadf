/*
 * Fields that are encrypted before they reach the database: AES-256-GCM.
 *
 *     v1:<kid>:<base64url of nonce, ciphertext, tag>
 *
 * The context (table, tenant, row, column) is authenticated but not stored, so
 * what was sealed for one place cannot be opened at another.
 */

#include "ngx_commerce_auth_internal.h"
#include "ngx_commerce_codec.h"

#include <openssl/crypto.h>
#include <openssl/rand.h>


#define NGX_COMMERCE_FIELD_VERSION  "v1:"
#define NGX_COMMERCE_FIELD_NONCE    12
#define NGX_COMMERCE_FIELD_TAG      16


static char *ngx_commerce_field_list(ngx_conf_t *cf,
    ngx_commerce_auth_main_conf_t *amcf);
static void ngx_commerce_field_wipe(void *data);
static ngx_int_t ngx_commerce_field_seal(ngx_commerce_auth_field_key_t *key,
    ngx_str_t *context, ngx_str_t *plain, u_char *dst);
static ngx_int_t ngx_commerce_field_open(ngx_commerce_auth_field_key_t *key,
    ngx_str_t *context, u_char *src, size_t len, u_char *dst);
static ngx_commerce_auth_field_key_t *ngx_commerce_field_parse(
    ngx_commerce_auth_main_conf_t *amcf, ngx_str_t *sealed, ngx_str_t *box);


/* commerce_field_key kid file [encrypt] */

char *
ngx_commerce_auth_field_key(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_commerce_auth_main_conf_t *amcf = conf;

    char                           *rv;
    ngx_str_t                      *value, secret;
    ngx_uint_t                      i;
    ngx_pool_cleanup_t             *cln;
    ngx_commerce_auth_field_key_t  *key;

    value = cf->args->elts;

    if (!ngx_commerce_auth_kid_valid(&value[1])) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "key id \"%V\" must be 1 to 64 of "
                           "[A-Za-z0-9._-]", &value[1]);
        return NGX_CONF_ERROR;
    }

    if (cf->args->nelts == 4 && ngx_strcmp(value[3].data, "encrypt") != 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid parameter \"%V\", it can only be "
                           "\"encrypt\"", &value[3]);
        return NGX_CONF_ERROR;
    }

    if (cf->args->nelts == 4 && amcf->field_encrypt != -1) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "key \"%V\" encrypts already: give \"encrypt\" to "
                           "one key only",
                           &amcf->fields[amcf->field_encrypt].kid);
        return NGX_CONF_ERROR;
    }

    for (i = 0; i < amcf->fields_count; i++) {
        if (amcf->fields[i].kid.len == value[1].len
            && ngx_memcmp(amcf->fields[i].kid.data, value[1].data,
                          value[1].len)
               == 0)
        {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "duplicate key id \"%V\": a new key needs a "
                               "new id", &value[1]);
            return NGX_CONF_ERROR;
        }
    }

    if (amcf->fields_count == NGX_COMMERCE_AUTH_FIELD_KEYS) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "at most %d field keys: encrypt anew what the "
                           "oldest has sealed, and drop it",
                           NGX_COMMERCE_AUTH_FIELD_KEYS);
        return NGX_CONF_ERROR;
    }

    rv = ngx_commerce_auth_secret_load(cf, &value[2], &secret);
    if (rv != NGX_CONF_OK) {
        return rv;
    }

    key = &amcf->fields[amcf->fields_count];

    cln = ngx_pool_cleanup_add(cf->pool, 0);
    if (cln == NULL) {
        return NGX_CONF_ERROR;
    }

    cln->handler = ngx_commerce_field_wipe;
    cln->data = key;

    key->kid = value[1];

    if (ngx_commerce_auth_derive(cf->log, &secret, "field", key->key)
        != NGX_OK)
    {
        return NGX_CONF_ERROR;
    }

    if (cf->args->nelts == 4) {
        amcf->field_encrypt = amcf->fields_count;
    }

    amcf->fields_count++;

    return ngx_commerce_field_list(cf, amcf);
}


/* The key that was read last joins the list. */

static char *
ngx_commerce_field_list(ngx_conf_t *cf, ngx_commerce_auth_main_conf_t *amcf)
{
    u_char     *p;
    ngx_str_t  *kid;

    kid = &amcf->fields[amcf->fields_count - 1].kid;

    p = ngx_pnalloc(cf->pool, amcf->field_kids.len + 1 + kid->len);
    if (p == NULL) {
        return NGX_CONF_ERROR;
    }

    amcf->field_kids.len = ngx_sprintf(p, "%V%s%V", &amcf->field_kids,
                                       amcf->field_kids.len ? "," : "", kid)
                           - p;
    amcf->field_kids.data = p;

    return NGX_CONF_OK;
}


ngx_uint_t
ngx_commerce_field_ready(ngx_conf_t *cf)
{
    ngx_commerce_auth_main_conf_t  *amcf;

    amcf = ngx_http_conf_get_module_main_conf(cf, ngx_commerce_auth_module);

    return amcf->field_encrypt != -1;
}


void
ngx_commerce_field_kid(ngx_str_t *kid)
{
    ngx_commerce_auth_main_conf_t  *amcf;

    amcf = ngx_http_cycle_get_module_main_conf(ngx_cycle,
                                               ngx_commerce_auth_module);

    if (amcf == NULL || amcf->field_encrypt == -1) {
        ngx_str_null(kid);
        return;
    }

    *kid = amcf->fields[amcf->field_encrypt].kid;
}


void
ngx_commerce_field_kids(ngx_str_t *kids)
{
    ngx_commerce_auth_main_conf_t  *amcf;

    amcf = ngx_http_cycle_get_module_main_conf(ngx_cycle,
                                               ngx_commerce_auth_module);

    if (amcf == NULL) {
        ngx_str_null(kids);
        return;
    }

    *kids = amcf->field_kids;
}


ngx_uint_t
ngx_commerce_field_known(ngx_str_t *sealed)
{
    ngx_str_t                       box;
    ngx_commerce_auth_main_conf_t  *amcf;

    amcf = ngx_http_cycle_get_module_main_conf(ngx_cycle,
                                               ngx_commerce_auth_module);

    return amcf != NULL
           && ngx_commerce_field_parse(amcf, sealed, &box) != NULL;
}


static void
ngx_commerce_field_wipe(void *data)
{
    ngx_commerce_auth_field_key_t *key = data;

    OPENSSL_cleanse(key->key, sizeof(key->key));
}


ngx_int_t
ngx_commerce_field_encrypt(ngx_pool_t *pool, ngx_str_t *context,
    ngx_str_t *plain, ngx_str_t *sealed)
{
    u_char                         *p, *box;
    size_t                          len;
    ngx_commerce_auth_field_key_t  *key;
    ngx_commerce_auth_main_conf_t  *amcf;

    amcf = ngx_http_cycle_get_module_main_conf(ngx_cycle,
                                               ngx_commerce_auth_module);

    if (amcf == NULL || amcf->field_encrypt == -1) {
        ngx_log_error(NGX_LOG_ERR, pool->log, 0,
                      "commerce: a field cannot be encrypted: give one "
                      "commerce_field_key the parameter \"encrypt\"");
        return NGX_ERROR;
    }

    key = &amcf->fields[amcf->field_encrypt];
    len = NGX_COMMERCE_FIELD_NONCE + plain->len + NGX_COMMERCE_FIELD_TAG;

    box = ngx_pnalloc(pool, len);
    p = ngx_pnalloc(pool, sizeof(NGX_COMMERCE_FIELD_VERSION) + key->kid.len
                          + ngx_commerce_base64url_encoded_len(len));
    if (box == NULL || p == NULL) {
        return NGX_ERROR;
    }

    if (ngx_commerce_field_seal(key, context, plain, box) != NGX_OK) {
        ngx_log_error(NGX_LOG_ERR, pool->log, 0,
                      "commerce: libcrypto did not encrypt a field");
        return NGX_ERROR;
    }

    sealed->data = p;
    p = ngx_sprintf(p, NGX_COMMERCE_FIELD_VERSION "%V:", &key->kid);
    p += ngx_commerce_base64url_encode(p, box, len);
    sealed->len = p - sealed->data;

    return NGX_OK;
}


ngx_int_t
ngx_commerce_field_decrypt(ngx_pool_t *pool, ngx_str_t *context,
    ngx_str_t *sealed, ngx_str_t *plain)
{
    u_char                         *box;
    ngx_str_t                       text;
    ptrdiff_t                       len;
    ngx_commerce_auth_field_key_t  *key;
    ngx_commerce_auth_main_conf_t  *amcf;

    amcf = ngx_http_cycle_get_module_main_conf(ngx_cycle,
                                               ngx_commerce_auth_module);

    key = amcf ? ngx_commerce_field_parse(amcf, sealed, &text) : NULL;

    if (key == NULL) {
        ngx_log_error(NGX_LOG_ERR, pool->log, 0,
                      "commerce: a field was sealed with a key that no "
                      "commerce_field_key names");
        return NGX_DECLINED;
    }

    box = ngx_pnalloc(pool, ngx_commerce_base64url_decoded_max(text.len) + 1);
    if (box == NULL) {
        return NGX_ERROR;
    }

    len = ngx_commerce_base64url_decode(box, text.data, text.len);

    if (len < NGX_COMMERCE_FIELD_NONCE + NGX_COMMERCE_FIELD_TAG) {
        return NGX_DECLINED;
    }

    plain->len = len - NGX_COMMERCE_FIELD_NONCE - NGX_COMMERCE_FIELD_TAG;
    plain->data = ngx_pnalloc(pool, plain->len + 1);

    if (plain->data == NULL) {
        return NGX_ERROR;
    }

    if (ngx_commerce_field_open(key, context, box, len, plain->data)
        != NGX_OK)
    {
        ngx_log_error(NGX_LOG_ERR, pool->log, 0,
                      "commerce: a field does not open with key \"%V\": it "
                      "was changed, or sealed for another place than \"%V\"",
                      &key->kid, context);
        return NGX_DECLINED;
    }

    return NGX_OK;
}


/* The key that a sealed text names, and what follows its name. */

static ngx_commerce_auth_field_key_t *
ngx_commerce_field_parse(ngx_commerce_auth_main_conf_t *amcf,
    ngx_str_t *sealed, ngx_str_t *box)
{
    u_char      *p, *end, *colon;
    ngx_uint_t   i;

    p = sealed->data;
    end = p + sealed->len;

    if (sealed->len < sizeof(NGX_COMMERCE_FIELD_VERSION)
        || ngx_memcmp(p, NGX_COMMERCE_FIELD_VERSION,
                      sizeof(NGX_COMMERCE_FIELD_VERSION) - 1)
           != 0)
    {
        return NULL;
    }

    p += sizeof(NGX_COMMERCE_FIELD_VERSION) - 1;
    colon = ngx_strlchr(p, end, ':');

    if (colon == NULL) {
        return NULL;
    }

    box->data = colon + 1;
    box->len = end - box->data;

    for (i = 0; i < amcf->fields_count; i++) {
        if (amcf->fields[i].kid.len == (size_t) (colon - p)
            && ngx_memcmp(amcf->fields[i].kid.data, p, colon - p) == 0)
        {
            return &amcf->fields[i];
        }
    }

    return NULL;
}


/* Nonces are random: one key is good for some four thousand million fields. */

static ngx_int_t
ngx_commerce_field_seal(ngx_commerce_auth_field_key_t *key,
    ngx_str_t *context, ngx_str_t *plain, u_char *dst)
{
    int              n;
    u_char          *text;
    ngx_int_t        rc;
    EVP_CIPHER_CTX  *ctx;

    ctx = EVP_CIPHER_CTX_new();
    text = dst + NGX_COMMERCE_FIELD_NONCE;

    rc = ctx != NULL
         && RAND_bytes(dst, NGX_COMMERCE_FIELD_NONCE) == 1
         && EVP_EncryptInit_ex(ctx, EVP_aes_256_gcm(), NULL, key->key, dst)
         && EVP_EncryptUpdate(ctx, NULL, &n, context->data, context->len)
         && EVP_EncryptUpdate(ctx, text, &n, plain->data, plain->len)
         && EVP_EncryptFinal_ex(ctx, text + plain->len, &n)
         && EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_GET_TAG,
                                NGX_COMMERCE_FIELD_TAG, text + plain->len);

    EVP_CIPHER_CTX_free(ctx);

    return rc ? NGX_OK : NGX_ERROR;
}


static ngx_int_t
ngx_commerce_field_open(ngx_commerce_auth_field_key_t *key,
    ngx_str_t *context, u_char *src, size_t len, u_char *dst)
{
    int              n;
    u_char          *text;
    size_t           size;
    ngx_int_t        rc;
    EVP_CIPHER_CTX  *ctx;

    ctx = EVP_CIPHER_CTX_new();
    text = src + NGX_COMMERCE_FIELD_NONCE;
    size = len - NGX_COMMERCE_FIELD_NONCE - NGX_COMMERCE_FIELD_TAG;

    rc = ctx != NULL
         && EVP_DecryptInit_ex(ctx, EVP_aes_256_gcm(), NULL, key->key, src)
         && EVP_DecryptUpdate(ctx, NULL, &n, context->data, context->len)
         && EVP_DecryptUpdate(ctx, dst, &n, text, size)
         && EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_SET_TAG,
                                NGX_COMMERCE_FIELD_TAG, text + size)
         && EVP_DecryptFinal_ex(ctx, dst + size, &n) > 0;

    EVP_CIPHER_CTX_free(ctx);

    if (!rc) {
        OPENSSL_cleanse(dst, size);
    }

    return rc ? NGX_OK : NGX_ERROR;
}
