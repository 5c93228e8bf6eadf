/*
 * Keys: loading, choosing, verifying signatures.
 */

#include "ngx_commerce_auth_internal.h"

#include <openssl/bio.h>
#include <openssl/crypto.h>
#include <openssl/ecdsa.h>
#include <openssl/hmac.h>
#include <openssl/pem.h>

#include <string.h>


/* 0644 as decimal 644: nginx prints no octal */
#define ngx_commerce_auth_octal(mode)                                         \
    ((ngx_uint_t) ((mode) >> 6 & 7) * 100 + ((mode) >> 3 & 7) * 10            \
     + ((mode) & 7))


typedef struct {
    ngx_str_t   text;
    EVP_PKEY   *pkey;
} ngx_commerce_auth_secret_t;


static char *ngx_commerce_auth_read(ngx_conf_t *cf, ngx_str_t *file,
    ngx_str_t *text, mode_t *mode);
static char *ngx_commerce_auth_private(ngx_conf_t *cf, ngx_str_t *file,
    mode_t mode);
static ngx_commerce_auth_secret_t *ngx_commerce_auth_keep(ngx_conf_t *cf);
static void ngx_commerce_auth_wipe(void *data);
static EVP_PKEY *ngx_commerce_auth_pem(ngx_str_t *text, ngx_uint_t sign,
    ngx_uint_t *private);
static int ngx_commerce_auth_no_passphrase(char *buf, int size, int rwflag,
    void *data);
static const char *ngx_commerce_auth_pkey_fits(EVP_PKEY *pkey,
    ngx_commerce_token_alg_t alg);
static ngx_int_t ngx_commerce_auth_ecdsa_der(ngx_commerce_str_t *raw,
    u_char **der, int *len);
static ngx_int_t ngx_commerce_auth_ecdsa_raw(const u_char *der, size_t der_len,
    u_char *raw, size_t *len);


char *
ngx_commerce_auth_key_load(ngx_conf_t *cf, ngx_commerce_auth_key_t *key,
    ngx_str_t *file, ngx_uint_t sign)
{
    char                        *rv;
    mode_t                       mode;
    ngx_str_t                    text;
    ngx_uint_t                   private;
    const char                  *why;
    ngx_commerce_auth_secret_t  *secret;

    if (key->alg == NGX_COMMERCE_TOKEN_HS256) {
        return ngx_commerce_auth_secret_load(cf, file, &key->secret);
    }

    rv = ngx_commerce_auth_read(cf, file, &text, &mode);
    if (rv != NGX_CONF_OK) {
        return rv;
    }

    secret = ngx_commerce_auth_keep(cf);
    if (secret == NULL) {
        return NGX_CONF_ERROR;
    }

    secret->text = text;
    secret->pkey = ngx_commerce_auth_pem(&text, sign, &private);

    if (secret->pkey == NULL) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"%V\" holds no %s key in PEM without passphrase",
                           file, sign ? "private" : "public or private");
        return NGX_CONF_ERROR;
    }

    if (private) {
        rv = ngx_commerce_auth_private(cf, file, mode);
        if (rv != NGX_CONF_OK) {
            return rv;
        }
    }

    why = ngx_commerce_auth_pkey_fits(secret->pkey, key->alg);
    if (why != NULL) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "the key in \"%V\" does not fit %s: %s", file,
                           ngx_commerce_token_alg_name(key->alg), why);
        return NGX_CONF_ERROR;
    }

    key->pkey = secret->pkey;

    return NGX_CONF_OK;
}


