/*
 * Keeps the directory of tenants up to date: all of it when the listener is new, page by page; later only the tenants
 * that a notice names.  Work is cut into pieces of 500 tenants with a turn of the event loop between them.
 */

#include "ngx_commerce_tenant_internal.h"


#define NGX_COMMERCE_SNAPSHOT_TIMEOUT    10000
#define NGX_COMMERCE_SNAPSHOT_RETRY_MIN  500
#define NGX_COMMERCE_SNAPSHOT_RETRY_MAX  10000
#define NGX_COMMERCE_SNAPSHOT_PAGE       500
#define NGX_COMMERCE_SNAPSHOT_NAMED      64     /* beyond, everything is asked for */


/*
 * idle → asking → building → idle.  A notice that comes in between is remembered; a failure leads to a retry of
 * everything, which needs no memory of what was missed.
 */

typedef struct {
    ngx_commerce_pg_stmt_t          *stmt;
    ngx_commerce_pg_op_t            *op;        /* under way */
    ngx_event_t                      retry;
    ngx_event_t                      step;
    ngx_log_t                       *log;
    ngx_msec_t                       delay;

    ngx_commerce_directory_image_t   image;     /* in the making */
    ngx_commerce_directory_image_t   rows;      /* named tenants' new blocks */
    uint64_t                         ids[NGX_COMMERCE_SNAPSHOT_NAMED];  /* that are asked for, ascending */
    ngx_uint_t                       ids_count;         /* 0: everything */
    ngx_uint_t                       at;                /* of ids, that the copy has come to */
    size_t                           position;          /* in the shown image */
    uint64_t                         generation;        /* of it */
    int64_t                          as_of;
    u_char                           after[NGX_INT64_LEN];
    size_t                           after_len;

    uint64_t                         pending[NGX_COMMERCE_SNAPSHOT_NAMED];
    ngx_uint_t                       pending_count;
    unsigned                         pending_all:1;
    unsigned                         building:1;
} ngx_commerce_snapshot_t;


static void ngx_commerce_snapshot_notify(ngx_str_t *channel,
    ngx_str_t *payload);
static void ngx_commerce_snapshot_remember(ngx_str_t *payload);
static void ngx_commerce_snapshot_retry(ngx_event_t *ev);
static ngx_int_t ngx_commerce_snapshot_compare(const void *one, const void *two);
static void ngx_commerce_snapshot_next(void);
static void ngx_commerce_snapshot_begin(void);
static void ngx_commerce_snapshot_ask(void);
static void ngx_commerce_snapshot_done(ngx_commerce_pg_op_t *op,
    ngx_commerce_pg_status_t status, const PGresult *result);
static ngx_int_t ngx_commerce_snapshot_rows(const PGresult *result);
static void ngx_commerce_snapshot_step(ngx_event_t *ev);
static ngx_commerce_directory_rc_t ngx_commerce_snapshot_merge(void);
static void ngx_commerce_snapshot_end(void);
static void ngx_commerce_snapshot_later(const char *why);


static ngx_commerce_snapshot_t  ngx_commerce_snapshot;


void
ngx_commerce_tenant_snapshot_init(ngx_commerce_pg_stmt_t *stmt, ngx_log_t *log)
{
    ngx_commerce_snapshot_t  *s;

    s = &ngx_commerce_snapshot;

    ngx_memzero(s, sizeof(ngx_commerce_snapshot_t));

    s->stmt = stmt;
    s->log = log;
    s->delay = NGX_COMMERCE_SNAPSHOT_RETRY_MIN;

    s->retry.handler = ngx_commerce_snapshot_retry;
    s->retry.data = s;
    s->retry.log = log;
    s->retry.cancelable = 1;

    s->step.handler = ngx_commerce_snapshot_step;
    s->step.data = s;
    s->step.log = log;
    s->step.cancelable = 1;

    ngx_commerce_pg_on_notify("commerce_tenants",
                              ngx_commerce_snapshot_notify);
}


/* The payload is a tenant's id, or empty: anything may have changed. */

static void
ngx_commerce_snapshot_notify(ngx_str_t *channel, ngx_str_t *payload)
{
    ngx_str_t  all;

    ngx_str_null(&all);

    ngx_commerce_snapshot_remember(channel->len ? payload : &all);

    if (ngx_commerce_snapshot.op == NULL && !ngx_commerce_snapshot.building
        && !ngx_commerce_snapshot.retry.timer_set)
    {
        ngx_commerce_snapshot_next();
    }
}


static void
ngx_commerce_snapshot_remember(ngx_str_t *payload)
{
    off_t                     id;
    ngx_uint_t                i;
    ngx_commerce_snapshot_t  *s;

    s = &ngx_commerce_snapshot;
    id = payload->len ? ngx_atoof(payload->data, payload->len) : NGX_ERROR;

    if (id == NGX_ERROR || !ngx_commerce_tenant_known()) {
        s->pending_all = 1;
        return;
    }

    for (i = 0; i < s->pending_count; i++) {
        if (s->pending[i] == (uint64_t) id) {
            return;
        }
    }

    if (s->pending_count == NGX_COMMERCE_SNAPSHOT_NAMED) {
        s->pending_all = 1;
        return;
    }

    s->pending[s->pending_count++] = id;
}


