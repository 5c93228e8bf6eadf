/*
 * Whole responses and replies of calls in the edge's shared-memory cache.
 */

#include "ngx_commerce_http.h"


static ngx_int_t ngx_commerce_cached_tags(ngx_commerce_request_t *c,
    const ngx_commerce_cache_rule_t *rule, ngx_str_t *tags,
    ngx_uint_t *count);
static ngx_int_t ngx_commerce_cached_get(ngx_commerce_request_t *c,
    ngx_str_t *key, const ngx_commerce_cache_rule_t *rule,
    ngx_commerce_cache_ticket_t *ticket, ngx_commerce_reply_t *reply,
    const void **place);
static void ngx_commerce_cached_put(ngx_commerce_cache_ticket_t *ticket,
    ngx_commerce_reply_t *reply, ngx_str_t *headers, ngx_uint_t ttl);


/* NGX_OK: c->reply is the answer.  NGX_DECLINED: it must be made.  NGX_AGAIN: made, not kept. */

ngx_int_t
ngx_commerce_cached_response(ngx_commerce_request_t *c)
{
    size_t                 len;
    u_char                *p;
    ngx_int_t              rc;
    ngx_str_t              key;
    ngx_uint_t             i;
    const void            *place;
    ngx_commerce_value_t  *v;

    len = c->tenant.id.len + c->op->id.len + 3;

    for (i = 0; i < c->op->params_count; i++) {
        len += c->slots[c->op->params[i].slot].text.len + 1;
    }

    p = ngx_pnalloc(c->request->pool, len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    key.data = p;
    *p++ = 'r';
    p = ngx_cpymem(p, c->tenant.id.data, c->tenant.id.len);
    *p++ = '\0';
    p = ngx_cpymem(p, c->op->id.data, c->op->id.len);

    /* validated values in the contract's order: spelling does not matter */

    for (i = 0; i < c->op->params_count; i++) {
        v = &c->slots[c->op->params[i].slot];
        *p++ = '\0';

        if (v->set) {
            p = ngx_cpymem(p, v->text.data, v->text.len);
        }
    }

    key.len = p - key.data;

    rc = ngx_commerce_cached_get(c, &key, &c->op->cache, &c->ticket,
                                 &c->reply, &place);
    c->ticketed = (rc == NGX_DECLINED);
    c->cache_hit = (rc == NGX_OK);

    if (rc == NGX_OK) {
        ngx_commerce_address_found(c, place);

        c->reply.lines = c->reply.headers;
        c->reply.rendered = 1;
        ngx_str_null(&c->reply.headers);
    }

    return rc;
}


void
ngx_commerce_cached_keep_response(ngx_commerce_request_t *c)
{
    /* as lines: a hit has nothing to parse and nothing to hash */

    if (c->ticketed && c->reply.status == NGX_HTTP_OK
        && ngx_commerce_reply_render(c, &c->reply) == NGX_OK)
    {
        ngx_commerce_cached_put(&c->ticket, &c->reply, &c->reply.lines,
                                c->op->cache.ttl);
    }

    c->ticketed = 0;
}


/* NGX_OK: c->step is the reply of the call.  NGX_DECLINED, NGX_AGAIN: it must be called. */

ngx_int_t
ngx_commerce_cached_call(ngx_commerce_request_t *c,
    const ngx_commerce_call_t *call, ngx_str_t *args)
{
    size_t       len;
    u_char      *p;
    uint32_t     i;
    ngx_int_t    rc;
    ngx_str_t    key;
    const void  *place;

    len = c->tenant.id.len + call->function.len + 3;

    for (i = 0; i < call->args_count; i++) {
        len += args[i].len + 2;
    }

    p = ngx_pnalloc(c->request->pool, len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    key.data = p;
    *p++ = 'c';
    p = ngx_cpymem(p, c->tenant.id.data, c->tenant.id.len);
    *p++ = '\0';
    p = ngx_cpymem(p, call->function.data, call->function.len);

    for (i = 0; i < call->args_count; i++) {
        *p++ = '\0';
        *p++ = args[i].data ? '=' : '-';

        if (args[i].len) {
            p = ngx_cpymem(p, args[i].data, args[i].len);
        }
    }

    key.len = p - key.data;

    rc = ngx_commerce_cached_get(c, &key, &call->cache, &c->call_ticket,
                                 &c->step, &place);
    c->call_ticketed = (rc == NGX_DECLINED);

    return rc;
}


void
ngx_commerce_cached_keep_call(ngx_commerce_request_t *c)
{
    if (c->call_ticketed && c->step.status == NGX_HTTP_OK) {
        ngx_commerce_cached_put(&c->call_ticket, &c->step, &c->step.headers,
                                c->call->cache.ttl);
    }

    c->call_ticketed = 0;
}


static ngx_int_t
ngx_commerce_cached_get(ngx_commerce_request_t *c, ngx_str_t *key,
    const ngx_commerce_cache_rule_t *rule, ngx_commerce_cache_ticket_t *ticket,
    ngx_commerce_reply_t *reply, const void **place)
{
    ngx_int_t                   rc;
    ngx_str_t                   tags[NGX_COMMERCE_CACHE_TAGS_MAX];
    ngx_uint_t                  count;
    ngx_commerce_loc_conf_t    *lcf;
    ngx_commerce_cache_entry_t  entry;

    lcf = ngx_http_get_module_loc_conf(c->request, ngx_http_commerce_module);

    if (!lcf->cache) {
        return NGX_AGAIN;
    }

    rc = ngx_commerce_cache_get(key, ticket, &entry, c->request->pool);

    if (rc != NGX_OK) {

        if (ngx_commerce_cached_tags(c, rule, tags, &count) != NGX_OK) {
            return NGX_ERROR;
        }

        ngx_commerce_cache_tags(ticket, tags, count);
        return rc;
    }

    ngx_memzero(reply, sizeof(ngx_commerce_reply_t));
    reply->status = entry.status;
    reply->headers = entry.headers;
    reply->body = entry.body;
    reply->edge = entry.edge;
    *place = entry.place;

    return NGX_OK;
}


static void
ngx_commerce_cached_put(ngx_commerce_cache_ticket_t *ticket,
    ngx_commerce_reply_t *reply, ngx_str_t *headers, ngx_uint_t ttl)
{
    ngx_commerce_cache_entry_t  entry;

    entry.status = reply->status;
    entry.headers = *headers;
    entry.body = reply->body;
    entry.edge = reply->edge;
    entry.age = 0;

    ngx_commerce_cache_put(ticket, &entry, ttl);
}


static ngx_int_t
ngx_commerce_cached_tags(ngx_commerce_request_t *c,
    const ngx_commerce_cache_rule_t *rule, ngx_str_t *tags, ngx_uint_t *count)
{
    u_char     *p;
    uint32_t    i;
    ngx_str_t   tag;

    *count = ngx_min(rule->tags_count, NGX_COMMERCE_CACHE_TAGS_MAX);

    for (i = 0; i < *count; i++) {

        if (ngx_commerce_scope_render(c, &rule->tags[i], &tag) != NGX_OK) {
            return NGX_ERROR;
        }

        p = ngx_pnalloc(c->request->pool, c->tenant.id.len + 1 + tag.len);
        if (p == NULL) {
            return NGX_ERROR;
        }

        tags[i].data = p;
        tags[i].len = c->tenant.id.len + 1 + tag.len;

        p = ngx_cpymem(p, c->tenant.id.data, c->tenant.id.len);
        *p++ = ':';
        ngx_memcpy(p, tag.data, tag.len);
    }

    return NGX_OK;
}
