/*
 * Problem documents (RFC 9457): the one form in which the module refuses.
 */

#include "ngx_commerce_http.h"


#define NGX_COMMERCE_DETAIL_MAX  512


typedef struct {
    ngx_uint_t   status;
    const char  *title;
    const char  *code;              /* when nginx itself refused */
    const char  *detail;
} ngx_commerce_problem_status_t;


static u_char *ngx_commerce_problem_member(u_char *p, const char *name,
    ngx_str_t *value);
static size_t ngx_commerce_problem_quoted(ngx_str_t *s);
static const ngx_commerce_problem_status_t *ngx_commerce_problem_status(
    ngx_uint_t status);
static ngx_int_t ngx_commerce_problem_write(ngx_commerce_request_t *c,
    ngx_uint_t status, ngx_str_t *code, ngx_str_t *detail,
    ngx_commerce_json_t *extension);


static const ngx_commerce_problem_status_t  ngx_commerce_problem_statuses[] = {

    { 400, "Bad Request", "bad-request",
      "The request could not be understood." },
    { 401, "Unauthorized", "unauthorized",
      "A valid access token is needed: Authorization: Bearer <token>." },
    { 403, "Forbidden", "forbidden",
      "This is not allowed to whom the token belongs." },
    { 404, "Not Found", "not-found", "There is nothing at this address." },
    { 405, "Method Not Allowed", "method-not-allowed",
      "This address does not take this method; see Allow." },
    { 406, "Not Acceptable", "not-acceptable",
      "Answers are application/json." },
    { 408, "Request Timeout", "request-timeout",
      "The request did not arrive in time." },
    { 409, "Conflict", "conflict", "This is in conflict with another change." },
    { 410, "Gone", "gone", "This is no longer here." },
    { 411, "Length Required", "length-required",
      "The request needs a Content-Length." },
    { 412, "Precondition Failed", "version-mismatch",
      "The resource has changed since; read it again." },
    { 413, "Content Too Large", "body-too-large",
      "The request body is larger than this address takes." },
    { 414, "URI Too Long", "uri-too-long", "The address is too long." },
    { 415, "Unsupported Media Type", "unsupported-media-type",
      "This address does not take this Content-Type." },
    { 422, "Unprocessable Content", "validation-failed",
      "The request is well-formed but has values that do not fit." },
    { 428, "Precondition Required", "if-match-required",
      "Send If-Match with the ETag of the version that is to be changed." },
    { 429, "Too Many Requests", "rate-limited",
      "Too many requests; see Retry-After." },
    { 431, "Request Header Fields Too Large", "headers-too-large",
      "The request headers are too large." },
    { 494, "Request Header Fields Too Large", "headers-too-large",
      "The request headers are too large." },
    { 495, "Bad Request", "certificate-invalid",
      "The client certificate is not valid." },
    { 496, "Bad Request", "certificate-required",
      "A client certificate is needed." },
    { 497, "Bad Request", "https-required",
      "This port speaks HTTPS only." },
    { 500, "Internal Server Error", "internal",
      "Something went wrong on our side; the correlation id helps to find "
      "it." },
    { 501, "Not Implemented", "not-implemented",
      "This is not implemented." },
    { 502, "Bad Gateway", "bad-gateway", "A backend gave no usable answer." },
    { 503, "Service Unavailable", "unavailable",
      "The service cannot answer now; see Retry-After." },
    { 504, "Gateway Timeout", "timeout", "A backend did not answer in time." },

    { 0, NULL, NULL, NULL }
};


ngx_int_t
ngx_commerce_problem(ngx_commerce_request_t *c, ngx_uint_t status,
    const char *code, const char *detail, ...)
{
    u_char     text[NGX_COMMERCE_DETAIL_MAX];
    va_list    args;
    ngx_str_t  code_str, detail_str;

    va_start(args, detail);
    detail_str.data = text;
    detail_str.len = ngx_vslprintf(text, text + sizeof(text), detail, args)
                     - text;
    va_end(args);

    /* client text may have been cut within a character */
    while (detail_str.len == sizeof(text)
           || !ngx_commerce_utf8_valid(detail_str.data, detail_str.len))
    {
        detail_str.len--;
    }

    code_str.data = (u_char *) code;
    code_str.len = ngx_strlen(code);

    return ngx_commerce_problem_write(c, status, &code_str, &detail_str, NULL);
}


