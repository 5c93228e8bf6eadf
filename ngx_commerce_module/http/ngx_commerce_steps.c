/*
 * The engine: runs the steps of an operation one after another, holding the
 * request while one of them waits for an event.
 */

#include "ngx_commerce_http.h"


static ngx_int_t ngx_commerce_steps_start(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step);
static ngx_int_t ngx_commerce_steps_after(ngx_commerce_request_t *c);
static ngx_int_t ngx_commerce_steps_finish(ngx_commerce_request_t *c);
static ngx_uint_t ngx_commerce_steps_due(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step);
static ngx_int_t ngx_commerce_steps_hold(ngx_commerce_request_t *c);
static ngx_int_t ngx_commerce_steps_watch(ngx_commerce_request_t *c);
static void ngx_commerce_steps_cleanup(void *data);


ngx_int_t
ngx_commerce_steps_run(ngx_commerce_request_t *c)
{
    ngx_int_t                   rc;
    const ngx_commerce_step_t  *step;

    while (c->step_index < c->op->steps_count) {

        step = &c->op->steps[c->step_index];

        if (!ngx_commerce_steps_due(c, step)) {
            c->step_index++;
            continue;
        }

        ngx_memzero(&c->step, sizeof(ngx_commerce_reply_t));

        rc = ngx_commerce_steps_start(c, step);

        if (rc == NGX_AGAIN) {
            return ngx_commerce_steps_hold(c);
        }

        if (rc == NGX_ERROR && !c->step.problem) {
            ngx_commerce_problem(c, 500, "internal", "Out of memory.");
        }

        if (ngx_commerce_steps_after(c) != NGX_OK) {
            break;
        }
    }

    return ngx_commerce_steps_finish(c);
}


static ngx_int_t
ngx_commerce_steps_start(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step)
{
    switch (step->kind) {

    case NGX_COMMERCE_STEP_CALL:
        return ngx_commerce_call_start(c, step->call);

    case NGX_COMMERCE_STEP_SCRIPT:
        return ngx_commerce_script_start(c, step);

    default:
        return ((ngx_commerce_native_pt) (uintptr_t) step->data)(c, step);
    }
}


void
ngx_commerce_step_done(ngx_commerce_request_t *c)
{
    ngx_int_t            rc;
    ngx_connection_t    *connection;
    ngx_http_request_t  *r;

    r = c->request;
    connection = r->connection;

    c->cancel = NULL;
    c->idle = 0;

    ngx_http_set_log_request(connection->log, r);

    /* a call within a script step goes back to the script */

    if (c->op->steps[c->step_index].kind == NGX_COMMERCE_STEP_SCRIPT
        && c->script_phase)
    {
        rc = ngx_commerce_script_resume(c);

        if (rc == NGX_AGAIN) {
            return;
        }

        if (rc == NGX_ERROR && !c->step.problem) {
            ngx_commerce_problem(c, 500, "internal", "Out of memory.");
        }

        c->script_phase = 0;
    }

    if (ngx_commerce_steps_after(c) == NGX_OK) {
        rc = ngx_commerce_steps_run(c);

    } else {
        rc = ngx_commerce_steps_finish(c);
    }

    if (rc != NGX_AGAIN) {
        ngx_http_finalize_request(r, rc);
    }

    ngx_http_run_posted_requests(connection);
}


void
ngx_commerce_step_reply(ngx_commerce_request_t *c, ngx_uint_t status,
    ngx_str_t *body)
{
    ngx_memzero(&c->step, sizeof(ngx_commerce_reply_t));

    c->step.status = status;

    if (body) {
        c->step.body = *body;
    }
}


/* NGX_OK: on to the next step.  NGX_DONE: c->reply is final. */

