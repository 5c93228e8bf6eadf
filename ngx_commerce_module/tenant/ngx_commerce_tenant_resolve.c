/*
 * A request's tenant: host name, API key, commerce_tenant, in this order.
 */

#include "ngx_commerce_tenant_internal.h"
#include "ngx_commerce_sha256.h"


#define NGX_COMMERCE_API_KEY_LEN  (3 + 43)      /* "sk_", 256 bits in base64url */


static ngx_int_t ngx_commerce_tenancy_find(ngx_http_request_t *r,
    ngx_commerce_tenancy_t *t);
static ngx_int_t ngx_commerce_tenancy_fixed(ngx_http_request_t *r,
    ngx_commerce_tenant_t *tenant);
static ngx_int_t ngx_commerce_tenancy_key(ngx_http_request_t *r,
    ngx_str_t *text, ngx_commerce_tenant_t *tenant,
    ngx_commerce_api_key_t *key);
static ngx_uint_t ngx_commerce_tenancy_header(ngx_http_request_t *r,
    ngx_str_t *text);


ngx_int_t
ngx_commerce_tenancy(ngx_http_request_t *r, ngx_commerce_tenancy_t **tenancy)
{
    ngx_int_t                rc;
    ngx_commerce_tenancy_t  *t;

    t = ngx_http_get_module_ctx(r, ngx_commerce_tenant_module);

    if (t) {
        *tenancy = t;
        return NGX_OK;
    }

    t = ngx_pcalloc(r->pool, sizeof(ngx_commerce_tenancy_t));
    if (t == NULL) {
        return NGX_ERROR;
    }

    rc = ngx_commerce_tenancy_find(r, t);

    if (rc != NGX_OK) {
        return rc;
    }

    ngx_http_set_ctx(r, t, ngx_commerce_tenant_module);
    *tenancy = t;

    return NGX_OK;
}


void
ngx_commerce_tenancy_set(ngx_http_request_t *r, ngx_commerce_tenant_t *tenant)
{
    ngx_commerce_tenancy_t  *t;

    t = ngx_http_get_module_ctx(r, ngx_commerce_tenant_module);

    if (t) {
        t->tenant = *tenant;
        t->fixed = 0;
    }
}


ngx_int_t
ngx_commerce_tenancy_tenant(ngx_http_request_t *r,
    ngx_commerce_tenant_t *tenant)
{
    ngx_int_t                rc;
    ngx_commerce_tenancy_t  *t;

    t = ngx_http_get_module_ctx(r, ngx_commerce_tenant_module);

    if (t) {
        *tenant = t->tenant;
        return tenant->id.len ? NGX_OK : NGX_DECLINED;
    }

    rc = ngx_commerce_tenancy_host(r, tenant);

    return (rc == NGX_DECLINED) ? ngx_commerce_tenancy_fixed(r, tenant) : rc;
}


void
ngx_commerce_tenancy_vary(ngx_http_request_t *r, ngx_str_t *names)
{
    ngx_commerce_tenancy_t          *t;
    ngx_commerce_tenant_loc_conf_t  *tlcf;

    t = ngx_http_get_module_ctx(r, ngx_commerce_tenant_module);

    if (t == NULL || t->host) {
        ngx_str_null(names);
        return;
    }

    tlcf = ngx_http_get_module_loc_conf(r, ngx_commerce_tenant_module);

    /* the token is asked where there is no default */

    if (tlcf->tenant.len) {
        ngx_str_set(names, "X-API-Key");

    } else {
        ngx_str_set(names, "X-API-Key, Authorization");
    }
}


static ngx_int_t
ngx_commerce_tenancy_fixed(ngx_http_request_t *r,
    ngx_commerce_tenant_t *tenant)
{
    ngx_commerce_tenant_loc_conf_t  *tlcf;

    tlcf = ngx_http_get_module_loc_conf(r, ngx_commerce_tenant_module);

    return tlcf->tenant.len
           ? ngx_commerce_tenant_by_slug(r->pool, &tlcf->tenant, tenant)
           : NGX_DECLINED;
}


