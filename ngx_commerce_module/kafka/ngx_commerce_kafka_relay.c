/*
 * The relay: unsent rows of the outbox to Kafka, at least once and in order
 * for each key.
 *
 * Who relays: one worker of a node (a record in shared memory), and of each
 * shard one node (a lease in PostgreSQL).  A shard is in the common lane, or in
 * one of four when it has much to send; a lane has one batch under way: claimed,
 * produced, acknowledged, and marked in the statement that claims the next one.
 * What is not marked is claimed again, by whomever.
 */

#include "ngx_commerce_kafka_relay.h"

#include <signal.h>


#define NGX_COMMERCE_KAFKA_POLLS    4           /* after so many the lanes look without being told */
#define NGX_COMMERCE_KAFKA_DRAIN    3000        /* ms that a worker which leaves waits for the brokers */
#define NGX_COMMERCE_KAFKA_GOODBYE  1000        /* and for PostgreSQL, when the brokers did not answer */


static void ngx_commerce_kafka_relay_committed(void);
static void ngx_commerce_kafka_relay_woken(ngx_commerce_watch_t *w);
static void ngx_commerce_kafka_relay_closing(ngx_commerce_watch_t *w);
static void ngx_commerce_kafka_relay_tick(ngx_event_t *ev);
static ngx_uint_t ngx_commerce_kafka_relay_own(void);
static void ngx_commerce_kafka_relay_leave(void);
static void ngx_commerce_kafka_relay_goodbye(void);
static void ngx_commerce_kafka_relay_left(ngx_commerce_pg_op_t *op,
    ngx_commerce_pg_status_t status, const PGresult *result);
static void ngx_commerce_kafka_relay_done(void);
static void ngx_commerce_kafka_relay_lease(void);
static void ngx_commerce_kafka_relay_leased(ngx_commerce_pg_op_t *op,
    ngx_commerce_pg_status_t status, const PGresult *result);


ngx_commerce_kafka_relay_t  ngx_commerce_kafka_relay;


void
ngx_commerce_kafka_relay_init(ngx_cycle_t *cycle)
{
    ngx_uint_t                   i;
    ngx_commerce_kafka_relay_t  *relay;

    relay = &ngx_commerce_kafka_relay;

    if (!ngx_commerce_kafka_conf->relay) {
        return;
    }

    ngx_commerce_pg_on_commit(ngx_commerce_kafka_relay_committed);

    /* a respawned worker has the slot of the one that it replaces */

    if (ngx_process == NGX_PROCESS_WORKER && ngx_worker != 0) {
        return;
    }

    for (i = 0; i < NGX_COMMERCE_KAFKA_LANES; i++) {
        relay->lanes[i].number = i;
    }

    relay->topics_wait = 1000;

    relay->producer.what = "relay";
    relay->producer.handler = ngx_commerce_kafka_producer_event;
    relay->producer.fd = -1;

    relay->wake.readable = ngx_commerce_kafka_relay_woken;
    relay->wake.closing = ngx_commerce_kafka_relay_closing;

    if (ngx_commerce_watch_open(&relay->wake, ngx_commerce_kafka_wake_fd,
                                cycle->log)
        != NGX_OK)
    {
        return;
    }

    relay->timer.handler = ngx_commerce_kafka_relay_tick;
    relay->timer.data = relay;
    relay->timer.log = cycle->log;
    relay->timer.cancelable = 1;

    ngx_add_timer(&relay->timer, 1);
}


void
ngx_commerce_kafka_relay_status(ngx_commerce_kafka_status_t *status)
{
    status->producer_ready = !ngx_commerce_kafka_conf->relay
                             || ngx_commerce_kafka_shared->connected;
}


/* Tells the worker that relays, whichever it is; a system call only when nobody has told yet. */

static void
ngx_commerce_kafka_relay_committed(void)
{
    uint64_t  one;

    one = 1;

    if (ngx_atomic_cmp_set(&ngx_commerce_kafka_shared->woken, 0, 1)) {
        (void) !write(ngx_commerce_kafka_wake_fd, &one, sizeof(one));
    }
}


