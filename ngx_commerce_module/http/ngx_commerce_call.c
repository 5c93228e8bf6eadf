/*
 * A step that calls a SQL function: arguments, context, reply, failures.
 */

#include "ngx_commerce_http.h"


/* What PostgreSQL's own states mean to a client. */

typedef struct {
    const char  *sqlstate;
    ngx_uint_t   status;
    const char  *code;
    ngx_uint_t   retry_after;
    ngx_uint_t   level;             /* of the log line; 0: none */
    const char  *detail;
} ngx_commerce_sqlstate_t;


static ngx_commerce_pg_stmt_t *ngx_commerce_call_statement(ngx_conf_t *cf,
    const ngx_commerce_call_t *call, size_t len, ngx_uint_t keep);
static ngx_int_t ngx_commerce_call_values(ngx_commerce_request_t *c,
    const ngx_commerce_call_t *call, ngx_str_t **values);
static ngx_int_t ngx_commerce_call_before(ngx_commerce_request_t *c,
    const ngx_commerce_call_t *call, ngx_uint_t keep,
    ngx_commerce_pg_query_t *before);
static ngx_int_t ngx_commerce_call_who(ngx_commerce_request_t *c,
    ngx_str_t **values);
static ngx_int_t ngx_commerce_call_owner(ngx_commerce_request_t *c,
    ngx_str_t *owner);
static void ngx_commerce_call_handler(ngx_commerce_pg_op_t *op,
    ngx_commerce_pg_status_t status, const PGresult *result);
static ngx_int_t ngx_commerce_call_reply(ngx_commerce_request_t *c,
    const PGresult *result);
static ngx_int_t ngx_commerce_call_refused(ngx_commerce_request_t *c);
static ngx_int_t ngx_commerce_call_column(ngx_commerce_request_t *c,
    const PGresult *result, int column, ngx_str_t *value);
static ngx_int_t ngx_commerce_call_failed(ngx_commerce_request_t *c,
    const PGresult *result);
static ngx_int_t ngx_commerce_call_replay(ngx_commerce_request_t *c,
    ngx_str_t *body, ngx_str_t *detail);
static ngx_int_t ngx_commerce_call_lost(ngx_commerce_request_t *c,
    ngx_commerce_pg_status_t status);
static void ngx_commerce_call_cancel(void *data);


static const ngx_commerce_sqlstate_t  ngx_commerce_sqlstates[] = {

    { "40001", 409, "busy", 1, 0,
      "Others are changing the same things; try again." },
    { "40P01", 409, "busy", 1, NGX_LOG_ERR,
      "Others are changing the same things; try again." },
    { "55P03", 409, "busy", 1, 0,
      "Another request is changing this; try again." },
    { "57014", 503, "timeout", 1, NGX_LOG_WARN,
      "The answer took too long; try again." },
    { "22P02", 422, "invalid-value", 0, NGX_LOG_INFO,
      "A value has not the form that is needed here." },
    { "22003", 422, "invalid-value", 0, NGX_LOG_INFO,
      "A number is out of range." },
    { "22007", 422, "invalid-value", 0, NGX_LOG_INFO,
      "A date or time has not the form that is needed here." },
    { "22008", 422, "invalid-value", 0, NGX_LOG_INFO,
      "A date or time is out of range." },
    { "22009", 422, "invalid-value", 0, NGX_LOG_INFO,
      "A date or time is out of range." },
    { "22023", 422, "invalid-value", 0, NGX_LOG_INFO,
      "A value is not possible here." },
    { "23505", 409, "conflict", 0, NGX_LOG_ERR,
      "Something else already has one of these values." },
    { "23503", 409, "conflict", 0, NGX_LOG_ERR,
      "Something that this refers to does not exist, or is still in use." },
    { "23514", 409, "conflict", 0, NGX_LOG_ERR,
      "The change would break a rule of the data." },
    { "42501", 403, "forbidden", 0, NGX_LOG_ERR,
      "This is not allowed." },
    { "53300", 503, "overloaded", 2, NGX_LOG_ERR,
      "The database takes no more connections; try again." },
    { "25006", 503, "unavailable", 2, NGX_LOG_ERR,
      "The database takes no changes at the moment; try again." },

    { NULL, 500, "internal", 0, NGX_LOG_ERR,
      "Something went wrong on our side; the correlation id helps to find "
      "it." }
};


