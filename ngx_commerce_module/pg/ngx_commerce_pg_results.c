/*
 * The server's answers on one connection, in order.
 */

#include "ngx_commerce_pg_internal.h"


static ngx_uint_t ngx_commerce_pg_results_due(ngx_commerce_pg_conn_t *conn);
static ngx_int_t ngx_commerce_pg_results_one(ngx_commerce_pg_conn_t *conn,
    PGresult *result, const char **why);
static void ngx_commerce_pg_results_prepare(ngx_commerce_pg_conn_t *conn,
    PGresult *result);
static void ngx_commerce_pg_results_step(ngx_commerce_pg_conn_t *conn,
    PGresult *result);
static void ngx_commerce_pg_results_end(ngx_commerce_pg_conn_t *conn);
static void ngx_commerce_pg_results_sync(ngx_commerce_pg_conn_t *conn);
static void ngx_commerce_pg_results_commit(ngx_commerce_pg_conn_t *conn,
    PGresult *result);
static void ngx_commerce_pg_results_settle(ngx_commerce_pg_conn_t *conn);


/* PQgetResult() would block while PQisBusy(): it is never called then, nor when nothing is due. */

ngx_int_t
ngx_commerce_pg_conn_results(ngx_commerce_pg_conn_t *conn, const char **why)
{
    PGconn    *pg;
    PGresult  *result;

    pg = conn->link.pg;

    while (ngx_commerce_pg_results_due(conn)) {

        if (PQisBusy(pg)) {
            return NGX_OK;
        }

        result = PQgetResult(pg);

        if (result == NULL) {

            if (conn->await_null) {
                conn->await_null = 0;
                ngx_commerce_pg_results_end(conn);
                continue;
            }

            *why = (PQstatus(pg) == CONNECTION_BAD)
                   ? PQerrorMessage(pg) : "answers are out of step";

            return NGX_ERROR;
        }

        if (ngx_commerce_pg_results_one(conn, result, why) != NGX_OK) {
            PQclear(result);
            return NGX_ERROR;
        }
    }

    /* notices, parameters and a farewell also come when nothing is due */
    (void) PQisBusy(pg);

    return NGX_OK;
}


static ngx_uint_t
ngx_commerce_pg_results_due(ngx_commerce_pg_conn_t *conn)
{
    if (conn->await_sync || !ngx_queue_empty(&conn->flight)) {
        return 1;
    }

    return !conn->ready
           && conn->preparing < ngx_commerce_pg_pool.conf->statements.nelts;
}


/* Takes the result over, unless it returns NGX_ERROR. */

static ngx_int_t
ngx_commerce_pg_results_one(ngx_commerce_pg_conn_t *conn, PGresult *result,
    const char **why)
{
    const char  *severity;

    switch (PQresultStatus(result)) {

    case PGRES_PIPELINE_SYNC:
        if (!conn->await_sync || conn->await_null) {
            *why = "answers are out of step";
            return NGX_ERROR;
        }

        PQclear(result);
        ngx_commerce_pg_results_sync(conn);

        return NGX_OK;

    case PGRES_FATAL_ERROR:
        severity = PQresultErrorField(result, PG_DIAG_SEVERITY_NONLOCALIZED);

        /* without a severity it comes from libpq, for what it lost */

        if (severity == NULL || ngx_strcmp(severity, "ERROR") != 0) {
            *why = PQerrorMessage(conn->link.pg);
            return NGX_ERROR;
        }

        break;

    case PGRES_TUPLES_OK:
    case PGRES_COMMAND_OK:
    case PGRES_EMPTY_QUERY:
    case PGRES_PIPELINE_ABORTED:
        break;

    default:
        *why = "a statement began a COPY, which has no place in a pipeline";
        return NGX_ERROR;
    }

    if (conn->await_null) {
        *why = "answers are out of step";
        return NGX_ERROR;
    }

    conn->await_null = 1;

    if (conn->await_sync) {
        ngx_commerce_pg_results_commit(conn, result);

    } else if (!conn->ready) {
        ngx_commerce_pg_results_prepare(conn, result);

    } else {
        ngx_commerce_pg_results_step(conn, result);
    }

    return NGX_OK;
}


static void
ngx_commerce_pg_results_prepare(ngx_commerce_pg_conn_t *conn,
    PGresult *result)
{
    ngx_uint_t                i, level;
    ngx_commerce_pg_stmt_t  **stmt;

    i = conn->preparing;
    stmt = ngx_commerce_pg_pool.conf->statements.elts;

    switch (PQresultStatus(result)) {

    case PGRES_COMMAND_OK:
        conn->prepared[i] = NGX_COMMERCE_PG_STMT_READY;
        break;

    case PGRES_PIPELINE_ABORTED:
        conn->resume = ngx_min(conn->resume, i);
        break;

    default:
        /* operations on it try again, so that creating the function is enough; one line per worker tells */

        level = (conn->lane == &ngx_commerce_pg_pool.lanes[NGX_COMMERCE_PG_WRITE]
                 && conn->number == 0) ? NGX_LOG_ERR : NGX_LOG_INFO;

        ngx_log_error(level, conn->timer.log, 0,
                      "PostgreSQL \"%V\" cannot prepare \"%V\": %s (SQLSTATE "
                      "%s); calls of it will fail until it exists, see "
                      "scripts/migrate",
                      &conn->lane->conf->address, &stmt[i]->text,
                      PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY),
                      PQresultErrorField(result, PG_DIAG_SQLSTATE));
    }

    PQclear(result);
}


