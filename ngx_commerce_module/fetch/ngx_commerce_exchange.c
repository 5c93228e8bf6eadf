/*
 * A call, then a SQL function, then perhaps the next call.
 *
 *   calling ── answer ──► (queued ──►) telling ── reply ──► calling | over
 *
 * Nothing is repeated here: what was not told is found again by SQL, which
 * wrote down its intention before it asked.
 */

#include <ngx_http.h>

#include "ngx_commerce_exchange.h"
#include "ngx_commerce_cache.h"
#include "ngx_commerce_auth.h"
#include "ngx_commerce_crash.h"


/* a lane that is busy or reconnecting is asked again for so long: what came back must not be lost for that */
#define NGX_COMMERCE_EXCHANGE_AGAIN  200
#define NGX_COMMERCE_EXCHANGE_TRIES  25

/* of those that nobody waits for, so many are told at a time: their answers come in crowds, and the lane is the buyers' too */
#define NGX_COMMERCE_EXCHANGE_CALM   4


struct ngx_commerce_exchange_s {
    ngx_pool_t                *pool;
    ngx_str_t                  context[NGX_COMMERCE_EXCHANGE_CONTEXT];
    ngx_pool_t                *call;        /* of the call under way */
    ngx_commerce_fetch_t       fetch;
    ngx_str_t                  then;        /* empty: nobody is told */
    ngx_str_t                  args;
    ngx_uint_t                 hops;
    ngx_uint_t                 tries;
    ngx_event_t                again;
    ngx_commerce_pg_op_t      *op;
    ngx_commerce_exchange_pt   handler;
    void                      *data;
    ngx_queue_t                link;
    ngx_queue_t                turn;        /* queued */
    unsigned                   calm:1;      /* one of a list: a job's */
    unsigned                   queued:1;
    unsigned                   telling:1;   /* counted */
};


static ngx_int_t ngx_commerce_exchange_begin(const ngx_str_t *context,
    const ngx_commerce_json_t *spec, ngx_uint_t mail, ngx_uint_t calm,
    ngx_commerce_exchange_pt handler, void *data, ngx_commerce_exchange_t **xp);
static ngx_commerce_exchange_t *ngx_commerce_exchange_create(
    const ngx_str_t *context, const ngx_commerce_json_t *spec);
static ngx_int_t ngx_commerce_exchange_call(ngx_commerce_exchange_t *x,
    const ngx_commerce_json_t *spec, ngx_uint_t mail);
static ngx_int_t ngx_commerce_exchange_copy(ngx_pool_t *pool, ngx_str_t *to,
    const ngx_str_t *from);
static void ngx_commerce_exchange_answered(ngx_commerce_fetch_t *f);
static void ngx_commerce_exchange_turn(ngx_commerce_exchange_t *x);
static void ngx_commerce_exchange_turn_over(ngx_commerce_exchange_t *x);
static void ngx_commerce_exchange_tell(ngx_commerce_exchange_t *x);
static void ngx_commerce_exchange_tell_again(ngx_event_t *ev);
static void ngx_commerce_exchange_told(ngx_commerce_pg_op_t *op,
    ngx_commerce_pg_status_t status, const PGresult *result);
static ngx_uint_t ngx_commerce_exchange_next(ngx_commerce_exchange_t *x,
    const PGresult *result);
static void ngx_commerce_exchange_over(ngx_commerce_exchange_t *x,
    ngx_commerce_pg_status_t status, const PGresult *result);
static void ngx_commerce_exchange_destroy(ngx_commerce_exchange_t *x);


static ngx_str_t  ngx_commerce_exchange_begin_text =
    ngx_string("SELECT api.begin_command($1, $2, $3, $4, $5, $6, NULL, NULL, "
               "NULL, $7, $8)");
static ngx_str_t  ngx_commerce_exchange_tell_text =
    ngx_string("SELECT r.status, r.body, r.headers, r.edge FROM "
               "api.fetched($1, $2, $3, $4, $5, $6, $7, $8) r");

