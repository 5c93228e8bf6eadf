/* Rounds in a thread, see ngx_commerce_rounds.h. */

#include "ngx_commerce_rounds.h"


static void ngx_commerce_rounds_begin(ngx_event_t *ev);
static void ngx_commerce_rounds_end(ngx_event_t *ev);


ngx_int_t
ngx_commerce_rounds_start(ngx_commerce_rounds_t *rounds, ngx_cycle_t *cycle,
    ngx_thread_pool_t *pool, ngx_msec_t first, ngx_msec_t interval,
    ngx_commerce_rounds_pt round, ngx_commerce_rounds_done_pt done, void *data)
{
    rounds->task = ngx_thread_task_alloc(cycle->pool, 0);

    if (rounds->task == NULL) {
        return NGX_ERROR;
    }

    rounds->interval = interval;
    rounds->pool = pool;
    rounds->done = done;
    rounds->data = data;

    rounds->task->ctx = data;
    rounds->task->handler = round;
    rounds->task->event.handler = ngx_commerce_rounds_end;
    rounds->task->event.data = rounds;
    rounds->task->event.log = cycle->log;

    rounds->timer.handler = ngx_commerce_rounds_begin;
    rounds->timer.data = rounds;
    rounds->timer.log = cycle->log;
    rounds->timer.cancelable = 1;

    ngx_add_timer(&rounds->timer, first);

    return NGX_OK;
}


static void
ngx_commerce_rounds_begin(ngx_event_t *ev)
{
    ngx_commerce_rounds_t *rounds = ev->data;

    if (ngx_exiting || ngx_terminate || ngx_quit) {
        return;
    }

    /* a pool whose queue is full: the next time */

    if (ngx_thread_task_post(rounds->pool, rounds->task) != NGX_OK) {
        ngx_add_timer(&rounds->timer, rounds->interval);
    }
}


static void
ngx_commerce_rounds_end(ngx_event_t *ev)
{
    ngx_commerce_rounds_t *rounds = ev->data;

    ngx_msec_t  next;

    next = rounds->done(rounds->data);

    if (!ngx_exiting && !ngx_terminate && !ngx_quit) {
        ngx_add_timer(&rounds->timer, next ? next : rounds->interval);
    }
}
