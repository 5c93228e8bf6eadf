/*
 * A connection: hiredis' hooks over a watch, set-up, deadline, reconnect.
 *
 * A connection serves when its set-up is through: scripts are loaded and a
 * write was tried.  That also closes the breaker that all workers share; while
 * it is open one of them at a time connects.
 */

#include "ngx_commerce_redis_internal.h"


#define NGX_COMMERCE_REDIS_RETRY_MIN  100
#define NGX_COMMERCE_REDIS_RETRY_MAX  2000

/* written at set-up: a replica or a full Redis must not count as ready */
#define NGX_COMMERCE_REDIS_PROBE      "SET commerce:probe 1 EX 10"


static void ngx_commerce_redis_connect(ngx_commerce_redis_conn_t *conn);
static void ngx_commerce_redis_connected(const redisAsyncContext *context,
    int status);
static void ngx_commerce_redis_setup(ngx_commerce_redis_conn_t *conn);
static void ngx_commerce_redis_setup_reply(redisAsyncContext *context,
    void *data, void *privdata);
static void ngx_commerce_redis_close(ngx_commerce_redis_conn_t *conn);
static void ngx_commerce_redis_retry_later(ngx_commerce_redis_conn_t *conn);

static void ngx_commerce_redis_add_read(void *data);
static void ngx_commerce_redis_del_read(void *data);
static void ngx_commerce_redis_add_write(void *data);
static void ngx_commerce_redis_del_write(void *data);
static void ngx_commerce_redis_cleanup(void *data);

static void ngx_commerce_redis_readable(ngx_commerce_watch_t *w);
static void ngx_commerce_redis_writable(ngx_commerce_watch_t *w);
static void ngx_commerce_redis_closing(ngx_commerce_watch_t *w);
static void ngx_commerce_redis_flush_handler(ngx_event_t *ev);
static void ngx_commerce_redis_deadline_handler(ngx_event_t *ev);
static void ngx_commerce_redis_retry_handler(ngx_event_t *ev);


void
ngx_commerce_redis_conn_init(ngx_commerce_redis_conn_t *conn)
{
    ngx_queue_init(&conn->pending);

    conn->watch.readable = ngx_commerce_redis_readable;
    conn->watch.writable = ngx_commerce_redis_writable;
    conn->watch.closing = ngx_commerce_redis_closing;
    conn->watch.data = conn;

    conn->flush.handler = ngx_commerce_redis_flush_handler;
    conn->flush.data = conn;
    conn->flush.log = ngx_cycle->log;

    /* cancelable when nothing is under way: a leaving worker waits for what
       it has asked, not for the rest of a timer that nobody needs */
    conn->deadline.handler = ngx_commerce_redis_deadline_handler;
    conn->deadline.data = conn;
    conn->deadline.log = ngx_cycle->log;

    conn->retry.handler = ngx_commerce_redis_retry_handler;
    conn->retry.data = conn;
    conn->retry.log = ngx_cycle->log;
    conn->retry.cancelable = 1;

    ngx_commerce_redis_connect(conn);
}


ngx_uint_t
ngx_commerce_redis_ready(void)
{
    ngx_uint_t  i, n;

    n = 0;

    if (ngx_commerce_redis_pool.conf) {
        for (i = 0; i < ngx_commerce_redis_pool.conf->connections; i++) {
            if (ngx_commerce_redis_pool.conns[i].state
                == NGX_COMMERCE_REDIS_READY)
            {
                n++;
            }
        }
    }

    return n;
}


/*
 * A script is wanted while this worker waits for its next try.  When Redis
 * has served another worker since the last one, try now and hold the script:
 * two workers must not write a cart in two places for the rest of the delay.
 */

void
ngx_commerce_redis_conn_hasten(void)
{
    ngx_msec_t                  served;
    ngx_uint_t                  i;
    ngx_commerce_redis_conn_t  *conn;
    ngx_commerce_redis_pool_t  *pool = &ngx_commerce_redis_pool;

    if (pool->conf == NULL || pool->starting) {
        return;
    }

    served = pool->shared->served;

    for (i = 0; i < pool->conf->connections; i++) {
        conn = &pool->conns[i];

        if (conn->state == NGX_COMMERCE_REDIS_DOWN && conn->retry.timer_set
            && (ngx_msec_int_t) (served - conn->tried) > 0)
        {
            ngx_del_timer(&conn->retry);
            pool->starting = 1;
            ngx_commerce_redis_connect(conn);
        }
    }
}


