/*
 * From a reply to bytes: status, headers, conditional requests, preferences.
 */

#include "ngx_commerce_http.h"
#include "ngx_commerce_sha256.h"


/* RFC 9745: the date when the paths without /v1 became mere aliases, 2026-11-21 */
#define NGX_COMMERCE_DEPRECATED  "@1795219200"

/* ETag:"22 characters of base64url" */
#define NGX_COMMERCE_ETAG_LINE   32


#define ngx_commerce_reply_is_etag(name, len)                                 \
    ((len) == 4                                                               \
     && ngx_strncasecmp((u_char *) (name), (u_char *) "ETag", 4) == 0)


static ngx_int_t ngx_commerce_reply_headers(ngx_commerce_request_t *c,
    ngx_commerce_reply_t *reply, ngx_commerce_json_t **root);
static ngx_uint_t ngx_commerce_reply_allowed(ngx_str_t *name,
    ngx_str_t *value);
static ngx_uint_t ngx_commerce_reply_is(ngx_str_t *name, const char *header);
static ngx_uint_t ngx_commerce_reply_tags(ngx_commerce_request_t *c,
    ngx_commerce_reply_t *reply);
static u_char *ngx_commerce_reply_etag(u_char *p, ngx_str_t *body);
static ngx_int_t ngx_commerce_reply_lines(ngx_commerce_request_t *c,
    ngx_str_t *lines);
static ngx_int_t ngx_commerce_reply_own_headers(ngx_commerce_request_t *c,
    ngx_commerce_reply_t *reply);
static ngx_uint_t ngx_commerce_reply_not_modified(ngx_commerce_request_t *c);
static ngx_int_t ngx_commerce_reply_minimal(ngx_commerce_request_t *c);
static ngx_uint_t ngx_commerce_reply_prefers(ngx_str_t *value);