static ngx_commerce_pg_stmt_t  *ngx_commerce_exchange_begin_stmt;
static ngx_commerce_pg_stmt_t  *ngx_commerce_exchange_tell_stmt;
static ngx_queue_t              ngx_commerce_exchanges;
static ngx_queue_t              ngx_commerce_exchange_turns;
static ngx_uint_t               ngx_commerce_exchange_telling;
static ngx_uint_t               ngx_commerce_exchange_closing;
static ngx_log_t               *ngx_commerce_exchange_log;


ngx_int_t
ngx_commerce_exchange_register(ngx_conf_t *cf)
{
    ngx_commerce_exchange_begin_stmt = ngx_commerce_pg_statement(cf,
                                     &ngx_commerce_exchange_begin_text, 8);
    ngx_commerce_exchange_tell_stmt = ngx_commerce_pg_statement(cf,
                                     &ngx_commerce_exchange_tell_text, 8);

    return ngx_commerce_exchange_begin_stmt && ngx_commerce_exchange_tell_stmt
           ? NGX_OK : NGX_ERROR;
}


void
ngx_commerce_exchange_init(ngx_log_t *log)
{
    ngx_queue_init(&ngx_commerce_exchanges);
    ngx_queue_init(&ngx_commerce_exchange_turns);
    ngx_commerce_exchange_telling = 0;
    ngx_commerce_exchange_closing = 0;
    ngx_commerce_exchange_log = log;
}


void
ngx_commerce_exchange_exit(void)
{
    ngx_uint_t                n;
    ngx_commerce_exchange_t  *x;

    if (ngx_commerce_exchange_log == NULL) {
        return;
    }

    ngx_commerce_exchange_closing = 1;

    for (n = 0; !ngx_queue_empty(&ngx_commerce_exchanges); n++) {
        x = ngx_queue_data(ngx_queue_head(&ngx_commerce_exchanges),
                           ngx_commerce_exchange_t, link);
        ngx_commerce_exchange_destroy(x);
    }

    if (n) {
        ngx_log_error(NGX_LOG_WARN, ngx_commerce_exchange_log, 0,
                      "commerce: the worker ended with %ui outbound calls "
                      "under way", n);
    }
}


ngx_int_t
ngx_commerce_exchange_start(const ngx_str_t *context,
    const ngx_commerce_json_t *spec, ngx_uint_t mail,
    ngx_commerce_exchange_pt handler, void *data, ngx_commerce_exchange_t **xp)
{
    return ngx_commerce_exchange_begin(context, spec, mail, 0, handler, data,
                                       xp);
}


static ngx_int_t
ngx_commerce_exchange_begin(const ngx_str_t *context,
    const ngx_commerce_json_t *spec, ngx_uint_t mail, ngx_uint_t calm,
    ngx_commerce_exchange_pt handler, void *data, ngx_commerce_exchange_t **xp)
{
    ngx_commerce_exchange_t  *x;

    if (ngx_commerce_exchange_log == NULL) {
        return NGX_ERROR;
    }

    x = ngx_commerce_exchange_create(context, spec);

    if (x == NULL) {
        return NGX_ERROR;
    }

    x->handler = handler;
    x->data = data;
    x->calm = calm;

    if (ngx_commerce_exchange_call(x, spec, mail) != NGX_OK) {
        x->handler = NULL;
        ngx_commerce_exchange_destroy(x);
        ngx_log_error(NGX_LOG_ERR, ngx_commerce_exchange_log, 0,
                      "commerce: no memory for an outbound call");
        return NGX_ERROR;
    }

    if (xp) {
        *xp = x;
    }

    return NGX_OK;
}