static ngx_int_t
ngx_commerce_tenancy_find(ngx_http_request_t *r, ngx_commerce_tenancy_t *t)
{
    ngx_int_t              rc;
    ngx_str_t              text;
    ngx_uint_t             keys;
    ngx_commerce_tenant_t  owner;

    rc = ngx_commerce_tenancy_host(r, &t->tenant);

    if (rc == NGX_AGAIN || rc == NGX_ERROR) {
        return rc;
    }

    if (rc == NGX_DECLINED) {
        ngx_memzero(&t->tenant, sizeof(ngx_commerce_tenant_t));
    }

    t->host = (rc == NGX_OK);

    keys = ngx_commerce_tenancy_header(r, &text);

    if (keys) {

        if (keys > 1) {
            return NGX_ABORT;
        }

        rc = ngx_commerce_tenancy_key(r, &text, &owner, &t->key);

        if (rc != NGX_OK) {
            return rc;
        }

        if (t->tenant.id.len == 0) {
            t->tenant = owner;

        } else if (t->tenant.id.len != owner.id.len
                   || ngx_memcmp(t->tenant.id.data, owner.id.data,
                                 owner.id.len)
                      != 0)
        {
            return NGX_DECLINED;
        }

        ngx_commerce_tenant_used(&t->tenant, &t->key);
    }

    if (t->tenant.id.len) {
        return NGX_OK;
    }

    rc = ngx_commerce_tenancy_fixed(r, &t->tenant);

    if (rc == NGX_DECLINED) {
        ngx_memzero(&t->tenant, sizeof(ngx_commerce_tenant_t));
        return NGX_OK;
    }

    t->fixed = 1;

    return rc;
}


/* A host name of the tenant's own, or its slug below one of the base domains. */

ngx_int_t
ngx_commerce_tenancy_host(ngx_http_request_t *r, ngx_commerce_tenant_t *tenant)
{
    ngx_int_t                         rc;
    ngx_str_t                        *host, *base, slug;
    ngx_uint_t                        i;
    ngx_commerce_tenant_main_conf_t  *tmcf;

    host = &r->headers_in.server;

    rc = ngx_commerce_tenant_by_host(r->pool, host, tenant);

    if (rc != NGX_DECLINED) {
        return rc;
    }

    tmcf = ngx_http_get_module_main_conf(r, ngx_commerce_tenant_module);
    base = tmcf->bases.elts;

    for (i = 0; i < tmcf->bases.nelts; i++) {

        if (host->len <= base[i].len
            || ngx_strncasecmp(host->data + host->len - base[i].len,
                               base[i].data, base[i].len)
               != 0)
        {
            continue;
        }

        slug.len = host->len - base[i].len;
        slug.data = ngx_pnalloc(r->pool, slug.len);
        if (slug.data == NULL) {
            return NGX_ERROR;
        }

        ngx_strlow(slug.data, host->data, slug.len);

        return ngx_commerce_tenant_by_slug(r->pool, &slug, tenant);
    }

    return NGX_DECLINED;
}


/* Whatever is wrong with a key is answered alike: NGX_ABORT. */

static ngx_int_t
ngx_commerce_tenancy_key(ngx_http_request_t *r, ngx_str_t *text,
    ngx_commerce_tenant_t *tenant, ngx_commerce_api_key_t *key)
{
    u_char     digest[32];
    ngx_int_t  rc;

    if (text->len != NGX_COMMERCE_API_KEY_LEN
        || (text->data[0] != 'p' && text->data[0] != 's')
        || text->data[1] != 'k' || text->data[2] != '_')
    {
        return NGX_ABORT;
    }

    ngx_commerce_sha256(text->data, text->len, digest);

    rc = ngx_commerce_tenant_by_key(r->pool, digest, tenant, key);

    if (rc == NGX_DECLINED) {
        return NGX_ABORT;
    }

    if (rc == NGX_OK && key->expires && key->expires <= ngx_time()) {
        return NGX_ABORT;
    }

    return rc;
}


/* The number of X-API-Key headers, and the last one's value. */

static ngx_uint_t
ngx_commerce_tenancy_header(ngx_http_request_t *r, ngx_str_t *text)
{
    ngx_uint_t        i, n;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *h;

    n = 0;
    ngx_str_null(text);

    for (part = &r->headers_in.headers.part; part; part = part->next) {
        h = part->elts;

        for (i = 0; i < part->nelts; i++) {

            if (h[i].key.len == 9
                && ngx_memcmp(h[i].lowcase_key, "x-api-key", 9) == 0)
            {
                *text = h[i].value;
                n++;
            }
        }
    }

    return n;
}
