/*
 * Parameters: text from the path, the query or a header becomes a JSON value
 * by its schema, then the schema checks it.
 */

#include "ngx_commerce_schema_internal.h"
#include "ngx_commerce_codec.h"
#include "ngx_commerce_text.h"
#include "ngx_commerce_utf8.h"

#include <stdio.h>
#include <string.h>


static ngx_commerce_rc_t ngx_commerce_text_value(
    const ngx_commerce_alloc_t *alloc, uint32_t types, ngx_commerce_str_t text,
    ngx_commerce_json_t *node);


/* A node whose raw bytes are the JSON of the string. */

static ngx_commerce_rc_t
ngx_commerce_text_string(const ngx_commerce_alloc_t *alloc,
    ngx_commerce_str_t text, ngx_commerce_json_t *node)
{
    node->type = NGX_COMMERCE_JSON_STRING;
    node->text = text;

    node->raw.len = (size_t) (uintptr_t)
                    ngx_commerce_json_quote(NULL, text.data, text.len);
    node->raw.data = alloc->alloc(alloc->ctx, node->raw.len);
    if (node->raw.data == NULL) {
        return NGX_COMMERCE_NOMEM;
    }

    ngx_commerce_json_quote(node->raw.data, text.data, text.len);

    return NGX_COMMERCE_OK;
}


/* INVALID: the text is no number, or not one of that type. */

static ngx_commerce_rc_t
ngx_commerce_text_number(const ngx_commerce_alloc_t *alloc,
    ngx_commerce_str_t text, bool integer, ngx_commerce_json_t *node)
{
    ngx_commerce_rc_t           rc;
    ngx_commerce_json_t        *number;
    ngx_commerce_json_error_t   error;

    if (text.len == 0 || text.len > 64
        || (text.data[0] != '-' && (text.data[0] < '0' || text.data[0] > '9'))
        || text.data[text.len - 1] < '0' || text.data[text.len - 1] > '9')
    {
        return NGX_COMMERCE_INVALID;
    }

    rc = ngx_commerce_json_parse(alloc, text.data, text.len, NULL, &number,
                                 &error);
    if (rc != NGX_COMMERCE_OK) {
        return rc;
    }

    if (integer && !number->integer) {
        return NGX_COMMERCE_INVALID;
    }

    *node = *number;

    return NGX_COMMERCE_OK;
}


static ngx_commerce_rc_t
ngx_commerce_text_array(const ngx_commerce_alloc_t *alloc,
    const ngx_commerce_schema_t *items, ngx_commerce_str_t text,
    ngx_commerce_json_t *node)
{
    size_t                len;
    uint8_t              *p, *end, *comma;
    uint32_t              i, types;
    ngx_commerce_rc_t     rc;
    ngx_commerce_str_t    part;
    ngx_commerce_json_t  *list;

    node->type = NGX_COMMERCE_JSON_ARRAY;
    types = items ? ngx_commerce_schema_types(items) : NGX_COMMERCE_T_STRING;

    p = text.data;
    end = text.data + text.len;
    list = NULL;

    if (text.len != 0) {
        for (node->count = 1; p < end; p++) {
            node->count += *p == ',';
        }

        list = ngx_commerce_zalloc(alloc,
                                   node->count * sizeof(ngx_commerce_json_t));
        if (list == NULL) {
            return NGX_COMMERCE_NOMEM;
        }
    }

    p = text.data;
    len = sizeof("[]");

    for (i = 0; i < node->count; i++) {
        comma = memchr(p, ',', (size_t) (end - p));
        part.data = p;
        part.len = (size_t) ((comma ? comma : end) - p);
        p += part.len + 1;

        rc = ngx_commerce_text_value(alloc, types, part, &list[i]);
        if (rc != NGX_COMMERCE_OK) {
            return rc;
        }

        list[i].next = i + 1 < node->count ? &list[i + 1] : NULL;
        len += list[i].raw.len + 1;
    }

    node->child = list;
    node->raw.data = p = alloc->alloc(alloc->ctx, len);
    if (p == NULL) {
        return NGX_COMMERCE_NOMEM;
    }

    *p++ = '[';

    for (i = 0; i < node->count; i++) {
        if (i != 0) {
            *p++ = ',';
        }

        memcpy(p, list[i].raw.data, list[i].raw.len);
        p += list[i].raw.len;
    }

    *p++ = ']';
    node->raw.len = (size_t) (p - node->raw.data);

    return NGX_COMMERCE_OK;
}


/* The value of a type that the text can have; a string when it has no other. */

