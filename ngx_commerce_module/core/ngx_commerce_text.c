/*
 * Normal forms of text.
 *
 * What a character does to its neighbours when text is composed is kept in
 * two bitmaps, made at the first use from the library's own tables: most text
 * is known to be NFC by a look at each character, and only the few stretches
 * that are not are handed to the library.
 */

#include "ngx_commerce_text.h"
#include "ngx_commerce_utf8.h"

#include <idn2.h>
#include <stdlib.h>
#include <utf8proc.h>


#define NGX_COMMERCE_TEXT_PLANES   0x20000     /* nothing composes beyond */
#define NGX_COMMERCE_TEXT_FIRST    0x300       /* all below is NFC */
#define NGX_COMMERCE_TEXT_BUFFER   (4 * (NGX_COMMERCE_TEXT_MARKS + 2))


typedef struct {
    const uint8_t  *start;
    const uint8_t  *end;
} ngx_commerce_stretch_t;


/* May join what precedes it; is another character in NFC. */

static uint64_t  ngx_commerce_text_marks[NGX_COMMERCE_TEXT_PLANES / 64];
static uint64_t  ngx_commerce_text_others[NGX_COMMERCE_TEXT_PLANES / 64];
static bool      ngx_commerce_text_ready;


#define ngx_commerce_bit(map, c)   ((map)[(c) / 64] >> ((c) % 64) & 1)
#define ngx_commerce_set(map, c)   (map)[(c) / 64] |= 1ULL << ((c) % 64)


/* One character that has a canonical decomposition. */

static void
ngx_commerce_text_learn(int32_t c)
{
    int                   bound;
    int32_t               parts[8];
    utf8proc_ssize_t      i, n;

    bound = UTF8PROC_BOUNDCLASS_START;
    n = utf8proc_decompose_char(c, parts, 8, UTF8PROC_STABLE|UTF8PROC_DECOMPOSE,
                                &bound);

    if (n < 1 || n > 8) {
        return;
    }

    for (i = 0; i < n; i++) {
        if (i > 0 || utf8proc_get_property(parts[i])->combining_class != 0) {
            ngx_commerce_set(ngx_commerce_text_marks, parts[i]);

            if (i == 0) {
                ngx_commerce_set(ngx_commerce_text_marks, c);
            }
        }
    }

    if (utf8proc_normalize_utf32(parts, n, UTF8PROC_STABLE|UTF8PROC_COMPOSE)
        != 1 || parts[0] != c)
    {
        ngx_commerce_set(ngx_commerce_text_others, c);
    }
}


static void
ngx_commerce_text_prepare(void)
{
    int32_t                      c;
    const utf8proc_property_t   *property;

    for (c = NGX_COMMERCE_TEXT_FIRST; c < NGX_COMMERCE_TEXT_PLANES; c++) {
        property = utf8proc_get_property(c);

        /* vowels and finals of Hangul are composed by a rule, not by a table */

        if (property->combining_class != 0
            || (c >= 0x1161 && c <= 0x1175) || (c >= 0x11A8 && c <= 0x11C2))
        {
            ngx_commerce_set(ngx_commerce_text_marks, c);
        }

        if (property->decomp_seqindex != UINT16_MAX
            && property->decomp_type == 0)
        {
            ngx_commerce_text_learn(c);
        }
    }

    /* letters below the first mark: é tells that U+0301 is one */

    for (c = 0xC0; c < NGX_COMMERCE_TEXT_FIRST; c++) {
        property = utf8proc_get_property(c);

        if (property->decomp_seqindex != UINT16_MAX
            && property->decomp_type == 0)
        {
            ngx_commerce_text_learn(c);
        }
    }

    ngx_commerce_text_ready = true;
}


static inline int32_t
ngx_commerce_text_char(const uint8_t *p, size_t n)
{
    switch (n) {

    case 2:
        return ((p[0] & 0x1F) << 6) | (p[1] & 0x3F);

    case 3:
        return ((p[0] & 0x0F) << 12) | ((p[1] & 0x3F) << 6) | (p[2] & 0x3F);

    case 4:
        return ((p[0] & 0x07) << 18) | ((p[1] & 0x3F) << 12)
               | ((p[2] & 0x3F) << 6) | (p[3] & 0x3F);

    default:
        return p[0];
    }
}