ngx_int_t
ngx_commerce_reply_send(ngx_commerce_request_t *c)
{
    ngx_int_t              rc;
    ngx_buf_t             *b;
    ngx_chain_t            out;
    ngx_http_request_t    *r;
    ngx_commerce_reply_t  *reply;

    r = c->request;
    reply = &c->reply;

    /* If-Match and If-None-Match are judged here, not by nginx for files */
    r->disable_not_modified = 1;

    r->headers_out.status = reply->status;
    r->headers_out.content_length_n = reply->body.data ? reply->body.len : 0;

    if (reply->body.data && reply->status != NGX_HTTP_NO_CONTENT) {

        if (reply->problem) {
            ngx_str_set(&r->headers_out.content_type,
                        "application/problem+json");
        } else {
            ngx_str_set(&r->headers_out.content_type, "application/json");
        }

        r->headers_out.content_type_len = r->headers_out.content_type.len;
        r->headers_out.content_type_lowcase = NULL;
    }

    if (ngx_commerce_reply_render(c, reply) != NGX_OK
        || ngx_commerce_reply_lines(c, &reply->lines) != NGX_OK
        || ngx_commerce_reply_own_headers(c, reply) != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (c->h_prefer && ngx_commerce_reply_minimal(c) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (ngx_commerce_reply_not_modified(c)) {
        r->headers_out.status = NGX_HTTP_NOT_MODIFIED;
        r->headers_out.status_line.len = 0;
        r->headers_out.content_type.len = 0;
        ngx_http_clear_content_length(r);
        r->header_only = 1;
    }

    if (r->headers_out.status == NGX_HTTP_NO_CONTENT || reply->body.len == 0) {
        r->header_only = 1;
    }

    if (r->headers_out.status == NGX_HTTP_NO_CONTENT) {
        ngx_http_clear_content_length(r);
    }

    rc = ngx_http_send_header(r);

    if (rc == NGX_ERROR || rc > NGX_OK || r->header_only) {
        return (rc == NGX_AGAIN) ? NGX_OK : rc;
    }

    b = ngx_calloc_buf(r->pool);
    if (b == NULL) {
        return NGX_ERROR;
    }

    b->pos = reply->body.data;
    b->last = b->pos + reply->body.len;
    b->memory = 1;
    b->last_buf = (r == r->main);
    b->last_in_chain = 1;

    out.buf = b;
    out.next = NULL;

    rc = ngx_http_output_filter(r, &out);

    /*
     * NGX_AGAIN means a held request to our callers; here it means that the
     * client reads slowly, which finalizing takes care of by r->buffered.
     */

    return (rc == NGX_AGAIN) ? NGX_OK : rc;
}


/*
 * The headers that SQL or a problem asked for, as lines "Name:value\n", and the
 * ETag of a GET whose function names no version: a tag of what it shows.
 */

ngx_int_t
ngx_commerce_reply_render(ngx_commerce_request_t *c,
    ngx_commerce_reply_t *reply)
{
    u_char               *p;
    ngx_str_t            *value;
    ngx_uint_t            tagged;
    ngx_commerce_json_t  *root, *member;

    if (reply->rendered) {
        return NGX_OK;
    }

    if (ngx_commerce_reply_headers(c, reply, &root) != NGX_OK) {
        return NGX_ERROR;
    }

    /* a line is shorter than its member: quotes fall away, escapes shrink */

    p = ngx_pnalloc(c->request->pool,
                    reply->headers.len + NGX_COMMERCE_ETAG_LINE);
    if (p == NULL) {
        return NGX_ERROR;
    }

    reply->lines.data = p;
    tagged = 0;

    for (member = root ? root->child : NULL; member; member = member->next) {

        value = (member->type == NGX_COMMERCE_JSON_STRING)
                ? (ngx_str_t *) &member->text : (ngx_str_t *) &member->raw;

        if (!ngx_commerce_reply_allowed((ngx_str_t *) &member->key, value)) {
            ngx_log_error(NGX_LOG_ERR, c->request->connection->log, 0,
                          "commerce: a function set a header that is not its "
                          "own to set, it is left out: \"%*s\"",
                          member->key.len, member->key.data);
            continue;
        }

        if (ngx_commerce_reply_is_etag(member->key.data, member->key.len)) {

            /* a version names the whole: what shows a part has a tag of its own */

            if (c->view) {
                continue;
            }

            tagged = 1;
        }

        p = ngx_cpymem(p, member->key.data, member->key.len);
        *p++ = ':';
        p = ngx_cpymem(p, value->data, value->len);
        *p++ = '\n';
    }

    if (!tagged && ngx_commerce_reply_tags(c, reply)) {
        p = ngx_commerce_reply_etag(p, &reply->body);
    }

    reply->lines.len = p - reply->lines.data;
    reply->rendered = 1;

    return NGX_OK;
}


static ngx_int_t
ngx_commerce_reply_headers(ngx_commerce_request_t *c,
    ngx_commerce_reply_t *reply, ngx_commerce_json_t **root)
{
    ngx_commerce_alloc_t       alloc;
    ngx_commerce_json_error_t  error;

    *root = NULL;

    if (reply->headers.len == 0) {
        return NGX_OK;
    }

    alloc = ngx_commerce_pool_alloc(c->request->pool);

    if (ngx_commerce_json_parse(&alloc, reply->headers.data,
                                reply->headers.len, NULL, root, &error)
        != NGX_COMMERCE_OK)
    {
        ngx_log_error(NGX_LOG_ERR, c->request->connection->log, 0,
                      "commerce: the headers of \"%*s\" are not JSON",
                      c->op->id.len, c->op->id.data);
        return NGX_ERROR;
    }

    if ((*root)->type != NGX_COMMERCE_JSON_OBJECT) {
        *root = NULL;
    }

    return NGX_OK;
}


/*
 * A name is a token and a value has no control characters, so that no text of
 * a client that SQL repeats begins another header.  Framing is nginx's.
 */

static ngx_uint_t
ngx_commerce_reply_allowed(ngx_str_t *name, ngx_str_t *value)
{
    size_t        i;
    u_char        ch;
    const char  **own;

    static const char  *owned[] = {
        "Connection", "Content-Encoding", "Content-Length", "Date",
        "Keep-Alive", "Server", "Trailer", "Transfer-Encoding", "Upgrade",
        NULL
    };

    if (name->len == 0) {
        return 0;
    }

    for (i = 0; i < name->len; i++) {
        ch = name->data[i];

        if (!((ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z')
              || (ch >= '0' && ch <= '9') || ch == '-' || ch == '_'))
        {
            return 0;
        }
    }

    for (i = 0; i < value->len; i++) {
        ch = value->data[i];

        if ((ch < ' ' && ch != '\t') || ch == 0x7f) {
            return 0;
        }
    }

    for (own = owned; *own; own++) {
        if (ngx_commerce_reply_is(name, *own)) {
            return 0;
        }
    }

    return 1;
}


static ngx_uint_t
ngx_commerce_reply_is(ngx_str_t *name, const char *header)
{
    return name->len == ngx_strlen(header)
           && ngx_strncasecmp(name->data, (u_char *) header, name->len) == 0;
}


static ngx_uint_t
ngx_commerce_reply_tags(ngx_commerce_request_t *c, ngx_commerce_reply_t *reply)
{
    return c->op && c->op->conditional != NGX_COMMERCE_CONDITIONAL_NONE
           && c->op->method == NGX_COMMERCE_GET && !reply->problem
           && reply->status == NGX_HTTP_OK && reply->body.len;
}


static u_char *
ngx_commerce_reply_etag(u_char *p, ngx_str_t *body)
{
    u_char  digest[32];

    ngx_commerce_sha256(body->data, body->len, digest);

    p = ngx_cpymem(p, "ETag:\"", sizeof("ETag:\"") - 1);
    p += ngx_commerce_base64url_encode(p, digest, 16);
    *p++ = '"';
    *p++ = '\n';

    return p;
}


static ngx_int_t
ngx_commerce_reply_lines(ngx_commerce_request_t *c, ngx_str_t *lines)
{
    u_char              *p, *end, *colon, *eol;
    ngx_str_t            name, value;
    ngx_table_elt_t     *h;
    ngx_http_request_t  *r;

    r = c->request;
    p = lines->data;
    end = p + lines->len;

    while (p < end) {

        colon = memchr(p, ':', end - p);
        eol = memchr(p, '\n', end - p);

        if (colon == NULL || eol == NULL || colon > eol) {
            break;
        }

        name.data = p;
        name.len = colon - p;
        value.data = colon + 1;
        value.len = eol - colon - 1;

        h = ngx_commerce_header_push(r, &name, &value);
        if (h == NULL) {
            return NGX_ERROR;
        }

        p = eol + 1;

        if (ngx_commerce_reply_is_etag(h->key.data, h->key.len)) {
            r->headers_out.etag = h;

        } else if (h->key.len == 12
                   && ngx_commerce_reply_is(&h->key, "Content-Type"))
        {
            /* nginx writes this one itself */
            r->headers_out.content_type = h->value;
            r->headers_out.content_type_len = h->value.len;
            h->hash = 0;

        } else if (h->key.len == 13
                   && ngx_commerce_reply_is(&h->key, "Cache-Control"))
        {
            c->cache_control = 1;

        } else if (h->key.len == 8
                   && ngx_commerce_reply_is(&h->key, "Location"))
        {
            c->located = 1;
        }
    }

    return NGX_OK;
}


/* Headers of the engine itself. */

static ngx_int_t
ngx_commerce_reply_own_headers(ngx_commerce_request_t *c,
    ngx_commerce_reply_t *reply)
{
    ngx_str_t            value;
    ngx_http_request_t  *r;

    r = c->request;

    if (ngx_commerce_header_add(r, "X-Correlation-ID", &c->correlation_id)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (c->cart_token.len
        && ngx_commerce_header_add(r, "X-Cart-Token", &c->cart_token)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (reply->replayed) {
        ngx_str_set(&value, "true");

        if (ngx_commerce_header_add(r, "Idempotent-Replayed", &value)
            != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    if (c->match.deprecated_path || (c->op && c->op->deprecated)) {
        ngx_str_set(&value, NGX_COMMERCE_DEPRECATED);

        if (ngx_commerce_header_add(r, "Deprecation", &value) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    if (c->op && c->conf->ops[c->op->index].vary.len) {
        value = c->conf->ops[c->op->index].vary;

        if (ngx_commerce_header_add(r, "Vary", &value) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    if (c->op && c->op->tenant && c->op->cache.ttl) {
        ngx_commerce_tenancy_vary(r, &value);

        if (value.len
            && ngx_commerce_header_add(r, "Vary", &value) != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    if (reply->status == NGX_HTTP_UNAUTHORIZED) {

        if (ngx_commerce_auth_challenge(r) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    /* a function that says how long knows better */

    if (c->cache_control) {
        return NGX_OK;
    }

    if (c->op == NULL || reply->problem) {
        ngx_str_set(&value, NGX_COMMERCE_NO_STORE);

    } else {
        value = c->conf->ops[c->op->index].cache_control;
    }

    return ngx_commerce_header_add(r, "Cache-Control", &value);
}


/*
 * Prefer: return=minimal (RFC 7240): a client that changes what it can read
 * again does without the representation.  What is made keeps its 201 and says
 * where it is; where the body is the only answer (a token, a secret that is
 * shown once, an order without a place) the preference is not followed.
 */

static ngx_int_t
ngx_commerce_reply_minimal(ngx_commerce_request_t *c)
{
    ngx_str_t              value;
    ngx_uint_t             again;
    ngx_http_request_t    *r;
    ngx_commerce_reply_t  *reply;

    r = c->request;
    reply = &c->reply;

    if (c->op == NULL || reply->problem || reply->body.len == 0 || c->once
        || !ngx_commerce_reply_prefers(&c->h_prefer->value))
    {
        return NGX_OK;
    }

    again = c->op->method == NGX_COMMERCE_PUT
            || c->op->method == NGX_COMMERCE_PATCH
            || (c->op->method == NGX_COMMERCE_POST
                && c->op->idempotency != NGX_COMMERCE_IDEMPOTENCY_NONE);

    if (reply->status == NGX_HTTP_CREATED && c->located) {
        r->headers_out.content_length_n = 0;

    } else if (reply->status == NGX_HTTP_OK && again) {
        r->headers_out.status = NGX_HTTP_NO_CONTENT;

    } else {
        return NGX_OK;
    }

    reply->body.len = 0;
    ngx_str_null(&r->headers_out.content_type);
    r->headers_out.content_type_len = 0;

    ngx_str_set(&value, "return=minimal");

    return ngx_commerce_header_add(r, "Preference-Applied", &value);
}


static ngx_uint_t
ngx_commerce_reply_prefers(ngx_str_t *value)
{
    size_t   len;
    u_char  *p, *end, *next;

    end = value->data + value->len;

    for (p = value->data; p < end; p = next + 1) {

        next = ngx_strlchr(p, end, ',');
        if (next == NULL) {
            next = end;
        }

        while (p < next && (*p == ' ' || *p == '\t')) {
            p++;
        }

        for (len = 0; p + len < next && p[len] != ';' && p[len] != ' '
                      && p[len] != '\t'; len++)
        {
            /* void */
        }

        if (len == sizeof("return=minimal") - 1
            && ngx_strncasecmp(p, (u_char *) "return=minimal", len) == 0)
        {
            return 1;
        }
    }

    return 0;
}


/* fields=: of the reply only what the client asked for. */

ngx_int_t
ngx_commerce_reply_fields(ngx_commerce_request_t *c)
{
    ngx_commerce_rc_t      rc;
    ngx_commerce_str_t     body, names;
    ngx_commerce_alloc_t   alloc;

    if (c->op->fields < 0 || !c->slots[c->op->fields].set
        || c->reply.problem || c->reply.status != NGX_HTTP_OK
        || c->reply.body.len == 0)
    {
        return NGX_OK;
    }

    alloc = ngx_commerce_pool_alloc(c->request->pool);
    body = ngx_commerce_to_core(&c->reply.body);
    names = ngx_commerce_to_core(&c->slots[c->op->fields].text);

    rc = ngx_commerce_json_select(&alloc, &body, &names);

    if (rc != NGX_COMMERCE_OK) {
        ngx_log_error(NGX_LOG_ERR, c->request->connection->log, 0,
                      "commerce: no fields can be chosen from the reply of "
                      "\"%*s\"", c->op->id.len, c->op->id.data);
        return NGX_ERROR;
    }

    c->reply.body = ngx_commerce_from_core(&body);
    c->view = 1;

    return NGX_OK;
}


/* RFC 9110 13.1.2: weak comparison over a list of tags, or "*". */

static ngx_uint_t
ngx_commerce_reply_not_modified(ngx_commerce_request_t *c)
{
    u_char              *p, *end, *tag;
    ngx_str_t           *etag;
    ngx_http_request_t  *r;

    r = c->request;

    if (c->h_if_none_match == NULL || r->headers_out.etag == NULL
        || c->reply.status != NGX_HTTP_OK
        || !(r->method & (NGX_HTTP_GET|NGX_HTTP_HEAD)))
    {
        return 0;
    }

    etag = &r->headers_out.etag->value;
    p = c->h_if_none_match->value.data;
    end = p + c->h_if_none_match->value.len;

    while (p < end) {

        if (*p == ' ' || *p == '\t' || *p == ',') {
            p++;
            continue;
        }

        if (*p == '*') {
            return 1;
        }

        if (end - p > 2 && p[0] == 'W' && p[1] == '/') {
            p += 2;
        }

        tag = p;

        if (p < end && *p == '"') {
            p++;
        }

        while (p < end && *p != '"' && *p != ',') {
            p++;
        }

        if (p < end && *p == '"') {
            p++;
        }

        if ((size_t) (p - tag) == etag->len
            && ngx_memcmp(tag, etag->data, etag->len) == 0)
        {
            return 1;
        }

        if (p == tag) {
            p++;
        }
    }

    return 0;
}