/* No new commands; closed when the last answer is in. Called in a callback. */

void
ngx_commerce_redis_conn_leave(ngx_commerce_redis_conn_t *conn)
{
    conn->state = NGX_COMMERCE_REDIS_LEAVING;
    redisAsyncDisconnect(conn->context);
}


/* The process ends: no handler is called any more. */

void
ngx_commerce_redis_conn_exit(ngx_commerce_redis_conn_t *conn)
{
    if (conn->context) {
        ngx_commerce_redis_close(conn);
    }

    if (conn->retry.timer_set) {
        ngx_del_timer(&conn->retry);
    }
}


static void
ngx_commerce_redis_connect(ngx_commerce_redis_conn_t *conn)
{
    redisAsyncContext                     *ac;
    const ngx_commerce_redis_main_conf_t  *conf;

    conf = ngx_commerce_redis_pool.conf;
    conn->tried = ngx_current_msec;

    /* the address is numeric: hiredis' getaddrinfo() asks nobody */

    if (conf->port) {
        ac = redisAsyncConnect((char *) conf->host.data, conf->port);
    } else {
        ac = redisAsyncConnectUnix((char *) conf->host.data);
    }

    if (ac == NULL || ac->err) {
        if (conn->failures == 0) {
            ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                          "redis \"%V\": connect failed: %s", &conf->name,
                          ac ? ac->errstr : "no memory");
        }

        if (ac) {
            redisAsyncFree(ac);
        }

        ngx_commerce_redis_retry_later(conn);
        return;
    }

    if (ngx_commerce_watch_open(&conn->watch, ac->c.fd, ngx_cycle->log)
        != NGX_OK)
    {
        redisAsyncFree(ac);
        ngx_commerce_redis_retry_later(conn);
        return;
    }

    conn->context = ac;
    conn->state = NGX_COMMERCE_REDIS_CONNECTING;
    conn->flushing = 0;

    ac->ev.data = conn;
    ac->ev.addRead = ngx_commerce_redis_add_read;
    ac->ev.delRead = ngx_commerce_redis_del_read;
    ac->ev.addWrite = ngx_commerce_redis_add_write;
    ac->ev.delWrite = ngx_commerce_redis_del_write;
    ac->ev.cleanup = ngx_commerce_redis_cleanup;
    ac->data = conn;

    conn->deadline.cancelable = 0;
    ngx_add_timer(&conn->deadline, conf->timeout);

    (void) redisAsyncSetConnectCallback(ac, ngx_commerce_redis_connected);
}


static void
ngx_commerce_redis_connected(const redisAsyncContext *context, int status)
{
    ngx_commerce_redis_conn_t  *conn = context->data;

    if (status == REDIS_OK) {
        ngx_commerce_redis_setup(conn);
        return;
    }

    /* hiredis frees the context, cleanup comes next */

    if (conn->failures == 0) {
        ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                      "redis \"%V\": connect failed: %s",
                      &ngx_commerce_redis_pool.conf->name, context->errstr);
    }
}


static void
ngx_commerce_redis_setup(ngx_commerce_redis_conn_t *conn)
{
    size_t                                 lens[3];
    ngx_uint_t                             i, n;
    const char                            *argv[3];
    redisAsyncContext                     *ac;
    ngx_commerce_redis_script_t          **scripts;
    const ngx_commerce_redis_main_conf_t  *conf;

    conf = ngx_commerce_redis_pool.conf;
    ac = conn->context;
    conn->state = NGX_COMMERCE_REDIS_SETUP;
    conn->awaited = 0;

    if (conf->password.len) {
        n = 0;
        argv[n] = "AUTH";
        lens[n++] = 4;

        if (conf->user.len) {
            argv[n] = (const char *) conf->user.data;
            lens[n++] = conf->user.len;
        }

        argv[n] = (const char *) conf->password.data;
        lens[n++] = conf->password.len;

        conn->awaited++;
        (void) redisAsyncCommandArgv(ac, ngx_commerce_redis_setup_reply,
                                     (void *) "AUTH", n, argv, lens);
    }

    scripts = conf->scripts.elts;

    for (i = 0; i < conf->scripts.nelts; i++) {
        argv[0] = "SCRIPT";
        lens[0] = 6;
        argv[1] = "LOAD";
        lens[1] = 4;
        argv[2] = (const char *) scripts[i]->text.data;
        lens[2] = scripts[i]->text.len;

        conn->awaited++;
        (void) redisAsyncCommandArgv(ac, ngx_commerce_redis_setup_reply,
                                     scripts[i]->name.data, 3, argv, lens);
    }

    conn->awaited++;
    (void) redisAsyncCommand(ac, ngx_commerce_redis_setup_reply,
                             (void *) "a write", NGX_COMMERCE_REDIS_PROBE);
}


