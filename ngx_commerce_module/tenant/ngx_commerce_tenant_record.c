/*
 * A tenant's record: written by the worker that listens, read by all.
 *
 * A record is a list of texts, each a 32-bit length and that many bytes: id, slug, status, currency, then pairs of a
 * setting's dotted name and its value.  A key's is: uuid, "secret" or "publishable", time of its end, roles.
 */

#include "ngx_commerce_tenant_internal.h"
#include "ngx_commerce_codec.h"
#include "ngx_commerce_json.h"
#include "ngx_commerce_pool.h"


#define NGX_COMMERCE_TENANT_NAME_MAX  128       /* of a setting, dots included */
#define NGX_COMMERCE_TENANT_DEPTH     4


/* A text that grows; failed: no memory. */

typedef struct {
    ngx_pool_t  *pool;
    u_char      *data;
    size_t       len;
    size_t       room;
    ngx_uint_t   failed;
} ngx_commerce_tenant_text_t;


static u_char *ngx_commerce_tenant_field(u_char *p, u_char *last,
    ngx_str_t *field);
static ngx_int_t ngx_commerce_tenant_unpack(ngx_str_t *record,
    ngx_commerce_tenant_t *tenant);
static ngx_uint_t ngx_commerce_tenant_equal(ngx_str_t *name,
    ngx_str_t *wanted);
static void ngx_commerce_tenant_put(ngx_commerce_tenant_text_t *text,
    const void *data, size_t len);
static void ngx_commerce_tenant_flatten(ngx_commerce_tenant_text_t *text,
    ngx_commerce_json_t *object, u_char *name, size_t len, ngx_uint_t depth);
static void ngx_commerce_tenant_hosts(ngx_commerce_directory_image_t *image,
    ngx_str_t *hosts);
static void ngx_commerce_tenant_keys(ngx_commerce_directory_image_t *image,
    ngx_str_t *keys, ngx_pool_t *pool);
static void ngx_commerce_tenant_origins(ngx_commerce_directory_image_t *image,
    ngx_commerce_json_t *settings);


static ngx_commerce_directory_t  *ngx_commerce_tenant_shared;
static ngx_slab_pool_t           *ngx_commerce_tenant_shpool;


void
ngx_commerce_tenant_init(ngx_commerce_tenant_main_conf_t *tmcf, ngx_log_t *log)
{
    ngx_commerce_tenant_shared = tmcf->directory;
    ngx_commerce_tenant_shpool = (ngx_slab_pool_t *) tmcf->zone->shm.addr;
}


ngx_commerce_directory_t *
ngx_commerce_tenant_directory(void)
{
    return ngx_commerce_tenant_shared;
}


ngx_int_t
ngx_commerce_tenant_any_origin(ngx_pool_t *pool, ngx_str_t *origin)
{
    ngx_commerce_tenant_t  tenant;

    return ngx_commerce_tenant_find(pool, NGX_COMMERCE_TENANT_ORIGIN, origin,
                                    &tenant, NULL);
}


/*
 * What is looked for is the digest, so the time that a search takes says
 * nothing about keys: nobody can aim at a digest.
 */

ngx_int_t
ngx_commerce_tenant_by_key(ngx_pool_t *pool, u_char digest[32],
    ngx_commerce_tenant_t *tenant, ngx_commerce_api_key_t *key)
{
    u_char     *p, *last;
    ngx_int_t   rc;
    ngx_str_t   name, target, kind, expires;

    name.data = digest;
    name.len = 32;

    rc = ngx_commerce_tenant_find(pool, NGX_COMMERCE_TENANT_KEY, &name, tenant,
                                  &target);
    if (rc != NGX_OK) {
        return rc;
    }

    p = target.data;
    last = p + target.len;

    p = ngx_commerce_tenant_field(p, last, &key->id);
    p = ngx_commerce_tenant_field(p, last, &kind);
    p = ngx_commerce_tenant_field(p, last, &expires);
    p = ngx_commerce_tenant_field(p, last, &key->roles);

    if (p == NULL) {
        return NGX_DECLINED;
    }

    key->secret = kind.len == 6 && ngx_memcmp(kind.data, "secret", 6) == 0;
    key->expires = ngx_atotm(expires.data, expires.len);

    return NGX_OK;
}


