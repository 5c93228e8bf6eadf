/*
 * Strings of JSON: checked eight bytes at a time where they are plain ASCII,
 * unescaped into memory of their own only where they hold escapes.
 */

#include "ngx_commerce_json_internal.h"
#include "ngx_commerce_text.h"
#include "ngx_commerce_utf8.h"


static ngx_commerce_rc_t ngx_commerce_json_nfc(ngx_commerce_json_reader_t *rd,
    const uint8_t *at, ngx_commerce_str_t *text);
static ngx_commerce_rc_t ngx_commerce_json_escape(
    ngx_commerce_json_reader_t *rd, size_t *saved);
static void ngx_commerce_json_unescape(uint8_t *dst, const uint8_t *p,
    const uint8_t *end);


/* True when none of the eight bytes is special within a string. */

static inline bool
ngx_commerce_json_plain(uint64_t w)
{
    uint64_t  quote, slash, control;

    quote = w ^ (NGX_COMMERCE_ONES * '"');
    slash = w ^ (NGX_COMMERCE_ONES * '\\');
    control = w - NGX_COMMERCE_ONES * 0x20;

    return ((w
             | ((quote - NGX_COMMERCE_ONES) & ~quote)
             | ((slash - NGX_COMMERCE_ONES) & ~slash)
             | (control & ~w))
            & NGX_COMMERCE_HIGHS) == 0;
}


ngx_commerce_rc_t
ngx_commerce_json_string(ngx_commerce_json_reader_t *rd,
    ngx_commerce_str_t *text)
{
    bool                wide;
    size_t              n, saved;
    ngx_commerce_rc_t   rc;
    const uint8_t      *start;

    start = ++rd->p;
    saved = 0;
    wide = false;

    for ( ;; ) {
        while (rd->end - rd->p >= 8
               && ngx_commerce_json_plain(ngx_commerce_word(rd->p)))
        {
            rd->p += 8;
        }

        while (rd->p < rd->end && *rd->p >= 0x20 && *rd->p < 0x80
               && *rd->p != '"' && *rd->p != '\\')
        {
            rd->p++;
        }

        if (rd->p == rd->end) {
            return ngx_commerce_json_fail(rd, rd->p, "syntax",
                                          "A string is not closed.");
        }

        if (*rd->p == '"') {
            break;
        }

        if (*rd->p < 0x20) {
            if (*rd->p == 0) {
                return ngx_commerce_json_fail(rd, rd->p, "nul-character",
                              "A string must not hold the NUL character.");
            }

            return ngx_commerce_json_fail(rd, rd->p, "control-character",
                          "A control character in a string must be escaped.");
        }

        if (*rd->p == '\\') {
            wide |= rd->end - rd->p > 1 && rd->p[1] == 'u';

            rc = ngx_commerce_json_escape(rd, &saved);
            if (rc != NGX_COMMERCE_OK) {
                return rc;
            }

            continue;
        }

        wide = true;

        do {
            n = ngx_commerce_utf8_sequence(rd->p, rd->end);

            if (n == 0) {
                return ngx_commerce_json_fail(rd, rd->p, "invalid-utf8",
                                              "The text is not valid UTF-8.");
            }

            if (n > 2 && ngx_commerce_utf8_noncharacter(rd->p, n)) {
                return ngx_commerce_json_fail(rd, rd->p, "noncharacter",
                              "A string must not hold a Unicode "
                              "noncharacter.");
            }

            rd->p += n;

        } while (rd->p < rd->end && *rd->p >= 0x80);
    }

    text->data = (uint8_t *) start;
    text->len = (size_t) (rd->p - start);

    if (saved != 0) {
        text->len -= saved;

        text->data = rd->alloc->alloc(rd->alloc->ctx,
                                      text->len ? text->len : 1);
        if (text->data == NULL) {
            return NGX_COMMERCE_NOMEM;
        }

        ngx_commerce_json_unescape(text->data, start, rd->p);
    }

    if (wide && rd->nfc) {
        rc = ngx_commerce_json_nfc(rd, start, text);
        if (rc != NGX_COMMERCE_OK) {
            return rc;
        }
    }

    rd->p++;

    return NGX_COMMERCE_OK;
}


static ngx_commerce_rc_t
ngx_commerce_json_nfc(ngx_commerce_json_reader_t *rd, const uint8_t *at,
    ngx_commerce_str_t *text)
{
    const uint8_t      *before;
    ngx_commerce_rc_t   rc;

    before = text->data;

    rc = ngx_commerce_text_nfc(rd->alloc, text);

    if (rc == NGX_COMMERCE_INVALID) {
        return ngx_commerce_json_fail(rd, at, "too-many-marks",
                          "A character must not bear more than 30 combining "
                          "marks.");
    }

    rd->changed |= text->data != before;

    return rc;
}


/* The four digits at p, or -1. */