/*
 * While the configuration is read: the statements of a call.  Named notation,
 * so that the function's signature decides about types and order.
 */

ngx_int_t
ngx_commerce_call_register(ngx_conf_t *cf, ngx_commerce_call_t *call)
{
    size_t    len;
    uint32_t  i;

    if (call->cache.tags_count > NGX_COMMERCE_CACHE_TAGS_MAX) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "commerce_contract: the call of %*s: a cached reply has "
                      "%d tags at most", call->function.len,
                      call->function.data, NGX_COMMERCE_CACHE_TAGS_MAX);
        return NGX_ERROR;
    }

    len = sizeof("SELECT s.status, s.body, s.headers, s.edge FROM () r")
          + call->function.len
          + 2 * sizeof(", LATERAL api.keep_reply(r.status, r.body, r.headers, "
                       "r.edge) r");

    for (i = 0; i < call->args_count; i++) {
        len += call->args[i].parameter.len + sizeof("\"\" => $4294967295, ");
    }

    call->stmt = ngx_commerce_call_statement(cf, call, len, 0);
    if (call->stmt == NULL) {
        return NGX_ERROR;
    }

    if (!call->keep_reply) {
        return NGX_OK;
    }

    call->stmt_keep = ngx_commerce_call_statement(cf, call, len, 1);

    return call->stmt_keep ? NGX_OK : NGX_ERROR;
}


/* The call, and around its reply what is to be done in the same transaction. */

static ngx_commerce_pg_stmt_t *
ngx_commerce_call_statement(ngx_conf_t *cf, const ngx_commerce_call_t *call,
    size_t len, ngx_uint_t keep)
{
    u_char      *p, last;
    uint32_t     i;
    ngx_str_t    text;

    text.data = ngx_pnalloc(cf->pool, len);
    if (text.data == NULL) {
        return NULL;
    }

    last = keep ? 'k' : call->audited ? 'a' : 'r';

    p = ngx_sprintf(text.data, "SELECT %c.status, %c.body, %c.headers, "
                    "%c.edge FROM %*s(", last, last, last, last,
                    call->function.len, call->function.data);

    for (i = 0; i < call->args_count; i++) {
        p = ngx_sprintf(p, "%s\"%*s\" => $%uD", i ? ", " : "",
                        call->args[i].parameter.len,
                        call->args[i].parameter.data, i + 1);
    }

    p = ngx_cpymem(p, ") r", 3);

    if (call->audited) {
        p = ngx_sprintf(p, ", LATERAL api.audited(r.status, r.body, "
                        "r.headers, r.edge) a");
    }

    if (keep) {
        last = call->audited ? 'a' : 'r';
        p = ngx_sprintf(p, ", LATERAL api.keep_reply(%c.status, %c.body, "
                        "%c.headers, %c.edge) k", last, last, last, last);
    }

    *p = '\0';
    text.len = p - text.data;

    return ngx_commerce_pg_statement(cf, &text, call->args_count);
}


