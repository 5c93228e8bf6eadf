/*
 * The guard: whose shop, who asks.  How often is in ngx_commerce_limits.c.
 */

#include "ngx_commerce_http.h"


#define NGX_COMMERCE_HOLD_MAX  5000         /* ms, while PostgreSQL may answer */


static ngx_int_t ngx_commerce_guard_hold(ngx_commerce_request_t *c);
static ngx_int_t ngx_commerce_guard_active(ngx_commerce_request_t *c);
static ngx_int_t ngx_commerce_guard_principal(ngx_commerce_request_t *c);
static ngx_int_t ngx_commerce_guard_key(ngx_commerce_request_t *c);
static ngx_int_t ngx_commerce_guard_actor(ngx_commerce_request_t *c,
    const char *kind);
static ngx_int_t ngx_commerce_guard_token(ngx_commerce_request_t *c);
static ngx_int_t ngx_commerce_guard_named(ngx_commerce_request_t *c);
static ngx_int_t ngx_commerce_guard_flag(ngx_commerce_request_t *c);
static ngx_uint_t ngx_commerce_guard_may(ngx_commerce_request_t *c,
    ngx_str_t *permission);


/*
 * When this worker first missed the list of shops.  Holding ends soon after,
 * so that an outage is answered at once.
 */

static ngx_msec_t  ngx_commerce_guard_began;


/* Host, API key, the location's default; the token's word is heard in auth. */

ngx_int_t
ngx_commerce_guard_tenant(ngx_commerce_request_t *c)
{
    ngx_int_t                rc;
    ngx_commerce_tenancy_t  *t;

    if (!c->op->tenant) {
        return NGX_OK;
    }

    rc = ngx_commerce_tenancy(c->request, &t);

    switch (rc) {

    case NGX_OK:
        break;

    case NGX_AGAIN:
        return ngx_commerce_guard_hold(c);

    case NGX_ABORT:
        return ngx_commerce_problem(c, 401, "unauthorized",
                    "The API key is not valid.");

    case NGX_DECLINED:
        return ngx_commerce_problem(c, 403, "tenant-mismatch",
                    "The API key belongs to another shop than the address.");

    default:
        return NGX_ERROR;
    }

    c->tenant = t->tenant;
    c->key = t->key;

    /* a token may still say that the shop is another one than the default */

    return t->fixed ? NGX_OK : ngx_commerce_guard_active(c);
}


static ngx_int_t
ngx_commerce_guard_hold(ngx_commerce_request_t *c)
{
    ngx_commerce_pg_lane_status_t  lane;

    if (ngx_commerce_guard_began == 0) {
        ngx_commerce_guard_began = ngx_current_msec;
    }

    ngx_commerce_pg_lane_status(NGX_COMMERCE_PG_READ, &lane);

    if (!lane.breaker_open
        && ngx_current_msec - ngx_commerce_guard_began < NGX_COMMERCE_HOLD_MAX)
    {
        return NGX_AGAIN;
    }

    return ngx_commerce_problem_retry(c, 503, "starting", 1,
                "The list of shops has not been read yet; try again.");
}


/* Nothing of a suspended shop is served, to nobody: its data stay as they are. */

static ngx_int_t
ngx_commerce_guard_active(ngx_commerce_request_t *c)
{
    if (c->tenant.id.len && !c->tenant.active) {
        return ngx_commerce_problem(c, 403, "tenant-suspended",
                                    "This shop is suspended.");
    }

    return NGX_OK;
}


ngx_int_t
ngx_commerce_guard_auth(ngx_commerce_request_t *c)
{
    ngx_str_t  permission;

    if (ngx_commerce_guard_principal(c) != NGX_OK) {
        return NGX_ERROR;
    }

    if (c->op->tenant
        && (ngx_commerce_guard_named(c) != NGX_OK
            || ngx_commerce_guard_flag(c) != NGX_OK))
    {
        return NGX_ERROR;
    }

    permission = ngx_commerce_from_core(&c->op->permission);

    if (ngx_commerce_guard_may(c, &permission)) {
        return NGX_OK;
    }

    return permission.len
           ? ngx_commerce_problem(c, 403, "forbidden",
                 "This needs the permission %V.", &permission)
           : ngx_commerce_problem(c, 403, "forbidden",
                 "This is not allowed to whom the token belongs.");
}


/* Who asks: a secret key, else a token. */

static ngx_int_t
ngx_commerce_guard_principal(ngx_commerce_request_t *c)
{
    c->principal.roles = c->key.roles;

    if (c->key.id.len && c->key.secret) {
        return ngx_commerce_guard_key(c);
    }

    if (c->op->auth == NGX_COMMERCE_AUTH_PUBLIC
        && (!c->op->tenant || c->tenant.id.len))
    {
        return NGX_OK;
    }

    return ngx_commerce_guard_token(c);
}


/*
 * A secret key is a principal for services and staff's tools.  Elsewhere it names the
 * tenant only: a machine has no cart.
 */