static int32_t
ngx_commerce_json_hex4(const uint8_t *p, const uint8_t *end)
{
    int32_t   value;
    uint8_t   c;
    unsigned  i;

    if (end - p < 4) {
        return -1;
    }

    value = 0;

    for (i = 0; i < 4; i++) {
        c = p[i];

        if (c >= '0' && c <= '9') {
            c -= '0';

        } else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f') {
            c = (uint8_t) ((c | 0x20) - 'a' + 10);

        } else {
            return -1;
        }

        value = (value << 4) | c;
    }

    return value;
}


/* Checks one escape and adds to *saved the bytes that it is longer than its text. */

static ngx_commerce_rc_t
ngx_commerce_json_escape(ngx_commerce_json_reader_t *rd, size_t *saved)
{
    int32_t         code, low;
    const uint8_t  *at;

    at = rd->p;

    if (rd->end - at >= 2 && at[1] != 'u') {
        if (at[1] == 0 || strchr("\"\\/bfnrt", at[1]) == NULL) {
            return ngx_commerce_json_fail(rd, at, "syntax",
                                          "There is no such escape.");
        }

        rd->p += 2;
        *saved += 1;

        return NGX_COMMERCE_OK;
    }

    code = rd->end - at >= 2 ? ngx_commerce_json_hex4(at + 2, rd->end) : -1;

    if (code < 0) {
        return ngx_commerce_json_fail(rd, at, "syntax",
                              "An escape must be \\u and four hex digits.");
    }

    if (code == 0) {
        return ngx_commerce_json_fail(rd, at, "nul-character",
                              "A string must not hold the NUL character.");
    }

    if (code < 0xD800 || code > 0xDFFF) {
        if ((code >= 0xFDD0 && code <= 0xFDEF) || code >= 0xFFFE) {
            return ngx_commerce_json_fail(rd, at, "noncharacter",
                              "A string must not hold a Unicode "
                              "noncharacter.");
        }

        rd->p += 6;
        *saved += code < 0x80 ? 5 : (code < 0x800 ? 4 : 3);

        return NGX_COMMERCE_OK;
    }

    low = (code < 0xDC00 && rd->end - at >= 12 && at[6] == '\\'
           && at[7] == 'u')
          ? ngx_commerce_json_hex4(at + 8, rd->end) : -1;

    if (low < 0xDC00 || low > 0xDFFF) {
        return ngx_commerce_json_fail(rd, at, "lone-surrogate",
                              "A \\ud800-\\udfff escape must be one of a "
                              "pair.");
    }

    /* U+xFFFE, U+xFFFF of the planes above the first */
    if ((code & 0x3F) == 0x3F && (low & 0x3FE) == 0x3FE) {
        return ngx_commerce_json_fail(rd, at, "noncharacter",
                              "A string must not hold a Unicode "
                              "noncharacter.");
    }

    rd->p += 12;
    *saved += 8;

    return NGX_COMMERCE_OK;
}


/* The escapes are known to be well-formed. */

static void
ngx_commerce_json_unescape(uint8_t *dst, const uint8_t *p, const uint8_t *end)
{
    uint32_t        c;
    const uint8_t  *escape;

    for ( ;; ) {
        escape = memchr(p, '\\', (size_t) (end - p));
        if (escape == NULL) {
            memcpy(dst, p, (size_t) (end - p));
            return;
        }

        memcpy(dst, p, (size_t) (escape - p));
        dst += escape - p;
        p = escape + 2;

        switch (escape[1]) {

        case 'b':
            *dst++ = '\b';
            continue;

        case 'f':
            *dst++ = '\f';
            continue;

        case 'n':
            *dst++ = '\n';
            continue;

        case 'r':
            *dst++ = '\r';
            continue;

        case 't':
            *dst++ = '\t';
            continue;

        case 'u':
            break;

        default:
            *dst++ = escape[1];
            continue;
        }

        c = (uint32_t) ngx_commerce_json_hex4(p, end);
        p += 4;

        if (c >= 0xD800 && c <= 0xDBFF) {
            c = 0x10000 + ((c - 0xD800) << 10)
                + ((uint32_t) ngx_commerce_json_hex4(p + 2, end) - 0xDC00);
            p += 6;
        }

        if (c < 0x80) {
            *dst++ = (uint8_t) c;
            continue;
        }

        if (c < 0x800) {
            *dst++ = (uint8_t) (0xC0 | (c >> 6));

        } else {
            if (c < 0x10000) {
                *dst++ = (uint8_t) (0xE0 | (c >> 12));

            } else {
                *dst++ = (uint8_t) (0xF0 | (c >> 18));
                *dst++ = (uint8_t) (0x80 | ((c >> 12) & 0x3F));
            }

            *dst++ = (uint8_t) (0x80 | ((c >> 6) & 0x3F));
        }

        *dst++ = (uint8_t) (0x80 | (c & 0x3F));
    }
}