/* What is our fault and not the client's to know; the cause is in the log. */

ngx_int_t
ngx_commerce_problem_internal(ngx_commerce_request_t *c)
{
    return ngx_commerce_problem(c, 500, "internal", "%s",
                                ngx_commerce_problem_status(500)->detail);
}


ngx_int_t
ngx_commerce_problem_retry(ngx_commerce_request_t *c, ngx_uint_t status,
    const char *code, ngx_uint_t retry_after, const char *detail)
{
    u_char     *p;

    ngx_commerce_problem(c, status, code, "%s", detail);

    p = ngx_pnalloc(c->request->pool, sizeof("{\"Retry-After\":}") + NGX_INT_T_LEN);
    if (p == NULL) {
        return NGX_ERROR;
    }

    c->step.headers.data = p;
    c->step.headers.len = ngx_sprintf(p, "{\"Retry-After\":%ui}",
                                      ngx_max(retry_after, 1)) - p;

    return NGX_ERROR;
}


ngx_int_t
ngx_commerce_problem_extended(ngx_commerce_request_t *c, ngx_uint_t status,
    ngx_str_t *code, ngx_str_t *detail, ngx_str_t *extension)
{
    ngx_str_t                  own;
    ngx_commerce_json_t       *root, *member;
    ngx_commerce_alloc_t       alloc;
    ngx_commerce_json_error_t  error;

    root = NULL;

    if (extension && extension->len) {

        alloc = ngx_commerce_pool_alloc(c->request->pool);

        if (ngx_commerce_json_parse(&alloc, extension->data, extension->len,
                                    NULL, &root, &error)
            != NGX_COMMERCE_OK)
        {
            ngx_log_error(NGX_LOG_ERR, c->request->connection->log, 0,
                          "commerce: the detail of a failure raised by "
                          "\"%*s\" is not JSON", c->op->id.len,
                          c->op->id.data);
            root = NULL;
        }

        member = ngx_commerce_json_get(root, "code");

        if (member && member->type == NGX_COMMERCE_JSON_STRING) {
            own = ngx_commerce_from_core(&member->text);
            code = &own;
        }
    }

    ngx_commerce_problem_write(c, status, code, detail, root);

    member = ngx_commerce_json_get(root, "retry_after");

    if (member && member->type == NGX_COMMERCE_JSON_NUMBER && member->integer) {

        c->step.headers.data = ngx_pnalloc(c->request->pool,
                                           sizeof("{\"Retry-After\":}")
                                           + NGX_INT64_LEN);
        if (c->step.headers.data == NULL) {
            return NGX_ERROR;
        }

        c->step.headers.len = ngx_sprintf(c->step.headers.data,
                                          "{\"Retry-After\":%L}",
                                          member->number)
                              - c->step.headers.data;
    }

    return NGX_ERROR;
}


