/*
 * A request until its steps begin: route, tenant, limits, identity, input.
 */

#include "ngx_commerce_http.h"


#define NGX_COMMERCE_CORRELATION_MAX  64
#define NGX_COMMERCE_HOLD_STEP        10


/* What a header means that comes again: RFC 9110, 5.3. */

typedef enum {
    NGX_COMMERCE_HEADER_ONCE = 0,       /* a fault: nobody may choose which one counts */
    NGX_COMMERCE_HEADER_LIST,           /* one list in several lines */
    NGX_COMMERCE_HEADER_TRACE           /* as if there were none: tracing refuses nobody */
} ngx_commerce_header_rule_t;


static ngx_int_t ngx_commerce_request_begin(ngx_commerce_request_t *c);
static ngx_int_t ngx_commerce_request_hold(ngx_commerce_request_t *c);
static void ngx_commerce_request_again(ngx_http_request_t *r);
static ngx_int_t ngx_commerce_request_wait(ngx_commerce_request_t *c);
static ngx_int_t ngx_commerce_request_limits(ngx_commerce_request_t *c,
    ngx_uint_t stage);
static ngx_int_t ngx_commerce_request_guard(ngx_commerce_request_t *c);
static ngx_int_t ngx_commerce_request_go(ngx_commerce_request_t *c);
static void ngx_commerce_request_body_handler(ngx_http_request_t *r);
static ngx_int_t ngx_commerce_request_refuse(ngx_commerce_request_t *c);
static ngx_int_t ngx_commerce_request_route(ngx_commerce_request_t *c);
static ngx_int_t ngx_commerce_request_path(ngx_http_request_t *r,
    ngx_str_t *path);
static ngx_int_t ngx_commerce_request_options(ngx_commerce_request_t *c);
static ngx_int_t ngx_commerce_request_allow(ngx_commerce_request_t *c);
static ngx_int_t ngx_commerce_request_headers(ngx_commerce_request_t *c);
static ngx_int_t ngx_commerce_request_repeated(ngx_commerce_request_t *c,
    ngx_table_elt_t **field, ngx_table_elt_t *h,
    ngx_commerce_header_rule_t rule);
static ngx_int_t ngx_commerce_request_correlation(ngx_commerce_request_t *c);


