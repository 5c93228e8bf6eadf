/*
 * What a SQL function tells the edge beside its answer: tags and sessions that
 * are void now, the pages before and after.
 */

#include "ngx_commerce_http.h"


static ngx_int_t ngx_commerce_reply_page(ngx_commerce_request_t *c,
    ngx_commerce_reply_t *reply, ngx_commerce_json_t *page);
static ngx_int_t ngx_commerce_reply_cursor(ngx_commerce_request_t *c,
    ngx_commerce_json_t *position, ngx_str_t *binding, ngx_str_t *cursor);
static ngx_int_t ngx_commerce_reply_link(ngx_commerce_request_t *c,
    ngx_commerce_reply_t *reply, ngx_str_t *next, ngx_str_t *prev);
static u_char *ngx_commerce_reply_link_one(ngx_commerce_request_t *c,
    u_char *p, ngx_str_t *cursor, const char *rel);


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

    ngx_commerce_exchange_void(&c->tenant.id, root);

    member = ngx_commerce_json_get(root, "page");

    if (reply->status < 300 && member && member->type == NGX_COMMERCE_JSON_OBJECT) {
        return ngx_commerce_reply_page(c, reply, member);
    }

    return NGX_OK;
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
            || (amp - s >= 7 && ngx_strncmp(s, "cursor=", 7) == 0)
            || (amp - s >= 5 && ngx_strncmp(s, "page=", 5) == 0))
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
