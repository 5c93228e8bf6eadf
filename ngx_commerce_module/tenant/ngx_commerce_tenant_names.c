/*
 * Host names, slugs and ids come again and again: what each led to is remembered
 * by the worker until something is published.  A name has one place; another
 * one that needs it only makes the worker look up again, as without this.
 */

#include "ngx_commerce_tenant_internal.h"


#define NGX_COMMERCE_TENANT_HOST_MAX  255

#define NGX_COMMERCE_TENANT_PLACES    256
#define NGX_COMMERCE_TENANT_ROOM      896       /* bytes of a name and its record */


/* What a name led to, good for one generation of the directory. */

typedef struct {
    uint64_t               generation;  /* 0: a free place */
    ngx_int_t              rc;          /* NGX_OK, NGX_DECLINED */
    ngx_commerce_tenant_t  tenant;
    uint16_t               name_len;
    uint16_t               record_len;
    u_char                 kind;
    u_char                 text[NGX_COMMERCE_TENANT_ROOM];     /* name, record */
} ngx_commerce_tenant_place_t;


static ngx_int_t ngx_commerce_tenant_named(ngx_pool_t *pool, u_char kind,
    ngx_str_t *name, ngx_commerce_tenant_t *tenant);
static ngx_int_t ngx_commerce_tenant_recall(ngx_pool_t *pool,
    ngx_commerce_tenant_place_t *place, ngx_commerce_tenant_t *tenant);
static void ngx_commerce_tenant_keep(ngx_commerce_tenant_place_t *place,
    u_char kind, ngx_str_t *name, uint64_t generation, ngx_int_t rc,
    ngx_commerce_tenant_t *tenant);


static ngx_commerce_tenant_place_t
    ngx_commerce_tenant_places[NGX_COMMERCE_TENANT_PLACES];


ngx_int_t
ngx_commerce_tenant_by_host(ngx_pool_t *pool, ngx_str_t *host,
    ngx_commerce_tenant_t *tenant)
{
    u_char     lower[NGX_COMMERCE_TENANT_HOST_MAX];
    ngx_str_t  name;

    if (host->len > sizeof(lower)) {
        return NGX_DECLINED;
    }

    ngx_strlow(lower, host->data, host->len);
    name.data = lower;
    name.len = host->len;

    return ngx_commerce_tenant_named(pool, NGX_COMMERCE_TENANT_HOST, &name,
                                     tenant);
}


ngx_int_t
ngx_commerce_tenant_by_slug(ngx_pool_t *pool, ngx_str_t *slug,
    ngx_commerce_tenant_t *tenant)
{
    return ngx_commerce_tenant_named(pool, NGX_COMMERCE_TENANT_SLUG, slug,
                                     tenant);
}


ngx_int_t
ngx_commerce_tenant_by_id(ngx_pool_t *pool, ngx_str_t *id,
    ngx_commerce_tenant_t *tenant)
{
    return ngx_commerce_tenant_named(pool, NGX_COMMERCE_TENANT_ID, id,
                                     tenant);
}


static ngx_int_t
ngx_commerce_tenant_named(ngx_pool_t *pool, u_char kind, ngx_str_t *name,
    ngx_commerce_tenant_t *tenant)
{
    uint64_t                      generation;
    ngx_int_t                     rc;
    ngx_commerce_directory_t     *directory;
    ngx_commerce_tenant_place_t  *place;

    directory = ngx_commerce_tenant_directory();

    if (directory == NULL) {
        return NGX_AGAIN;
    }

    /* before looking: what is published meanwhile has another one */

    generation = ngx_commerce_directory_generation(directory);

    place = &ngx_commerce_tenant_places[
                (ngx_murmur_hash2(name->data, name->len) + kind)
                % NGX_COMMERCE_TENANT_PLACES];

    if (generation && place->generation == generation && place->kind == kind
        && place->name_len == name->len
        && ngx_memcmp(place->text, name->data, name->len) == 0)
    {
        return (place->rc == NGX_OK)
               ? ngx_commerce_tenant_recall(pool, place, tenant) : place->rc;
    }

    rc = ngx_commerce_tenant_find(pool, kind, name, tenant, NULL);

    if (rc == NGX_OK || rc == NGX_DECLINED) {
        ngx_commerce_tenant_keep(place, kind, name, generation, rc, tenant);
    }

    return rc;
}


/* A copy: the place may be another's before the request ends. */

static ngx_int_t
ngx_commerce_tenant_recall(ngx_pool_t *pool,
    ngx_commerce_tenant_place_t *place, ngx_commerce_tenant_t *tenant)
{
    u_char     *record;
    ptrdiff_t   moved;

    record = ngx_pnalloc(pool, place->record_len);
    if (record == NULL) {
        return NGX_ERROR;
    }

    ngx_memcpy(record, place->text + place->name_len, place->record_len);

    moved = record - (place->text + place->name_len);

    *tenant = place->tenant;
    tenant->id.data += moved;
    tenant->slug.data += moved;
    tenant->currency.data += moved;
    tenant->settings.data += moved;

    return NGX_OK;
}


/* A record lies in one piece, from before the id to the end of the settings. */

static void
ngx_commerce_tenant_keep(ngx_commerce_tenant_place_t *place, u_char kind,
    ngx_str_t *name, uint64_t generation, ngx_int_t rc,
    ngx_commerce_tenant_t *tenant)
{
    size_t      len;
    u_char     *record;
    ptrdiff_t   moved;

    len = (rc == NGX_OK) ? tenant->settings.data + tenant->settings.len
                           - tenant->id.data
          : 0;

    if (name->len + len > NGX_COMMERCE_TENANT_ROOM) {
        return;
    }

    place->generation = generation;
    place->rc = rc;
    place->kind = kind;
    place->name_len = name->len;
    place->record_len = len;

    record = ngx_cpymem(place->text, name->data, name->len);

    if (rc != NGX_OK) {
        return;
    }

    ngx_memcpy(record, tenant->id.data, len);

    moved = record - tenant->id.data;

    place->tenant = *tenant;
    place->tenant.id.data += moved;
    place->tenant.slug.data += moved;
    place->tenant.currency.data += moved;
    place->tenant.settings.data += moved;
}
