/*
 * Lanes: a pipeline has head-of-line blocking, so quick reads, writes that may
 * wait for a lock and slow statements have connections of their own.
 */

#include "ngx_commerce_pg_internal.h"


#define NGX_COMMERCE_PG_DOWN_TICK  20


static void ngx_commerce_pg_lane_enqueue(ngx_commerce_pg_lane_state_t *lane,
    ngx_commerce_pg_task_t *task, ngx_uint_t first);
static void ngx_commerce_pg_lane_dequeue(ngx_commerce_pg_task_t *task);
static void ngx_commerce_pg_lane_arm(ngx_commerce_pg_lane_state_t *lane,
    ngx_msec_t when);
static void ngx_commerce_pg_lane_arm_down(
    ngx_commerce_pg_lane_state_t *lane);
static ngx_uint_t ngx_commerce_pg_lane_down(
    ngx_commerce_pg_lane_state_t *lane);
static ngx_commerce_pg_task_t *ngx_commerce_pg_lane_first(
    ngx_commerce_pg_lane_state_t *lane);
static void ngx_commerce_pg_lane_turn(ngx_event_t *ev);
static void ngx_commerce_pg_lane_dispatch(ngx_commerce_pg_lane_state_t *lane);
static ngx_commerce_pg_conn_t *ngx_commerce_pg_lane_pick(
    ngx_commerce_pg_lane_state_t *lane);
static void ngx_commerce_pg_lane_expire(ngx_event_t *ev);
static ngx_uint_t ngx_commerce_pg_lane_repeats(ngx_commerce_pg_conn_t *conn,
    ngx_commerce_pg_task_t *task);
static void ngx_commerce_pg_lane_again(ngx_commerce_pg_task_t *task);
static ngx_uint_t ngx_commerce_pg_lane_pure(ngx_commerce_pg_task_t *task);


ngx_commerce_pg_pool_t  ngx_commerce_pg_pool;


ngx_int_t
ngx_commerce_pg_pool_init(ngx_cycle_t *cycle,
    ngx_commerce_pg_main_conf_t *pmcf)
{
    ngx_uint_t                      i, n;
    ngx_commerce_pg_conn_t         *conn;
    ngx_commerce_pg_lane_state_t   *lane;
    ngx_commerce_breaker_shared_t  *breakers;

    breakers = pmcf->breakers->data;

    ngx_commerce_pg_pool.conf = pmcf;
    ngx_commerce_pg_pool.log = cycle->log;
    ngx_commerce_pg_pool.turn.handler = ngx_commerce_pg_lane_turn;
    ngx_commerce_pg_pool.turn.log = cycle->log;

    for (i = 0; i < NGX_COMMERCE_PG_LANES; i++) {
        lane = &ngx_commerce_pg_pool.lanes[i];

        lane->conf = &pmcf->lanes[i];
        lane->down_since = ngx_current_msec;

        for (n = 0; n < NGX_COMMERCE_PG_RANKS; n++) {
            ngx_queue_init(&lane->waiting[n]);
        }

        lane->breaker.shared = &breakers[i];
        lane->breaker.backend = "PostgreSQL lane";
        lane->breaker.name = lane->conf->lane;

        lane->timer.handler = ngx_commerce_pg_lane_expire;
        lane->timer.data = lane;
        lane->timer.log = cycle->log;
        lane->timer.cancelable = 1;

        lane->conns = ngx_pcalloc(cycle->pool, lane->conf->connections
                                               * sizeof(ngx_commerce_pg_conn_t));
        if (lane->conns == NULL) {
            return NGX_ERROR;
        }

        for (n = 0; n < lane->conf->connections; n++) {
            conn = &lane->conns[n];
            conn->number = n;

            conn->prepared = ngx_pcalloc(cycle->pool,
                                         pmcf->statements.nelts + 1);
            if (conn->prepared == NULL) {
                return NGX_ERROR;
            }

            ngx_commerce_pg_conn_init(conn, lane, cycle->log);
            ngx_commerce_pg_link_start(&conn->link, 0);
        }
    }

    return NGX_OK;
}