static inline size_t
ngx_commerce_text_len(const uint8_t *p)
{
    return p[0] < 0x80 ? 1 : (p[0] < 0xE0 ? 2 : (p[0] < 0xF0 ? 3 : 4));
}


/*
 * A stretch begins at a character that joins nothing before it and takes all
 * that may join in behind: it is composed without a look at its neighbours.
 * False: the rest is NFC.
 */

static bool
ngx_commerce_text_stretch(const uint8_t *p, const uint8_t *end,
    ngx_commerce_stretch_t *stretch)
{
    int32_t         c;
    size_t          n;
    const uint8_t  *base;

    for (base = p; p < end; p += n) {

        while (end - p >= 8
               && (ngx_commerce_word(p) & NGX_COMMERCE_HIGHS) == 0)
        {
            p += 8;
            base = p - 1;
        }

        if (p == end) {
            return false;
        }

        n = ngx_commerce_text_len(p);
        c = ngx_commerce_text_char(p, n);

        if (c < NGX_COMMERCE_TEXT_FIRST) {
            base = p;
            continue;
        }

        if (c >= NGX_COMMERCE_TEXT_PLANES) {
            base = p;

            /* the ideographs of plane 2 that stand for others */
            if (c >= 0x2F800 && c <= 0x2FA1D) {
                break;
            }

            continue;
        }

        if (ngx_commerce_bit(ngx_commerce_text_marks, c)) {
            break;
        }

        base = p;

        if (ngx_commerce_bit(ngx_commerce_text_others, c)) {
            break;
        }
    }

    if (p >= end) {
        return false;
    }

    stretch->start = base;

    for (p += base == p ? ngx_commerce_text_len(p) : 0; p < end; p += n) {
        n = ngx_commerce_text_len(p);
        c = ngx_commerce_text_char(p, n);

        if (c < NGX_COMMERCE_TEXT_FIRST || c >= NGX_COMMERCE_TEXT_PLANES
            || !ngx_commerce_bit(ngx_commerce_text_marks, c))
        {
            break;
        }
    }

    stretch->end = p;

    return true;
}


/* The stretch in NFC, within "buffer"; its length, or -1. */

static ptrdiff_t
ngx_commerce_text_compose(const ngx_commerce_stretch_t *stretch,
    int32_t buffer[NGX_COMMERCE_TEXT_BUFFER])
{
    size_t             len;
    utf8proc_ssize_t   n;

    len = (size_t) (stretch->end - stretch->start);

    if (ngx_commerce_utf8_length(stretch->start, len)
        > NGX_COMMERCE_TEXT_MARKS + 1)
    {
        return -1;
    }

    n = utf8proc_decompose(stretch->start, (utf8proc_ssize_t) len, buffer,
                           NGX_COMMERCE_TEXT_BUFFER - 1,
                           UTF8PROC_STABLE|UTF8PROC_COMPOSE);

    if (n < 0 || n > NGX_COMMERCE_TEXT_BUFFER - 1) {
        return -1;
    }

    return utf8proc_reencode(buffer, n, UTF8PROC_STABLE|UTF8PROC_COMPOSE);
}


/*
 * Copies the text with its stretches composed to "dst", or only counts when
 * that is NULL.  -1: too many marks.  *changed: it differs from "text".
 */

static ptrdiff_t
ngx_commerce_text_write(uint8_t *dst, ngx_commerce_str_t text, bool *changed)
{
    size_t                   before;
    ptrdiff_t                n, total;
    int32_t                  buffer[NGX_COMMERCE_TEXT_BUFFER];
    const uint8_t           *p, *end;
    ngx_commerce_stretch_t   stretch;

    p = text.data;
    end = text.data + text.len;
    total = 0;

    while (ngx_commerce_text_stretch(p, end, &stretch)) {

        n = ngx_commerce_text_compose(&stretch, buffer);
        if (n < 0) {
            return -1;
        }

        *changed |= n != stretch.end - stretch.start
                    || memcmp(buffer, stretch.start, (size_t) n) != 0;

        before = (size_t) (stretch.start - p);

        if (dst != NULL) {
            memcpy(dst + total, p, before);
            memcpy(dst + total + before, buffer, (size_t) n);
        }

        total += (ptrdiff_t) before + n;
        p = stretch.end;
    }

    if (dst != NULL) {
        memcpy(dst + total, p, (size_t) (end - p));
    }

    return total + (end - p);
}


