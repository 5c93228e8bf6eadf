/*
 * Thread pools by name: the operator's `thread_pool NAME …`, else one that is
 * made as if that directive were there.
 */

#ifndef NGX_COMMERCE_THREADS_H
#define NGX_COMMERCE_THREADS_H


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_thread_pool.h>


#if !(NGX_THREADS)
#error nginx-commerce needs nginx configured with --with-threads
#endif


/* While the configuration is read.  NULL: a line is logged. */

ngx_thread_pool_t *ngx_commerce_threads(ngx_conf_t *cf, ngx_str_t *name,
    ngx_uint_t threads, ngx_uint_t max_queue);


#endif /* NGX_COMMERCE_THREADS_H */