/* exit_process: no event will come any more, the handlers are only told. */

void
ngx_commerce_pg_pool_close(void)
{
    ngx_uint_t                     i, n;
    ngx_queue_t                   *q;
    ngx_commerce_pg_lane_state_t  *lane;
    ngx_commerce_pg_task_t        *task;

    for (i = 0; i < NGX_COMMERCE_PG_LANES; i++) {
        lane = &ngx_commerce_pg_pool.lanes[i];

        while ((task = ngx_commerce_pg_lane_first(lane)) != NULL) {

            ngx_commerce_pg_lane_dequeue(task);

            /* requests are not resumed in a worker that ends */
            task->op.handler = NULL;
            ngx_commerce_pg_task_done(task, NGX_COMMERCE_PG_UNAVAILABLE);
        }

        for (n = 0; n < lane->conf->connections; n++) {

            for (q = ngx_queue_head(&lane->conns[n].flight);
                 q != ngx_queue_sentinel(&lane->conns[n].flight);
                 q = ngx_queue_next(q))
            {
                ngx_commerce_pg_task(q)->op.handler = NULL;
            }

            ngx_commerce_pg_link_close(&lane->conns[n].link);
        }
    }

    ngx_commerce_pg_pool.conf = NULL;
}


ngx_int_t
ngx_commerce_pg_submit(ngx_commerce_pg_op_t *op)
{
    ngx_commerce_pg_task_t        *task;
    ngx_commerce_pg_lane_state_t  *lane;

    if (ngx_commerce_pg_pool.conf == NULL) {
        ngx_commerce_pg_free(op);
        return NGX_DECLINED;
    }

    lane = &ngx_commerce_pg_pool.lanes[op->lane];
    task = (ngx_commerce_pg_task_t *) op;

    if (ngx_commerce_pg_lane_down(lane)) {
        ngx_commerce_pg_free(op);
        return NGX_DECLINED;
    }

    if (ngx_commerce_pg_lane_sheds(lane, op->rank)) {
        ngx_commerce_pg_free(op);
        return NGX_BUSY;
    }

    if (ngx_commerce_pg_task_copy(task) != NGX_OK) {
        ngx_commerce_pg_free(op);
        return NGX_ERROR;
    }

    task->lane = lane;
    task->submitted = ngx_current_msec;
    task->deadline = task->submitted
                     + (op->timeout ? op->timeout : lane->conf->timeout);

    ngx_commerce_pg_lane_enqueue(lane, task, 0);
    ngx_commerce_pg_lane_wake();

    return NGX_OK;
}


void
ngx_commerce_pg_detach(ngx_commerce_pg_op_t *op)
{
    ngx_commerce_pg_task_t  *task;

    task = (ngx_commerce_pg_task_t *) op;

    op->handler = NULL;

    /* nobody waits for a read, so it is not worth sending */

    if (task->waiting && ngx_commerce_pg_lane_pure(task)) {
        ngx_commerce_pg_lane_dequeue(task);
        ngx_commerce_pg_free(op);
    }
}


static ngx_commerce_pg_task_t *
ngx_commerce_pg_lane_first(ngx_commerce_pg_lane_state_t *lane)
{
    ngx_uint_t  i;

    if (lane->queued == 0) {
        return NULL;
    }

    for (i = 0; ngx_queue_empty(&lane->waiting[i]); i++) { /* void */ }

    return ngx_commerce_pg_task(ngx_queue_head(&lane->waiting[i]));
}


const char *
ngx_commerce_pg_breaker(ngx_commerce_pg_lane_t which)
{
    return ngx_commerce_breaker_text(&ngx_commerce_pg_pool.lanes[which].breaker);
}


