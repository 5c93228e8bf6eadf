/*
 * Write-behind: documents that scripts returned, on their way to PostgreSQL.
 *
 * An entry waits in `queue`, becomes due when the interval is over, and is
 * under way in `flying` while PostgreSQL works on its batch.  A key has at
 * most one entry in queue and due together (found by `keys`), and at most one
 * under way.  One batch at a time; all of one tenant and function.
 */

#include "ngx_commerce_redis_internal.h"


#define NGX_COMMERCE_BACKUP_MAX_BYTES    (16 * 1024 * 1024)
#define NGX_COMMERCE_BACKUP_MAX_ENTRIES  32768
#define NGX_COMMERCE_BACKUP_MAX_ACTIONS  64

#define NGX_COMMERCE_BACKUP_BATCH        256
#define NGX_COMMERCE_BACKUP_BATCH_BYTES  (512 * 1024)

#define NGX_COMMERCE_BACKUP_RETRY_MAX    5000
#define NGX_COMMERCE_BACKUP_LEAVE        5000   /* a leaving worker tries */


typedef struct {
    ngx_str_node_t          node;           /* str: the key, in data */
    ngx_queue_t             queue;
    ngx_commerce_backup_t  *backup;
    ngx_str_t               tenant_id;
    ngx_str_t               document;
    ngx_str_t               actions;        /* JSON values and commas */
    size_t                  actions_size;
    ngx_uint_t              actions_count;
} ngx_commerce_backup_entry_t;


typedef struct {
    ngx_rbtree_t            keys;
    ngx_rbtree_node_t       sentinel;
    ngx_queue_t             queue;
    ngx_queue_t             due;
    ngx_queue_t             flying;
    ngx_event_t             timer;
    ngx_msec_t              interval;
    ngx_msec_t              delay;          /* of the next try */
    ngx_msec_t              leaving;        /* since */
    size_t                  bytes;
    ngx_uint_t              entries;
    ngx_uint_t              single;         /* so many batches of one entry */
    time_t                  complained;
    ngx_commerce_pg_op_t   *op;
    unsigned                failing:1;
    unsigned                exiting:1;
} ngx_commerce_backup_queue_t;


static ngx_commerce_backup_entry_t *ngx_commerce_backup_entry(
    ngx_commerce_backup_t *backup, ngx_str_t *tenant_id, ngx_str_t *key);
static ngx_int_t ngx_commerce_backup_document(
    ngx_commerce_backup_entry_t *entry, ngx_str_t *document);
static ngx_int_t ngx_commerce_backup_action(
    ngx_commerce_backup_entry_t *entry, ngx_str_t *action);
static ngx_int_t ngx_commerce_backup_plain(ngx_str_t *key);
static void ngx_commerce_backup_free(ngx_commerce_backup_entry_t *entry);
static void ngx_commerce_backup_arm(void);
static void ngx_commerce_backup_timer(ngx_event_t *ev);
static void ngx_commerce_backup_flush(void);
static size_t ngx_commerce_backup_batch(ngx_commerce_backup_entry_t *first);
static ngx_int_t ngx_commerce_backup_send(size_t size);
static void ngx_commerce_backup_saved(ngx_commerce_pg_op_t *op,
    ngx_commerce_pg_status_t status, const PGresult *result);
static ngx_uint_t ngx_commerce_backup_hopeless(const PGresult *result);
static void ngx_commerce_backup_return(ngx_uint_t again);
static void ngx_commerce_backup_complain(const char *what);


static ngx_commerce_backup_queue_t  ngx_commerce_backups;


void
ngx_commerce_backup_init(const ngx_commerce_redis_main_conf_t *conf)
{
    ngx_commerce_backup_queue_t  *b = &ngx_commerce_backups;

    ngx_rbtree_init(&b->keys, &b->sentinel, ngx_str_rbtree_insert_value);
    ngx_queue_init(&b->queue);
    ngx_queue_init(&b->due);
    ngx_queue_init(&b->flying);

    b->interval = conf->backup_interval;

    /* armed only with something to save: then it must hold a leaving worker */
    b->timer.handler = ngx_commerce_backup_timer;
    b->timer.data = b;
    b->timer.log = ngx_cycle->log;
}


