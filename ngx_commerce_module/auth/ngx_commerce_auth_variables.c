/*
 * Who asks, for log_format, proxy_set_header and keys of limits.
 *
 * A variable that is read before the access phase (in "set", "if", a key of a
 * limit) has the token verified then.  What is empty sends no proxy header.
 */

#include "ngx_commerce_auth_internal.h"


typedef enum {
    NGX_COMMERCE_AUTH_VAR_ROLES = 0,
    NGX_COMMERCE_AUTH_VAR_PERMISSIONS,
    NGX_COMMERCE_AUTH_VAR_SESSION,
    NGX_COMMERCE_AUTH_VAR_TENANT
} ngx_commerce_auth_variable_t;


static ngx_int_t ngx_commerce_auth_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_commerce_auth_variable_names(ngx_http_request_t *r,
    const ngx_str_t *roles, ngx_uint_t permissions, ngx_str_t *names);
static ngx_int_t ngx_commerce_auth_variable_status(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_commerce_auth_variable_claim(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_commerce_auth_variable_array(ngx_http_request_t *r,
    ngx_commerce_json_t *claim, ngx_str_t *value);
static void ngx_commerce_auth_variable_set(ngx_http_variable_value_t *v,
    ngx_str_t *value);


static ngx_http_variable_t  ngx_commerce_auth_variables[] = {

    { ngx_string("commerce_roles"), NULL, ngx_commerce_auth_variable,
      NGX_COMMERCE_AUTH_VAR_ROLES, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("commerce_permissions"), NULL, ngx_commerce_auth_variable,
      NGX_COMMERCE_AUTH_VAR_PERMISSIONS, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("commerce_session"), NULL, ngx_commerce_auth_variable,
      NGX_COMMERCE_AUTH_VAR_SESSION, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("commerce_token_tenant"), NULL, ngx_commerce_auth_variable,
      NGX_COMMERCE_AUTH_VAR_TENANT, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("commerce_auth_status"), NULL, ngx_commerce_auth_variable_status,
      0, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("commerce_jwt_claim_"), NULL, ngx_commerce_auth_variable_claim,
      0, NGX_HTTP_VAR_NOCACHEABLE|NGX_HTTP_VAR_PREFIX, 0 },

      ngx_http_null_variable
};


ngx_int_t
ngx_commerce_auth_add_variables(ngx_conf_t *cf)
{
    return ngx_commerce_variables_add(cf, ngx_commerce_auth_variables);
}


static ngx_int_t
ngx_commerce_auth_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_str_t                        value;
    const ngx_commerce_principal_t  *principal;

    v->not_found = 1;

    principal = ngx_commerce_auth_principal(r);

    if (principal == NULL) {
        return NGX_OK;
    }

    switch (data) {

    case NGX_COMMERCE_AUTH_VAR_SESSION:
        value = principal->session;
        break;

    case NGX_COMMERCE_AUTH_VAR_TENANT:
        value = principal->tenant_id;
        break;

    default:
        if (ngx_commerce_auth_variable_names(r, &principal->roles,
                            data == NGX_COMMERCE_AUTH_VAR_PERMISSIONS, &value)
            != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    ngx_commerce_auth_variable_set(v, &value);

    return NGX_OK;
}


/* The names with a dot are permissions, the others roles. */

static ngx_int_t
ngx_commerce_auth_variable_names(ngx_http_request_t *r,
    const ngx_str_t *roles, ngx_uint_t permissions, ngx_str_t *names)
{
    u_char  *p, *name, *end, *space;

    p = ngx_pnalloc(r->pool, roles->len + 1);
    if (p == NULL) {
        return NGX_ERROR;
    }

    names->data = p;
    name = roles->data;
    end = name + roles->len;

    while (name < end) {
        space = ngx_strlchr(name, end, ' ');

        if (space == NULL) {
            space = end;
        }

        if ((ngx_strlchr(name, space, '.') != NULL) == permissions) {
            p = ngx_cpymem(p, name, space - name);
            *p++ = ' ';
        }

        name = space + 1;
    }

    names->len = p - names->data;

    if (names->len) {
        names->len--;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_commerce_auth_variable_status(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_str_t                 value;
    ngx_commerce_auth_ctx_t  *ctx;

    v->not_found = 1;

    (void) ngx_commerce_auth_principal(r);
    ctx = ngx_commerce_auth_found(r);

    if (ctx == NULL) {
        return NGX_OK;
    }

    if (ctx->forbidden) {
        ngx_str_set(&value, "forbidden");

    } else if (ctx->rc == NGX_OK) {
        ngx_str_set(&value, "ok");

    } else if (ctx->rc == NGX_DECLINED) {
        ngx_str_set(&value, "none");

    } else if (ngx_strcmp(ctx->why, NGX_COMMERCE_AUTH_EXPIRED) == 0) {
        ngx_str_set(&value, "expired");

    } else if (ngx_strcmp(ctx->why, NGX_COMMERCE_AUTH_REVOKED) == 0) {
        ngx_str_set(&value, "revoked");

    } else {
        ngx_str_set(&value, "invalid");
    }

    ngx_commerce_auth_variable_set(v, &value);

    return NGX_OK;
}


static ngx_int_t
ngx_commerce_auth_variable_claim(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_str_t *name = (ngx_str_t *) data;

    ngx_str_t                 claim_name, value;
    ngx_commerce_json_t      *claim;
    ngx_commerce_auth_ctx_t  *ctx;

    v->not_found = 1;

    if (ngx_commerce_auth_principal(r) == NULL) {
        return NGX_OK;
    }

    ctx = ngx_commerce_auth_found(r);

    claim_name.data = name->data + sizeof("commerce_jwt_claim_") - 1;
    claim_name.len = name->len - (sizeof("commerce_jwt_claim_") - 1);

    claim = ngx_commerce_auth_claim(r, ctx, &claim_name);

    if (claim == NULL) {
        return NGX_OK;
    }

    switch (claim->type) {

    case NGX_COMMERCE_JSON_STRING:
        value.data = claim->text.data;
        value.len = claim->text.len;
        break;

    case NGX_COMMERCE_JSON_NULL:
        return NGX_OK;

    case NGX_COMMERCE_JSON_ARRAY:
        if (ngx_commerce_auth_variable_array(r, claim, &value) != NGX_OK) {
            return NGX_ERROR;
        }
        break;

    default:
        value.data = claim->raw.data;
        value.len = claim->raw.len;
    }

    ngx_commerce_auth_variable_set(v, &value);

    return NGX_OK;
}


/* ["a","b"] → a,b; an array of anything else as it was written. */

static ngx_int_t
ngx_commerce_auth_variable_array(ngx_http_request_t *r,
    ngx_commerce_json_t *claim, ngx_str_t *value)
{
    u_char               *p;
    ngx_commerce_json_t  *element;

    value->data = claim->raw.data;
    value->len = claim->raw.len;

    for (element = claim->child; element; element = element->next) {

        if (element->type != NGX_COMMERCE_JSON_STRING
            || ngx_strlchr(element->text.data,
                           element->text.data + element->text.len, ',')
               != NULL)
        {
            return NGX_OK;
        }
    }

    p = ngx_pnalloc(r->pool, claim->raw.len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    value->data = p;

    for (element = claim->child; element; element = element->next) {

        if (element != claim->child) {
            *p++ = ',';
        }

        p = ngx_cpymem(p, element->text.data, element->text.len);
    }

    value->len = p - value->data;

    return NGX_OK;
}


/*
 * A claim is the issuer's word, but perhaps its user's choice: with a line
 * break in it, it would write headers of its own to the backend.
 */

static void
ngx_commerce_auth_variable_set(ngx_http_variable_value_t *v, ngx_str_t *value)
{
    size_t  i;

    for (i = 0; i < value->len; i++) {
        if (value->data[i] < 0x20 || value->data[i] == 0x7f) {
            return;
        }
    }

    if (value->len == 0) {
        return;
    }

    v->data = value->data;
    v->len = value->len;
    v->valid = 1;
    v->no_cacheable = 1;
    v->not_found = 0;
}
