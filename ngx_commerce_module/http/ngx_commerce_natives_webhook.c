/*
 * A native step: are these bytes from whom they say?
 *
 *     webhook_verify    webhook: {"header": "Stripe-Signature",
 *                       "secrets": ["{secret:…}", "{sealed:…}"]}
 *
 * The header is t=<seconds>,v1=<hex>[,v1=<hex>]: HMAC-SHA256 over
 * "<seconds>.<body>" under one of the secrets.  The body counts as it came,
 * byte for byte; a signature that is too old or of tomorrow is a replay.
 */

#include "ngx_commerce_http.h"
#include "ngx_commerce_fetch.h"

#include <openssl/crypto.h>


#define NGX_COMMERCE_WEBHOOK_TOLERANCE   300        /* seconds */
#define NGX_COMMERCE_WEBHOOK_SIGNATURES  8


typedef struct {
    ngx_str_t   stamp;
    ngx_uint_t  count;
    u_char      digests[NGX_COMMERCE_WEBHOOK_SIGNATURES][32];
} ngx_commerce_webhook_t;


static ngx_int_t ngx_commerce_native_webhook_verify(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step);
static ngx_str_t *ngx_commerce_webhook_header(ngx_commerce_request_t *c,
    ngx_commerce_json_t *name);
static void ngx_commerce_webhook_read(ngx_str_t *header,
    ngx_commerce_webhook_t *hook);
static ngx_int_t ngx_commerce_webhook_try(ngx_commerce_request_t *c,
    ngx_commerce_webhook_t *hook, ngx_commerce_json_t *secret,
    ngx_str_t *body);
static ngx_int_t ngx_commerce_webhook_refuse(ngx_commerce_request_t *c,
    const char *why);


const ngx_commerce_native_t  ngx_commerce_natives_webhook[] = {

    { ngx_string("webhook_verify"), ngx_commerce_native_webhook_verify, NULL },
    { ngx_null_string, NULL, NULL }
};


static ngx_int_t
ngx_commerce_native_webhook_verify(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step)
{
    time_t                   when;
    ngx_int_t                rc;
    ngx_str_t               *text, *header, body;
    ngx_uint_t               good, known;
    ngx_commerce_json_t     *root, *secrets, *secret;
    ngx_commerce_webhook_t   hook;

    text = ngx_commerce_scope_input(c, step, "webhook");
    root = text ? ngx_commerce_fetch_json(c->request->pool, text) : NULL;
    secrets = ngx_commerce_json_get(root, "secrets");

    if (secrets == NULL || secrets->type != NGX_COMMERCE_JSON_ARRAY) {
        ngx_log_error(NGX_LOG_ERR, c->request->connection->log, 0,
                      "commerce: webhook_verify: \"webhook\" is not what it "
                      "has to be");
        return ngx_commerce_problem_internal(c);
    }

    header = ngx_commerce_webhook_header(c,
                                        ngx_commerce_json_get(root, "header"));
    if (header == NULL) {
        return ngx_commerce_webhook_refuse(c, "it has no signature");
    }

    ngx_commerce_webhook_read(header, &hook);
    when = ngx_atotm(hook.stamp.data, hook.stamp.len);

    if (hook.count == 0 || when == (time_t) NGX_ERROR) {
        return ngx_commerce_webhook_refuse(c, "its signature is not one");
    }

    if (when > ngx_time() + NGX_COMMERCE_WEBHOOK_TOLERANCE
        || when < ngx_time() - NGX_COMMERCE_WEBHOOK_TOLERANCE)
    {
        return ngx_commerce_webhook_refuse(c, "its time is not now");
    }

    if (ngx_commerce_body_read(c, &body) != NGX_OK) {
        return NGX_ERROR;
    }

    good = 0;
    known = 0;

    for (secret = secrets->child; secret; secret = secret->next) {

        rc = ngx_commerce_webhook_try(c, &hook, secret, &body);

        if (rc == NGX_ERROR) {
            return ngx_commerce_problem_internal(c);
        }

        known += (rc != NGX_ABORT);
        good |= (rc == NGX_OK);
    }

    if (known == 0) {
        ngx_log_error(NGX_LOG_ERR, c->request->connection->log, 0,
                      "commerce: webhook_verify: none of the secrets is "
                      "known, so nothing can be verified");
    }

    if (!good) {
        return ngx_commerce_webhook_refuse(c, "its signature is another one");
    }

    ngx_commerce_step_reply(c, NGX_HTTP_OK, NULL);

    return NGX_OK;
}


