/*
 * The guard: whose shop, who asks, how often.
 */

#include "ngx_commerce_http.h"


#define NGX_COMMERCE_HOLD_MAX  5000         /* ms, while PostgreSQL may answer */


static ngx_int_t ngx_commerce_guard_tenant_copy(ngx_commerce_request_t *c,
    ngx_commerce_tenant_t *tenant);
static ngx_int_t ngx_commerce_guard_limit(ngx_commerce_request_t *c,
    ngx_commerce_limit_policy_t *policy);
static ngx_int_t ngx_commerce_guard_limit_key(ngx_commerce_request_t *c,
    ngx_commerce_limit_policy_t *policy, ngx_str_t *key);


/*
 * When this worker first missed the list of shops.  Holding ends soon after,
 * so that an outage is answered at once.
 */

static ngx_msec_t  ngx_commerce_guard_began;


/* Host, then the location's default; the token's word is heard in auth. */

ngx_int_t
ngx_commerce_guard_tenant(ngx_commerce_request_t *c)
{
    ngx_int_t                       rc;
    ngx_commerce_tenant_t           tenant;
    ngx_commerce_loc_conf_t        *lcf;
    ngx_commerce_pg_lane_status_t   lane;

    if (!c->op->tenant) {
        return NGX_OK;
    }

    lcf = ngx_http_get_module_loc_conf(c->request, ngx_http_commerce_module);

    rc = ngx_commerce_tenant_by_host(&c->request->headers_in.server, &tenant);

    if (rc == NGX_DECLINED && lcf->tenant.len) {
        rc = ngx_commerce_tenant_by_slug(&lcf->tenant, &tenant);
    }

    if (rc == NGX_AGAIN) {

        if (ngx_commerce_guard_began == 0) {
            ngx_commerce_guard_began = ngx_current_msec;
        }

        ngx_commerce_pg_lane_status(NGX_COMMERCE_PG_READ, &lane);

        if (!lane.breaker_open
            && ngx_current_msec - ngx_commerce_guard_began
               < NGX_COMMERCE_HOLD_MAX)
        {
            return NGX_AGAIN;
        }

        return ngx_commerce_problem_retry(c, 503, "starting", 1,
            "The list of shops has not been read yet; try again.");
    }

    if (rc == NGX_DECLINED) {
        /* perhaps the token says it */
        return NGX_OK;
    }

    return ngx_commerce_guard_tenant_copy(c, &tenant);
}