ngx_int_t
ngx_commerce_backup_put(ngx_commerce_backup_t *backup, ngx_str_t *tenant_id,
    ngx_str_t *key, ngx_str_t *document)
{
    u_char                       *lf;
    ngx_str_t                     doc, action;
    ngx_commerce_backup_entry_t  *entry;

    if (document->len == 0) {
        return NGX_OK;
    }

    if (ngx_commerce_backups.interval == 0) {
        return NGX_DECLINED;
    }

    ngx_str_null(&action);
    doc = *document;

    lf = ngx_strlchr(doc.data, doc.data + doc.len, LF);
    if (lf) {
        action.data = doc.data;
        action.len = lf - doc.data;
        doc.len -= action.len + 1;
        doc.data = lf + 1;
    }

    entry = ngx_commerce_backup_entry(backup, tenant_id, key);

    if (entry == NULL
        || ngx_commerce_backup_document(entry, &doc) != NGX_OK
        || ngx_commerce_backup_action(entry, &action) != NGX_OK)
    {
        if (entry && entry->document.data == NULL) {
            ngx_rbtree_delete(&ngx_commerce_backups.keys, &entry->node.node);
            ngx_queue_remove(&entry->queue);
            ngx_commerce_backup_free(entry);
        }

        ngx_commerce_backup_complain("no room for more");
        ngx_commerce_redis_pool.stats.backup_dropped++;
        return NGX_DECLINED;
    }

    ngx_commerce_backup_arm();

    return NGX_OK;
}


/* The waiting entry of a key, made when there is none. */

static ngx_commerce_backup_entry_t *
ngx_commerce_backup_entry(ngx_commerce_backup_t *backup,
    ngx_str_t *tenant_id, ngx_str_t *key)
{
    u_char                       *p;
    uint32_t                      hash;
    ngx_str_node_t               *node;
    ngx_commerce_backup_entry_t  *entry;
    ngx_commerce_backup_queue_t  *b = &ngx_commerce_backups;

    hash = ngx_crc32_short(key->data, key->len);

    node = ngx_str_rbtree_lookup(&b->keys, key, hash);
    if (node) {
        return (ngx_commerce_backup_entry_t *) node;
    }

    if (b->entries >= NGX_COMMERCE_BACKUP_MAX_ENTRIES
        || ngx_commerce_backup_plain(key) != NGX_OK)
    {
        return NULL;
    }

    entry = ngx_calloc(sizeof(ngx_commerce_backup_entry_t) + key->len
                       + tenant_id->len, ngx_cycle->log);
    if (entry == NULL) {
        return NULL;
    }

    p = (u_char *) entry + sizeof(ngx_commerce_backup_entry_t);

    entry->node.node.key = hash;
    entry->node.str.data = p;
    entry->node.str.len = key->len;
    p = ngx_cpymem(p, key->data, key->len);

    entry->tenant_id.data = p;
    entry->tenant_id.len = tenant_id->len;
    ngx_memcpy(p, tenant_id->data, tenant_id->len);

    entry->backup = backup;

    ngx_rbtree_insert(&b->keys, &entry->node.node);
    ngx_queue_insert_tail(&b->queue, &entry->queue);
    b->entries++;

    return entry;
}


