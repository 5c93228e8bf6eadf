/*
 * The checks of single values, and how a violation is told.
 */

#include "ngx_commerce_schema_checking.h"
#include "ngx_commerce_utf8.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>


static size_t
ngx_commerce_spot_len(const ngx_commerce_spot_t *spot)
{
    size_t  n;

    for (n = 0; spot != NULL; spot = spot->up) {
        n += 12 + (spot->key ? spot->key->len * 2 : 0);
    }

    return n;
}


static uint8_t *
ngx_commerce_spot_write(const ngx_commerce_spot_t *spot, uint8_t *p)
{
    size_t   i;
    uint8_t  c;

    if (spot == NULL) {
        return p;
    }

    p = ngx_commerce_spot_write(spot->up, p);
    *p++ = '/';

    if (spot->key == NULL) {
        return p + sprintf((char *) p, "%u", spot->index);
    }

    for (i = 0; i < spot->key->len; i++) {
        c = spot->key->data[i];

        if (c == '~' || c == '/') {
            *p++ = '~';
            c = c == '~' ? '0' : '1';
        }

        *p++ = c;
    }

    return p;
}


/* Always false, so that a check can return it. */

bool
ngx_commerce_check_fail(ngx_commerce_checking_t *c,
    const ngx_commerce_spot_t *spot, const char *code, const char *format, ...)
{
    va_list             args;
    ngx_commerce_str_t  pointer;

    if (c->violations == NULL
        || c->violations->count == NGX_COMMERCE_VIOLATIONS_MAX)
    {
        return false;
    }

    pointer.data = c->violations->alloc->alloc(c->violations->alloc->ctx,
                                               ngx_commerce_spot_len(spot) + 1);
    if (pointer.data == NULL) {
        c->nomem = true;
        return false;
    }

    pointer.len = (size_t) (ngx_commerce_spot_write(spot, pointer.data)
                            - pointer.data);

    va_start(args, format);

    if (ngx_commerce_violation_add(c->violations, pointer, code, format, args)
        == NGX_COMMERCE_NOMEM)
    {
        c->nomem = true;
    }

    va_end(args);

    return false;
}


uint32_t
ngx_commerce_json_type(const ngx_commerce_json_t *value)
{
    static const uint32_t  types[] = {
        NGX_COMMERCE_T_NULL, NGX_COMMERCE_T_BOOLEAN, NGX_COMMERCE_T_BOOLEAN,
        NGX_COMMERCE_T_NUMBER, NGX_COMMERCE_T_STRING, NGX_COMMERCE_T_ARRAY,
        NGX_COMMERCE_T_OBJECT
    };

    return value->integer ? NGX_COMMERCE_T_INTEGER : types[value->type];
}


bool
ngx_commerce_check_type(ngx_commerce_checking_t *c, uint32_t types,
    const ngx_commerce_json_t *value, const ngx_commerce_spot_t *spot)
{
    char                text[128];
    size_t              i, n;
    uint32_t            left;
    static const char  *names[] = { "null", "a boolean", "an integer",
                                    "a number", "a string", "an array",
                                    "an object" };

    if (c->violations == NULL) {
        return false;
    }

    if (value->type == NGX_COMMERCE_JSON_NUMBER
        && (types & (NGX_COMMERCE_T_INTEGER|NGX_COMMERCE_T_NUMBER))
           == NGX_COMMERCE_T_INTEGER)
    {
        return ngx_commerce_check_fail(c, spot, "type",
                   "must be an integer without fraction and exponent, at most "
                   "9007199254740991");
    }

    if (types & NGX_COMMERCE_T_NUMBER) {
        types &= ~(uint32_t) NGX_COMMERCE_T_INTEGER;
    }

    for (i = 0, n = 0, left = types; i < 7; i++) {
        if (!(types & (1U << i))) {
            continue;
        }

        left &= ~(1U << i);
        n += (size_t) snprintf(text + n, sizeof(text) - n, "%s%s",
                               n == 0 ? "" : (left ? ", " : " or "), names[i]);
    }

    return ngx_commerce_check_fail(c, spot, "type", "must be %s", text);
}


bool
ngx_commerce_check_enum(ngx_commerce_checking_t *c,
    const ngx_commerce_json_t *list, const ngx_commerce_json_t *value,
    const ngx_commerce_spot_t *spot)
{
    char                        text[600];
    size_t                      n;
    const ngx_commerce_json_t  *item;

    for (item = list->child; item != NULL; item = item->next) {
        if (ngx_commerce_json_equal(item, value)) {
            return true;
        }
    }

    if (c->violations == NULL) {
        return false;
    }

    for (n = 0, item = list->child; item != NULL; item = item->next) {
        if (n + item->raw.len + 8 > sizeof(text)) {
            n += (size_t) snprintf(text + n, sizeof(text) - n, ", …");
            break;
        }

        n += (size_t) snprintf(text + n, sizeof(text) - n, "%s%.*s",
                               n ? ", " : "", (int) item->raw.len,
                               (char *) item->raw.data);
    }

    return ngx_commerce_check_fail(c, spot, "enum", "must be one of %s", text);
}


/* -1, 0, 1: a value against a bound, exact where both are integers. */

