/*
 * One PGconn on nginx's event loop: connect, back off, flush, close.
 */

#include "ngx_commerce_pg_internal.h"


#define NGX_COMMERCE_PG_BACKOFF_MIN   50
#define NGX_COMMERCE_PG_BACKOFF_MAX   5000
#define NGX_COMMERCE_PG_WHY           1024      /* bytes of an error that are told */


static void ngx_commerce_pg_link_connect(ngx_commerce_pg_link_t *link);
static void ngx_commerce_pg_link_poll(ngx_commerce_watch_t *w);
static ngx_int_t ngx_commerce_pg_link_watch(ngx_commerce_pg_link_t *link,
    ngx_uint_t read, ngx_uint_t write);
static void ngx_commerce_pg_link_up(ngx_commerce_pg_link_t *link);
static void ngx_commerce_pg_link_readable(ngx_commerce_watch_t *w);
static void ngx_commerce_pg_link_writable(ngx_commerce_watch_t *w);
static void ngx_commerce_pg_link_closing(ngx_commerce_watch_t *w);
static void ngx_commerce_pg_link_timer(ngx_event_t *ev);
static u_char *ngx_commerce_pg_link_why(u_char *buf, u_char *last,
    const char *why);
static ngx_msec_t ngx_commerce_pg_link_pause(ngx_commerce_pg_link_t *link);
static void ngx_commerce_pg_link_release(ngx_commerce_pg_link_t *link);
static void ngx_commerce_pg_link_notice(void *arg, const PGresult *result);


void
ngx_commerce_pg_link_init(ngx_commerce_pg_link_t *link,
    ngx_commerce_pg_lane_conf_t *conf, const char *purpose, ngx_log_t *log)
{
    link->conf = conf;
    link->purpose = purpose;
    link->state = NGX_COMMERCE_PG_LINK_CLOSED;

    link->watch.data = link;
    link->watch.closing = ngx_commerce_pg_link_closing;

    link->timer.handler = ngx_commerce_pg_link_timer;
    link->timer.data = link;
    link->timer.log = log;

    /* who waits for the lane has a timer of its own */
    link->timer.cancelable = 1;
}


void
ngx_commerce_pg_link_start(ngx_commerce_pg_link_t *link, ngx_msec_t delay)
{
    link->state = NGX_COMMERCE_PG_LINK_WAITING;
    ngx_add_timer(&link->timer, delay);
}


/* Another connection to the same server serves again: no need to wait on. */

void
ngx_commerce_pg_link_hurry(ngx_commerce_pg_link_t *link)
{
    if (link->state != NGX_COMMERCE_PG_LINK_WAITING || !link->timer.timer_set) {
        return;
    }

    ngx_del_timer(&link->timer);

    ngx_commerce_pg_link_start(link, ngx_random()
                                     % NGX_COMMERCE_PG_BACKOFF_MIN);
}


static void
ngx_commerce_pg_link_connect(ngx_commerce_pg_link_t *link)
{
    link->pg = PQconnectStartParams(link->conf->keywords, link->conf->values,
                                    0);

    if (link->pg == NULL) {
        ngx_commerce_pg_link_fail(link, "no memory");
        return;
    }

    if (PQstatus(link->pg) == CONNECTION_BAD) {
        ngx_commerce_pg_link_fail(link, PQerrorMessage(link->pg));
        return;
    }

    PQsetNoticeReceiver(link->pg, ngx_commerce_pg_link_notice, link);

    link->state = NGX_COMMERCE_PG_LINK_CONNECTING;
    link->watch.readable = ngx_commerce_pg_link_poll;
    link->watch.writable = ngx_commerce_pg_link_poll;

    ngx_add_timer(&link->timer, link->conf->connect_timeout);

    if (ngx_commerce_pg_link_watch(link, 0, 1) != NGX_OK) {
        ngx_commerce_pg_link_fail(link, "no free worker connection");
    }
}


/*
 * PQconnectPoll() may replace its socket (next address, retry without what the
 * server refused), mostly by one of the same number: comparing numbers would not
 * show it, and epoll has dropped the old one silently.  So the watch is never
 * open during the call.
 */