static ngx_int_t
ngx_commerce_steps_after(ngx_commerce_request_t *c)
{
    const ngx_commerce_step_t  *step;

    step = &c->op->steps[c->step_index];

    /* a refusal may void something too: a refresh token that comes twice ends its session */

    if (ngx_commerce_reply_edge(c, &c->step) != NGX_OK) {
        ngx_commerce_problem_internal(c);
    }

    if (c->step.status >= 300) {

        if (!step->optional && c->reply.status == 0) {
            c->reply = c->step;
            return NGX_DONE;
        }

        /* what the client asked for is done, or does not depend on this */

        ngx_log_error(NGX_LOG_WARN, c->request->connection->log, 0,
                      "commerce: optional step %ui of \"%*s\" answered %ui "
                      "%V", c->step_index, c->op->id.len, c->op->id.data,
                      c->step.status, &c->code);

        ngx_str_null(&c->code);
        c->step_index++;
        return NGX_OK;
    }

    /* a replay did all that follows when it was new; now it would be done to something else */

    if (c->step.replayed || c->step.final) {
        c->reply = c->step;
        return NGX_DONE;
    }

    if (c->step_index == c->op->reply_step) {
        c->reply = c->step;

    } else if (step->amend) {
        c->reply.body = c->step.body;
        c->view = 1;
        c->once |= (step->kind == NGX_COMMERCE_STEP_NATIVE);
    }

    c->step_index++;

    if (c->step_index <= c->op->last_step
        && ngx_commerce_scope_bind(c, &c->step.body) != NGX_OK)
    {
        ngx_commerce_problem_internal(c);

        if (c->reply.status == 0) {
            c->reply = c->step;
        }

        return NGX_DONE;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_commerce_steps_finish(ngx_commerce_request_t *c)
{
    if (c->reply.status == 0) {
        ngx_log_error(NGX_LOG_ERR, c->request->connection->log, 0,
                      "commerce: no step of \"%*s\" gave a reply",
                      c->op->id.len, c->op->id.data);

        ngx_commerce_problem_internal(c);
        c->reply = c->step;
    }

    if (ngx_commerce_sealed_reply(c, &c->reply) != NGX_OK
        || ngx_commerce_reply_fields(c) != NGX_OK)
    {
        ngx_commerce_problem_internal(c);
        c->reply = c->step;
    }

    ngx_commerce_cached_keep_response(c);

    return ngx_commerce_reply_send(c);
}


static ngx_uint_t
ngx_commerce_steps_due(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step)
{
    ngx_commerce_value_t  *v;

    if (step->kind == NGX_COMMERCE_STEP_CALL && step->call->recall) {
        return c->idempotency_key.len > 0;
    }

    if (step->when < 0) {
        return 1;
    }

    v = &c->slots[step->when];

    return v->set && v->type != NGX_COMMERCE_JSON_NULL
           && v->type != NGX_COMMERCE_JSON_FALSE && v->text.len
           && !(v->type == NGX_COMMERCE_JSON_OBJECT && v->text.len == 2)
           && !(v->type == NGX_COMMERCE_JSON_ARRAY && v->text.len == 2);
}


/*
 * The request waits.  A reader that goes away is let go at once, and so is
 * whoever waits for something without effect (a password's hash); a command is
 * carried to its end, so that what follows a commit (the cart is emptied, the
 * cache is told) is not lost with the client.
 */

static ngx_int_t
ngx_commerce_steps_hold(ngx_commerce_request_t *c)
{
    ngx_http_request_t  *r;
    ngx_http_cleanup_t  *cleanup;

    r = c->request;

    if (c->waiting) {
        return ngx_commerce_steps_watch(c);
    }

    cleanup = ngx_http_cleanup_add(r, 0);

    if (cleanup == NULL) {
        c->cancel(c->cancel_data);
        c->cancel = NULL;
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    cleanup->handler = ngx_commerce_steps_cleanup;
    cleanup->data = c;

    c->waiting = 1;

    r->write_event_handler = ngx_http_request_empty_handler;

    return ngx_commerce_steps_watch(c);
}


static ngx_int_t
ngx_commerce_steps_watch(ngx_commerce_request_t *c)
{
    ngx_http_request_t  *r;

    r = c->request;

    if (c->op->method != NGX_COMMERCE_GET && !c->idle) {
        r->read_event_handler = ngx_http_block_reading;
        return NGX_AGAIN;
    }

    if (r->read_event_handler == ngx_http_test_reading) {
        return NGX_AGAIN;
    }

    r->read_event_handler = ngx_http_test_reading;

    if (r->connection->read->ready) {
        ngx_post_event(r->connection->read, &ngx_posted_events);

    } else if (ngx_handle_read_event(r->connection->read, 0) != NGX_OK) {
        c->cancel(c->cancel_data);
        c->cancel = NULL;
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    return NGX_AGAIN;
}


/* The request ends, however: what is under way must not come back to it. */

static void
ngx_commerce_steps_cleanup(void *data)
{
    ngx_commerce_request_t  *c = data;

    if (c->cancel) {
        c->cancel(c->cancel_data);
        c->cancel = NULL;
    }
}
