/*
 * Operations: one script call each, from a freelist of the worker.  A request
 * that goes away detaches its operation; the answer is then dropped.
 *
 * A worker that starts, or that brings Redis up to date, holds operations for
 * this moment.  Refusing them would send carts to PostgreSQL at each reload,
 * whose copies are some tenths of a second older than those in Redis.
 */

#include "ngx_commerce_redis_internal.h"


/* a buffer above this is not kept for the next operation */
#define NGX_COMMERCE_REDIS_KEEP  16384


static ngx_commerce_redis_op_t *ngx_commerce_redis_op(
    ngx_commerce_redis_script_t *script, ngx_uint_t keys, ngx_uint_t args,
    ngx_str_t *values, ngx_commerce_redis_handler_pt handler, void *data);
static ngx_uint_t ngx_commerce_redis_holds(void);
static void ngx_commerce_redis_hold_handler(ngx_event_t *ev);
static ngx_commerce_redis_conn_t *ngx_commerce_redis_pick(void);
static ngx_commerce_redis_op_t *ngx_commerce_redis_alloc(size_t size);
static ngx_int_t ngx_commerce_redis_send(ngx_commerce_redis_op_t *op);
static void ngx_commerce_redis_reply(redisAsyncContext *context, void *data,
    void *privdata);
static ngx_uint_t ngx_commerce_redis_refused(redisReply *reply);
static void ngx_commerce_redis_finish(ngx_commerce_redis_op_t *op,
    ngx_commerce_redis_status_t status, redisReply *reply);


static const char  *ngx_commerce_redis_count[] = {
    "0", "1", "2", "3", "4", "5", "6", "7", "8", "9"
};

/* errors that say: I ran nothing and will not run the next one either */
static const char  *ngx_commerce_redis_refusals[] = {
    "LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "MISCONF", "OOM",
    "NOREPLICAS", "NOAUTH", "NOPERM", NULL
};


ngx_commerce_redis_op_t *
ngx_commerce_redis_eval(ngx_commerce_redis_script_t *script, ngx_uint_t keys,
    ngx_uint_t args, ngx_str_t *values, ngx_commerce_redis_handler_pt handler,
    void *data)
{
    ngx_commerce_redis_op_t    *op;
    ngx_commerce_redis_pool_t  *pool = &ngx_commerce_redis_pool;

    if (ngx_commerce_redis_available()) {
        return ngx_commerce_redis_eval_now(script, keys, args, values,
                                           handler, data);
    }

    ngx_commerce_redis_conn_hasten();

    if (!ngx_commerce_redis_holds()) {
        pool->stats.refused++;
        return NULL;
    }

    op = ngx_commerce_redis_op(script, keys, args, values, handler, data);
    if (op == NULL) {
        return NULL;
    }

    op->conn = NULL;
    ngx_queue_insert_tail(&pool->held, &op->queue);
    pool->held_count++;

    if (!pool->hold.timer_set) {
        ngx_add_timer(&pool->hold, pool->conf->timeout);
    }

    return op;
}


ngx_commerce_redis_op_t *
ngx_commerce_redis_eval_now(ngx_commerce_redis_script_t *script,
    ngx_uint_t keys, ngx_uint_t args, ngx_str_t *values,
    ngx_commerce_redis_handler_pt handler, void *data)
{
    ngx_commerce_redis_op_t    *op;
    ngx_commerce_redis_conn_t  *conn;

    conn = ngx_commerce_redis_pick();
    if (conn == NULL) {
        ngx_commerce_redis_resync_soon();
        ngx_commerce_redis_pool.stats.refused++;
        return NULL;
    }

    op = ngx_commerce_redis_op(script, keys, args, values, handler, data);
    if (op == NULL) {
        return NULL;
    }

    op->conn = conn;

    if (ngx_commerce_redis_send(op) != NGX_OK) {
        ngx_queue_insert_head(&ngx_commerce_redis_pool.free, &op->queue);
        ngx_commerce_redis_pool.stats.refused++;
        return NULL;
    }

    return op;
}


