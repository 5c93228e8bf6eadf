/*
 * A request under its policies: verdicts, headers, refusal.
 */

#include "ngx_commerce_limit_internal.h"


#define NGX_COMMERCE_LIMIT_TYPE                                               \
    "https://iana.org/assignments/http-problem-types#quota-exceeded"

#define NGX_COMMERCE_LIMIT_STATE_LEN                                          \
    (NGX_COMMERCE_LIMIT_NAME_MAX + sizeof("\"\";r=;t=, ") + 2 * NGX_INT64_LEN)


static ngx_commerce_limit_ctx_t *ngx_commerce_limit_create_ctx(
    ngx_http_request_t *r);
static void ngx_commerce_limit_cleanup(void *data);
static ngx_uint_t ngx_commerce_limit_due(ngx_commerce_limit_policy_t *policy,
    ngx_commerce_stage_t stage, const ngx_commerce_limit_subject_t *subject);
static ngx_int_t ngx_commerce_limit_count(ngx_commerce_limit_ctx_t *ctx,
    ngx_commerce_limit_policy_t *policy, ngx_commerce_stage_t stage,
    const ngx_commerce_limit_subject_t *subject);
static ngx_int_t ngx_commerce_limit_decide(ngx_commerce_limit_ctx_t *ctx,
    ngx_uint_t i);
static ngx_int_t ngx_commerce_limit_refused(ngx_commerce_limit_ctx_t *ctx,
    ngx_commerce_limit_taken_t *t);
static ngx_int_t ngx_commerce_limit_headers(ngx_commerce_limit_ctx_t *ctx);
static ngx_int_t ngx_commerce_limit_set_header(ngx_http_request_t *r,
    const char *name, ngx_str_t *value);
static u_char *ngx_commerce_limit_number(u_char *p, uint64_t n);
static uint64_t ngx_commerce_limit_seconds(uint64_t us);


ngx_int_t
ngx_commerce_limit_check(ngx_http_request_t *r, ngx_commerce_stage_t stage,
    ngx_commerce_limit_policy_t **policies, ngx_uint_t count,
    const ngx_commerce_limit_subject_t *subject,
    ngx_commerce_limit_resume_pt resume)
{
    ngx_int_t                  rc;
    ngx_uint_t                 i, counted;
    ngx_commerce_limit_ctx_t  *ctx;

    ctx = NULL;
    rc = NGX_OK;
    counted = 0;

    for (i = 0; i < count; i++) {

        if (!ngx_commerce_limit_due(policies[i], stage, subject)) {
            continue;
        }

        if (ctx == NULL) {
            ctx = ngx_commerce_limit_create_ctx(r);
            if (ctx == NULL) {
                return NGX_ERROR;
            }

            /* the answer to a refusal, say an error_page, is not refused */

            if (ctx->refused) {
                return NGX_OK;
            }

            ctx->resume = resume;
        }

        counted = 1;
        rc = ngx_commerce_limit_count(ctx, policies[i], stage, subject);

        if (rc != NGX_OK) {
            break;
        }
    }

    if (rc == NGX_AGAIN || rc == NGX_ERROR || !counted) {
        return rc;
    }

    return (ngx_commerce_limit_headers(ctx) == NGX_OK) ? rc : NGX_ERROR;
}


/*
 * The context outlives an internal redirect, which clears that of modules: a
 * cleanup of the request's pool remembers it.
 */

ngx_commerce_limit_ctx_t *
ngx_commerce_limit_ctx(ngx_http_request_t *r)
{
    ngx_pool_cleanup_t        *cln;
    ngx_commerce_limit_ctx_t  *ctx;

    ctx = ngx_http_get_module_ctx(r, ngx_commerce_limit_module);

    if (ctx == NULL && (r->internal || r->filter_finalize)) {

        for (cln = r->pool->cleanup; cln; cln = cln->next) {
            if (cln->handler == ngx_commerce_limit_cleanup) {
                ctx = cln->data;
                ngx_http_set_ctx(r, ctx, ngx_commerce_limit_module);
                break;
            }
        }
    }

    return ctx;
}


