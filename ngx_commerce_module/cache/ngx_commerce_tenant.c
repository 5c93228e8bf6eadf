/*
 * Tenants: the snapshot in shared memory and each worker's hash of it.
 *
 * Two buffers: a publisher fills the one that is not shown, then counts the
 * generation up, whose lowest bit says which one is shown.  Publishers (the listening workers of
 * two generations during a reload) exclude each other by the slab's mutex, which the master unlocks
 * when its holder dies; what such a one left is in the buffer that is not
 * shown.  Readers take no lock.
 */

#include "ngx_commerce_cache_internal.h"


#define NGX_COMMERCE_TENANTS_MAGIC    0x74656e616e747331
#define NGX_COMMERCE_TENANTS_SKEW     60000000      /* us */
#define NGX_COMMERCE_TENANT_HOST_MAX  255


typedef struct {
    size_t                      len;
    int64_t                     as_of;      /* us, the statement's time */
    uint32_t                    crc;
    u_char                     *data;
} ngx_commerce_tenants_buffer_t;

struct ngx_commerce_tenants_sh_s {
    uint64_t                       magic;
    ngx_atomic_t                   generation;      /* 0: nothing yet */
    size_t                         size;            /* of a buffer */
    ngx_commerce_tenants_buffer_t  buffers[2];
};


/* the columns of a record, each a 32-bit length and that many bytes */

typedef enum {
    NGX_COMMERCE_TENANT_ID = 0,
    NGX_COMMERCE_TENANT_SLUG,
    NGX_COMMERCE_TENANT_CURRENCY,
    NGX_COMMERCE_TENANT_STATUS,
    NGX_COMMERCE_TENANT_SETTINGS,
    NGX_COMMERCE_TENANT_HOSTS,      /* separated by spaces */
    NGX_COMMERCE_TENANT_FIELDS
} ngx_commerce_tenant_field_t;

/* What a name stands for: one table for the three kinds of lookup. */

typedef enum {
    NGX_COMMERCE_TENANT_BY_HOST = 'h',
    NGX_COMMERCE_TENANT_BY_SLUG = 's',
    NGX_COMMERCE_TENANT_BY_ID = 'i'
} ngx_commerce_tenant_kind_t;

typedef struct {
    ngx_commerce_tenant_t      *tenant;     /* NULL: free */
    ngx_str_t                   name;
    uint32_t                    hash;
    ngx_commerce_tenant_kind_t  kind;
} ngx_commerce_tenant_name_t;

typedef struct {
    ngx_pool_t                  *pool;
    ngx_pool_t                  *previous;  /* somebody of this turn may look at it */
    ngx_atomic_uint_t            generation;
    ngx_msec_t                   built;
    ngx_uint_t                   mask;
    ngx_commerce_tenant_name_t  *names;
} ngx_commerce_tenants_t;


static ngx_int_t ngx_commerce_tenant_find(ngx_commerce_tenant_kind_t kind,
    ngx_str_t *name, ngx_commerce_tenant_t *tenant);
static uint32_t ngx_commerce_tenant_hash(ngx_commerce_tenant_kind_t kind,
    ngx_str_t *name);
static void ngx_commerce_tenant_refresh(void);
static u_char *ngx_commerce_tenant_copy(ngx_pool_t *pool, size_t *len,
    ngx_atomic_uint_t *generation);
static ngx_int_t ngx_commerce_tenant_build(ngx_commerce_tenants_t *table,
    u_char *data, size_t len);
static u_char *ngx_commerce_tenant_record(u_char *p, u_char *last,
    ngx_str_t *fields);
static void ngx_commerce_tenant_add(ngx_commerce_tenants_t *table,
    ngx_commerce_tenant_kind_t kind, ngx_str_t *name,
    ngx_commerce_tenant_t *tenant);
static ngx_uint_t ngx_commerce_tenant_hosts(ngx_str_t *hosts,
    ngx_commerce_tenants_t *table, ngx_commerce_tenant_t *tenant);
static ngx_int_t ngx_commerce_tenant_write(
    ngx_commerce_tenants_buffer_t *buffer, size_t size,
    const PGresult *result);


static ngx_commerce_tenants_sh_t  *ngx_commerce_tenants_sh;
static ngx_slab_pool_t            *ngx_commerce_tenants_shpool;
static ngx_log_t                  *ngx_commerce_tenants_log;
static ngx_commerce_tenants_t      ngx_commerce_tenants;