char *
ngx_commerce_auth_secret_load(ngx_conf_t *cf, ngx_str_t *file,
    ngx_str_t *secret)
{
    char                        *rv;
    mode_t                       mode;
    ngx_str_t                    text;
    ngx_commerce_auth_secret_t  *kept;

    rv = ngx_commerce_auth_read(cf, file, &text, &mode);
    if (rv != NGX_CONF_OK) {
        return rv;
    }

    kept = ngx_commerce_auth_keep(cf);
    if (kept == NULL) {
        return NGX_CONF_ERROR;
    }

    kept->text = text;

    rv = ngx_commerce_auth_private(cf, file, mode);
    if (rv != NGX_CONF_OK) {
        return rv;
    }

    if (text.len != 0 && text.data[text.len - 1] == LF) {
        text.len--;

        if (text.len != 0 && text.data[text.len - 1] == CR) {
            text.len--;
        }
    }

    if (text.len < NGX_COMMERCE_AUTH_SECRET_MIN) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "the secret in \"%V\" has %uz bytes, at least %d "
                           "are needed: make one with \"openssl rand -hex 32\"",
                           file, text.len, NGX_COMMERCE_AUTH_SECRET_MIN);
        return NGX_CONF_ERROR;
    }

    *secret = text;

    return NGX_CONF_OK;
}


ngx_commerce_auth_key_t *
ngx_commerce_auth_key_find(ngx_commerce_auth_main_conf_t *conf,
    ngx_commerce_str_t *kid, ngx_commerce_token_alg_t alg)
{
    ngx_uint_t                i;
    ngx_commerce_auth_key_t  *key;

    key = conf->keys.elts;

    for (i = 0; i < conf->keys.nelts; i++) {
        if (key[i].alg == alg && key[i].kid.len == kid->len
            && ngx_memcmp(key[i].kid.data, kid->data, kid->len) == 0)
        {
            return &key[i];
        }
    }

    return NULL;
}


ngx_int_t
ngx_commerce_auth_key_verify(ngx_commerce_auth_key_t *key,
    ngx_commerce_token_t *token)
{
    int          len, rc;
    u_char       mac[EVP_MAX_MD_SIZE], *der;
    unsigned     n;
    EVP_MD_CTX  *ctx;

    if (key->alg == NGX_COMMERCE_TOKEN_HS256) {

        if (HMAC(EVP_sha256(), key->secret.data, key->secret.len,
                 token->input.data, token->input.len, mac, &n)
            == NULL)
        {
            return NGX_ERROR;
        }

        return (token->signature.len == n
                && CRYPTO_memcmp(token->signature.data, mac, n) == 0)
               ? NGX_OK : NGX_DECLINED;
    }

    der = token->signature.data;
    len = token->signature.len;

    if (key->alg == NGX_COMMERCE_TOKEN_ES256
        && ngx_commerce_auth_ecdsa_der(&token->signature, &der, &len)
           != NGX_OK)
    {
        return NGX_DECLINED;
    }

    rc = 0;
    ctx = EVP_MD_CTX_new();

    if (ctx != NULL
        && EVP_DigestVerifyInit(ctx, NULL, EVP_sha256(), NULL, key->pkey) == 1)
    {
        rc = EVP_DigestVerify(ctx, der, len, token->input.data,
                              token->input.len);
    }

    EVP_MD_CTX_free(ctx);

    if (der != token->signature.data) {
        OPENSSL_free(der);
    }

    ERR_clear_error();

    return (rc == 1) ? NGX_OK : NGX_DECLINED;
}