static ngx_commerce_redis_op_t *
ngx_commerce_redis_op(ngx_commerce_redis_script_t *script, ngx_uint_t keys,
    ngx_uint_t args, ngx_str_t *values, ngx_commerce_redis_handler_pt handler,
    void *data)
{
    size_t                    size;
    u_char                   *p;
    ngx_uint_t                i, n;
    ngx_commerce_redis_op_t  *op;

    n = keys + args;

    if (keys > 9 || n > NGX_COMMERCE_REDIS_MAX_VALUES) {
        ngx_log_error(NGX_LOG_ALERT, ngx_cycle->log, 0,
                      "redis script \"%V\": too many keys or arguments",
                      &script->name);
        return NULL;
    }

    size = 0;
    for (i = 0; i < n; i++) {
        size += values[i].len;
    }

    op = ngx_commerce_redis_alloc(size);
    if (op == NULL) {
        return NULL;
    }

    op->script = script;
    op->handler = handler;
    op->data = data;
    op->keys = keys;
    op->values = n;
    op->reloaded = 0;

    p = op->buffer;
    for (i = 0; i < n; i++) {
        op->argv[i + 3] = (const char *) p;
        op->argvlen[i + 3] = values[i].len;

        if (values[i].len) {
            p = ngx_cpymem(p, values[i].data, values[i].len);
        }
    }

    return op;
}


void
ngx_commerce_redis_hold_init(void)
{
    ngx_commerce_redis_pool_t  *pool = &ngx_commerce_redis_pool;

    ngx_queue_init(&pool->held);

    pool->hold.handler = ngx_commerce_redis_hold_handler;
    pool->hold.data = pool;
    pool->hold.log = ngx_cycle->log;

    pool->starting = 1;
}


static ngx_uint_t
ngx_commerce_redis_holds(void)
{
    ngx_commerce_redis_pool_t  *pool = &ngx_commerce_redis_pool;

    return pool->conf && pool->held_count < pool->conf->queue
           && (pool->starting
               || (!pool->synced && ngx_commerce_redis_ready()));
}


/* What was held is sent, or, when Redis is away, told so. */

void
ngx_commerce_redis_release(void)
{
    ngx_queue_t                *q;
    ngx_commerce_redis_op_t    *op;
    ngx_commerce_redis_pool_t  *pool = &ngx_commerce_redis_pool;

    pool->starting = 0;

    if (pool->hold.timer_set) {
        ngx_del_timer(&pool->hold);
    }

    while (!ngx_queue_empty(&pool->held)) {
        q = ngx_queue_head(&pool->held);
        ngx_queue_remove(q);
        pool->held_count--;

        op = ngx_queue_data(q, ngx_commerce_redis_op_t, queue);
        op->conn = pool->synced ? ngx_commerce_redis_pick() : NULL;

        if (op->conn == NULL || ngx_commerce_redis_send(op) != NGX_OK) {
            pool->stats.refused++;
            ngx_commerce_redis_finish(op, NGX_COMMERCE_REDIS_UNAVAILABLE,
                                      NULL);
        }
    }
}


static void
ngx_commerce_redis_hold_handler(ngx_event_t *ev)
{
    ngx_commerce_redis_release();
}


void
ngx_commerce_redis_detach(ngx_commerce_redis_op_t *op)
{
    op->handler = NULL;
    op->data = NULL;
}


/* The ready connection with the fewest commands under way. */

static ngx_commerce_redis_conn_t *
ngx_commerce_redis_pick(void)
{
    ngx_uint_t                             i;
    ngx_commerce_redis_conn_t             *conn, *best;
    const ngx_commerce_redis_main_conf_t  *conf;

    best = NULL;
    conf = ngx_commerce_redis_pool.conf;

    for (i = 0; conf && i < conf->connections; i++) {
        conn = &ngx_commerce_redis_pool.conns[i];

        if (conn->state == NGX_COMMERCE_REDIS_READY
            && conn->in_flight < conf->queue
            && (best == NULL || conn->in_flight < best->in_flight))
        {
            best = conn;
        }
    }

    return best;
}


static ngx_commerce_redis_op_t *
ngx_commerce_redis_alloc(size_t size)
{
    ngx_queue_t              *q;
    ngx_commerce_redis_op_t  *op;

    if (ngx_queue_empty(&ngx_commerce_redis_pool.free)) {
        op = ngx_calloc(sizeof(ngx_commerce_redis_op_t), ngx_cycle->log);
        if (op == NULL) {
            return NULL;
        }

    } else {
        q = ngx_queue_head(&ngx_commerce_redis_pool.free);
        ngx_queue_remove(q);
        op = ngx_queue_data(q, ngx_commerce_redis_op_t, queue);
    }

    if (op->buffer == NULL || op->size < size) {
        if (op->buffer) {
            ngx_free(op->buffer);
        }

        op->size = ngx_max(size, 1024);
        op->buffer = ngx_alloc(op->size, ngx_cycle->log);

        if (op->buffer == NULL) {
            ngx_free(op);
            return NULL;
        }
    }

    return op;
}


