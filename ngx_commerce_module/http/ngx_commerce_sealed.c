/*
 * Members that the contract marks with x-encrypt: sealed before SQL sees the
 * body, opened in what SQL answers.
 *
 * A sealed value is bound to purpose, tenant and owner, whoever's it is
 * (u:<uuid>, g:<hash>).  SQL answers it as "v1:…@<owner>", the owner being that
 * of the row where it lies (domain.sealed()): what was copied to another row
 * does not open.
 */

#include "ngx_commerce_http.h"

#include <openssl/crypto.h>


#define NGX_COMMERCE_SEALED_MARK     "v1:"
#define NGX_COMMERCE_SEALED_MEMBERS  200000
#define NGX_COMMERCE_SEALED_NESTING  64


typedef struct {
    ngx_commerce_request_t        *c;
    const ngx_commerce_sealed_t   *member;
    ngx_str_t                      owner;       /* of what is sealed */
    ngx_uint_t                     open;
} ngx_commerce_sealed_work_t;


static ngx_int_t ngx_commerce_sealed_owner(ngx_commerce_request_t *c,
    ngx_str_t *owner);
static ngx_int_t ngx_commerce_sealed_at(ngx_commerce_sealed_work_t *w,
    ngx_commerce_json_t *value, ngx_uint_t level);
static ngx_int_t ngx_commerce_sealed_seal(ngx_commerce_sealed_work_t *w,
    ngx_commerce_json_t *value);
static ngx_int_t ngx_commerce_sealed_open(ngx_commerce_sealed_work_t *w,
    ngx_commerce_json_t *value);
static ngx_int_t ngx_commerce_sealed_context(ngx_commerce_sealed_work_t *w,
    ngx_str_t *owner, ngx_str_t *context);


/* While the configuration is read. */

ngx_int_t
ngx_commerce_sealed_bind(ngx_conf_t *cf, const ngx_commerce_operation_t *op)
{
    if ((op->sealed_count == 0 && op->revealed_count == 0)
        || ngx_commerce_field_ready(cf))
    {
        return NGX_OK;
    }

    ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                  "commerce_contract: operation \"%*s\" has members that "
                  "x-encrypt seals: make a key with \"openssl rand -hex 32\", "
                  "mode 0400, and write \"commerce_field_key f1 FILE "
                  "encrypt;\"", op->id.len, op->id.data);

    return NGX_ERROR;
}


/* The body's members, in place: "root" is what goes on into the scope. */