ngx_uint_t
ngx_commerce_exchange_all(const ngx_str_t *context,
    const ngx_commerce_json_t *list, ngx_uint_t mail,
    ngx_commerce_exchange_pt handler, void *data)
{
    ngx_uint_t                  n;
    const ngx_commerce_json_t  *spec;

    n = 0;

    if (list == NULL) {
        return 0;
    }

    spec = (list->type == NGX_COMMERCE_JSON_ARRAY) ? list->child : list;

    for ( ; spec; spec = (spec == list) ? NULL : spec->next) {

        if (ngx_commerce_exchange_begin(context, spec, mail, 1, handler, data,
                                        NULL)
            == NGX_OK)
        {
            n++;
        }
    }

    return n;
}


void
ngx_commerce_exchange_void(ngx_str_t *tenant, const ngx_commerce_json_t *edge)
{
    u_char                      buf[NGX_INT64_LEN + 1 + 256];
    ngx_str_t                   name;
    const ngx_commerce_json_t  *list, *t;

    list = ngx_commerce_json_get(edge, "invalidate");

    for (t = list ? list->child : NULL; t; t = t->next) {
        if (t->type == NGX_COMMERCE_JSON_STRING && t->text.len <= 256) {
            name.data = buf;
            name.len = ngx_snprintf(buf, sizeof(buf), "%V:%*s", tenant,
                                    t->text.len, t->text.data)
                       - buf;
            ngx_commerce_cache_invalidate(&name);
        }
    }

    list = ngx_commerce_json_get(edge, "revoke");

    for (t = list ? list->child : NULL; t; t = t->next) {
        if (t->type == NGX_COMMERCE_JSON_STRING) {
            name.data = t->text.data;
            name.len = t->text.len;
            ngx_commerce_auth_revoke(tenant, &name);
        }
    }
}


void
ngx_commerce_exchange_detach(ngx_commerce_exchange_t *x)
{
    x->handler = NULL;
    x->data = NULL;
}


static ngx_commerce_exchange_t *
ngx_commerce_exchange_create(const ngx_str_t *context,
    const ngx_commerce_json_t *spec)
{
    ngx_str_t                   id;
    ngx_uint_t                  i;
    ngx_pool_t                 *pool;
    ngx_commerce_exchange_t    *x;
    const ngx_commerce_json_t  *own;

    pool = ngx_create_pool(2048, ngx_commerce_exchange_log);
    if (pool == NULL) {
        return NULL;
    }

    x = ngx_pcalloc(pool, sizeof(ngx_commerce_exchange_t));
    if (x == NULL) {
        ngx_destroy_pool(pool);
        return NULL;
    }

    x->pool = pool;
    x->again.handler = ngx_commerce_exchange_tell_again;
    x->again.data = x;
    x->again.log = ngx_commerce_exchange_log;

    ngx_queue_insert_tail(&ngx_commerce_exchanges, &x->link);

    for (i = 0; i < NGX_COMMERCE_EXCHANGE_CONTEXT; i++) {

        id = context[i];

        own = (i == NGX_COMMERCE_EXCHANGE_TENANT)
              ? ngx_commerce_json_get(spec, "tenant_id")
              : (i == NGX_COMMERCE_EXCHANGE_CORRELATION)
                ? ngx_commerce_json_get(spec, "correlation_id") : NULL;

        if (own && own->type == NGX_COMMERCE_JSON_NUMBER) {
            id.data = own->raw.data;
            id.len = own->raw.len;

        } else if (own && own->type == NGX_COMMERCE_JSON_STRING) {
            id.data = own->text.data;
            id.len = own->text.len;
        }

        if (ngx_commerce_exchange_copy(pool, &x->context[i], &id) != NGX_OK) {
            ngx_commerce_exchange_destroy(x);
            return NULL;
        }
    }

    return x;
}


static ngx_int_t
ngx_commerce_exchange_copy(ngx_pool_t *pool, ngx_str_t *to,
    const ngx_str_t *from)
{
    ngx_str_null(to);

    if (from->data == NULL) {
        return NGX_OK;
    }

    to->data = ngx_pnalloc(pool, from->len + 1);
    if (to->data == NULL) {
        return NGX_ERROR;
    }

    ngx_memcpy(to->data, from->data, from->len);
    to->len = from->len;

    return NGX_OK;
}


