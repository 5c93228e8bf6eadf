/*
 * Signed cursors.
 */

#include "ngx_commerce_codec.h"

#include <string.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <openssl/core_names.h>


#define NGX_COMMERCE_CURSOR_MAC  16


/*
 * A context that has its key is started again for a tenth of what fetching
 * and keying one costs, so the last one is kept.  The event loop alone uses
 * cursors: no lock.
 */

static EVP_MAC_CTX *
ngx_commerce_cursor_mac(const uint8_t key[32])
{
    EVP_MAC              *mac;
    OSSL_PARAM            params[2];
    static uint8_t        last[32];
    static EVP_MAC_CTX   *ctx;

    if (ctx != NULL && CRYPTO_memcmp(last, key, sizeof(last)) == 0) {
        return EVP_MAC_init(ctx, NULL, 0, NULL) ? ctx : NULL;
    }

    if (ctx == NULL) {
        mac = EVP_MAC_fetch(NULL, "HMAC", NULL);
        if (mac == NULL) {
            return NULL;
        }

        ctx = EVP_MAC_CTX_new(mac);
        EVP_MAC_free(mac);

        if (ctx == NULL) {
            return NULL;
        }
    }

    params[0] = OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST,
                                                 (char *) "SHA256", 0);
    params[1] = OSSL_PARAM_construct_end();

    if (!EVP_MAC_init(ctx, key, 32, params)) {
        EVP_MAC_CTX_free(ctx);
        ctx = NULL;
        return NULL;
    }

    memcpy(last, key, sizeof(last));

    return ctx;
}


static bool
ngx_commerce_cursor_tag(uint8_t tag[32], const uint8_t key[32],
    ngx_commerce_str_t binding, const uint8_t *payload, size_t len)
{
    size_t        n;
    EVP_MAC_CTX  *ctx;

    ctx = ngx_commerce_cursor_mac(key);

    return ctx != NULL
           && EVP_MAC_update(ctx, binding.data, binding.len)
           && EVP_MAC_update(ctx, (const unsigned char *) "", 1)
           && EVP_MAC_update(ctx, payload, len)
           && EVP_MAC_final(ctx, tag, &n, 32);
}


size_t
ngx_commerce_cursor_sign(uint8_t *dst, const uint8_t key[32],
    ngx_commerce_str_t binding, ngx_commerce_str_t payload)
{
    size_t   len, head;
    uint8_t  tag[32], rest[2 + NGX_COMMERCE_CURSOR_MAC];

    if (!ngx_commerce_cursor_tag(tag, key, binding, payload.data,
                                 payload.len))
    {
        return 0;
    }

    /* whole groups of three, then what is left of the payload and the tag */

    head = payload.len - payload.len % 3;
    len = ngx_commerce_base64url_encode(dst, payload.data, head);

    memcpy(rest, payload.data + head, payload.len - head);
    memcpy(rest + payload.len - head, tag, NGX_COMMERCE_CURSOR_MAC);

    return len + ngx_commerce_base64url_encode(dst + len, rest,
                              payload.len - head + NGX_COMMERCE_CURSOR_MAC);
}


ptrdiff_t
ngx_commerce_cursor_verify(uint8_t *dst, const uint8_t key[32],
    ngx_commerce_str_t binding, ngx_commerce_str_t cursor)
{
    uint8_t    tag[32];
    ptrdiff_t  len;

    len = ngx_commerce_base64url_decode(dst, cursor.data, cursor.len);

    if (len < NGX_COMMERCE_CURSOR_MAC) {
        return -1;
    }

    len -= NGX_COMMERCE_CURSOR_MAC;

    if (!ngx_commerce_cursor_tag(tag, key, binding, dst, (size_t) len)
        || CRYPTO_memcmp(tag, dst + len, NGX_COMMERCE_CURSOR_MAC) != 0)
    {
        return -1;
    }

    return len;
}