ngx_int_t
ngx_commerce_tenant_by_host(ngx_str_t *host, ngx_commerce_tenant_t *tenant)
{
    u_char     lower[NGX_COMMERCE_TENANT_HOST_MAX];
    ngx_str_t  name;

    if (host->len > sizeof(lower)) {
        return NGX_DECLINED;
    }

    ngx_strlow(lower, host->data, host->len);
    name.data = lower;
    name.len = host->len;

    return ngx_commerce_tenant_find(NGX_COMMERCE_TENANT_BY_HOST, &name,
                                    tenant);
}


ngx_int_t
ngx_commerce_tenant_by_slug(ngx_str_t *slug, ngx_commerce_tenant_t *tenant)
{
    return ngx_commerce_tenant_find(NGX_COMMERCE_TENANT_BY_SLUG, slug, tenant);
}


ngx_int_t
ngx_commerce_tenant_by_id(ngx_str_t *id, ngx_commerce_tenant_t *tenant)
{
    return ngx_commerce_tenant_find(NGX_COMMERCE_TENANT_BY_ID, id, tenant);
}


static ngx_int_t
ngx_commerce_tenant_find(ngx_commerce_tenant_kind_t kind, ngx_str_t *name,
    ngx_commerce_tenant_t *tenant)
{
    uint32_t                     hash;
    ngx_uint_t                   i;
    ngx_commerce_tenant_name_t  *n;

    if (ngx_commerce_tenants_sh == NULL) {
        return NGX_AGAIN;
    }

    if (ngx_commerce_tenants.generation
        != ngx_commerce_tenants_sh->generation)
    {
        ngx_commerce_tenant_refresh();
    }

    if (ngx_commerce_tenants.names == NULL) {
        return NGX_AGAIN;
    }

    hash = ngx_commerce_tenant_hash(kind, name);

    for (i = hash; /* void */; i++) {
        n = &ngx_commerce_tenants.names[i & ngx_commerce_tenants.mask];

        if (n->tenant == NULL) {
            return NGX_DECLINED;
        }

        if (n->hash == hash && n->kind == kind && n->name.len == name->len
            && ngx_memcmp(n->name.data, name->data, name->len) == 0)
        {
            *tenant = *n->tenant;
            return NGX_OK;
        }
    }
}


static uint32_t
ngx_commerce_tenant_hash(ngx_commerce_tenant_kind_t kind, ngx_str_t *name)
{
    return ngx_murmur_hash2(name->data, name->len) ^ kind * 0x9e3779b1;
}


/*
 * Follows the shared snapshot.  What a caller of this turn of the event loop
 * got stays valid: one table back is kept, and there is at most one step a millisecond.
 */

static void
ngx_commerce_tenant_refresh(void)
{
    size_t                   len;
    u_char                  *data;
    ngx_commerce_tenants_t   table;

    if (ngx_commerce_tenants.names
        && ngx_commerce_tenants.built == ngx_current_msec)
    {
        return;
    }

    ngx_memzero(&table, sizeof(ngx_commerce_tenants_t));

    table.pool = ngx_create_pool(NGX_DEFAULT_POOL_SIZE,
                                 ngx_commerce_tenants_log);
    if (table.pool == NULL) {
        return;
    }

    data = ngx_commerce_tenant_copy(table.pool, &len, &table.generation);

    if (data == NULL
        || ngx_commerce_tenant_build(&table, data, len) != NGX_OK)
    {
        ngx_destroy_pool(table.pool);
        return;
    }

    if (ngx_commerce_tenants.previous) {
        ngx_destroy_pool(ngx_commerce_tenants.previous);
    }

    table.previous = ngx_commerce_tenants.pool;
    table.built = ngx_current_msec;
    ngx_commerce_tenants = table;
}


/*
 * A publisher writes into the shown buffer only after it has shown the other
 * one: when the generation is still the same after the copy, the copy is whole.
 */

static u_char *
ngx_commerce_tenant_copy(ngx_pool_t *pool, size_t *len,
    ngx_atomic_uint_t *generation)
{
    u_char                         *data;
    uint32_t                        crc;
    ngx_uint_t                      i;
    ngx_commerce_tenants_sh_t      *sh;
    ngx_commerce_tenants_buffer_t  *buffer;

    sh = ngx_commerce_tenants_sh;

    for (i = 0; i < 3; i++) {
        *generation = sh->generation;
        if (*generation == 0) {
            return NULL;
        }

        ngx_memory_barrier();

        buffer = &sh->buffers[*generation & 1];
        *len = buffer->len;
        crc = buffer->crc;

        if (*len <= sh->size) {
            data = ngx_pnalloc(pool, *len + 1);
            if (data == NULL) {
                return NULL;
            }

            ngx_memcpy(data, buffer->data, *len);
            ngx_memory_barrier();

            if (sh->generation == *generation
                && ngx_crc32_long(data, *len) == crc)
            {
                return data;
            }
        }
    }

    ngx_log_error(NGX_LOG_ERR, ngx_commerce_tenants_log, 0,
                  "the list of tenants in commerce_tenant_zone cannot be "
                  "read");

    return NULL;
}