static ngx_int_t
ngx_commerce_exchange_call(ngx_commerce_exchange_t *x,
    const ngx_commerce_json_t *spec, ngx_uint_t mail)
{
    ngx_pool_t                 *pool;
    ngx_commerce_fetch_t       *f;
    const ngx_commerce_json_t  *then, *args;

    pool = ngx_create_pool(4096, ngx_commerce_exchange_log);
    if (pool == NULL) {
        return NGX_ERROR;
    }

    /* spec may lie in the last call's pool: that goes when this one is made */

    f = &x->fetch;
    ngx_memzero(f, sizeof(ngx_commerce_fetch_t));

    f->pool = pool;
    f->handler = ngx_commerce_exchange_answered;
    f->data = x;

    ngx_str_null(&x->then);
    ngx_str_set(&x->args, "{}");

    then = ngx_commerce_json_get(spec, "then");
    args = ngx_commerce_json_get(spec, "args");

    if ((then && then->type == NGX_COMMERCE_JSON_STRING
         && ngx_commerce_exchange_copy(pool, &x->then,
                                       (ngx_str_t *) &then->text)
            != NGX_OK)
        || (args && args->type == NGX_COMMERCE_JSON_OBJECT
            && ngx_commerce_exchange_copy(pool, &x->args,
                                          (ngx_str_t *) &args->raw)
               != NGX_OK)
        || ngx_commerce_fetch_parse(f, spec, mail,
                             &x->context[NGX_COMMERCE_EXCHANGE_TENANT])
           == NGX_ERROR)
    {
        ngx_destroy_pool(pool);
        return NGX_ERROR;
    }

    if (x->call) {
        ngx_destroy_pool(x->call);
    }

    x->call = pool;
    x->hops++;
    x->tries = 0;

    ngx_commerce_crash("before-fetch");

    return ngx_commerce_fetch_start(f);
}


static void
ngx_commerce_exchange_answered(ngx_commerce_fetch_t *f)
{
    ngx_commerce_exchange_t  *x = f->data;

    ngx_commerce_crash("after-fetch");

    if (f->error || f->status >= 500) {
        ngx_log_error(NGX_LOG_WARN, ngx_commerce_exchange_log, 0,
                      "commerce: an outbound call for %V ended with %ui %s "
                      "after %M ms, correlation: %V",
                      x->then.len ? &x->then : &f->method, f->status,
                      f->error ? f->error : "", f->elapsed,
                      &x->context[NGX_COMMERCE_EXCHANGE_CORRELATION]);
    }

    if (x->then.len == 0) {
        ngx_commerce_exchange_over(x, NGX_COMMERCE_PG_OK, NULL);
        return;
    }

    if (f->error && ngx_strcmp(f->error, "shutdown") == 0) {
        ngx_commerce_exchange_over(x, NGX_COMMERCE_PG_UNAVAILABLE, NULL);
        return;
    }

    ngx_commerce_exchange_turn(x);
}


/*
 * A job's calls end in crowds, and are told before all else: without turns a
 * hundred mails would fill the lane for writes, which then refuses readers and
 * buyers.
 */

static void
ngx_commerce_exchange_turn(ngx_commerce_exchange_t *x)
{
    if (x->calm) {

        if (ngx_commerce_exchange_telling >= NGX_COMMERCE_EXCHANGE_CALM) {
            ngx_queue_insert_tail(&ngx_commerce_exchange_turns, &x->turn);
            x->queued = 1;
            return;
        }

        ngx_commerce_exchange_telling++;
        x->telling = 1;
    }

    ngx_commerce_exchange_tell(x);
}


/* The function was told, or will not be: the next one's turn. */