static void
ngx_commerce_redis_setup_reply(redisAsyncContext *context, void *data,
    void *privdata)
{
    char                       *what = privdata;
    redisReply                 *reply = data;
    ngx_commerce_redis_conn_t  *conn = context->data;

    if (reply == NULL || conn->state != NGX_COMMERCE_REDIS_SETUP) {
        return;
    }

    if (reply->type == REDIS_REPLY_ERROR) {
        if (conn->failures == 0) {
            ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                          "redis \"%V\" refused %s at set-up: %s%s",
                          &ngx_commerce_redis_pool.conf->name, what,
                          reply->str,
                          ngx_strncmp(reply->str, "NOAUTH", 6) == 0
                          ? "; set \"password_file=\" of \"commerce_redis\""
                          : "");
        }

        ngx_commerce_redis_conn_leave(conn);
        return;
    }

    if (--conn->awaited) {
        return;
    }

    conn->state = NGX_COMMERCE_REDIS_READY;
    conn->failures = 0;
    ngx_commerce_breaker_success(&ngx_commerce_redis_pool.breaker);
    ngx_del_timer(&conn->deadline);

    ngx_log_error(NGX_LOG_NOTICE, ngx_cycle->log, 0, "redis \"%V\": ready",
                  &ngx_commerce_redis_pool.conf->name);

    ngx_commerce_redis_pool.stats.reconnects++;

    if (ngx_commerce_redis_ready() == 1) {
        ngx_commerce_redis_resync_start();
    }
}


/* Fails everything under way.  Never in a callback of hiredis. */

static void
ngx_commerce_redis_close(ngx_commerce_redis_conn_t *conn)
{
    conn->state = NGX_COMMERCE_REDIS_LEAVING;
    redisAsyncFree(conn->context);
}


static void
ngx_commerce_redis_retry_later(ngx_commerce_redis_conn_t *conn)
{
    ngx_msec_t  delay;

    if (ngx_commerce_redis_pool.gone) {
        return;
    }

    delay = NGX_COMMERCE_REDIS_RETRY_MIN << ngx_min(conn->failures, 5);
    delay = ngx_min(delay, NGX_COMMERCE_REDIS_RETRY_MAX);
    delay += ngx_random() % (delay / 4);

    if (ngx_commerce_redis_ready() == 0 && conn->failures) {
        ngx_commerce_breaker_failure(&ngx_commerce_redis_pool.breaker,
                                     ngx_commerce_redis_pool.down_since);
    }

    conn->failures++;
    ngx_add_timer(&conn->retry, delay);

    if (ngx_commerce_redis_ready() == 0) {
        ngx_commerce_redis_release();
    }
}


/* hiredis' hooks: idempotent */

static void
ngx_commerce_redis_add_read(void *data)
{
    ngx_commerce_redis_conn_t  *conn = data;

    (void) ngx_commerce_watch_set(&conn->watch, 1, conn->watch.writing);
}


static void
ngx_commerce_redis_del_read(void *data)
{
    ngx_commerce_redis_conn_t  *conn = data;

    (void) ngx_commerce_watch_set(&conn->watch, 0, conn->watch.writing);
}


/*
 * A new command is in hiredis' buffer: write once, at the end of this turn of
 * the event loop, what the whole turn brought; that saves two epoll_ctl()
 * over waiting for writability.  The watch serves to hear of the connect and
 * when the socket did not take everything.
 */

static void
ngx_commerce_redis_add_write(void *data)
{
    ngx_commerce_redis_conn_t  *conn = data;

    if (conn->flushing || conn->state == NGX_COMMERCE_REDIS_CONNECTING) {
        (void) ngx_commerce_watch_set(&conn->watch, conn->watch.reading, 1);
        return;
    }

    if (!conn->watch.writing) {
        ngx_post_event(&conn->flush, &ngx_posted_events);
    }
}


