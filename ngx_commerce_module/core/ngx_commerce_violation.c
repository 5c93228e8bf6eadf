/*
 * Violations, and the values that checks compare.
 */

#include "ngx_commerce_schema_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>


#define NGX_COMMERCE_MESSAGE_MAX  256


ngx_commerce_rc_t
ngx_commerce_violation_add(ngx_commerce_violations_t *violations,
    ngx_commerce_str_t pointer, const char *code, const char *format,
    va_list args)
{
    int                        n;
    char                       buf[NGX_COMMERCE_MESSAGE_MAX];
    ngx_commerce_violation_t  *v;

    if (violations->count == NGX_COMMERCE_VIOLATIONS_MAX) {
        return NGX_COMMERCE_INVALID;
    }

    n = vsnprintf(buf, sizeof(buf), format, args);
    /* a message that is cut must not end within a character */

    if (n >= (int) sizeof(buf)) {
        n = (int) sizeof(buf) - 1;

        while ((buf[n] & 0xC0) == 0x80) {
            n--;
        }
    }

    v = &violations->list[violations->count];
    v->pointer = pointer;
    v->code = code;
    v->message.len = (size_t) n;
    v->message.data = violations->alloc->alloc(violations->alloc->ctx,
                                               (size_t) n + 1);
    if (v->message.data == NULL) {
        return NGX_COMMERCE_NOMEM;
    }

    memcpy(v->message.data, buf, (size_t) n);
    violations->count++;

    return NGX_COMMERCE_INVALID;
}


ngx_commerce_rc_t
ngx_commerce_violation(ngx_commerce_violations_t *violations,
    ngx_commerce_str_t pointer, const char *code, const char *format, ...)
{
    va_list            args;
    ngx_commerce_rc_t  rc;

    va_start(args, format);
    rc = ngx_commerce_violation_add(violations, pointer, code, format, args);
    va_end(args);

    return rc;
}


double
ngx_commerce_json_real(const ngx_commerce_json_t *value)
{
    char  buf[72];

    if (value->integer) {
        return (double) value->number;
    }

    /* the reader lets no number above 64 characters pass */
    snprintf(buf, sizeof(buf), "%.*s", (int) value->raw.len,
             (char *) value->raw.data);

    return strtod(buf, NULL);
}


bool
ngx_commerce_json_equal(const ngx_commerce_json_t *a,
    const ngx_commerce_json_t *b)
{
    const ngx_commerce_json_t  *x, *y;

    if (a->type != b->type) {
        return false;
    }

    switch (a->type) {

    case NGX_COMMERCE_JSON_NUMBER:
        return ngx_commerce_json_real(a) == ngx_commerce_json_real(b);

    case NGX_COMMERCE_JSON_STRING:
        return a->text.len == b->text.len
               && memcmp(a->text.data, b->text.data, a->text.len) == 0;

    case NGX_COMMERCE_JSON_ARRAY:
        for (x = a->child, y = b->child; x && y; x = x->next, y = y->next) {
            if (!ngx_commerce_json_equal(x, y)) {
                return false;
            }
        }

        return x == NULL && y == NULL;

    case NGX_COMMERCE_JSON_OBJECT:
        if (a->count != b->count) {
            return false;
        }

        for (x = a->child; x != NULL; x = x->next) {
            y = ngx_commerce_json_get_n(b, x->key.data, x->key.len);

            if (y == NULL || !ngx_commerce_json_equal(x, y)) {
                return false;
            }
        }

        return true;

    default:
        return true;
    }
}