static void
ngx_commerce_kafka_relay_woken(ngx_commerce_watch_t *w)
{
    uint64_t  n;

    (void) !read(ngx_commerce_kafka_wake_fd, &n, sizeof(n));

    ngx_commerce_kafka_relay_again();
    ngx_commerce_kafka_lanes_run();
}


void
ngx_commerce_kafka_relay_again(void)
{
    ngx_uint_t  i;

    for (i = 0; i < NGX_COMMERCE_KAFKA_LANES; i++) {
        ngx_commerce_kafka_relay.lanes[i].again = 1;
    }
}


/* QUIT: no further claims; or there is no time left. */

static void
ngx_commerce_kafka_relay_closing(ngx_commerce_watch_t *w)
{
    ngx_commerce_kafka_relay_t  *relay;

    relay = &ngx_commerce_kafka_relay;

    if (w->connection->error) {
        ngx_commerce_kafka_relay_done();
        return;
    }

    if (relay->leaving) {
        return;
    }

    relay->leaving = 1;
    relay->leave_by = ngx_current_msec + NGX_COMMERCE_KAFKA_DRAIN;

    if (!relay->owner) {
        ngx_commerce_kafka_relay_done();
        return;
    }

    (void) ngx_commerce_watch_set(&relay->wake, 0, 0);

    /* from here on the timer keeps the worker, until what is under way has ended */

    relay->timer.cancelable = 0;
    ngx_add_timer(&relay->timer, 1);
}


static void
ngx_commerce_kafka_relay_tick(ngx_event_t *ev)
{
    ngx_commerce_kafka_relay_t  *relay;

    relay = ev->data;

    if (relay->leaving) {
        ngx_commerce_kafka_relay_leave();
        return;
    }

    ngx_add_timer(ev, ngx_commerce_kafka_conf->poll);

    if (!ngx_commerce_kafka_relay_own()) {
        return;
    }

    ngx_commerce_kafka_shared->connected = relay->producer.brokers_up;

    if (!relay->leasing
        && (ngx_msec_int_t) (ngx_current_msec - relay->lease_next) >= 0)
    {
        ngx_commerce_kafka_relay_lease();
    }

    /* a node that was away for so long may find others in its place: nothing of its queue may leave any more */

    if (relay->held
        && (ngx_msec_int_t) (ngx_current_msec - relay->lease_until) >= 0)
    {
        relay->held = 0;
        ngx_commerce_kafka_shared->shards = 0;
        ngx_commerce_kafka_producer_rebuild("its leases are over");
        return;
    }

    /* events that other nodes wrote: nobody tells of these */

    if (ngx_commerce_kafka_producer_ready()
        && ++relay->turn >= NGX_COMMERCE_KAFKA_POLLS)
    {
        relay->turn = 0;
        ngx_commerce_kafka_relay_again();
    }

    ngx_commerce_kafka_lanes_run();
}


/* One worker of the node relays: after a reload the next one when the last one has drained, after a crash at once. */

static ngx_uint_t
ngx_commerce_kafka_relay_own(void)
{
    ngx_msec_int_t               silence;
    ngx_atomic_uint_t            pid;
    ngx_commerce_kafka_relay_t  *relay;

    relay = &ngx_commerce_kafka_relay;

    if (relay->owner) {

        if (ngx_commerce_kafka_shared->relay == (ngx_atomic_uint_t) ngx_pid) {
            ngx_commerce_kafka_shared->beat = ngx_current_msec;
            return 1;
        }

        /* it stood still for so long that its place was taken */

        relay->owner = 0;
        relay->held = 0;
        (void) ngx_commerce_watch_set(&relay->wake, 0, 0);
        ngx_commerce_kafka_producer_rebuild("another worker relays");
        return 0;
    }

    pid = ngx_commerce_kafka_shared->relay;
    silence = ngx_current_msec - ngx_commerce_kafka_shared->beat;

    /* the number may be another process's by now: that one does not relay */

    if (pid != 0 && kill((ngx_pid_t) pid, 0) == 0
        && silence < (ngx_msec_int_t) (3 * ngx_commerce_kafka_conf->lease))
    {
        return 0;
    }

    if (!ngx_atomic_cmp_set(&ngx_commerce_kafka_shared->relay, pid, ngx_pid)) {
        return 0;
    }

    ngx_commerce_kafka_shared->beat = ngx_current_msec;
    relay->owner = 1;
    relay->lease_next = ngx_current_msec;

    (void) ngx_commerce_watch_set(&relay->wake, 1, 0);

    return 1;
}


