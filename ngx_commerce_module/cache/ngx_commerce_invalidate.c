/*
 * Notices on commerce_invalidate, and taking over from another listener.
 *
 * A worker that begins to listen does not know what was notified before, so
 * everything is void, unless the worker of the configuration before still
 * listened.  It is asked through PostgreSQL: a token in shared memory is notified on
 * commerce_handover.  Notices arrive in the order of their commits: who receives the
 * token has handled all that was before it, and what comes after it arrives here.
 */

#include "ngx_commerce_cache_internal.h"

#include <openssl/rand.h>


#define NGX_COMMERCE_HANDOVER_POLL  10
#define NGX_COMMERCE_HANDOVER_WAIT  500     /* then it did not listen any more */
#define NGX_COMMERCE_HANDOVER_STAY  1000    /* of a listener that leaves */


typedef struct {
    ngx_commerce_handover_t  *sh;           /* NULL: no cache */
    ngx_commerce_pg_stmt_t   *stmt;
    ngx_event_t               timer;
    ngx_atomic_uint_t         token;        /* mine */
    ngx_msec_t                until;
    ngx_log_t                *log;
    unsigned                  begun:1;      /* listened before: this is a reconnection */
    unsigned                  settled:1;
} ngx_commerce_invalidate_t;


static void ngx_commerce_invalidate_notify(ngx_str_t *channel,
    ngx_str_t *payload);
static void ngx_commerce_handover_notify(ngx_str_t *channel,
    ngx_str_t *payload);
static ngx_int_t ngx_commerce_handover_ask(void);
static void ngx_commerce_handover_asked(ngx_commerce_pg_op_t *op,
    ngx_commerce_pg_status_t status, const PGresult *result);
static void ngx_commerce_handover_poll(ngx_event_t *ev);
static void ngx_commerce_handover_void(void);


static ngx_commerce_invalidate_t  ngx_commerce_invalidate;


void
ngx_commerce_invalidate_init(ngx_commerce_handover_t *sh,
    ngx_commerce_pg_stmt_t *stmt, ngx_log_t *log)
{
    ngx_memzero(&ngx_commerce_invalidate, sizeof(ngx_commerce_invalidate_t));

    if (sh == NULL) {
        return;
    }

    ngx_commerce_invalidate.sh = sh;
    ngx_commerce_invalidate.stmt = stmt;
    ngx_commerce_invalidate.log = log;

    ngx_commerce_invalidate.timer.handler = ngx_commerce_handover_poll;
    ngx_commerce_invalidate.timer.data = &ngx_commerce_invalidate;
    ngx_commerce_invalidate.timer.log = log;
    ngx_commerce_invalidate.timer.cancelable = 1;

    ngx_commerce_pg_listen_linger(NGX_COMMERCE_HANDOVER_STAY);

    ngx_commerce_pg_on_notify("commerce_invalidate",
                              ngx_commerce_invalidate_notify);
    ngx_commerce_pg_on_notify("commerce_handover",
                              ngx_commerce_handover_notify);
}


/* An empty channel: the connection is new. */

static void
ngx_commerce_invalidate_notify(ngx_str_t *channel, ngx_str_t *payload)
{
    if (channel->len) {
        ngx_commerce_cache_invalidate(payload);
        return;
    }

    if (ngx_commerce_invalidate.begun || ngx_commerce_handover_ask() != NGX_OK)
    {
        ngx_commerce_handover_void();
    }

    ngx_commerce_invalidate.begun = 1;
}


/* Answers a successor; a token of another machine's edge is nobody's here. */

static void
ngx_commerce_handover_notify(ngx_str_t *channel, ngx_str_t *payload)
{
    u_char                    text[NGX_INT64_LEN];
    ngx_str_t                 asked;
    ngx_atomic_uint_t         token;
    ngx_commerce_handover_t  *sh;

    sh = ngx_commerce_invalidate.sh;
    token = sh->asked;

    if (channel->len == 0 || !ngx_commerce_invalidate.settled
        || token == ngx_commerce_invalidate.token)
    {
        return;
    }

    asked.data = text;
    asked.len = ngx_sprintf(text, "%xL", (uint64_t) token) - text;

    if (asked.len == payload->len
        && ngx_memcmp(asked.data, payload->data, asked.len) == 0)
    {
        sh->answered = token;

        /* the successor hears what comes from now on */
        ngx_commerce_pg_listen_linger(0);
    }
}


/* NGX_ERROR: there is nobody to ask. */

static ngx_int_t
ngx_commerce_handover_ask(void)
{
    u_char                    text[NGX_INT64_LEN];
    ngx_str_t                 value;
    ngx_uint_t                first;
    ngx_atomic_uint_t         token;
    ngx_commerce_pg_op_t     *op;
    ngx_commerce_handover_t  *sh;

    sh = ngx_commerce_invalidate.sh;

    if (RAND_bytes((u_char *) &token, sizeof(token)) != 1) {
        return NGX_ERROR;
    }

    first = (sh->asked == 0);

    ngx_commerce_invalidate.token = token;
    sh->asked = token;

    if (first) {
        return NGX_ERROR;
    }

    op = ngx_commerce_pg_alloc();
    if (op == NULL) {
        return NGX_ERROR;
    }

    value.data = text;
    value.len = ngx_sprintf(text, "%xL", (uint64_t) token) - text;

    op->lane = NGX_COMMERCE_PG_WRITE;
    op->timeout = 0;
    op->query.stmt = ngx_commerce_invalidate.stmt;
    op->query.values = &value;
    op->own_sync = 1;
    op->handler = ngx_commerce_handover_asked;

    if (ngx_commerce_pg_submit(op) != NGX_OK) {
        return NGX_ERROR;
    }

    ngx_commerce_invalidate.until = ngx_current_msec
                                    + NGX_COMMERCE_HANDOVER_WAIT;
    ngx_add_timer(&ngx_commerce_invalidate.timer, NGX_COMMERCE_HANDOVER_POLL);

    return NGX_OK;
}


/* Whether it was sent or not, the answer tells, or its absence. */

static void
ngx_commerce_handover_asked(ngx_commerce_pg_op_t *op,
    ngx_commerce_pg_status_t status, const PGresult *result)
{
    if (status == NGX_COMMERCE_PG_FAILED) {
        ngx_log_error(NGX_LOG_ERR, ngx_commerce_invalidate.log, 0,
                      "the listener before could not be asked: %s",
                      PQresultErrorMessage(result));
    }
}


static void
ngx_commerce_handover_poll(ngx_event_t *ev)
{
    if (ngx_commerce_invalidate.sh->answered == ngx_commerce_invalidate.token)
    {
        ngx_commerce_invalidate.settled = 1;
        return;
    }

    if ((ngx_msec_int_t) (ngx_commerce_invalidate.until - ngx_current_msec)
        <= 0)
    {
        ngx_commerce_handover_void();
        return;
    }

    ngx_add_timer(ev, NGX_COMMERCE_HANDOVER_POLL);
}


static void
ngx_commerce_handover_void(void)
{
    if (ngx_commerce_invalidate.timer.timer_set) {
        ngx_del_timer(&ngx_commerce_invalidate.timer);
    }

    ngx_commerce_cache_invalidate_all();
    ngx_commerce_invalidate.settled = 1;
}
