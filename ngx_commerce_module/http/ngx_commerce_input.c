/*
 * Path, query and header parameters, checked by the contract's compiled
 * schemas, into the scope.
 */

#include "ngx_commerce_http.h"


#define NGX_COMMERCE_QUERY_MAX  64


static ngx_int_t ngx_commerce_input_refused(ngx_commerce_request_t *c,
    ngx_commerce_violations_t *violations);
static ngx_int_t ngx_commerce_input_path(ngx_commerce_request_t *c,
    ngx_commerce_violations_t *violations);
static ngx_int_t ngx_commerce_input_query(ngx_commerce_request_t *c,
    ngx_commerce_violations_t *violations);
static ngx_int_t ngx_commerce_input_pair(ngx_commerce_request_t *c,
    u_char *p, u_char *end, ngx_commerce_violations_t *violations);
static ngx_int_t ngx_commerce_input_joined(ngx_commerce_request_t *c,
    const ngx_commerce_param_t *param, ngx_commerce_violations_t *violations);
static ngx_int_t ngx_commerce_input_unknown(ngx_commerce_request_t *c,
    ngx_str_t *name);
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
        return ngx_commerce_input_refused(c, &violations);
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


/*
 * A value that does not fit is 422.  A name that a list does not know (to sort
 * by, to show, to expand) is like a parameter that nobody knows: 400.
 */

static ngx_int_t
ngx_commerce_input_refused(ngx_commerce_request_t *c,
    ngx_commerce_violations_t *violations)
{
    ngx_uint_t                   i, k;
    ngx_commerce_str_t          *at;
    const ngx_commerce_param_t  *param;

    for (i = 0; i < violations->count; i++) {
        at = &violations->list[i].pointer;

        for (k = 0; k < c->op->params_count; k++) {
            param = &c->op->params[k];

            if (param->list != NGX_COMMERCE_LIST_NONE
                && at->len >= param->wire.len
                && ngx_memcmp(at->data, param->wire.data, param->wire.len) == 0
                && (at->len == param->wire.len
                    || at->data[param->wire.len] == '/'))
            {
                return ngx_commerce_problem_violations(c, 400, "unknown-name",
                                                       violations);
            }
        }
    }

    return ngx_commerce_problem_violations(c, 422, "validation-failed",
                                           violations);
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

        return ngx_commerce_input_unknown(c, &name);
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

        return ngx_commerce_input_joined(c, param, violations);
    }

    return ngx_commerce_input_value(c, param, &text, violations);
}


/* Each part fits the schema; the whole may be too long, or hold something twice. */

static ngx_int_t
ngx_commerce_input_joined(ngx_commerce_request_t *c,
    const ngx_commerce_param_t *param, ngx_commerce_violations_t *violations)
{
    ngx_uint_t                  i, first;
    ngx_commerce_rc_t           rc;
    ngx_commerce_str_t         *at;
    ngx_commerce_json_t        *value;
    ngx_commerce_value_t       *v;
    ngx_commerce_json_error_t   error;

    v = &c->slots[param->slot];
    first = violations->count;

    rc = ngx_commerce_json_parse(violations->alloc, v->text.data, v->text.len,
                                 NULL, &value, &error);

    if (rc == NGX_COMMERCE_OK) {
        rc = ngx_commerce_schema_check(param->schema, value, violations);
    }

    if (rc == NGX_COMMERCE_NOMEM) {
        return NGX_ERROR;
    }

    for (i = first; i < violations->count; i++) {
        at = &violations->list[i].pointer;
        *at = param->wire;
    }

    return NGX_OK;
}


/* Names those that are known: what is misspelled is not to be ignored in silence. */

static ngx_int_t
ngx_commerce_input_unknown(ngx_commerce_request_t *c, ngx_str_t *name)
{
    u_char      *p, *last, known[512];
    ngx_uint_t   i;

    p = known;
    last = known + sizeof(known);

    for (i = 0; i < c->op->params_count; i++) {

        if (c->op->params[i].in == NGX_COMMERCE_IN_QUERY) {
            p = ngx_slprintf(p, last, "%s%*s", p == known ? "" : ", ",
                             c->op->params[i].wire.len,
                             c->op->params[i].wire.data);
        }
    }

    if (p == known) {
        return ngx_commerce_problem(c, 400, "unknown-parameter",
            "The query parameter \"%V\" is unknown here; %*s takes none.",
            name, c->op->id.len, c->op->id.data);
    }

    return ngx_commerce_problem(c, 400, "unknown-parameter",
        "The query parameter \"%V\" is unknown here; those of %*s are %*s.",
        name, c->op->id.len, c->op->id.data, (size_t) (p - known), known);
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


/* What may change between pages: how many, how far, and what is shown of each. */

static ngx_uint_t
ngx_commerce_input_unbound(const ngx_commerce_str_t *wire)
{
    ngx_uint_t                       i;
    static const ngx_commerce_str_t  names[] = {
        { 5, (uint8_t *) "limit" }, { 4, (uint8_t *) "page" },
        { 8, (uint8_t *) "per_page" }, { 6, (uint8_t *) "fields" },
        { 6, (uint8_t *) "expand" }, { 5, (uint8_t *) "count" },
        { 6, (uint8_t *) "facets" }
    };

    for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (wire->len == names[i].len
            && ngx_memcmp(wire->data, names[i].data, wire->len) == 0)
        {
            return 1;
        }
    }

    return 0;
}


/*
 * What a cursor must not leave: shop, reader, operation, filters, sort.
 * data == NULL when out of memory.
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

    if (c->op->auth != NGX_COMMERCE_AUTH_PUBLIC && c->principal.subject.len) {
        p = ngx_cpymem(p, c->principal.subject.data, c->principal.subject.len);
    }

    *p++ = '\0';
    p = ngx_cpymem(p, c->op->id.data, c->op->id.len);

    for (i = 0; i < c->op->params_count; i++) {
        param = &c->op->params[i];
        v = &c->slots[param->slot];

        if (!v->set || ngx_commerce_schema_is_cursor(param->schema)
            || ngx_commerce_input_unbound(&param->wire))
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
