/*
 * What may be asked of a compiled schema: names, types, default.
 */

#include "ngx_commerce_schema_internal.h"


uint32_t
ngx_commerce_schema_names(const ngx_commerce_schema_t *schema,
    ngx_commerce_str_t *names, uint32_t max)
{
    uint32_t                       i, k, n;
    const ngx_commerce_schemas_t  *lists[3];

    n = 0;

    for (i = 0; schema->named && i < schema->properties.count; i++) {
        if (names != NULL && n < max) {
            names[n] = schema->properties.names[i];
        }

        n++;
    }

    if (schema->ref != NULL) {
        n += ngx_commerce_schema_names(schema->ref, names ? names + n : NULL,
                                       max - n);
    }

    lists[0] = &schema->all;
    lists[1] = &schema->any;
    lists[2] = &schema->one;

    for (k = 0; k < 3; k++) {
        for (i = 0; i < lists[k]->count; i++) {
            n += ngx_commerce_schema_names(lists[k]->list[i],
                                           names ? names + n : NULL, max - n);
        }
    }

    return n;
}


const ngx_commerce_json_t *
ngx_commerce_schema_default(const ngx_commerce_schema_t *schema)
{
    for ( /* void */ ; schema != NULL; schema = schema->ref) {
        if (schema->fallback != NULL) {
            return schema->fallback;
        }
    }

    return NULL;
}


bool
ngx_commerce_schema_is_cursor(const ngx_commerce_schema_t *schema)
{
    for ( /* void */ ; schema != NULL; schema = schema->ref) {
        if (schema->cursor) {
            return true;
        }
    }

    return false;
}


uint32_t
ngx_commerce_schema_types(const ngx_commerce_schema_t *schema)
{
    uint32_t                       i, k, types, some;
    const ngx_commerce_schemas_t  *lists[2];

    types = schema->never ? 0 : schema->types;

    if (schema->ref != NULL) {
        types &= ngx_commerce_schema_types(schema->ref);
    }

    for (i = 0; i < schema->all.count; i++) {
        types &= ngx_commerce_schema_types(schema->all.list[i]);
    }

    lists[0] = &schema->any;
    lists[1] = &schema->one;

    for (k = 0; k < 2; k++) {
        for (i = 0, some = 0; i < lists[k]->count; i++) {
            some |= ngx_commerce_schema_types(lists[k]->list[i]);
        }

        if (lists[k]->count != 0) {
            types &= some;
        }
    }

    return types;
}


const ngx_commerce_schema_t *
ngx_commerce_schema_items(const ngx_commerce_schema_t *schema)
{
    uint32_t                      i;
    const ngx_commerce_schema_t  *items;

    items = schema->items;

    if (items == NULL && schema->ref != NULL) {
        items = ngx_commerce_schema_items(schema->ref);
    }

    for (i = 0; items == NULL && i < schema->all.count; i++) {
        items = ngx_commerce_schema_items(schema->all.list[i]);
    }

    for (i = 0; items == NULL && i < schema->any.count; i++) {
        items = ngx_commerce_schema_items(schema->any.list[i]);
    }

    return items;
}
