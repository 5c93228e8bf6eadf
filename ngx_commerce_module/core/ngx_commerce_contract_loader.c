/*
 * What all parts of the contract's loader need: members of a kind, or a fault
 * that says which kind.
 */

#include "ngx_commerce_contract_internal.h"

#include <stdio.h>
#include <string.h>


static ngx_commerce_place_t
ngx_commerce_loader_place(const ngx_commerce_place_t *up, const char *key)
{
    ngx_commerce_place_t  place;

    place.up = up;
    place.name.data = (uint8_t *) key;
    place.name.len = strlen(key);

    return place;
}


ngx_commerce_rc_t
ngx_commerce_loader_keys(ngx_commerce_loader_t *l,
    const ngx_commerce_json_t *object, const ngx_commerce_place_t *place,
    bool extensions, const char *const *known)
{
    char                        list[200];
    size_t                      n, i;
    ngx_commerce_place_t        inner;
    const ngx_commerce_json_t  *member;

    if (object->type != NGX_COMMERCE_JSON_OBJECT) {
        return ngx_commerce_loader_fault(l, object, place,
                                         "must be an object");
    }

    for (member = object->child; member != NULL; member = member->next) {
        for (i = 0; known[i] != NULL; i++) {
            if (ngx_commerce_str_is(member->key, known[i])) {
                break;
            }
        }

        if (known[i] != NULL
            || (extensions && member->key.len > 2
                && memcmp(member->key.data, "x-", 2) == 0))
        {
            continue;
        }

        for (i = 0, n = 0; known[i] != NULL && n < sizeof(list); i++) {
            n += (size_t) snprintf(list + n, sizeof(list) - n, "%s%s",
                                   i ? ", " : "", known[i]);
        }

        inner.up = place;
        inner.name = member->key;

        return ngx_commerce_loader_fault(l, member, &inner,
                   "unknown key; known are %s", list);
    }

    return NGX_COMMERCE_OK;
}


ngx_commerce_rc_t
ngx_commerce_loader_text(ngx_commerce_loader_t *l,
    const ngx_commerce_json_t *object, const char *key,
    const ngx_commerce_place_t *up, ngx_commerce_str_t *text)
{
    ngx_commerce_place_t        place;
    const ngx_commerce_json_t  *member;

    text->len = 0;
    text->data = NULL;

    member = ngx_commerce_json_get(object, key);
    if (member == NULL) {
        return NGX_COMMERCE_OK;
    }

    if (member->type != NGX_COMMERCE_JSON_STRING || member->text.len == 0) {
        place = ngx_commerce_loader_place(up, key);
        return ngx_commerce_loader_fault(l, member, &place,
                                         "must be a string, not empty");
    }

    *text = member->text;

    return NGX_COMMERCE_OK;
}


ngx_commerce_rc_t
ngx_commerce_loader_bool(ngx_commerce_loader_t *l,
    const ngx_commerce_json_t *object, const char *key,
    const ngx_commerce_place_t *up, bool *flag)
{
    ngx_commerce_place_t        place;
    const ngx_commerce_json_t  *member;

    *flag = false;

    member = ngx_commerce_json_get(object, key);
    if (member == NULL) {
        return NGX_COMMERCE_OK;
    }

    if (member->type != NGX_COMMERCE_JSON_TRUE
        && member->type != NGX_COMMERCE_JSON_FALSE)
    {
        place = ngx_commerce_loader_place(up, key);
        return ngx_commerce_loader_fault(l, member, &place,
                                         "must be true or false");
    }

    *flag = member->type == NGX_COMMERCE_JSON_TRUE;

    return NGX_COMMERCE_OK;
}


ngx_commerce_rc_t
ngx_commerce_loader_number(ngx_commerce_loader_t *l,
    const ngx_commerce_json_t *object, const char *key,
    const ngx_commerce_place_t *up, int64_t *number)
{
    ngx_commerce_place_t        place;
    const ngx_commerce_json_t  *member;

    member = ngx_commerce_json_get(object, key);
    if (member == NULL) {
        return NGX_COMMERCE_OK;
    }

    if (!member->integer || member->number < 1 || member->number > UINT32_MAX) {
        place = ngx_commerce_loader_place(up, key);
        return ngx_commerce_loader_fault(l, member, &place,
                                         "must be an integer from 1 up");
    }

    *number = member->number;

    return NGX_COMMERCE_OK;
}


ngx_commerce_rc_t
ngx_commerce_loader_word(ngx_commerce_loader_t *l,
    const ngx_commerce_json_t *object, const char *key,
    const ngx_commerce_place_t *up, const char *const *words, uint32_t *index)
{
    char                        list[160];
    size_t                      n;
    uint32_t                    i;
    ngx_commerce_place_t        place;
    const ngx_commerce_json_t  *member;

    member = ngx_commerce_json_get(object, key);
    if (member == NULL) {
        return NGX_COMMERCE_OK;
    }

    for (i = 0, n = 0; words[i] != NULL; i++) {
        if (member->type == NGX_COMMERCE_JSON_STRING
            && ngx_commerce_str_is(member->text, words[i]))
        {
            *index = i;
            return NGX_COMMERCE_OK;
        }

        if (n < sizeof(list)) {
            n += (size_t) snprintf(list + n, sizeof(list) - n, "%s%s",
                                   i ? ", " : "", words[i]);
        }
    }

    place = ngx_commerce_loader_place(up, key);

    return ngx_commerce_loader_fault(l, member, &place,
                                     "%.*s is none of %s",
                                     (int) member->raw.len,
                                     (char *) member->raw.data, list);
}


const ngx_commerce_json_t *
ngx_commerce_loader_deref(ngx_commerce_loader_t *l,
    const ngx_commerce_json_t *value, const ngx_commerce_place_t *place)
{
    uint32_t                    i;
    const ngx_commerce_json_t  *ref, *target;

    for (i = 0, target = value; i < 16; i++) {
        ref = ngx_commerce_json_get(target, "$ref");
        if (ref == NULL) {
            return target;
        }

        target = ref->type == NGX_COMMERCE_JSON_STRING
                 ? ngx_commerce_json_resolve(l->root, ref->text) : NULL;

        if (target == NULL) {
            ngx_commerce_loader_fault(l, value, place,
                       "there is nothing at %.*s", (int) ref->raw.len,
                       (char *) ref->raw.data);
            return NULL;
        }
    }

    ngx_commerce_loader_fault(l, value, place, "$ref leads in a circle");

    return NULL;
}


ngx_commerce_rc_t
ngx_commerce_loader_schema(ngx_commerce_loader_t *l,
    const ngx_commerce_json_t *source, const ngx_commerce_place_t *place,
    ngx_commerce_schema_t **schema)
{
    ngx_commerce_fault_t  where;

    /* the place as text */
    ngx_commerce_fault(&where, NULL, NULL, place, "%s", "");

    return ngx_commerce_schema_compile(l->alloc, source, l->root, where.place,
                                       schema, l->fault);
}


bool
ngx_commerce_is_identifier(ngx_commerce_str_t s)
{
    size_t  i;

    for (i = 0; i < s.len; i++) {
        if ((s.data[i] < 'a' || s.data[i] > 'z') && s.data[i] != '_'
            && (i == 0 || s.data[i] < '0' || s.data[i] > '9'))
        {
            return false;
        }
    }

    return s.len > 0 && s.len < 64;
}
