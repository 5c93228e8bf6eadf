/*
 * A step that runs a Redis script: docs/contract.md, sections 4 and 7.
 *
 *   RUN ── ok ──────────────────────────────► reply
 *    │ ├── miss ─► MISS (call) ─► AGAIN (script with the document) ─► reply
 *    │ └── problem, replay ─────────────────► reply
 *    └── Redis away ─► DOWN (call) ─────────► reply
 */

#include "ngx_commerce_http.h"


enum {
    NGX_COMMERCE_SCRIPT_RUN = 0,
    NGX_COMMERCE_SCRIPT_MISS,
    NGX_COMMERCE_SCRIPT_AGAIN,
    NGX_COMMERCE_SCRIPT_DOWN
};


static ngx_int_t ngx_commerce_script_eval(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step);
static ngx_int_t ngx_commerce_script_key(ngx_commerce_request_t *c,
    ngx_str_t *key);
static void ngx_commerce_script_handler(void *data,
    ngx_commerce_redis_status_t status, redisReply *reply);
static ngx_int_t ngx_commerce_script_reply(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step, redisReply *reply);
static ngx_int_t ngx_commerce_script_down(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step);
static ngx_int_t ngx_commerce_script_copy(ngx_commerce_request_t *c,
    redisReply *reply, ngx_uint_t i, ngx_str_t *text);
static ngx_uint_t ngx_commerce_script_status(redisReply *reply, ngx_uint_t i);
static void ngx_commerce_script_cancel(void *data);


ngx_int_t
ngx_commerce_script_start(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step)
{
    c->script_phase = NGX_COMMERCE_SCRIPT_RUN;
    ngx_str_null(&c->script_document);

    if (ngx_commerce_scope_render(c, &step->key, &c->script_key) != NGX_OK) {
        return NGX_ERROR;
    }

    return ngx_commerce_script_eval(c, step);
}