ngx_int_t
ngx_commerce_auth_key_sign(ngx_commerce_auth_key_t *key, ngx_str_t *input,
    u_char *sig, size_t *len)
{
    int          rc;
    u_char       der[128], *p;
    size_t       n;
    unsigned     mac_len;
    EVP_MD_CTX  *ctx;

    if (key->alg == NGX_COMMERCE_TOKEN_HS256) {

        if (*len < EVP_MAX_MD_SIZE
            || HMAC(EVP_sha256(), key->secret.data, key->secret.len,
                    input->data, input->len, sig, &mac_len)
               == NULL)
        {
            return NGX_ERROR;
        }

        *len = mac_len;
        return NGX_OK;
    }

    p = sig;
    n = *len;

    if (key->alg == NGX_COMMERCE_TOKEN_ES256) {
        p = der;
        n = sizeof(der);
    }

    rc = 0;
    ctx = EVP_MD_CTX_new();

    if (ctx != NULL
        && EVP_DigestSignInit(ctx, NULL, EVP_sha256(), NULL, key->pkey) == 1)
    {
        rc = EVP_DigestSign(ctx, p, &n, input->data, input->len);
    }

    EVP_MD_CTX_free(ctx);
    ERR_clear_error();

    if (rc != 1) {
        return NGX_ERROR;
    }

    if (key->alg == NGX_COMMERCE_TOKEN_ES256) {
        return ngx_commerce_auth_ecdsa_raw(der, n, sig, len);
    }

    *len = n;

    return NGX_OK;
}


static char *
ngx_commerce_auth_read(ngx_conf_t *cf, ngx_str_t *file, ngx_str_t *text,
    mode_t *mode)
{
    ssize_t      n;
    ngx_fd_t     fd;
    ngx_str_t    name;
    struct stat  st;

    name = *file;

    if (ngx_conf_full_name(cf->cycle, &name, 1) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    fd = open((char *) name.data, O_RDONLY|O_CLOEXEC|O_NONBLOCK);

    if (fd == -1) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno,
                           "cannot open key file \"%V\"", &name);
        return NGX_CONF_ERROR;
    }

    text->data = NULL;

    if (fstat(fd, &st) == -1 || !S_ISREG(st.st_mode)
        || st.st_size == 0 || st.st_size > NGX_COMMERCE_AUTH_FILE_MAX)
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "key file \"%V\" must be a regular file of 1 to "
                           "%d bytes", &name, NGX_COMMERCE_AUTH_FILE_MAX);
        goto failed;
    }

    if (st.st_mode & (S_IWGRP|S_IWOTH)) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "others may write key file \"%V\" (mode %04ui): "
                           "chmod 0400 %V", &name,
                           ngx_commerce_auth_octal(st.st_mode), &name);
        goto failed;
    }

    text->len = st.st_size;
    text->data = ngx_pnalloc(cf->pool, text->len + 1);
    if (text->data == NULL) {
        goto failed;
    }

    n = read(fd, text->data, text->len);

    if (n != (ssize_t) text->len) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, n == -1 ? ngx_errno : 0,
                           "cannot read key file \"%V\"", &name);
        goto failed;
    }

    text->data[text->len] = '\0';
    *mode = st.st_mode;
    (void) close(fd);

    return NGX_CONF_OK;

failed:

    if (text->data != NULL) {
        OPENSSL_cleanse(text->data, text->len);
    }

    (void) close(fd);

    return NGX_CONF_ERROR;
}


/* The master reads keys as root, so nobody else needs to. */

static char *
ngx_commerce_auth_private(ngx_conf_t *cf, ngx_str_t *file, mode_t mode)
{
    if ((mode & S_IROTH) == 0) {
        return NGX_CONF_OK;
    }

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "everyone may read the secret in \"%V\" (mode %04ui): "
                       "chmod 0400 %V", file, ngx_commerce_auth_octal(mode),
                       file);

    return NGX_CONF_ERROR;
}


/* Secrets are wiped with the cycle that read them. */

static ngx_commerce_auth_secret_t *
ngx_commerce_auth_keep(ngx_conf_t *cf)
{
    ngx_pool_cleanup_t  *cln;

    cln = ngx_pool_cleanup_add(cf->pool, sizeof(ngx_commerce_auth_secret_t));
    if (cln == NULL) {
        return NULL;
    }

    ngx_memzero(cln->data, sizeof(ngx_commerce_auth_secret_t));
    cln->handler = ngx_commerce_auth_wipe;

    return cln->data;
}


