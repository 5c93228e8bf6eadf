/*
 * Memory of operations: a freelist of the worker, never a request's pool,
 * because an operation outlives a client that goes away.
 */

#include "ngx_commerce_pg_internal.h"


#define NGX_COMMERCE_PG_FREE_MAX     1024
#define NGX_COMMERCE_PG_BUFFER_KEEP  8192


static size_t ngx_commerce_pg_task_measure(ngx_commerce_pg_query_t *query);
static u_char *ngx_commerce_pg_task_values(ngx_commerce_pg_query_t *query,
    const char **values, u_char *p);
static void ngx_commerce_pg_task_recycle(ngx_commerce_pg_task_t *task);


static ngx_queue_t  ngx_commerce_pg_tasks = {
    &ngx_commerce_pg_tasks, &ngx_commerce_pg_tasks
};
static ngx_uint_t   ngx_commerce_pg_tasks_count;


ngx_commerce_pg_op_t *
ngx_commerce_pg_alloc(void)
{
    u_char                  *buffer;
    size_t                   size;
    ngx_queue_t             *q;
    ngx_commerce_pg_task_t  *task;

    if (ngx_queue_empty(&ngx_commerce_pg_tasks)) {
        return ngx_calloc(sizeof(ngx_commerce_pg_task_t), ngx_cycle->log);
    }

    q = ngx_queue_head(&ngx_commerce_pg_tasks);
    ngx_queue_remove(q);
    ngx_commerce_pg_tasks_count--;

    task = ngx_commerce_pg_task(q);
    buffer = task->buffer;
    size = task->size;

    ngx_memzero(task, sizeof(ngx_commerce_pg_task_t));

    task->buffer = buffer;
    task->size = size;

    return &task->op;
}


void
ngx_commerce_pg_free(ngx_commerce_pg_op_t *op)
{
    ngx_commerce_pg_task_recycle((ngx_commerce_pg_task_t *) op);
}


static void
ngx_commerce_pg_task_recycle(ngx_commerce_pg_task_t *task)
{
    if (task->result) {
        PQclear(task->result);
        task->result = NULL;
    }

    if (task->size > NGX_COMMERCE_PG_BUFFER_KEEP) {
        ngx_free(task->buffer);
        task->buffer = NULL;
        task->size = 0;
    }

    if (ngx_commerce_pg_tasks_count >= NGX_COMMERCE_PG_FREE_MAX) {
        ngx_free(task->buffer);
        ngx_free(task);
        return;
    }

    ngx_queue_insert_head(&ngx_commerce_pg_tasks, &task->link);
    ngx_commerce_pg_tasks_count++;
}


void
ngx_commerce_pg_task_free_all(void)
{
    ngx_queue_t             *q;
    ngx_commerce_pg_task_t  *task;

    while (!ngx_queue_empty(&ngx_commerce_pg_tasks)) {
        q = ngx_queue_head(&ngx_commerce_pg_tasks);
        ngx_queue_remove(q);

        task = ngx_commerce_pg_task(q);

        ngx_free(task->buffer);
        ngx_free(task);
    }

    ngx_commerce_pg_tasks_count = 0;
}


/* The caller's values may be gone when a connection is free: all of them go into one buffer, pointers first. */

ngx_int_t
ngx_commerce_pg_task_copy(ngx_commerce_pg_task_t *task)
{
    u_char                *p;
    size_t                 size, before, query;
    ngx_uint_t             n;
    ngx_commerce_pg_op_t  *op;

    op = &task->op;

    before = ngx_commerce_pg_task_measure(&op->before);
    query = ngx_commerce_pg_task_measure(&op->query);

    if (before == (size_t) -1 || query == (size_t) -1) {
        ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                      "a value for PostgreSQL contains a zero byte, the "
                      "operation is refused");
        return NGX_ERROR;
    }

    n = (op->before.stmt ? op->before.stmt->params : 0)
        + op->query.stmt->params;

    size = n * sizeof(char *) + before + query;

    if (size > task->size) {
        ngx_free(task->buffer);
        task->size = 0;

        size = ngx_align(size, 512);

        task->buffer = ngx_alloc(size, ngx_cycle->log);
        if (task->buffer == NULL) {
            return NGX_ERROR;
        }

        task->size = size;
    }

    task->values = (const char **) task->buffer;
    p = task->buffer + n * sizeof(char *);
    n = 0;

    if (op->before.stmt) {
        p = ngx_commerce_pg_task_values(&op->before, task->values, p);
        n = op->before.stmt->params;
    }

    (void) ngx_commerce_pg_task_values(&op->query, task->values + n, p);

    /* not to be touched again */
    op->before.values = NULL;
    op->query.values = NULL;

    return NGX_OK;
}


/* Bytes with terminators; -1: a zero byte inside, which would cut the value short. */

static size_t
ngx_commerce_pg_task_measure(ngx_commerce_pg_query_t *query)
{
    size_t      size;
    ngx_str_t  *v;
    ngx_uint_t  i;

    if (query->stmt == NULL) {
        return 0;
    }

    size = 0;

    for (i = 0; i < query->stmt->params; i++) {
        v = &query->values[i];

        if (v->data == NULL) {
            continue;
        }

        if (memchr(v->data, '\0', v->len) != NULL) {
            return (size_t) -1;
        }

        size += v->len + 1;
    }

    return size;
}


static u_char *
ngx_commerce_pg_task_values(ngx_commerce_pg_query_t *query,
    const char **values, u_char *p)
{
    ngx_str_t  *v;
    ngx_uint_t  i;

    for (i = 0; i < query->stmt->params; i++) {
        v = &query->values[i];

        if (v->data == NULL) {
            values[i] = NULL;
            continue;
        }

        values[i] = (const char *) p;
        p = ngx_cpymem(p, v->data, v->len);
        *p++ = '\0';
    }

    return p;
}


void
ngx_commerce_pg_task_tell(ngx_commerce_pg_task_t *task,
    ngx_commerce_pg_status_t status)
{
    PGresult                    *result;
    ngx_commerce_pg_op_t        *op;
    ngx_commerce_pg_handler_pt   handler;

    op = &task->op;
    handler = op->handler;

    if (handler == NULL) {
        return;
    }

    op->handler = NULL;
    op->total_ms = ngx_current_msec - task->submitted;
    op->queued_ms = op->attempts ? task->sent - task->submitted : op->total_ms;

    result = (status == NGX_COMMERCE_PG_OK
              || status == NGX_COMMERCE_PG_FAILED) ? task->result : NULL;

    handler(op, status, result);
}


void
ngx_commerce_pg_task_done(ngx_commerce_pg_task_t *task,
    ngx_commerce_pg_status_t status)
{
    ngx_commerce_pg_task_tell(task, status);
    ngx_commerce_pg_task_recycle(task);
}
