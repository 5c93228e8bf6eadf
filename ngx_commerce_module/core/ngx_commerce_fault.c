/*
 * Faults in what operators write, and memory at load time.
 */

#include "ngx_commerce_fault.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>


static char *
ngx_commerce_fault_place(const ngx_commerce_place_t *place, char *p,
    const char *start, const char *last)
{
    size_t  n;

    if (place == NULL) {
        return p;
    }

    p = ngx_commerce_fault_place(place->up, p, start, last);

    if (p != start && p < last) {
        *p++ = '.';
    }

    n = place->name.len < (size_t) (last - p) ? place->name.len
                                              : (size_t) (last - p);
    memcpy(p, place->name.data, n);

    return p + n;
}


ngx_commerce_rc_t
ngx_commerce_fault(ngx_commerce_fault_t *fault, const ngx_commerce_json_t *root,
    const ngx_commerce_json_t *at, const ngx_commerce_place_t *place,
    const char *format, ...)
{
    char     *end;
    va_list   args;

    fault->line = 0;
    fault->column = 0;

    if (root != NULL && at != NULL) {
        ngx_commerce_fault_position(fault, root->raw.data, at->raw.data);
    }

    end = ngx_commerce_fault_place(place, fault->place, fault->place,
                            fault->place + sizeof(fault->place) - 1);
    *end = '\0';

    va_start(args, format);
    vsnprintf(fault->message, sizeof(fault->message), format, args);
    va_end(args);

    return NGX_COMMERCE_INVALID;
}


void
ngx_commerce_fault_position(ngx_commerce_fault_t *fault, const uint8_t *start,
    const uint8_t *at)
{
    fault->line = 1;
    fault->column = 1;

    for ( /* void */ ; start < at; start++) {
        fault->column++;

        if (*start == '\n') {
            fault->line++;
            fault->column = 1;
        }
    }
}


void *
ngx_commerce_zalloc(const ngx_commerce_alloc_t *alloc, size_t size)
{
    void  *p;

    p = alloc->alloc(alloc->ctx, size ? size : 1);

    if (p != NULL) {
        memset(p, 0, size);
    }

    return p;
}


bool
ngx_commerce_str_is(ngx_commerce_str_t s, const char *text)
{
    return s.len == strlen(text) && memcmp(s.data, text, s.len) == 0;
}


/* One step of a pointer: ~1 is a slash, ~0 a tilde. */

static bool
ngx_commerce_json_step_is(const ngx_commerce_str_t *key, const uint8_t *step,
    size_t len)
{
    size_t   i, k;
    uint8_t  c;

    for (i = 0, k = 0; i < len; i++, k++) {
        c = step[i];

        if (c == '~' && i + 1 < len) {
            c = step[++i] == '1' ? '/' : '~';
        }

        if (k == key->len || key->data[k] != c) {
            return false;
        }
    }

    return k == key->len;
}


const ngx_commerce_json_t *
ngx_commerce_json_resolve(const ngx_commerce_json_t *root,
    ngx_commerce_str_t ref)
{
    size_t                      len;
    uint32_t                    index;
    const uint8_t              *p, *end, *slash;
    const ngx_commerce_json_t  *value, *child;

    if (ref.len < 1 || ref.data[0] != '#') {
        return NULL;
    }

    value = root;
    p = ref.data + 1;
    end = ref.data + ref.len;

    while (p < end) {
        if (*p++ != '/') {
            return NULL;
        }

        slash = memchr(p, '/', (size_t) (end - p));
        len = (size_t) ((slash ? slash : end) - p);
        index = 0;

        for (child = value->child; child != NULL; child = child->next) {
            if (value->type == NGX_COMMERCE_JSON_OBJECT) {
                if (ngx_commerce_json_step_is(&child->key, p, len)) {
                    break;
                }

            } else {
                char  digits[12];

                snprintf(digits, sizeof(digits), "%u", index++);

                if (len == strlen(digits) && memcmp(p, digits, len) == 0) {
                    break;
                }
            }
        }

        if (child == NULL) {
            return NULL;
        }

        value = child;
        p += len;
    }

    return value;
}