static ngx_commerce_rc_t
ngx_commerce_text_value(const ngx_commerce_alloc_t *alloc, uint32_t types,
    ngx_commerce_str_t text, ngx_commerce_json_t *node)
{
    ngx_commerce_rc_t  rc;

    if (types & (NGX_COMMERCE_T_INTEGER|NGX_COMMERCE_T_NUMBER)) {
        rc = ngx_commerce_text_number(alloc, text,
                                      !(types & NGX_COMMERCE_T_NUMBER), node);
        if (rc != NGX_COMMERCE_INVALID) {
            return rc;
        }
    }

    if ((types & NGX_COMMERCE_T_BOOLEAN)
        && (ngx_commerce_str_is(text, "true")
            || ngx_commerce_str_is(text, "false")))
    {
        node->type = text.data[0] == 't' ? NGX_COMMERCE_JSON_TRUE
                                         : NGX_COMMERCE_JSON_FALSE;
        node->raw = text;
        return NGX_COMMERCE_OK;
    }

    if ((types & NGX_COMMERCE_T_NULL) && text.len == 0
        && !(types & NGX_COMMERCE_T_STRING))
    {
        node->type = NGX_COMMERCE_JSON_NULL;
        node->raw = ngx_commerce_str("null");
        return NGX_COMMERCE_OK;
    }

    return ngx_commerce_text_string(alloc, text, node);
}


/* The text is valid UTF-8. */

static bool
ngx_commerce_text_noncharacter(const ngx_commerce_str_t *text)
{
    size_t          n;
    const uint8_t  *p, *end;

    end = text->data + text->len;

    for (p = text->data; p < end; p += n) {
        n = *p < 0x80 ? 1 : ngx_commerce_utf8_sequence(p, end);

        if (n > 2 && ngx_commerce_utf8_noncharacter(p, n)) {
            return true;
        }
    }

    return false;
}


ngx_commerce_rc_t
ngx_commerce_schema_check_text(const ngx_commerce_schema_t *schema,
    ngx_commerce_str_t name, ngx_commerce_str_t text,
    ngx_commerce_json_t **value, ngx_commerce_violations_t *violations)
{
    uint32_t              types, first, i;
    ngx_commerce_rc_t     rc;
    ngx_commerce_str_t    pointer, *at;
    ngx_commerce_json_t  *node;

    if (!ngx_commerce_utf8_valid(text.data, text.len)) {
        return ngx_commerce_violation(violations, name, "invalid-utf8",
                                      "is not valid UTF-8");
    }

    if (memchr(text.data, 0, text.len) != NULL) {
        return ngx_commerce_violation(violations, name, "nul-character",
                                      "must not hold the NUL character");
    }

    if (ngx_commerce_text_noncharacter(&text)) {
        return ngx_commerce_violation(violations, name, "noncharacter",
                                      "must not hold a Unicode noncharacter");
    }

    rc = ngx_commerce_text_nfc(violations->alloc, &text);

    if (rc == NGX_COMMERCE_INVALID) {
        return ngx_commerce_violation(violations, name, "too-many-marks",
                   "must not have more than 30 combining marks on a character");
    }

    if (rc != NGX_COMMERCE_OK) {
        return rc;
    }

    node = ngx_commerce_zalloc(violations->alloc, sizeof(ngx_commerce_json_t));
    if (node == NULL) {
        return NGX_COMMERCE_NOMEM;
    }

    types = ngx_commerce_schema_types(schema);

    rc = (types & (NGX_COMMERCE_T_ARRAY|NGX_COMMERCE_T_STRING))
         == NGX_COMMERCE_T_ARRAY
         ? ngx_commerce_text_array(violations->alloc,
                                   ngx_commerce_schema_items(schema), text,
                                   node)
         : ngx_commerce_text_value(violations->alloc, types, text, node);

    if (rc != NGX_COMMERCE_OK) {
        return rc;
    }

    first = violations->count;

    rc = ngx_commerce_schema_check(schema, node, violations);

    if (rc == NGX_COMMERCE_OK) {
        *value = node;
        return ngx_commerce_schema_complete(schema, node, violations->alloc);
    }

    /* "/1" within the parameter "ids" is told as "ids/1" */

    for (i = first; i < violations->count; i++) {
        at = &violations->list[i].pointer;

        pointer.len = name.len + at->len;
        pointer.data = violations->alloc->alloc(violations->alloc->ctx,
                                                pointer.len + 1);
        if (pointer.data == NULL) {
            return NGX_COMMERCE_NOMEM;
        }

        memcpy(pointer.data, name.data, name.len);
        memcpy(pointer.data + name.len, at->data, at->len);
        *at = pointer;
    }

    return rc;
}