ngx_uint_t
ngx_commerce_pg_retry_after(ngx_commerce_pg_lane_t which)
{
    ngx_uint_t                     i;
    ngx_msec_int_t                 wait, pause;
    ngx_event_t                   *timer;
    ngx_commerce_pg_lane_state_t  *lane;

    if (ngx_commerce_pg_pool.conf == NULL) {
        return 5;
    }

    lane = &ngx_commerce_pg_pool.lanes[which];

    if (lane->ready) {
        return 1 + ngx_commerce_pg_lane_backlog(lane) * lane->pace / 1000000;
    }

    pause = 5000;

    for (i = 0; i < lane->conf->connections; i++) {
        timer = &lane->conns[i].link.timer;

        if (timer->timer_set) {
            wait = (ngx_msec_int_t) (timer->timer.key - ngx_current_msec);
            pause = ngx_min(pause, wait);
        }
    }

    return 1 + ((pause > 0) ? pause / 1000 : 0);
}


void
ngx_commerce_pg_lane_status(ngx_commerce_pg_lane_t which,
    ngx_commerce_pg_lane_status_t *status)
{
    ngx_commerce_pg_lane_state_t  *lane;

    ngx_memzero(status, sizeof(ngx_commerce_pg_lane_status_t));

    if (ngx_commerce_pg_pool.conf == NULL) {
        status->breaker_open = 1;
        return;
    }

    lane = &ngx_commerce_pg_pool.lanes[which];

    status->configured = lane->conf->connections;
    status->ready = lane->ready;
    status->queued = lane->queued;
    status->in_flight = lane->in_flight;
    status->breaker_open = ngx_commerce_pg_lane_down(lane);
}


static void
ngx_commerce_pg_lane_enqueue(ngx_commerce_pg_lane_state_t *lane,
    ngx_commerce_pg_task_t *task, ngx_uint_t first)
{
    if (first) {
        ngx_queue_insert_head(&lane->waiting[task->op.rank], &task->link);

    } else {
        ngx_queue_insert_tail(&lane->waiting[task->op.rank], &task->link);
    }

    task->waiting = 1;
    lane->ranked[task->op.rank]++;
    lane->queued++;

    /* a worker that leaves waits for what is queued, not for idle timers */
    lane->timer.cancelable = 0;

    ngx_commerce_pg_lane_arm(lane, task->deadline);

    if (lane->ready == 0) {
        ngx_commerce_pg_lane_arm_down(lane);
    }
}


static void
ngx_commerce_pg_lane_dequeue(ngx_commerce_pg_task_t *task)
{
    ngx_queue_remove(&task->link);

    task->waiting = 0;
    task->lane->ranked[task->op.rank]--;
    task->lane->queued--;
    task->lane->timer.cancelable = (task->lane->queued == 0);
}


/*
 * One timer per lane for the earliest deadline.  It stays when the operation
 * goes, so that a quick one costs no change of the timer tree.
 */

static void
ngx_commerce_pg_lane_arm(ngx_commerce_pg_lane_state_t *lane, ngx_msec_t when)
{
    ngx_msec_int_t  wait;

    if (lane->timer.timer_set) {

        if ((ngx_msec_int_t) (when - lane->timer.timer.key) >= 0) {
            return;
        }

        ngx_del_timer(&lane->timer);
    }

    wait = (ngx_msec_int_t) (when - ngx_current_msec);

    ngx_add_timer(&lane->timer, (wait > 0) ? wait : 1);
}


/*
 * The breaker: no connection serves, and has not for longer than "grace".  A
 * worker that has just begun waits for its first attempts too: on a busy
 * machine they take longer, and connect_timeout ends them.
 */

static ngx_uint_t
ngx_commerce_pg_lane_down(ngx_commerce_pg_lane_state_t *lane)
{
    ngx_uint_t               i;
    ngx_commerce_pg_link_t  *link;

    if (lane->ready == 0
        && ngx_commerce_breaker_state(&lane->breaker)
           != NGX_COMMERCE_BREAKER_CLOSED)
    {
        return 1;
    }

    if (lane->ready
        || ngx_current_msec - lane->down_since < lane->conf->grace)
    {
        return 0;
    }

    for (i = 0; i < lane->conf->connections; i++) {
        link = &lane->conns[i].link;

        if (link->failures == 0
            && (link->state == NGX_COMMERCE_PG_LINK_CONNECTING
                || link->state == NGX_COMMERCE_PG_LINK_UP))
        {
            return 0;
        }
    }

    return 1;
}


