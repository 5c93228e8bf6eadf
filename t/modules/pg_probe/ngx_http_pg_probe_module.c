/*
 * pg_probe: a location that runs one statement and answers its first value.
 *
 *   pg_probe LANE "select …" [own];      $1 … are pg_probe_value's, in order
 *   pg_probe_before "select …";          without parameters
 *   pg_probe_value $arg_a;
 *   pg_probe_status;                     lanes and notifications as text
 *
 * Answers: 200 value, 500 "failed SQLSTATE", 503 "busy", "declined",
 * "unavailable", "timeout" or "lost".  X-Attempts and X-Queued tell more.
 */

#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_commerce_pg.h"


typedef struct {
    ngx_commerce_pg_lane_t   lane;
    ngx_commerce_pg_stmt_t  *before;
    ngx_str_t                text;
    ngx_commerce_pg_stmt_t  *query;
    ngx_array_t             *values;        /* ngx_http_complex_value_t */
    ngx_flag_t               own;
} ngx_http_pg_probe_conf_t;

typedef struct {
    ngx_http_request_t    *request;
    ngx_commerce_pg_op_t  *op;
} ngx_http_pg_probe_ctx_t;


static ngx_int_t ngx_http_pg_probe_handler(ngx_http_request_t *r);
static void ngx_http_pg_probe_cleanup(void *data);
static void ngx_http_pg_probe_done(ngx_commerce_pg_op_t *op,
    ngx_commerce_pg_status_t status, const PGresult *result);
static ngx_int_t ngx_http_pg_probe_send(ngx_http_request_t *r,
    ngx_uint_t status, ngx_str_t *text);
static void ngx_http_pg_probe_header(ngx_http_request_t *r, char *name,
    ngx_uint_t n);
