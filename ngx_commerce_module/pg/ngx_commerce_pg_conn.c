/*
 * A connection in pipeline mode for its whole life.
 *
 * Everything between two Syncs is one implicit transaction.  Reads of one turn
 * of the event loop share a Sync, everything else has its own.  Results come
 * in the order of sending: of each step one result, then NULL; of a Sync one
 * PGRES_PIPELINE_SYNC and no NULL.
 */

#include "ngx_commerce_pg_internal.h"


static void ngx_commerce_pg_conn_up(ngx_commerce_pg_link_t *link);
static void ngx_commerce_pg_conn_input(ngx_commerce_pg_link_t *link);
static void ngx_commerce_pg_conn_down(ngx_commerce_pg_link_t *link);
static ngx_uint_t ngx_commerce_pg_conn_steps(ngx_commerce_pg_conn_t *conn,
    ngx_commerce_pg_task_t *task);
static ngx_int_t ngx_commerce_pg_conn_step(ngx_commerce_pg_conn_t *conn,
    ngx_commerce_pg_step_t *step, const char **values);
static ngx_int_t ngx_commerce_pg_conn_sync(ngx_commerce_pg_conn_t *conn);
static ngx_int_t ngx_commerce_pg_conn_cut(ngx_commerce_pg_conn_t *conn);
static void ngx_commerce_pg_conn_deadline(ngx_event_t *ev);


void
ngx_commerce_pg_conn_init(ngx_commerce_pg_conn_t *conn,
    ngx_commerce_pg_lane_state_t *lane, ngx_log_t *log)
{
    ngx_commerce_pg_link_t  *link;

    conn->lane = lane;
    ngx_queue_init(&conn->flight);

    conn->timer.handler = ngx_commerce_pg_conn_deadline;
    conn->timer.data = conn;
    conn->timer.log = log;
    conn->timer.cancelable = 1;

    link = &conn->link;

    ngx_commerce_pg_link_init(link, lane->conf,
                              (const char *) lane->conf->lane.data, log);

    link->up = ngx_commerce_pg_conn_up;
    link->input = ngx_commerce_pg_conn_input;
    link->down = ngx_commerce_pg_conn_down;
    link->closing = ngx_commerce_pg_lane_closing;
    link->failed = ngx_commerce_pg_lane_failed;
    link->breaker = &lane->breaker;
    link->data = conn;
}


static void
ngx_commerce_pg_conn_up(ngx_commerce_pg_link_t *link)
{
    ngx_commerce_pg_conn_t  *conn;

    conn = link->data;

    if (PQenterPipelineMode(link->pg) == 0) {
        ngx_commerce_pg_link_fail(link, PQerrorMessage(link->pg));
        return;
    }

    conn->preparing = 0;
    conn->last_input = ngx_current_msec;

    ngx_commerce_pg_conn_prepare(conn);
}


/*
 * All statements go out under one Sync.  One that fails (its function is
 * missing) aborts those behind it, which are sent again when the Sync came.
 */

void
ngx_commerce_pg_conn_prepare(ngx_commerce_pg_conn_t *conn)
{
    PGconn                   *pg;
    ngx_uint_t                i, n;
    ngx_array_t              *statements;
    ngx_commerce_pg_stmt_t  **stmt;

    pg = conn->link.pg;
    statements = &ngx_commerce_pg_pool.conf->statements;
    stmt = statements->elts;
    n = statements->nelts;

    if (conn->preparing == n) {
        conn->ready = 1;
        ngx_commerce_pg_lane_ready(conn);
        return;
    }

    conn->resume = n;

    for (i = conn->preparing; i < n; i++) {
        if (PQsendPrepare(pg, (char *) stmt[i]->name.data,
                          (char *) stmt[i]->text.data, 0, NULL)
            == 0)
        {
            ngx_commerce_pg_link_fail(&conn->link, PQerrorMessage(pg));
            return;
        }
    }

    if (PQpipelineSync(pg) == 0) {
        ngx_commerce_pg_link_fail(&conn->link, PQerrorMessage(pg));
        return;
    }

    /* the sign of life that deadlines count from */
    ngx_add_timer(&conn->timer, conn->link.conf->connect_timeout);

    ngx_commerce_pg_link_flush(&conn->link);
}


/*
 * Handlers that run inside of the results loop only submit and detach: the
 * connection itself changes below, after the loop.
 */