/* What is under way ends, is marked, and the leases are given back: the next one begins at once. */

static void
ngx_commerce_kafka_relay_leave(void)
{
    ngx_uint_t                   i, busy, overdue;
    ngx_commerce_kafka_lane_t   *lane;
    ngx_commerce_kafka_relay_t  *relay;

    relay = &ngx_commerce_kafka_relay;

    busy = 0;

    if ((ngx_msec_int_t) (ngx_current_msec - relay->leave_by) >= 0) {

        if (relay->left || relay->producer.rk == NULL) {
            ngx_commerce_kafka_relay_done();
            return;
        }

        /* the brokers do not answer: what they have not acknowledged is another one's to send */

        ngx_commerce_kafka_client_close(&relay->producer);
        relay->leave_by = ngx_current_msec + NGX_COMMERCE_KAFKA_GOODBYE;
        overdue = 1;

    } else {
        overdue = relay->producer.rk == NULL;
        busy = relay->leasing;
    }

    ngx_add_timer(&relay->timer, 20);

    for (i = 0; i < NGX_COMMERCE_KAFKA_LANES && !overdue; i++) {
        lane = &relay->lanes[i];

        if (lane->state == NGX_COMMERCE_KAFKA_IDLE && lane->sent_n) {
            ngx_commerce_kafka_lane_claim(lane, 0);
        }

        busy |= lane->state != NGX_COMMERCE_KAFKA_IDLE || lane->sent_n != 0;
    }

    if (!busy && !relay->left) {
        ngx_commerce_kafka_relay_goodbye();
    }
}


/* The leases go back. */

static void
ngx_commerce_kafka_relay_goodbye(void)
{
    ngx_str_t              value;
    ngx_commerce_pg_op_t  *op;

    ngx_commerce_kafka_relay.left = 1;

    value.data = ngx_commerce_kafka_shared->node;
    value.len = sizeof(ngx_commerce_kafka_shared->node);

    op = ngx_commerce_pg_alloc();

    if (op == NULL) {
        ngx_commerce_kafka_relay_done();
        return;
    }

    op->lane = NGX_COMMERCE_PG_EVENTS;
    op->rank = NGX_COMMERCE_PG_VITAL;
    op->query.stmt = ngx_commerce_kafka_conf->leave_stmt;
    op->query.values = &value;
    op->handler = ngx_commerce_kafka_relay_left;

    if (ngx_commerce_pg_submit(op) != NGX_OK) {
        ngx_commerce_kafka_relay_done();
    }
}


static void
ngx_commerce_kafka_relay_left(ngx_commerce_pg_op_t *op,
    ngx_commerce_pg_status_t status, const PGresult *result)
{
    ngx_commerce_kafka_relay_done();
}


static void
ngx_commerce_kafka_relay_done(void)
{
    ngx_commerce_kafka_relay_t  *relay;

    relay = &ngx_commerce_kafka_relay;

    if (relay->timer.timer_set) {
        ngx_del_timer(&relay->timer);
    }

    ngx_commerce_kafka_client_close(&relay->producer);
    ngx_commerce_watch_close(&relay->wake);

    relay->leaving = 1;
    relay->held = 0;

    if (relay->owner) {
        relay->owner = 0;
        ngx_commerce_kafka_shared->shards = 0;
        (void) ngx_atomic_cmp_set(&ngx_commerce_kafka_shared->relay, ngx_pid,
                                  0);
    }
}