static void
ngx_commerce_auth_wipe(void *data)
{
    ngx_commerce_auth_secret_t *secret = data;

    if (secret->text.data != NULL) {
        OPENSSL_cleanse(secret->text.data, secret->text.len);
    }

    EVP_PKEY_free(secret->pkey);
}


static EVP_PKEY *
ngx_commerce_auth_pem(ngx_str_t *text, ngx_uint_t sign, ngx_uint_t *private)
{
    BIO       *bio;
    EVP_PKEY  *pkey;

    pkey = NULL;
    *private = 0;

    if (!sign) {
        bio = BIO_new_mem_buf(text->data, text->len);
        pkey = PEM_read_bio_PUBKEY(bio, NULL, ngx_commerce_auth_no_passphrase,
                                   NULL);
        BIO_free(bio);
    }

    if (pkey == NULL) {
        bio = BIO_new_mem_buf(text->data, text->len);
        pkey = PEM_read_bio_PrivateKey(bio, NULL,
                                       ngx_commerce_auth_no_passphrase, NULL);
        BIO_free(bio);
        *private = 1;
    }

    ERR_clear_error();

    return pkey;
}


/* Without it libcrypto would ask at the terminal. */

static int
ngx_commerce_auth_no_passphrase(char *buf, int size, int rwflag, void *data)
{
    return -1;
}


static const char *
ngx_commerce_auth_pkey_fits(EVP_PKEY *pkey, ngx_commerce_token_alg_t alg)
{
    char    group[32];
    size_t  len;

    if (alg == NGX_COMMERCE_TOKEN_RS256) {

        if (EVP_PKEY_get_base_id(pkey) != EVP_PKEY_RSA) {
            return "it is no RSA key";
        }

        return (EVP_PKEY_get_bits(pkey) >= 2048)
               ? NULL : "it has fewer than 2048 bits";
    }

    if (EVP_PKEY_get_base_id(pkey) != EVP_PKEY_EC) {
        return "it is no EC key";
    }

    if (EVP_PKEY_get_group_name(pkey, group, sizeof(group), &len) != 1
        || strcmp(group, "prime256v1") != 0)
    {
        return "its curve is not P-256 (prime256v1)";
    }

    return NULL;
}


/* JWS carries r || s (RFC 7518 §3.4), libcrypto takes the ASN.1 form. */

static ngx_int_t
ngx_commerce_auth_ecdsa_der(ngx_commerce_str_t *raw, u_char **der, int *len)
{
    BIGNUM     *r, *s;
    ECDSA_SIG  *sig;

    if (raw->len != 64) {
        return NGX_DECLINED;
    }

    r = BN_bin2bn(raw->data, 32, NULL);
    s = BN_bin2bn(raw->data + 32, 32, NULL);
    sig = ECDSA_SIG_new();

    if (r == NULL || s == NULL || sig == NULL
        || ECDSA_SIG_set0(sig, r, s) != 1)
    {
        BN_free(r);
        BN_free(s);
        ECDSA_SIG_free(sig);
        return NGX_ERROR;
    }

    *der = NULL;
    *len = i2d_ECDSA_SIG(sig, der);
    ECDSA_SIG_free(sig);

    return (*len > 0) ? NGX_OK : NGX_ERROR;
}


static ngx_int_t
ngx_commerce_auth_ecdsa_raw(const u_char *der, size_t der_len, u_char *raw,
    size_t *len)
{
    ngx_int_t   rc;
    ECDSA_SIG  *sig;

    sig = d2i_ECDSA_SIG(NULL, &der, der_len);

    if (sig == NULL || *len < 64) {
        ECDSA_SIG_free(sig);
        return NGX_ERROR;
    }

    rc = (BN_bn2binpad(ECDSA_SIG_get0_r(sig), raw, 32) == 32
          && BN_bn2binpad(ECDSA_SIG_get0_s(sig), raw + 32, 32) == 32)
         ? NGX_OK : NGX_ERROR;

    ECDSA_SIG_free(sig);
    *len = 64;

    return rc;
}
