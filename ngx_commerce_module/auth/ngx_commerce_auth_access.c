/*
 * commerce_auth at work: 401, 403, or on.
 *
 * In the access phase, so that "satisfy" combines it with nginx's other
 * guards.  nginx skips that phase in subrequests: there the decision is made in
 * the preaccess phase, else a location that is reached by auth_request, SSI or
 * mirror would not be guarded at all.
 */

#include "ngx_commerce_auth_internal.h"
#include "ngx_commerce_tenant.h"


static ngx_int_t ngx_commerce_auth_access(ngx_http_request_t *r);
static ngx_int_t ngx_commerce_auth_preaccess(ngx_http_request_t *r);
static ngx_int_t ngx_commerce_auth_decide(ngx_http_request_t *r,
    ngx_commerce_auth_loc_conf_t *alcf);
static ngx_int_t ngx_commerce_auth_demands(ngx_http_request_t *r,
    ngx_commerce_auth_loc_conf_t *alcf, ngx_commerce_auth_ctx_t *ctx);
static ngx_uint_t ngx_commerce_auth_meets(ngx_commerce_auth_ctx_t *ctx,
    ngx_commerce_auth_demand_t *demand);
static ngx_int_t ngx_commerce_auth_of_tenant(ngx_http_request_t *r,
    ngx_commerce_auth_loc_conf_t *alcf, ngx_commerce_auth_ctx_t *ctx);
static ngx_int_t ngx_commerce_auth_requirement(ngx_http_request_t *r,
    ngx_commerce_auth_ctx_t *ctx, ngx_commerce_auth_require_t *require);
static ngx_int_t ngx_commerce_auth_claim_is(ngx_http_request_t *r,
    ngx_commerce_json_t *claim, ngx_commerce_auth_value_t *v);
static ngx_int_t ngx_commerce_auth_forbid(ngx_http_request_t *r,
    ngx_commerce_auth_ctx_t *ctx, ngx_commerce_auth_demand_t *demand);
static ngx_int_t ngx_commerce_auth_header(ngx_http_request_t *r,
    ngx_str_t *value);


ngx_int_t
ngx_commerce_auth_access_init(ngx_conf_t *cf)
{
    ngx_http_handler_pt        *h;
    ngx_http_core_main_conf_t  *cmcf;

    cmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_core_module);

    h = ngx_array_push(&cmcf->phases[NGX_HTTP_PREACCESS_PHASE].handlers);
    if (h == NULL) {
        return NGX_ERROR;
    }

    *h = ngx_commerce_auth_preaccess;

    h = ngx_array_push(&cmcf->phases[NGX_HTTP_ACCESS_PHASE].handlers);
    if (h == NULL) {
        return NGX_ERROR;
    }

    *h = ngx_commerce_auth_access;

    return NGX_OK;
}


static ngx_int_t
ngx_commerce_auth_access(ngx_http_request_t *r)
{
    ngx_commerce_auth_loc_conf_t  *alcf;

    alcf = ngx_http_get_module_loc_conf(r, ngx_commerce_auth_module);

    if (alcf->mode == NGX_COMMERCE_AUTH_OFF) {
        return NGX_DECLINED;
    }

    return ngx_commerce_auth_decide(r, alcf);
}


static ngx_int_t
ngx_commerce_auth_preaccess(ngx_http_request_t *r)
{
    ngx_int_t                      rc;
    ngx_commerce_auth_loc_conf_t  *alcf;

    if (r == r->main) {
        return NGX_DECLINED;
    }

    alcf = ngx_http_get_module_loc_conf(r, ngx_commerce_auth_module);

    if (alcf->mode == NGX_COMMERCE_AUTH_OFF) {
        return NGX_DECLINED;
    }

    rc = ngx_commerce_auth_decide(r, alcf);

    return (rc == NGX_OK) ? NGX_DECLINED : rc;
}


/* NGX_OK: known and allowed.  NGX_DECLINED: nobody, which "optional" takes but "satisfy any" does not. */