static ngx_commerce_limit_ctx_t *
ngx_commerce_limit_create_ctx(ngx_http_request_t *r)
{
    ngx_pool_cleanup_t        *cln;
    ngx_commerce_limit_ctx_t  *ctx;

    ctx = ngx_commerce_limit_ctx(r);

    if (ctx) {
        return ctx;
    }

    cln = ngx_pool_cleanup_add(r->pool, sizeof(ngx_commerce_limit_ctx_t));
    if (cln == NULL) {
        return NULL;
    }

    ctx = cln->data;
    ngx_memzero(ctx, sizeof(ngx_commerce_limit_ctx_t));

    ctx->request = r;

    if (ngx_array_init(&ctx->taken, r->pool, 3,
                       sizeof(ngx_commerce_limit_taken_t))
        != NGX_OK)
    {
        return NULL;
    }

    cln->handler = ngx_commerce_limit_cleanup;
    ngx_http_set_ctx(r, ctx, ngx_commerce_limit_module);

    return ctx;
}


static void
ngx_commerce_limit_cleanup(void *data)
{
    ngx_commerce_limit_cluster_leave(data);
}


static ngx_uint_t
ngx_commerce_limit_due(ngx_commerce_limit_policy_t *policy,
    ngx_commerce_stage_t stage, const ngx_commerce_limit_subject_t *subject)
{
    if (policy->key == NGX_COMMERCE_LIMIT_IP_USER && subject->body) {
        return stage == NGX_COMMERCE_STAGE_BODY;
    }

    return stage == policy->stage;
}


/* Counts the request under one policy, once. */

static ngx_int_t
ngx_commerce_limit_count(ngx_commerce_limit_ctx_t *ctx,
    ngx_commerce_limit_policy_t *policy, ngx_commerce_stage_t stage,
    const ngx_commerce_limit_subject_t *subject)
{
    ngx_int_t                    rc;
    ngx_uint_t                   i;
    ngx_commerce_limit_own_t     own;
    ngx_commerce_limit_taken_t  *t;

    t = ctx->taken.elts;

    for (i = 0; i < ctx->taken.nelts; i++) {
        if (t[i].policy == policy) {
            return ngx_commerce_limit_decide(ctx, i);
        }
    }

    t = ngx_array_push(&ctx->taken);
    if (t == NULL) {
        return NGX_ERROR;
    }

    ngx_memzero(t, sizeof(ngx_commerce_limit_taken_t));

    t->policy = policy;
    t->stage = stage;
    t->rate = policy->rate;
    t->header = policy->header;
    t->state = NGX_COMMERCE_LIMIT_EXEMPT;

    rc = ngx_commerce_limit_make_key(ctx->request, policy, subject, &t->key);

    if (rc != NGX_OK) {
        return (rc == NGX_DECLINED) ? NGX_OK : NGX_ERROR;
    }

    if (policy->override && ngx_commerce_limit_hooks
        && ngx_commerce_limit_hooks->own(ctx->request, &policy->name, &own)
           == NGX_OK
        && ngx_commerce_limit_override(ctx->request->pool, t, &own)
           == NGX_ERROR)
    {
        return NGX_ERROR;
    }

    if (ngx_commerce_limit_make_cost(ctx->request, policy, &t->cost) != NGX_OK)
    {
        return NGX_ERROR;
    }

    t->state = policy->cluster ? NGX_COMMERCE_LIMIT_NEW
                               : NGX_COMMERCE_LIMIT_LOCAL;

    return ngx_commerce_limit_decide(ctx, i);
}