static ngx_int_t
ngx_commerce_redis_send(ngx_commerce_redis_op_t *op)
{
    int                         rc;
    ngx_commerce_redis_conn_t  *conn;

    conn = op->conn;

    if (op->reloaded) {
        op->argv[0] = "EVAL";
        op->argvlen[0] = 4;
        op->argv[1] = (const char *) op->script->text.data;
        op->argvlen[1] = op->script->text.len;

    } else {
        op->argv[0] = "EVALSHA";
        op->argvlen[0] = 7;
        op->argv[1] = (const char *) op->script->sha;
        op->argvlen[1] = sizeof(op->script->sha);
    }

    op->argv[2] = ngx_commerce_redis_count[op->keys];
    op->argvlen[2] = 1;

    rc = redisAsyncCommandArgv(conn->context, ngx_commerce_redis_reply, op,
                               op->values + 3, op->argv, op->argvlen);
    if (rc != REDIS_OK) {
        return NGX_ERROR;
    }

    op->sent = ngx_current_msec;
    ngx_commerce_redis_pool.stats.evals++;
    ngx_queue_insert_tail(&conn->pending, &op->queue);
    conn->in_flight++;
    conn->deadline.cancelable = 0;

    if (!conn->deadline.timer_set) {
        ngx_add_timer(&conn->deadline, ngx_commerce_redis_pool.conf->timeout);
    }

    return NGX_OK;
}


/* hiredis calls this once per command: with the answer, or with NULL when the
   connection is lost. */

static void
ngx_commerce_redis_reply(redisAsyncContext *context, void *data,
    void *privdata)
{
    redisReply                   *reply = data;
    ngx_commerce_redis_op_t      *op = privdata;
    ngx_commerce_redis_conn_t    *conn;
    ngx_commerce_redis_status_t   status;

    conn = op->conn;
    ngx_queue_remove(&op->queue);
    conn->in_flight--;
    conn->deadline.cancelable = ngx_queue_empty(&conn->pending);

    if (reply == NULL) {
        /* handlers must not use this connection any more, and may now turn
           to PostgreSQL, which should know the latest carts */
        conn->state = NGX_COMMERCE_REDIS_LEAVING;
        ngx_commerce_backup_hurry();
        ngx_commerce_redis_pool.stats.lost++;
        ngx_commerce_redis_finish(op, NGX_COMMERCE_REDIS_LOST, NULL);
        return;
    }

    status = NGX_COMMERCE_REDIS_OK;
    ngx_commerce_breaker_success(&ngx_commerce_redis_pool.breaker);

    if (ngx_commerce_redis_pool.synced) {
        ngx_commerce_redis_pool.shared->served = ngx_current_msec;
    }

    if (reply->type == REDIS_REPLY_ERROR) {
        status = NGX_COMMERCE_REDIS_FAILED;
        ngx_commerce_redis_resync_soon();

        if (ngx_strncmp(reply->str, "NOSCRIPT", 8) == 0 && !op->reloaded) {
            op->reloaded = 1;

            if (ngx_commerce_redis_send(op) == NGX_OK) {
                return;
            }

            status = NGX_COMMERCE_REDIS_UNAVAILABLE;

        } else if (ngx_commerce_redis_refused(reply)) {
            ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                          "redis \"%V\" refuses: %s",
                          &ngx_commerce_redis_pool.conf->name, reply->str);

            ngx_commerce_redis_conn_leave(conn);
            status = NGX_COMMERCE_REDIS_UNAVAILABLE;
        }
    }

    ngx_commerce_redis_finish(op, status,
                              status == NGX_COMMERCE_REDIS_UNAVAILABLE
                              ? NULL : reply);
}


static ngx_uint_t
ngx_commerce_redis_refused(redisReply *reply)
{
    size_t        len;
    const char  **p;

    for (p = ngx_commerce_redis_refusals; *p; p++) {
        len = ngx_strlen(*p);

        if (reply->len > len && ngx_strncmp(reply->str, *p, len) == 0
            && reply->str[len] == ' ')
        {
            return 1;
        }
    }

    return 0;
}


static void
ngx_commerce_redis_finish(ngx_commerce_redis_op_t *op,
    ngx_commerce_redis_status_t status, redisReply *reply)
{
    void                           *data;
    ngx_commerce_redis_handler_pt   handler;

    handler = op->handler;
    data = op->data;

    if (op->size > NGX_COMMERCE_REDIS_KEEP) {
        ngx_free(op->buffer);
        op->buffer = NULL;
        op->size = 0;
    }

    ngx_queue_insert_head(&ngx_commerce_redis_pool.free, &op->queue);

    if (handler && !ngx_commerce_redis_pool.gone) {
        handler(data, status, reply);
    }
}