static void
ngx_commerce_pg_link_poll(ngx_commerce_watch_t *w)
{
    ngx_int_t                rc;
    ngx_commerce_pg_link_t  *link;

    link = w->data;

    ngx_commerce_watch_close(w);

    switch (PQconnectPoll(link->pg)) {

    case PGRES_POLLING_READING:
        rc = ngx_commerce_pg_link_watch(link, 1, 0);
        break;

    case PGRES_POLLING_WRITING:
        rc = ngx_commerce_pg_link_watch(link, 0, 1);
        break;

    case PGRES_POLLING_OK:
        ngx_commerce_pg_link_up(link);
        return;

    default:
        ngx_commerce_pg_link_fail(link, PQerrorMessage(link->pg));
        return;
    }

    if (rc != NGX_OK) {
        ngx_commerce_pg_link_fail(link, "no free worker connection");
    }
}


static ngx_int_t
ngx_commerce_pg_link_watch(ngx_commerce_pg_link_t *link, ngx_uint_t read,
    ngx_uint_t write)
{
    if (ngx_commerce_watch_open(&link->watch, PQsocket(link->pg),
                                link->timer.log)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    return ngx_commerce_watch_set(&link->watch, read, write);
}


static void
ngx_commerce_pg_link_up(ngx_commerce_pg_link_t *link)
{
    if (link->timer.timer_set) {
        ngx_del_timer(&link->timer);
    }

    link->watch.readable = ngx_commerce_pg_link_readable;
    link->watch.writable = ngx_commerce_pg_link_writable;

    if (PQsetnonblocking(link->pg, 1) != 0
        || ngx_commerce_pg_link_watch(link, 1, 0) != NGX_OK)
    {
        ngx_commerce_pg_link_fail(link, "no free worker connection");
        return;
    }

    link->state = NGX_COMMERCE_PG_LINK_UP;

    link->up(link);
}


static void
ngx_commerce_pg_link_readable(ngx_commerce_watch_t *w)
{
    ngx_commerce_pg_link_t  *link;

    link = w->data;

    link->input(link);
}


static void
ngx_commerce_pg_link_writable(ngx_commerce_watch_t *w)
{
    ngx_commerce_pg_link_flush(w->data);
}


static void
ngx_commerce_pg_link_closing(ngx_commerce_watch_t *w)
{
    ngx_commerce_pg_link_t  *link;

    link = w->data;

    link->closing(link);
}


ngx_int_t
ngx_commerce_pg_link_consume(ngx_commerce_pg_link_t *link)
{
    SSL  *ssl;

    if (PQconsumeInput(link->pg) == 0) {
        return NGX_ERROR;
    }

    ssl = PQsslInUse(link->pg) ? PQsslStruct(link->pg, "OpenSSL") : NULL;

    /* decrypted bytes that OpenSSL keeps do not make the socket readable */

    while (ssl && SSL_pending(ssl) > 0) {
        if (PQconsumeInput(link->pg) == 0) {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


/* Reading stays watched: a server that waits for us to read would not read from us either. */

void
ngx_commerce_pg_link_flush(ngx_commerce_pg_link_t *link)
{
    int  rc;

    rc = PQflush(link->pg);

    if (rc < 0) {
        ngx_commerce_pg_link_fail(link, PQerrorMessage(link->pg));
        return;
    }

    if (ngx_commerce_watch_set(&link->watch, 1, rc) != NGX_OK) {
        ngx_commerce_pg_link_fail(link, "the event loop refused the socket");
    }
}


void
ngx_commerce_pg_link_serves(ngx_commerce_pg_link_t *link)
{
    if (link->failures) {
        ngx_log_error(NGX_LOG_NOTICE, link->timer.log, 0,
                      "PostgreSQL \"%V\": %s connection is back after "
                      "%ui failed attempts",
                      &link->conf->address, link->purpose, link->failures);
    }

    link->failures = 0;
}


/* "why" may belong to the PGconn. */

void
ngx_commerce_pg_link_fail(ngx_commerce_pg_link_t *link, const char *why)
{
    u_char      buf[NGX_COMMERCE_PG_WHY];
    ngx_str_t   text;
    ngx_msec_t  pause;
    ngx_uint_t  level, up;

    text.data = buf;
    text.len = ngx_commerce_pg_link_why(buf, buf + sizeof(buf), why) - buf;

    pause = ngx_commerce_pg_link_pause(link);
    up = (link->state == NGX_COMMERCE_PG_LINK_UP);

    /* the first of a row is for the operator, the rest would only repeat it */
    level = (link->failures == 0) ? NGX_LOG_ERR : NGX_LOG_INFO;

    ngx_log_error(level, link->timer.log, 0,
                  "PostgreSQL \"%V\": %s connection %s: %V; next attempt in "
                  "%M ms",
                  &link->conf->address, link->purpose,
                  up ? "lost" : "failed", &text, pause);

    link->failures++;

    ngx_commerce_pg_link_release(link);

    ngx_commerce_pg_link_start(link, pause);

    if (up) {
        link->down(link);
    }

    if (link->failed) {
        link->failed(link);
    }
}


/* In one line: a name of several addresses has a line for each; those that begin with a tab are advice for a terminal. */

static u_char *
ngx_commerce_pg_link_why(u_char *buf, u_char *last, const char *why)
{
    size_t   len;
    u_char  *p;

    for (p = buf; *why; why += len + strspn(why + len, CRLF)) {

        len = strcspn(why, CRLF);

        if (len && *why != '\t') {
            p = ngx_slprintf(p, last, "%s%*s", p == buf ? "" : "; ", len, why);
        }
    }

    return p;
}


void
ngx_commerce_pg_link_close(ngx_commerce_pg_link_t *link)
{
    ngx_uint_t  up;

    up = (link->state == NGX_COMMERCE_PG_LINK_UP);

    ngx_commerce_pg_link_release(link);

    if (up) {
        link->down(link);
    }
}


static void
ngx_commerce_pg_link_release(ngx_commerce_pg_link_t *link)
{
    if (link->timer.timer_set) {
        ngx_del_timer(&link->timer);
    }

    /* before libpq closes the descriptor; at end of file it has done so already */

    if (link->pg && PQsocket(link->pg) == -1) {
        ngx_commerce_watch_forget(&link->watch);

    } else {
        ngx_commerce_watch_close(&link->watch);
    }

    PQfinish(link->pg);

    link->pg = NULL;
    link->state = NGX_COMMERCE_PG_LINK_CLOSED;
}


static void
ngx_commerce_pg_link_timer(ngx_event_t *ev)
{
    ngx_commerce_pg_link_t  *link;

    link = ev->data;

    if (link->state == NGX_COMMERCE_PG_LINK_WAITING) {

        if (link->breaker
            && !ngx_commerce_breaker_enter(link->breaker,
                                           2 * link->conf->connect_timeout))
        {
            ngx_add_timer(&link->timer, NGX_COMMERCE_BREAKER_TICK);
            return;
        }

        ngx_commerce_pg_link_connect(link);
        return;
    }

    ngx_commerce_pg_link_fail(link, "no answer within connect_timeout");
}


/*
 * Exponential, up to 5 s.  The jitter keeps the connections of all workers from
 * coming at once: each costs the server a process and a SCRAM exchange.
 */

static ngx_msec_t
ngx_commerce_pg_link_pause(ngx_commerce_pg_link_t *link)
{
    ngx_uint_t  i;
    ngx_msec_t  pause;

    pause = NGX_COMMERCE_PG_BACKOFF_MIN;

    for (i = 0; i < link->failures && pause < NGX_COMMERCE_PG_BACKOFF_MAX; i++) {
        pause *= 2;
    }

    pause = ngx_min(pause, NGX_COMMERCE_PG_BACKOFF_MAX);

    return pause / 2 + ngx_random() % (pause / 2 + 1);
}


/* libpq would write to stderr. */

static void
ngx_commerce_pg_link_notice(void *arg, const PGresult *result)
{
    ngx_commerce_pg_link_t  *link = arg;

    const char  *message, *severity, *state;

    severity = PQresultErrorField(result, PG_DIAG_SEVERITY_NONLOCALIZED);
    state = PQresultErrorField(result, PG_DIAG_SQLSTATE);
    message = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);

    ngx_log_error(NGX_LOG_WARN, link->timer.log, 0,
                  "PostgreSQL \"%V\": %s: %s (SQLSTATE %s)",
                  &link->conf->address, severity ? severity : "notice",
                  message ? message : "", state ? state : "none");
}