/* When to look again whether the breaker opened. */

static void
ngx_commerce_pg_lane_arm_down(ngx_commerce_pg_lane_state_t *lane)
{
    ngx_msec_t  when, soon;

    when = lane->down_since + lane->conf->grace;
    soon = ngx_current_msec + NGX_COMMERCE_PG_DOWN_TICK;

    ngx_commerce_pg_lane_arm(lane,
        ((ngx_msec_int_t) (when - soon) > 0) ? when : soon);
}


void
ngx_commerce_pg_lane_ready(ngx_commerce_pg_conn_t *conn)
{
    ngx_uint_t                     i;
    ngx_commerce_pg_lane_state_t  *lane;

    if (conn->timer.timer_set) {
        ngx_del_timer(&conn->timer);
    }

    ngx_commerce_pg_link_serves(&conn->link);

    lane = conn->lane;

    ngx_commerce_breaker_success(&lane->breaker);

    if (lane->ready++ == 0) {
        for (i = 0; i < lane->conf->connections; i++) {
            ngx_commerce_pg_link_hurry(&lane->conns[i].link);
        }
    }

    ngx_commerce_pg_lane_wake();
}


void
ngx_commerce_pg_lane_lost(ngx_commerce_pg_conn_t *conn)
{
    ngx_commerce_pg_lane_state_t  *lane;

    lane = conn->lane;

    if (--lane->ready == 0) {
        lane->down_since = ngx_current_msec;
        ngx_commerce_pg_lane_arm_down(lane);
    }
}


/* After "grace" without a connection, and unless other workers have one, nobody is to wait any more. */

void
ngx_commerce_pg_lane_failed(ngx_commerce_pg_link_t *link)
{
    ngx_commerce_pg_lane_state_t  *lane;

    lane = ((ngx_commerce_pg_conn_t *) link->data)->lane;

    if (lane->ready == 0
        && (ngx_current_msec - lane->down_since >= lane->conf->grace
            || ngx_commerce_breaker_state(&lane->breaker)
               != NGX_COMMERCE_BREAKER_CLOSED))
    {
        ngx_commerce_breaker_failure(&lane->breaker, lane->down_since);
    }
}


/*
 * Posted events run after all handlers of the turn, so requests that arrived
 * together share one Sync and one send().
 */

void
ngx_commerce_pg_lane_wake(void)
{
    ngx_post_event(&ngx_commerce_pg_pool.turn, &ngx_posted_events);
}


static void
ngx_commerce_pg_lane_turn(ngx_event_t *ev)
{
    ngx_uint_t  i;

    for (i = 0; i < NGX_COMMERCE_PG_LANES; i++) {
        ngx_commerce_pg_lane_dispatch(&ngx_commerce_pg_pool.lanes[i]);
    }
}


static void
ngx_commerce_pg_lane_dispatch(ngx_commerce_pg_lane_state_t *lane)
{
    ngx_uint_t               i;
    ngx_commerce_pg_conn_t  *conn;
    ngx_commerce_pg_task_t  *task;

    while ((task = ngx_commerce_pg_lane_first(lane)) != NULL) {

        conn = ngx_commerce_pg_lane_pick(lane);
        if (conn == NULL) {
            break;
        }

        ngx_commerce_pg_lane_dequeue(task);

        if (ngx_commerce_pg_conn_send(conn, task) == NGX_DECLINED) {
            ngx_commerce_pg_lane_enqueue(lane, task, 1);
        }
    }

    for (i = 0; i < lane->conf->connections; i++) {
        if (lane->conns[i].dirty) {
            ngx_commerce_pg_conn_finish(&lane->conns[i]);
        }
    }
}


static ngx_commerce_pg_conn_t *
ngx_commerce_pg_lane_pick(ngx_commerce_pg_lane_state_t *lane)
{
    ngx_uint_t               i;
    ngx_commerce_pg_conn_t  *conn, *best;

    best = NULL;

    for (i = 0; i < lane->conf->connections; i++) {
        conn = &lane->conns[i];

        if (!conn->ready || conn->retire
            || conn->in_flight >= lane->conf->depth)
        {
            continue;
        }

        if (best == NULL || conn->in_flight < best->in_flight) {
            best = conn;
        }
    }

    return best;
}