ngx_commerce_rc_t
ngx_commerce_text_nfc(const ngx_commerce_alloc_t *alloc,
    ngx_commerce_str_t *text)
{
    bool        changed;
    uint8_t    *p;
    ptrdiff_t   len;

    if (text->len == 0) {
        return NGX_COMMERCE_OK;
    }

    if (!ngx_commerce_text_ready) {
        ngx_commerce_text_prepare();
    }

    changed = false;

    len = ngx_commerce_text_write(NULL, *text, &changed);

    if (len < 0) {
        return NGX_COMMERCE_INVALID;
    }

    if (!changed) {
        return NGX_COMMERCE_OK;
    }

    p = alloc->alloc(alloc->ctx, (size_t) len);
    if (p == NULL) {
        return NGX_COMMERCE_NOMEM;
    }

    ngx_commerce_text_write(p, *text, &changed);

    text->data = p;
    text->len = (size_t) len;

    return NGX_COMMERCE_OK;
}


/* Letters beyond ASCII are to be mapped, what says it is an A-label is to be checked. */

static bool
ngx_commerce_text_host_idna(const uint8_t *p, size_t len)
{
    size_t  i;

    for (i = 0; i < len; i++) {
        if (p[i] >= 0x80) {
            return true;
        }

        if ((i == 0 || p[i - 1] == '.') && len - i >= 4
            && (p[i] | 0x20) == 'x' && (p[i + 1] | 0x20) == 'n'
            && p[i + 2] == '-' && p[i + 3] == '-')
        {
            return true;
        }
    }

    return false;
}


static void
ngx_commerce_text_host_lower(uint8_t *dst, const uint8_t *p, size_t len)
{
    size_t  i;

    for (i = 0; i < len; i++) {
        dst[i] = (p[i] >= 'A' && p[i] <= 'Z') ? p[i] | 0x20 : p[i];
    }
}


ptrdiff_t
ngx_commerce_text_host(uint8_t dst[NGX_COMMERCE_HOST_MAX], const uint8_t *p,
    size_t len)
{
    char     name[4 * NGX_COMMERCE_HOST_MAX + 1];
    int      rc;
    size_t   n;
    uint8_t *ascii;

    if (len == 0 || len >= sizeof(name)) {
        return -1;
    }

    if (!ngx_commerce_text_host_idna(p, len)) {
        if (len > NGX_COMMERCE_HOST_MAX) {
            return -1;
        }

        ngx_commerce_text_host_lower(dst, p, len);
        return (ptrdiff_t) len;
    }

    memcpy(name, p, len);
    name[len] = '\0';
    ascii = NULL;

    rc = idn2_lookup_u8((uint8_t *) name, &ascii,
                        IDN2_NFC_INPUT|IDN2_NONTRANSITIONAL);

    if (rc != IDN2_OK) {
        return -1;
    }

    n = strlen((char *) ascii);

    if (n == 0 || n > NGX_COMMERCE_HOST_MAX) {
        idn2_free(ascii);
        return -1;
    }

    ngx_commerce_text_host_lower(dst, ascii, n);
    idn2_free(ascii);

    return (ptrdiff_t) n;
}


/* Category Zs without U+0020. */

static bool
ngx_commerce_text_is_space(int32_t c)
{
    return c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A)
           || c == 0x202F || c == 0x205F || c == 0x3000;
}


size_t
ngx_commerce_text_spaces(uint8_t *p, size_t len)
{
    size_t    n;
    uint8_t  *dst, *start, *end;

    start = p;
    end = p + len;

    for (dst = p; p < end; p += n) {
        n = ngx_commerce_text_len(p);

        if (n > 1 && ngx_commerce_text_is_space(ngx_commerce_text_char(p, n))) {
            *dst++ = ' ';
            continue;
        }

        memmove(dst, p, n);
        dst += n;
    }

    return (size_t) (dst - start);
}
