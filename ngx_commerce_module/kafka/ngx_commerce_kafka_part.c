/*
 * A partition that this worker reads: its records wait here, and go to SQL in
 * their order, a batch at a time.
 */

#include "ngx_commerce_kafka_consumer.h"
#include "ngx_commerce_json.h"
#include "ngx_commerce_crash.h"


#define NGX_COMMERCE_KAFKA_RECORDS    100           /* of a batch, at most */
#define NGX_COMMERCE_KAFKA_BYTES      (512 * 1024)  /* a batch that has so much takes no further record */
#define NGX_COMMERCE_KAFKA_FULL       5000          /* records that wait in a partition: it is paused */
#define NGX_COMMERCE_KAFKA_LOW        1000          /* and goes on */
#define NGX_COMMERCE_KAFKA_HELD       (4 * 1024 * 1024)     /* bytes that wait: paused, too */
#define NGX_COMMERCE_KAFKA_BESIDES    512           /* bytes of a record besides its payload: key, headers, what librdkafka and we keep of it */
#define NGX_COMMERCE_KAFKA_PATIENCE   30000         /* ms at most between two attempts */


static void ngx_commerce_kafka_part_pause(ngx_commerce_kafka_part_t *part,
    ngx_uint_t paused);
static void ngx_commerce_kafka_part_drop(ngx_commerce_kafka_part_t *part,
    ngx_uint_t n);
static void ngx_commerce_kafka_part_next(ngx_commerce_kafka_part_t *part);
static u_char *ngx_commerce_kafka_part_text(ngx_commerce_kafka_part_t *part,
    ngx_pool_t *pool, ngx_str_t *text);
static void ngx_commerce_kafka_part_consumed(ngx_commerce_pg_op_t *op,
    ngx_commerce_pg_status_t status, const PGresult *result);
static ngx_uint_t ngx_commerce_kafka_part_answer(
    ngx_commerce_kafka_part_t *part, const PGresult *result);
static void ngx_commerce_kafka_part_failed(ngx_commerce_kafka_part_t *part,
    ngx_commerce_pg_status_t status, const PGresult *result);
static void ngx_commerce_kafka_part_store(ngx_commerce_kafka_part_t *part,
    ngx_uint_t n);
static void ngx_commerce_kafka_part_again(ngx_event_t *ev);
static int64_t ngx_commerce_kafka_part_number(ngx_commerce_json_t *root,
    const char *name);
static void *ngx_commerce_kafka_part_alloc(void *ctx, size_t size);


ngx_commerce_kafka_part_t *
ngx_commerce_kafka_part_find(const char *topic, int32_t partition,
    ngx_uint_t make)
{
    size_t                      len;
    ngx_queue_t                *q;
    ngx_commerce_kafka_part_t  *part;

    for (q = ngx_queue_head(&ngx_commerce_kafka_consumer.parts);
         q != ngx_queue_sentinel(&ngx_commerce_kafka_consumer.parts);
         q = ngx_queue_next(q))
    {
        part = ngx_queue_data(q, ngx_commerce_kafka_part_t, queue);

        if (part->partition == partition && !part->revoked
            && ngx_strcmp(part->topic.data, topic) == 0)
        {
            return part;
        }
    }

    if (!make) {
        return NULL;
    }

    len = ngx_strlen(topic);

    part = ngx_calloc(sizeof(ngx_commerce_kafka_part_t) + len + 1,
                      ngx_cycle->log);
    if (part == NULL) {
        return NULL;
    }

    part->topic.data = (u_char *) (part + 1);
    part->topic.len = len;
    ngx_memcpy(part->topic.data, topic, len + 1);
    part->partition = partition;
    part->attempt = 1;

    part->timer.handler = ngx_commerce_kafka_part_again;
    part->timer.data = part;
    part->timer.log = ngx_cycle->log;
    part->timer.cancelable = 1;

    ngx_queue_init(&part->waiting);
    ngx_queue_insert_tail(&ngx_commerce_kafka_consumer.parts, &part->queue);

    return part;
}