ngx_int_t
ngx_commerce_sealed_body(ngx_commerce_request_t *c, ngx_commerce_json_t *root)
{
    ngx_uint_t                  i;
    ngx_commerce_sealed_work_t  w;

    if (c->op->sealed_count == 0) {
        return NGX_OK;
    }

    ngx_memzero(&w, sizeof(w));
    w.c = c;

    if (ngx_commerce_sealed_owner(c, &w.owner) != NGX_OK) {
        return NGX_ERROR;
    }

    for (i = 0; i < c->op->sealed_count; i++) {
        w.member = &c->op->sealed[i];

        if (ngx_commerce_sealed_at(&w, root, 0) == NGX_ERROR) {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


/* The reply's members.  What does not open is null, and a line in the log: the rest of somebody's profile is worth showing. */

ngx_int_t
ngx_commerce_sealed_reply(ngx_commerce_request_t *c,
    ngx_commerce_reply_t *reply)
{
    ngx_int_t                   rc;
    ngx_uint_t                  i, changed;
    ngx_commerce_json_t        *root;
    ngx_commerce_alloc_t        alloc;
    ngx_commerce_json_error_t   error;
    ngx_commerce_sealed_work_t  w;
    ngx_commerce_json_limits_t  limits;

    if (c->op->revealed_count == 0 || reply->status >= 300
        || ngx_strlcasestrn(reply->body.data,
                            reply->body.data + reply->body.len,
                            (u_char *) NGX_COMMERCE_SEALED_MARK,
                            sizeof(NGX_COMMERCE_SEALED_MARK) - 2)
           == NULL)
    {
        return NGX_OK;
    }

    alloc = ngx_commerce_pool_alloc(c->request->pool);

    ngx_memzero(&limits, sizeof(limits));
    limits.max_members = NGX_COMMERCE_SEALED_MEMBERS;
    limits.max_depth = NGX_COMMERCE_SEALED_NESTING;

    if (ngx_commerce_json_parse(&alloc, reply->body.data, reply->body.len,
                                &limits, &root, &error)
        != NGX_COMMERCE_OK)
    {
        ngx_log_error(NGX_LOG_ERR, c->request->connection->log, 0,
                      "commerce: the reply of \"%*s\" cannot be opened: %s",
                      c->op->id.len, c->op->id.data, error.message);
        return NGX_ERROR;
    }

    ngx_memzero(&w, sizeof(w));
    w.c = c;
    w.open = 1;
    changed = 0;

    for (i = 0; i < c->op->revealed_count; i++) {
        w.member = &c->op->revealed[i];

        rc = ngx_commerce_sealed_at(&w, root, 0);

        if (rc == NGX_ERROR) {
            return NGX_ERROR;
        }

        changed |= (rc == NGX_OK);
    }

    if (changed) {
        reply->body = ngx_commerce_from_core(&root->raw);
    }

    return NGX_OK;
}


static ngx_int_t
ngx_commerce_sealed_owner(ngx_commerce_request_t *c, ngx_str_t *owner)
{
    ngx_commerce_arg_t  arg;

    if (c->op->owner.count) {
        return ngx_commerce_scope_render(c, &c->op->owner, owner);
    }

    arg.name = ngx_commerce_str("$cart_owner");
    arg.slot = -1;

    return ngx_commerce_scope_arg(c, &arg, owner);
}


/* NGX_OK: something below was changed, and is written anew.  NGX_DECLINED: nothing was. */

static ngx_int_t
ngx_commerce_sealed_at(ngx_commerce_sealed_work_t *w,
    ngx_commerce_json_t *value, ngx_uint_t level)
{
    ngx_int_t             rc;
    ngx_uint_t            changed;
    ngx_commerce_str_t    name;
    ngx_commerce_json_t  *child;

    if (level == w->member->depth) {

        if (value->type != NGX_COMMERCE_JSON_STRING || value->text.len == 0) {
            return NGX_DECLINED;
        }

        return w->open ? ngx_commerce_sealed_open(w, value)
                       : ngx_commerce_sealed_seal(w, value);
    }

    name = w->member->path[level];
    changed = 0;

    if (value->type != (name.len ? NGX_COMMERCE_JSON_OBJECT
                                 : NGX_COMMERCE_JSON_ARRAY))
    {
        return NGX_DECLINED;
    }

    for (child = value->child; child; child = child->next) {

        if (name.len && (child->key.len != name.len
                         || ngx_memcmp(child->key.data, name.data, name.len)
                            != 0))
        {
            continue;
        }

        rc = ngx_commerce_sealed_at(w, child, level + 1);

        if (rc == NGX_ERROR) {
            return NGX_ERROR;
        }

        changed |= (rc == NGX_OK);
    }

    return changed ? ngx_commerce_sealed_write(w->c->request->pool, value)
                   : NGX_DECLINED;
}


static ngx_int_t
ngx_commerce_sealed_seal(ngx_commerce_sealed_work_t *w,
    ngx_commerce_json_t *value)
{
    ngx_str_t    context, plain, sealed;
    ngx_pool_t  *pool;

    pool = w->c->request->pool;
    plain = ngx_commerce_from_core(&value->text);

    if (ngx_commerce_sealed_context(w, &w->owner, &context) != NGX_OK
        || ngx_commerce_field_encrypt(pool, &context, &plain, &sealed)
           != NGX_OK)
    {
        return ngx_commerce_problem_internal(w->c);
    }

    value->text = ngx_commerce_to_core(&sealed);

    return ngx_commerce_sealed_write(pool, value);
}


static ngx_int_t
ngx_commerce_sealed_open(ngx_commerce_sealed_work_t *w,
    ngx_commerce_json_t *value)
{
    u_char                 *at;
    ngx_int_t               rc;
    ngx_str_t               context, plain, sealed, owner, name;
    ngx_pool_t             *pool;
    ngx_commerce_request_t *c;

    c = w->c;
    pool = c->request->pool;
    sealed = ngx_commerce_from_core(&value->text);

    if (sealed.len < sizeof(NGX_COMMERCE_SEALED_MARK) - 1
        || ngx_memcmp(sealed.data, NGX_COMMERCE_SEALED_MARK,
                      sizeof(NGX_COMMERCE_SEALED_MARK) - 1)
           != 0)
    {
        return NGX_DECLINED;        /* written before there was a key */
    }

    at = ngx_strlchr(sealed.data, sealed.data + sealed.len, '@');

    if (at) {
        owner.data = at + 1;
        owner.len = sealed.data + sealed.len - owner.data;
        sealed.len = at - sealed.data;

        if (ngx_commerce_sealed_context(w, &owner, &context) != NGX_OK) {
            return NGX_ERROR;
        }

        rc = ngx_commerce_field_decrypt(pool, &context, &sealed, &plain);

        if (rc == NGX_ERROR) {
            return NGX_ERROR;
        }

    } else {
        rc = NGX_DECLINED;
    }

    if (rc == NGX_OK) {
        value->text = ngx_commerce_to_core(&plain);
        return ngx_commerce_sealed_write(pool, value);
    }

    name = ngx_commerce_from_core(&value->key);

    ngx_log_error(NGX_LOG_ERR, c->request->connection->log, 0,
                  "commerce: \"%V\" in the reply of \"%*s\" is answered as "
                  "null: %s, correlation: %V", &name, c->op->id.len,
                  c->op->id.data, at ? "it does not open" : "SQL did not say "
                  "whose it is, with domain.sealed()", &c->correlation_id);

    value->type = NGX_COMMERCE_JSON_NULL;
    value->raw = ngx_commerce_str("null");

    return NGX_OK;
}


static ngx_int_t
ngx_commerce_sealed_context(ngx_commerce_sealed_work_t *w, ngx_str_t *owner,
    ngx_str_t *context)
{
    ngx_str_t  purpose;

    purpose = ngx_commerce_from_core(&w->member->purpose);

    return ngx_commerce_sealed_place(w->c->request->pool, &purpose,
                                     &w->c->tenant.id, owner, context);
}


ngx_int_t
ngx_commerce_sealed_place(ngx_pool_t *pool, ngx_str_t *purpose,
    ngx_str_t *tenant, ngx_str_t *owner, ngx_str_t *context)
{
    u_char  *p;

    p = ngx_pnalloc(pool, purpose->len + tenant->len + owner->len + 2);
    if (p == NULL) {
        return NGX_ERROR;
    }

    context->data = p;
    context->len = ngx_sprintf(p, "%V %V %V", purpose, tenant, owner) - p;

    return NGX_OK;
}


ngx_int_t
ngx_commerce_sealed_write(ngx_pool_t *pool, ngx_commerce_json_t *value)
{
    u_char               *p, last;
    size_t                len;
    ngx_commerce_json_t  *child;

    if (value->type == NGX_COMMERCE_JSON_STRING) {
        len = (size_t) (uintptr_t) ngx_commerce_json_quote(NULL,
                                       value->text.data, value->text.len);
    } else {
        len = sizeof("{}");

        for (child = value->child; child; child = child->next) {
            len += 6 * child->key.len + sizeof("\"\":,") + child->raw.len;
        }
    }

    p = ngx_pnalloc(pool, len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    value->raw.data = p;

    if (value->type == NGX_COMMERCE_JSON_STRING) {
        p = ngx_commerce_json_quote(p, value->text.data, value->text.len);

    } else {
        last = (value->type == NGX_COMMERCE_JSON_OBJECT) ? '}' : ']';
        *p++ = (last == '}') ? '{' : '[';

        for (child = value->child; child; child = child->next) {

            if (child != value->child) {
                *p++ = ',';
            }

            if (last == '}') {
                p = ngx_commerce_json_quote(p, child->key.data,
                                            child->key.len);
                *p++ = ':';
            }

            p = ngx_cpymem(p, child->raw.data, child->raw.len);
        }

        *p++ = last;
    }

    value->raw.len = p - value->raw.data;

    return NGX_OK;
}