static ngx_int_t
ngx_commerce_tenant_build(ngx_commerce_tenants_t *table, u_char *data,
    size_t len)
{
    u_char                 *p, *last;
    ngx_str_t               fields[NGX_COMMERCE_TENANT_FIELDS];
    ngx_uint_t              names, size;
    ngx_commerce_tenant_t  *tenant;

    last = data + len;
    names = 0;

    for (p = data; p < last; /* void */) {
        p = ngx_commerce_tenant_record(p, last, fields);
        if (p == NULL) {
            return NGX_ERROR;
        }

        names += 2 + ngx_commerce_tenant_hosts(
                         &fields[NGX_COMMERCE_TENANT_HOSTS], NULL, NULL);
    }

    /* at most half full: a search ends at a free place */

    for (size = 16; size < names * 2; size *= 2) { /* void */ }

    table->mask = size - 1;
    table->names = ngx_pcalloc(table->pool,
                               size * sizeof(ngx_commerce_tenant_name_t));
    if (table->names == NULL) {
        return NGX_ERROR;
    }

    for (p = data; p < last; /* void */) {
        p = ngx_commerce_tenant_record(p, last, fields);

        tenant = ngx_pcalloc(table->pool, sizeof(ngx_commerce_tenant_t));
        if (tenant == NULL) {
            return NGX_ERROR;
        }

        tenant->id = fields[NGX_COMMERCE_TENANT_ID];
        tenant->slug = fields[NGX_COMMERCE_TENANT_SLUG];
        tenant->currency = fields[NGX_COMMERCE_TENANT_CURRENCY];
        tenant->active = fields[NGX_COMMERCE_TENANT_STATUS].len == 6
                         && ngx_memcmp(fields[NGX_COMMERCE_TENANT_STATUS].data,
                                       "active", 6) == 0;

        ngx_commerce_tenant_add(table, NGX_COMMERCE_TENANT_BY_ID, &tenant->id,
                                tenant);
        ngx_commerce_tenant_add(table, NGX_COMMERCE_TENANT_BY_SLUG,
                                &tenant->slug, tenant);
        (void) ngx_commerce_tenant_hosts(&fields[NGX_COMMERCE_TENANT_HOSTS],
                                         table, tenant);
    }

    return NGX_OK;
}


/* Returns the end of the record, or NULL when it is none. */

static u_char *
ngx_commerce_tenant_record(u_char *p, u_char *last, ngx_str_t *fields)
{
    uint32_t    len;
    ngx_uint_t  i;

    for (i = 0; i < NGX_COMMERCE_TENANT_FIELDS; i++) {
        if ((size_t) (last - p) < sizeof(len)) {
            return NULL;
        }

        ngx_memcpy(&len, p, sizeof(len));
        p += sizeof(len);

        if ((size_t) (last - p) < len) {
            return NULL;
        }

        fields[i].data = p;
        fields[i].len = len;
        p += len;
    }

    return p;
}


/* Counts the host names, and adds them when there is a table. */

static ngx_uint_t
ngx_commerce_tenant_hosts(ngx_str_t *hosts, ngx_commerce_tenants_t *table,
    ngx_commerce_tenant_t *tenant)
{
    u_char      *p, *last;
    ngx_str_t    name;
    ngx_uint_t   n;

    n = 0;
    p = hosts->data;
    last = p + hosts->len;

    while (p < last) {
        name.data = p;
        while (p < last && *p != ' ') { p++; }
        name.len = p - name.data;
        p++;

        if (name.len == 0) {
            continue;
        }

        n++;

        if (table) {
            ngx_commerce_tenant_add(table, NGX_COMMERCE_TENANT_BY_HOST, &name,
                                    tenant);
        }
    }

    return n;
}


static void
ngx_commerce_tenant_add(ngx_commerce_tenants_t *table,
    ngx_commerce_tenant_kind_t kind, ngx_str_t *name,
    ngx_commerce_tenant_t *tenant)
{
    uint32_t    hash;
    ngx_uint_t  i;

    hash = ngx_commerce_tenant_hash(kind, name);

    for (i = hash; table->names[i & table->mask].tenant; i++) { /* void */ }

    i &= table->mask;

    table->names[i].tenant = tenant;
    table->names[i].name = *name;
    table->names[i].hash = hash;
    table->names[i].kind = kind;
}


