/*
 * Bringing Redis up to date before it counts as available.
 *
 * While Redis is away carts are served by PostgreSQL, which marks them and
 * lifts their version above any that Redis can hold.  When a connection is
 * ready again, the marked documents replace older copies (script *_resync),
 * then the marks are taken off; only then does this worker use Redis again.
 * Passes follow one and five seconds later, for statements of this time that
 * PostgreSQL had not finished, and every half minute in worker 0, for what
 * other workers and nodes wrote.  redis/README.md has the argument.
 */

#include "ngx_commerce_redis_internal.h"


#define NGX_COMMERCE_RESYNC_BATCH    200
#define NGX_COMMERCE_RESYNC_WAIT     50     /* for PostgreSQL, at start */
#define NGX_COMMERCE_RESYNC_WAITS    20
#define NGX_COMMERCE_RESYNC_PERIOD   30000


typedef enum {
    NGX_COMMERCE_RESYNC_IDLE = 0,
    NGX_COMMERCE_RESYNC_READING,
    NGX_COMMERCE_RESYNC_PUSHING,
    NGX_COMMERCE_RESYNC_SETTLING
} ngx_commerce_resync_state_t;


typedef struct {
    ngx_commerce_resync_state_t   state;
    ngx_event_t                   timer;
    ngx_uint_t                    backup;       /* index */
    ngx_uint_t                    waits;
    ngx_uint_t                    passes;       /* since Redis is back */
    ngx_uint_t                    outstanding;  /* scripts */
    ngx_uint_t                    generation;   /* answers of before: no */
    ngx_uint_t                    pushed;
    ngx_str_t                     settled;      /* JSON of a batch */
    unsigned                      failed:1;
    unsigned                      more:1;
} ngx_commerce_resync_t;


static void ngx_commerce_resync_next(void);
static ngx_int_t ngx_commerce_resync_query(ngx_commerce_pg_stmt_t *stmt,
    ngx_str_t *value, ngx_commerce_pg_handler_pt handler);
static void ngx_commerce_resync_read(ngx_commerce_pg_op_t *op,
    ngx_commerce_pg_status_t status, const PGresult *result);
static ngx_int_t ngx_commerce_resync_push(ngx_commerce_backup_t *backup,
    const PGresult *result);
static void ngx_commerce_resync_pushed(void *data,
    ngx_commerce_redis_status_t status, redisReply *reply);
static void ngx_commerce_resync_settle(void);
static void ngx_commerce_resync_settled(ngx_commerce_pg_op_t *op,
    ngx_commerce_pg_status_t status, const PGresult *result);
static void ngx_commerce_resync_done(ngx_uint_t failed);
static void ngx_commerce_resync_timer(ngx_event_t *ev);


static ngx_commerce_resync_t  ngx_commerce_resync;


void
ngx_commerce_redis_resync_init(void)
{
    ngx_commerce_resync.timer.handler = ngx_commerce_resync_timer;
    ngx_commerce_resync.timer.data = &ngx_commerce_resync;
    ngx_commerce_resync.timer.log = ngx_cycle->log;
    ngx_commerce_resync.timer.cancelable = 1;
}


void
ngx_commerce_redis_resync_start(void)
{
    ngx_commerce_resync_t  *rs = &ngx_commerce_resync;

    if (ngx_commerce_redis_pool.conf->backups.nelts == 0) {
        ngx_commerce_redis_pool.synced = 1;
        ngx_commerce_redis_release();
        return;
    }

    rs->backup = 0;
    rs->waits = 0;
    rs->passes = 0;
    rs->failed = 0;
    rs->pushed = 0;

    ngx_commerce_resync_next();
}


void
ngx_commerce_redis_resync_stop(void)
{
    ngx_commerce_resync_t  *rs = &ngx_commerce_resync;

    ngx_commerce_redis_pool.synced = 0;
    ngx_commerce_backup_hurry();

    rs->generation++;
    rs->outstanding = 0;
    rs->state = NGX_COMMERCE_RESYNC_IDLE;

    if (rs->timer.timer_set) {
        ngx_del_timer(&rs->timer);
    }
}


/* Redis did not run a script although it is there: a cart may now be written
   by PostgreSQL, so look soon. */

void
ngx_commerce_redis_resync_soon(void)
{
    ngx_commerce_resync_t  *rs = &ngx_commerce_resync;

    if (rs->state == NGX_COMMERCE_RESYNC_IDLE
        && ngx_commerce_redis_pool.synced
        && ngx_commerce_redis_pool.conf->backups.nelts
        && rs->passes > 1)
    {
        rs->passes = 1;
        ngx_add_timer(&rs->timer, 1000);
    }
}