ngx_int_t
ngx_commerce_tenant_find(ngx_pool_t *pool, u_char kind, ngx_str_t *name,
    ngx_commerce_tenant_t *tenant, ngx_str_t *target)
{
    ngx_commerce_alloc_t             alloc;
    ngx_commerce_directory_rc_t      rc;
    ngx_commerce_directory_entry_t   entry;

    if (ngx_commerce_tenant_shared == NULL) {
        return NGX_AGAIN;
    }

    alloc = ngx_commerce_pool_alloc(pool);

    rc = ngx_commerce_directory_find(ngx_commerce_tenant_shared, kind,
                         (ngx_commerce_str_t) { name->len, name->data },
                         &alloc, &entry);

    switch (rc) {

    case NGX_COMMERCE_DIRECTORY_OK:
        if (target) {
            target->data = entry.target.data;
            target->len = entry.target.len;
        }

        return ngx_commerce_tenant_unpack((ngx_str_t *) &entry.record, tenant);

    case NGX_COMMERCE_DIRECTORY_EMPTY:
        return NGX_AGAIN;

    case NGX_COMMERCE_DIRECTORY_NOMEM:
        return NGX_ERROR;

    default:
        return NGX_DECLINED;
    }
}


/* NULL in, NULL out: the last one tells. */

static u_char *
ngx_commerce_tenant_field(u_char *p, u_char *last, ngx_str_t *field)
{
    uint32_t  len;

    ngx_str_null(field);

    if (p == NULL || (size_t) (last - p) < sizeof(len)) {
        return NULL;
    }

    ngx_memcpy(&len, p, sizeof(len));
    p += sizeof(len);

    if ((size_t) (last - p) < len) {
        return NULL;
    }

    field->data = p;
    field->len = len;

    return p + len;
}


static ngx_int_t
ngx_commerce_tenant_unpack(ngx_str_t *record, ngx_commerce_tenant_t *tenant)
{
    u_char     *p, *last;
    ngx_str_t   status, name, value;

    p = record->data;
    last = p + record->len;

    p = ngx_commerce_tenant_field(p, last, &tenant->id);
    p = ngx_commerce_tenant_field(p, last, &tenant->slug);
    p = ngx_commerce_tenant_field(p, last, &status);
    p = ngx_commerce_tenant_field(p, last, &tenant->currency);

    if (p == NULL) {
        return NGX_DECLINED;
    }

    tenant->settings.data = p;
    tenant->settings.len = last - p;

    tenant->active = status.len == 6
                     && ngx_memcmp(status.data, "active", 6) == 0;
    tenant->platform = tenant->slug.len
                       == sizeof(NGX_COMMERCE_TENANT_PLATFORM) - 1
                       && ngx_memcmp(tenant->slug.data,
                                     NGX_COMMERCE_TENANT_PLATFORM,
                                     tenant->slug.len)
                          == 0;
    tenant->limits = 0;

    while (p && p < last) {
        p = ngx_commerce_tenant_field(p, last, &name);
        p = ngx_commerce_tenant_field(p, last, &value);

        if (p && name.len > 7 && ngx_memcmp(name.data, "limits.", 7) == 0) {
            tenant->limits = 1;
            break;
        }
    }

    return NGX_OK;
}


ngx_int_t
ngx_commerce_tenant_setting(ngx_commerce_tenant_t *tenant, ngx_str_t *name,
    ngx_str_t *value)
{
    return ngx_commerce_tenant_setting_spelled(tenant, name, value,
                                               ngx_commerce_tenant_equal);
}


static ngx_uint_t
ngx_commerce_tenant_equal(ngx_str_t *name, ngx_str_t *wanted)
{
    return name->len == wanted->len
           && ngx_memcmp(name->data, wanted->data, name->len) == 0;
}