static ngx_int_t
ngx_commerce_backup_document(ngx_commerce_backup_entry_t *entry,
    ngx_str_t *document)
{
    u_char                       *data;
    ngx_commerce_backup_queue_t  *b = &ngx_commerce_backups;

    if (b->bytes - entry->document.len + document->len
        > NGX_COMMERCE_BACKUP_MAX_BYTES)
    {
        return NGX_DECLINED;
    }

    data = ngx_alloc(document->len, ngx_cycle->log);
    if (data == NULL) {
        return NGX_ERROR;
    }

    ngx_memcpy(data, document->data, document->len);

    if (entry->document.data) {
        ngx_free(entry->document.data);
    }

    b->bytes -= entry->document.len;
    b->bytes += document->len;

    entry->document.data = data;
    entry->document.len = document->len;

    return NGX_OK;
}


/* Adds {"at": milliseconds, "do": action}; the oldest 64 are kept. */

static ngx_int_t
ngx_commerce_backup_action(ngx_commerce_backup_entry_t *entry,
    ngx_str_t *action)
{
    size_t                        size;
    u_char                       *p;
    ngx_time_t                   *tp;
    ngx_commerce_backup_queue_t  *b = &ngx_commerce_backups;

    if (action->len == 0
        || entry->actions_count >= NGX_COMMERCE_BACKUP_MAX_ACTIONS)
    {
        return NGX_OK;
    }

    size = entry->actions.len + action->len
           + sizeof("{\"at\":,\"do\":},") + NGX_INT64_LEN;

    if (size > entry->actions_size) {
        size *= 2;

        p = ngx_alloc(size, ngx_cycle->log);
        if (p == NULL) {
            return NGX_ERROR;
        }

        if (entry->actions.data) {
            ngx_memcpy(p, entry->actions.data, entry->actions.len);
            ngx_free(entry->actions.data);
        }

        b->bytes += size - entry->actions_size;
        entry->actions.data = p;
        entry->actions_size = size;
    }

    tp = ngx_timeofday();

    p = ngx_sprintf(entry->actions.data + entry->actions.len,
                    "%s{\"at\":%T%03M,\"do\":%V}",
                    entry->actions.len ? "," : "", tp->sec, tp->msec, action);

    entry->actions.len = p - entry->actions.data;
    entry->actions_count++;

    return NGX_OK;
}


/* Keys go into JSON as they are. */

static ngx_int_t
ngx_commerce_backup_plain(ngx_str_t *key)
{
    size_t  i;

    for (i = 0; i < key->len; i++) {
        if (key->data[i] < 0x20 || key->data[i] > 0x7e
            || key->data[i] == '"' || key->data[i] == '\\')
        {
            return NGX_DECLINED;
        }
    }

    return NGX_OK;
}


static void
ngx_commerce_backup_free(ngx_commerce_backup_entry_t *entry)
{
    ngx_commerce_backups.bytes -= entry->document.len + entry->actions_size;
    ngx_commerce_backups.entries--;

    if (entry->document.data) {
        ngx_free(entry->document.data);
    }

    if (entry->actions.data) {
        ngx_free(entry->actions.data);
    }

    ngx_free(entry);
}


static void
ngx_commerce_backup_arm(void)
{
    ngx_msec_t                    delay;
    ngx_commerce_backup_queue_t  *b = &ngx_commerce_backups;

    if (b->timer.timer_set || b->op) {
        return;
    }

    delay = b->failing ? b->delay : b->interval;

    if (ngx_exiting && !b->failing) {
        delay = 1;
    }

    ngx_add_timer(&b->timer, delay);
}


/*
 * What waits goes out now: QUIT came, or Redis is lost and PostgreSQL is
 * about to serve these carts.
 */

void
ngx_commerce_backup_hurry(void)
{
    ngx_commerce_backup_queue_t  *b = &ngx_commerce_backups;

    if (b->timer.timer_set && !b->op && !b->failing) {
        ngx_del_timer(&b->timer);
        ngx_commerce_backup_timer(&b->timer);
    }
}


static void
ngx_commerce_backup_timer(ngx_event_t *ev)
{
    ngx_commerce_backup_queue_t  *b = ev->data;

    if (b->op) {
        /* only to keep a leaving worker until PostgreSQL has answered */
        ngx_add_timer(&b->timer, b->interval);
        return;
    }

    if (!ngx_queue_empty(&b->queue)) {
        ngx_queue_add(&b->due, &b->queue);
        ngx_queue_init(&b->queue);
    }

    ngx_commerce_backup_flush();
}