static ngx_int_t
ngx_commerce_limit_decide(ngx_commerce_limit_ctx_t *ctx, ngx_uint_t i)
{
    ngx_int_t                    rc;
    ngx_commerce_limit_taken_t  *t;

    t = (ngx_commerce_limit_taken_t *) ctx->taken.elts + i;

    switch (t->state) {

    case NGX_COMMERCE_LIMIT_WAITS:
        return NGX_AGAIN;

    case NGX_COMMERCE_LIMIT_NEW:
        rc = ngx_commerce_limit_cluster_take(ctx, i);

        if (rc == NGX_AGAIN) {
            t->state = NGX_COMMERCE_LIMIT_WAITS;
            return NGX_AGAIN;
        }

        if (rc == NGX_OK) {
            break;
        }

        /* fall through */

    case NGX_COMMERCE_LIMIT_LOCAL:
        ngx_commerce_limit_take(t);
        break;

    case NGX_COMMERCE_LIMIT_TOLD:
        break;

    default:
        return NGX_OK;
    }

    if (t->verdict.allowed) {
        t->state = NGX_COMMERCE_LIMIT_PASSED;
        return NGX_OK;
    }

    return ngx_commerce_limit_refused(ctx, t);
}


/* A refused request costs nothing under the other policies of its stage either. */

static ngx_int_t
ngx_commerce_limit_refused(ngx_commerce_limit_ctx_t *ctx,
    ngx_commerce_limit_taken_t *t)
{
    ngx_uint_t                      i;
    ngx_commerce_limit_taken_t     *other;
    ngx_commerce_limit_loc_conf_t  *llcf;

    llcf = ngx_http_get_module_loc_conf(ctx->request,
                                        ngx_commerce_limit_module);

    if (t->policy->dry_run) {
        ngx_log_error(llcf->log_level, ctx->request->connection->log, 0,
                      "limit \"%V\" would have refused a request (dry run)",
                      &t->policy->name);

        t->state = NGX_COMMERCE_LIMIT_DRY;
        ctx->dry = 1;
        return NGX_OK;
    }

    ngx_log_error(llcf->log_level, ctx->request->connection->log, 0,
                  "limit \"%V\" refused a request, the next passes in %uL s",
                  &t->policy->name,
                  ngx_commerce_limit_seconds(t->verdict.retry_after));

    t->state = NGX_COMMERCE_LIMIT_REFUSED;
    ctx->refused = t;

    other = ctx->taken.elts;

    for (i = 0; i < ctx->taken.nelts; i++) {

        if (other[i].state != NGX_COMMERCE_LIMIT_PASSED
            || other[i].stage != t->stage)
        {
            continue;
        }

        if (other[i].policy->cluster) {
            ngx_commerce_limit_cluster_give(&other[i]);
        }

        ngx_commerce_limit_give(&other[i]);

        other[i].verdict.remaining += other[i].cost;
        other[i].verdict.reset -= ngx_min(other[i].verdict.reset,
                                          other[i].cost * other[i].rate.interval);
    }

    return NGX_BUSY;
}


void
ngx_commerce_limit_answered(ngx_commerce_limit_ctx_t *ctx)
{
    ngx_connection_t    *c;
    ngx_http_request_t  *r;

    r = ctx->request;
    c = r->connection;

    ngx_http_set_log_request(c->log, r);

    ctx->resume(r);

    ngx_http_run_posted_requests(c);
}


/*
 * RateLimit-Policy: "ip";q=60;w=60, "orders";q=10;w=60
 * RateLimit: "ip";r=12;t=30, "orders";r=9;t=6
 *
 * Of a refused request nothing remains until retry_after, hence t = Retry-After.
 */