static void
ngx_commerce_pg_results_step(ngx_commerce_pg_conn_t *conn, PGresult *result)
{
    u_char                  *prepared;
    ngx_commerce_pg_step_t  *step;
    ngx_commerce_pg_task_t  *task;

    task = ngx_commerce_pg_task(ngx_queue_head(&conn->flight));
    step = &task->steps[task->step];
    prepared = &conn->prepared[step->stmt->index];

    switch (PQresultStatus(result)) {

    case PGRES_PIPELINE_ABORTED:
        if (!task->failed) {
            task->aborted = 1;
        }

        if (step->kind == NGX_COMMERCE_PG_STEP_CLOSE) {
            *prepared = NGX_COMMERCE_PG_STMT_STALE;

        } else if (*prepared == NGX_COMMERCE_PG_STMT_SENT
                   && step->kind == NGX_COMMERCE_PG_STEP_PREPARE)
        {
            *prepared = NGX_COMMERCE_PG_STMT_MISSING;
        }

        break;

    case PGRES_FATAL_ERROR:
        task->failed = 1;
        task->failed_step = task->step;
        task->result = result;

        if (step->kind != NGX_COMMERCE_PG_STEP_RUN) {
            *prepared = NGX_COMMERCE_PG_STMT_MISSING;
        }

        return;

    default:
        if (step->kind == NGX_COMMERCE_PG_STEP_PREPARE) {
            *prepared = NGX_COMMERCE_PG_STMT_READY;

        } else if (task->step == task->steps_count - 1) {
            task->result = result;
            return;
        }
    }

    PQclear(result);
}


/* The NULL after a result. */

static void
ngx_commerce_pg_results_end(ngx_commerce_pg_conn_t *conn)
{
    ngx_commerce_pg_task_t  *task;

    if (conn->await_sync) {
        return;
    }

    if (!conn->ready) {
        conn->preparing++;
        conn->await_sync = (conn->preparing
                            == ngx_commerce_pg_pool.conf->statements.nelts);
        return;
    }

    task = ngx_commerce_pg_task(ngx_queue_head(&conn->flight));

    if (++task->step < task->steps_count) {
        return;
    }

    conn->await_sync = task->sync;

    /* with a Sync of its own it is only committed when that is answered */

    if (!task->own) {
        ngx_commerce_pg_results_settle(conn);
    }
}


static void
ngx_commerce_pg_results_sync(ngx_commerce_pg_conn_t *conn)
{
    ngx_commerce_pg_task_t  *task;

    conn->await_sync = 0;

    if (!conn->ready || ngx_queue_empty(&conn->flight)) {
        return;
    }

    task = ngx_commerce_pg_task(ngx_queue_head(&conn->flight));

    if (task->own && task->step == task->steps_count) {
        ngx_commerce_pg_results_settle(conn);
    }
}


/* The commit itself failed: a deferred constraint, a serialization conflict. */

static void
ngx_commerce_pg_results_commit(ngx_commerce_pg_conn_t *conn, PGresult *result)
{
    ngx_commerce_pg_task_t  *task;

    if (conn->ready && !ngx_queue_empty(&conn->flight)) {
        task = ngx_commerce_pg_task(ngx_queue_head(&conn->flight));

        if (task->own && task->step == task->steps_count) {
            PQclear(task->result);

            task->result = result;
            task->failed = 1;
            task->failed_step = task->steps_count - 1;

            return;
        }
    }

    ngx_log_error(NGX_LOG_ERR, conn->timer.log, 0,
                  "PostgreSQL \"%V\": the end of a shared read transaction "
                  "failed with SQLSTATE %s: a function of lane \"read\" writes",
                  &conn->lane->conf->address,
                  PQresultErrorField(result, PG_DIAG_SQLSTATE));

    PQclear(result);
}


static void
ngx_commerce_pg_results_settle(ngx_commerce_pg_conn_t *conn)
{
    ngx_queue_t  *q;

    q = ngx_queue_head(&conn->flight);
    ngx_queue_remove(q);

    conn->in_flight--;
    conn->lane->in_flight--;
    conn->timer.cancelable = (conn->in_flight == 0);

    ngx_commerce_pg_lane_settle(conn, ngx_commerce_pg_task(q));
}
