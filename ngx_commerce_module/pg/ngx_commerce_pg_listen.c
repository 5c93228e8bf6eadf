/*
 * LISTEN: a connection of its own to the primary, outside pipeline mode, in
 * one worker.
 *
 * Notifications are missed while it is away, so after each connect the
 * handlers hear an empty channel: everything may have changed.
 */

#include "ngx_commerce_pg_internal.h"


#define NGX_COMMERCE_PG_LISTENERS  16


typedef struct {
    const char                 *channel;
    ngx_commerce_pg_notify_pt   handler;
} ngx_commerce_pg_listener_t;


static void ngx_commerce_pg_listen_begin(ngx_event_t *ev);
static void ngx_commerce_pg_listen_up(ngx_commerce_pg_link_t *link);
static void ngx_commerce_pg_listen_input(ngx_commerce_pg_link_t *link);
static ngx_int_t ngx_commerce_pg_listen_result(ngx_commerce_pg_link_t *link);
static void ngx_commerce_pg_listen_deadline(ngx_event_t *ev);
static void ngx_commerce_pg_listen_closing(ngx_commerce_pg_link_t *link);
static void ngx_commerce_pg_listen_left(ngx_event_t *ev);
static void ngx_commerce_pg_listen_down(ngx_commerce_pg_link_t *link);
static void ngx_commerce_pg_listen_tell(ngx_str_t *channel,
    ngx_str_t *payload);


/* static, so that modules may register before this one's init_process ran */

static ngx_commerce_pg_listener_t
    ngx_commerce_pg_listeners[NGX_COMMERCE_PG_LISTENERS];
static ngx_uint_t              ngx_commerce_pg_listeners_count;

static ngx_commerce_pg_link_t  ngx_commerce_pg_listen_link;
static ngx_event_t             ngx_commerce_pg_listen_timer;
static ngx_uint_t              ngx_commerce_pg_listen_pending;

/* how long a worker that leaves goes on listening for its successor */

static ngx_msec_t              ngx_commerce_pg_listen_lingers;
static ngx_event_t             ngx_commerce_pg_listen_linger_timer;


void
ngx_commerce_pg_on_notify(const char *channel,
    ngx_commerce_pg_notify_pt handler)
{
    ngx_uint_t                   n;
    ngx_commerce_pg_listener_t  *listener;

    n = ngx_commerce_pg_listeners_count;

    if (n == NGX_COMMERCE_PG_LISTENERS) {
        ngx_log_error(NGX_LOG_ALERT, ngx_cycle->log, 0,
                      "too many LISTEN handlers, raise "
                      "NGX_COMMERCE_PG_LISTENERS");
        return;
    }

    listener = &ngx_commerce_pg_listeners[n];

    listener->channel = channel;
    listener->handler = handler;

    ngx_commerce_pg_listeners_count++;
}


void
ngx_commerce_pg_listen_linger(ngx_msec_t delay)
{
    ngx_commerce_pg_listen_lingers = delay;

    /* not from here: a handler of this connection may be the caller */

    if (delay == 0 && ngx_commerce_pg_listen_linger_timer.timer_set) {
        ngx_add_timer(&ngx_commerce_pg_listen_linger_timer, 1);
    }
}


void
ngx_commerce_pg_listen_init(ngx_commerce_pg_main_conf_t *pmcf, ngx_log_t *log)
{
    ngx_commerce_pg_link_t  *link;

    link = &ngx_commerce_pg_listen_link;

    ngx_commerce_pg_link_init(link, &pmcf->lanes[NGX_COMMERCE_PG_WRITE],
                              "listen", log);

    link->up = ngx_commerce_pg_listen_up;
    link->input = ngx_commerce_pg_listen_input;
    link->down = ngx_commerce_pg_listen_down;
    link->closing = ngx_commerce_pg_listen_closing;

    /* first when every module's init_process ran and registered */

    ngx_commerce_pg_listen_timer.handler = ngx_commerce_pg_listen_begin;
    ngx_commerce_pg_listen_timer.log = log;
    ngx_commerce_pg_listen_timer.cancelable = 1;

    ngx_add_timer(&ngx_commerce_pg_listen_timer, 1);
}


void
ngx_commerce_pg_listen_close(void)
{
    if (ngx_commerce_pg_listen_timer.timer_set) {
        ngx_del_timer(&ngx_commerce_pg_listen_timer);
    }

    if (ngx_commerce_pg_listen_linger_timer.timer_set) {
        ngx_del_timer(&ngx_commerce_pg_listen_linger_timer);
    }

    ngx_commerce_pg_link_close(&ngx_commerce_pg_listen_link);
}


static void
ngx_commerce_pg_listen_begin(ngx_event_t *ev)
{
    if (ngx_commerce_pg_listeners_count == 0 || ngx_exiting) {
        return;
    }

    /* from now on: the answer to LISTEN is overdue */
    ev->handler = ngx_commerce_pg_listen_deadline;

    ngx_commerce_pg_link_start(&ngx_commerce_pg_listen_link, 0);
}