/* Sends the next batch of what is due. */

static void
ngx_commerce_backup_flush(void)
{
    size_t                        size;
    ngx_queue_t                  *q;
    ngx_commerce_backup_queue_t  *b = &ngx_commerce_backups;

    if (ngx_queue_empty(&b->due)) {
        if (!ngx_queue_empty(&b->queue)) {
            ngx_commerce_backup_arm();
        }
        return;
    }

    q = ngx_queue_head(&b->due);
    size = ngx_commerce_backup_batch(ngx_queue_data(q,
                                           ngx_commerce_backup_entry_t, queue));

    if (ngx_commerce_backup_send(size) == NGX_OK) {
        ngx_add_timer(&b->timer, b->interval);
        return;
    }

    ngx_commerce_backup_return(0);
}


/* Moves a batch from due to flying; returns an upper bound of its JSON. */

static size_t
ngx_commerce_backup_batch(ngx_commerce_backup_entry_t *first)
{
    size_t                        size;
    ngx_uint_t                    n, max, seen;
    ngx_queue_t                  *q, *next;
    ngx_commerce_backup_entry_t  *entry;
    ngx_commerce_backup_queue_t  *b = &ngx_commerce_backups;

    max = NGX_COMMERCE_BACKUP_BATCH;

    if (b->single) {
        b->single--;
        max = 1;
    }

    n = 0;
    seen = 0;
    size = sizeof("[]");

    for (q = ngx_queue_head(&b->due);
         q != ngx_queue_sentinel(&b->due) && n < max
         && size < NGX_COMMERCE_BACKUP_BATCH_BYTES
         && seen++ < 4 * NGX_COMMERCE_BACKUP_BATCH;
         q = next)
    {
        next = ngx_queue_next(q);
        entry = ngx_queue_data(q, ngx_commerce_backup_entry_t, queue);

        if (entry->backup != first->backup
            || entry->tenant_id.len != first->tenant_id.len
            || ngx_memcmp(entry->tenant_id.data, first->tenant_id.data,
                          first->tenant_id.len)
               != 0)
        {
            continue;
        }

        ngx_queue_remove(q);
        ngx_queue_insert_tail(&b->flying, q);
        ngx_rbtree_delete(&b->keys, &entry->node.node);
        n++;

        size += sizeof("{\"key\":\"\",\"actions\":[],\"document\":},")
                + entry->node.str.len + entry->actions.len
                + entry->document.len;
    }

    return size;
}


static ngx_int_t
ngx_commerce_backup_send(size_t size)
{
    u_char                       *json, *p;
    ngx_int_t                     rc;
    ngx_str_t                     begin[9], save[2];
    ngx_queue_t                  *q;
    ngx_commerce_pg_op_t         *op;
    ngx_commerce_backup_t        *backup;
    ngx_commerce_backup_entry_t  *entry;
    ngx_commerce_backup_queue_t  *b = &ngx_commerce_backups;

    json = ngx_alloc(size, ngx_cycle->log);
    if (json == NULL) {
        return NGX_ERROR;
    }

    op = ngx_commerce_pg_alloc();
    if (op == NULL) {
        ngx_free(json);
        return NGX_ERROR;
    }

    entry = NULL;
    p = json;
    *p++ = '[';

    for (q = ngx_queue_head(&b->flying);
         q != ngx_queue_sentinel(&b->flying);
         q = ngx_queue_next(q))
    {
        entry = ngx_queue_data(q, ngx_commerce_backup_entry_t, queue);

        p = ngx_sprintf(p, "{\"key\":\"%V\",\"actions\":[%V],"
                        "\"document\":%V},", &entry->node.str,
                        &entry->actions, &entry->document);
    }

    p[-1] = ']';

    backup = entry->backup;

    ngx_memzero(begin, sizeof(begin));
    begin[0] = entry->tenant_id;
    ngx_str_set(&begin[2], "service");
    begin[5] = backup->function;

    save[0] = entry->tenant_id;
    save[1].data = json;
    save[1].len = p - json;

    op->lane = NGX_COMMERCE_PG_WRITE;
    op->timeout = 0;
    op->before.stmt = backup->begin;
    op->before.values = begin;
    op->query.stmt = backup->save;
    op->query.values = save;
    op->own_sync = 1;
    op->handler = ngx_commerce_backup_saved;
    op->data = NULL;

    b->op = op;
    rc = ngx_commerce_pg_submit(op);

    if (rc != NGX_OK) {
        b->op = NULL;
    }

    ngx_free(json);

    return rc;
}


