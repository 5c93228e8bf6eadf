/*
 * Asks PostgreSQL for the list of tenants: in the worker that listens, after
 * each (re)connection and each notice on commerce_tenants, again and again
 * until it came.
 */

#include "ngx_commerce_cache_internal.h"


#define NGX_COMMERCE_SNAPSHOT_TIMEOUT    5000
#define NGX_COMMERCE_SNAPSHOT_RETRY_MIN  100
#define NGX_COMMERCE_SNAPSHOT_RETRY_MAX  5000


typedef struct {
    ngx_commerce_pg_stmt_t  *stmt;
    ngx_commerce_pg_op_t    *op;            /* under way */
    ngx_event_t              retry;
    ngx_msec_t               delay;
    ngx_log_t               *log;
    unsigned                 again:1;       /* changed since it was asked for */
} ngx_commerce_snapshot_t;


static void ngx_commerce_snapshot_notify(ngx_str_t *channel,
    ngx_str_t *payload);
static void ngx_commerce_snapshot_retry(ngx_event_t *ev);
static void ngx_commerce_snapshot_fetch(void);
static void ngx_commerce_snapshot_done(ngx_commerce_pg_op_t *op,
    ngx_commerce_pg_status_t status, const PGresult *result);
static void ngx_commerce_snapshot_later(const char *why);


static ngx_commerce_snapshot_t  ngx_commerce_snapshot;


void
ngx_commerce_snapshot_init(ngx_commerce_pg_stmt_t *stmt, ngx_log_t *log)
{
    ngx_memzero(&ngx_commerce_snapshot, sizeof(ngx_commerce_snapshot_t));

    ngx_commerce_snapshot.stmt = stmt;
    ngx_commerce_snapshot.log = log;
    ngx_commerce_snapshot.delay = NGX_COMMERCE_SNAPSHOT_RETRY_MIN;

    ngx_commerce_snapshot.retry.handler = ngx_commerce_snapshot_retry;
    ngx_commerce_snapshot.retry.data = &ngx_commerce_snapshot;
    ngx_commerce_snapshot.retry.log = log;
    ngx_commerce_snapshot.retry.cancelable = 1;

    ngx_commerce_pg_on_notify("commerce_tenants",
                              ngx_commerce_snapshot_notify);
}


static void
ngx_commerce_snapshot_notify(ngx_str_t *channel, ngx_str_t *payload)
{
    if (ngx_commerce_snapshot.op) {
        ngx_commerce_snapshot.again = 1;
        return;
    }

    ngx_commerce_snapshot_fetch();
}


static void
ngx_commerce_snapshot_retry(ngx_event_t *ev)
{
    ngx_commerce_snapshot_fetch();
}


/* From the primary: a replica may not know yet what the notice was about. */

static void
ngx_commerce_snapshot_fetch(void)
{
    ngx_commerce_pg_op_t           *op;
    ngx_commerce_pg_lane_status_t   lane;

    if (ngx_exiting || ngx_terminate || ngx_quit) {
        return;
    }

    if (ngx_commerce_snapshot.retry.timer_set) {
        ngx_del_timer(&ngx_commerce_snapshot.retry);
    }

    op = ngx_commerce_pg_alloc();
    if (op == NULL) {
        ngx_commerce_snapshot_later("out of memory");
        return;
    }

    ngx_commerce_pg_lane_status(NGX_COMMERCE_PG_WRITE, &lane);

    op->lane = lane.configured ? NGX_COMMERCE_PG_WRITE : NGX_COMMERCE_PG_READ;
    op->timeout = NGX_COMMERCE_SNAPSHOT_TIMEOUT;
    op->query.stmt = ngx_commerce_snapshot.stmt;
    op->query.values = NULL;
    op->own_sync = 1;
    op->handler = ngx_commerce_snapshot_done;
    op->data = NULL;

    ngx_commerce_snapshot.again = 0;

    if (ngx_commerce_pg_submit(op) != NGX_OK) {
        ngx_commerce_snapshot_later("PostgreSQL is not available");
        return;
    }

    ngx_commerce_snapshot.op = op;
}


static void
ngx_commerce_snapshot_done(ngx_commerce_pg_op_t *op,
    ngx_commerce_pg_status_t status, const PGresult *result)
{
    ngx_commerce_snapshot.op = NULL;

    if (status == NGX_COMMERCE_PG_FAILED) {
        ngx_commerce_snapshot_later(PQresultErrorMessage(result));
        return;
    }

    if (status != NGX_COMMERCE_PG_OK) {
        ngx_commerce_snapshot_later("PostgreSQL did not answer");
        return;
    }

    if (ngx_commerce_tenant_publish(result, ngx_commerce_snapshot.log)
        != NGX_OK)
    {
        ngx_commerce_snapshot_later("it was not published");
        return;
    }

    ngx_commerce_snapshot.delay = NGX_COMMERCE_SNAPSHOT_RETRY_MIN;

    if (ngx_commerce_snapshot.again) {
        ngx_commerce_snapshot_fetch();
    }
}


static void
ngx_commerce_snapshot_later(const char *why)
{
    if (ngx_exiting || ngx_terminate || ngx_quit) {
        return;
    }

    ngx_log_error(NGX_LOG_WARN, ngx_commerce_snapshot.log, 0,
                  "the list of tenants could not be read, again in %M ms: %s",
                  ngx_commerce_snapshot.delay, why);

    ngx_add_timer(&ngx_commerce_snapshot.retry, ngx_commerce_snapshot.delay);

    ngx_commerce_snapshot.delay = ngx_min(ngx_commerce_snapshot.delay * 2,
                                          NGX_COMMERCE_SNAPSHOT_RETRY_MAX);
}
