/*
 * Probes: a statement of no weight on each lane, once a second.
 *
 * A probe has the lane's own deadline, because what ends a statement early ends
 * its connection too.  What is judged is how long ago one came back: on the lane
 * for writes a probe may rightly stand behind others' locks, so that one is given longer.
 */

#include "ngx_commerce_health.h"


#define NGX_COMMERCE_HEALTH_INTERVAL  1000


typedef struct {
    ngx_commerce_pg_lane_t   lane;
    ngx_msec_t               patience;
    ngx_msec_t               answered;
    ngx_commerce_pg_op_t    *op;            /* under way */
    unsigned                 once:1;        /* answered is set */
} ngx_commerce_health_probe_t;


static void ngx_commerce_health_tick(ngx_event_t *ev);
static void ngx_commerce_health_ask(ngx_commerce_health_probe_t *probe);
static void ngx_commerce_health_answer(ngx_commerce_pg_op_t *op,
    ngx_commerce_pg_status_t status, const PGresult *result);


static ngx_str_t  ngx_commerce_health_text = ngx_string("SELECT 1");

static ngx_commerce_pg_stmt_t       *ngx_commerce_health_stmt;
static ngx_event_t                   ngx_commerce_health_timer;

static ngx_commerce_health_probe_t   ngx_commerce_health_probes[] = {
    { .lane = NGX_COMMERCE_PG_READ, .patience = 3000 },
    { .lane = NGX_COMMERCE_PG_WRITE, .patience = 8000 },
};

#define NGX_COMMERCE_HEALTH_PROBES                                            \
    (sizeof(ngx_commerce_health_probes) / sizeof(ngx_commerce_health_probe_t))


ngx_int_t
ngx_commerce_health_register(ngx_conf_t *cf)
{
    ngx_commerce_health_stmt =
                 ngx_commerce_pg_statement(cf, &ngx_commerce_health_text, 0);

    return ngx_commerce_health_stmt ? NGX_OK : NGX_ERROR;
}


void
ngx_commerce_health_init(ngx_cycle_t *cycle)
{
    ngx_uint_t  i;

    for (i = 0; i < NGX_COMMERCE_HEALTH_PROBES; i++) {
        ngx_commerce_health_probes[i].op = NULL;
        ngx_commerce_health_probes[i].once = 0;
    }

    ngx_memzero(&ngx_commerce_health_timer, sizeof(ngx_event_t));

    ngx_commerce_health_timer.handler = ngx_commerce_health_tick;
    ngx_commerce_health_timer.data = ngx_commerce_health_probes;
    ngx_commerce_health_timer.log = cycle->log;
    ngx_commerce_health_timer.cancelable = 1;

    /* at once, but after the other modules began */

    ngx_add_timer(&ngx_commerce_health_timer, 1);
}


ngx_uint_t
ngx_commerce_health_lane(ngx_commerce_pg_lane_t lane)
{
    ngx_uint_t                      i;
    ngx_commerce_health_probe_t    *probe;
    ngx_commerce_pg_lane_status_t   status;

    ngx_commerce_pg_lane_status(lane, &status);

    if (status.ready == 0 || status.breaker_open) {
        return 0;
    }

    for (i = 0; i < NGX_COMMERCE_HEALTH_PROBES; i++) {
        probe = &ngx_commerce_health_probes[i];

        if (probe->lane == lane) {
            return probe->once
                   && ngx_current_msec - probe->answered <= probe->patience;
        }
    }

    return 1;
}


static void
ngx_commerce_health_tick(ngx_event_t *ev)
{
    ngx_uint_t                      i, lanes, starting;
    ngx_commerce_health_probe_t    *probe;
    ngx_commerce_pg_lane_status_t   status;

    if (ngx_exiting || ngx_terminate || ngx_quit) {
        return;
    }

    lanes = 0;
    starting = 0;

    for (i = 0; i < NGX_COMMERCE_HEALTH_PROBES; i++) {
        probe = &ngx_commerce_health_probes[i];

        ngx_commerce_pg_lane_status(probe->lane, &status);

        if (status.configured == 0) {
            continue;
        }

        lanes++;

        if (probe->op == NULL && status.ready) {
            ngx_commerce_health_ask(probe);
        }

        starting |= !probe->once;
    }

    if (lanes == 0) {
        return;
    }

    /* a worker that just began is not called unready for a whole interval */

    ngx_add_timer(ev, starting ? NGX_COMMERCE_HEALTH_INTERVAL / 20
                               : NGX_COMMERCE_HEALTH_INTERVAL);
}


static void
ngx_commerce_health_ask(ngx_commerce_health_probe_t *probe)
{
    ngx_commerce_pg_op_t  *op;

    op = ngx_commerce_pg_alloc();
    if (op == NULL) {
        return;
    }

    op->lane = probe->lane;
    op->timeout = 0;
    op->query.stmt = ngx_commerce_health_stmt;
    op->query.values = NULL;
    op->handler = ngx_commerce_health_answer;
    op->data = probe;

    if (ngx_commerce_pg_submit(op) == NGX_OK) {
        probe->op = op;
    }
}


static void
ngx_commerce_health_answer(ngx_commerce_pg_op_t *op,
    ngx_commerce_pg_status_t status, const PGresult *result)
{
    ngx_commerce_health_probe_t  *probe;

    probe = op->data;
    probe->op = NULL;

    if (status == NGX_COMMERCE_PG_OK) {
        probe->answered = ngx_current_msec;
        probe->once = 1;
    }
}