ngx_int_t
ngx_commerce_tenant_setting_spelled(ngx_commerce_tenant_t *tenant,
    ngx_str_t *wanted, ngx_str_t *value, ngx_commerce_tenant_equal_pt equal)
{
    u_char     *p, *last;
    ngx_str_t   key;

    p = tenant->settings.data;
    last = p + tenant->settings.len;

    while (p && p < last) {
        p = ngx_commerce_tenant_field(p, last, &key);
        p = ngx_commerce_tenant_field(p, last, value);

        if (p && equal(&key, wanted)) {
            return NGX_OK;
        }
    }

    ngx_str_null(value);

    return NGX_DECLINED;
}


/*
 * Origins have no character that JSON escapes, so one between quotes is a whole
 * element of the list.
 */

ngx_uint_t
ngx_commerce_tenant_allows(ngx_commerce_tenant_t *tenant, ngx_str_t *origin)
{
    u_char     *p, *last;
    ngx_str_t   list;

    static ngx_str_t  name = ngx_string("cors_origins");

    if (origin->len == 0
        || ngx_strlchr(origin->data, origin->data + origin->len, '"')
        || ngx_commerce_tenant_setting(tenant, &name, &list) != NGX_OK)
    {
        return 0;
    }

    last = list.data + list.len;

    for (p = list.data; p < last; p++) {

        p = ngx_strlchr(p, last, '"');

        if (p == NULL || (size_t) (last - p) < origin->len + 2) {
            return 0;
        }

        if (ngx_memcmp(p + 1, origin->data, origin->len) == 0
            && p[origin->len + 1] == '"')
        {
            return 1;
        }

        p = ngx_strlchr(p + 1, last, '"');

        if (p == NULL) {
            return 0;
        }
    }

    return 0;
}


ngx_uint_t
ngx_commerce_tenant_known(void)
{
    ngx_commerce_directory_stats_t  stats;

    ngx_commerce_tenant_stats(&stats);

    return stats.generation != 0;
}


void
ngx_commerce_tenant_stats(ngx_commerce_directory_stats_t *stats)
{
    ngx_memzero(stats, sizeof(ngx_commerce_directory_stats_t));

    if (ngx_commerce_tenant_shared) {
        ngx_commerce_directory_stats(ngx_commerce_tenant_shared, stats);
    }
}


/* ---- the worker that listens ---- */

ngx_commerce_directory_rc_t
ngx_commerce_tenant_publish(ngx_commerce_directory_image_t *image,
    int64_t as_of, uint64_t generation)
{
    ngx_commerce_directory_rc_t  rc;

    ngx_shmtx_lock(&ngx_commerce_tenant_shpool->mutex);

    rc = ngx_commerce_directory_publish(ngx_commerce_tenant_shared, image,
                                        as_of, generation);

    ngx_shmtx_unlock(&ngx_commerce_tenant_shpool->mutex);

    return rc;
}


