/*
 * core/'s memory from a pool of nginx.
 */

#include "ngx_commerce_pool.h"


static void *ngx_commerce_pool_alloc_handler(void *ctx, size_t size);


ngx_commerce_alloc_t
ngx_commerce_pool_alloc(ngx_pool_t *pool)
{
    ngx_commerce_alloc_t  alloc;

    alloc.alloc = ngx_commerce_pool_alloc_handler;
    alloc.ctx = pool;

    return alloc;
}


static void *
ngx_commerce_pool_alloc_handler(void *ctx, size_t size)
{
    return ngx_palloc(ctx, size);
}