/* Reads the next batch of marked carts. */

static void
ngx_commerce_resync_next(void)
{
    ngx_str_t                limit;
    ngx_commerce_backup_t  **backups;
    ngx_commerce_resync_t   *rs = &ngx_commerce_resync;

    if (rs->backup == ngx_commerce_redis_pool.conf->backups.nelts) {
        ngx_commerce_resync_done(0);
        return;
    }

    backups = ngx_commerce_redis_pool.conf->backups.elts;
    ngx_str_set(&limit, "200");

    if (ngx_commerce_resync_query(backups[rs->backup]->stale, &limit,
                                  ngx_commerce_resync_read)
        == NGX_OK)
    {
        rs->state = NGX_COMMERCE_RESYNC_READING;
        return;
    }

    /* PostgreSQL is not there (yet) */

    rs->state = NGX_COMMERCE_RESYNC_IDLE;

    if (!ngx_commerce_redis_pool.synced
        && rs->waits++ < NGX_COMMERCE_RESYNC_WAITS)
    {
        ngx_add_timer(&rs->timer, NGX_COMMERCE_RESYNC_WAIT);
        return;
    }

    ngx_commerce_resync_done(1);
}


static ngx_int_t
ngx_commerce_resync_query(ngx_commerce_pg_stmt_t *stmt, ngx_str_t *value,
    ngx_commerce_pg_handler_pt handler)
{
    ngx_commerce_pg_op_t  *op;

    op = ngx_commerce_pg_alloc();
    if (op == NULL) {
        return NGX_ERROR;
    }

    op->lane = NGX_COMMERCE_PG_WRITE;
    op->query.stmt = stmt;
    op->query.values = value;
    op->own_sync = 1;
    op->handler = handler;
    op->data = (void *) (uintptr_t) ngx_commerce_resync.generation;

    return ngx_commerce_pg_submit(op);
}


static void
ngx_commerce_resync_read(ngx_commerce_pg_op_t *op,
    ngx_commerce_pg_status_t status, const PGresult *result)
{
    ngx_commerce_backup_t  **backups;
    ngx_commerce_resync_t   *rs = &ngx_commerce_resync;

    if ((uintptr_t) op->data != rs->generation) {
        return;
    }

    if (status != NGX_COMMERCE_PG_OK) {
        ngx_log_error(NGX_LOG_WARN, ngx_cycle->log, 0,
                      "redis: marked carts were not read: %s",
                      result ? PQresultErrorMessage(result)
                             : "PostgreSQL is away");
        ngx_commerce_resync_done(1);
        return;
    }

    rs->more = (PQntuples(result) == NGX_COMMERCE_RESYNC_BATCH);

    if (PQntuples(result) == 0) {
        rs->backup++;
        ngx_commerce_resync_next();
        return;
    }

    backups = ngx_commerce_redis_pool.conf->backups.elts;
    rs->state = NGX_COMMERCE_RESYNC_PUSHING;

    if (ngx_commerce_resync_push(backups[rs->backup], result) != NGX_OK) {
        ngx_commerce_resync_done(1);
    }
}


/* Rows of (tenant_id, key, version, document, token): the token is a JSON
   value that takes the mark off, unless the cart changed meanwhile. */

static ngx_int_t
ngx_commerce_resync_push(ngx_commerce_backup_t *backup,
    const PGresult *result)
{
    int                     i, n;
    size_t                  size;
    u_char                 *p;
    ngx_str_t               values[3];
    ngx_commerce_resync_t  *rs = &ngx_commerce_resync;

    n = PQntuples(result);
    size = sizeof("[]");

    for (i = 0; i < n; i++) {
        size += PQgetlength(result, i, 4) + 1;
    }

    if (rs->settled.data) {
        ngx_free(rs->settled.data);
    }

    rs->settled.data = ngx_alloc(size, ngx_cycle->log);
    if (rs->settled.data == NULL) {
        return NGX_ERROR;
    }

    p = rs->settled.data;
    *p++ = '[';
    rs->failed = 0;
    rs->outstanding = 0;

    for (i = 0; i < n; i++) {
        values[0].data = (u_char *) PQgetvalue(result, i, 1);
        values[0].len = PQgetlength(result, i, 1);
        ngx_str_set(&values[1], "{}");
        values[2].data = (u_char *) PQgetvalue(result, i, 3);
        values[2].len = PQgetlength(result, i, 3);

        if (ngx_commerce_redis_eval_now(backup->resync, 1, 2, values,
                                        ngx_commerce_resync_pushed,
                                        (void *) (uintptr_t) rs->generation)
            == NULL)
        {
            rs->failed = 1;
            break;
        }

        rs->outstanding++;

        p = ngx_cpymem(p, PQgetvalue(result, i, 4),
                       PQgetlength(result, i, 4));
        *p++ = ',';
    }

    p[-1] = (p[-1] == '[') ? '[' : ']';
    rs->settled.len = p - rs->settled.data;

    return rs->outstanding ? NGX_OK : NGX_ERROR;
}


