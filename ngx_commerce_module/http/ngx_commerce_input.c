/*
 * What the client sent: path, query and header parameters and the body,
 * checked by the contract's compiled schemas, into the scope.
 */

#include "ngx_commerce_http.h"

#include <openssl/evp.h>


#define NGX_COMMERCE_KEY_MAX    255
#define NGX_COMMERCE_QUERY_MAX  64


static ngx_int_t ngx_commerce_input_path(ngx_commerce_request_t *c,
    ngx_commerce_violations_t *violations);
static ngx_int_t ngx_commerce_input_query(ngx_commerce_request_t *c,
    ngx_commerce_violations_t *violations);
static ngx_int_t ngx_commerce_input_pair(ngx_commerce_request_t *c,
    u_char *p, u_char *end, ngx_commerce_violations_t *violations);
static ngx_int_t ngx_commerce_input_headers(ngx_commerce_request_t *c,
    ngx_commerce_violations_t *violations);
static ngx_int_t ngx_commerce_input_defaults(ngx_commerce_request_t *c,
    ngx_commerce_violations_t *violations);
static ngx_int_t ngx_commerce_input_value(ngx_commerce_request_t *c,
    const ngx_commerce_param_t *param, ngx_str_t *text,
    ngx_commerce_violations_t *violations);
static ngx_int_t ngx_commerce_input_cursor(ngx_commerce_request_t *c,
    const ngx_commerce_param_t *param);
static const ngx_commerce_param_t *ngx_commerce_input_param(
    ngx_commerce_request_t *c, ngx_commerce_in_t in, ngx_str_t *wire);
static ngx_int_t ngx_commerce_input_type(ngx_commerce_request_t *c);
static ngx_int_t ngx_commerce_input_read(ngx_commerce_request_t *c,
    ngx_str_t *body);
static ngx_int_t ngx_commerce_input_json(ngx_commerce_request_t *c,
    ngx_str_t *body, ngx_commerce_json_t **root);
static ngx_int_t ngx_commerce_input_key(ngx_commerce_request_t *c,
    ngx_commerce_json_t *root, ngx_str_t *body);