ngx_int_t
ngx_commerce_tenant_row(ngx_commerce_directory_image_t *image,
    const PGresult *result, int row, ngx_log_t *log)
{
    int                          i;
    u_char                       name[NGX_COMMERCE_TENANT_NAME_MAX];
    ngx_str_t                    col[NGX_COMMERCE_TENANT_COLS];
    ngx_pool_t                  *pool;
    ngx_commerce_json_t         *settings;
    ngx_commerce_str_t           none;
    ngx_commerce_alloc_t         alloc;
    ngx_commerce_json_error_t    error;
    ngx_commerce_tenant_text_t   text;

    pool = ngx_create_pool(NGX_DEFAULT_POOL_SIZE, log);
    if (pool == NULL) {
        return NGX_ERROR;
    }

    for (i = 0; i < NGX_COMMERCE_TENANT_COLS; i++) {
        col[i].data = (u_char *) PQgetvalue(result, row, i);
        col[i].len = PQgetlength(result, row, i);
    }

    alloc = ngx_commerce_pool_alloc(pool);
    settings = NULL;

    if (ngx_commerce_json_parse(&alloc,
                                col[NGX_COMMERCE_TENANT_COL_SETTINGS].data,
                                col[NGX_COMMERCE_TENANT_COL_SETTINGS].len,
                                NULL, &settings, &error)
        != NGX_COMMERCE_OK)
    {
        /* one shop's settings must not take the others down */
        ngx_log_error(NGX_LOG_ERR, log, 0,
                      "the settings of tenant %V cannot be read: %s",
                      &col[NGX_COMMERCE_TENANT_COL_ID], error.message);
        settings = NULL;
    }

    none.data = NULL;
    none.len = 0;

    ngx_memzero(&text, sizeof(ngx_commerce_tenant_text_t));
    text.pool = pool;

#define ngx_commerce_tenant_put_col(i)                                        \
    ngx_commerce_tenant_put(&text, col[i].data, col[i].len)

    ngx_commerce_tenant_put_col(NGX_COMMERCE_TENANT_COL_ID);
    ngx_commerce_tenant_put_col(NGX_COMMERCE_TENANT_COL_SLUG);
    ngx_commerce_tenant_put_col(NGX_COMMERCE_TENANT_COL_STATUS);

    if (ngx_commerce_json_get(settings, "currency")) {
        ngx_commerce_tenant_put(&text,
                     ngx_commerce_json_get(settings, "currency")->text.data,
                     ngx_commerce_json_get(settings, "currency")->text.len);

    } else {
        ngx_commerce_tenant_put(&text, "", 0);
    }

    ngx_commerce_tenant_flatten(&text, settings, name, 0, 0);

    ngx_commerce_image_begin(image,
            (uint64_t) ngx_atoof(col[NGX_COMMERCE_TENANT_COL_ID].data,
                                 col[NGX_COMMERCE_TENANT_COL_ID].len));

    ngx_commerce_image_record(image,
                            (ngx_commerce_str_t) { text.len, text.data });

    ngx_commerce_image_name(image, NGX_COMMERCE_TENANT_ID,
        *(ngx_commerce_str_t *) &col[NGX_COMMERCE_TENANT_COL_ID], none);
    ngx_commerce_image_name(image, NGX_COMMERCE_TENANT_SLUG,
        *(ngx_commerce_str_t *) &col[NGX_COMMERCE_TENANT_COL_SLUG], none);

    ngx_commerce_tenant_hosts(image, &col[NGX_COMMERCE_TENANT_COL_HOSTS]);
    ngx_commerce_tenant_keys(image, &col[NGX_COMMERCE_TENANT_COL_KEYS], pool);
    ngx_commerce_tenant_origins(image, settings);

    ngx_commerce_image_end(image);

    ngx_destroy_pool(pool);

    return text.failed ? NGX_ERROR : NGX_OK;
}


static void
ngx_commerce_tenant_put(ngx_commerce_tenant_text_t *text, const void *data,
    size_t len)
{
    u_char    *p;
    size_t     room;
    uint32_t   size;

    if (text->room - text->len < sizeof(size) + len) {
        room = ngx_max(text->room * 2, text->len + sizeof(size) + len + 512);

        p = ngx_pnalloc(text->pool, room);
        if (p == NULL) {
            text->failed = 1;
            return;
        }

        if (text->len) {
            ngx_memcpy(p, text->data, text->len);
        }

        text->data = p;
        text->room = room;
    }

    size = (uint32_t) len;

    p = ngx_cpymem(text->data + text->len, &size, sizeof(size));

    if (len) {
        ngx_memcpy(p, data, len);
    }

    text->len += sizeof(size) + len;
}


/* {"flags":{"a":true}} → "flags.a" "true"; null is as if it were not there */

