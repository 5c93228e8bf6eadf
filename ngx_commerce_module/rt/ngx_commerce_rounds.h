/*
 * Rounds in a thread: what may block, as looking at files does, is done there
 * every interval, and the event loop hears of it when a round has ended.
 */

#ifndef NGX_COMMERCE_ROUNDS_H
#define NGX_COMMERCE_ROUNDS_H


#include "ngx_commerce_threads.h"

#include <ngx_event.h>


/* In a thread of the pool, one at a time; data is that thread's meanwhile. */

typedef void (*ngx_commerce_rounds_pt)(void *data, ngx_log_t *log);

/* In the event loop, after each.  Returns the ms until the next one, 0: the interval. */

typedef ngx_msec_t (*ngx_commerce_rounds_done_pt)(void *data);

typedef struct {
    ngx_event_t                   timer;
    ngx_msec_t                    interval;     /* ms */
    ngx_thread_pool_t            *pool;
    ngx_thread_task_t            *task;
    ngx_commerce_rounds_done_pt   done;
    void                         *data;
} ngx_commerce_rounds_t;


/*
 * Once in a worker; the first round comes after so many ms.  A worker that
 * leaves begins none.  rounds and data live as long as the process.
 * NGX_ERROR: out of memory.
 */

ngx_int_t ngx_commerce_rounds_start(ngx_commerce_rounds_t *rounds,
    ngx_cycle_t *cycle, ngx_thread_pool_t *pool, ngx_msec_t first,
    ngx_msec_t interval, ngx_commerce_rounds_pt round,
    ngx_commerce_rounds_done_pt done, void *data);


#endif /* NGX_COMMERCE_ROUNDS_H */
