/*
 * Small encoders: base64url, hex, UUIDv7, percent-decoding.
 */

#include "ngx_commerce_codec.h"
#include "ngx_commerce_utf8.h"

#include <string.h>


/* The clock may go back by this much before a UUID follows it. */

#define NGX_COMMERCE_UUID_BACK  10000


static const uint8_t  ngx_commerce_base64url_alphabet[64] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

static const uint8_t  ngx_commerce_hex_digits[16] = "0123456789abcdef";


size_t
ngx_commerce_base64url_encode(uint8_t *dst, const uint8_t *src, size_t len)
{
    uint32_t        w;
    uint8_t        *start;
    const uint8_t  *abc;

    start = dst;
    abc = ngx_commerce_base64url_alphabet;

    for ( /* void */ ; len >= 3; len -= 3, src += 3) {
        w = (uint32_t) src[0] << 16 | (uint32_t) src[1] << 8 | src[2];

        *dst++ = abc[w >> 18];
        *dst++ = abc[(w >> 12) & 63];
        *dst++ = abc[(w >> 6) & 63];
        *dst++ = abc[w & 63];
    }

    if (len != 0) {
        w = (uint32_t) src[0] << 16 | (len == 2 ? (uint32_t) src[1] << 8 : 0);

        *dst++ = abc[w >> 18];
        *dst++ = abc[(w >> 12) & 63];

        if (len == 2) {
            *dst++ = abc[(w >> 6) & 63];
        }
    }

    return (size_t) (dst - start);
}


static inline int
ngx_commerce_base64url_value(uint8_t c)
{
    /* from '-' to 'z' */
    static const int8_t  values[] = {
        62, -1, -1, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61,
        -1, -1, -1, -1, -1, -1, -1,  0,  1,  2,  3,  4,  5,
         6,  7,  8,  9, 10, 11, 12, 13, 14, 15, 16, 17, 18,
        19, 20, 21, 22, 23, 24, 25, -1, -1, -1, -1, 63, -1,
        26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38,
        39, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51
    };

    c -= '-';

    return (c < sizeof(values)) ? values[c] : -1;
}


ptrdiff_t
ngx_commerce_base64url_decode(uint8_t *dst, const uint8_t *src, size_t len)
{
    int        a, b, c, d;
    size_t     i;
    uint8_t   *start;
    uint32_t   w;
    unsigned   bits;

    if (len % 4 == 1) {
        return -1;
    }

    start = dst;

    for (i = 0; i + 4 <= len; i += 4) {
        a = ngx_commerce_base64url_value(src[i]);
        b = ngx_commerce_base64url_value(src[i + 1]);
        c = ngx_commerce_base64url_value(src[i + 2]);
        d = ngx_commerce_base64url_value(src[i + 3]);

        if ((a | b | c | d) < 0) {
            return -1;
        }

        *dst++ = (uint8_t) (a << 2 | b >> 4);
        *dst++ = (uint8_t) (b << 4 | c >> 2);
        *dst++ = (uint8_t) (c << 6 | d);
    }

    w = 0;
    bits = 0;

    for ( /* void */ ; i < len; i++) {
        a = ngx_commerce_base64url_value(src[i]);
        if (a < 0) {
            return -1;
        }

        w = w << 6 | (uint32_t) a;
        bits += 6;

        if (bits >= 8) {
            bits -= 8;
            *dst++ = (uint8_t) (w >> bits);
        }
    }

    /* one text for one value: the bits that are left over must be zero */

    if (w & ((1U << bits) - 1)) {
        return -1;
    }

    return dst - start;
}


void
ngx_commerce_hex(uint8_t *dst, const uint8_t *src, size_t len)
{
    uint64_t  x, letters;

    /* four at a time: each half byte in a byte of its own, 'a' to 'f' 39 further on than '9' */

    for ( /* void */ ; len >= 4; len -= 4, src += 4, dst += 8) {
        x = (uint64_t) src[0] | (uint64_t) src[1] << 16
            | (uint64_t) src[2] << 32 | (uint64_t) src[3] << 48;
        x = (x >> 4 | x << 8) & UINT64_C(0x0f0f0f0f0f0f0f0f);

        letters = (x + UINT64_C(0x0606060606060606)) >> 4
                  & UINT64_C(0x0101010101010101);
        x += UINT64_C(0x3030303030303030) + letters * 39;

#if (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__)
        x = __builtin_bswap64(x);
#endif
        memcpy(dst, &x, 8);
    }

    for ( /* void */ ; len != 0; len--, src++) {
        *dst++ = ngx_commerce_hex_digits[*src >> 4];
        *dst++ = ngx_commerce_hex_digits[*src & 15];
    }
}