static void
ngx_commerce_pg_conn_input(ngx_commerce_pg_link_t *link)
{
    ngx_int_t                rc;
    const char              *why;
    ngx_commerce_pg_conn_t  *conn;

    conn = link->data;

    rc = ngx_commerce_pg_link_consume(link);

    conn->last_input = ngx_current_msec;

    if (ngx_commerce_pg_conn_results(conn, &why) != NGX_OK) {
        ngx_commerce_pg_link_fail(link, why);
        return;
    }

    if (rc != NGX_OK || PQstatus(link->pg) == CONNECTION_BAD) {
        ngx_commerce_pg_link_fail(link, PQerrorMessage(link->pg));
        return;
    }

    if (conn->retire && conn->in_flight == 0) {
        ngx_commerce_pg_link_close(link);
        return;
    }

    if (!conn->ready && !conn->await_sync
        && conn->preparing == ngx_commerce_pg_pool.conf->statements.nelts)
    {
        conn->preparing = conn->resume;
        ngx_commerce_pg_conn_prepare(conn);
        return;
    }

    if (link->watch.writing) {
        ngx_commerce_pg_link_flush(link);
    }
}


static void
ngx_commerce_pg_conn_down(ngx_commerce_pg_link_t *link)
{
    ngx_uint_t               ready;
    ngx_queue_t              flight;
    ngx_commerce_pg_conn_t  *conn;

    conn = link->data;

    /* handlers below may submit: this connection must be seen as gone */

    ngx_queue_init(&flight);

    if (!ngx_queue_empty(&conn->flight)) {
        ngx_queue_add(&flight, &conn->flight);
        ngx_queue_init(&conn->flight);
    }

    conn->lane->in_flight -= conn->in_flight;
    conn->in_flight = 0;

    if (conn->timer.timer_set) {
        ngx_del_timer(&conn->timer);
    }

    conn->timer.cancelable = 1;

    ready = conn->ready;

    conn->ready = 0;
    conn->dirty = 0;
    conn->open = 0;
    conn->await_sync = 0;
    conn->await_null = 0;

    ngx_memzero(conn->prepared,
                ngx_commerce_pg_pool.conf->statements.nelts);

    if (ready) {
        ngx_commerce_pg_lane_lost(conn);
    }

    ngx_commerce_pg_lane_drop(conn->lane, &flight);
}


ngx_int_t
ngx_commerce_pg_conn_send(ngx_commerce_pg_conn_t *conn,
    ngx_commerce_pg_task_t *task)
{
    ngx_uint_t              i, extra;
    const char            **values;
    ngx_commerce_pg_op_t   *op;

    op = &task->op;

    extra = ngx_commerce_pg_conn_steps(conn, task);

    /* without a "before" it would inherit the context of the operation in front */

    task->own = (op->own_sync || op->lane != NGX_COMMERCE_PG_READ
                 || op->before.stmt == NULL || task->alone || extra);

    if (task->own && ngx_commerce_pg_conn_cut(conn) != NGX_OK) {
        return NGX_DECLINED;
    }

    conn->dirty = 1;

    ngx_queue_insert_tail(&conn->flight, &task->link);
    conn->in_flight++;
    conn->lane->in_flight++;
    conn->timer.cancelable = 0;

    op->attempts++;
    task->sent = ngx_current_msec;

    if (!conn->timer.timer_set
        || (ngx_msec_int_t) (conn->timer.timer.key - task->deadline) > 0)
    {
        if (conn->timer.timer_set) {
            ngx_del_timer(&conn->timer);
        }

        ngx_add_timer(&conn->timer, ngx_max((ngx_msec_int_t)
                                    (task->deadline - ngx_current_msec), 1));
    }

    values = task->values;

    for (i = 0; i < task->steps_count; i++) {

        if (ngx_commerce_pg_conn_step(conn, &task->steps[i], values)
            != NGX_OK)
        {
            goto failed;
        }

        if (task->steps[i].kind == NGX_COMMERCE_PG_STEP_RUN) {
            values += task->steps[i].stmt->params;
        }
    }

    if (!task->own) {
        conn->open = 1;
        return NGX_OK;
    }

    if (ngx_commerce_pg_conn_sync(conn) == NGX_OK) {
        return NGX_OK;
    }

failed:

    ngx_commerce_pg_link_fail(&conn->link, PQerrorMessage(conn->link.pg));

    return NGX_ERROR;
}


/* Returns true when statements have to be prepared on the way. */

static ngx_uint_t
ngx_commerce_pg_conn_steps(ngx_commerce_pg_conn_t *conn,
    ngx_commerce_pg_task_t *task)
{
    ngx_uint_t               i, n, extra;
    ngx_commerce_pg_stmt_t  *stmt[2];
    ngx_commerce_pg_step_t  *step;

    stmt[0] = task->op.before.stmt;
    stmt[1] = task->op.query.stmt;

    extra = 0;
    n = 0;
    step = task->steps;

    for (i = 0; i < 2; i++) {
        if (stmt[i] == NULL) {
            continue;
        }

        switch (conn->prepared[stmt[i]->index]) {

        case NGX_COMMERCE_PG_STMT_STALE:
            step[n].kind = NGX_COMMERCE_PG_STEP_CLOSE;
            step[n++].stmt = stmt[i];

            /* fall through */

        case NGX_COMMERCE_PG_STMT_MISSING:
            step[n].kind = NGX_COMMERCE_PG_STEP_PREPARE;
            step[n++].stmt = stmt[i];
            extra = 1;
        }

        step[n].kind = NGX_COMMERCE_PG_STEP_RUN;
        step[n++].stmt = stmt[i];
    }

    task->steps_count = n;
    task->step = 0;

    return extra;
}


