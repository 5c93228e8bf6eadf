/*
 * Housekeeping: one worker calls api.maintain() now and then.  What is to be
 * done is SQL's business, and SQL sees to it that two nodes do not do it at once.
 */

#include "ngx_commerce_http.h"


#define NGX_COMMERCE_MAINTENANCE_FIRST  1000


static void ngx_commerce_maintenance_tick(ngx_event_t *ev);
static void ngx_commerce_maintenance_done(ngx_commerce_pg_op_t *op,
    ngx_commerce_pg_status_t status, const PGresult *result);


static ngx_str_t  ngx_commerce_maintenance_text =
    ngx_string("SELECT r.status, r.body FROM api.maintain() r");

static ngx_event_t  ngx_commerce_maintenance_timer;


ngx_int_t
ngx_commerce_maintenance_register(ngx_conf_t *cf,
    ngx_commerce_main_conf_t *mcf)
{
    if (mcf->maintenance == 0) {
        return NGX_OK;
    }

    mcf->maintain = ngx_commerce_pg_statement(cf,
                                              &ngx_commerce_maintenance_text,
                                              0);

    return mcf->maintain ? NGX_OK : NGX_ERROR;
}


void
ngx_commerce_maintenance_init(ngx_cycle_t *cycle)
{
    ngx_commerce_main_conf_t  *mcf;

    mcf = ngx_http_cycle_get_module_main_conf(cycle, ngx_http_commerce_module);

    if (mcf == NULL || mcf->maintain == NULL || ngx_worker != 0) {
        return;
    }

    ngx_memzero(&ngx_commerce_maintenance_timer, sizeof(ngx_event_t));

    ngx_commerce_maintenance_timer.handler = ngx_commerce_maintenance_tick;
    ngx_commerce_maintenance_timer.data = mcf;
    ngx_commerce_maintenance_timer.log = cycle->log;
    ngx_commerce_maintenance_timer.cancelable = 1;

    ngx_add_timer(&ngx_commerce_maintenance_timer,
                  NGX_COMMERCE_MAINTENANCE_FIRST);
}


static void
ngx_commerce_maintenance_tick(ngx_event_t *ev)
{
    ngx_commerce_pg_op_t      *op;
    ngx_commerce_main_conf_t  *mcf;

    mcf = ev->data;

    if (ngx_exiting || ngx_terminate) {
        return;
    }

    /* nodes that were started together part by up to an eighth */

    ngx_add_timer(ev, mcf->maintenance
                      + ngx_random() % (mcf->maintenance / 8 + 1));

    op = ngx_commerce_pg_alloc();
    if (op == NULL) {
        return;
    }

    op->lane = NGX_COMMERCE_PG_SLOW;
    op->query.stmt = mcf->maintain;
    op->handler = ngx_commerce_maintenance_done;

    /* busy or away: the next round will do */
    (void) ngx_commerce_pg_submit(op);
}


static void
ngx_commerce_maintenance_done(ngx_commerce_pg_op_t *op,
    ngx_commerce_pg_status_t status, const PGresult *result)
{
    const char  *state;

    if (status != NGX_COMMERCE_PG_FAILED) {
        return;
    }

    state = PQresultErrorField(result, PG_DIAG_SQLSTATE);

    ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                  "commerce: api.maintain() failed: SQLSTATE %s: %s",
                  state ? state : "?",
                  PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY));
}