static void
ngx_commerce_backup_saved(ngx_commerce_pg_op_t *op,
    ngx_commerce_pg_status_t status, const PGresult *result)
{
    ngx_queue_t                  *q;
    ngx_commerce_backup_entry_t  *entry;
    ngx_commerce_backup_queue_t  *b = &ngx_commerce_backups;

    b->op = NULL;

    if (b->timer.timer_set) {
        ngx_del_timer(&b->timer);
    }

    q = ngx_queue_head(&b->flying);
    entry = ngx_queue_data(q, ngx_commerce_backup_entry_t, queue);

    if (status == NGX_COMMERCE_PG_FAILED
        && ngx_commerce_backup_hopeless(result))
    {
        ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                      "write-behind: %V refused \"%V\"%s: %s",
                      &entry->backup->function, &entry->node.str,
                      q == ngx_queue_last(&b->flying) ? "" : " and others",
                      PQresultErrorMessage(result));

        if (q != ngx_queue_last(&b->flying)) {
            /* one by one, so that a bad one does not keep the others */
            b->single = NGX_COMMERCE_BACKUP_BATCH;
            ngx_commerce_backup_return(1);
            return;
        }

        ngx_commerce_redis_pool.stats.backup_dropped++;

    } else if (status != NGX_COMMERCE_PG_OK) {
        ngx_commerce_backup_return(0);
        return;
    }

    if (b->failing) {
        b->failing = 0;
        ngx_log_error(NGX_LOG_NOTICE, ngx_cycle->log, 0,
                      "write-behind: PostgreSQL takes carts again, %ui wait",
                      b->entries);
    }

    while (!ngx_queue_empty(&b->flying)) {
        q = ngx_queue_head(&b->flying);
        ngx_queue_remove(q);

        entry = ngx_queue_data(q, ngx_commerce_backup_entry_t, queue);
        ngx_commerce_backup_free(entry);
        ngx_commerce_redis_pool.stats.backup_saved++;
    }

    ngx_commerce_backup_flush();
}


/* Would the same statement fail again? */

static ngx_uint_t
ngx_commerce_backup_hopeless(const PGresult *result)
{
    u_char  *state;

    state = (u_char *) PQresultErrorField(result, PG_DIAG_SQLSTATE);

    if (state == NULL) {
        return 0;
    }

    /* connection, rollback, resources, operator, lock, I/O */

    return ngx_strncmp(state, "08", 2) != 0
           && ngx_strncmp(state, "25", 2) != 0
           && ngx_strncmp(state, "40", 2) != 0
           && ngx_strncmp(state, "53", 2) != 0
           && ngx_strncmp(state, "55", 2) != 0
           && ngx_strncmp(state, "57", 2) != 0
           && ngx_strncmp(state, "58", 2) != 0;
}


/* The batch was not saved: back into the queue, older than what came since. */

