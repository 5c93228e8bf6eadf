/* See database.h. */

#include "database.h"

#include <endian.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <libpq-fe.h>


#define TRAIN_FIELDS  6
#define TRAIN_HEADER  19                /* of binary COPY: signature, flags, length of an extension */


typedef struct {
    const char   *data;
    int32_t       len;                  /* -1: null */
} train_value_t;

typedef void (*train_row_pt)(void *ctx, const train_value_t *value);


static PGconn *train_connect(const char *url);
static void train_tenant(PGconn *db, uint64_t tenant);
static void train_snapshot_time(PGconn *db);
static void train_run(PGconn *db, const char *sql);
static void train_copy(PGconn *db, const char *sql, unsigned fields,
    train_row_pt row, void *ctx);
static bool train_tuple(const char **p, const char *end, unsigned fields,
    train_value_t *value);
static void train_database_event(void *ctx, const train_value_t *value);
static void train_database_text(void *ctx, const train_value_t *value);
static int64_t train_int8(const train_value_t *value);
static const char *train_keep(const train_value_t *value);


static char  train_snapshot[64];


/* Only what is for sale: the table names nothing else. A guest is a person too, until the cart is another. */

static const char  train_events_sql[] =
    "COPY (SELECT coalesce('u:' || i.user_id, 'g:' || i.guest), i.product_id,"
    "             i.action, extract(epoch FROM i.created_at)::bigint"
    "        FROM shop.interaction i"
    "        JOIN shop.product p ON p.tenant_id = i.tenant_id"
    "                           AND p.id = i.product_id"
    "       WHERE p.status = 'active' AND p.deleted_at IS NULL"
    "         AND coalesce(i.user_id::text, i.guest) IS NOT NULL"
    "       UNION ALL"
    "      SELECT coalesce('u:' || o.user_id, 'g:' || o.guest), l.product_id,"
    "             'purchase', extract(epoch FROM o.created_at)::bigint"
    "        FROM shop.orders o"
    "        JOIN shop.order_item l ON l.tenant_id = o.tenant_id"
    "                              AND l.order_id = o.id"
    "        JOIN shop.product p ON p.tenant_id = l.tenant_id"
    "                           AND p.id = l.product_id"
    "       WHERE p.status = 'active' AND p.deleted_at IS NULL"
    "         AND lower(o.status::text) <> 'cancelled'"
    "         AND coalesce(o.user_id::text, o.guest) IS NOT NULL"
    "       ORDER BY 4, 1, 2, 3"
    ") TO STDOUT (FORMAT binary)";

static const char  train_texts_sql[] =
    "COPY (SELECT p.id, p.name || ' ' || p.description || ' '"
    "                   || array_to_string(p.tags, ' '),"
    "             p.category_id, c.name, b.name"
    "        FROM shop.product p"
    "        LEFT JOIN shop.category c ON c.tenant_id = p.tenant_id"
    "                                 AND c.id = p.category_id"
    "        LEFT JOIN shop.brand b ON b.tenant_id = p.tenant_id"
    "                              AND b.id = p.brand_id"
    "       WHERE p.status = 'active' AND p.deleted_at IS NULL"
    "       ORDER BY p.id"
    ") TO STDOUT (FORMAT binary)";