static ngx_int_t
ngx_commerce_limit_headers(ngx_commerce_limit_ctx_t *ctx)
{
    size_t                       len;
    u_char                      *p, *q;
    ngx_str_t                    policies, states, retry;
    ngx_uint_t                   i;
    ngx_http_request_t          *r;
    ngx_commerce_limit_taken_t  *t;

    r = ctx->request;
    t = ctx->taken.elts;
    len = 0;

    for (i = 0; i < ctx->taken.nelts; i++) {
        len += t[i].header.len + 2 + NGX_COMMERCE_LIMIT_STATE_LEN;
    }

    p = ngx_pnalloc(r->pool, len + NGX_INT64_LEN);
    if (p == NULL) {
        return NGX_ERROR;
    }

    policies.data = p;

    for (i = 0; i < ctx->taken.nelts; i++) {

        if (t[i].state < NGX_COMMERCE_LIMIT_PASSED) {
            continue;
        }

        if (p != policies.data) {
            *p++ = ',';
            *p++ = ' ';
        }

        p = ngx_cpymem(p, t[i].header.data, t[i].header.len);
    }

    policies.len = p - policies.data;

    if (policies.len == 0) {
        return NGX_OK;
    }

    states.data = p;
    q = p;

    for (i = 0; i < ctx->taken.nelts; i++) {

        if (t[i].state < NGX_COMMERCE_LIMIT_PASSED) {
            continue;
        }

        if (q != states.data) {
            *q++ = ',';
            *q++ = ' ';
        }

        *q++ = '"';
        q = ngx_cpymem(q, t[i].policy->name.data, t[i].policy->name.len);
        q = ngx_cpymem(q, "\";r=", 4);
        q = ngx_commerce_limit_number(q, t[i].verdict.remaining);
        q = ngx_cpymem(q, ";t=", 3);
        q = ngx_commerce_limit_number(q,
                        ngx_commerce_limit_seconds(t[i].verdict.allowed
                                                   ? t[i].verdict.reset
                                                   : t[i].verdict.retry_after));
    }

    states.len = q - states.data;

    if (ngx_commerce_limit_set_header(r, "RateLimit-Policy", &policies)
        != NGX_OK
        || ngx_commerce_limit_set_header(r, "RateLimit", &states)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (ctx->refused == NULL) {
        return NGX_OK;
    }

    t = ctx->refused;

    retry.data = q;
    retry.len = ngx_sprintf(q, "%uL",
                            ngx_commerce_limit_seconds(t->verdict.retry_after))
                - q;

    return ngx_commerce_limit_set_header(r, "Retry-After", &retry);
}


/* Each answer has two: a fifth of what ngx_sprintf() costs. */

static u_char *
ngx_commerce_limit_number(u_char *p, uint64_t n)
{
    u_char  digits[NGX_INT64_LEN], *d;

    d = digits + sizeof(digits);

    do {
        *--d = (u_char) ('0' + n % 10);
        n /= 10;
    } while (n);

    return ngx_cpymem(p, d, digits + sizeof(digits) - d);
}


/* A later stage replaces the lines of an earlier one. */

static ngx_int_t
ngx_commerce_limit_set_header(ngx_http_request_t *r, const char *name,
    ngx_str_t *value)
{
    ngx_uint_t        i;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *h;

    for (part = &r->headers_out.headers.part; part; part = part->next) {
        h = part->elts;

        for (i = 0; i < part->nelts; i++) {
            if (h[i].key.data == (u_char *) name && h[i].hash) {
                h[i].value = *value;
                return NGX_OK;
            }
        }
    }

    return ngx_commerce_header_add(r, name, value);
}


ngx_int_t
ngx_commerce_limit_refusal(ngx_http_request_t *r,
    ngx_commerce_limit_refusal_t *refusal)
{
    u_char                      *p;
    ngx_commerce_limit_ctx_t    *ctx;
    ngx_commerce_limit_taken_t  *t;

    ctx = ngx_commerce_limit_ctx(r);

    if (ctx == NULL || ctx->refused == NULL) {
        return NGX_DECLINED;
    }

    t = ctx->refused;

    p = ngx_pnalloc(r->pool, t->policy->name.len + NGX_INT64_LEN
                    + sizeof("{\"type\":\"" NGX_COMMERCE_LIMIT_TYPE "\","
                             "\"violated-policies\":[\"\"],"
                             "\"retry_after\":}"));
    if (p == NULL) {
        return NGX_ERROR;
    }

    refusal->status = t->policy->status;
    refusal->retry_after = ngx_commerce_limit_seconds(t->verdict.retry_after);

    refusal->extension.data = p;
    refusal->extension.len =
        ngx_sprintf(p, "{\"type\":\"" NGX_COMMERCE_LIMIT_TYPE "\","
                    "\"violated-policies\":[\"%V\"],\"retry_after\":%ui}",
                    &t->policy->name, refusal->retry_after)
        - p;

    return NGX_OK;
}


static uint64_t
ngx_commerce_limit_seconds(uint64_t us)
{
    return (us + 999999) / 1000000;
}