ngx_int_t
ngx_commerce_kafka_part_take(ngx_commerce_kafka_part_t *part,
    rd_kafka_event_t *event, const rd_kafka_message_t *message)
{
    ngx_commerce_kafka_held_t  *held;

    held = ngx_alloc(sizeof(ngx_commerce_kafka_held_t), ngx_cycle->log);
    if (held == NULL) {
        return NGX_ERROR;
    }

    held->event = event;
    held->message = message;

    ngx_queue_insert_tail(&part->waiting, &held->queue);
    part->n++;
    part->bytes += message->len + NGX_COMMERCE_KAFKA_BESIDES;

    if (part->n >= NGX_COMMERCE_KAFKA_FULL
        || part->bytes >= NGX_COMMERCE_KAFKA_HELD)
    {
        ngx_commerce_kafka_part_pause(part, 1);
    }

    /* records of one turn of the event loop share a batch */

    if (part->op == NULL && !part->timer.timer_set && !part->timer.posted) {
        ngx_post_event(&part->timer, &ngx_posted_events);
    }

    return NGX_OK;
}


void
ngx_commerce_kafka_part_free(ngx_commerce_kafka_part_t *part)
{
    ngx_commerce_kafka_part_drop(part, part->n);

    if (part->timer.timer_set) {
        ngx_del_timer(&part->timer);
    }

    if (part->timer.posted) {
        ngx_delete_posted_event(&part->timer);
    }

    ngx_queue_remove(&part->queue);
    ngx_free(part);
}


/* The first n records are done with. */

static void
ngx_commerce_kafka_part_drop(ngx_commerce_kafka_part_t *part, ngx_uint_t n)
{
    ngx_queue_t                *q;
    ngx_commerce_kafka_held_t  *held;

    for ( /* void */ ; n && !ngx_queue_empty(&part->waiting); n--) {

        q = ngx_queue_head(&part->waiting);
        held = ngx_queue_data(q, ngx_commerce_kafka_held_t, queue);

        ngx_queue_remove(q);
        part->n--;
        part->bytes -= held->message->len + NGX_COMMERCE_KAFKA_BESIDES;

        rd_kafka_event_destroy(held->event);
        ngx_free(held);
    }
}


static void
ngx_commerce_kafka_part_pause(ngx_commerce_kafka_part_t *part,
    ngx_uint_t paused)
{
    rd_kafka_topic_partition_list_t  *list;

    if (part->paused == paused || part->revoked
        || ngx_commerce_kafka_consumer.client.rk == NULL)
    {
        return;
    }

    list = rd_kafka_topic_partition_list_new(1);

    (void) rd_kafka_topic_partition_list_add(list, (char *) part->topic.data,
                                             part->partition);

    if (paused) {
        (void) rd_kafka_pause_partitions(ngx_commerce_kafka_consumer.client.rk,
                                         list);
    } else {
        (void) rd_kafka_resume_partitions(
                                  ngx_commerce_kafka_consumer.client.rk, list);
    }

    rd_kafka_topic_partition_list_destroy(list);

    part->paused = paused;
}


static void
ngx_commerce_kafka_part_again(ngx_event_t *ev)
{
    ngx_commerce_kafka_part_next(ev->data);
}


/* The next batch, when there are records and none is under way. */

static void
ngx_commerce_kafka_part_next(ngx_commerce_kafka_part_t *part)
{
    u_char                 attempt[NGX_INT_T_LEN];
    ngx_str_t              values[2];
    ngx_pool_t            *pool;
    ngx_commerce_pg_op_t  *op;

    if (part->op || part->n == 0 || part->timer.timer_set || part->revoked
        || ngx_commerce_kafka_consumer.leaving)
    {
        return;
    }

    ngx_commerce_crash("before-consume");

    op = ngx_commerce_pg_alloc();
    pool = ngx_create_pool(16384, ngx_cycle->log);

    if (op == NULL || pool == NULL
        || ngx_commerce_kafka_part_text(part, pool, &values[0]) == NULL)
    {
        goto later;
    }

    values[1].data = attempt;
    values[1].len = ngx_sprintf(attempt, "%ui", part->attempt) - attempt;

    op->lane = NGX_COMMERCE_PG_EVENTS;
    op->rank = NGX_COMMERCE_PG_VITAL;
    op->query.stmt = ngx_commerce_kafka_conf->consume_stmt;
    op->query.values = values;
    op->handler = ngx_commerce_kafka_part_consumed;
    op->data = part;

    if (ngx_commerce_pg_submit(op) == NGX_OK) {
        part->op = op;
        ngx_destroy_pool(pool);
        return;
    }

    op = NULL;

later:

    if (op) {
        ngx_commerce_pg_free(op);
    }

    if (pool) {
        ngx_destroy_pool(pool);
    }

    ngx_add_timer(&part->timer, 500);
}


