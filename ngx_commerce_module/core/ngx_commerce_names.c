/*
 * A set of names known at load time.
 *
 * At most half of the slots are taken and the names are the operator's, so a
 * client cannot make the probes long.
 */

#include "ngx_commerce_names.h"

#include <string.h>


static inline uint32_t
ngx_commerce_names_hash(const uint8_t *p, size_t len)
{
    uint32_t  h = 2166136261U;

    while (len--) {
        h = (h ^ *p++) * 16777619U;
    }

    return h ^ (h >> 15);
}


ngx_commerce_rc_t
ngx_commerce_names_build(ngx_commerce_names_t *table,
    const ngx_commerce_alloc_t *alloc, ngx_commerce_str_t *names,
    uint32_t count)
{
    uint32_t  i, n, size;

    for (size = 4; size < count * 2; size *= 2) {
        /* void */
    }

    table->slots = alloc->alloc(alloc->ctx, size * sizeof(uint32_t));
    if (table->slots == NULL) {
        return NGX_COMMERCE_NOMEM;
    }

    memset(table->slots, 0, size * sizeof(uint32_t));

    table->mask = size - 1;
    table->names = names;
    table->count = count;

    for (i = 0; i < count; i++) {
        if (ngx_commerce_names_find(table, names[i].data, names[i].len) >= 0) {
            continue;
        }

        n = ngx_commerce_names_hash(names[i].data, names[i].len);

        while (table->slots[n & table->mask] != 0) {
            n++;
        }

        table->slots[n & table->mask] = i + 1;
    }

    return NGX_COMMERCE_OK;
}


int32_t
ngx_commerce_names_find(const ngx_commerce_names_t *table, const uint8_t *name,
    size_t len)
{
    uint32_t             n, i;
    ngx_commerce_str_t  *known;

    if (table->count == 0) {
        return -1;
    }

    for (n = ngx_commerce_names_hash(name, len); /* void */ ; n++) {
        i = table->slots[n & table->mask];

        if (i == 0) {
            return -1;
        }

        known = &table->names[i - 1];

        if (known->len == len && memcmp(known->data, name, len) == 0) {
            return (int32_t) (i - 1);
        }
    }
}