static void
ngx_commerce_redis_del_write(void *data)
{
    ngx_commerce_redis_conn_t  *conn = data;

    (void) ngx_commerce_watch_set(&conn->watch, conn->watch.reading, 0);
}


/* The end of each context, however it came; the descriptor is hiredis'. */

static void
ngx_commerce_redis_cleanup(void *data)
{
    ngx_uint_t                  served;
    ngx_commerce_redis_conn_t  *conn = data;

    if (conn->context == NULL) {
        return;
    }

    served = (conn->failures == 0 && conn->awaited == 0);

    if (conn->context->err && conn->failures == 0
        && conn->state != NGX_COMMERCE_REDIS_CONNECTING)
    {
        ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                      "redis \"%V\": connection lost: %s",
                      &ngx_commerce_redis_pool.conf->name,
                      conn->context->errstr);
    }

    if (conn->flush.posted) {
        ngx_delete_posted_event(&conn->flush);
    }

    if (conn->deadline.timer_set) {
        ngx_del_timer(&conn->deadline);
    }

    ngx_commerce_watch_close(&conn->watch);

    conn->context = NULL;
    conn->state = NGX_COMMERCE_REDIS_DOWN;

    if (ngx_commerce_redis_ready() == 0) {

        if (served) {
            ngx_commerce_redis_pool.down_since = ngx_current_msec;
        }

        ngx_commerce_redis_resync_stop();
    }

    ngx_commerce_redis_retry_later(conn);
}


static void
ngx_commerce_redis_readable(ngx_commerce_watch_t *w)
{
    ngx_commerce_redis_conn_t  *conn = w->data;

    /* the context may be gone afterwards */
    redisAsyncHandleRead(conn->context);
}


static void
ngx_commerce_redis_writable(ngx_commerce_watch_t *w)
{
    ngx_commerce_redis_conn_t  *conn = w->data;

    conn->flushing = 1;
    redisAsyncHandleWrite(conn->context);
    conn->flushing = 0;
}


/* QUIT: requests under way are still served, so the connection stays. */

static void
ngx_commerce_redis_closing(ngx_commerce_watch_t *w)
{
    ngx_commerce_backup_hurry();
}


static void
ngx_commerce_redis_flush_handler(ngx_event_t *ev)
{
    ngx_commerce_redis_conn_t  *conn = ev->data;

    if (conn->context) {
        ngx_commerce_redis_writable(&conn->watch);
    }
}


/* Answers are positional: one that does not come means none can be told. */

static void
ngx_commerce_redis_deadline_handler(ngx_event_t *ev)
{
    ngx_msec_int_t              left;
    ngx_queue_t                *q;
    ngx_commerce_redis_op_t    *op;
    ngx_commerce_redis_conn_t  *conn = ev->data;

    if (conn->state == NGX_COMMERCE_REDIS_READY
        || conn->state == NGX_COMMERCE_REDIS_LEAVING)
    {
        if (ngx_queue_empty(&conn->pending)) {
            return;
        }

        q = ngx_queue_head(&conn->pending);
        op = ngx_queue_data(q, ngx_commerce_redis_op_t, queue);

        left = (ngx_msec_int_t) (op->sent
                                 + ngx_commerce_redis_pool.conf->timeout
                                 - ngx_current_msec);
        if (left > 0) {
            ngx_add_timer(&conn->deadline, (ngx_msec_t) left);
            return;
        }
    }

    if (conn->context == NULL) {
        return;
    }

    if (conn->failures == 0) {
        ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                      "redis \"%V\": no answer within %M ms, %ui commands "
                      "under way", &ngx_commerce_redis_pool.conf->name,
                      ngx_commerce_redis_pool.conf->timeout, conn->in_flight);
    }

    ngx_commerce_redis_close(conn);
}


static void
ngx_commerce_redis_retry_handler(ngx_event_t *ev)
{
    ngx_commerce_redis_conn_t  *conn = ev->data;

    if (!ngx_commerce_breaker_enter(&ngx_commerce_redis_pool.breaker,
                                    2 * ngx_commerce_redis_pool.conf->timeout))
    {
        ngx_add_timer(&conn->retry, NGX_COMMERCE_BREAKER_TICK);
        return;
    }

    ngx_commerce_redis_connect(conn);
}