static void
ngx_commerce_backup_return(ngx_uint_t again)
{
    ngx_str_t                     later, both;
    ngx_queue_t                  *q;
    ngx_str_node_t               *node;
    ngx_commerce_backup_entry_t  *entry, *newer;
    ngx_commerce_backup_queue_t  *b = &ngx_commerce_backups;

    while (!ngx_queue_empty(&b->flying)) {
        q = ngx_queue_last(&b->flying);
        ngx_queue_remove(q);
        entry = ngx_queue_data(q, ngx_commerce_backup_entry_t, queue);
        ngx_commerce_redis_pool.stats.backup_retried++;

        node = ngx_str_rbtree_lookup(&b->keys, &entry->node.str,
                                     entry->node.node.key);
        if (node == NULL) {
            ngx_rbtree_insert(&b->keys, &entry->node.node);
            ngx_queue_insert_head(&b->due, q);
            continue;
        }

        newer = (ngx_commerce_backup_entry_t *) node;
        later = newer->actions;

        if (later.len && entry->actions.len) {
            both.len = entry->actions.len + 1 + later.len;
            both.data = ngx_alloc(both.len, ngx_cycle->log);

            if (both.data) {
                ngx_sprintf(both.data, "%V,%V", &entry->actions, &later);
                ngx_free(later.data);
                b->bytes += both.len - newer->actions_size;
                newer->actions = both;
                newer->actions_size = both.len;
                newer->actions_count += entry->actions_count;
            }

        } else if (entry->actions.len) {
            newer->actions = entry->actions;
            newer->actions_size = entry->actions_size;
            newer->actions_count = entry->actions_count;
            ngx_str_null(&entry->actions);
            entry->actions_size = 0;
        }

        ngx_commerce_backup_free(entry);
    }

    if (again) {
        ngx_add_timer(&b->timer, 1);
        return;
    }

    if (!b->failing) {
        b->failing = 1;
        b->delay = ngx_min(b->interval, 1000);

    } else {
        b->delay = ngx_min(b->delay * 2, NGX_COMMERCE_BACKUP_RETRY_MAX);
    }

    ngx_commerce_backup_complain("PostgreSQL does not take them");

    if (ngx_exiting) {
        b->delay = ngx_min(b->delay, 500);

        if (!b->exiting) {
            b->exiting = 1;
            b->leaving = ngx_current_msec;
        }

        if (ngx_current_msec - b->leaving > NGX_COMMERCE_BACKUP_LEAVE) {
            ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                          "write-behind: the worker leaves, %ui carts stay "
                          "in Redis only until they change again",
                          b->entries);
            return;
        }
    }

    ngx_add_timer(&b->timer, b->delay);
}


static void
ngx_commerce_backup_complain(const char *what)
{
    ngx_commerce_backup_queue_t  *b = &ngx_commerce_backups;

    if (ngx_time() - b->complained < 10) {
        return;
    }

    b->complained = ngx_time();

    ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                  "write-behind: %s, %ui carts (%uz bytes) wait", what,
                  b->entries, b->bytes);
}


/* The process ends: on TERM there is no time to wait for PostgreSQL. */

void
ngx_commerce_backup_exit(void)
{
    ngx_commerce_backup_queue_t  *b = &ngx_commerce_backups;

    if (b->entries) {
        ngx_log_error(NGX_LOG_WARN, ngx_cycle->log, 0,
                      "write-behind: %ui carts are in Redis only until they "
                      "change again", b->entries);
    }

    if (b->timer.timer_set) {
        ngx_del_timer(&b->timer);
    }
}


void
ngx_commerce_redis_stats(ngx_commerce_redis_stats_t *stats)
{
    ngx_uint_t                             i;
    const ngx_commerce_redis_main_conf_t  *conf;

    *stats = ngx_commerce_redis_pool.stats;
    stats->connections = ngx_commerce_redis_ready();
    stats->backup_pending = ngx_commerce_backups.entries;

    conf = ngx_commerce_redis_pool.conf;

    for (i = 0; conf && i < conf->connections; i++) {
        stats->in_flight += ngx_commerce_redis_pool.conns[i].in_flight;
    }
}