ngx_int_t
ngx_commerce_input_params(ngx_commerce_request_t *c)
{
    ngx_uint_t                  i;
    ngx_commerce_alloc_t        alloc;
    ngx_commerce_violations_t   violations;
    const ngx_commerce_param_t *param;

    alloc = ngx_commerce_pool_alloc(c->request->pool);
    violations.alloc = &alloc;
    violations.count = 0;

    if (ngx_commerce_input_path(c, &violations) != NGX_OK
        || ngx_commerce_input_query(c, &violations) != NGX_OK
        || ngx_commerce_input_headers(c, &violations) != NGX_OK
        || ngx_commerce_input_defaults(c, &violations) != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (violations.count) {
        return ngx_commerce_problem_violations(c, 422, "validation-failed",
                                               &violations);
    }

    /* after all others: a cursor is bound to them */

    for (i = 0; i < c->op->params_count; i++) {
        param = &c->op->params[i];

        if (c->slots[param->slot].set
            && ngx_commerce_schema_is_cursor(param->schema)
            && ngx_commerce_input_cursor(c, param) != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_commerce_input_path(ngx_commerce_request_t *c,
    ngx_commerce_violations_t *violations)
{
    u_char                      *p;
    ngx_str_t                    text;
    ngx_uint_t                   i, n;
    ptrdiff_t                    len;
    const ngx_commerce_param_t  *param;

    n = 0;

    for (i = 0; i < c->op->params_count && n < c->match.params_count; i++) {
        param = &c->op->params[i];

        if (param->in != NGX_COMMERCE_IN_PATH) {
            continue;
        }

        text = ngx_commerce_from_core(&c->match.params[n++]);

        if (ngx_strlchr(text.data, text.data + text.len, '%')) {

            p = ngx_pnalloc(c->request->pool, text.len);
            if (p == NULL) {
                return NGX_ERROR;
            }

            len = ngx_commerce_percent_decode(p, text.data, text.len, false);

            if (len < 0) {
                return ngx_commerce_problem(c, 400, "malformed-address",
                    "The address has a percent sign that is not followed by "
                    "two hexadecimal digits.");
            }

            text.data = p;
            text.len = len;
        }

        if (ngx_commerce_input_value(c, param, &text, violations) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_commerce_input_query(ngx_commerce_request_t *c,
    ngx_commerce_violations_t *violations)
{
    u_char      *p, *end, *amp;
    ngx_uint_t   n;

    p = c->request->args.data;
    end = p + c->request->args.len;

    for (n = 0; p < end; p = amp + 1) {

        amp = ngx_strlchr(p, end, '&');
        if (amp == NULL) {
            amp = end;
        }

        if (amp == p) {
            continue;
        }

        if (++n > NGX_COMMERCE_QUERY_MAX) {
            return ngx_commerce_problem(c, 400, "too-many-parameters",
                "The query has more than %d parameters.",
                NGX_COMMERCE_QUERY_MAX);
        }

        if (ngx_commerce_input_pair(c, p, amp, violations) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_commerce_input_pair(ngx_commerce_request_t *c, u_char *p, u_char *end,
    ngx_commerce_violations_t *violations)
{
    u_char                      *eq, *dst;
    ptrdiff_t                    len;
    ngx_str_t                    name, text, joined;
    ngx_commerce_value_t        *v;
    const ngx_commerce_param_t  *param;

    eq = ngx_strlchr(p, end, '=');
    if (eq == NULL) {
        eq = end;
    }

    dst = ngx_pnalloc(c->request->pool, end - p + 1);
    if (dst == NULL) {
        return NGX_ERROR;
    }

    name.data = dst;
    len = ngx_commerce_percent_decode(dst, p, eq - p, true);

    if (len >= 0) {
        name.len = len;
        text.data = dst + len;
        text.len = 0;

        if (eq < end) {
            len = ngx_commerce_percent_decode(text.data, eq + 1, end - eq - 1,
                                              true);
            text.len = len;
        }
    }

    if (len < 0) {
        return ngx_commerce_problem(c, 400, "malformed-query",
            "The query has a percent sign that is not followed by two "
            "hexadecimal digits.");
    }

    param = ngx_commerce_input_param(c, NGX_COMMERCE_IN_QUERY, &name);

    if (param == NULL) {

        if (!ngx_commerce_utf8_valid(name.data, name.len)) {
            name.len = 0;
        }

        return ngx_commerce_problem(c, 400, "unknown-parameter",
            "The query parameter \"%V\" is unknown here; the API reference "
            "lists those of %*s.", &name, c->op->id.len, c->op->id.data);
    }

    v = &c->slots[param->slot];

    if (v->set) {

        if (v->type != NGX_COMMERCE_JSON_ARRAY) {
            return ngx_commerce_problem(c, 400, "duplicate-parameter",
                "The query parameter \"%V\" may be given once only.", &name);
        }

        /* repeated parameters are one list: [a] and b make [a,b] */

        joined = v->text;

        if (ngx_commerce_input_value(c, param, &text, violations) != NGX_OK) {
            return NGX_ERROR;
        }

        if (violations->count || joined.len <= 2 || v->text.len <= 2) {
            return NGX_OK;
        }

        dst = ngx_pnalloc(c->request->pool, joined.len + v->text.len);
        if (dst == NULL) {
            return NGX_ERROR;
        }

        text.data = dst;
        dst = ngx_cpymem(dst, joined.data, joined.len - 1);
        *dst++ = ',';
        dst = ngx_cpymem(dst, v->text.data + 1, v->text.len - 1);
        text.len = dst - text.data;
        v->text = text;

        return NGX_OK;
    }

    return ngx_commerce_input_value(c, param, &text, violations);
}


static ngx_int_t
ngx_commerce_input_headers(ngx_commerce_request_t *c,
    ngx_commerce_violations_t *violations)
{
    ngx_str_t                    name;
    ngx_uint_t                   i, any;
    ngx_list_part_t             *part;
    ngx_table_elt_t             *h;
    const ngx_commerce_param_t  *param;

    any = 0;

    for (i = 0; i < c->op->params_count; i++) {
        any |= (c->op->params[i].in == NGX_COMMERCE_IN_HEADER);
    }

    if (!any) {
        return NGX_OK;
    }

    for (part = &c->request->headers_in.headers.part; part; part = part->next) {
        h = part->elts;

        for (i = 0; i < part->nelts; i++) {

            name.data = h[i].lowcase_key;
            name.len = h[i].key.len;

            param = ngx_commerce_input_param(c, NGX_COMMERCE_IN_HEADER, &name);

            if (param == NULL) {
                continue;
            }

            if (c->slots[param->slot].set) {
                return ngx_commerce_problem(c, 400, "duplicate-header",
                    "The header \"%V\" may be given once only.", &h[i].key);
            }

            if (ngx_commerce_input_value(c, param, &h[i].value, violations)
                != NGX_OK)
            {
                return NGX_ERROR;
            }
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_commerce_input_defaults(ngx_commerce_request_t *c,
    ngx_commerce_violations_t *violations)
{
    ngx_uint_t                   i;
    const ngx_commerce_json_t   *value;
    const ngx_commerce_param_t  *param;
    ngx_commerce_violation_t    *v;

    for (i = 0; i < c->op->params_count; i++) {
        param = &c->op->params[i];

        if (c->slots[param->slot].set) {
            continue;
        }

        value = ngx_commerce_schema_default(param->schema);

        if (value) {
            ngx_commerce_scope_set(c, param->slot, value);
            continue;
        }

        if (param->required
            && violations->count < NGX_COMMERCE_VIOLATIONS_MAX)
        {
            v = &violations->list[violations->count++];
            v->pointer = param->wire;
            v->code = "required";
            v->message = ngx_commerce_str("is required");
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_commerce_input_value(ngx_commerce_request_t *c,
    const ngx_commerce_param_t *param, ngx_str_t *text,
    ngx_commerce_violations_t *violations)
{
    ngx_commerce_rc_t          rc;
    ngx_commerce_json_t       *value;
    ngx_commerce_violation_t  *v;

    if (ngx_strlchr(text->data, text->data + text->len, '\0')) {

        if (violations->count < NGX_COMMERCE_VIOLATIONS_MAX) {
            v = &violations->list[violations->count++];
            v->pointer = param->wire;
            v->code = "nul-character";
            v->message = ngx_commerce_str("must not contain a NUL character");
        }

        return NGX_OK;
    }

    /* its signature is its schema, and is judged when its neighbours are known */

    if (ngx_commerce_schema_is_cursor(param->schema)) {
        c->slots[param->slot].set = 1;
        c->slots[param->slot].type = NGX_COMMERCE_JSON_STRING;
        c->slots[param->slot].text = *text;
        return NGX_OK;
    }

    rc = ngx_commerce_schema_check_text(param->schema, param->wire,
                                        ngx_commerce_to_core(text), &value,
                                        violations);

    if (rc == NGX_COMMERCE_NOMEM) {
        return NGX_ERROR;
    }

    if (rc == NGX_COMMERCE_OK) {
        ngx_commerce_scope_set(c, param->slot, value);
    }

    return NGX_OK;
}


static const ngx_commerce_param_t *
ngx_commerce_input_param(ngx_commerce_request_t *c, ngx_commerce_in_t in,
    ngx_str_t *wire)
{
    ngx_uint_t                   i;
    const ngx_commerce_param_t  *param;

    for (i = 0; i < c->op->params_count; i++) {
        param = &c->op->params[i];

        if (param->in == in && param->wire.len == wire->len
            && ngx_memcmp(param->wire.data, wire->data, wire->len) == 0)
        {
            return param;
        }
    }

    return NULL;
}


/*
 * What a cursor must not leave: shop, reader, operation, filters, sort.
 * "limit" may change between pages.  data == NULL when out of memory.
 */

void
ngx_commerce_input_binding(ngx_commerce_request_t *c, ngx_str_t *binding)
{
    size_t                       len;
    u_char                      *p;
    ngx_uint_t                   i;
    ngx_commerce_value_t        *v;
    const ngx_commerce_param_t  *param;

    len = c->tenant.id.len + c->op->id.len + c->principal.subject.len + 3;

    for (i = 0; i < c->op->params_count; i++) {
        param = &c->op->params[i];
        len += param->wire.len + c->slots[param->slot].text.len + 2;
    }

    p = ngx_pnalloc(c->request->pool, len);
    binding->data = p;
    binding->len = 0;

    if (p == NULL) {
        return;
    }

    p = ngx_cpymem(p, c->tenant.id.data, c->tenant.id.len);
    *p++ = '\0';

    if (c->op->auth != NGX_COMMERCE_AUTH_PUBLIC) {
        p = ngx_cpymem(p, c->principal.subject.data, c->principal.subject.len);
    }

    *p++ = '\0';
    p = ngx_cpymem(p, c->op->id.data, c->op->id.len);

    for (i = 0; i < c->op->params_count; i++) {
        param = &c->op->params[i];
        v = &c->slots[param->slot];

        if (!v->set || ngx_commerce_schema_is_cursor(param->schema)
            || (param->wire.len == 5
                && ngx_memcmp(param->wire.data, "limit", 5) == 0))
        {
            continue;
        }

        *p++ = '\0';
        p = ngx_cpymem(p, param->wire.data, param->wire.len);
        *p++ = '=';
        p = ngx_cpymem(p, v->text.data, v->text.len);
    }

    binding->len = p - binding->data;
}


static ngx_int_t
ngx_commerce_input_cursor(ngx_commerce_request_t *c,
    const ngx_commerce_param_t *param)
{
    u_char                *p;
    ptrdiff_t              len;
    ngx_str_t              binding;
    ngx_commerce_value_t  *v;

    v = &c->slots[param->slot];

    ngx_commerce_input_binding(c, &binding);

    p = ngx_pnalloc(c->request->pool,
                    ngx_commerce_base64url_decoded_max(v->text.len) + 1);

    if (binding.data == NULL || p == NULL) {
        return NGX_ERROR;
    }

    len = ngx_commerce_cursor_verify(p, c->conf->cursor_key,
                                     ngx_commerce_to_core(&binding),
                                     ngx_commerce_to_core(&v->text));
    if (len < 0) {
        return ngx_commerce_problem(c, 400, "cursor-mismatch",
            "The cursor is not of this list with these filters and this "
            "order; begin again without it.");
    }

    v->text.data = p;
    v->text.len = len;
    v->type = NGX_COMMERCE_JSON_OBJECT;

    return NGX_OK;
}


/* Before the body is read: is it of a kind and size that is taken here? */

ngx_int_t
ngx_commerce_input_media(ngx_commerce_request_t *c)
{
    ngx_http_request_t  *r;

    r = c->request;

    if (r->headers_in.content_length_n > (off_t) c->op->body_limit) {
        return ngx_commerce_problem(c, 413, "body-too-large",
            "The body may have %uz bytes at most.", c->op->body_limit);
    }

    if (c->h_content_encoding) {
        return ngx_commerce_problem(c, 415, "content-encoding",
            "Send the body without a Content-Encoding.");
    }

    /* HTTP/2 need not tell: then the type is judged when there is a body */

    return (r->headers_in.content_length_n > 0 || r->headers_in.chunked)
           ? ngx_commerce_input_type(c) : NGX_OK;
}


static ngx_int_t
ngx_commerce_input_type(ngx_commerce_request_t *c)
{
    u_char              *p, *end;
    size_t               len;
    ngx_str_t           *type;
    ngx_uint_t           i;
    ngx_http_request_t  *r;

    r = c->request;

    if (r->headers_in.content_type == NULL) {
        return ngx_commerce_problem(c, 415, "unsupported-media-type",
            "Send the body with Content-Type: %*s.", c->op->media[0].len,
            c->op->media[0].data);
    }

    type = &r->headers_in.content_type->value;
    end = type->data + type->len;

    p = ngx_strlchr(type->data, end, ';');
    len = (p ? p : end) - type->data;

    while (len && (type->data[len - 1] == ' ' || type->data[len - 1] == '\t')) {
        len--;
    }

    /* a parameter is of no weight, unless it names another charset */

    if (p && ngx_strlcasestrn(p, end, (u_char *) "charset", 7 - 1)
        && ngx_strlcasestrn(p, end, (u_char *) "utf-8", 5 - 1) == NULL)
    {
        return ngx_commerce_problem(c, 415, "unsupported-charset",
                                    "The body must be UTF-8.");
    }

    for (i = 0; i < c->op->media_count; i++) {

        if (c->op->media[i].len == len
            && ngx_strncasecmp(c->op->media[i].data, type->data, len) == 0)
        {
            return NGX_OK;
        }
    }

    return ngx_commerce_problem(c, 415, "unsupported-media-type",
        "Send the body with Content-Type: %*s.", c->op->media[0].len,
        c->op->media[0].data);
}


ngx_int_t
ngx_commerce_input_body(ngx_commerce_request_t *c)
{
    ngx_str_t             body;
    ngx_uint_t            i;
    ngx_commerce_json_t  *root, *value;

    root = NULL;

    if (ngx_commerce_input_read(c, &body) != NGX_OK) {
        return NGX_ERROR;
    }

    if (c->op->body == NULL && !c->op->body_raw) {

        if (body.len) {
            return ngx_commerce_problem(c, 400, "unexpected-body",
                                        "This operation takes no body.");
        }

        return ngx_commerce_input_key(c, NULL, &body);
    }

    if (body.len == 0) {

        if (c->op->body_required) {
            return ngx_commerce_problem(c, 400, "body-required",
                "The request needs a body of type %*s.",
                c->op->media[0].len, c->op->media[0].data);
        }

        return ngx_commerce_input_key(c, NULL, &body);
    }

    if (ngx_commerce_input_type(c) != NGX_OK) {
        return NGX_ERROR;
    }

    if (c->op->body_raw) {

        if (ngx_strlchr(body.data, body.data + body.len, '\0')
            || !ngx_commerce_utf8_valid(body.data, body.len))
        {
            return ngx_commerce_problem(c, 400, "invalid-utf8",
                "The body must be UTF-8 text without NUL characters.");
        }

        c->slots[c->op->body_slot].set = 1;
        c->slots[c->op->body_slot].type = NGX_COMMERCE_JSON_STRING;
        c->slots[c->op->body_slot].text = body;

        return ngx_commerce_input_key(c, NULL, &body);
    }

    if (ngx_commerce_input_json(c, &body, &root) != NGX_OK) {
        return NGX_ERROR;
    }

    if (c->op->body_name.len) {
        ngx_commerce_scope_set(c, c->op->body_slot, root);

    } else {

        for (i = 0; i < c->op->members_count; i++) {
            value = ngx_commerce_json_get_n(root,
                                            c->op->members[i].name.data,
                                            c->op->members[i].name.len);
            if (value) {
                ngx_commerce_scope_set(c, c->op->members[i].slot, value);
            }
        }
    }

    return ngx_commerce_input_key(c, root, &body);
}


/* The body as one string.  It is in a file when it outgrew the buffer. */

static ngx_int_t
ngx_commerce_input_read(ngx_commerce_request_t *c, ngx_str_t *body)
{
    off_t                size;
    u_char              *p;
    ssize_t              n;
    ngx_buf_t           *b;
    ngx_chain_t         *cl;
    ngx_http_request_t  *r;

    r = c->request;
    ngx_str_null(body);

    if (r->request_body == NULL || r->request_body->bufs == NULL) {
        return NGX_OK;
    }

    size = 0;

    for (cl = r->request_body->bufs; cl; cl = cl->next) {
        size += ngx_buf_size(cl->buf);
    }

    if (size > (off_t) c->op->body_limit) {
        return ngx_commerce_problem(c, 413, "body-too-large",
            "The body may have %uz bytes at most.", c->op->body_limit);
    }

    b = r->request_body->bufs->buf;
    body->len = size;

    if (r->request_body->bufs->next == NULL && !b->in_file) {
        body->data = b->pos;
        return NGX_OK;
    }

    p = ngx_pnalloc(r->pool, size + 1);
    if (p == NULL) {
        return NGX_ERROR;
    }

    body->data = p;

    for (cl = r->request_body->bufs; cl; cl = cl->next) {
        b = cl->buf;

        if (b->in_file) {
            n = ngx_read_file(b->file, p, b->file_last - b->file_pos,
                              b->file_pos);

            if (n != b->file_last - b->file_pos) {
                return NGX_ERROR;
            }

            p += n;

        } else if (b->last != b->pos) {
            /* the last buffer of a chunked body has neither bytes nor memory */
            p = ngx_cpymem(p, b->pos, b->last - b->pos);
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_commerce_input_json(ngx_commerce_request_t *c, ngx_str_t *body,
    ngx_commerce_json_t **root)
{
    ngx_str_t                  code, detail, extension;
    ngx_commerce_rc_t          rc;
    ngx_commerce_alloc_t       alloc;
    ngx_commerce_json_error_t  error;
    ngx_commerce_violations_t  violations;

    alloc = ngx_commerce_pool_alloc(c->request->pool);

    rc = ngx_commerce_json_parse(&alloc, body->data, body->len,
                                 &c->op->body_limits, root, &error);

    if (rc == NGX_COMMERCE_NOMEM) {
        return NGX_ERROR;
    }

    if (rc != NGX_COMMERCE_OK) {

        code.data = (u_char *) error.code;
        code.len = ngx_strlen(error.code);
        detail.data = (u_char *) error.message;
        detail.len = ngx_strlen(error.message);

        extension.data = ngx_pnalloc(c->request->pool,
                                     sizeof("{\"offset\":,\"pointer\":}")
                                     + NGX_SIZE_T_LEN
                                     + 6 * sizeof(error.pointer));
        if (extension.data == NULL) {
            return NGX_ERROR;
        }

        extension.len = ngx_sprintf(extension.data,
                                    "{\"offset\":%uz,\"pointer\":",
                                    error.offset)
                        - extension.data;
        extension.len = ngx_commerce_json_quote(
                            extension.data + extension.len,
                            (u_char *) error.pointer,
                            ngx_strlen(error.pointer))
                        - extension.data;
        extension.data[extension.len++] = '}';

        return ngx_commerce_problem_extended(c, 400, &code, &detail,
                                             &extension);
    }

    violations.alloc = &alloc;
    violations.count = 0;

    rc = ngx_commerce_schema_check(c->op->body, *root, &violations);

    if (rc == NGX_COMMERCE_NOMEM) {
        return NGX_ERROR;
    }

    if (rc != NGX_COMMERCE_OK) {
        return ngx_commerce_problem_violations(c, 422, "validation-failed",
                                               &violations);
    }

    return NGX_OK;
}


/*
 * Idempotency-Key and its fingerprint: SHA-256 over method, route with its
 * parameters, and the canonical body.
 */

static ngx_int_t
ngx_commerce_input_key(ngx_commerce_request_t *c, ngx_commerce_json_t *root,
    ngx_str_t *body)
{
    size_t        i, len;
    u_char       *canonical;
    ngx_str_t    *key, binding;
    EVP_MD_CTX   *md;

    if (c->op->idempotency == NGX_COMMERCE_IDEMPOTENCY_NONE) {
        return NGX_OK;
    }

    if (c->h_idempotency_key == NULL) {

        if (c->op->idempotency == NGX_COMMERCE_IDEMPOTENCY_REQUIRED) {
            return ngx_commerce_problem(c, 400, "idempotency-key-missing",
                "Send an Idempotency-Key: a value of your own, the same for "
                "each retry of this request.");
        }

        return NGX_OK;
    }

    key = &c->h_idempotency_key->value;

    for (i = 0; i < key->len; i++) {
        if (key->data[i] <= ' ' || key->data[i] > '~') {
            break;
        }
    }

    if (key->len == 0 || key->len > NGX_COMMERCE_KEY_MAX || i < key->len) {
        return ngx_commerce_problem(c, 400, "idempotency-key-invalid",
            "Idempotency-Key must have 1 to 255 visible ASCII characters.");
    }

    canonical = body->len ? body->data : (u_char *) "";
    len = body->len;

    if (root) {
        len = (size_t) (uintptr_t) ngx_commerce_json_canonical(NULL, root);

        canonical = ngx_pnalloc(c->request->pool, len + 1);
        if (canonical == NULL) {
            return NGX_ERROR;
        }

        ngx_commerce_json_canonical(canonical, root);
    }

    ngx_commerce_input_binding(c, &binding);

    md = EVP_MD_CTX_new();

    if (binding.data == NULL || md == NULL) {
        EVP_MD_CTX_free(md);
        return NGX_ERROR;
    }

    i = EVP_DigestInit_ex(md, EVP_sha256(), NULL)
        && EVP_DigestUpdate(md, &c->op->method, sizeof(c->op->method))
        && EVP_DigestUpdate(md, binding.data, binding.len)
        && EVP_DigestUpdate(md, "", 1)
        && EVP_DigestUpdate(md, canonical, len)
        && EVP_DigestFinal_ex(md, c->fingerprint, NULL);

    EVP_MD_CTX_free(md);

    c->idempotency_key = *key;

    return i ? NGX_OK : NGX_ERROR;
}
