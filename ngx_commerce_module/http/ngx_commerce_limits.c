/*
 * Where requests meet the policies of limit/: those of the operation and of
 * the location, and what limit/ must be told by the engine.
 */

#include "ngx_commerce_http.h"


#define NGX_COMMERCE_LIMITS_NAME_MAX  96


static ngx_int_t ngx_commerce_limits_check(ngx_commerce_request_t *c,
    ngx_uint_t stage);
static void ngx_commerce_limits_resume(ngx_http_request_t *r);
static ngx_int_t ngx_commerce_limits_problem(ngx_commerce_request_t *c,
    ngx_commerce_limit_refusal_t *refusal);
static ngx_int_t ngx_commerce_limits_identify(ngx_http_request_t *r,
    ngx_commerce_limit_subject_t *subject);
static ngx_int_t ngx_commerce_limits_refuse(ngx_http_request_t *r,
    ngx_commerce_limit_refusal_t *refusal);
static ngx_int_t ngx_commerce_limits_own(ngx_http_request_t *r,
    ngx_str_t *policy, ngx_commerce_limit_own_t *own);


static const ngx_commerce_limit_hooks_t  ngx_commerce_limits_hooks = {
    ngx_commerce_limits_identify,
    ngx_commerce_limits_refuse,
    ngx_commerce_limits_own
};


void
ngx_commerce_limits_init(void)
{
    ngx_commerce_limit_set_hooks(&ngx_commerce_limits_hooks);
}


ngx_int_t
ngx_commerce_guard_limits(ngx_commerce_request_t *c, ngx_uint_t stage)
{
    ngx_int_t                     rc;
    ngx_commerce_limit_refusal_t  refusal;

    rc = ngx_commerce_limits_check(c, stage);

    if (rc != NGX_BUSY) {
        return rc;
    }

    if (ngx_commerce_limit_refusal(c->request, &refusal) != NGX_OK) {
        return NGX_ERROR;
    }

    return ngx_commerce_limits_problem(c, &refusal);
}


/* The location's first: they are the operator's, the same for all operations. */

static ngx_int_t
ngx_commerce_limits_check(ngx_commerce_request_t *c, ngx_uint_t stage)
{
    ngx_int_t                      rc;
    ngx_str_t                     *email;
    ngx_http_request_t            *r;
    ngx_commerce_op_conf_t        *op;
    ngx_commerce_limit_subject_t   subject;

    r = c->request;
    op = &c->conf->ops[c->op->index];

    ngx_memzero(&subject, sizeof(ngx_commerce_limit_subject_t));

    subject.tenant = c->tenant.id;
    subject.user = c->principal.subject;
    subject.api_key = c->key.id;
    subject.body = (c->op->method != NGX_COMMERCE_GET);

    if (stage == NGX_COMMERCE_STAGE_BODY) {
        email = ngx_commerce_scope_get(c, "email");

        if (email) {
            subject.account = *email;
        }
    }

    rc = ngx_commerce_limit_check_location(r, stage, &subject,
                                           ngx_commerce_limits_resume);

    if (rc != NGX_OK) {
        return rc;
    }

    return ngx_commerce_limit_check(r, stage, op->limits, op->limits_count,
                                    &subject, ngx_commerce_limits_resume);
}


/* Redis has answered, or will not: the request goes on where it stood. */

static void
ngx_commerce_limits_resume(ngx_http_request_t *r)
{
    ngx_commerce_request_t  *c;

    c = ngx_http_get_module_ctx(r, ngx_http_commerce_module);

    ngx_commerce_request_resume(c);
}


/* Retry-After is there already. */

static ngx_int_t
ngx_commerce_limits_problem(ngx_commerce_request_t *c,
    ngx_commerce_limit_refusal_t *refusal)
{
    ngx_str_t  code, detail;

    ngx_str_set(&code, "rate-limited");
    ngx_str_set(&detail, "Too many requests; try again after the time that "
                         "Retry-After tells.");

    (void) ngx_commerce_problem_extended(c, refusal->status, &code, &detail,
                                         &refusal->extension);

    ngx_str_null(&c->step.headers);

    return NGX_ERROR;
}


/* At locations that are not the engine's.  The engine asks itself, when it knows the route. */

static ngx_int_t
ngx_commerce_limits_identify(ngx_http_request_t *r,
    ngx_commerce_limit_subject_t *subject)
{
    ngx_commerce_tenancy_t          *t;
    ngx_http_core_loc_conf_t        *clcf;
    const ngx_commerce_principal_t  *principal;

    clcf = ngx_http_get_module_loc_conf(r, ngx_http_core_module);

    if (clcf->handler == ngx_commerce_request_handler) {
        return NGX_DECLINED;
    }

    if (ngx_commerce_tenancy(r, &t) == NGX_OK) {
        subject->tenant = t->tenant.id;
        subject->api_key = t->key.id;
    }

    principal = ngx_commerce_auth_principal(r);

    if (principal) {
        subject->user = principal->subject;

        if (subject->tenant.len == 0) {
            subject->tenant = principal->tenant_id;
        }
    }

    return NGX_OK;
}


/* The tenant's settings limits.<policy>.rate and .burst */

static ngx_int_t
ngx_commerce_limits_own(ngx_http_request_t *r, ngx_str_t *policy,
    ngx_commerce_limit_own_t *own)
{
    u_char                  *p, text[NGX_COMMERCE_LIMITS_NAME_MAX];
    ngx_str_t                name;
    ngx_commerce_tenancy_t  *t;

    if (ngx_commerce_tenancy(r, &t) != NGX_OK || !t->tenant.limits) {
        return NGX_DECLINED;
    }

    if (policy->len + sizeof("limits..burst") > sizeof(text)) {
        return NGX_DECLINED;
    }

    name.data = text;
    p = ngx_cpymem(text, "limits.", 7);
    p = ngx_cpymem(p, policy->data, policy->len);
    name.len = ngx_cpymem(p, ".rate", 5) - text;

    if (ngx_commerce_tenant_setting(&t->tenant, &name, &own->rate) != NGX_OK) {
        return NGX_DECLINED;
    }

    name.len = ngx_cpymem(p, ".burst", 6) - text;

    (void) ngx_commerce_tenant_setting(&t->tenant, &name, &own->burst);

    own->tenant = t->tenant.id;

    return NGX_OK;
}


static ngx_int_t
ngx_commerce_limits_refuse(ngx_http_request_t *r,
    ngx_commerce_limit_refusal_t *refusal)
{
    ngx_int_t                rc;
    ngx_commerce_request_t  *c;

    rc = ngx_http_discard_request_body(r);
    if (rc != NGX_OK) {
        return rc;
    }

    c = ngx_commerce_request_get(r);
    if (c == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    (void) ngx_commerce_limits_problem(c, refusal);

    if (!c->step.problem) {
        return refusal->status;
    }

    c->reply = c->step;

    return ngx_commerce_reply_send(c);
}


/* commerce_problem, for the status of a refusal: the whole document instead of the general one. */

ngx_int_t
ngx_commerce_limits_refused(ngx_commerce_request_t *c)
{
    ngx_commerce_limit_refusal_t  refusal;

    if (ngx_commerce_limit_refusal(c->request, &refusal) != NGX_OK) {
        return NGX_DECLINED;
    }

    (void) ngx_commerce_limits_problem(c, &refusal);

    return c->step.problem ? NGX_OK : NGX_DECLINED;
}
