/*
 * UTF-8, one sequence at a time, and eight bytes at a time where it is ASCII.
 */

#ifndef NGX_COMMERCE_UTF8_H
#define NGX_COMMERCE_UTF8_H


#include <stddef.h>
#include <stdint.h>
#include <string.h>


#define NGX_COMMERCE_ONES   0x0101010101010101ULL
#define NGX_COMMERCE_HIGHS  0x8080808080808080ULL


static inline uint64_t
ngx_commerce_word(const uint8_t *p)
{
    uint64_t  w;

    memcpy(&w, p, 8);

    return w;
}


/* The length of the sequence at p (lead byte >= 0x80), or 0 when it is none. */

static inline size_t
ngx_commerce_utf8_sequence(const uint8_t *p, const uint8_t *end)
{
    size_t  left = (size_t) (end - p);

    if (p[0] < 0xC2) {
        return 0;
    }

    if (p[0] < 0xE0) {
        return (left >= 2 && (p[1] & 0xC0) == 0x80) ? 2 : 0;
    }

    if (p[0] < 0xF0) {
        if (left < 3 || (p[1] & 0xC0) != 0x80 || (p[2] & 0xC0) != 0x80
            || (p[0] == 0xE0 && p[1] < 0xA0)        /* overlong */
            || (p[0] == 0xED && p[1] > 0x9F))       /* surrogates */
        {
            return 0;
        }

        return 3;
    }

    if (p[0] > 0xF4 || left < 4 || (p[1] & 0xC0) != 0x80
        || (p[2] & 0xC0) != 0x80 || (p[3] & 0xC0) != 0x80
        || (p[0] == 0xF0 && p[1] < 0x90)            /* overlong */
        || (p[0] == 0xF4 && p[1] > 0x8F))           /* above U+10FFFF */
    {
        return 0;
    }

    return 4;
}


/* U+FDD0..U+FDEF and the last two of each plane; p is a valid sequence of n. */

static inline int
ngx_commerce_utf8_noncharacter(const uint8_t *p, size_t n)
{
    if (n == 3) {
        return p[0] == 0xEF
               && ((p[1] == 0xB7 && p[2] >= 0x90 && p[2] <= 0xAF)
                   || (p[1] == 0xBF && p[2] >= 0xBE));
    }

    return n == 4 && (p[1] & 0x0F) == 0x0F && p[2] == 0xBF && p[3] >= 0xBE;
}


/* Code points of valid UTF-8. */

static inline size_t
ngx_commerce_utf8_length(const uint8_t *p, size_t len)
{
    size_t          n = 0;
    const uint8_t  *end = p + len;

    for ( /* void */ ; end - p >= 8; p += 8) {
        uint64_t  w = ngx_commerce_word(p);

        /* continuation bytes are 10xxxxxx */
        n += 8 - (size_t) __builtin_popcountll((w & ~(w << 1))
                                               & NGX_COMMERCE_HIGHS);
    }

    for ( /* void */ ; p < end; p++) {
        n += (*p & 0xC0) != 0x80;
    }

    return n;
}


#endif /* NGX_COMMERCE_UTF8_H */