static void
ngx_commerce_pg_lane_expire(ngx_event_t *ev)
{
    ngx_uint_t                     i, down;
    ngx_queue_t                    late, *q, *next, *waiting;
    ngx_commerce_pg_task_t        *task;
    ngx_commerce_pg_lane_state_t  *lane;

    lane = ev->data;
    down = ngx_commerce_pg_lane_down(lane);

    /* handlers may submit and detach: they are called when the queue is at rest */

    ngx_queue_init(&late);

    for (i = 0; i < NGX_COMMERCE_PG_RANKS; i++) {
        waiting = &lane->waiting[i];

        for (q = ngx_queue_head(waiting);
             q != ngx_queue_sentinel(waiting);
             q = next)
        {
            next = ngx_queue_next(q);
            task = ngx_commerce_pg_task(q);

            if (down
                || (ngx_msec_int_t) (task->deadline - ngx_current_msec) <= 0)
            {
                ngx_commerce_pg_lane_dequeue(task);
                ngx_queue_insert_tail(&late, q);
                continue;
            }

            ngx_commerce_pg_lane_arm(lane, task->deadline);
        }
    }

    if (lane->queued && lane->ready == 0) {
        ngx_commerce_pg_lane_arm_down(lane);
    }

    while (!ngx_queue_empty(&late)) {
        q = ngx_queue_head(&late);
        ngx_queue_remove(q);

        ngx_commerce_pg_task_done(ngx_commerce_pg_task(q),
                                  down ? NGX_COMMERCE_PG_UNAVAILABLE
                                       : NGX_COMMERCE_PG_TIMEOUT);
    }
}


void
ngx_commerce_pg_lane_settle(ngx_commerce_pg_conn_t *conn,
    ngx_commerce_pg_task_t *task)
{
    ngx_commerce_breaker_success(&task->lane->breaker);
    ngx_commerce_pg_lane_measure(task->lane);

    if (task->lane->queued) {
        ngx_commerce_pg_lane_wake();
    }

    if (!task->failed && !task->aborted) {
        ngx_commerce_pg_committed(task->op.lane);
        ngx_commerce_pg_task_done(task, NGX_COMMERCE_PG_OK);
        return;
    }

    if (ngx_commerce_pg_lane_repeats(conn, task)) {
        ngx_commerce_pg_lane_again(task);
        return;
    }

    /* aborted by a neighbour: nothing happened */

    ngx_commerce_pg_task_done(task, task->failed ? NGX_COMMERCE_PG_FAILED
                                                 : NGX_COMMERCE_PG_TIMEOUT);
}


/* The transaction is rolled back: is it worth another attempt? */

static ngx_uint_t
ngx_commerce_pg_lane_repeats(ngx_commerce_pg_conn_t *conn,
    ngx_commerce_pg_task_t *task)
{
    const char              *state, *source;
    ngx_uint_t               again;
    ngx_commerce_pg_stmt_t  *stmt;

    again = task->aborted;

    if (task->failed) {
        stmt = task->steps[task->failed_step].stmt;
        state = PQresultErrorField(task->result, PG_DIAG_SQLSTATE);
        source = PQresultErrorField(task->result, PG_DIAG_SOURCE_FUNCTION);

        if (state == NULL) {
            return 0;
        }

        if (ngx_strcmp(state, "40001") == 0 || ngx_strcmp(state, "40P01") == 0)
        {
            again = 1;

        } else if (ngx_strcmp(state, "0A000") == 0
                   && source && ngx_strcmp(source, "RevalidateCachedQuery") == 0)
        {
            /* "cached plan must not change result type": the function was replaced */
            ngx_commerce_pg_pool_stale(stmt);
            again = 1;

        } else if (ngx_strcmp(state, "26000") == 0) {
            /* the server forgot it: DISCARD ALL, or a Prepare in front failed */
            conn->prepared[stmt->index] = NGX_COMMERCE_PG_STMT_MISSING;
            again = 1;

        } else if (ngx_strcmp(state, "42P05") == 0) {
            conn->prepared[stmt->index] = NGX_COMMERCE_PG_STMT_READY;
            again = 1;
        }
    }

    if (!again || task->expired
        || task->op.attempts >= NGX_COMMERCE_PG_ATTEMPTS
        || (ngx_msec_int_t) (task->deadline - ngx_current_msec) <= 0)
    {
        return 0;
    }

    return task->op.handler != NULL || !ngx_commerce_pg_lane_pure(task);
}