/* Values are copied by submit(): the text lives as long as the pool. */

static u_char *
ngx_commerce_kafka_part_text(ngx_commerce_kafka_part_t *part,
    ngx_pool_t *pool, ngx_str_t *text)
{
    size_t                      size, bytes;
    u_char                     *p;
    ngx_uint_t                  n, broken, limit;
    ngx_queue_t                *q;
    ngx_commerce_kafka_held_t  *held;

    limit = part->single ? 1 : NGX_COMMERCE_KAFKA_RECORDS;
    broken = part->single && part->failures >= 5;

    size = 2;
    bytes = 0;
    n = 0;

    for (q = ngx_queue_head(&part->waiting);
         q != ngx_queue_sentinel(&part->waiting) && n < limit
         && bytes < NGX_COMMERCE_KAFKA_BYTES;
         q = ngx_queue_next(q))
    {
        held = ngx_queue_data(q, ngx_commerce_kafka_held_t, queue);
        size += ngx_commerce_kafka_record_size(held->message) + 1;
        bytes += held->message->len;
        n++;
    }

    p = ngx_pnalloc(pool, size);
    if (p == NULL) {
        return NULL;
    }

    part->batch = n;
    text->data = p;
    *p++ = '[';

    for (q = ngx_queue_head(&part->waiting); n; q = ngx_queue_next(q), n--) {
        held = ngx_queue_data(q, ngx_commerce_kafka_held_t, queue);

        if (p != text->data + 1) {
            *p++ = ',';
        }

        p = ngx_commerce_kafka_record_write(p, held->message, pool, broken);
    }

    *p++ = ']';
    text->len = p - text->data;

    return p;
}


static void
ngx_commerce_kafka_part_consumed(ngx_commerce_pg_op_t *op,
    ngx_commerce_pg_status_t status, const PGresult *result)
{
    ngx_commerce_kafka_part_t  *part;

    part = op->data;
    part->op = NULL;

    if (status == NGX_COMMERCE_PG_OK && PQntuples(result) == 1
        && ngx_commerce_kafka_part_answer(part, result))
    {
        part->failures = 0;

    } else {
        ngx_commerce_kafka_part_failed(part, status, result);
    }

    if (part->revoked) {
        ngx_commerce_kafka_part_free(part);
        return;
    }

    if (part->n <= NGX_COMMERCE_KAFKA_LOW
        && part->bytes < NGX_COMMERCE_KAFKA_HELD / 2)
    {
        ngx_commerce_kafka_part_pause(part, 0);
    }

    ngx_commerce_kafka_part_next(part);
}


/* {"done", "dead", "retry_ms", "transient"}: 0 when it is not that. */