/* A snapshot that says nothing new does not count as a generation. */

ngx_int_t
ngx_commerce_tenant_publish(const PGresult *result, ngx_log_t *log)
{
    int64_t                         behind;
    ngx_int_t                       rc;
    ngx_commerce_tenants_sh_t      *sh;
    ngx_commerce_tenants_buffer_t  *shown, *hidden;

    sh = ngx_commerce_tenants_sh;
    rc = NGX_OK;

    ngx_shmtx_lock(&ngx_commerce_tenants_shpool->mutex);

    shown = &sh->buffers[sh->generation & 1];
    hidden = &sh->buffers[(sh->generation + 1) & 1];

    if (ngx_commerce_tenant_write(hidden, sh->size, result) != NGX_OK) {
        rc = NGX_ERROR;
        goto done;
    }

    if (sh->generation) {
        behind = shown->as_of - hidden->as_of;

        /* an older one of the worker before a reload; a clock that was set back is no reason */

        if (behind > 0 && behind < NGX_COMMERCE_TENANTS_SKEW) {
            goto done;
        }

        if (shown->len == hidden->len && shown->crc == hidden->crc
            && ngx_memcmp(shown->data, hidden->data, shown->len) == 0)
        {
            shown->as_of = hidden->as_of;
            goto done;
        }
    }

    ngx_memory_barrier();
    sh->generation++;

done:

    ngx_shmtx_unlock(&ngx_commerce_tenants_shpool->mutex);

    if (rc != NGX_OK) {
        ngx_log_error(NGX_LOG_ERR, log, 0,
                      "the list of %d tenants does not fit: raise "
                      "commerce_tenant_zone", PQntuples(result));
    }

    return rc;
}


static ngx_int_t
ngx_commerce_tenant_write(ngx_commerce_tenants_buffer_t *buffer, size_t size,
    const PGresult *result)
{
    int       row, column;
    u_char   *p, *last;
    uint32_t  len;

    p = buffer->data;
    last = p + size;
    buffer->as_of = 0;

    for (row = 0; row < PQntuples(result); row++) {

        buffer->as_of = strtoll(PQgetvalue(result, row, 0), NULL, 10);

        for (column = 1; column <= NGX_COMMERCE_TENANT_FIELDS; column++) {
            len = PQgetlength(result, row, column);

            if ((size_t) (last - p) < sizeof(len) + len) {
                return NGX_ERROR;
            }

            p = ngx_cpymem(p, &len, sizeof(len));
            p = ngx_cpymem(p, PQgetvalue(result, row, column), len);
        }
    }

    buffer->len = p - buffer->data;
    buffer->crc = ngx_crc32_long(buffer->data, buffer->len);

    return NGX_OK;
}


ngx_int_t
ngx_commerce_tenant_init_zone(ngx_shm_zone_t *zone, void *data)
{
    size_t                           pages;
    ngx_slab_pool_t                 *shpool;
    ngx_commerce_tenants_sh_t       *sh;
    ngx_commerce_cache_main_conf_t  *cmcf;

    cmcf = zone->data;
    shpool = (ngx_slab_pool_t *) zone->shm.addr;

    if (data) {
        sh = shpool->data;

        if (sh->magic != NGX_COMMERCE_TENANTS_MAGIC) {
            ngx_log_error(NGX_LOG_EMERG, zone->shm.log, 0,
                          "commerce_tenant_zone was laid out by another "
                          "version; change its size or restart nginx");
            return NGX_ERROR;
        }

        cmcf->tenants = sh;
        return NGX_OK;
    }

    sh = ngx_slab_calloc(shpool, sizeof(ngx_commerce_tenants_sh_t));
    if (sh == NULL) {
        return NGX_ERROR;
    }

    pages = shpool->pfree / 2;
    sh->size = pages * ngx_pagesize;
    sh->buffers[0].data = ngx_slab_alloc(shpool, sh->size);
    sh->buffers[1].data = ngx_slab_alloc(shpool, sh->size);

    if (sh->buffers[0].data == NULL || sh->buffers[1].data == NULL) {
        return NGX_ERROR;
    }

    sh->magic = NGX_COMMERCE_TENANTS_MAGIC;
    shpool->data = sh;
    cmcf->tenants = sh;

    return NGX_OK;
}


void
ngx_commerce_tenant_init(ngx_commerce_tenants_sh_t *sh,
    ngx_slab_pool_t *shpool, ngx_log_t *log)
{
    ngx_commerce_tenants_sh = sh;
    ngx_commerce_tenants_shpool = shpool;
    ngx_commerce_tenants_log = log;
}
