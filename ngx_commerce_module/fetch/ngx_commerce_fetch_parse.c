/*
 * What SQL asks for, as a call.  SQL is trusted, its values are not: a header
 * that a customer's name got into must not begin a second one.
 */

#include "ngx_commerce_fetch_internal.h"
#include "ngx_commerce_pool.h"


static ngx_int_t ngx_commerce_fetch_parse_http(ngx_commerce_fetch_t *f,
    const ngx_commerce_json_t *spec, ngx_str_t *tenant);
static ngx_int_t ngx_commerce_fetch_parse_mail(ngx_commerce_fetch_t *f,
    const ngx_commerce_json_t *spec, ngx_str_t *tenant);
static ngx_int_t ngx_commerce_fetch_parse_url(ngx_commerce_fetch_t *f,
    ngx_str_t *url);
static ngx_int_t ngx_commerce_fetch_parse_headers(ngx_commerce_fetch_t *f,
    const ngx_commerce_json_t *headers, ngx_str_t *tenant,
    ngx_commerce_fetch_escape_e *escape);
static ngx_int_t ngx_commerce_fetch_parse_body(ngx_commerce_fetch_t *f,
    const ngx_commerce_json_t *spec, const char *name, ngx_str_t *tenant,
    ngx_commerce_fetch_escape_e escape);
static ngx_int_t ngx_commerce_fetch_parse_address(ngx_commerce_fetch_t *f,
    const ngx_commerce_json_t *value, ngx_str_t *out);
static ngx_int_t ngx_commerce_fetch_parse_wrong(ngx_commerce_fetch_t *f,
    const char *what);