static ngx_int_t ngx_http_pg_probe_status_handler(ngx_http_request_t *r);
static void ngx_http_pg_probe_notified(ngx_str_t *channel, ngx_str_t *payload);
static void *ngx_http_pg_probe_create_loc_conf(ngx_conf_t *cf);
static char *ngx_http_pg_probe(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
static char *ngx_http_pg_probe_before(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_pg_probe_value(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_pg_probe_status(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static ngx_int_t ngx_http_pg_probe_init_process(ngx_cycle_t *cycle);


static ngx_uint_t  ngx_http_pg_probe_fresh;
static ngx_uint_t  ngx_http_pg_probe_notifications;


static ngx_command_t  ngx_http_pg_probe_commands[] = {

    { ngx_string("pg_probe"), NGX_HTTP_LOC_CONF|NGX_CONF_TAKE23,
      ngx_http_pg_probe, NGX_HTTP_LOC_CONF_OFFSET, 0, NULL },

    { ngx_string("pg_probe_before"), NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_pg_probe_before, NGX_HTTP_LOC_CONF_OFFSET, 0, NULL },

    { ngx_string("pg_probe_value"), NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_pg_probe_value, NGX_HTTP_LOC_CONF_OFFSET, 0, NULL },

    { ngx_string("pg_probe_status"), NGX_HTTP_LOC_CONF|NGX_CONF_NOARGS,
      ngx_http_pg_probe_status, NGX_HTTP_LOC_CONF_OFFSET, 0, NULL },

      ngx_null_command
};


static ngx_http_module_t  ngx_http_pg_probe_module_ctx = {
    NULL,
    NULL,
    NULL,
    NULL,
    NULL,
    NULL,
    ngx_http_pg_probe_create_loc_conf,
    NULL
};


ngx_module_t  ngx_http_pg_probe_module = {
    NGX_MODULE_V1,
    &ngx_http_pg_probe_module_ctx,
    ngx_http_pg_probe_commands,
    NGX_HTTP_MODULE,
    NULL,
    NULL,
    ngx_http_pg_probe_init_process,
    NULL,
    NULL,
    NULL,
    NULL,
    NGX_MODULE_V1_PADDING
};


static ngx_int_t
ngx_http_pg_probe_handler(ngx_http_request_t *r)
{
    ngx_int_t                  rc;
    ngx_str_t                  values[16], text;
    ngx_uint_t                 i;
    ngx_http_cleanup_t        *cln;
    ngx_commerce_pg_op_t      *op;
    ngx_http_pg_probe_ctx_t   *ctx;
    ngx_http_pg_probe_conf_t  *plcf;
    ngx_http_complex_value_t  *cv;

    rc = ngx_http_discard_request_body(r);
    if (rc != NGX_OK) {
        return rc;
    }

    plcf = ngx_http_get_module_loc_conf(r, ngx_http_pg_probe_module);
    cv = plcf->values->elts;

    for (i = 0; i < plcf->values->nelts; i++) {
        if (ngx_http_complex_value(r, &cv[i], &values[i]) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    ctx = ngx_pcalloc(r->pool, sizeof(ngx_http_pg_probe_ctx_t));
    cln = ngx_http_cleanup_add(r, 0);
    op = ngx_commerce_pg_alloc();

    if (ctx == NULL || cln == NULL || op == NULL) {
        return NGX_ERROR;
    }

    op->lane = plcf->lane;
    op->rank = NGX_COMMERCE_PG_CHECKOUT;
    op->own_sync = plcf->own;
    op->before.stmt = plcf->before;
    op->query.stmt = plcf->query;
    op->query.values = values;
    op->handler = ngx_http_pg_probe_done;
    op->data = ctx;

    rc = ngx_commerce_pg_submit(op);

    if (rc != NGX_OK) {
        if (rc == NGX_BUSY) {
            ngx_str_set(&text, "busy");

        } else if (rc == NGX_DECLINED) {
            ngx_str_set(&text, "declined");

        } else {
            ngx_str_set(&text, "refused");
        }

        ngx_http_pg_probe_header(r, "Retry-After",
                                 ngx_commerce_pg_retry_after(plcf->lane));

        return ngx_http_pg_probe_send(r, 503, &text);
    }

    ctx->request = r;
    ctx->op = op;

    cln->handler = ngx_http_pg_probe_cleanup;
    cln->data = ctx;

    r->read_event_handler = ngx_http_test_reading;
    r->main->count++;

    if (ngx_handle_read_event(r->connection->read, 0) != NGX_OK) {
        return NGX_ERROR;
    }

    return NGX_DONE;
}


static void
ngx_http_pg_probe_cleanup(void *data)
{
    ngx_http_pg_probe_ctx_t  *ctx = data;

    if (ctx->op) {
        ngx_commerce_pg_detach(ctx->op);
    }
}


static void
ngx_http_pg_probe_done(ngx_commerce_pg_op_t *op,
    ngx_commerce_pg_status_t status, const PGresult *result)
{
    u_char                    buffer[64];
    ngx_int_t                 rc;
    ngx_str_t                 text;
    ngx_uint_t                code;
    ngx_connection_t         *c;
    ngx_http_request_t       *r;
    ngx_http_pg_probe_ctx_t  *ctx;
    static ngx_str_t          texts[] = {
        ngx_string("ok"), ngx_string("failed"), ngx_string("overloaded"),
        ngx_string("unavailable"), ngx_string("timeout"), ngx_string("lost")
    };

    ctx = op->data;
    ctx->op = NULL;

    r = ctx->request;
    c = r->connection;

    ngx_http_set_log_request(c->log, r);

    code = 503;
    text = texts[status];

    if (status == NGX_COMMERCE_PG_OK) {
        code = 200;
        text.len = 0;

        if (PQntuples(result) > 0 && PQnfields(result) > 0) {
            text.len = PQgetlength(result, 0, 0);
            text.data = ngx_pnalloc(r->pool, text.len);

            if (text.data == NULL) {
                code = 500;
                text.len = 0;

            } else {
                ngx_memcpy(text.data, PQgetvalue(result, 0, 0), text.len);
            }
        }

    } else if (status == NGX_COMMERCE_PG_FAILED) {
        code = 500;
        text.data = buffer;
        text.len = ngx_snprintf(buffer, sizeof(buffer), "failed %s",
                                PQresultErrorField(result, PG_DIAG_SQLSTATE))
                   - buffer;
    }

    ngx_http_pg_probe_header(r, "X-Attempts", op->attempts);
    ngx_http_pg_probe_header(r, "X-Queued", op->queued_ms);

    rc = ngx_http_pg_probe_send(r, code, &text);

    ngx_http_finalize_request(r, rc);
    ngx_http_run_posted_requests(c);
}


static ngx_int_t
ngx_http_pg_probe_send(ngx_http_request_t *r, ngx_uint_t status,
    ngx_str_t *text)
{
    ngx_int_t     rc;
    ngx_buf_t    *b;
    ngx_chain_t   out;

    r->headers_out.status = status;
    r->headers_out.content_length_n = text->len;
    ngx_str_set(&r->headers_out.content_type, "text/plain");

    rc = ngx_http_send_header(r);

    if (rc == NGX_ERROR || rc > NGX_OK || r->header_only) {
        return rc;
    }

    b = ngx_create_temp_buf(r->pool, text->len + 1);
    if (b == NULL) {
        return NGX_ERROR;
    }

    b->last = ngx_cpymem(b->last, text->data, text->len);
    b->last_buf = 1;

    if (text->len == 0) {
        b->temporary = 0;
    }

    out.buf = b;
    out.next = NULL;

    return ngx_http_output_filter(r, &out);
}


static void
ngx_http_pg_probe_header(ngx_http_request_t *r, char *name, ngx_uint_t n)
{
    ngx_table_elt_t  *h;

    h = ngx_list_push(&r->headers_out.headers);
    if (h == NULL) {
        return;
    }

    h->hash = 1;
    h->key.data = (u_char *) name;
    h->key.len = ngx_strlen(name);
    h->value.data = ngx_pnalloc(r->pool, NGX_INT_T_LEN);
    h->value.len = 0;

    if (h->value.data) {
        h->value.len = ngx_sprintf(h->value.data, "%ui", n) - h->value.data;
    }
}


static ngx_int_t
ngx_http_pg_probe_status_handler(ngx_http_request_t *r)
{
    u_char                         buffer[1024], *p;
    ngx_str_t                      text;
    ngx_uint_t                     i;
    ngx_commerce_pg_lane_status_t  status;
    static char                   *lanes[] = { "read", "write", "slow" };

    p = buffer;

    for (i = 0; i < sizeof(lanes) / sizeof(lanes[0]); i++) {
        ngx_commerce_pg_lane_status(i, &status);

        p = ngx_sprintf(p, "%s configured=%ui ready=%ui queued=%ui "
                        "in_flight=%ui open=%ui\n", lanes[i],
                        status.configured, status.ready, status.queued,
                        status.in_flight, status.breaker_open);
    }

    p = ngx_sprintf(p, "worker=%ui pid=%P fresh=%ui notifications=%ui\n",
                    ngx_worker, ngx_pid, ngx_http_pg_probe_fresh,
                    ngx_http_pg_probe_notifications);

    text.data = buffer;
    text.len = p - buffer;

    return ngx_http_pg_probe_send(r, 200, &text);
}


static void
ngx_http_pg_probe_notified(ngx_str_t *channel, ngx_str_t *payload)
{
    if (channel->len == 0) {
        ngx_http_pg_probe_fresh++;
        return;
    }

    ngx_http_pg_probe_notifications++;
}


static void *
ngx_http_pg_probe_create_loc_conf(ngx_conf_t *cf)
{
    ngx_http_pg_probe_conf_t  *plcf;

    plcf = ngx_pcalloc(cf->pool, sizeof(ngx_http_pg_probe_conf_t));

    if (plcf) {
        plcf->values = ngx_array_create(cf->pool, 4,
                                        sizeof(ngx_http_complex_value_t));
    }

    return plcf;
}


static char *
ngx_http_pg_probe(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_pg_probe_conf_t  *plcf = conf;

    u_char                    *p;
    ngx_str_t                 *value;
    ngx_uint_t                 params;
    ngx_http_core_loc_conf_t  *clcf;

    value = cf->args->elts;

    plcf->lane = (value[1].data[0] == 'r') ? NGX_COMMERCE_PG_READ
                 : (value[1].data[0] == 'w') ? NGX_COMMERCE_PG_WRITE
                 : NGX_COMMERCE_PG_SLOW;

    params = 0;

    for (p = value[2].data; *p; p++) {
        if (*p == '$' && p[1] >= '1' && p[1] <= '9') {
            params = ngx_max(params, (ngx_uint_t) (p[1] - '0'));
        }
    }

    plcf->own = (cf->args->nelts == 4);
    plcf->query = ngx_commerce_pg_statement(cf, &value[2], params);

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);
    clcf->handler = ngx_http_pg_probe_handler;

    return plcf->query ? NGX_CONF_OK : NGX_CONF_ERROR;
}


static char *
ngx_http_pg_probe_before(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_pg_probe_conf_t  *plcf = conf;

    ngx_str_t  *value;

    value = cf->args->elts;
    plcf->before = ngx_commerce_pg_statement(cf, &value[1], 0);

    return plcf->before ? NGX_CONF_OK : NGX_CONF_ERROR;
}


static char *
ngx_http_pg_probe_value(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_pg_probe_conf_t  *plcf = conf;

    ngx_str_t                         *value;
    ngx_http_compile_complex_value_t   ccv;

    value = cf->args->elts;

    ngx_memzero(&ccv, sizeof(ngx_http_compile_complex_value_t));

    ccv.cf = cf;
    ccv.value = &value[1];
    ccv.complex_value = ngx_array_push(plcf->values);

    if (ccv.complex_value == NULL
        || ngx_http_compile_complex_value(&ccv) != NGX_OK)
    {
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_pg_probe_status(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_core_loc_conf_t  *clcf;

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);
    clcf->handler = ngx_http_pg_probe_status_handler;

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_http_pg_probe_init_process(ngx_cycle_t *cycle)
{
    ngx_commerce_pg_on_notify("probe", ngx_http_pg_probe_notified);

    return NGX_OK;
}