static void
ngx_commerce_pg_listen_up(ngx_commerce_pg_link_t *link)
{
    int          rc;
    char        *name;
    u_char      *p, *last, text[NGX_COMMERCE_PG_LISTENERS * 80];
    ngx_uint_t   i;
    const char  *channel;

    p = text;
    last = text + sizeof(text) - 1;

    for (i = 0; i < ngx_commerce_pg_listeners_count; i++) {
        channel = ngx_commerce_pg_listeners[i].channel;

        name = PQescapeIdentifier(link->pg, channel, ngx_strlen(channel));
        if (name == NULL) {
            ngx_commerce_pg_link_fail(link, PQerrorMessage(link->pg));
            return;
        }

        p = ngx_slprintf(p, last, "LISTEN %s;", name);
        PQfreemem(name);
    }

    *p = '\0';

    rc = PQsendQuery(link->pg, (char *) text);
    if (rc == 0) {
        ngx_commerce_pg_link_fail(link, PQerrorMessage(link->pg));
        return;
    }

    ngx_commerce_pg_listen_pending = 1;
    ngx_add_timer(&ngx_commerce_pg_listen_timer, link->conf->connect_timeout);

    ngx_commerce_pg_link_flush(link);
}


static void
ngx_commerce_pg_listen_input(ngx_commerce_pg_link_t *link)
{
    ngx_int_t   rc;
    PGnotify   *notify;
    ngx_str_t   channel, payload;

    rc = ngx_commerce_pg_link_consume(link);

    if (ngx_commerce_pg_listen_pending
        && ngx_commerce_pg_listen_result(link) != NGX_OK)
    {
        return;
    }

    for ( ;; ) {
        notify = PQnotifies(link->pg);
        if (notify == NULL) {
            break;
        }

        channel.data = (u_char *) notify->relname;
        channel.len = ngx_strlen(notify->relname);
        payload.data = (u_char *) notify->extra;
        payload.len = ngx_strlen(notify->extra);

        ngx_commerce_pg_listen_tell(&channel, &payload);

        PQfreemem(notify);
    }

    if (rc != NGX_OK || PQstatus(link->pg) == CONNECTION_BAD) {
        ngx_commerce_pg_link_fail(link, PQerrorMessage(link->pg));
        return;
    }

    if (link->watch.writing) {
        ngx_commerce_pg_link_flush(link);
    }
}


/* NGX_ERROR: the link failed. */

static ngx_int_t
ngx_commerce_pg_listen_result(ngx_commerce_pg_link_t *link)
{
    PGresult        *result;
    ngx_str_t        nothing;
    ExecStatusType   status;

    while (!PQisBusy(link->pg)) {

        result = PQgetResult(link->pg);

        if (result) {
            status = PQresultStatus(result);
            PQclear(result);

            if (status != PGRES_COMMAND_OK) {
                ngx_commerce_pg_link_fail(link, PQerrorMessage(link->pg));
                return NGX_ERROR;
            }

            continue;
        }

        ngx_commerce_pg_listen_pending = 0;
        ngx_del_timer(&ngx_commerce_pg_listen_timer);

        ngx_commerce_pg_link_serves(link);

        ngx_str_null(&nothing);
        ngx_commerce_pg_listen_tell(&nothing, &nothing);

        break;
    }

    return NGX_OK;
}


static void
ngx_commerce_pg_listen_deadline(ngx_event_t *ev)
{
    ngx_commerce_pg_link_fail(&ngx_commerce_pg_listen_link,
                              "LISTEN was not answered within "
                              "connect_timeout");
}


/*
 * After a reload: notices are still heard here until the new worker listens.
 * The timer holds the worker, so it is short and not cancelable.
 */

static void
ngx_commerce_pg_listen_closing(ngx_commerce_pg_link_t *link)
{
    ngx_event_t  *ev;

    ev = &ngx_commerce_pg_listen_linger_timer;

    if (!ngx_exiting || ev->timer_set || ngx_commerce_pg_listen_lingers == 0
        || link->state != NGX_COMMERCE_PG_LINK_UP)
    {
        ngx_commerce_pg_listen_close();
        return;
    }

    ev->handler = ngx_commerce_pg_listen_left;
    ev->data = link;
    ev->log = ngx_commerce_pg_listen_timer.log;

    ngx_add_timer(ev, ngx_commerce_pg_listen_lingers);
}


static void
ngx_commerce_pg_listen_left(ngx_event_t *ev)
{
    ngx_commerce_pg_listen_close();
}


static void
ngx_commerce_pg_listen_down(ngx_commerce_pg_link_t *link)
{
    if (ngx_commerce_pg_listen_timer.timer_set) {
        ngx_del_timer(&ngx_commerce_pg_listen_timer);
    }
}


static void
ngx_commerce_pg_listen_tell(ngx_str_t *channel, ngx_str_t *payload)
{
    ngx_uint_t                   i;
    ngx_commerce_pg_listener_t  *listener;

    for (i = 0; i < ngx_commerce_pg_listeners_count; i++) {
        listener = &ngx_commerce_pg_listeners[i];

        if (channel->len == 0
            || ngx_strcmp(channel->data, listener->channel) == 0)
        {
            listener->handler(channel, payload);
        }
    }
}