static ngx_int_t
ngx_commerce_auth_decide(ngx_http_request_t *r,
    ngx_commerce_auth_loc_conf_t *alcf)
{
    ngx_commerce_auth_ctx_t  *ctx;

    ctx = ngx_commerce_auth_get(r);

    if (ctx == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ctx->forbidden = 0;

    if (ctx->rc == NGX_OK) {

        if (alcf->demands == NULL && alcf->requires == NULL
            && alcf->tenant == NULL && !alcf->tenant_by_host)
        {
            return NGX_OK;
        }

        return ngx_commerce_auth_demands(r, alcf, ctx);
    }

    if (ctx->rc == NGX_DECLINED && alcf->mode == NGX_COMMERCE_AUTH_IF_SENT) {
        return NGX_DECLINED;
    }

    ngx_log_error(NGX_LOG_INFO, r->connection->log, 0,
                  "commerce: refused a token: %s", ctx->why);

    if (ngx_commerce_auth_challenge(r) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    return NGX_HTTP_UNAUTHORIZED;
}


static ngx_int_t
ngx_commerce_auth_demands(ngx_http_request_t *r,
    ngx_commerce_auth_loc_conf_t *alcf, ngx_commerce_auth_ctx_t *ctx)
{
    ngx_int_t                     rc;
    ngx_uint_t                    i;
    ngx_commerce_auth_demand_t   *demand;
    ngx_commerce_auth_require_t  *require;

    rc = ngx_commerce_auth_of_tenant(r, alcf, ctx);

    if (rc != NGX_OK) {
        return (rc == NGX_DECLINED) ? ngx_commerce_auth_forbid(r, ctx, NULL)
                                    : rc;
    }

    if (alcf->demands != NULL) {
        demand = alcf->demands->elts;

        for (i = 0; i < alcf->demands->nelts; i++) {
            if (!ngx_commerce_auth_meets(ctx, &demand[i])) {
                return ngx_commerce_auth_forbid(r, ctx, &demand[i]);
            }
        }
    }

    if (alcf->requires != NULL) {
        require = alcf->requires->elts;

        for (i = 0; i < alcf->requires->nelts; i++) {
            rc = ngx_commerce_auth_requirement(r, ctx, &require[i]);

            if (rc != NGX_OK) {
                return (rc == NGX_DECLINED)
                       ? ngx_commerce_auth_forbid(r, ctx, NULL) : rc;
            }
        }
    }

    return NGX_OK;
}


/* A role is a role's name alone, a permission also an owner's by right, a scope what the token says. */

static ngx_uint_t
ngx_commerce_auth_meets(ngx_commerce_auth_ctx_t *ctx,
    ngx_commerce_auth_demand_t *demand)
{
    ngx_str_t   *name;
    ngx_uint_t   i;

    name = demand->names.elts;

    for (i = 0; i < demand->names.nelts; i++) {

        if (demand->kind == NGX_COMMERCE_AUTH_PERMISSION
            ? ngx_commerce_auth_has(&ctx->principal, &name[i])
            : ngx_commerce_auth_listed(&ctx->principal.roles, &name[i]))
        {
            return 1;
        }
    }

    return 0;
}


/* NGX_DECLINED: the token is another tenant's, or of none. */

static ngx_int_t
ngx_commerce_auth_of_tenant(ngx_http_request_t *r,
    ngx_commerce_auth_loc_conf_t *alcf, ngx_commerce_auth_ctx_t *ctx)
{
    ngx_int_t                rc;
    ngx_str_t                wanted, *id;
    ngx_commerce_tenant_t    tenant;
    ngx_commerce_tenancy_t  *t;

    if (alcf->tenant == NULL && !alcf->tenant_by_host) {
        return NGX_OK;
    }

    id = &ctx->principal.tenant_id;

    if (alcf->tenant_by_host) {
        rc = ngx_commerce_tenancy(r, &t);

        if (rc == NGX_OK) {
            tenant = t->tenant;
            rc = (tenant.id.len && !t->fixed && tenant.active) ? NGX_OK
                                                              : NGX_DECLINED;
        }

    } else {

        if (ngx_http_complex_value(r, alcf->tenant, &wanted) != NGX_OK) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }

        if (ngx_commerce_token_tenant_valid(wanted.data, wanted.len)) {
            tenant.id = wanted;
            rc = NGX_OK;

        } else {
            rc = ngx_commerce_tenant_by_slug(r->pool, &wanted, &tenant);
        }
    }

    if (rc == NGX_AGAIN) {
        ngx_log_error(NGX_LOG_WARN, r->connection->log, 0,
                      "commerce_auth: the list of tenants has not been read "
                      "yet");
        return NGX_HTTP_SERVICE_UNAVAILABLE;
    }

    if (rc != NGX_OK || id->len == 0 || id->len != tenant.id.len
        || ngx_memcmp(id->data, tenant.id.data, id->len) != 0)
    {
        return NGX_DECLINED;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_commerce_auth_requirement(ngx_http_request_t *r,
    ngx_commerce_auth_ctx_t *ctx, ngx_commerce_auth_require_t *require)
{
    ngx_int_t                   rc;
    ngx_uint_t                  i;
    ngx_commerce_json_t        *claim, *element;
    ngx_commerce_auth_value_t  *v;

    claim = ngx_commerce_auth_claim(r, ctx, &require->claim);

    if (claim == NULL) {
        return NGX_DECLINED;
    }

    v = require->values.elts;

    for (i = 0; i < require->values.nelts; i++) {

        element = (claim->type == NGX_COMMERCE_JSON_ARRAY) ? claim->child
                                                           : claim;

        for ( /* void */ ; element != NULL; element = element->next) {

            rc = ngx_commerce_auth_claim_is(r, element, &v[i]);

            if (rc != NGX_DECLINED) {
                return rc;
            }

            if (element == claim) {
                break;
            }
        }
    }

    return NGX_DECLINED;
}


/* Strings as they read, numbers and booleans as they were written; objects and null are no value. */

static ngx_int_t
ngx_commerce_auth_claim_is(ngx_http_request_t *r, ngx_commerce_json_t *claim,
    ngx_commerce_auth_value_t *v)
{
    ngx_int_t  rc;
    ngx_str_t  is, wanted;

    switch (claim->type) {

    case NGX_COMMERCE_JSON_STRING:
        is.data = claim->text.data;
        is.len = claim->text.len;
        break;

    case NGX_COMMERCE_JSON_NUMBER:
    case NGX_COMMERCE_JSON_TRUE:
    case NGX_COMMERCE_JSON_FALSE:
        is.data = claim->raw.data;
        is.len = claim->raw.len;
        break;

    default:
        return NGX_DECLINED;
    }

    if (v->regex != NULL) {
        rc = ngx_regex_exec(v->regex, &is, NULL, 0);

        if (rc >= 0) {
            return NGX_OK;
        }

        if (rc == NGX_REGEX_NO_MATCHED) {
            return NGX_DECLINED;
        }

        ngx_log_error(NGX_LOG_ALERT, r->connection->log, 0,
                      ngx_regex_exec_n " failed: %i on \"%V\"", rc, &is);
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (ngx_http_complex_value(r, &v->value, &wanted) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    /* an empty variable is nobody's claim */

    return (wanted.len != 0 && wanted.len == is.len
            && ngx_memcmp(wanted.data, is.data, is.len) == 0)
           ? NGX_OK : NGX_DECLINED;
}


static ngx_int_t
ngx_commerce_auth_forbid(ngx_http_request_t *r, ngx_commerce_auth_ctx_t *ctx,
    ngx_commerce_auth_demand_t *demand)
{
    u_char                         *p;
    size_t                          len;
    ngx_str_t                       value, *name;
    ngx_uint_t                      i;
    ngx_commerce_auth_main_conf_t  *amcf;

    ctx->forbidden = 1;

    ngx_log_error(NGX_LOG_INFO, r->connection->log, 0,
                  "commerce: the token of \"%V\" does not have what is "
                  "required here", &ctx->principal.subject);

    amcf = ngx_http_get_module_main_conf(r, ngx_commerce_auth_module);

    /* a client can ask for a scope, for a role or a claim it cannot */

    if (demand != NULL && demand->kind == NGX_COMMERCE_AUTH_ROLE) {
        demand = NULL;
    }

    len = sizeof("Bearer realm=, error=\"insufficient_scope\", scope=\"\"")
          + amcf->realm.len;

    if (demand != NULL) {
        name = demand->names.elts;

        for (i = 0; i < demand->names.nelts; i++) {
            len += name[i].len + 1;
        }
    }

    p = ngx_pnalloc(r->pool, len);
    if (p == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    value.data = p;
    p = ngx_sprintf(p, "Bearer realm=%V, error=\"insufficient_scope\"",
                    &amcf->realm);

    if (demand != NULL) {
        name = demand->names.elts;

        for (i = 0; i < demand->names.nelts; i++) {
            p = ngx_sprintf(p, i ? " %V" : ", scope=\"%V", &name[i]);
        }

        *p++ = '"';
    }

    value.len = p - value.data;

    if (ngx_commerce_auth_header(r, &value) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    return NGX_HTTP_FORBIDDEN;
}


ngx_int_t
ngx_commerce_auth_challenge(ngx_http_request_t *r)
{
    u_char                         *p;
    ngx_str_t                       value;
    ngx_commerce_auth_ctx_t        *ctx;
    ngx_commerce_auth_main_conf_t  *amcf;

    amcf = ngx_http_get_module_main_conf(r, ngx_commerce_auth_module);
    ctx = ngx_commerce_auth_found(r);

    p = ngx_pnalloc(r->pool, sizeof("Bearer realm=, error=\"invalid_token\"")
                             + amcf->realm.len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    value.data = p;
    p = ngx_sprintf(p, "Bearer realm=%V", &amcf->realm);

    if (ctx != NULL && ctx->rc == NGX_ERROR) {
        p = ngx_sprintf(p, ", error=\"invalid_token\"");
    }

    value.len = p - value.data;

    return ngx_commerce_auth_header(r, &value);
}


/* "satisfy any" voids the header (hash 0) when another guard is content. */

static ngx_int_t
ngx_commerce_auth_header(ngx_http_request_t *r, ngx_str_t *value)
{
    ngx_table_elt_t  *h;

    static ngx_str_t  name = ngx_string("WWW-Authenticate");

    h = r->headers_out.www_authenticate;

    if (h) {
        h->hash = 1;
        h->value = *value;
        return NGX_OK;
    }

    h = ngx_commerce_header_push(r, &name, value);
    r->headers_out.www_authenticate = h;

    return h ? NGX_OK : NGX_ERROR;
}