static void
ngx_commerce_snapshot_retry(ngx_event_t *ev)
{
    ngx_commerce_snapshot_next();
}


static ngx_int_t
ngx_commerce_snapshot_compare(const void *one, const void *two)
{
    uint64_t  a, b;

    a = *(uint64_t *) one;
    b = *(uint64_t *) two;

    return (a > b) - (a < b);
}


static void
ngx_commerce_snapshot_next(void)
{
    ngx_commerce_snapshot_t  *s;

    s = &ngx_commerce_snapshot;

    if (ngx_exiting || ngx_terminate || ngx_quit) {
        return;
    }

    if (s->retry.timer_set) {
        ngx_del_timer(&s->retry);
    }

    if (!s->pending_all && s->pending_count == 0) {
        return;
    }

    s->ids_count = 0;

    if (!s->pending_all) {
        s->ids_count = s->pending_count;
        ngx_memcpy(s->ids, s->pending, s->ids_count * sizeof(uint64_t));
        ngx_sort(s->ids, s->ids_count, sizeof(uint64_t),
                 ngx_commerce_snapshot_compare);
    }

    s->pending_all = 0;
    s->pending_count = 0;

    ngx_commerce_snapshot_begin();
    ngx_commerce_snapshot_ask();
}


static void
ngx_commerce_snapshot_begin(void)
{
    ngx_commerce_snapshot_t         *s;
    ngx_commerce_directory_stats_t   stats;

    s = &ngx_commerce_snapshot;

    ngx_commerce_image_free(&s->image);
    ngx_commerce_image_free(&s->rows);
    ngx_commerce_tenant_stats(&stats);

    s->generation = s->ids_count ? stats.generation : 0;
    s->as_of = 0;
    s->at = 0;
    s->position = 0;
    s->building = 0;
    s->after[0] = '0';
    s->after_len = 1;
}


/* From the primary: a replica may not know yet what the notice was about. */

static void
ngx_commerce_snapshot_ask(void)
{
    u_char                         *p, list[NGX_COMMERCE_SNAPSHOT_NAMED
                                            * (NGX_INT64_LEN + 1) + 2];
    ngx_str_t                       values[2];
    ngx_uint_t                      i;
    ngx_commerce_pg_op_t           *op;
    ngx_commerce_snapshot_t        *s;
    ngx_commerce_pg_lane_status_t   lane;

    s = &ngx_commerce_snapshot;

    op = ngx_commerce_pg_alloc();
    if (op == NULL) {
        ngx_commerce_snapshot_later("out of memory");
        return;
    }

    values[0].data = s->after;
    values[0].len = s->after_len;
    ngx_str_null(&values[1]);

    if (s->ids_count) {
        p = list;
        *p++ = '{';

        for (i = 0; i < s->ids_count; i++) {
            p = ngx_sprintf(p, "%s%uL", i ? "," : "", s->ids[i]);
        }

        *p++ = '}';
        values[1].data = list;
        values[1].len = p - list;
    }

    ngx_commerce_pg_lane_status(NGX_COMMERCE_PG_WRITE, &lane);

    op->lane = lane.configured ? NGX_COMMERCE_PG_WRITE : NGX_COMMERCE_PG_READ;
    op->timeout = NGX_COMMERCE_SNAPSHOT_TIMEOUT;
    op->query.stmt = s->stmt;
    op->query.values = values;
    op->own_sync = 1;
    op->handler = ngx_commerce_snapshot_done;
    op->data = NULL;

    if (ngx_commerce_pg_submit(op) != NGX_OK) {
        ngx_commerce_snapshot_later("PostgreSQL is not available");
        return;
    }

    s->op = op;
}


static void
ngx_commerce_snapshot_done(ngx_commerce_pg_op_t *op,
    ngx_commerce_pg_status_t status, const PGresult *result)
{
    int                       rows;
    ngx_commerce_snapshot_t  *s;

    s = &ngx_commerce_snapshot;
    s->op = NULL;

    if (status == NGX_COMMERCE_PG_FAILED) {
        ngx_commerce_snapshot_later(PQresultErrorMessage(result));
        return;
    }

    if (status != NGX_COMMERCE_PG_OK) {
        ngx_commerce_snapshot_later("PostgreSQL did not answer");
        return;
    }

    if (ngx_commerce_snapshot_rows(result) != NGX_OK) {
        ngx_commerce_snapshot_later("out of memory");
        return;
    }

    rows = PQntuples(result);

    if (s->ids_count == 0 && rows == NGX_COMMERCE_SNAPSHOT_PAGE) {
        s->after_len = PQgetlength(result, rows - 1,
                                   NGX_COMMERCE_TENANT_COL_ID);

        if (s->after_len > sizeof(s->after)) {
            ngx_commerce_snapshot_later("an id is no bigint");
            return;
        }

        ngx_memcpy(s->after, PQgetvalue(result, rows - 1,
                                        NGX_COMMERCE_TENANT_COL_ID),
                   s->after_len);

        ngx_commerce_snapshot_ask();
        return;
    }

    s->building = 1;
    ngx_commerce_snapshot_step(&s->step);
}