#define ngx_commerce_fetch_is(value, t)                                       \
    ((value) && (value)->type == NGX_COMMERCE_JSON_##t)

#define ngx_commerce_fetch_text(value)                                        \
    ((ngx_str_t) { (value)->text.len, (u_char *) (value)->text.data })


ngx_commerce_json_t *
ngx_commerce_fetch_json(ngx_pool_t *pool, ngx_str_t *text)
{
    ngx_commerce_json_t        *root;
    ngx_commerce_alloc_t        alloc;
    ngx_commerce_json_error_t   error;
    ngx_commerce_json_limits_t  limits;

    alloc = ngx_commerce_pool_alloc(pool);

    /* SQL's own, a batch of calls */

    ngx_memzero(&limits, sizeof(limits));
    limits.max_members = 100000;

    if (ngx_commerce_json_parse(&alloc, text->data, text->len, &limits, &root,
                                &error)
        != NGX_COMMERCE_OK)
    {
        return NULL;
    }

    return root;
}


ngx_int_t
ngx_commerce_fetch_parse(ngx_commerce_fetch_t *f,
    const ngx_commerce_json_t *spec, ngx_uint_t mail, ngx_str_t *tenant)
{
    const ngx_commerce_json_t        *value;
    const ngx_commerce_fetch_conf_t  *conf;

    conf = ngx_commerce_fetch_pool.conf;

    f->mail = mail;
    f->guard = 1;
    f->pause = 0;
    f->error = NULL;
    ngx_str_null(&f->body);

    if (conf == NULL || !ngx_commerce_fetch_is(spec, OBJECT)) {
        return ngx_commerce_fetch_parse_wrong(f, "it is no object");
    }

    if (ngx_array_init(&f->headers, f->pool, 8, sizeof(ngx_str_t)) != NGX_OK
        || ngx_array_init(&f->recipients, f->pool, 1, sizeof(ngx_str_t))
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    f->timeout = conf->timeout;

    value = ngx_commerce_json_get(spec, "timeout_ms");

    if (ngx_commerce_fetch_is(value, NUMBER) && value->integer
        && value->number > 0)
    {
        f->timeout = ngx_min((ngx_msec_t) value->number, conf->max_timeout);
    }

    return mail ? ngx_commerce_fetch_parse_mail(f, spec, tenant)
                : ngx_commerce_fetch_parse_http(f, spec, tenant);
}


static ngx_int_t
ngx_commerce_fetch_parse_http(ngx_commerce_fetch_t *f,
    const ngx_commerce_json_t *spec, ngx_str_t *tenant)
{
    ngx_int_t                     rc;
    ngx_str_t                     text;
    const ngx_commerce_json_t    *url, *value;
    ngx_commerce_fetch_escape_e   escape;

    url = ngx_commerce_json_get(spec, "url");
    value = ngx_commerce_json_get(spec, "after_ms");

    if (url == NULL && ngx_commerce_fetch_is(value, NUMBER) && value->integer
        && value->number >= 0)
    {
        f->pause = 1;
        f->after = ngx_min((ngx_msec_t) value->number,
                           ngx_commerce_fetch_pool.conf->max_timeout);
        return NGX_OK;
    }

    if (!ngx_commerce_fetch_is(url, STRING)) {
        return ngx_commerce_fetch_parse_wrong(f, "it has no \"url\"");
    }

    text = ngx_commerce_fetch_text(url);

    rc = ngx_commerce_fetch_parse_url(f, &text);
    if (rc != NGX_OK) {
        return rc;
    }

    value = ngx_commerce_json_get(spec, "guard");

    if (ngx_commerce_fetch_is(value, STRING) && value->text.len == 4
        && ngx_memcmp(value->text.data, "none", 4) == 0)
    {
        f->guard = 0;
    }

    value = ngx_commerce_json_get(spec, "method");

    ngx_str_set(&f->method, "GET");

    if (ngx_commerce_fetch_is(value, STRING)) {
        f->method.len = value->text.len;
        f->method.data = ngx_pnalloc(f->pool, value->text.len + 1);
        if (f->method.data == NULL) {
            return NGX_ERROR;
        }

        (void) ngx_cpystrn(f->method.data, value->text.data,
                           value->text.len + 1);

        if (strspn((char *) f->method.data, "ABCDEFGHIJKLMNOPQRSTUVWXYZ")
            != f->method.len || f->method.len == 0)
        {
            return ngx_commerce_fetch_parse_wrong(f, "its method is none");
        }
    }

    escape = NGX_COMMERCE_FETCH_RAW;

    rc = ngx_commerce_fetch_parse_headers(f,
                                     ngx_commerce_json_get(spec, "headers"),
                                     tenant, &escape);
    if (rc != NGX_OK) {
        return rc;
    }

    rc = ngx_commerce_fetch_parse_body(f, spec, "body", tenant, escape);
    if (rc != NGX_OK) {
        return rc;
    }

    value = ngx_commerce_json_get(spec, "sign");

    if (ngx_commerce_fetch_is(value, OBJECT)) {
        return ngx_commerce_fetch_sign(f, tenant, value);
    }

    return NGX_OK;
}


static ngx_int_t
ngx_commerce_fetch_parse_mail(ngx_commerce_fetch_t *f,
    const ngx_commerce_json_t *spec, ngx_str_t *tenant)
{
    ngx_int_t                         rc;
    ngx_str_t                        *to;
    const ngx_commerce_json_t        *value;
    const ngx_commerce_fetch_conf_t  *conf;

    conf = ngx_commerce_fetch_pool.conf;

    if (conf->mail_server.len == 0) {
        return ngx_commerce_fetch_parse_wrong(f,
                                        "there is no \"commerce_mail_server\"");
    }

    f->guard = 0;
    f->url = conf->mail_server;
    ngx_str_set(&f->method, "MAIL");

    rc = ngx_commerce_fetch_parse_address(f, ngx_commerce_json_get(spec, "from"),
                                          &f->from);
    if (rc != NGX_OK) {
        return rc;
    }

    value = ngx_commerce_json_get(spec, "to");

    if (!ngx_commerce_fetch_is(value, ARRAY) || value->child == NULL) {
        return ngx_commerce_fetch_parse_wrong(f, "\"to\" is no list");
    }

    for (value = value->child; value; value = value->next) {

        to = ngx_array_push(&f->recipients);
        if (to == NULL) {
            return NGX_ERROR;
        }

        rc = ngx_commerce_fetch_parse_address(f, value, to);
        if (rc != NGX_OK) {
            return rc;
        }
    }

    if (!ngx_commerce_fetch_is(ngx_commerce_json_get(spec, "data"), STRING)) {
        return ngx_commerce_fetch_parse_wrong(f, "it has no \"data\"");
    }

    return ngx_commerce_fetch_parse_body(f, spec, "data", tenant,
                                         NGX_COMMERCE_FETCH_RAW);
}


/* http(s)://host[:port]/…, without credentials; {url:NAME|DEFAULT} is the operator's. */

static ngx_int_t
ngx_commerce_fetch_parse_url(ngx_commerce_fetch_t *f, ngx_str_t *url)
{
    u_char     *p, *end;
    size_t      skip;
    ngx_int_t   rc;

    rc = ngx_commerce_fetch_base(f, url, &f->url);

    if (rc == NGX_ERROR) {
        return NGX_ERROR;
    }

    if (rc == NGX_OK) {
        f->guard = 0;
    }

    skip = (ngx_strncasecmp(f->url.data, (u_char *) "https://", 8) == 0) ? 8
           : (ngx_strncasecmp(f->url.data, (u_char *) "http://", 7) == 0) ? 7
           : 0;

    if (skip == 0) {
        f->error = "refused";
        return ngx_commerce_fetch_parse_wrong(f, "its URL is neither http:// "
                                              "nor https://");
    }

    for (p = f->url.data; *p > ' ' && *p != 0x7f && *p != '\\'; p++) {
        /* void */
    }

    end = f->url.data + f->url.len;

    if (p != end || skip == f->url.len) {
        return ngx_commerce_fetch_parse_wrong(f, "its URL has a character "
                                              "that must be escaped");
    }

    for (p = f->url.data + skip; p < end && !strchr("/?#", *p); p++) {
        if (*p == '@') {
            f->error = "refused";
            return ngx_commerce_fetch_parse_wrong(f, "its URL has "
                                                  "credentials");
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_commerce_fetch_parse_headers(ngx_commerce_fetch_t *f,
    const ngx_commerce_json_t *headers, ngx_str_t *tenant,
    ngx_commerce_fetch_escape_e *escape)
{
    ngx_int_t                   rc;
    ngx_str_t                   name, text, value;
    const ngx_commerce_json_t  *h;

    if (!ngx_commerce_fetch_is(headers, OBJECT)) {
        return NGX_OK;
    }

    for (h = headers->child; h; h = h->next) {

        if (h->type != NGX_COMMERCE_JSON_STRING) {
            continue;
        }

        name.data = h->key.data;
        name.len = h->key.len;
        text = ngx_commerce_fetch_text(h);

        rc = ngx_commerce_fetch_expand(f, tenant, NGX_COMMERCE_FETCH_IN_HEADER,
                                       &text, &value);
        if (rc == NGX_OK) {
            rc = ngx_commerce_fetch_header(f, &name, &value);
        }

        if (rc == NGX_DECLINED && f->error == NULL) {
            return ngx_commerce_fetch_parse_wrong(f, "a header is none");
        }

        if (rc != NGX_OK) {
            return rc;
        }

        if (name.len == 12
            && ngx_strncasecmp(name.data, (u_char *) "content-type", 12) == 0)
        {
            if (ngx_strlcasestrn(value.data, value.data + value.len,
                                 (u_char *) "json", 4 - 1))
            {
                *escape = NGX_COMMERCE_FETCH_IN_JSON;

            } else if (ngx_strlcasestrn(value.data, value.data + value.len,
                                        (u_char *) "urlencoded", 10 - 1))
            {
                *escape = NGX_COMMERCE_FETCH_IN_FORM;
            }
        }
    }

    return NGX_OK;
}


/*
 * Placeholders in a body count only where SQL says so: text that a customer
 * has written must not name secrets.
 */

static ngx_int_t
ngx_commerce_fetch_parse_body(ngx_commerce_fetch_t *f,
    const ngx_commerce_json_t *spec, const char *name, ngx_str_t *tenant,
    ngx_commerce_fetch_escape_e escape)
{
    ngx_str_t                   text;
    const ngx_commerce_json_t  *body, *expand;

    body = ngx_commerce_json_get(spec, name);

    if (!ngx_commerce_fetch_is(body, STRING)) {
        return NGX_OK;
    }

    if (body->text.len > NGX_COMMERCE_FETCH_REQUEST) {
        return ngx_commerce_fetch_parse_wrong(f, "its body is too large");
    }

    text = ngx_commerce_fetch_text(body);
    expand = ngx_commerce_json_get(spec, "expand");

    if (ngx_commerce_fetch_is(expand, TRUE)) {
        return ngx_commerce_fetch_expand(f, tenant, escape, &text, &f->body);
    }

    /* what SQL answered may be gone before the call is */

    f->body.len = text.len;
    f->body.data = ngx_pnalloc(f->pool, text.len + 1);
    if (f->body.data == NULL) {
        return NGX_ERROR;
    }

    ngx_memcpy(f->body.data, text.data, text.len);
    f->body.data[text.len] = '\0';

    return NGX_OK;
}


/* One address of the envelope: nothing that could end the command. */

static ngx_int_t
ngx_commerce_fetch_parse_address(ngx_commerce_fetch_t *f,
    const ngx_commerce_json_t *value, ngx_str_t *out)
{
    size_t   i;
    u_char   ch;

    if (!ngx_commerce_fetch_is(value, STRING) || value->text.len == 0
        || value->text.len > 320)
    {
        return ngx_commerce_fetch_parse_wrong(f, "an address is none");
    }

    for (i = 0; i < value->text.len; i++) {
        ch = value->text.data[i];

        if (ch <= ' ' || ch == 0x7f || ch == '<' || ch == '>') {
            return ngx_commerce_fetch_parse_wrong(f, "an address is none");
        }
    }

    out->len = value->text.len;
    out->data = ngx_pnalloc(f->pool, out->len + 1);
    if (out->data == NULL) {
        return NGX_ERROR;
    }

    (void) ngx_cpystrn(out->data, value->text.data, out->len + 1);

    return NGX_OK;
}


static ngx_int_t
ngx_commerce_fetch_parse_wrong(ngx_commerce_fetch_t *f, const char *what)
{
    if (f->error == NULL) {
        f->error = "config";
    }

    ngx_log_error(NGX_LOG_ERR, f->pool->log, 0,
                  "commerce: an outbound call cannot be made: %s", what);

    return NGX_DECLINED;
}