/* It has waited before, so it goes first; alone, so that no neighbour can abort it again. */

static void
ngx_commerce_pg_lane_again(ngx_commerce_pg_task_t *task)
{
    if (task->result) {
        PQclear(task->result);
        task->result = NULL;
    }

    task->alone = 1;
    task->sync = 0;
    task->failed = 0;
    task->aborted = 0;

    ngx_commerce_pg_lane_enqueue(task->lane, task, 1);
    ngx_commerce_pg_lane_wake();
}


/* Reads of the read lane change nothing, by contract: they may be dropped or sent twice. */

static ngx_uint_t
ngx_commerce_pg_lane_pure(ngx_commerce_pg_task_t *task)
{
    return task->op.lane == NGX_COMMERCE_PG_READ && !task->op.own_sync;
}


void
ngx_commerce_pg_lane_drop(ngx_commerce_pg_lane_state_t *lane,
    ngx_queue_t *flight)
{
    ngx_queue_t             *q;
    ngx_commerce_pg_task_t  *task;

    while (!ngx_queue_empty(flight)) {
        q = ngx_queue_head(flight);
        ngx_queue_remove(q);

        task = ngx_commerce_pg_task(q);

        /* once: what kills a connection must not go on to kill the next */

        if (ngx_commerce_pg_lane_pure(task) && task->op.handler
            && task->op.attempts == 1
            && !ngx_commerce_pg_lane_down(lane)
            && (ngx_msec_int_t) (task->deadline - ngx_current_msec) > 0)
        {
            ngx_commerce_pg_lane_again(task);
            continue;
        }

        ngx_commerce_pg_task_done(task, NGX_COMMERCE_PG_LOST);
    }
}


void
ngx_commerce_pg_pool_stale(ngx_commerce_pg_stmt_t *stmt)
{
    u_char                        *prepared;
    ngx_uint_t                     i, n;
    ngx_commerce_pg_lane_state_t  *lane;

    for (i = 0; i < NGX_COMMERCE_PG_LANES; i++) {
        lane = &ngx_commerce_pg_pool.lanes[i];

        for (n = 0; n < lane->conf->connections; n++) {
            prepared = &lane->conns[n].prepared[stmt->index];

            if (*prepared == NGX_COMMERCE_PG_STMT_READY) {
                *prepared = NGX_COMMERCE_PG_STMT_STALE;
            }
        }
    }
}


/*
 * Requests that are not finished yet may still need the lane, so one
 * connection stays until exit_process; without operations it does not keep the
 * worker.  When worker_shutdown_timeout came there is nobody left to answer.
 */

void
ngx_commerce_pg_lane_closing(ngx_commerce_pg_link_t *link)
{
    ngx_uint_t                     i, serving;
    ngx_commerce_pg_conn_t        *conn;
    ngx_commerce_pg_lane_state_t  *lane;

    conn = link->data;
    lane = conn->lane;

    if (link->watch.connection->error) {
        lane->down_since = ngx_current_msec - lane->conf->grace;
        ngx_commerce_pg_link_close(link);
        lane->down_since = ngx_current_msec - lane->conf->grace;
        ngx_commerce_pg_lane_arm(lane, ngx_current_msec);
        return;
    }

    serving = 0;

    for (i = 0; i < lane->conf->connections; i++) {
        serving += (lane->conns[i].ready && !lane->conns[i].retire);
    }

    if (!conn->ready || conn->retire || serving < 2) {
        return;
    }

    conn->retire = 1;

    if (conn->in_flight == 0) {
        ngx_commerce_pg_link_close(link);
    }
}