ngx_int_t
ngx_commerce_call_start(ngx_commerce_request_t *c,
    const ngx_commerce_call_t *call)
{
    ngx_int_t              rc;
    ngx_str_t             *values;
    ngx_uint_t             keep;
    ngx_commerce_pg_op_t  *op;

    c->call = call;
    c->call_ticketed = 0;
    c->gate = NULL;

    if (ngx_commerce_call_values(c, call, &values) != NGX_OK) {
        return NGX_ERROR;
    }

    if (call->gate.ttl && ngx_commerce_gate_enter(c, &call->gate) != NGX_OK) {
        return NGX_ERROR;
    }

    if (call->cache.ttl) {
        rc = ngx_commerce_cached_call(c, call, values);

        if (rc == NGX_OK || rc == NGX_ERROR) {
            return rc;
        }
    }

    keep = call->keep_reply && c->idempotency_key.len;

    op = ngx_commerce_pg_alloc();
    if (op == NULL) {
        return NGX_ERROR;
    }

    op->lane = (ngx_commerce_pg_lane_t) call->lane;
    op->rank = (ngx_commerce_pg_rank_t) c->op->rank;
    op->query.stmt = keep ? call->stmt_keep : call->stmt;
    op->query.values = values;
    op->handler = ngx_commerce_call_handler;
    op->data = c;

    if (ngx_commerce_call_before(c, call, keep || call->recall, &op->before)
        != NGX_OK)
    {
        ngx_commerce_pg_free(op);
        return NGX_ERROR;
    }

    switch (ngx_commerce_pg_submit(op)) {

    case NGX_OK:
        c->cancel = ngx_commerce_call_cancel;
        c->cancel_data = op;
        return NGX_AGAIN;

    case NGX_BUSY:
        return ngx_commerce_call_lost(c, NGX_COMMERCE_PG_OVERLOADED);

    case NGX_DECLINED:
        return ngx_commerce_call_lost(c, NGX_COMMERCE_PG_UNAVAILABLE);

    default:
        return NGX_ERROR;
    }
}