static ngx_int_t
ngx_commerce_snapshot_rows(const PGresult *result)
{
    int                              row;
    ngx_commerce_snapshot_t         *s;
    ngx_commerce_directory_image_t  *image;

    s = &ngx_commerce_snapshot;
    image = s->ids_count ? &s->rows : &s->image;

    for (row = 0; row < PQntuples(result); row++) {

        if (s->as_of == 0) {
            s->as_of = strtoll(PQgetvalue(result, row,
                                          NGX_COMMERCE_TENANT_COL_AS_OF),
                               NULL, 10);
        }

        if (ngx_commerce_tenant_row(image, result, row, s->log) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


static void
ngx_commerce_snapshot_step(ngx_event_t *ev)
{
    ngx_commerce_snapshot_t      *s;
    ngx_commerce_directory_rc_t   rc;

    s = &ngx_commerce_snapshot;

    rc = s->ids_count ? ngx_commerce_snapshot_merge()
                      : NGX_COMMERCE_DIRECTORY_OK;

    if (rc == NGX_COMMERCE_DIRECTORY_OK) {
        rc = ngx_commerce_image_index(&s->image, NGX_COMMERCE_SNAPSHOT_PAGE);
    }

    if (rc == NGX_COMMERCE_DIRECTORY_AGAIN) {

        /* another turn of the loop: others are served in between */

        if (!ngx_exiting && !ngx_terminate && !ngx_quit) {
            ngx_add_timer(&s->step, 1);
        }

        return;
    }

    s->building = 0;

    if (rc == NGX_COMMERCE_DIRECTORY_OK) {
        ngx_commerce_snapshot_end();
        return;
    }

    if (rc == NGX_COMMERCE_DIRECTORY_MISSING) {
        /* another publisher was quicker */
        s->pending_all = 1;
        ngx_commerce_snapshot_next();
        return;
    }

    ngx_commerce_snapshot_later("out of memory");
}


/* The shown image with the named tenants exchanged, added or left out. */

static ngx_commerce_directory_rc_t
ngx_commerce_snapshot_merge(void)
{
    uint64_t                      id;
    ngx_commerce_snapshot_t      *s;
    ngx_commerce_directory_rc_t   rc;

    s = &ngx_commerce_snapshot;

    while (s->at <= s->ids_count) {

        id = s->at < s->ids_count ? s->ids[s->at] : UINT64_MAX;

        rc = ngx_commerce_image_copy(&s->image,
                                     ngx_commerce_tenant_directory(),
                                     s->generation, &s->position, id,
                                     NGX_COMMERCE_SNAPSHOT_PAGE);

        if (rc != NGX_COMMERCE_DIRECTORY_OK) {
            return rc;
        }

        if (s->at < s->ids_count) {
            ngx_commerce_image_take(&s->image, &s->rows, id);
        }

        s->at++;
    }

    return NGX_COMMERCE_DIRECTORY_OK;
}


static void
ngx_commerce_snapshot_end(void)
{
    ngx_commerce_snapshot_t  *s;

    s = &ngx_commerce_snapshot;

    switch (ngx_commerce_tenant_publish(&s->image, s->as_of, s->generation)) {

    case NGX_COMMERCE_DIRECTORY_OK:
        s->delay = NGX_COMMERCE_SNAPSHOT_RETRY_MIN;
        break;

    case NGX_COMMERCE_DIRECTORY_AGAIN:
        s->pending_all = 1;
        break;

    default:
        ngx_log_error(NGX_LOG_ERR, s->log, 0,
                      "the list of %uD tenants, %uz bytes, does not fit: "
                      "raise commerce_tenant_zone",
                      s->image.blocks, s->image.len);

        ngx_commerce_snapshot_later("it was not published");
        return;
    }

    ngx_commerce_image_free(&s->image);
    ngx_commerce_image_free(&s->rows);

    ngx_commerce_snapshot_next();
}


static void
ngx_commerce_snapshot_later(const char *why)
{
    ngx_commerce_snapshot_t  *s;

    s = &ngx_commerce_snapshot;

    ngx_commerce_image_free(&s->image);
    ngx_commerce_image_free(&s->rows);

    s->pending_all = 1;

    if (ngx_exiting || ngx_terminate || ngx_quit) {
        return;
    }

    ngx_log_error(NGX_LOG_WARN, s->log, 0,
                  "the list of tenants could not be read, again in %M ms: %s",
                  s->delay, why);

    ngx_add_timer(&s->retry, s->delay);

    s->delay = ngx_min(s->delay * 2, NGX_COMMERCE_SNAPSHOT_RETRY_MAX);
}
