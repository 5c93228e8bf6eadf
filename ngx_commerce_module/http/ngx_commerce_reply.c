/*
 * From a reply to bytes: status, headers, conditional requests, cursors.
 */

#include "ngx_commerce_http.h"

#include <openssl/sha.h>


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
static ngx_int_t ngx_commerce_reply_page(ngx_commerce_request_t *c,
    ngx_commerce_reply_t *reply, ngx_commerce_json_t *page);
static ngx_int_t ngx_commerce_reply_cursor(ngx_commerce_request_t *c,
    ngx_commerce_json_t *position, ngx_str_t *binding, ngx_str_t *cursor);
static ngx_int_t ngx_commerce_reply_link(ngx_commerce_request_t *c,
    ngx_commerce_reply_t *reply, ngx_str_t *next, ngx_str_t *prev);
static u_char *ngx_commerce_reply_link_one(ngx_commerce_request_t *c,
    u_char *p, ngx_str_t *cursor, const char *rel);
static void ngx_commerce_reply_invalidate(ngx_commerce_request_t *c,
    ngx_commerce_json_t *tags);


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

    if (ngx_commerce_reply_not_modified(c)) {
        r->headers_out.status = NGX_HTTP_NOT_MODIFIED;
        r->headers_out.status_line.len = 0;
        r->headers_out.content_type.len = 0;
        ngx_http_clear_content_length(r);
        r->header_only = 1;
    }

    if (reply->status == NGX_HTTP_NO_CONTENT || reply->body.len == 0) {
        r->header_only = 1;
    }

    if (reply->status == NGX_HTTP_NO_CONTENT) {
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

        tagged |= ngx_commerce_reply_is_etag(member->key.data,
                                             member->key.len);

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
    u_char  digest[SHA256_DIGEST_LENGTH];

    SHA256(body->data, body->len, digest);

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

        h = ngx_list_push(&r->headers_out.headers);
        if (h == NULL) {
            return NGX_ERROR;
        }

        h->hash = 1;
        h->key.data = p;
        h->key.len = colon - p;
        h->value.data = colon + 1;
        h->value.len = eol - colon - 1;

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

    if (ngx_commerce_reply_header(r, "X-Correlation-ID", &c->correlation_id)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (c->cart_token.len
        && ngx_commerce_reply_header(r, "X-Cart-Token", &c->cart_token)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (reply->replayed) {
        ngx_str_set(&value, "true");

        if (ngx_commerce_reply_header(r, "Idempotent-Replayed", &value)
            != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    if (c->match.deprecated_path || (c->op && c->op->deprecated)) {
        ngx_str_set(&value, NGX_COMMERCE_DEPRECATED);

        if (ngx_commerce_reply_header(r, "Deprecation", &value) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    if (reply->status == NGX_HTTP_UNAUTHORIZED) {
        ngx_str_set(&value, "Bearer");

        if (ngx_commerce_reply_header(r, "WWW-Authenticate", &value)
            != NGX_OK)
        {
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

    return ngx_commerce_reply_header(r, "Cache-Control", &value);
}


ngx_int_t
ngx_commerce_reply_header(ngx_http_request_t *r, const char *name,
    ngx_str_t *value)
{
    ngx_table_elt_t  *h;

    h = ngx_list_push(&r->headers_out.headers);
    if (h == NULL) {
        return NGX_ERROR;
    }

    h->hash = 1;
    h->key.data = (u_char *) name;
    h->key.len = ngx_strlen(name);
    h->value = *value;

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


/* What the reply tells the module: docs/contract.md, section 5. */

ngx_int_t
ngx_commerce_reply_edge(ngx_commerce_request_t *c,
    ngx_commerce_reply_t *reply)
{
    ngx_commerce_json_t       *root, *member;
    ngx_commerce_alloc_t       alloc;
    ngx_commerce_json_error_t  error;

    if (reply->edge.len == 0) {
        return NGX_OK;
    }

    alloc = ngx_commerce_pool_alloc(c->request->pool);

    if (ngx_commerce_json_parse(&alloc, reply->edge.data, reply->edge.len,
                                NULL, &root, &error)
        != NGX_COMMERCE_OK)
    {
        ngx_log_error(NGX_LOG_ERR, c->request->connection->log, 0,
                      "commerce: the edge instructions of \"%*s\" are not "
                      "JSON", c->op->id.len, c->op->id.data);
        return NGX_ERROR;
    }

    ngx_str_null(&reply->edge);

    member = ngx_commerce_json_get(root, "invalidate");

    if (member) {
        ngx_commerce_reply_invalidate(c, member);
    }

    member = ngx_commerce_json_get(root, "page");

    if (member && member->type == NGX_COMMERCE_JSON_OBJECT) {
        return ngx_commerce_reply_page(c, reply, member);
    }

    return NGX_OK;
}


static void
ngx_commerce_reply_invalidate(ngx_commerce_request_t *c,
    ngx_commerce_json_t *tags)
{
    u_char               buf[NGX_INT64_LEN + 1 + 256];
    ngx_str_t            tag;
    ngx_commerce_json_t *t;

    for (t = tags->child; t; t = t->next) {

        if (t->type != NGX_COMMERCE_JSON_STRING || t->text.len > 256) {
            continue;
        }

        tag.data = buf;
        tag.len = ngx_snprintf(buf, sizeof(buf), "%V:%*s", &c->tenant.id,
                               t->text.len, t->text.data)
                  - buf;

        ngx_commerce_cache_invalidate(&tag);
    }
}


/* Signs the positions and puts "page" at the end of the body's object. */

static ngx_int_t
ngx_commerce_reply_page(ngx_commerce_request_t *c, ngx_commerce_reply_t *reply,
    ngx_commerce_json_t *page)
{
    size_t                len;
    u_char               *p;
    ngx_str_t             binding, next, prev, body;
    ngx_commerce_json_t  *member;

    if (reply->body.len < 2 || reply->body.data[reply->body.len - 1] != '}') {
        ngx_log_error(NGX_LOG_ERR, c->request->connection->log, 0,
                      "commerce: \"%*s\" answered a page with a body that is "
                      "no JSON object", c->op->id.len, c->op->id.data);
        return NGX_ERROR;
    }

    ngx_commerce_input_binding(c, &binding);

    if (binding.data == NULL
        || ngx_commerce_reply_cursor(c, ngx_commerce_json_get(page, "next"),
                                     &binding, &next)
           != NGX_OK
        || ngx_commerce_reply_cursor(c, ngx_commerce_json_get(page, "prev"),
                                     &binding, &prev)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    len = reply->body.len + page->raw.len + next.len + prev.len
          + sizeof(",\"page\":{\"next\":\"\",\"prev\":null}}") + 16;

    for (member = page->child; member; member = member->next) {
        len += member->key.len + member->raw.len + sizeof("\"\":,");
    }

    p = ngx_pnalloc(c->request->pool, len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    body.data = p;

    p = ngx_cpymem(p, reply->body.data, reply->body.len - 1);

    if (p[-1] != '{') {
        *p++ = ',';
    }

    p = ngx_cpymem(p, "\"page\":{", sizeof("\"page\":{") - 1);

    for (member = page->child; member; member = member->next) {

        if (p[-1] != '{') {
            *p++ = ',';
        }

        *p++ = '"';
        p = ngx_cpymem(p, member->key.data, member->key.len);
        *p++ = '"';
        *p++ = ':';

        if (member == ngx_commerce_json_get(page, "next") && next.len) {
            p = ngx_sprintf(p, "\"%V\"", &next);

        } else if (member == ngx_commerce_json_get(page, "prev") && prev.len) {
            p = ngx_sprintf(p, "\"%V\"", &prev);

        } else {
            p = ngx_cpymem(p, member->raw.data, member->raw.len);
        }
    }

    *p++ = '}';
    *p++ = '}';

    body.len = p - body.data;
    reply->body = body;

    return ngx_commerce_reply_link(c, reply, &next, &prev);
}


static ngx_int_t
ngx_commerce_reply_cursor(ngx_commerce_request_t *c,
    ngx_commerce_json_t *position, ngx_str_t *binding, ngx_str_t *cursor)
{
    ngx_str_null(cursor);

    if (position == NULL || position->type == NGX_COMMERCE_JSON_NULL) {
        return NGX_OK;
    }

    cursor->data = ngx_pnalloc(c->request->pool,
                               ngx_commerce_cursor_len(position->raw.len));
    if (cursor->data == NULL) {
        return NGX_ERROR;
    }

    cursor->len = ngx_commerce_cursor_sign(cursor->data, c->conf->cursor_key,
                                           ngx_commerce_to_core(binding),
                                           position->raw);
    return NGX_OK;
}


/* RFC 8288, with the address as the client spelled it, its cursor exchanged. */

static ngx_int_t
ngx_commerce_reply_link(ngx_commerce_request_t *c, ngx_commerce_reply_t *reply,
    ngx_str_t *next, ngx_str_t *prev)
{
    u_char     *p;
    ngx_str_t   link, headers, *uri;

    uri = &c->request->unparsed_uri;

    if ((next->len == 0 && prev->len == 0)
        || ngx_strlchr(uri->data, uri->data + uri->len, '"')
        || ngx_strlchr(uri->data, uri->data + uri->len, '>'))
    {
        return NGX_OK;
    }

    p = ngx_pnalloc(c->request->pool, 2 * uri->len + next->len + prev->len
                                      + sizeof("<?cursor=>; rel=\"next\", ")
                                        * 2);
    if (p == NULL) {
        return NGX_ERROR;
    }

    link.data = p;
    p = ngx_commerce_reply_link_one(c, p, next, "next");

    if (next->len && prev->len) {
        p = ngx_cpymem(p, ", ", 2);
    }

    p = ngx_commerce_reply_link_one(c, p, prev, "prev");
    link.len = p - link.data;

    p = ngx_pnalloc(c->request->pool, reply->headers.len + 6 * link.len + 16);
    if (p == NULL) {
        return NGX_ERROR;
    }

    headers.data = p;
    p = ngx_cpymem(p, "{\"Link\":", sizeof("{\"Link\":") - 1);
    p = ngx_commerce_json_quote(p, link.data, link.len);

    if (reply->headers.len > 2) {
        *p++ = ',';
        p = ngx_cpymem(p, reply->headers.data + 1, reply->headers.len - 1);

    } else {
        *p++ = '}';
    }

    headers.len = p - headers.data;
    reply->headers = headers;

    return NGX_OK;
}


static u_char *
ngx_commerce_reply_link_one(ngx_commerce_request_t *c, u_char *p,
    ngx_str_t *cursor, const char *rel)
{
    u_char     *s, *end, *amp;
    ngx_str_t  *uri;

    if (cursor->len == 0) {
        return p;
    }

    uri = &c->request->unparsed_uri;
    end = uri->data + uri->len;

    s = ngx_strlchr(uri->data, end, '?');

    *p++ = '<';
    p = ngx_cpymem(p, uri->data, (s ? s : end) - uri->data);
    *p++ = '?';

    for (s = s ? s + 1 : end; s < end; s = amp + 1) {

        amp = ngx_strlchr(s, end, '&');
        if (amp == NULL) {
            amp = end;
        }

        if (amp == s
            || (amp - s >= 7 && ngx_strncmp(s, "cursor=", 7) == 0))
        {
            continue;
        }

        p = ngx_cpymem(p, s, amp - s);
        *p++ = '&';
    }

    p = ngx_cpymem(p, "cursor=", 7);
    p = ngx_cpymem(p, cursor->data, cursor->len);

    return ngx_sprintf(p, ">; rel=\"%s\"", rel);
}