static ngx_int_t
ngx_commerce_call_values(ngx_commerce_request_t *c,
    const ngx_commerce_call_t *call, ngx_str_t **values)
{
    uint32_t  i;

    *values = ngx_palloc(c->request->pool,
                         (call->args_count + 1) * sizeof(ngx_str_t));
    if (*values == NULL) {
        return NGX_ERROR;
    }

    for (i = 0; i < call->args_count; i++) {
        if (ngx_commerce_scope_arg(c, &call->args[i], &(*values)[i])
            != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


/* The context statement: docs/contract.md, section 6. */

static ngx_int_t
ngx_commerce_call_before(ngx_commerce_request_t *c,
    const ngx_commerce_call_t *call, ngx_uint_t keep,
    ngx_commerce_pg_query_t *before)
{
    ngx_str_t  *v;

    if (call->command) {
        before->stmt = c->conf->begin_command;
        return ngx_commerce_call_context(c, keep, &before->values);
    }

    if (ngx_commerce_call_who(c, &v) != NGX_OK) {
        return NGX_ERROR;
    }

    if (c->h_traceparent && ngx_commerce_traceparent(c) == NGX_OK) {
        v[4] = c->traceparent;
    }

    before->values = v;
    before->stmt = c->conf->begin_request;

    return NGX_OK;
}


static ngx_int_t
ngx_commerce_call_who(ngx_commerce_request_t *c, ngx_str_t **values)
{
    ngx_str_t  *v;

    v = ngx_pcalloc(c->request->pool,
                    11 * sizeof(ngx_str_t));
    if (v == NULL) {
        return NGX_ERROR;
    }

    *values = v;

    if (c->tenant.id.len) {
        v[0] = c->tenant.id;
    }

    if (c->principal.subject.len) {
        v[1] = c->principal.subject;
    }

    v[2] = c->principal.roles;
    v[3] = c->correlation_id;

    if (v[2].data == NULL) {
        v[2].data = (u_char *) "";
    }

    return NGX_OK;
}


ngx_int_t
ngx_commerce_call_context(ngx_commerce_request_t *c, ngx_uint_t keep,
    ngx_str_t **values)
{
    u_char     *p;
    ngx_str_t  *v, owner;

    if (ngx_commerce_call_who(c, values) != NGX_OK
        || ngx_commerce_traceparent(c) != NGX_OK)
    {
        return NGX_ERROR;
    }

    v = *values;

    v[4] = c->traceparent;
    v[5] = ngx_commerce_from_core(&c->op->id);

    if (c->request->connection->sockaddr->sa_family != AF_UNIX) {
        v[9] = c->request->connection->addr_text;
    }

    v[10] = c->actor;

    if (!keep) {
        return NGX_OK;
    }

    v[6] = c->idempotency_key;

    p = ngx_pnalloc(c->request->pool, 2 + 2 * sizeof(c->fingerprint));
    if (p == NULL) {
        return NGX_ERROR;
    }

    v[7].data = p;
    v[7].len = 2 + 2 * sizeof(c->fingerprint);
    p = ngx_cpymem(p, "\\x", 2);
    ngx_commerce_hex(p, c->fingerprint, sizeof(c->fingerprint));

    if (ngx_commerce_call_owner(c, &owner) != NGX_OK) {
        return NGX_ERROR;
    }

    p = ngx_pnalloc(c->request->pool, owner.len + c->op->id.len + 1);
    if (p == NULL) {
        return NGX_ERROR;
    }

    v[8].data = p;
    v[8].len = ngx_sprintf(p, "%V %*s", &owner, c->op->id.len, c->op->id.data)
               - p;

    return NGX_OK;
}


/* Whose key it is: a customer's, a guest's, or, with neither, an address's. */

static ngx_int_t
ngx_commerce_call_owner(ngx_commerce_request_t *c, ngx_str_t *owner)
{
    ngx_commerce_arg_t  arg;

    if (c->principal.subject.len || c->h_cart_token) {
        arg.name = ngx_commerce_str("$cart_owner");
        arg.slot = -1;
        return ngx_commerce_scope_arg(c, &arg, owner);
    }

    *owner = c->request->connection->addr_text;
    return NGX_OK;
}


static void
ngx_commerce_call_handler(ngx_commerce_pg_op_t *op,
    ngx_commerce_pg_status_t status, const PGresult *result)
{
    ngx_int_t                rc;
    ngx_http_request_t      *r;
    ngx_commerce_request_t  *c;

    c = op->data;
    r = c->request;

    c->cancel = NULL;
    c->pg_time += op->total_ms;
    c->pg_calls++;

    ngx_http_set_log_request(r->connection->log, r);

    rc = ngx_commerce_call_result(c, status, result);

    if (rc == NGX_OK) {
        ngx_commerce_cached_keep_call(c);

    } else if (c->gate && status == NGX_COMMERCE_PG_FAILED) {
        ngx_commerce_gate_learn(c, &c->call->gate, result);
    }

    /* what is outside waits for the commit, and this is it */

    if (c->step.edge.len && c->call->command
        && ngx_commerce_outbound_start(c, c->call->keep_reply
                                          && c->idempotency_key.len)
           == NGX_AGAIN)
    {
        return;
    }

    ngx_commerce_step_done(c);
}


ngx_int_t
ngx_commerce_call_result(ngx_commerce_request_t *c,
    ngx_commerce_pg_status_t status, const PGresult *result)
{
    ngx_int_t  rc;

    switch (status) {

    case NGX_COMMERCE_PG_OK:
        rc = ngx_commerce_call_reply(c, result);
        break;

    case NGX_COMMERCE_PG_FAILED:
        rc = ngx_commerce_call_failed(c, result);
        break;

    default:
        rc = ngx_commerce_call_lost(c, status);
    }

    if (rc != NGX_OK && !c->step.problem) {
        ngx_commerce_problem(c, 500, "internal", "Out of memory.");
    }

    return rc;
}


static ngx_int_t
ngx_commerce_call_reply(ngx_commerce_request_t *c, const PGresult *result)
{
    ngx_int_t              status;
    ngx_commerce_reply_t  *reply;

    reply = &c->step;
    ngx_memzero(reply, sizeof(ngx_commerce_reply_t));

    if (PQntuples(result) != 1 || PQnfields(result) != 4
        || PQgetisnull(result, 0, 0))
    {
        ngx_log_error(NGX_LOG_ERR, c->request->connection->log, 0,
                      "commerce: %*s returned %d rows of %d columns instead "
                      "of one api.reply with a status",
                      c->call->function.len, c->call->function.data,
                      PQntuples(result), PQnfields(result));
        return ngx_commerce_problem_internal(c);
    }

    status = ngx_atoi((u_char *) PQgetvalue(result, 0, 0),
                      PQgetlength(result, 0, 0));
    reply->status = (status >= 200 && status <= 599) ? status : 500;

    if (ngx_commerce_call_column(c, result, 1, &reply->body) != NGX_OK
        || ngx_commerce_call_column(c, result, 2, &reply->headers) != NGX_OK
        || ngx_commerce_call_column(c, result, 3, &reply->edge) != NGX_OK)
    {
        return NGX_ERROR;
    }

    return (reply->status < 400) ? NGX_OK : ngx_commerce_call_refused(c);
}


/*
 * A function that has to refuse, yet keeps what it has written, returns its
 * refusal instead of raising it: {"code", "detail", …} becomes the problem.
 * It was committed, so what it tells the edge holds as for any other reply.
 */

static ngx_int_t
ngx_commerce_call_refused(ngx_commerce_request_t *c)
{
    ngx_int_t                  rc;
    ngx_str_t                  code, detail, body, edge;
    ngx_uint_t                 status;
    ngx_commerce_json_t       *root, *member;
    ngx_commerce_alloc_t       alloc;
    ngx_commerce_json_error_t  error;

    body = c->step.body;
    edge = c->step.edge;
    status = c->step.status;

    ngx_str_set(&code, "failed");
    ngx_str_set(&detail, "The request was refused.");

    alloc = ngx_commerce_pool_alloc(c->request->pool);

    if (ngx_commerce_json_parse(&alloc, body.data, body.len, NULL, &root,
                                &error)
        == NGX_COMMERCE_OK)
    {
        member = ngx_commerce_json_get(root, "detail");

        if (member && member->type == NGX_COMMERCE_JSON_STRING) {
            detail = ngx_commerce_from_core(&member->text);
        }
    }

    rc = ngx_commerce_problem_extended(c, status, &code, &detail, &body);
    c->step.edge = edge;

    return rc;
}


static ngx_int_t
ngx_commerce_call_column(ngx_commerce_request_t *c, const PGresult *result,
    int column, ngx_str_t *value)
{
    if (PQgetisnull(result, 0, column)) {
        ngx_str_null(value);
        return NGX_OK;
    }

    value->len = PQgetlength(result, 0, column);
    value->data = ngx_pnalloc(c->request->pool, value->len + 1);

    if (value->data == NULL) {
        return NGX_ERROR;
    }

    ngx_memcpy(value->data, PQgetvalue(result, 0, column), value->len);

    return NGX_OK;
}


static ngx_int_t
ngx_commerce_call_failed(ngx_commerce_request_t *c, const PGresult *result)
{
    char                           *state, *message, *detail, *where, *kept;
    ngx_int_t                       status;
    ngx_str_t                       code, text, extension;
    const ngx_commerce_sqlstate_t  *s;

    state = PQresultErrorField(result, PG_DIAG_SQLSTATE);
    message = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
    detail = PQresultErrorField(result, PG_DIAG_MESSAGE_DETAIL);

    if (state == NULL) {
        state = "XX000";
    }

    text.data = (u_char *) (message ? message : "");
    text.len = ngx_strlen(text.data);

    extension.data = (u_char *) (detail ? detail : "");
    extension.len = ngx_strlen(extension.data);

    if (ngx_strcmp(state, "SHRPL") == 0) {

        /* in the one field that PostgreSQL does not log */

        kept = PQresultErrorField(result, PG_DIAG_DATATYPE_NAME);
        text.data = (u_char *) (kept ? kept : "");
        text.len = ngx_strlen(text.data);

        return ngx_commerce_call_replay(c, &text, &extension);
    }

    if (state[0] == 'S' && state[1] == 'H') {
        status = ngx_atoi((u_char *) state + 2, 3);

        if (status >= 400 && status <= 599) {
            ngx_str_set(&code, "failed");

            return ngx_commerce_problem_extended(c, status, &code, &text,
                                                 &extension);
        }
    }

    for (s = ngx_commerce_sqlstates; s->sqlstate; s++) {
        if (ngx_strcmp(s->sqlstate, state) == 0) {
            break;
        }
    }

    if (s->level) {
        where = PQresultErrorField(result, PG_DIAG_CONTEXT);

        ngx_log_error(s->level, c->request->connection->log, 0,
                      "commerce: %*s failed: SQLSTATE %s: %V%s%s, "
                      "correlation: %V", c->call->function.len,
                      c->call->function.data, state, &text,
                      where ? ", at " : "", where ? where : "",
                      &c->correlation_id);
    }

    if (s->retry_after) {
        return ngx_commerce_problem_retry(c, s->status, s->code,
                                          s->retry_after, s->detail);
    }

    return ngx_commerce_problem(c, s->status, s->code, "%s", s->detail);
}


/* The stored answer of an earlier request with the same key. */

static ngx_int_t
ngx_commerce_call_replay(ngx_commerce_request_t *c, ngx_str_t *body,
    ngx_str_t *detail)
{
    u_char                    *p;
    ngx_commerce_json_t       *root, *member;
    ngx_commerce_alloc_t       alloc;
    ngx_commerce_reply_t      *reply;
    ngx_commerce_json_error_t  error;

    reply = &c->step;
    ngx_memzero(reply, sizeof(ngx_commerce_reply_t));

    p = ngx_pnalloc(c->request->pool, body->len + detail->len + 1);
    if (p == NULL) {
        return NGX_ERROR;
    }

    if (body->len) {
        reply->body.data = p;
        reply->body.len = body->len;
    }

    p = ngx_cpymem(p, body->data, body->len);
    ngx_memcpy(p, detail->data, detail->len);

    alloc = ngx_commerce_pool_alloc(c->request->pool);

    if (ngx_commerce_json_parse(&alloc, p, detail->len, NULL, &root, &error)
        != NGX_COMMERCE_OK)
    {
        return NGX_ERROR;
    }

    member = ngx_commerce_json_get(root, "status");
    reply->status = (member && member->integer) ? member->number : 200;
    reply->replayed = 1;

    member = ngx_commerce_json_get(root, "headers");

    if (member && member->type == NGX_COMMERCE_JSON_OBJECT) {
        reply->headers = ngx_commerce_from_core(&member->raw);
    }

    return NGX_OK;
}


/* Nothing was sent, or it is unknown what became of it. */

static ngx_int_t
ngx_commerce_call_lost(ngx_commerce_request_t *c,
    ngx_commerce_pg_status_t status)
{
    ngx_uint_t                  retry;
    const ngx_commerce_call_t  *call;

    call = c->call;
    retry = ngx_commerce_pg_retry_after((ngx_commerce_pg_lane_t) call->lane);

    switch (status) {

    case NGX_COMMERCE_PG_OVERLOADED:
        return ngx_commerce_problem_retry(c, 503, "overloaded", retry,
            "Too many requests are waiting; nothing was done. Try again.");

    case NGX_COMMERCE_PG_UNAVAILABLE:
        return ngx_commerce_problem_retry(c, 503, "database-unavailable",
            retry, "The database cannot be reached; nothing was done. Try "
            "again.");

    case NGX_COMMERCE_PG_TIMEOUT:
        return ngx_commerce_problem_retry(c, 503, "timeout", retry,
            "The request waited too long for its turn; nothing was done. Try "
            "again.");

    default:
        if (call->command) {
            return ngx_commerce_problem_retry(c, 503, "outcome-unknown",
                retry, "The connection to the database was lost before it "
                "answered; the change may have been made. Read again, or "
                "repeat the request with the same Idempotency-Key.");
        }

        return ngx_commerce_problem_retry(c, 503, "database-unavailable",
            retry, "The connection to the database was lost; try again.");
    }
}


static void
ngx_commerce_call_cancel(void *data)
{
    ngx_commerce_pg_detach(data);
}