ngx_int_t
ngx_commerce_problem_violations(ngx_commerce_request_t *c, ngx_uint_t status,
    const char *code, ngx_commerce_violations_t *violations)
{
    size_t                     len;
    u_char                    *p;
    uint32_t                   i;
    ngx_str_t                  code_str, detail, json;
    ngx_commerce_str_t         where;
    ngx_commerce_violation_t  *v;

    len = sizeof("{\"errors\":[]}");

    for (i = 0; i < violations->count; i++) {
        v = &violations->list[i];

        len += sizeof("{\"pointer\":,\"code\":\"\",\"message\":},")
               + ngx_commerce_problem_quoted((ngx_str_t *) &v->pointer)
               + ngx_strlen(v->code)
               + ngx_commerce_problem_quoted((ngx_str_t *) &v->message);
    }

    p = ngx_pnalloc(c->request->pool, len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    json.data = p;
    p = ngx_cpymem(p, "{\"errors\":[", sizeof("{\"errors\":[") - 1);

    for (i = 0; i < violations->count; i++) {
        v = &violations->list[i];

        if (i) {
            *p++ = ',';
        }

        p = ngx_cpymem(p, "{\"pointer\":", sizeof("{\"pointer\":") - 1);
        p = ngx_commerce_json_quote(p, v->pointer.data, v->pointer.len);
        p = ngx_sprintf(p, ",\"code\":\"%s\",\"message\":", v->code);
        p = ngx_commerce_json_quote(p, v->message.data, v->message.len);
        *p++ = '}';
    }

    *p++ = ']';
    *p++ = '}';
    json.len = p - json.data;

    code_str.data = (u_char *) code;
    code_str.len = ngx_strlen(code);

    ngx_str_set(&detail, "Some values do not fit; \"errors\" names each.");

    if (violations->count == 1) {
        v = &violations->list[0];

        /* the pointer to the whole document is empty */
        where = v->pointer.len ? v->pointer : ngx_commerce_str("The body");

        detail.data = ngx_pnalloc(c->request->pool,
                                  where.len + v->message.len + 4);
        if (detail.data == NULL) {
            return NGX_ERROR;
        }

        detail.len = ngx_sprintf(detail.data, "%*s %*s.", where.len,
                                 where.data, v->message.len, v->message.data)
                     - detail.data;
    }

    return ngx_commerce_problem_extended(c, status, &code_str, &detail, &json);
}


/* Writes the document into c->step.  Members of "extension" go along. */

static ngx_int_t
ngx_commerce_problem_write(ngx_commerce_request_t *c, ngx_uint_t status,
    ngx_str_t *code, ngx_str_t *detail, ngx_commerce_json_t *extension)
{
    size_t                                len;
    u_char                               *p;
    ngx_str_t                             title, type, instance;
    ngx_commerce_json_t                  *member;
    const ngx_commerce_problem_status_t  *known;

    ngx_memzero(&c->step, sizeof(ngx_commerce_reply_t));
    c->step.status = status;
    c->step.problem = 1;

    known = ngx_commerce_problem_status(status);
    title.data = (u_char *) known->title;
    title.len = ngx_strlen(known->title);

    ngx_str_null(&type);

    /* as the client sent it: error_page may have led to another URI */

    instance = c->request->unparsed_uri;
    p = instance.len ? ngx_strlchr(instance.data,
                                   instance.data + instance.len, '?')
                     : NULL;

    if (p) {
        instance.len = p - instance.data;
    }

    if (!ngx_commerce_utf8_valid(instance.data, instance.len)) {
        ngx_str_null(&instance);
    }

    len = sizeof("{\"type\":\"\",\"title\":,\"status\":,\"detail\":,"
                 "\"instance\":,\"code\":,\"correlation_id\":}")
          + c->conf->problem_base.len + 2 * ngx_commerce_problem_quoted(code)
          + NGX_INT_T_LEN + ngx_commerce_problem_quoted(detail)
          + ngx_commerce_problem_quoted(&instance)
          + ngx_commerce_problem_quoted(&c->correlation_id);

    for (member = extension ? extension->child : NULL;
         member;
         member = member->next)
    {
        if (member->key.len == 5
            && ngx_memcmp(member->key.data, "title", 5) == 0
            && member->type == NGX_COMMERCE_JSON_STRING)
        {
            title = ngx_commerce_from_core(&member->text);
        }

        if (member->key.len == 4
            && ngx_memcmp(member->key.data, "type", 4) == 0
            && member->type == NGX_COMMERCE_JSON_STRING)
        {
            type = ngx_commerce_from_core(&member->text);
        }

        len += sizeof(",\"\":")
               + ngx_commerce_problem_quoted((ngx_str_t *) &member->key)
               + member->raw.len;
    }

    len += ngx_commerce_problem_quoted(&title)
           + ngx_commerce_problem_quoted(&type);

    p = ngx_pnalloc(c->request->pool, len + code->len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    c->code.data = p;
    c->code.len = code->len;
    p = ngx_cpymem(p, code->data, code->len);

    c->step.body.data = p;

    p = ngx_cpymem(p, "{\"type\":", sizeof("{\"type\":") - 1);

    if (type.len) {
        p = ngx_commerce_json_quote(p, type.data, type.len);

    } else {
        *p++ = '"';
        p = ngx_cpymem(p, c->conf->problem_base.data,
                       c->conf->problem_base.len);
        p = ngx_cpymem(p, code->data, code->len);
        *p++ = '"';
    }

    p = ngx_commerce_problem_member(p, "title", &title);
    p = ngx_sprintf(p, ",\"status\":%ui", status);
    p = ngx_commerce_problem_member(p, "detail", detail);

    if (instance.len) {
        p = ngx_commerce_problem_member(p, "instance", &instance);
    }

    p = ngx_commerce_problem_member(p, "code", code);
    p = ngx_commerce_problem_member(p, "correlation_id", &c->correlation_id);

    for (member = extension ? extension->child : NULL;
         member;
         member = member->next)
    {

#define ngx_commerce_is(s)                                                    \
    (member->key.len == sizeof(s) - 1                                         \
     && ngx_memcmp(member->key.data, s, sizeof(s) - 1) == 0)

        if (ngx_commerce_is("type") || ngx_commerce_is("title")
            || ngx_commerce_is("status") || ngx_commerce_is("code")
            || ngx_commerce_is("detail") || ngx_commerce_is("instance")
            || ngx_commerce_is("correlation_id"))
        {
            continue;
        }

        *p++ = ',';
        p = ngx_commerce_json_quote(p, member->key.data, member->key.len);
        *p++ = ':';
        p = ngx_cpymem(p, member->raw.data, member->raw.len);
    }

    *p++ = '}';
    c->step.body.len = p - c->step.body.data;

    return NGX_ERROR;
}


/*
 * commerce_problem: where error_page leads to, so that what nginx refuses by
 * itself (400, 413, 502 …) is a problem document too.
 */

ngx_int_t
ngx_commerce_problem_handler(ngx_http_request_t *r)
{
    ngx_int_t                             rc;
    ngx_str_t                             code, detail;
    ngx_uint_t                            status;
    ngx_commerce_request_t               *c;
    const ngx_commerce_problem_status_t  *known;

    rc = ngx_http_discard_request_body(r);
    if (rc != NGX_OK) {
        return rc;
    }

    c = ngx_commerce_request_get(r);
    if (c == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    status = r->err_status ? r->err_status : NGX_HTTP_NOT_FOUND;

    /* nginx refuses a second Authorization, and one without end, by itself; whoever they name, it is nobody */

    if (status == NGX_HTTP_BAD_REQUEST && ngx_commerce_auth_refused(r)) {
        status = NGX_HTTP_UNAUTHORIZED;
    }

    known = ngx_commerce_problem_status(status);

    if (status >= 494 && status <= 497) {
        status = (status == 494) ? 431 : NGX_HTTP_BAD_REQUEST;
    }

    code.data = (u_char *) known->code;
    code.len = ngx_strlen(known->code);
    detail.data = (u_char *) known->detail;
    detail.len = ngx_strlen(known->detail);

    r->err_status = 0;

    if (ngx_commerce_limits_refused(c) == NGX_OK) {
        c->reply = c->step;
        return ngx_commerce_reply_send(c);
    }

    if (status == NGX_HTTP_NOT_ALLOWED
        && ngx_commerce_request_methods(c) != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (status == NGX_HTTP_SERVICE_UNAVAILABLE) {
        ngx_commerce_problem_retry(c, status, known->code, 1, known->detail);

    } else {
        ngx_commerce_problem_write(c, status, &code, &detail, NULL);
    }

    c->reply = c->step;

    return ngx_commerce_reply_send(c);
}


static u_char *
ngx_commerce_problem_member(u_char *p, const char *name, ngx_str_t *value)
{
    p = ngx_sprintf(p, ",\"%s\":", name);

    return ngx_commerce_json_quote(p, value->data, value->len);
}


static size_t
ngx_commerce_problem_quoted(ngx_str_t *s)
{
    return (size_t) (uintptr_t) ngx_commerce_json_quote(NULL, s->data, s->len);
}


static const ngx_commerce_problem_status_t *
ngx_commerce_problem_status(ngx_uint_t status)
{
    const ngx_commerce_problem_status_t  *known;

    for (known = ngx_commerce_problem_statuses; known->status; known++) {
        if (known->status == status) {
            return known;
        }
    }

    /* the class: 4xx as 400, 5xx as 500 */
    return ngx_commerce_problem_status(status < 500 ? 400 : 500);
}