static void
ngx_commerce_exchange_turn_over(ngx_commerce_exchange_t *x)
{
    ngx_commerce_exchange_t  *next;

    if (x->queued) {
        ngx_queue_remove(&x->turn);
        x->queued = 0;
    }

    if (!x->telling) {
        return;
    }

    x->telling = 0;
    ngx_commerce_exchange_telling--;

    if (ngx_queue_empty(&ngx_commerce_exchange_turns)
        || ngx_commerce_exchange_closing)
    {
        return;
    }

    next = ngx_queue_data(ngx_queue_head(&ngx_commerce_exchange_turns),
                          ngx_commerce_exchange_t, turn);
    ngx_queue_remove(&next->turn);
    next->queued = 0;

    ngx_commerce_exchange_turn(next);
}


static void
ngx_commerce_exchange_tell(ngx_commerce_exchange_t *x)
{
    u_char                  status[NGX_INT_T_LEN], ms[NGX_INT_T_LEN];
    ngx_str_t               before[8], values[8], *context;
    ngx_commerce_fetch_t   *f;
    ngx_commerce_pg_op_t   *op;

    f = &x->fetch;
    context = x->context;

    ngx_memcpy(before, context, 6 * sizeof(ngx_str_t));
    before[6] = context[9];
    before[7] = context[10];

    values[0] = x->then;
    values[1] = x->args;
    values[2].data = status;
    values[2].len = ngx_sprintf(status, "%ui", f->status) - status;
    values[3] = f->answer;
    values[4].data = (u_char *) f->error;
    values[4].len = f->error ? ngx_strlen(f->error) : 0;
    values[5].data = ms;
    values[5].len = ngx_sprintf(ms, "%M", f->elapsed) - ms;
    values[6] = context[NGX_COMMERCE_EXCHANGE_KEY];
    values[7] = context[NGX_COMMERCE_EXCHANGE_SCOPE];

    if (f->answer.len == 0 && f->status) {
        values[3].data = (u_char *) "";
    }

    op = ngx_commerce_pg_alloc();

    if (op) {
        op->lane = NGX_COMMERCE_PG_WRITE;
        op->rank = NGX_COMMERCE_PG_VITAL;
        op->before.stmt = ngx_commerce_exchange_begin_stmt;
        op->before.values = before;
        op->query.stmt = ngx_commerce_exchange_tell_stmt;
        op->query.values = values;
        op->handler = ngx_commerce_exchange_told;
        op->data = x;

        if (ngx_commerce_pg_submit(op) == NGX_OK) {
            x->op = op;
            return;
        }
    }

    if (x->tries++ < NGX_COMMERCE_EXCHANGE_TRIES) {
        ngx_add_timer(&x->again, NGX_COMMERCE_EXCHANGE_AGAIN);
        return;
    }

    ngx_commerce_exchange_over(x, NGX_COMMERCE_PG_UNAVAILABLE, NULL);
}


static void
ngx_commerce_exchange_tell_again(ngx_event_t *ev)
{
    ngx_commerce_exchange_tell(ev->data);
}


static void
ngx_commerce_exchange_told(ngx_commerce_pg_op_t *op,
    ngx_commerce_pg_status_t status, const PGresult *result)
{
    ngx_commerce_exchange_t  *x = op->data;

    x->op = NULL;

    switch (status) {

    case NGX_COMMERCE_PG_OK:
        ngx_commerce_crash("after-then");

        if (ngx_commerce_exchange_next(x, result)) {
            ngx_commerce_exchange_turn_over(x);

            if (x->handler) {
                x->handler(x->data, status, result, 1);
            }

            return;
        }

        break;

    case NGX_COMMERCE_PG_OVERLOADED:
    case NGX_COMMERCE_PG_UNAVAILABLE:
    case NGX_COMMERCE_PG_TIMEOUT:

        /* nothing was sent */

        if (x->tries++ < NGX_COMMERCE_EXCHANGE_TRIES) {
            ngx_add_timer(&x->again, NGX_COMMERCE_EXCHANGE_AGAIN);
            return;
        }

        break;

    default:
        break;
    }

    ngx_commerce_exchange_over(x, status, result);
}


/* True: the reply asks for another call, which is under way. */