static int
ngx_commerce_check_compare(const ngx_commerce_json_t *value,
    const ngx_commerce_bound_t *bound)
{
    double  real;

    if (value->integer && bound->value->integer) {
        return (value->number > bound->value->number)
               - (value->number < bound->value->number);
    }

    real = ngx_commerce_json_real(value);

    return (real > bound->real) - (real < bound->real);
}


bool
ngx_commerce_check_number(ngx_commerce_checking_t *c,
    const ngx_commerce_schema_t *s, const ngx_commerce_json_t *value,
    const ngx_commerce_spot_t *spot)
{
#define ngx_commerce_check_bound(bound, wrong, code, words)                   \
    if (s->bound.value != NULL                                                \
        && ngx_commerce_check_compare(value, &s->bound) wrong)                \
    {                                                                         \
        return ngx_commerce_check_fail(c, spot, code, "must be " words        \
                   " %.*s", (int) s->bound.value->raw.len,                    \
                   (char *) s->bound.value->raw.data);                        \
    }

    ngx_commerce_check_bound(minimum, < 0, "minimum", "at least")
    ngx_commerce_check_bound(maximum, > 0, "maximum", "at most")
    ngx_commerce_check_bound(above, <= 0, "minimum", "greater than")
    ngx_commerce_check_bound(below, >= 0, "maximum", "less than")

#undef ngx_commerce_check_bound

    if (s->multiple != 0
        && (!value->integer || value->number % s->multiple != 0))
    {
        return ngx_commerce_check_fail(c, spot, "multiple-of",
                   "must be a multiple of %lld", (long long) s->multiple);
    }

    if (s->int32 && value->integer
        && (value->number > INT32_MAX || value->number < INT32_MIN))
    {
        return ngx_commerce_check_fail(c, spot,
                   value->number > 0 ? "maximum" : "minimum",
                   value->number > 0 ? "must be at most 2147483647"
                                     : "must be at least -2147483648");
    }

    return true;
}


const char *
ngx_commerce_plural(uint32_t n)
{
    return n == 1 ? "" : "s";
}


bool
ngx_commerce_check_string(ngx_commerce_checking_t *c,
    const ngx_commerce_schema_t *s, const ngx_commerce_str_t *text,
    const ngx_commerce_spot_t *spot)
{
    size_t       n;
    const char  *wrong;

    /* a string of n bytes has between n / 4 and n characters */

    if (s->min_length > text->len / 4 || s->max_length < text->len) {
        n = ngx_commerce_utf8_length(text->data, text->len);

        if (n < s->min_length) {
            if (n == 0 && s->min_length == 1) {
                return ngx_commerce_check_fail(c, spot, "min-length",
                                               "must not be empty");
            }

            return ngx_commerce_check_fail(c, spot, "min-length",
                       "must have at least %u character%s", s->min_length,
                       ngx_commerce_plural(s->min_length));
        }

        if (n > s->max_length) {
            return ngx_commerce_check_fail(c, spot, "max-length",
                       "must have at most %u character%s", s->max_length,
                       ngx_commerce_plural(s->max_length));
        }
    }

    if (s->format != NULL) {
        wrong = s->format(text->data, text->len);

        if (wrong != NULL) {
            return ngx_commerce_check_fail(c, spot, "format", "%s", wrong);
        }
    }

    if (s->pattern != NULL
        && !ngx_commerce_pattern_match(s->pattern, text->data, text->len))
    {
        return ngx_commerce_check_fail(c, spot, "pattern",
                   "must match the pattern %.*s", (int) s->pattern_text.len,
                   (char *) s->pattern_text.data);
    }

    return true;
}


/* Equal values have equal marks. */

static uint32_t
ngx_commerce_check_mark(const ngx_commerce_json_t *value)
{
    double                      real;
    uint32_t                    h;
    const uint8_t              *p;
    size_t                      n;
    const ngx_commerce_json_t  *child;

    h = 2166136261U ^ value->type;
    p = NULL;
    n = 0;

    if (value->type == NGX_COMMERCE_JSON_NUMBER) {
        real = ngx_commerce_json_real(value) + 0.0;     /* -0 is 0 */
        p = (const uint8_t *) &real;
        n = sizeof(real);

    } else if (value->type == NGX_COMMERCE_JSON_STRING) {
        p = value->text.data;
        n = value->text.len;
    }

    while (n--) {
        h = (h ^ *p++) * 16777619U;
    }

    /* the order of members does not matter */
    for (child = value->child; child != NULL; child = child->next) {
        h += ngx_commerce_check_mark(child);
    }

    return h;
}


bool
ngx_commerce_check_unique(ngx_commerce_checking_t *c,
    const ngx_commerce_json_t *array, const ngx_commerce_spot_t *spot)
{
    bool                         unique;
    uint32_t                     i, k, *marks;
    const ngx_commerce_json_t   *a, *b;

    marks = malloc((array->count + 1) * sizeof(uint32_t));
    if (marks == NULL) {
        c->nomem = true;
        return false;
    }

    unique = true;

    for (a = array->child, i = 0; a != NULL && unique; a = a->next, i++) {
        marks[i] = ngx_commerce_check_mark(a);

        for (b = array->child, k = 0; k < i; b = b->next, k++) {
            if (marks[k] == marks[i] && ngx_commerce_json_equal(a, b)) {
                unique = false;
                break;
            }
        }
    }

    free(marks);

    return unique || ngx_commerce_check_fail(c, spot, "unique",
                                             "must not hold equal elements");
}
