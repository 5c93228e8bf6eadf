/*
 * A set of names known at load time: name → index, by hash.
 */

#ifndef NGX_COMMERCE_NAMES_H
#define NGX_COMMERCE_NAMES_H


#include "ngx_commerce_core.h"


typedef struct {
    uint32_t             mask;
    uint32_t            *slots;         /* index + 1, 0: free */
    ngx_commerce_str_t  *names;
    uint32_t             count;
} ngx_commerce_names_t;


/* "names" is kept.  Of equal names the first is found. */

ngx_commerce_rc_t ngx_commerce_names_build(ngx_commerce_names_t *table,
    const ngx_commerce_alloc_t *alloc, ngx_commerce_str_t *names,
    uint32_t count);

/* The index, or -1. */

int32_t ngx_commerce_names_find(const ngx_commerce_names_t *table,
    const uint8_t *name, size_t len);


#endif /* NGX_COMMERCE_NAMES_H */