void
ngx_commerce_kafka_relay_exit(void)
{
    ngx_commerce_kafka_relay_done();
}


static void
ngx_commerce_kafka_relay_lease(void)
{
    u_char                       keep[3 * NGX_COMMERCE_KAFKA_SHARDS + 2];
    u_char                       ms[NGX_INT_T_LEN];
    uint32_t                     kept, lanes;
    ngx_str_t                    values[3];
    ngx_uint_t                   i;
    ngx_commerce_pg_op_t        *op;
    ngx_commerce_kafka_relay_t  *relay;

    relay = &ngx_commerce_kafka_relay;

    /* a shard goes when no batch with its events is under way */

    lanes = 0;

    for (i = 0; i < NGX_COMMERCE_KAFKA_LANES; i++) {
        lanes |= ngx_commerce_kafka_lane_busy(&relay->lanes[i]);
    }

    kept = relay->held & ~(relay->yielding & ~lanes);

    values[0].data = ngx_commerce_kafka_shared->node;
    values[0].len = sizeof(ngx_commerce_kafka_shared->node);
    values[1].data = keep;
    values[1].len = ngx_commerce_kafka_shards_text(keep, kept) - keep;
    values[2].data = ms;
    values[2].len = ngx_sprintf(ms, "%M", ngx_commerce_kafka_conf->lease) - ms;

    op = ngx_commerce_pg_alloc();
    if (op == NULL) {
        return;
    }

    op->lane = NGX_COMMERCE_PG_EVENTS;
    op->rank = NGX_COMMERCE_PG_VITAL;
    op->query.stmt = ngx_commerce_kafka_conf->lease_stmt;
    op->query.values = values;
    op->handler = ngx_commerce_kafka_relay_leased;

    if (ngx_commerce_pg_submit(op) == NGX_OK) {
        relay->held = kept;
        relay->leasing = 1;
        relay->lease_asked = ngx_current_msec;
    }
}


static void
ngx_commerce_kafka_relay_leased(ngx_commerce_pg_op_t *op,
    ngx_commerce_pg_status_t status, const PGresult *result)
{
    uint32_t                     shards;
    ngx_int_t                    share;
    ngx_uint_t                   i, n;
    ngx_commerce_kafka_relay_t  *relay;

    relay = &ngx_commerce_kafka_relay;
    relay->leasing = 0;

    if (status != NGX_COMMERCE_PG_OK || PQntuples(result) != 1) {

        if (status == NGX_COMMERCE_PG_FAILED) {
            ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                          "Kafka's relay: api.relay_lease() failed: %s",
                          PQresultErrorField(result,
                                             PG_DIAG_MESSAGE_PRIMARY));
        }

        relay->lease_next = ngx_current_msec + 500;
        return;
    }

    relay->lease_next = relay->lease_asked
                        + ngx_commerce_kafka_conf->lease / 5;
    relay->lease_until = relay->lease_asked + ngx_commerce_kafka_conf->lease;

    shards = PQgetisnull(result, 0, 0)
             ? 0 : ngx_commerce_kafka_shards_read(PQgetvalue(result, 0,
                                                                   0));
    share = ngx_atoi((u_char *) PQgetvalue(result, 0, 1),
                     PQgetlength(result, 0, 1));

    if (relay->held & ~shards) {
        ngx_commerce_kafka_producer_rebuild("another node has taken its shards");
    }

    relay->held = shards;
    relay->yielding = 0;

    for (i = 0, n = 0; i < NGX_COMMERCE_KAFKA_SHARDS; i++) {
        if ((shards & (1u << i)) && (ngx_int_t) ++n > share) {
            relay->yielding |= 1u << i;
        }
    }

    if (relay->yielding) {
        relay->lease_next = ngx_current_msec + 100;
    }

    ngx_commerce_kafka_shared->shards = n;

    ngx_commerce_kafka_lanes_run();
}
