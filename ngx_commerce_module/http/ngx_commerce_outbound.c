/*
 * A step whose reply asks for a call to somebody outside: the request waits
 * for what comes of it, up to a time; then the reply that is committed already
 * is the answer, and the exchange goes on without it.
 */

#include "ngx_commerce_http.h"


typedef struct {
    ngx_commerce_request_t   *c;
    ngx_commerce_exchange_t  *x;
    ngx_event_t               timer;
    ngx_commerce_reply_t      committed;
    ngx_msec_t                since;
} ngx_commerce_outbound_t;


static ngx_int_t ngx_commerce_outbound_wait(ngx_commerce_request_t *c,
    const ngx_str_t *context, ngx_commerce_json_t *spec, ngx_uint_t mail);
static void ngx_commerce_outbound_told(void *data,
    ngx_commerce_pg_status_t status, const PGresult *result, ngx_uint_t more);
static ngx_uint_t ngx_commerce_outbound_decides(
    ngx_commerce_pg_status_t status, const PGresult *result);
static void ngx_commerce_outbound_overdue(ngx_event_t *ev);
static void ngx_commerce_outbound_done(ngx_commerce_outbound_t *o);
static void ngx_commerce_outbound_cancel(void *data);


ngx_int_t
ngx_commerce_outbound_start(ngx_commerce_request_t *c, ngx_uint_t keep)
{
    ngx_int_t             rc;
    ngx_str_t            *context, text;
    ngx_uint_t            mail;
    ngx_commerce_json_t  *root, *list;

    /* most instructions are tags and pages: those are not read twice */

    text = c->step.edge;

    if (ngx_strlcasestrn(text.data, text.data + text.len,
                         (u_char *) "\"fetch\"", 7 - 1) == NULL
        && ngx_strlcasestrn(text.data, text.data + text.len,
                            (u_char *) "\"mail\"", 6 - 1) == NULL)
    {
        return NGX_OK;
    }

    root = ngx_commerce_fetch_json(c->request->pool, &text);

    if (root == NULL
        || ngx_commerce_call_context(c, keep, &context) != NGX_OK)
    {
        /* ngx_commerce_reply_edge() complains */
        return NGX_OK;
    }

    rc = NGX_OK;

    for (mail = 0; mail < 2; mail++) {
        list = ngx_commerce_json_get(root, mail ? "mail" : "fetch");

        if (list == NULL || list->type == NGX_COMMERCE_JSON_NULL) {
            continue;
        }

        if (list->type == NGX_COMMERCE_JSON_OBJECT && rc == NGX_OK) {
            rc = ngx_commerce_outbound_wait(c, context, list, mail);

        } else {
            (void) ngx_commerce_exchange_all(context, list, mail, NULL, NULL);
        }
    }

    return rc;
}


static ngx_int_t
ngx_commerce_outbound_wait(ngx_commerce_request_t *c,
    const ngx_str_t *context, ngx_commerce_json_t *spec, ngx_uint_t mail)
{
    ngx_msec_t                wait;
    ngx_commerce_json_t      *member;
    ngx_commerce_outbound_t  *o;

    wait = c->conf->fetch_wait;
    member = ngx_commerce_json_get(spec, "wait_ms");

    if (member && member->type == NGX_COMMERCE_JSON_NUMBER && member->integer
        && member->number >= 0)
    {
        wait = ngx_min((ngx_msec_t) member->number, wait);
    }

    o = ngx_pcalloc(c->request->pool, sizeof(ngx_commerce_outbound_t));
    if (o == NULL || wait == 0) {
        (void) ngx_commerce_exchange_start(context, spec, mail, NULL, NULL,
                                           NULL);
        return NGX_OK;
    }

    o->c = c;
    o->since = ngx_current_msec;

    if (ngx_commerce_exchange_start(context, spec, mail,
                                    ngx_commerce_outbound_told, o, &o->x)
        != NGX_OK)
    {
        return NGX_OK;
    }

    /* what is void now is void now, whatever the call brings */

    (void) ngx_commerce_reply_edge(c, &c->step);
    o->committed = c->step;

    o->timer.handler = ngx_commerce_outbound_overdue;
    o->timer.data = o;
    o->timer.log = ngx_cycle->log;
    ngx_add_timer(&o->timer, wait);

    c->cancel = ngx_commerce_outbound_cancel;
    c->cancel_data = o;

    return NGX_AGAIN;
}


static void
ngx_commerce_outbound_told(void *data, ngx_commerce_pg_status_t status,
    const PGresult *result, ngx_uint_t more)
{
    ngx_commerce_outbound_t *o = data;

    ngx_http_request_t      *r;
    ngx_commerce_request_t  *c;

    c = o->c;
    r = c->request;

    ngx_http_set_log_request(r->connection->log, r);

    if (!more) {
        o->x = NULL;
    }

    if (result && ngx_commerce_outbound_decides(status, result)) {

        if (ngx_commerce_call_result(c, status, result) == NGX_OK && more) {
            (void) ngx_commerce_reply_edge(c, &c->step);
            o->committed = c->step;
        }

    } else {

        /* nobody could be told: what is committed says that it is pending */
        c->step = o->committed;
    }

    if (!more) {
        ngx_commerce_outbound_done(o);
    }
}


/* A function's own fault does not unmake what was committed before. */

static ngx_uint_t
ngx_commerce_outbound_decides(ngx_commerce_pg_status_t status,
    const PGresult *result)
{
    const char  *state;

    if (status == NGX_COMMERCE_PG_OK) {
        return 1;
    }

    if (status != NGX_COMMERCE_PG_FAILED) {
        return 0;
    }

    state = PQresultErrorField(result, PG_DIAG_SQLSTATE);

    return state && state[0] == 'S' && state[1] == 'H';
}


static void
ngx_commerce_outbound_overdue(ngx_event_t *ev)
{
    ngx_commerce_outbound_t  *o;

    o = ev->data;

    ngx_commerce_exchange_detach(o->x);
    o->x = NULL;

    o->c->step = o->committed;

    ngx_commerce_outbound_done(o);
}


static void
ngx_commerce_outbound_done(ngx_commerce_outbound_t *o)
{
    if (o->timer.timer_set) {
        ngx_del_timer(&o->timer);
    }

    ngx_commerce_step_done(o->c);
}


/* The request ends before: the exchange does not. */

static void
ngx_commerce_outbound_cancel(void *data)
{
    ngx_commerce_outbound_t *o = data;

    if (o->timer.timer_set) {
        ngx_del_timer(&o->timer);
    }

    if (o->x) {
        ngx_commerce_exchange_detach(o->x);
        o->x = NULL;
    }
}
