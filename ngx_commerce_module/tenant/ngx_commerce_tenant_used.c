/*
 * When an API key was used last: each worker tells PostgreSQL at most once a minute for each key, many keys at a time.
 */

#include "ngx_commerce_tenant_internal.h"


#define NGX_COMMERCE_USED_KEYS      256         /* a power of two */
#define NGX_COMMERCE_USED_DELAY     1000        /* ms */
#define NGX_COMMERCE_USED_INTERVAL  60          /* s */
#define NGX_COMMERCE_USED_ID        36


/* Two keys at one place push each other out: then one is told of more often. */

typedef struct {
    u_char      id[NGX_COMMERCE_USED_ID];
    u_char      tenant[NGX_INT64_LEN];
    size_t      tenant_len;
    time_t      told;
    ngx_uint_t  due;
} ngx_commerce_used_t;


static void ngx_commerce_tenant_used_tell(ngx_event_t *ev);
static void ngx_commerce_tenant_used_told(ngx_commerce_pg_op_t *op,
    ngx_commerce_pg_status_t status, const PGresult *result);


static ngx_commerce_used_t      ngx_commerce_used[NGX_COMMERCE_USED_KEYS];
static ngx_event_t              ngx_commerce_used_timer;
static ngx_commerce_pg_stmt_t  *ngx_commerce_used_stmt;


void
ngx_commerce_tenant_used_init(ngx_commerce_pg_stmt_t *stmt, ngx_log_t *log)
{
    ngx_memzero(ngx_commerce_used, sizeof(ngx_commerce_used));
    ngx_memzero(&ngx_commerce_used_timer, sizeof(ngx_event_t));

    ngx_commerce_used_timer.handler = ngx_commerce_tenant_used_tell;
    ngx_commerce_used_timer.data = ngx_commerce_used;
    ngx_commerce_used_timer.log = log;
    ngx_commerce_used_timer.cancelable = 1;

    ngx_commerce_used_stmt = stmt;
}


void
ngx_commerce_tenant_used(ngx_commerce_tenant_t *tenant,
    ngx_commerce_api_key_t *key)
{
    ngx_commerce_used_t  *used;

    if (key->id.len != NGX_COMMERCE_USED_ID
        || tenant->id.len > sizeof(used->tenant))
    {
        return;
    }

    used = &ngx_commerce_used[ngx_crc32_short(key->id.data, key->id.len)
                              & (NGX_COMMERCE_USED_KEYS - 1)];

    if (ngx_memcmp(used->id, key->id.data, NGX_COMMERCE_USED_ID) == 0) {

        if (used->due || ngx_time() - used->told < NGX_COMMERCE_USED_INTERVAL)
        {
            return;
        }

    } else if (used->due) {
        return;
    }

    ngx_memcpy(used->id, key->id.data, NGX_COMMERCE_USED_ID);
    ngx_memcpy(used->tenant, tenant->id.data, tenant->id.len);
    used->tenant_len = tenant->id.len;
    used->due = 1;

    if (!ngx_commerce_used_timer.timer_set) {
        ngx_add_timer(&ngx_commerce_used_timer, NGX_COMMERCE_USED_DELAY);
    }
}


/* {"tenant:uuid", …} as PostgreSQL writes an array of text */

static void
ngx_commerce_tenant_used_tell(ngx_event_t *ev)
{
    u_char                *p, list[NGX_COMMERCE_USED_KEYS
                                   * (NGX_INT64_LEN + NGX_COMMERCE_USED_ID + 2)
                                   + 2];
    ngx_str_t              value, tenant;
    ngx_uint_t             i;
    ngx_commerce_used_t   *used;
    ngx_commerce_pg_op_t  *op;

    p = list;
    *p++ = '{';

    for (i = 0; i < NGX_COMMERCE_USED_KEYS; i++) {
        used = &ngx_commerce_used[i];

        if (!used->due) {
            continue;
        }

        if (p[-1] != '{') {
            *p++ = ',';
        }

        tenant.data = used->tenant;
        tenant.len = used->tenant_len;

        p = ngx_sprintf(p, "%V:%*s", &tenant, (size_t) NGX_COMMERCE_USED_ID,
                        used->id);

        used->due = 0;
        used->told = ngx_time();
    }

    *p++ = '}';
    value.data = list;
    value.len = p - list;

    op = ngx_commerce_pg_alloc();
    if (op == NULL) {
        return;
    }

    op->lane = NGX_COMMERCE_PG_WRITE;
    op->query.stmt = ngx_commerce_used_stmt;
    op->query.values = &value;
    op->own_sync = 1;
    op->handler = ngx_commerce_tenant_used_told;

    /* busy or away: the next use in a minute tells */
    (void) ngx_commerce_pg_submit(op);
}


static void
ngx_commerce_tenant_used_told(ngx_commerce_pg_op_t *op,
    ngx_commerce_pg_status_t status, const PGresult *result)
{
    if (status == NGX_COMMERCE_PG_FAILED) {
        ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                      "api.edge_keys_used() failed: %s",
                      PQresultErrorMessage(result));
    }
}