static ngx_int_t
ngx_commerce_guard_tenant_copy(ngx_commerce_request_t *c,
    ngx_commerce_tenant_t *tenant)
{
    u_char  *p;

    p = ngx_pnalloc(c->request->pool, tenant->id.len + tenant->slug.len
                                      + tenant->currency.len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    c->tenant = *tenant;

    c->tenant.id.data = p;
    p = ngx_cpymem(p, tenant->id.data, tenant->id.len);
    c->tenant.slug.data = p;
    p = ngx_cpymem(p, tenant->slug.data, tenant->slug.len);
    c->tenant.currency.data = p;
    ngx_memcpy(p, tenant->currency.data, tenant->currency.len);

    if (!tenant->active) {
        return ngx_commerce_problem(c, 403, "tenant-suspended",
                                    "This shop is suspended.");
    }

    return NGX_OK;
}


ngx_int_t
ngx_commerce_guard_auth(ngx_commerce_request_t *c)
{
    ngx_int_t                  rc;
    const char                *why;
    ngx_str_t                  permission;
    ngx_commerce_tenant_t      tenant;
    ngx_commerce_principal_t  *principal;

    principal = &c->principal;

    if (c->op->auth != NGX_COMMERCE_AUTH_PUBLIC) {

        why = "no token";
        rc = ngx_commerce_auth_verify(c->request, principal, &why);

        if (rc == NGX_ERROR
            || (rc == NGX_DECLINED
                && c->op->auth != NGX_COMMERCE_AUTH_OPTIONAL))
        {
            ngx_log_error(NGX_LOG_INFO, c->request->connection->log, 0,
                          "commerce: refused a token: %s", why);

            return ngx_commerce_problem(c, 401, "unauthorized",
                "A valid access token is needed: Authorization: Bearer "
                "<token>.");
        }

        if (rc == NGX_DECLINED) {
            ngx_memzero(principal, sizeof(ngx_commerce_principal_t));
        }
    }

    if (c->op->tenant) {

        if (c->tenant.id.len == 0 && principal->tenant_id.len
            && ngx_commerce_tenant_by_id(&principal->tenant_id, &tenant)
               == NGX_OK
            && ngx_commerce_guard_tenant_copy(c, &tenant) != NGX_OK)
        {
            return NGX_ERROR;
        }

        if (c->tenant.id.len == 0) {
            return ngx_commerce_problem(c, 404, "unknown-host",
                                        "There is no shop under this host "
                                        "name.");
        }

        if (principal->subject.len
            && (principal->tenant_id.len != c->tenant.id.len
                || ngx_memcmp(principal->tenant_id.data, c->tenant.id.data,
                              c->tenant.id.len)
                   != 0))
        {
            return ngx_commerce_problem(c, 403, "tenant-mismatch",
                "The token belongs to another shop than the address.");
        }
    }

    permission = ngx_commerce_from_core(&c->op->permission);

    switch (c->op->auth) {

    case NGX_COMMERCE_AUTH_CUSTOMER:
        rc = principal->customer || principal->staff;
        break;

    case NGX_COMMERCE_AUTH_STAFF:
        rc = principal->staff
             && (permission.len == 0 || principal->owner
                 || ngx_commerce_auth_has(principal, &permission));
        break;

    case NGX_COMMERCE_AUTH_SERVICE:
        rc = principal->service;
        break;

    default:
        rc = 1;
    }

    if (!rc) {
        return permission.len
               ? ngx_commerce_problem(c, 403, "forbidden",
                     "This needs the permission %V.", &permission)
               : ngx_commerce_problem(c, 403, "forbidden",
                     "This is not allowed to whom the token belongs.");
    }

    return NGX_OK;
}


/*
 * Policies in the order of what they cost: by address before any
 * cryptography, by account only when the body has been read.
 */

ngx_int_t
ngx_commerce_guard_limits(ngx_commerce_request_t *c, ngx_uint_t stage)
{
    ngx_uint_t               i, due;
    ngx_commerce_op_conf_t  *op;

    op = &c->conf->ops[c->op->index];

    for (i = 0; i < op->limits_count; i++) {

        switch (ngx_commerce_limit_key(op->limits[i])) {

        case NGX_COMMERCE_LIMIT_IP:
            due = NGX_COMMERCE_STAGE_ADDRESS;
            break;

        case NGX_COMMERCE_LIMIT_IP_USER:
            due = (c->op->method == NGX_COMMERCE_GET)
                  ? NGX_COMMERCE_STAGE_PRINCIPAL : NGX_COMMERCE_STAGE_BODY;
            break;

        default:
            due = NGX_COMMERCE_STAGE_PRINCIPAL;
        }

        if (due == stage
            && ngx_commerce_guard_limit(c, op->limits[i]) != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_commerce_guard_limit(ngx_commerce_request_t *c,
    ngx_commerce_limit_policy_t *policy)
{
    u_char                        *p;
    ngx_str_t                      key, code, detail, extension, *name;
    ngx_commerce_limit_verdict_t   verdict;

    if (ngx_commerce_guard_limit_key(c, policy, &key) != NGX_OK) {
        return NGX_ERROR;
    }

    ngx_commerce_limit_take(policy, &key, 1, &verdict);

    if (ngx_commerce_limit_headers(c->request, policy, &verdict) != NGX_OK) {
        return NGX_ERROR;
    }

    if (verdict.allowed) {
        return NGX_OK;
    }

    name = ngx_commerce_limit_name(policy);

    p = ngx_pnalloc(c->request->pool, name->len + 256);
    if (p == NULL) {
        return NGX_ERROR;
    }

    extension.data = p;
    extension.len = ngx_sprintf(p, "{\"type\":\"https://iana.org/assignments/"
                                "http-problem-types#quota-exceeded\","
                                "\"violated-policies\":[\"%V\"],"
                                "\"retry_after\":%ui}",
                                name, ngx_max(verdict.retry_after, 1))
                    - p;

    ngx_str_set(&code, "rate-limited");
    ngx_str_set(&detail, "Too many requests; try again after the time that "
                         "Retry-After tells.");

    return ngx_commerce_problem_extended(c, 429, &code, &detail, &extension);
}


static ngx_int_t
ngx_commerce_guard_limit_key(ngx_commerce_request_t *c,
    ngx_commerce_limit_policy_t *policy, ngx_str_t *key)
{
    u_char     *p;
    ngx_str_t   account, address, *email;

    address = c->request->connection->addr_text;
    account = c->principal.subject;

    switch (ngx_commerce_limit_key(policy)) {

    case NGX_COMMERCE_LIMIT_IP:
        *key = address;
        return NGX_OK;

    case NGX_COMMERCE_LIMIT_TENANT:
        *key = c->tenant.id;
        return NGX_OK;

    case NGX_COMMERCE_LIMIT_IP_USER:
        email = ngx_commerce_scope_get(c, "email");

        if (email) {
            account = *email;
        }

        break;

    default:
        /* nobody is known by their address */
        if (account.len) {
            address.len = 0;
        }
    }

    p = ngx_pnalloc(c->request->pool,
                    c->tenant.id.len + account.len + address.len + 2);
    if (p == NULL) {
        return NGX_ERROR;
    }

    key->data = p;
    p = ngx_cpymem(p, c->tenant.id.data, c->tenant.id.len);
    *p++ = '\0';
    ngx_strlow(p, account.data, account.len);
    p += account.len;
    *p++ = '\0';
    p = ngx_cpymem(p, address.data, address.len);
    key->len = p - key->data;

    return NGX_OK;
}