void
train_database_read(const char *url, uint64_t tenant, train_reader_t *reader)
{
    PGconn  *db;

    db = train_connect(url);

    train_run(db, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
    train_snapshot_time(db);
    train_tenant(db, tenant);
    train_copy(db, train_events_sql, 4, train_database_event, reader);
    train_copy(db, train_texts_sql, 5, train_database_text, reader);
    train_run(db, "COMMIT");

    PQfinish(db);
}


void
train_database_texts(const char *url, uint64_t tenant, train_reader_t *reader)
{
    PGconn  *db;

    db = train_connect(url);

    train_run(db, "BEGIN READ ONLY");
    train_tenant(db, tenant);
    train_copy(db, train_texts_sql, 5, train_database_text, reader);
    train_run(db, "COMMIT");

    PQfinish(db);
}


void
train_database_report(const char *url, uint64_t tenant, uint64_t generation,
    int64_t watermark, const char *json, const char *text)
{
    char         number[3][32];
    PGconn      *db;
    PGresult    *res;
    const char  *values[6];

    static const char  update[] =
        "WITH queued AS ("
        "    UPDATE shop.training_run SET status = 'done', generation = $2,"
        "           watermark = to_timestamp(nullif($3::bigint, 0) / 1000.0),"
        "           report = $5::jsonb, report_text = $6, finished_at = now()"
        "     WHERE tenant_id = $1 AND status = 'queued'"
        "       AND created_at <= $4::timestamptz"
        "    RETURNING id)"
        "INSERT INTO shop.training_run (tenant_id, status, generation,"
        "       watermark, report, report_text, created_at, finished_at) "
        "SELECT $1, 'done', $2, to_timestamp(nullif($3::bigint, 0) / 1000.0),"
        "       $5::jsonb, $6, $4::timestamptz, now()"
        " WHERE NOT EXISTS (SELECT FROM queued)";

    db = train_connect(url);
    train_run(db, "BEGIN");
    train_tenant(db, tenant);

    snprintf(number[0], 32, "%" PRIu64, tenant);
    snprintf(number[1], 32, "%" PRIu64, generation);
    snprintf(number[2], 32, "%" PRId64, watermark);

    values[0] = number[0];
    values[1] = number[1];
    values[2] = number[2];
    values[3] = train_snapshot;
    values[4] = json;
    values[5] = text;

    res = PQexecParams(db, update, 6, NULL, values, NULL, NULL, 0);

    if (PQresultStatus(res) != PGRES_COMMAND_OK) {
        train_fail(TRAIN_FAILED, "the table is written, its report could not "
                   "be stored: %s", PQresultErrorMessage(res));
    }

    PQclear(res);
    train_run(db, "COMMIT");
    PQfinish(db);
}


static PGconn *
train_connect(const char *url)
{
    PGconn  *db;

    db = PQconnectdb(url);

    if (db == NULL || PQstatus(db) != CONNECTION_OK) {
        train_fail(TRAIN_FAILED, "no connection to the database: %s"
                   "It is given as --db postgresql://commerce_train@host/name, "
                   "its password in PGPASSFILE", PQerrorMessage(db));
    }

    if (PQsetClientEncoding(db, "UTF8") != 0) {
        train_fail(TRAIN_FAILED, "the database refuses UTF-8: %s",
                   PQerrorMessage(db));
    }

    return db;
}


/* The database's clock when the data was read: what was asked for until then is answered. */

static void
train_snapshot_time(PGconn *db)
{
    PGresult  *res;

    res = PQexec(db, "SELECT now()");

    if (PQresultStatus(res) != PGRES_TUPLES_OK || PQntuples(res) != 1) {
        train_fail(TRAIN_FAILED, "the database does not tell the time: %s",
                   PQresultErrorMessage(res));
    }

    snprintf(train_snapshot, sizeof(train_snapshot), "%s",
             PQgetvalue(res, 0, 0));
    PQclear(res);
}


/* Row-level security shows this tenant until the transaction ends. */

static void
train_tenant(PGconn *db, uint64_t tenant)
{
    char  sql[80];

    snprintf(sql, sizeof(sql), "SET LOCAL commerce.tenant_id = '%" PRIu64 "'",
             tenant);
    train_run(db, sql);
}


static void
train_run(PGconn *db, const char *sql)
{
    PGresult  *res;

    res = PQexec(db, sql);

    if (PQresultStatus(res) != PGRES_COMMAND_OK) {
        train_fail(TRAIN_FAILED, "the database refuses \"%s\": %s", sql,
                   PQresultErrorMessage(res));
    }

    PQclear(res);
}


static void
train_copy(PGconn *db, const char *sql, unsigned fields, train_row_pt row,
    void *ctx)
{
    int             len;
    bool            first;
    char           *buf;
    PGresult       *res;
    const char     *p, *end;
    train_value_t   value[TRAIN_FIELDS];

    res = PQexec(db, sql);

    if (PQresultStatus(res) != PGRES_COPY_OUT) {
        train_fail(TRAIN_FAILED, "the database does not show its data: %s"
                   "Is the role commerce_train, and are the migrations run?",
                   PQresultErrorMessage(res));
    }

    PQclear(res);
    first = true;

    while ((len = PQgetCopyData(db, &buf, 0)) > 0) {
        p = buf;
        end = buf + len;

        if (first) {
            if (len < TRAIN_HEADER || memcmp(buf, "PGCOPY\n\377\r\n", 11) != 0)
            {
                train_fail(TRAIN_FAILED, "the database sends no binary COPY");
            }

            p += TRAIN_HEADER;
            first = false;
        }

        while (p < end && train_tuple(&p, end, fields, value)) {
            row(ctx, value);
        }

        PQfreemem(buf);
    }

    while ((res = PQgetResult(db)) != NULL) {

        if (PQresultStatus(res) != PGRES_COMMAND_OK) {
            train_fail(TRAIN_FAILED, "the database broke off: %s",
                       PQresultErrorMessage(res));
        }

        PQclear(res);
    }
}


/* false: the trailer */

static bool
train_tuple(const char **p, const char *end, unsigned fields,
    train_value_t *value)
{
    int16_t   count;
    int32_t   len;
    unsigned  i;

    if (end - *p < 2) {
        goto broken;
    }

    memcpy(&count, *p, 2);
    count = (int16_t) be16toh(count);
    *p += 2;

    if (count == -1) {
        return false;
    }

    if (count != (int16_t) fields) {
        goto broken;
    }

    for (i = 0; i < fields; i++) {

        if (end - *p < 4) {
            goto broken;
        }

        memcpy(&len, *p, 4);
        len = (int32_t) be32toh(len);
        *p += 4;

        if (len < -1 || len > end - *p) {
            goto broken;
        }

        value[i].data = *p;
        value[i].len = len;
        *p += (len > 0) ? len : 0;
    }

    return true;

broken:

    train_fail(TRAIN_FAILED, "the database sends a broken row");
}


static void
train_database_event(void *ctx, const train_value_t *value)
{
    uint32_t  event;

    event = ngx_commerce_event(value[2].data, value[2].len);

    if (event == NGX_COMMERCE_EVENTS) {
        event = NGX_COMMERCE_EVENT_OTHER;
    }

    train_reader_event(ctx, train_key(value[0].data, value[0].len),
                       train_int8(&value[1]), event, train_int8(&value[3]));
}


static void
train_database_text(void *ctx, const train_value_t *value)
{
    train_text_t  text;

    memset(&text, 0, sizeof(train_text_t));
    text.key = train_int8(&value[0]);
    text.text = train_keep(&value[1]);
    text.text_len = value[1].len;

    if (value[2].len != -1) {
        text.category_id = train_int8(&value[2]);
    }

    if (value[3].len != -1) {
        text.category = train_keep(&value[3]);
        text.category_len = value[3].len;
    }

    if (value[4].len != -1) {
        text.brand = train_keep(&value[4]);
        text.brand_len = value[4].len;
    }

    train_reader_text(ctx, &text);
}


static int64_t
train_int8(const train_value_t *value)
{
    uint64_t  n;

    if (value->len != 8) {
        train_fail(TRAIN_FAILED, "the database sends a number of %d bytes",
                   value->len);
    }

    memcpy(&n, value->data, 8);

    return (int64_t) be64toh(n);
}


/* A copy that stays until the end. */

static const char *
train_keep(const train_value_t *value)
{
    char  *copy;

    copy = train_alloc(value->len);
    memcpy(copy, value->data, value->len);

    return copy;
}