static ngx_int_t
ngx_commerce_script_eval(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step)
{
    u_char                    hex[64];
    ngx_str_t                 values[6];
    ngx_commerce_redis_op_t  *op;

    ngx_memzero(values, sizeof(values));

    values[0] = c->script_key;
    values[3] = c->script_document;

    if (ngx_commerce_scope_json(c, step->args, step->args_count, &values[2])
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (c->idempotency_key.len && step->reply) {

        if (ngx_commerce_script_key(c, &values[1]) != NGX_OK) {
            return NGX_ERROR;
        }

        ngx_commerce_hex(hex, c->fingerprint, sizeof(c->fingerprint));

        values[4] = c->idempotency_key;
        values[5].data = hex;
        values[5].len = sizeof(hex);
    }

    op = ngx_commerce_redis_eval(step->data, 2, 4, values,
                                 ngx_commerce_script_handler, c);

    if (op == NULL) {

        if (ngx_commerce_redis_available()) {
            return ngx_commerce_problem_retry(c, 503, "overloaded", 1,
                "Too many requests are waiting; nothing was done. Try again.");
        }

        return ngx_commerce_script_down(c, step);
    }

    c->cancel = ngx_commerce_script_cancel;
    c->cancel_data = op;

    return NGX_AGAIN;
}


/* The idempotency record stands beside the key, under the same hash tag. */

static ngx_int_t
ngx_commerce_script_key(ngx_commerce_request_t *c, ngx_str_t *key)
{
    u_char  *open, *close, *end;

    end = c->script_key.data + c->script_key.len;
    open = ngx_strlchr(c->script_key.data, end, '{');
    close = open ? ngx_strlchr(open, end, '}') : NULL;

    if (close == NULL) {
        open = c->script_key.data;
        close = end - 1;
    }

    key->data = ngx_pnalloc(c->request->pool,
                            sizeof("idem:::") + c->script_key.len
                            + c->op->id.len + c->idempotency_key.len);
    if (key->data == NULL) {
        return NGX_ERROR;
    }

    key->len = ngx_sprintf(key->data, "idem:%*s:%*s:%V",
                           (size_t) (close - open + 1), open, c->op->id.len,
                           c->op->id.data, &c->idempotency_key)
               - key->data;

    return NGX_OK;
}


static void
ngx_commerce_script_handler(void *data, ngx_commerce_redis_status_t status,
    redisReply *reply)
{
    ngx_int_t                   rc;
    ngx_commerce_request_t     *c;
    const ngx_commerce_step_t  *step;

    c = data;
    c->cancel = NULL;
    step = &c->op->steps[c->step_index];

    ngx_http_set_log_request(c->request->connection->log, c->request);

    switch (status) {

    case NGX_COMMERCE_REDIS_OK:
        rc = ngx_commerce_script_reply(c, step, reply);
        break;

    case NGX_COMMERCE_REDIS_FAILED:

        /* Redis is there and has the newest cart: going on in PostgreSQL would part the two */

        ngx_log_error(NGX_LOG_ERR, c->request->connection->log, 0,
                      "commerce: script \"%*s\" failed: %s",
                      step->name.len, step->name.data,
                      reply ? reply->str : "");

        rc = ngx_commerce_problem_retry(c, 503, "unavailable", 2,
                 "This part of the shop cannot answer at the moment; try "
                 "again.");
        break;

    default:
        rc = ngx_commerce_script_down(c, step);
    }

    if (rc == NGX_AGAIN) {
        return;
    }

    if (rc == NGX_ERROR && !c->step.problem) {
        ngx_commerce_problem(c, 500, "internal", "Out of memory.");
    }

    c->script_phase = NGX_COMMERCE_SCRIPT_RUN;
    ngx_commerce_step_done(c);
}


static ngx_int_t
ngx_commerce_script_reply(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step, redisReply *reply)
{
    char       *kind;
    ngx_str_t   code, detail, extension, document;

    if (reply->type != REDIS_REPLY_ARRAY || reply->elements == 0
        || (reply->element[0]->type != REDIS_REPLY_STRING
            && reply->element[0]->type != REDIS_REPLY_STATUS))
    {
        goto invalid;
    }

    kind = reply->element[0]->str;
    ngx_memzero(&c->step, sizeof(ngx_commerce_reply_t));

    if (ngx_strcmp(kind, "ok") == 0 || ngx_strcmp(kind, "replay") == 0) {

        c->step.status = ngx_commerce_script_status(reply, 1);
        c->step.replayed = (kind[0] == 'r');

        if (ngx_commerce_script_copy(c, reply, 2, &c->step.body) != NGX_OK
            || ngx_commerce_script_copy(c, reply, 3, &document) != NGX_OK)
        {
            return NGX_ERROR;
        }

        /* without room the document waits in Redis for its next change */

        if (step->backup_data && document.len) {
            (void) ngx_commerce_backup_put(step->backup_data, &c->tenant.id,
                                           &c->script_key, &document);
        }

        return NGX_OK;
    }

    if (ngx_strcmp(kind, "miss") == 0) {

        if (step->miss == NULL || c->script_phase != NGX_COMMERCE_SCRIPT_RUN) {
            goto invalid;
        }

        c->script_phase = NGX_COMMERCE_SCRIPT_MISS;

        switch (ngx_commerce_call_start(c, step->miss)) {

        case NGX_OK:
            return ngx_commerce_script_resume(c);

        case NGX_AGAIN:
            return NGX_AGAIN;

        default:
            return NGX_ERROR;
        }
    }

    if (ngx_strcmp(kind, "problem") == 0) {

        if (ngx_commerce_script_copy(c, reply, 2, &code) != NGX_OK
            || ngx_commerce_script_copy(c, reply, 3, &detail) != NGX_OK
            || ngx_commerce_script_copy(c, reply, 4, &extension) != NGX_OK)
        {
            return NGX_ERROR;
        }

        return ngx_commerce_problem_extended(c,
                   ngx_commerce_script_status(reply, 1), &code, &detail,
                   &extension);
    }

invalid:

    ngx_log_error(NGX_LOG_ERR, c->request->connection->log, 0,
                  "commerce: script \"%*s\" gave an answer that is not of "
                  "docs/contract.md, section 7", step->name.len,
                  step->name.data);

    return ngx_commerce_problem_internal(c);
}


/* Redis is away: the shop goes on in PostgreSQL. */

static ngx_int_t
ngx_commerce_script_down(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step)
{
    if (step->down == NULL) {
        return ngx_commerce_problem_retry(c, 503, "unavailable", 2,
            "This part of the shop cannot be reached at the moment; try "
            "again.");
    }

    c->script_phase = NGX_COMMERCE_SCRIPT_DOWN;

    return ngx_commerce_call_start(c, step->down);
}


/* A call within the step is done and c->step has its reply. */

ngx_int_t
ngx_commerce_script_resume(ngx_commerce_request_t *c)
{
    const ngx_commerce_step_t  *step;

    step = &c->op->steps[c->step_index];

    if (c->script_phase == NGX_COMMERCE_SCRIPT_MISS && c->step.status < 300) {
        c->script_phase = NGX_COMMERCE_SCRIPT_AGAIN;
        c->script_document = c->step.body;

        return ngx_commerce_script_eval(c, step);
    }

    return NGX_OK;
}


static ngx_int_t
ngx_commerce_script_copy(ngx_commerce_request_t *c, redisReply *reply,
    ngx_uint_t i, ngx_str_t *text)
{
    redisReply  *e;

    ngx_str_null(text);

    if (i >= reply->elements) {
        return NGX_OK;
    }

    e = reply->element[i];

    if (e->type != REDIS_REPLY_STRING || e->len == 0) {
        return NGX_OK;
    }

    text->data = ngx_pnalloc(c->request->pool, e->len + 1);
    if (text->data == NULL) {
        return NGX_ERROR;
    }

    text->len = e->len;
    ngx_memcpy(text->data, e->str, e->len);

    return NGX_OK;
}


static ngx_uint_t
ngx_commerce_script_status(redisReply *reply, ngx_uint_t i)
{
    ngx_int_t    n;
    redisReply  *e;

    n = NGX_ERROR;

    if (i < reply->elements) {
        e = reply->element[i];

        n = (e->type == REDIS_REPLY_INTEGER) ? (ngx_int_t) e->integer
            : (e->type == REDIS_REPLY_STRING)
              ? ngx_atoi((u_char *) e->str, e->len)
              : NGX_ERROR;
    }

    return (n >= 200 && n <= 599) ? (ngx_uint_t) n : 500;
}


static void
ngx_commerce_script_cancel(void *data)
{
    ngx_commerce_redis_detach(data);
}