static void
ngx_commerce_tenant_flatten(ngx_commerce_tenant_text_t *text,
    ngx_commerce_json_t *object, u_char *name, size_t len, ngx_uint_t depth)
{
    size_t                n;
    ngx_commerce_json_t  *member;

    if (object == NULL || object->type != NGX_COMMERCE_JSON_OBJECT) {
        return;
    }

    for (member = object->child; member; member = member->next) {

        n = len;

        if (member->type == NGX_COMMERCE_JSON_NULL
            || n + 1 + member->key.len > NGX_COMMERCE_TENANT_NAME_MAX)
        {
            continue;
        }

        if (n) {
            name[n++] = '.';
        }

        ngx_memcpy(name + n, member->key.data, member->key.len);
        n += member->key.len;

        if (member->type == NGX_COMMERCE_JSON_OBJECT) {

            if (depth < NGX_COMMERCE_TENANT_DEPTH) {
                ngx_commerce_tenant_flatten(text, member, name, n, depth + 1);
            }

            continue;
        }

        ngx_commerce_tenant_put(text, name, n);

        if (member->type == NGX_COMMERCE_JSON_STRING) {
            ngx_commerce_tenant_put(text, member->text.data, member->text.len);

        } else {
            ngx_commerce_tenant_put(text, member->raw.data, member->raw.len);
        }
    }
}


static void
ngx_commerce_tenant_hosts(ngx_commerce_directory_image_t *image,
    ngx_str_t *hosts)
{
    u_char              *p, *last;
    ngx_commerce_str_t   name, none;

    none.data = NULL;
    none.len = 0;

    p = hosts->data;
    last = p + hosts->len;

    while (p < last) {
        name.data = p;
        while (p < last && *p != ' ') { p++; }
        name.len = p - name.data;
        p++;

        if (name.len) {
            ngx_commerce_image_name(image, NGX_COMMERCE_TENANT_HOST, name,
                                    none);
        }
    }
}


/* "sha256-hex uuid kind expires role role…\n"; revoked ones are not among them */

static void
ngx_commerce_tenant_keys(ngx_commerce_directory_image_t *image,
    ngx_str_t *keys, ngx_pool_t *pool)
{
    u_char                      *p, *end, *last, *space, digest[32];
    ngx_uint_t                   i;
    ngx_commerce_tenant_text_t   text;

    p = keys->data;
    last = p + keys->len;

    for ( /* void */ ; p < last; p = end + 1) {

        end = ngx_strlchr(p, last, '\n');
        if (end == NULL) {
            end = last;
        }

        if (end - p < 66 || p[64] != ' '
            || ngx_commerce_unhex(digest, p, sizeof(digest)) != 0)
        {
            continue;
        }

        ngx_memzero(&text, sizeof(ngx_commerce_tenant_text_t));
        text.pool = pool;

        p += 65;

        for (i = 0; i < 3; i++) {
            space = ngx_strlchr(p, end, ' ');
            if (space == NULL) {
                space = end;
            }

            ngx_commerce_tenant_put(&text, p, space - p);
            p = space < end ? space + 1 : end;
        }

        ngx_commerce_tenant_put(&text, p, end - p);

        if (!text.failed) {
            ngx_commerce_image_name(image, NGX_COMMERCE_TENANT_KEY,
                               (ngx_commerce_str_t) { 32, digest },
                               (ngx_commerce_str_t) { text.len, text.data });
        }
    }
}


static void
ngx_commerce_tenant_origins(ngx_commerce_directory_image_t *image,
    ngx_commerce_json_t *settings)
{
    ngx_commerce_str_t    none;
    ngx_commerce_json_t  *list, *origin;

    none.data = NULL;
    none.len = 0;

    list = ngx_commerce_json_get(settings, "cors_origins");

    if (list == NULL || list->type != NGX_COMMERCE_JSON_ARRAY) {
        return;
    }

    for (origin = list->child; origin; origin = origin->next) {
        if (origin->type == NGX_COMMERCE_JSON_STRING) {
            ngx_commerce_image_name(image, NGX_COMMERCE_TENANT_ORIGIN,
                                    origin->text, none);
        }
    }
}