static ngx_uint_t
ngx_commerce_exchange_next(ngx_commerce_exchange_t *x, const PGresult *result)
{
    ngx_str_t             text;
    ngx_uint_t            mail;
    ngx_commerce_json_t  *edge, *spec, *list;

    if (PQntuples(result) != 1 || PQnfields(result) != 4
        || PQgetisnull(result, 0, 3))
    {
        return 0;
    }

    text.data = (u_char *) PQgetvalue(result, 0, 3);
    text.len = PQgetlength(result, 0, 3);

    edge = ngx_commerce_fetch_json(x->call, &text);

    if (edge == NULL) {
        ngx_log_error(NGX_LOG_ERR, ngx_commerce_exchange_log, 0,
                      "commerce: the edge instructions of %V are not JSON",
                      &x->then);
        return 0;
    }

    ngx_commerce_exchange_void(&x->context[NGX_COMMERCE_EXCHANGE_TENANT], edge);

    spec = NULL;

    for (mail = 0; mail < 2; mail++) {
        list = ngx_commerce_json_get(edge, mail ? "mail" : "fetch");

        if (list == NULL || list->type == NGX_COMMERCE_JSON_NULL) {
            continue;
        }

        if (x->hops >= NGX_COMMERCE_EXCHANGE_HOPS) {
            ngx_log_error(NGX_LOG_ERR, ngx_commerce_exchange_log, 0,
                          "commerce: %V asks for a call after %d in a row: "
                          "let a job go on", &x->then,
                          NGX_COMMERCE_EXCHANGE_HOPS);
            return 0;
        }

        if (list->type == NGX_COMMERCE_JSON_OBJECT && spec == NULL) {
            spec = list;

            if (ngx_commerce_exchange_call(x, spec, mail) != NGX_OK) {
                return 0;
            }

            /* a list beside it would be in the pool that is gone */
            return 1;
        }

        (void) ngx_commerce_exchange_all(x->context, list, mail, NULL, NULL);
    }

    return 0;
}


static void
ngx_commerce_exchange_over(ngx_commerce_exchange_t *x,
    ngx_commerce_pg_status_t status, const PGresult *result)
{
    const char                *state;
    void                      *data;
    ngx_commerce_exchange_pt   handler;

    if (status == NGX_COMMERCE_PG_FAILED) {
        state = PQresultErrorField(result, PG_DIAG_SQLSTATE);

        /* a refusal is an answer */

        if (state == NULL || state[0] != 'S' || state[1] != 'H') {
            ngx_log_error(NGX_LOG_ERR, ngx_commerce_exchange_log, 0,
                          "commerce: %V failed: SQLSTATE %s: %s, "
                          "correlation: %V", &x->then, state ? state : "?",
                          PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY),
                          &x->context[NGX_COMMERCE_EXCHANGE_CORRELATION]);
        }

    } else if (status != NGX_COMMERCE_PG_OK) {
        ngx_log_error(NGX_LOG_ERR, ngx_commerce_exchange_log, 0,
                      "commerce: %V could not be told of the end of its "
                      "outbound call, correlation: %V", &x->then,
                      &x->context[NGX_COMMERCE_EXCHANGE_CORRELATION]);
    }

    handler = x->handler;
    data = x->data;

    /* the handler may begin another one; the result is PostgreSQL's */

    x->handler = NULL;
    ngx_commerce_exchange_destroy(x);

    if (handler) {
        handler(data, status, result, 0);
    }
}


static void
ngx_commerce_exchange_destroy(ngx_commerce_exchange_t *x)
{
    ngx_commerce_fetch_cancel(&x->fetch);
    ngx_commerce_exchange_turn_over(x);

    if (x->op) {
        ngx_commerce_pg_detach(x->op);
    }

    if (x->again.timer_set) {
        ngx_del_timer(&x->again);
    }

    ngx_queue_remove(&x->link);

    if (x->call) {
        ngx_destroy_pool(x->call);
    }

    ngx_destroy_pool(x->pool);
}