ngx_int_t
ngx_commerce_request_handler(ngx_http_request_t *r)
{
    ngx_int_t                rc;
    ngx_commerce_request_t  *c;

    c = ngx_commerce_request_get(r);
    if (c == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    rc = ngx_commerce_request_begin(c);

    if (rc == NGX_AGAIN) {

        if (c->limited) {
            return (ngx_commerce_request_wait(c) == NGX_OK)
                   ? NGX_DONE : NGX_HTTP_INTERNAL_SERVER_ERROR;
        }

        return ngx_commerce_request_hold(c);
    }

    if (rc != NGX_OK) {
        return ngx_commerce_request_refuse(c);
    }

    if (c->reply.status) {

        rc = ngx_http_discard_request_body(r);
        if (rc != NGX_OK) {
            return rc;
        }

        return ngx_commerce_reply_send(c);
    }

    if (c->op->method == NGX_COMMERCE_GET) {

        rc = ngx_http_discard_request_body(r);
        if (rc != NGX_OK) {
            return rc;
        }

        rc = ngx_commerce_steps_run(c);

        if (rc == NGX_AGAIN) {
            r->main->count++;
            return NGX_DONE;
        }

        return rc;
    }

    r->request_body_in_single_buf = 1;

    rc = ngx_http_read_client_request_body(r,
                                           ngx_commerce_request_body_handler);

    if (rc >= NGX_HTTP_SPECIAL_RESPONSE) {
        return rc;
    }

    return NGX_DONE;
}


static void
ngx_commerce_request_body_handler(ngx_http_request_t *r)
{
    ngx_int_t                rc;
    ngx_commerce_request_t  *c;

    c = ngx_http_get_module_ctx(r, ngx_http_commerce_module);

    rc = ngx_commerce_request_go(c);

    if (rc != NGX_AGAIN) {
        ngx_http_finalize_request(r, rc);
    }
}


/*
 * The very first requests of a start or an upgrade come before the list of
 * shops: they wait for it as a delayed request of limit_req does, and the
 * handler runs again.
 */

static ngx_int_t
ngx_commerce_request_hold(ngx_commerce_request_t *c)
{
    ngx_http_request_t  *r;

    r = c->request;

    if (ngx_handle_read_event(r->connection->read, 0) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    r->read_event_handler = ngx_http_test_reading;
    r->write_event_handler = ngx_commerce_request_again;

    r->connection->write->delayed = 1;
    ngx_add_timer(r->connection->write, NGX_COMMERCE_HOLD_STEP);

    r->main->count++;

    return NGX_DONE;
}


static void
ngx_commerce_request_again(ngx_http_request_t *r)
{
    ngx_event_t  *wev;

    wev = r->connection->write;

    if (wev->delayed) {

        if (ngx_handle_write_event(wev, 0) != NGX_OK) {
            ngx_http_finalize_request(r, NGX_HTTP_INTERNAL_SERVER_ERROR);
        }

        return;
    }

    r->read_event_handler = ngx_http_block_reading;
    r->write_event_handler = ngx_http_request_empty_handler;

    ngx_http_finalize_request(r, ngx_commerce_request_handler(r));
}


/* Redis was asked about a limit; it answers soon or not at all. */

static ngx_int_t
ngx_commerce_request_wait(ngx_commerce_request_t *c)
{
    ngx_http_request_t  *r;

    r = c->request;

    if (ngx_handle_read_event(r->connection->read, 0) != NGX_OK) {
        return NGX_ERROR;
    }

    r->read_event_handler = ngx_http_test_reading;
    r->write_event_handler = ngx_http_request_empty_handler;

    if (!c->accepted) {
        r->main->count++;
    }

    return NGX_OK;
}


void
ngx_commerce_request_resume(ngx_commerce_request_t *c)
{
    ngx_int_t            rc;
    ngx_http_request_t  *r;

    r = c->request;
    c->limited = 0;

    r->read_event_handler = ngx_http_block_reading;

    if (c->accepted) {
        ngx_commerce_request_body_handler(r);
        return;
    }

    rc = ngx_commerce_request_handler(r);

    ngx_http_finalize_request(r, rc);
}


/*
 * Everything before the body.  NGX_OK with c->reply set: answered already.
 * NGX_AGAIN: the list of shops is not there yet.
 */

static ngx_int_t
ngx_commerce_request_begin(ngx_commerce_request_t *c)
{
    ngx_int_t            rc, known;
    ngx_http_request_t  *r;

    r = c->request;
    known = ngx_commerce_address_recall(c);

    if (known == NGX_ERROR) {
        return NGX_ERROR;
    }

    if (known == NGX_DECLINED) {

        if (ngx_commerce_request_route(c) != NGX_OK) {
            return NGX_ERROR;
        }

        if (c->reply.status) {
            return NGX_OK;
        }
    }

    if (c->h_repeated) {
        return ngx_commerce_problem(c, 400, "duplicate-header",
            "The header \"%V\" may be given once only.", &c->h_repeated->key);
    }

    if (known == NGX_DECLINED) {

        c->slots = ngx_pcalloc(r->pool, (c->op->slots_count + 1)
                                        * sizeof(ngx_commerce_value_t));
        if (c->slots == NULL) {
            return NGX_ERROR;
        }
    }

    rc = ngx_commerce_request_guard(c);

    if (rc != NGX_OK) {
        return rc;
    }

    if (known == NGX_DECLINED) {

        if (ngx_commerce_input_params(c) != NGX_OK) {
            return NGX_ERROR;
        }

        ngx_commerce_address_keep(c);
    }

    if (c->op->method != NGX_COMMERCE_GET) {

        if (c->op->body || c->op->body_raw) {
            return ngx_commerce_body_media(c);
        }

        /* what is not taken is not read either */

        return (r->headers_in.content_length_n > 0)
               ? ngx_commerce_problem(c, 400, "unexpected-body",
                                      "This operation takes no body.")
               : NGX_OK;
    }

    if (c->op->cache.ttl
        && ngx_commerce_cached_response(c) == NGX_ERROR)
    {
        return NGX_ERROR;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_commerce_request_guard(ngx_commerce_request_t *c)
{
    u_char     *p;
    uint32_t    i;
    ngx_int_t   rc;

    rc = ngx_commerce_guard_tenant(c);

    if (rc != NGX_OK) {
        return rc;
    }

    rc = ngx_commerce_request_limits(c, NGX_COMMERCE_STAGE_ADDRESS);

    if (rc != NGX_OK) {
        return rc;
    }

    if (ngx_commerce_guard_auth(c) != NGX_OK) {
        return NGX_ERROR;
    }

    rc = ngx_commerce_request_limits(c, NGX_COMMERCE_STAGE_PRINCIPAL);

    if (rc != NGX_OK) {
        return rc;
    }

    if (c->op->conditional == NGX_COMMERCE_CONDITIONAL_IF_MATCH
        && c->h_if_match == NULL)
    {
        return ngx_commerce_problem(c, 428, "if-match-required",
            "Send If-Match with the ETag of the version that is to be "
            "changed.");
    }

    for (i = 0; i < c->op->ids_count; i++) {

        p = ngx_pnalloc(c->request->pool, NGX_COMMERCE_UUID_LEN);
        if (p == NULL) {
            return NGX_ERROR;
        }

        ngx_commerce_uuid7_now(p);

        c->slots[c->op->ids[i]].set = 1;
        c->slots[c->op->ids[i]].type = NGX_COMMERCE_JSON_STRING;
        c->slots[c->op->ids[i]].text.data = p;
        c->slots[c->op->ids[i]].text.len = NGX_COMMERCE_UUID_LEN;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_commerce_request_limits(ngx_commerce_request_t *c, ngx_uint_t stage)
{
    ngx_int_t  rc;

    rc = ngx_commerce_guard_limits(c, stage);

    c->limited = (rc == NGX_AGAIN);

    return rc;
}


/* The body is there. */

static ngx_int_t
ngx_commerce_request_go(ngx_commerce_request_t *c)
{
    ngx_int_t  rc;

    rc = NGX_OK;

    if (!c->accepted) {
        rc = ngx_commerce_body_accept(c);
        c->accepted = 1;
    }

    if (rc == NGX_OK) {
        rc = ngx_commerce_request_limits(c, NGX_COMMERCE_STAGE_BODY);
    }

    if (rc == NGX_AGAIN && ngx_commerce_request_wait(c) == NGX_OK) {
        return NGX_AGAIN;
    }

    if (rc != NGX_OK) {
        if (!c->step.problem) {
            ngx_commerce_problem(c, 500, "internal", "Out of memory.");
        }

        c->reply = c->step;
        return ngx_commerce_reply_send(c);
    }

    return ngx_commerce_steps_run(c);
}


/* A problem before the body was read. */

static ngx_int_t
ngx_commerce_request_refuse(ngx_commerce_request_t *c)
{
    ngx_int_t  rc;

    rc = ngx_http_discard_request_body(c->request);
    if (rc != NGX_OK) {
        return rc;
    }

    if (!c->step.problem) {
        ngx_commerce_problem(c, 500, "internal", "Out of memory.");
    }

    c->reply = c->step;

    return ngx_commerce_reply_send(c);
}


ngx_commerce_request_t *
ngx_commerce_request_get(ngx_http_request_t *r)
{
    ngx_commerce_request_t  *c;

    c = ngx_http_get_module_ctx(r, ngx_http_commerce_module);

    if (c) {
        return c;
    }

    c = ngx_pcalloc(r->pool, sizeof(ngx_commerce_request_t));
    if (c == NULL) {
        return NULL;
    }

    c->request = r;
    c->conf = ngx_http_get_module_main_conf(r, ngx_http_commerce_module);

    if (ngx_commerce_request_headers(c) != NGX_OK
        || ngx_commerce_request_correlation(c) != NGX_OK)
    {
        return NULL;
    }

    ngx_http_set_ctx(r, c, ngx_http_commerce_module);

    return c;
}


/*
 * One pass over the headers for those that nginx does not know, or takes the
 * first of.  A second Authorization or X-API-Key is 401 where it is looked at;
 * parameters of the contract: ngx_commerce_input.c.
 */

static ngx_int_t
ngx_commerce_request_headers(ngx_commerce_request_t *c)
{
    ngx_uint_t        i;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *h;

#define ngx_commerce_header(name, field, rule)                                \
    if (ngx_memcmp(h[i].lowcase_key, name, sizeof(name) - 1) == 0) {          \
                                                                              \
        if (c->field == NULL) {                                               \
            c->field = &h[i];                                                 \
                                                                              \
        } else if (ngx_commerce_request_repeated(c, &c->field, &h[i],         \
                                           NGX_COMMERCE_HEADER_##rule)        \
                   != NGX_OK)                                                 \
        {                                                                     \
            return NGX_ERROR;                                                 \
        }                                                                     \
    }

    for (part = &c->request->headers_in.headers.part; part; part = part->next) {
        h = part->elts;

        for (i = 0; i < part->nelts; i++) {

            switch (h[i].key.len) {

            case 6:
                ngx_commerce_header("prefer", h_prefer, LIST);
                break;

            case 8:
                ngx_commerce_header("if-match", h_if_match, ONCE);
                break;

            case 11:
                ngx_commerce_header("traceparent", h_traceparent, TRACE);
                break;

            case 12:
                ngx_commerce_header("x-cart-token", h_cart_token, ONCE);
                ngx_commerce_header("content-type", h_content_type, ONCE);
                break;

            case 13:
                ngx_commerce_header("if-none-match", h_if_none_match, ONCE);
                break;

            case 15:
                ngx_commerce_header("idempotency-key", h_idempotency_key, ONCE);
                break;

            case 16:
                ngx_commerce_header("x-correlation-id", h_correlation_id,
                                    TRACE);
                ngx_commerce_header("content-encoding", h_content_encoding,
                                    LIST);
                break;
            }
        }
    }

#undef ngx_commerce_header

    return NGX_OK;
}


static ngx_int_t
ngx_commerce_request_repeated(ngx_commerce_request_t *c,
    ngx_table_elt_t **field, ngx_table_elt_t *h,
    ngx_commerce_header_rule_t rule)
{
    u_char           *p;
    ngx_table_elt_t  *joined;

    if (rule == NGX_COMMERCE_HEADER_ONCE) {
        c->h_repeated = h;
        return NGX_OK;
    }

    joined = ngx_pcalloc(c->request->pool, sizeof(ngx_table_elt_t));
    if (joined == NULL) {
        return NGX_ERROR;
    }

    joined->key = h->key;

    if (rule == NGX_COMMERCE_HEADER_LIST) {

        p = ngx_pnalloc(c->request->pool,
                        (*field)->value.len + 2 + h->value.len);
        if (p == NULL) {
            return NGX_ERROR;
        }

        joined->value.data = p;
        p = ngx_cpymem(p, (*field)->value.data, (*field)->value.len);
        p = ngx_cpymem(p, ", ", 2);
        p = ngx_cpymem(p, h->value.data, h->value.len);
        joined->value.len = p - joined->value.data;
    }

    *field = joined;

    return NGX_OK;
}


static ngx_int_t
ngx_commerce_request_correlation(ngx_commerce_request_t *c)
{
    size_t      i;
    u_char      ch;
    ngx_str_t  *s;

    if (c->h_correlation_id) {
        s = &c->h_correlation_id->value;

        for (i = 0; i < s->len; i++) {
            ch = s->data[i];

            if (!((ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z')
                  || (ch >= '0' && ch <= '9') || ch == '.' || ch == '_'
                  || ch == '-'))
            {
                break;
            }
        }

        if (s->len && i == s->len && s->len <= NGX_COMMERCE_CORRELATION_MAX) {
            c->correlation_id = *s;
            return NGX_OK;
        }
    }

    c->correlation_id.len = NGX_COMMERCE_UUID_LEN;
    c->correlation_id.data = ngx_pnalloc(c->request->pool,
                                         NGX_COMMERCE_UUID_LEN);
    if (c->correlation_id.data == NULL) {
        return NGX_ERROR;
    }

    ngx_commerce_uuid7_now(c->correlation_id.data);

    return NGX_OK;
}


static ngx_int_t
ngx_commerce_request_route(ngx_commerce_request_t *c)
{
    ngx_str_t               path;
    ngx_uint_t              found;
    ngx_http_request_t     *r;
    ngx_commerce_method_t   method;

    r = c->request;

    switch (r->method) {

    case NGX_HTTP_GET:
    case NGX_HTTP_HEAD:
        method = NGX_COMMERCE_GET;
        break;

    case NGX_HTTP_POST:
        method = NGX_COMMERCE_POST;
        break;

    case NGX_HTTP_PUT:
        method = NGX_COMMERCE_PUT;
        break;

    case NGX_HTTP_PATCH:
        method = NGX_COMMERCE_PATCH;
        break;

    case NGX_HTTP_DELETE:
        method = NGX_COMMERCE_DELETE;
        break;

    default:
        method = NGX_COMMERCE_METHODS;
    }

    if (ngx_commerce_request_path(r, &path) != NGX_OK) {
        return NGX_ERROR;
    }

    found = ngx_commerce_contract_match(c->conf->contract, method, path.data,
                                        path.len, &c->match);

    if (!found) {
        return ngx_commerce_problem(c, 404, "not-found",
                                    "There is nothing at this address.");
    }

    c->op = c->match.op;

    if (r->method == NGX_HTTP_OPTIONS) {
        return ngx_commerce_request_options(c);
    }

    if (c->op == NULL) {

        if (ngx_commerce_request_allow(c) != NGX_OK) {
            return NGX_ERROR;
        }

        return ngx_commerce_problem(c, 405, "method-not-allowed",
            "This address takes %s.", c->match.allow);
    }

    return NGX_OK;
}


/*
 * The path as sent: what the client escaped stays within its segment.  After
 * "rewrite" and in a subrequest nginx has only the unescaped one.
 */

static ngx_int_t
ngx_commerce_request_path(ngx_http_request_t *r, ngx_str_t *path)
{
    u_char     *p;
    uintptr_t   escape;

    if (r->valid_unparsed_uri) {
        *path = r->unparsed_uri;
        p = ngx_strlchr(path->data, path->data + path->len, '?');

        if (p) {
            path->len = p - path->data;
        }

        return NGX_OK;
    }

    escape = ngx_escape_uri(NULL, r->uri.data, r->uri.len, NGX_ESCAPE_URI);

    if (escape == 0) {
        *path = r->uri;
        return NGX_OK;
    }

    path->len = r->uri.len + 2 * escape;
    path->data = ngx_pnalloc(r->pool, path->len);

    if (path->data == NULL) {
        return NGX_ERROR;
    }

    (void) ngx_escape_uri(path->data, r->uri.data, r->uri.len, NGX_ESCAPE_URI);

    return NGX_OK;
}


static ngx_int_t
ngx_commerce_request_options(ngx_commerce_request_t *c)
{
    c->op = NULL;
    c->reply.status = NGX_HTTP_NO_CONTENT;

    return ngx_commerce_request_allow(c);
}


static ngx_int_t
ngx_commerce_request_allow(ngx_commerce_request_t *c)
{
    ngx_str_t  value;

    value.data = (u_char *) c->match.allow;
    value.len = ngx_strlen(c->match.allow);

    return ngx_commerce_header_add(c->request, "Allow", &value);
}


/* Allow for a 405 that is nginx's own (TRACE); an address outside the contract has none. */

ngx_int_t
ngx_commerce_request_methods(ngx_commerce_request_t *c)
{
    u_char     *p;
    ngx_str_t   path;

    if (c->conf->contract == NULL) {
        return NGX_OK;
    }

    /* as the client sent it: error_page has led to another URI */

    path = c->request->unparsed_uri;
    p = path.len ? ngx_strlchr(path.data, path.data + path.len, '?') : NULL;

    if (p) {
        path.len = p - path.data;
    }

    if (!ngx_commerce_contract_match(c->conf->contract, NGX_COMMERCE_METHODS,
                                     path.data, path.len, &c->match))
    {
        return NGX_OK;
    }

    return ngx_commerce_request_allow(c);
}