static ngx_int_t
ngx_commerce_guard_key(ngx_commerce_request_t *c)
{
    ngx_commerce_principal_t  *principal;

    if (c->request->headers_in.authorization) {
        return ngx_commerce_problem(c, 401, "unauthorized",
            "Send a secret key or a token, not both.");
    }

    principal = &c->principal;

    if (c->op->auth == NGX_COMMERCE_AUTH_PUBLIC
        || c->op->auth == NGX_COMMERCE_AUTH_OPTIONAL)
    {
        return NGX_OK;
    }

    principal->subject = c->key.id;
    principal->tenant_id = c->tenant.id;
    principal->service = 1;

    return ngx_commerce_guard_actor(c, "key");
}


/* For the audit log, where a bare uuid is a user's. */

static ngx_int_t
ngx_commerce_guard_actor(ngx_commerce_request_t *c, const char *kind)
{
    u_char  *p;

    p = ngx_pnalloc(c->request->pool, ngx_strlen(kind) + 1
                                      + c->principal.subject.len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    c->actor.data = p;
    c->actor.len = ngx_sprintf(p, "%s:%V", kind, &c->principal.subject) - p;

    return NGX_OK;
}


static ngx_int_t
ngx_commerce_guard_token(ngx_commerce_request_t *c)
{
    ngx_int_t                  rc;
    const char                *why;
    ngx_commerce_principal_t  *principal;

    principal = &c->principal;
    why = "no token";

    rc = ngx_commerce_auth_verify(c->request, principal, &why);

    if (rc == NGX_ERROR
        || (rc == NGX_DECLINED && c->op->auth != NGX_COMMERCE_AUTH_OPTIONAL
            && c->op->auth != NGX_COMMERCE_AUTH_PUBLIC))
    {
        ngx_log_error(NGX_LOG_INFO, c->request->connection->log, 0,
                      "commerce: refused a token: %s", why);

        return ngx_commerce_problem(c, 401, "unauthorized",
            "A valid access token is needed: Authorization: Bearer "
            "<token>.");
    }

    if (rc == NGX_DECLINED) {
        ngx_memzero(principal, sizeof(ngx_commerce_principal_t));
        principal->roles = c->key.roles;
    }

    return NGX_OK;
}


/*
 * The token's tenant counts where neither host nor key tells; else it has to be
 * the same.
 */

static ngx_int_t
ngx_commerce_guard_named(ngx_commerce_request_t *c)
{
    ngx_int_t                  rc;
    ngx_str_t                  role;
    ngx_commerce_tenant_t      tenant;
    ngx_commerce_tenancy_t    *t;
    ngx_commerce_principal_t  *principal;

    principal = &c->principal;

    if (ngx_commerce_tenancy(c->request, &t) != NGX_OK) {
        return NGX_ERROR;
    }

    if ((t->fixed || c->tenant.id.len == 0) && principal->tenant_id.len) {
        rc = ngx_commerce_tenant_by_id(c->request->pool,
                                       &principal->tenant_id, &tenant);
        if (rc == NGX_OK) {
            c->tenant = tenant;
            ngx_commerce_tenancy_set(c->request, &tenant);

        } else if (rc == NGX_ERROR) {
            return NGX_ERROR;
        }
    }

    if (c->tenant.id.len == 0) {
        return ngx_commerce_problem(c, 404, "tenant-unknown",
                                    "There is no shop under this host name.");
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

    /* only the platform's own are given this role: in a shop they act for it */

    ngx_str_set(&role, "platform");

    if (principal->subject.len && !principal->service
        && ngx_commerce_auth_has(principal, &role)
        && ngx_commerce_guard_actor(c, "platform") != NGX_OK)
    {
        return NGX_ERROR;
    }

    return ngx_commerce_guard_active(c);
}


/* What a shop has not switched on is not there. */

static ngx_int_t
ngx_commerce_guard_flag(ngx_commerce_request_t *c)
{
    ngx_str_t  flag;

    flag = ngx_commerce_from_core(&c->op->flag);

    if (flag.len == 0
        || ngx_commerce_tenant_flag(c->request, &c->tenant, &flag))
    {
        return NGX_OK;
    }

    return ngx_commerce_problem(c, 404, "not-found",
                                "There is nothing at this address.");
}


static ngx_uint_t
ngx_commerce_guard_may(ngx_commerce_request_t *c, ngx_str_t *permission)
{
    ngx_str_t                  role;
    ngx_commerce_principal_t  *principal;

    principal = &c->principal;

    switch (c->op->auth) {

    case NGX_COMMERCE_AUTH_CUSTOMER:
        return principal->customer || principal->staff;

    case NGX_COMMERCE_AUTH_STAFF:

        /* a key is nobody's colleague: it may what it was given by name */

        if (principal->service) {
            return permission->len
                   && ngx_commerce_auth_has(principal, permission);
        }

        return principal->staff
               && (permission->len == 0 || principal->owner
                   || ngx_commerce_auth_has(principal, permission));

    case NGX_COMMERCE_AUTH_SERVICE:
        return principal->service
               && (permission->len == 0
                   || ngx_commerce_auth_has(principal, permission));

    case NGX_COMMERCE_AUTH_PLATFORM:
        ngx_str_set(&role, "platform");

        return c->tenant.platform && ngx_commerce_auth_has(principal, &role);

    default:
        return 1;
    }
}