static ngx_int_t
ngx_commerce_pg_conn_step(ngx_commerce_pg_conn_t *conn,
    ngx_commerce_pg_step_t *step, const char **values)
{
    int                      rc;
    u_char                  *p, text[128];
    PGconn                  *pg;
    ngx_commerce_pg_stmt_t  *stmt;

    pg = conn->link.pg;
    stmt = step->stmt;

    switch (step->kind) {

    case NGX_COMMERCE_PG_STEP_CLOSE:
        p = ngx_snprintf(text, sizeof(text) - 1, "DEALLOCATE %V", &stmt->name);
        *p = '\0';

        rc = PQsendQueryParams(pg, (char *) text, 0, NULL, NULL, NULL, NULL,
                               0);
        break;

    case NGX_COMMERCE_PG_STEP_PREPARE:
        conn->prepared[stmt->index] = NGX_COMMERCE_PG_STMT_SENT;

        rc = PQsendPrepare(pg, (char *) stmt->name.data,
                           (char *) stmt->text.data, 0, NULL);
        break;

    default: /* NGX_COMMERCE_PG_STEP_RUN */
        rc = PQsendQueryPrepared(pg, (char *) stmt->name.data,
                                 (int) stmt->params, values, NULL, NULL, 0);
    }

    return rc ? NGX_OK : NGX_ERROR;
}


/* libpq 15 sends at each Sync: the fewer the better. */

static ngx_int_t
ngx_commerce_pg_conn_sync(ngx_commerce_pg_conn_t *conn)
{
    conn->open = 0;

    ngx_commerce_pg_task(ngx_queue_last(&conn->flight))->sync = 1;

    return PQpipelineSync(conn->link.pg) ? NGX_OK : NGX_ERROR;
}


/* Ends the transaction that reads of this turn share. */

static ngx_int_t
ngx_commerce_pg_conn_cut(ngx_commerce_pg_conn_t *conn)
{
    if (!conn->open) {
        return NGX_OK;
    }

    if (ngx_commerce_pg_conn_sync(conn) != NGX_OK) {
        ngx_commerce_pg_link_fail(&conn->link, PQerrorMessage(conn->link.pg));
        return NGX_ERROR;
    }

    return NGX_OK;
}


void
ngx_commerce_pg_conn_finish(ngx_commerce_pg_conn_t *conn)
{
    conn->dirty = 0;

    if (ngx_commerce_pg_conn_cut(conn) == NGX_OK) {
        ngx_commerce_pg_link_flush(&conn->link);
    }
}


/*
 * An operation past its deadline is given up; the connection only when the
 * server has been silent for as long as the lane allows an answer to take: a
 * stopped server, a lost route, a firewall that forgot us.
 */

static void
ngx_commerce_pg_conn_deadline(ngx_event_t *ev)
{
    ngx_msec_t               now, since, next;
    ngx_queue_t             *q;
    ngx_commerce_pg_conn_t  *conn;
    ngx_commerce_pg_task_t  *task;

    conn = ev->data;
    now = ngx_current_msec;

    if (!conn->ready) {
        ngx_commerce_pg_link_fail(&conn->link,
                                  "no answer within connect_timeout");
        return;
    }

    if (conn->in_flight == 0) {
        return;
    }

    task = ngx_commerce_pg_task(ngx_queue_head(&conn->flight));

    since = ((ngx_msec_int_t) (conn->last_input - task->sent) > 0)
            ? conn->last_input : task->sent;

    if (now - since >= conn->lane->conf->timeout) {
        ngx_commerce_pg_link_fail(&conn->link,
                                  "no answer within the lane's timeout");
        return;
    }

    next = since + conn->lane->conf->timeout;

    for (q = ngx_queue_head(&conn->flight);
         q != ngx_queue_sentinel(&conn->flight);
         q = ngx_queue_next(q))
    {
        task = ngx_commerce_pg_task(q);

        if (task->expired) {
            continue;
        }

        if ((ngx_msec_int_t) (task->deadline - now) <= 0) {
            task->expired = 1;
            ngx_commerce_pg_task_tell(task, NGX_COMMERCE_PG_LOST);
            continue;
        }

        if ((ngx_msec_int_t) (task->deadline - next) < 0) {
            next = task->deadline;
        }
    }

    ngx_add_timer(&conn->timer, ngx_max((ngx_msec_int_t) (next - now), 1));
}
