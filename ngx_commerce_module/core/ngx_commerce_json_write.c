/*
 * JSON out: quoted strings and the canonical form of a document.
 */

#include "ngx_commerce_json.h"
#include "ngx_commerce_utf8.h"

#include <stdlib.h>


#define NGX_COMMERCE_JSON_SORT_STACK  64


static uint8_t *ngx_commerce_json_canonical_object(uint8_t *dst,
    const ngx_commerce_json_t *object);
static size_t ngx_commerce_json_canonical_len(const ngx_commerce_json_t *value);


/* The letter of a two-character escape, 'u', or 0 for what needs none. */

static inline uint8_t
ngx_commerce_json_escape_of(uint8_t c)
{
    static const uint8_t  control[32] = {
        'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u',
        'b', 't', 'n', 'u', 'f', 'r', 'u', 'u',
        'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u',
        'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u',
    };

    if (c < 0x20) {
        return control[c];
    }

    return (c == '"' || c == '\\') ? c : 0;
}


static size_t
ngx_commerce_json_quote_len(const uint8_t *text, size_t len)
{
    size_t   i, n;
    uint8_t  escape;

    n = len + 2;

    for (i = 0; i < len; i++) {
        escape = ngx_commerce_json_escape_of(text[i]);
        n += escape == 0 ? 0 : (escape == 'u' ? 5 : 1);
    }

    return n;
}


uint8_t *
ngx_commerce_json_quote(uint8_t *dst, const uint8_t *text, size_t len)
{
    uint8_t               escape;
    const uint8_t        *run, *end;
    static const uint8_t  hex[] = "0123456789abcdef";

    if (dst == NULL) {
        return (uint8_t *) (uintptr_t) ngx_commerce_json_quote_len(text, len);
    }

    *dst++ = '"';

    for (run = text, end = text + len; text < end; text++) {
        escape = ngx_commerce_json_escape_of(*text);

        if (escape == 0) {
            continue;
        }

        memcpy(dst, run, (size_t) (text - run));
        dst += text - run;
        run = text + 1;

        *dst++ = '\\';
        *dst++ = escape;

        if (escape == 'u') {
            *dst++ = '0';
            *dst++ = '0';
            *dst++ = hex[*text >> 4];
            *dst++ = hex[*text & 15];
        }
    }

    if (run < end) {
        memcpy(dst, run, (size_t) (end - run));
        dst += end - run;
    }

    *dst++ = '"';

    return dst;
}


/*
 * RFC 8785 sorts by UTF-16 code units.  UTF-8 sorts alike but for what UTF-16
 * writes as surrogates: those come before U+E000..U+FFFF (EE, EF).
 */

static inline int
ngx_commerce_json_unit(uint8_t c)
{
    if (c >= 0xF0) {
        return c - 2;
    }

    return c >= 0xEE ? c + 8 : c;
}


static int
ngx_commerce_json_order(const void *one, const void *two)
{
    size_t                      i, len;
    const ngx_commerce_json_t  *a, *b;

    a = *(const ngx_commerce_json_t *const *) one;
    b = *(const ngx_commerce_json_t *const *) two;

    len = a->key.len < b->key.len ? a->key.len : b->key.len;

    for (i = 0; i < len; i++) {
        if (a->key.data[i] != b->key.data[i]) {
            return ngx_commerce_json_unit(a->key.data[i])
                   - ngx_commerce_json_unit(b->key.data[i]);
        }
    }

    return (a->key.len > b->key.len) - (a->key.len < b->key.len);
}


uint8_t *
ngx_commerce_json_canonical(uint8_t *dst, const ngx_commerce_json_t *value)
{
    const ngx_commerce_json_t  *child;

    if (dst == NULL) {
        return (uint8_t *) (uintptr_t) ngx_commerce_json_canonical_len(value);
    }

    switch (value->type) {

    case NGX_COMMERCE_JSON_STRING:
        return ngx_commerce_json_quote(dst, value->text.data, value->text.len);

    case NGX_COMMERCE_JSON_OBJECT:
        return ngx_commerce_json_canonical_object(dst, value);

    case NGX_COMMERCE_JSON_ARRAY:
        *dst++ = '[';

        for (child = value->child; child != NULL; child = child->next) {
            dst = ngx_commerce_json_canonical(dst, child);
            if (dst == NULL) {
                return NULL;
            }

            if (child->next != NULL) {
                *dst++ = ',';
            }
        }

        *dst++ = ']';
        return dst;

    default:
        memcpy(dst, value->raw.data, value->raw.len);
        return dst + value->raw.len;
    }
}


static uint8_t *
ngx_commerce_json_canonical_object(uint8_t *dst,
    const ngx_commerce_json_t *object)
{
    uint32_t                     i;
    const ngx_commerce_json_t   *child, **sorted;
    const ngx_commerce_json_t   *stack[NGX_COMMERCE_JSON_SORT_STACK];

    sorted = stack;

    if (object->count > NGX_COMMERCE_JSON_SORT_STACK) {
        sorted = malloc(object->count * sizeof(ngx_commerce_json_t *));
        if (sorted == NULL) {
            return NULL;
        }
    }

    for (i = 0, child = object->child; child != NULL; child = child->next) {
        sorted[i++] = child;
    }

    if (object->count > 1) {
        qsort(sorted, object->count, sizeof(ngx_commerce_json_t *),
              ngx_commerce_json_order);
    }

    *dst++ = '{';

    for (i = 0; i < object->count; i++) {
        if (i != 0) {
            *dst++ = ',';
        }

        dst = ngx_commerce_json_quote(dst, sorted[i]->key.data,
                                      sorted[i]->key.len);
        *dst++ = ':';

        dst = ngx_commerce_json_canonical(dst, sorted[i]);
        if (dst == NULL) {
            break;
        }
    }

    if (sorted != stack) {
        free(sorted);
    }

    if (dst != NULL) {
        *dst++ = '}';
    }

    return dst;
}


static size_t
ngx_commerce_json_canonical_len(const ngx_commerce_json_t *value)
{
    size_t                      n;
    const ngx_commerce_json_t  *child;

    if (value->type == NGX_COMMERCE_JSON_STRING) {
        return ngx_commerce_json_quote_len(value->text.data, value->text.len);
    }

    if (value->type < NGX_COMMERCE_JSON_ARRAY) {
        return value->raw.len;
    }

    n = 2 + (value->count > 1 ? value->count - 1 : 0);

    for (child = value->child; child != NULL; child = child->next) {
        n += ngx_commerce_json_canonical_len(child);

        if (value->type == NGX_COMMERCE_JSON_OBJECT) {
            n += 1 + ngx_commerce_json_quote_len(child->key.data,
                                                 child->key.len);
        }
    }

    return n;
}