static ngx_uint_t
ngx_commerce_kafka_part_answer(ngx_commerce_kafka_part_t *part,
    const PGresult *result)
{
    int64_t                     done, dead, retry;
    ngx_uint_t                  transient;
    ngx_pool_t                 *pool;
    ngx_commerce_json_t        *root, *flag;
    ngx_commerce_alloc_t        alloc;
    ngx_commerce_json_error_t   error;

    ngx_commerce_crash("after-consume");

    pool = ngx_create_pool(4096, ngx_cycle->log);
    if (pool == NULL) {
        return 0;
    }

    alloc.alloc = ngx_commerce_kafka_part_alloc;
    alloc.ctx = pool;

    if (ngx_commerce_json_parse(&alloc,
                                (uint8_t *) PQgetvalue(result, 0, 0),
                                PQgetlength(result, 0, 0), NULL, &root, &error)
        != NGX_COMMERCE_OK)
    {
        ngx_destroy_pool(pool);
        return 0;
    }

    done = ngx_commerce_kafka_part_number(root, "done");
    dead = ngx_commerce_kafka_part_number(root, "dead");
    retry = ngx_commerce_kafka_part_number(root, "retry_ms");
    flag = ngx_commerce_json_get(root, "transient");
    transient = flag && flag->type == NGX_COMMERCE_JSON_TRUE;

    ngx_destroy_pool(pool);

    done = ngx_min(ngx_max(done, 0), (int64_t) part->batch);

    (void) ngx_atomic_fetch_add(&ngx_commerce_kafka_shared->consumed, done);
    (void) ngx_atomic_fetch_add(&ngx_commerce_kafka_shared->dead,
                                ngx_max(dead, 0));

    if (done) {
        ngx_commerce_kafka_part_store(part, done);
        ngx_commerce_kafka_part_drop(part, done);
        part->attempt = 1;
        part->single = 0;
    }

    if (retry >= 0) {
        (void) ngx_atomic_fetch_add(
                               &ngx_commerce_kafka_shared->consume_retried, 1);

        if (!transient) {
            part->attempt++;
        }

        /* it shall not take others with it once more */
        part->single = 1;

        if (!part->revoked) {
            ngx_add_timer(&part->timer, ngx_max(retry, 10));
        }
    }

    return 1;
}


/*
 * The statement did not succeed as a whole: PostgreSQL is away, or one of the
 * records breaks it.  In the latter case it is found and buried.
 */

static void
ngx_commerce_kafka_part_failed(ngx_commerce_kafka_part_t *part,
    ngx_commerce_pg_status_t status, const PGresult *result)
{
    const char  *state;
    ngx_msec_t   pause;

    state = status == NGX_COMMERCE_PG_FAILED
            ? PQresultErrorField(result, PG_DIAG_SQLSTATE) : NULL;

    if (state && ngx_strncmp(state, "22", 2) == 0) {
        part->single = 1;
        part->failures++;

    } else if (part->single) {
        part->failures = ngx_min(part->failures + 1, 4);

    } else {
        part->failures++;
    }

    if (state) {
        ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                      "Kafka's consumer: api.event_consume() of \"%V\" "
                      "partition %D failed: SQLSTATE %s: %s", &part->topic,
                      part->partition, state,
                      PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY));
    }

    if (!part->revoked) {
        pause = ngx_min(100 << ngx_min(part->failures, 9),
                        NGX_COMMERCE_KAFKA_PATIENCE);
        ngx_add_timer(&part->timer, pause);
    }
}


/* The effects of the first n records are committed. */

static void
ngx_commerce_kafka_part_store(ngx_commerce_kafka_part_t *part, ngx_uint_t n)
{
    ngx_queue_t                      *q;
    ngx_commerce_kafka_held_t        *held;
    rd_kafka_topic_partition_list_t  *list;

    if (part->revoked || ngx_commerce_kafka_consumer.client.rk == NULL) {
        return;
    }

    for (q = ngx_queue_head(&part->waiting); n > 1; n--) {
        q = ngx_queue_next(q);
    }

    held = ngx_queue_data(q, ngx_commerce_kafka_held_t, queue);

    list = rd_kafka_topic_partition_list_new(1);

    rd_kafka_topic_partition_list_add(list, (char *) part->topic.data,
                                      part->partition)->offset
        = held->message->offset + 1;

    /* refused when it is no longer ours: then it comes to another one, who knows it from the inbox */
    (void) rd_kafka_offsets_store(ngx_commerce_kafka_consumer.client.rk, list);

    rd_kafka_topic_partition_list_destroy(list);
}


static int64_t
ngx_commerce_kafka_part_number(ngx_commerce_json_t *root, const char *name)
{
    ngx_commerce_json_t  *value;

    value = ngx_commerce_json_get(root, name);

    return value && value->integer ? value->number : -1;
}


static void *
ngx_commerce_kafka_part_alloc(void *ctx, size_t size)
{
    return ngx_palloc(ctx, size);
}