static inline int
ngx_commerce_hex_value(uint8_t c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }

    c |= 0x20;

    return (c >= 'a' && c <= 'f') ? c - 'a' + 10 : -1;
}


int
ngx_commerce_unhex(uint8_t *dst, const uint8_t *src, size_t len)
{
    int  high, low;

    for ( /* void */ ; len != 0; len--, src += 2) {
        high = ngx_commerce_hex_value(src[0]);
        low = ngx_commerce_hex_value(src[1]);

        if (high < 0 || low < 0) {
            return -1;
        }

        *dst++ = (uint8_t) (high << 4 | low);
    }

    return 0;
}


static inline void
ngx_commerce_be64(uint8_t *dst, uint64_t v)
{
    v = __builtin_bswap64(v);
    memcpy(dst, &v, 8);
}


/*
 * 48 bits of time and 74 of random.  Within one millisecond the random part of
 * the last one grows by a random step (RFC 9562, method 2), so what a process
 * makes is in order and still not guessable.
 */

void
ngx_commerce_uuid7(uint8_t dst[36], uint64_t unix_ms, const uint8_t random[10])
{
    uint8_t          b[16], text[32];
    uint64_t         step;
    static uint64_t  last_ms, low;      /* low: 62 bits */
    static uint32_t  high;              /* 12 bits */

    memcpy(&step, random + 2, 8);

    if (unix_ms > last_ms || unix_ms + NGX_COMMERCE_UUID_BACK < last_ms) {
        last_ms = unix_ms;
        high = ((uint32_t) random[0] << 8 | random[1]) & 0x7FF;
        low = step & 0x3FFFFFFFFFFFFFFFULL;

    } else {
        low += 1 + (step & 0xFFFFFFFFFFFFULL);

        if (low >> 62) {
            low &= 0x3FFFFFFFFFFFFFFFULL;

            if (++high > 0xFFF) {
                high = 0;
                last_ms++;
            }
        }
    }

    /* 48 bits of time, version, 12 bits; variant, 62 bits */

    ngx_commerce_be64(b, last_ms << 16 | 0x7000 | high);
    ngx_commerce_be64(b + 8, 1ULL << 63 | low);

    ngx_commerce_hex(text, b, 16);

    memcpy(dst, text, 8);
    memcpy(dst + 9, text + 8, 4);
    memcpy(dst + 14, text + 12, 4);
    memcpy(dst + 19, text + 16, 4);
    memcpy(dst + 24, text + 20, 12);

    dst[8] = dst[13] = dst[18] = dst[23] = '-';
}


bool
ngx_commerce_uuid_valid(const uint8_t *s, size_t len)
{
    size_t  i;

    if (len != 36) {
        return false;
    }

    for (i = 0; i < 36; i++) {
        if (i == 8 || i == 13 || i == 18 || i == 23) {
            if (s[i] != '-') {
                return false;
            }

        } else if (ngx_commerce_hex_value(s[i]) < 0) {
            return false;
        }
    }

    return true;
}


ptrdiff_t
ngx_commerce_percent_decode(uint8_t *dst, const uint8_t *src, size_t len,
    bool query)
{
    int             high, low;
    uint8_t        *start;
    const uint8_t  *end;

    start = dst;

    for (end = src + len; src < end; src++) {
        if (*src == '%') {
            if (end - src < 3) {
                return -1;
            }

            high = ngx_commerce_hex_value(src[1]);
            low = ngx_commerce_hex_value(src[2]);

            if (high < 0 || low < 0) {
                return -1;
            }

            *dst++ = (uint8_t) (high << 4 | low);
            src += 2;

        } else {
            *dst++ = (query && *src == '+') ? ' ' : *src;
        }
    }

    return dst - start;
}


bool
ngx_commerce_utf8_valid(const uint8_t *s, size_t len)
{
    size_t          n;
    const uint8_t  *end;

    for (end = s + len; s < end; /* void */ ) {
        if (end - s >= 8
            && (ngx_commerce_word(s) & NGX_COMMERCE_HIGHS) == 0)
        {
            s += 8;
            continue;
        }

        if (*s < 0x80) {
            s++;
            continue;
        }

        n = ngx_commerce_utf8_sequence(s, end);
        if (n == 0) {
            return false;
        }

        s += n;
    }

    return true;
}
