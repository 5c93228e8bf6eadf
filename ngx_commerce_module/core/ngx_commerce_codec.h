/*
 * Small encoders: base64url, hex, UUIDv7, percent-decoding, signed cursors.
 */

#ifndef NGX_COMMERCE_CODEC_H
#define NGX_COMMERCE_CODEC_H


#include "ngx_commerce_core.h"


/* Strict RFC 4648 §5 without padding: non-canonical trailing bits are refused. */

#define ngx_commerce_base64url_encoded_len(n)  (((n) * 4 + 2) / 3)
#define ngx_commerce_base64url_decoded_max(n)  (((n) * 3) / 4)

size_t ngx_commerce_base64url_encode(uint8_t *dst, const uint8_t *src,
    size_t len);
/* Returns the length, or -1. */
ptrdiff_t ngx_commerce_base64url_decode(uint8_t *dst, const uint8_t *src,
    size_t len);

void ngx_commerce_hex(uint8_t *dst, const uint8_t *src, size_t len);
/* "len" bytes from 2 * len digits of either case; -1: another character stands there. */
int ngx_commerce_unhex(uint8_t *dst, const uint8_t *src, size_t len);

/*
 * RFC 9562 UUIDv7 as 36 characters.  "random" is 10 fresh random bytes.  What
 * one process makes is in ascending order.  Keeps state: event loop only.
 */

void ngx_commerce_uuid7(uint8_t dst[36], uint64_t unix_ms,
    const uint8_t random[10]);
bool ngx_commerce_uuid_valid(const uint8_t *s, size_t len);

/* Decodes %xx (and + as space when "query") in place or into dst (may be src).  -1: malformed. */
ptrdiff_t ngx_commerce_percent_decode(uint8_t *dst, const uint8_t *src,
    size_t len, bool query);

bool ngx_commerce_utf8_valid(const uint8_t *s, size_t len);

/*
 * Paging cursors: base64url(payload || HMAC-SHA-256(key, binding || 0 || payload)[0..15]).
 * "binding" is what the cursor must not leave: tenant, principal, operation, filters, sort.
 */

#define ngx_commerce_cursor_len(n)  ngx_commerce_base64url_encoded_len((n) + 16)

/*
 * Writes cursor_len(payload.len) bytes and returns their number, or 0 when
 * OpenSSL fails.  Keeps the keyed context: event loop only.
 */
size_t ngx_commerce_cursor_sign(uint8_t *dst, const uint8_t key[32],
    ngx_commerce_str_t binding, ngx_commerce_str_t payload);
/* Writes the payload to dst (room for decoded_max(len)); returns its length or -1. */
ptrdiff_t ngx_commerce_cursor_verify(uint8_t *dst, const uint8_t key[32],
    ngx_commerce_str_t binding, ngx_commerce_str_t cursor);


#endif /* NGX_COMMERCE_CODEC_H */