/* NULL: there is none, or two. */

static ngx_str_t *
ngx_commerce_webhook_header(ngx_commerce_request_t *c,
    ngx_commerce_json_t *name)
{
    ngx_str_t        *found;
    ngx_uint_t        i;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *h;

    if (name == NULL || name->type != NGX_COMMERCE_JSON_STRING) {
        return NULL;
    }

    found = NULL;

    for (part = &c->request->headers_in.headers.part; part; part = part->next) {
        h = part->elts;

        for (i = 0; i < part->nelts; i++) {

            if (h[i].key.len != name->text.len
                || ngx_strncasecmp(h[i].key.data, (u_char *) name->text.data,
                                   name->text.len)
                   != 0)
            {
                continue;
            }

            if (found) {
                return NULL;
            }

            found = &h[i].value;
        }
    }

    return found;
}


/* t=…,v1=…: other members are of other schemes. */

static void
ngx_commerce_webhook_read(ngx_str_t *header, ngx_commerce_webhook_t *hook)
{
    u_char  *p, *end, *comma;

    ngx_str_null(&hook->stamp);
    hook->count = 0;

    p = header->data;
    end = p + header->len;

    while (p < end) {

        while (p < end && (*p == ' ' || *p == ',')) {
            p++;
        }

        comma = ngx_strlchr(p, end, ',');

        if (comma == NULL) {
            comma = end;
        }

        if (comma - p > 2 && p[0] == 't' && p[1] == '=') {
            hook->stamp.data = p + 2;
            hook->stamp.len = comma - hook->stamp.data;

        } else if (comma - p > 3 && p[0] == 'v' && p[1] == '1' && p[2] == '='
                   && hook->count < NGX_COMMERCE_WEBHOOK_SIGNATURES
                   && comma - (p + 3) == 64
                   && ngx_commerce_unhex(hook->digests[hook->count], p + 3, 32)
                      == 0)
        {
            hook->count++;
        }

        p = comma;
    }
}


/* NGX_ABORT: nobody knows this secret.  NGX_DECLINED: it is not this one. */

static ngx_int_t
ngx_commerce_webhook_try(ngx_commerce_request_t *c,
    ngx_commerce_webhook_t *hook, ngx_commerce_json_t *secret,
    ngx_str_t *body)
{
    u_char      digest[32];
    ngx_int_t   rc;
    ngx_str_t   key, parts[3];
    ngx_uint_t  i, good;

    rc = ngx_commerce_fetch_key(c->request->pool, &c->tenant.id, secret, &key);

    if (rc != NGX_OK) {
        return (rc == NGX_DECLINED) ? NGX_ABORT : NGX_ERROR;
    }

    parts[0] = hook->stamp;
    ngx_str_set(&parts[1], ".");
    parts[2] = *body;

    if (ngx_commerce_fetch_hmac(&key, parts, 3, digest) != NGX_OK) {
        return NGX_ERROR;
    }

    good = 0;

    for (i = 0; i < hook->count; i++) {
        good |= (CRYPTO_memcmp(digest, hook->digests[i], sizeof(digest)) == 0);
    }

    return good ? NGX_OK : NGX_DECLINED;
}


static ngx_int_t
ngx_commerce_webhook_refuse(ngx_commerce_request_t *c, const char *why)
{
    ngx_log_error(NGX_LOG_WARN, c->request->connection->log, 0,
                  "commerce: a webhook is refused: %s", why);

    return ngx_commerce_problem(c, 400, "signature-invalid",
                                "The signature does not fit the body.");
}