static void
ngx_commerce_resync_pushed(void *data, ngx_commerce_redis_status_t status,
    redisReply *reply)
{
    ngx_commerce_resync_t  *rs = &ngx_commerce_resync;

    if ((uintptr_t) data != rs->generation) {
        return;
    }

    if (status != NGX_COMMERCE_REDIS_OK) {
        rs->failed = 1;
    }

    if (--rs->outstanding) {
        return;
    }

    if (rs->failed) {
        ngx_commerce_resync_done(1);
        return;
    }

    ngx_commerce_resync_settle();
}


static void
ngx_commerce_resync_settle(void)
{
    ngx_commerce_backup_t  **backups;
    ngx_commerce_resync_t   *rs = &ngx_commerce_resync;

    backups = ngx_commerce_redis_pool.conf->backups.elts;
    rs->state = NGX_COMMERCE_RESYNC_SETTLING;

    if (ngx_commerce_resync_query(backups[rs->backup]->settled, &rs->settled,
                                  ngx_commerce_resync_settled)
        != NGX_OK)
    {
        ngx_commerce_resync_done(1);
    }
}


static void
ngx_commerce_resync_settled(ngx_commerce_pg_op_t *op,
    ngx_commerce_pg_status_t status, const PGresult *result)
{
    ngx_commerce_resync_t  *rs = &ngx_commerce_resync;

    if ((uintptr_t) op->data != rs->generation) {
        return;
    }

    if (status != NGX_COMMERCE_PG_OK) {
        ngx_log_error(NGX_LOG_WARN, ngx_cycle->log, 0,
                      "redis: marks of carts were not taken off: %s",
                      result ? PQresultErrorMessage(result)
                             : "PostgreSQL is away");
        ngx_commerce_resync_done(1);
        return;
    }

    rs->pushed++;

    if (!rs->more) {
        rs->backup++;
    }

    ngx_commerce_resync_next();
}


/*
 * The pass is over.  One that failed is no reason to stay away: without
 * PostgreSQL nobody else serves the carts.  It is tried again each second.
 */

static void
ngx_commerce_resync_done(ngx_uint_t failed)
{
    ngx_msec_t              delay;
    ngx_commerce_resync_t  *rs = &ngx_commerce_resync;

    rs->state = NGX_COMMERCE_RESYNC_IDLE;
    rs->generation++;
    rs->backup = 0;
    rs->waits = NGX_COMMERCE_RESYNC_WAITS;

    if (!ngx_commerce_redis_pool.synced) {
        ngx_commerce_redis_pool.synced = 1;
        ngx_commerce_redis_pool.shared->served = ngx_current_msec;

        ngx_log_error(NGX_LOG_NOTICE, ngx_cycle->log, 0,
                      "redis \"%V\": in use%s",
                      &ngx_commerce_redis_pool.conf->name,
                      failed ? ", carts that PostgreSQL served meanwhile will "
                               "follow" : "");

        ngx_commerce_redis_release();
    }

    if (failed) {
        delay = 1000;

    } else {
        rs->passes++;
        delay = (rs->passes == 1) ? 1000
                : (rs->passes == 2) ? 4000
                : (ngx_worker == 0) ? NGX_COMMERCE_RESYNC_PERIOD : 0;
    }

    if (delay && !ngx_exiting) {
        ngx_add_timer(&rs->timer, delay);
    }
}


static void
ngx_commerce_resync_timer(ngx_event_t *ev)
{
    ngx_commerce_resync_t  *rs = ev->data;

    if (ngx_exiting || rs->state != NGX_COMMERCE_RESYNC_IDLE
        || ngx_commerce_redis_ready() == 0)
    {
        return;
    }

    ngx_commerce_resync_next();
}
