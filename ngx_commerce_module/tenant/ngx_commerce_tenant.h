/*
 * Whose shop a request is for, and what that shop has set: from shared memory, without asking anybody.
 *
 * One worker keeps the directory of tenants (host names, slugs, ids, API keys → tenant, settings) up to date from
 * PostgreSQL; all workers read it.  Everything handed out is a copy in the pool.
 */

#ifndef NGX_COMMERCE_TENANT_H
#define NGX_COMMERCE_TENANT_H


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "ngx_commerce_directory.h"


/* the tenant of the platform's own staff */
#define NGX_COMMERCE_TENANT_PLATFORM  "platform"


typedef struct {
    ngx_str_t  id;                  /* decimal; empty: none */
    ngx_str_t  slug;
    ngx_str_t  currency;
    ngx_str_t  settings;            /* to be asked by ngx_commerce_tenant_setting() */
    unsigned   active:1;            /* neither suspended nor about to be deleted */
    unsigned   platform:1;
    unsigned   limits:1;            /* has settings "limits.…" */
} ngx_commerce_tenant_t;


typedef struct {
    ngx_str_t  id;                  /* uuid; empty: none */
    ngx_str_t  roles;               /* "publishable", or "service" and its scopes: "service catalog.read" */
    time_t     expires;             /* 0: never */
    unsigned   secret:1;
} ngx_commerce_api_key_t;


/* NGX_OK; NGX_DECLINED: no such tenant; NGX_AGAIN: the directory has not been read yet (503); NGX_ERROR: no memory. */
ngx_int_t ngx_commerce_tenant_by_host(ngx_pool_t *pool, ngx_str_t *host,
    ngx_commerce_tenant_t *tenant);
ngx_int_t ngx_commerce_tenant_by_slug(ngx_pool_t *pool, ngx_str_t *slug,
    ngx_commerce_tenant_t *tenant);
ngx_int_t ngx_commerce_tenant_by_id(ngx_pool_t *pool, ngx_str_t *id,
    ngx_commerce_tenant_t *tenant);
/* The tenant of a key, whatever the key is worth now. */
ngx_int_t ngx_commerce_tenant_by_key(ngx_pool_t *pool, u_char digest[32],
    ngx_commerce_tenant_t *tenant, ngx_commerce_api_key_t *key);
/* NGX_OK: some tenant allows this origin. */
ngx_int_t ngx_commerce_tenant_any_origin(ngx_pool_t *pool, ngx_str_t *origin);

/*
 * A setting by its dotted name: "locale", "flags.wishlist", "limits.orders.rate". Strings unescaped, numbers and
 * booleans as JSON writes them, lists as JSON. NGX_DECLINED: not set.
 */
ngx_int_t ngx_commerce_tenant_setting(ngx_commerce_tenant_t *tenant,
    ngx_str_t *name, ngx_str_t *value);
/* The tenant's own word, else that of commerce_flag, else off. */
ngx_uint_t ngx_commerce_tenant_flag(ngx_http_request_t *r,
    ngx_commerce_tenant_t *tenant, ngx_str_t *name);
/* One of the list "cors_origins", byte for byte. */
ngx_uint_t ngx_commerce_tenant_allows(ngx_commerce_tenant_t *tenant,
    ngx_str_t *origin);


/* A request's: found once, by host → API key → commerce_tenant.  The token's word comes from the guard. */

typedef struct {
    ngx_commerce_tenant_t   tenant;     /* id.len == 0: nobody knows yet */
    ngx_commerce_api_key_t  key;        /* that came with the request and is good */
    unsigned                fixed:1;    /* neither host nor key: by commerce_tenant */
    unsigned                host:1;     /* whatever else is sent, the host name tells */
} ngx_commerce_tenancy_t;

/*
 * NGX_OK; NGX_AGAIN: no directory yet; NGX_DECLINED: host and key are of two tenants (403); NGX_ABORT: a key that is
 * none, unknown, over or revoked (401); NGX_ERROR: no memory.  In any phase after the host is known, of any location.
 */
ngx_int_t ngx_commerce_tenancy(ngx_http_request_t *r,
    ngx_commerce_tenancy_t **tenancy);

/* Request headers that choose the tenant of a public answer, for Vary; empty when its address does. */
void ngx_commerce_tenancy_vary(ngx_http_request_t *r, ngx_str_t *names);
/* The guard has heard the token: from here on the request is that tenant's. */
void ngx_commerce_tenancy_set(ngx_http_request_t *r,
    ngx_commerce_tenant_t *tenant);


/* PostgreSQL's directory as it stands in shared memory. */
ngx_uint_t ngx_commerce_tenant_known(void);
void ngx_commerce_tenant_stats(ngx_commerce_directory_stats_t *stats);


extern ngx_module_t  ngx_commerce_tenant_module;


#endif /* NGX_COMMERCE_TENANT_H */
