/*
 * Time-based one-time passwords (RFC 6238): SHA-1, 30 seconds, six digits,
 * which is what every authenticator app takes.
 */

#include "ngx_commerce_auth_internal.h"

#include <openssl/crypto.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>


#define NGX_COMMERCE_TOTP_PERIOD  30
#define NGX_COMMERCE_TOTP_DIGITS  6
#define NGX_COMMERCE_TOTP_DRIFT   1         /* steps that a clock may be wrong */
#define NGX_COMMERCE_TOTP_BYTES   20


static ngx_int_t ngx_commerce_totp_code(const u_char *key, uint64_t step,
    u_char code[NGX_COMMERCE_TOTP_DIGITS]);
static ngx_int_t ngx_commerce_totp_decode(ngx_str_t *secret,
    u_char key[NGX_COMMERCE_TOTP_BYTES]);


static const u_char  ngx_commerce_totp_alphabet[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";


ngx_int_t
ngx_commerce_totp_mint(u_char secret[NGX_COMMERCE_TOTP_SECRET])
{
    u_char      key[NGX_COMMERCE_TOTP_BYTES];
    uint64_t    block;
    ngx_uint_t  i, j;

    if (RAND_bytes(key, sizeof(key)) != 1) {
        return NGX_ERROR;
    }

    /* five bytes are eight letters */

    for (i = 0; i < NGX_COMMERCE_TOTP_BYTES / 5; i++) {
        block = 0;

        for (j = 0; j < 5; j++) {
            block = block << 8 | key[i * 5 + j];
        }

        for (j = 0; j < 8; j++) {
            secret[i * 8 + j] =
                ngx_commerce_totp_alphabet[block >> (35 - 5 * j) & 31];
        }
    }

    OPENSSL_cleanse(key, sizeof(key));

    return NGX_OK;
}


ngx_int_t
ngx_commerce_totp_verify(ngx_str_t *secret, ngx_str_t *code, time_t now,
    uint64_t *step)
{
    u_char      key[NGX_COMMERCE_TOTP_BYTES], right[NGX_COMMERCE_TOTP_DIGITS];
    uint64_t    t, last;
    ngx_int_t   rc;

    if (code->len != NGX_COMMERCE_TOTP_DIGITS) {
        return NGX_DECLINED;
    }

    if (ngx_commerce_totp_decode(secret, key) != NGX_OK) {
        return NGX_ERROR;
    }

    last = (uint64_t) now / NGX_COMMERCE_TOTP_PERIOD + NGX_COMMERCE_TOTP_DRIFT;
    rc = NGX_DECLINED;

    /* all of them, so that time does not tell which one fits */

    for (t = last - 2 * NGX_COMMERCE_TOTP_DRIFT; t <= last; t++) {

        if (ngx_commerce_totp_code(key, t, right) != NGX_OK) {
            rc = NGX_ERROR;
            break;
        }

        if (CRYPTO_memcmp(right, code->data, sizeof(right)) == 0) {
            *step = t;
            rc = NGX_OK;
        }
    }

    OPENSSL_cleanse(key, sizeof(key));

    return rc;
}


/* HOTP (RFC 4226) of the step. */

static ngx_int_t
ngx_commerce_totp_code(const u_char *key, uint64_t step,
    u_char code[NGX_COMMERCE_TOTP_DIGITS])
{
    u_char      counter[8], mac[EVP_MAX_MD_SIZE];
    uint32_t    number;
    unsigned    len;
    ngx_uint_t  i, offset;

    for (i = 0; i < 8; i++) {
        counter[i] = (u_char) (step >> (56 - 8 * i));
    }

    if (HMAC(EVP_sha1(), key, NGX_COMMERCE_TOTP_BYTES, counter,
             sizeof(counter), mac, &len)
        == NULL)
    {
        return NGX_ERROR;
    }

    offset = mac[len - 1] & 15;
    number = (uint32_t) (mac[offset] & 127) << 24 | mac[offset + 1] << 16
             | mac[offset + 2] << 8 | mac[offset + 3];

    for (i = NGX_COMMERCE_TOTP_DIGITS; i > 0; i--) {
        code[i - 1] = '0' + number % 10;
        number /= 10;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_commerce_totp_decode(ngx_str_t *secret,
    u_char key[NGX_COMMERCE_TOTP_BYTES])
{
    u_char      ch;
    uint64_t    block;
    ngx_uint_t  i, j;

    if (secret->len != NGX_COMMERCE_TOTP_SECRET) {
        return NGX_ERROR;
    }

    for (i = 0; i < NGX_COMMERCE_TOTP_SECRET / 8; i++) {
        block = 0;

        for (j = 0; j < 8; j++) {
            ch = secret->data[i * 8 + j];

            if (ch >= 'A' && ch <= 'Z') {
                ch -= 'A';

            } else if (ch >= '2' && ch <= '7') {
                ch -= '2' - 26;

            } else {
                return NGX_ERROR;
            }

            block = block << 5 | ch;
        }

        for (j = 0; j < 5; j++) {
            key[i * 5 + j] = (u_char) (block >> (32 - 8 * j));
        }
    }

    return NGX_OK;
}
