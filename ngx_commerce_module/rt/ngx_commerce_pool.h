/*
 * core/'s memory from a pool of nginx.
 */

#ifndef NGX_COMMERCE_POOL_H
#define NGX_COMMERCE_POOL_H


#include <ngx_config.h>
#include <ngx_core.h>

#include "ngx_commerce_core.h"


/* What it allocates is the pool's, aligned for any type and not cleared. */
ngx_commerce_alloc_t ngx_commerce_pool_alloc(ngx_pool_t *pool);


#endif /* NGX_COMMERCE_POOL_H */
