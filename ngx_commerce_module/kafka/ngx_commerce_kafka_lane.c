/*
 * A lane of the relay: one batch at a time, claimed, produced, acknowledged, and
 * marked in the statement that claims the next one.
 *
 * While there is little to send, the common lane claims all shards at once: a
 * statement and the brokers' requests, one for each partition, cost more than
 * the few events in them.  A shard that comes back full has a lane work for
 * itself, until it finds less again.
 */

#include "ngx_commerce_kafka_relay.h"
#include "ngx_commerce_crash.h"


#define NGX_COMMERCE_KAFKA_PACE     40          /* ms between claims of a lane that found little */
#define NGX_COMMERCE_KAFKA_GATHER   20          /* ms more when it found much, but less than it would take */


static void ngx_commerce_kafka_lane_marks(
    const ngx_commerce_kafka_lane_t *lane, ngx_str_t *values, u_char *p);
static void ngx_commerce_kafka_lane_claimed(ngx_commerce_pg_op_t *op,
    ngx_commerce_pg_status_t status, const PGresult *result);
static void ngx_commerce_kafka_lane_fill(ngx_commerce_kafka_lane_t *lane,
    const PGresult *result);
static ngx_uint_t ngx_commerce_kafka_lane_shard(const PGresult *result,
    int row);
static ngx_commerce_kafka_lane_t *ngx_commerce_kafka_lane_apart(
    ngx_uint_t shard);
static ngx_uint_t ngx_commerce_kafka_lane_left(
    ngx_commerce_kafka_lane_t *lane, const PGresult *result, int row,
    uint32_t *left);
static rd_kafka_resp_err_t ngx_commerce_kafka_lane_produce(
    ngx_commerce_kafka_lane_t *lane, const PGresult *result, int row);
static void ngx_commerce_kafka_lane_settle(ngx_commerce_kafka_lane_t *lane);
static void ngx_commerce_kafka_lane_row(ngx_commerce_kafka_row_t *to,
    const PGresult *result, int row);
static void ngx_commerce_kafka_lane_bury(const ngx_commerce_kafka_row_t *row,
    const char *error);
static void ngx_commerce_kafka_lane_buried(ngx_commerce_pg_op_t *op,
    ngx_commerce_pg_status_t status, const PGresult *result);
static uint32_t ngx_commerce_kafka_lane_shards(
    const ngx_commerce_kafka_lane_t *lane);
static uint32_t ngx_commerce_kafka_lane_own(ngx_uint_t number);


/* Columns of api.relay_turn() that are not an attribute of the event. */

enum {
    NGX_COMMERCE_KAFKA_ID = 0,
    NGX_COMMERCE_KAFKA_TOPIC = 1,
    NGX_COMMERCE_KAFKA_KEY = 2,
    NGX_COMMERCE_KAFKA_EVENT = 3,
    NGX_COMMERCE_KAFKA_PAYLOAD = 12,
    NGX_COMMERCE_KAFKA_SHARD = 13
};


/* For a topic, or for a segment of its log. */

#define ngx_commerce_kafka_lane_large(err)                                    \
    ((err) == RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE                            \
     || (err) == RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE)


void
ngx_commerce_kafka_lanes_run(void)
{
    uint32_t                     shards;
    ngx_uint_t                   i;
    ngx_msec_int_t               wait;
    ngx_commerce_kafka_lane_t   *lane;
    ngx_commerce_kafka_relay_t  *relay;

    relay = &ngx_commerce_kafka_relay;

    if (!relay->owner || relay->leaving) {
        return;
    }

    for (i = 0; i < NGX_COMMERCE_KAFKA_LANES; i++) {
        lane = &relay->lanes[i];

        /* marks do not wait for the brokers */

        shards = relay->ready ? ngx_commerce_kafka_lane_shards(lane) : 0;

        if (lane->state != NGX_COMMERCE_KAFKA_IDLE
            || !(lane->sent_n || (lane->again && shards)))
        {
            continue;
        }

        wait = lane->not_before - ngx_current_msec;

        if (wait > 0) {

            /* nginx takes a timer that is set within 300 ms of the new time for good enough */

            if (relay->timer.timer_set
                && relay->timer.timer.key - ngx_current_msec
                   > (ngx_msec_t) wait)
            {
                ngx_del_timer(&relay->timer);
                ngx_add_timer(&relay->timer, wait);
            }

            continue;
        }

        ngx_commerce_kafka_lane_claim(lane, shards);
    }
}


void
ngx_commerce_kafka_lane_claim(ngx_commerce_kafka_lane_t *lane,
    uint32_t shards)
{
    size_t                 size;
    u_char                *text;
    u_char                 list[3 * NGX_COMMERCE_KAFKA_SHARDS + 2];
    u_char                 many[NGX_INT_T_LEN];
    ngx_str_t              values[6];
    ngx_commerce_pg_op_t  *op;

    /* of each a shard of two digits, a number and an event, and what is between these and the next */

    size = lane->sent_n * (2 + NGX_INT64_LEN + sizeof(lane->sent[0].event) + 3)
           + sizeof("{}{}{}");

    op = ngx_commerce_pg_alloc();
    text = ngx_alloc(size, ngx_cycle->log);

    if (op == NULL || text == NULL) {
        if (op) {
            ngx_commerce_pg_free(op);
        }
        if (text) {
            ngx_free(text);
        }
        return;
    }

    values[0].data = ngx_commerce_kafka_shared->node;
    values[0].len = sizeof(ngx_commerce_kafka_shared->node);
    values[1].data = list;
    values[1].len = ngx_commerce_kafka_shards_text(list, shards) - list;

    lane->many = lane->number == NGX_COMMERCE_KAFKA_COMMON
                 ? ngx_min(ngx_commerce_kafka_conf->batch,
                           NGX_COMMERCE_KAFKA_BATCH / NGX_COMMERCE_KAFKA_SHARDS)
                 : ngx_commerce_kafka_conf->batch;

    values[2].data = many;
    values[2].len = ngx_sprintf(many, "%ui", lane->many) - many;

    ngx_commerce_kafka_lane_marks(lane, &values[3], text);

    op->lane = NGX_COMMERCE_PG_EVENTS;
    op->rank = NGX_COMMERCE_PG_VITAL;
    op->query.stmt = ngx_commerce_kafka_conf->turn_stmt;
    op->query.values = values;
    op->handler = ngx_commerce_kafka_lane_claimed;
    op->data = lane;

    if (shards) {

        /* before the outbox is looked at: who commits from here on tells again */

        ngx_commerce_kafka_shared->woken = 0;
        ngx_memory_barrier();
    }

    if (ngx_commerce_pg_submit(op) == NGX_OK) {
        lane->state = NGX_COMMERCE_KAFKA_CLAIMING;
        lane->marking = lane->sent_n;
        lane->marked |= lane->shards;
        lane->shards = shards;
        lane->generation = ngx_commerce_kafka_relay.generation;
        lane->again &= (shards == 0);
        lane->not_before = ngx_current_msec + NGX_COMMERCE_KAFKA_PACE;

    } else {
        lane->not_before = ngx_current_msec + 200;
    }

    ngx_free(text);
}


/* What is to be marked, as three arrays of PostgreSQL: shards, numbers, events. */

static void
ngx_commerce_kafka_lane_marks(const ngx_commerce_kafka_lane_t *lane,
    ngx_str_t *values, u_char *p)
{
    ngx_uint_t                       i, n;
    const ngx_commerce_kafka_row_t  *row;

    for (n = 0; n < 3; n++) {
        values[n].data = p;
        *p++ = '{';

        for (i = 0; i < lane->sent_n; i++) {
            row = &lane->sent[i];

            if (i) {
                *p++ = ',';
            }

            p = n == 0 ? ngx_sprintf(p, "%ui", row->shard)
                : n == 1 ? ngx_sprintf(p, "%L", row->id)
                : ngx_cpymem(p, row->event, sizeof(row->event));
        }

        *p++ = '}';
        values[n].len = p - values[n].data;
    }
}


static void
ngx_commerce_kafka_lane_claimed(ngx_commerce_pg_op_t *op,
    ngx_commerce_pg_status_t status, const PGresult *result)
{
    int                          row, rows;
    uint32_t                     left;
    rd_kafka_resp_err_t          err;
    ngx_commerce_kafka_row_t     large;
    ngx_commerce_kafka_lane_t   *lane;
    ngx_commerce_kafka_relay_t  *relay;

    relay = &ngx_commerce_kafka_relay;
    lane = op->data;
    lane->state = NGX_COMMERCE_KAFKA_IDLE;

    if (status != NGX_COMMERCE_PG_OK) {

        /* marks are kept: saying it twice does no harm */

        if (status == NGX_COMMERCE_PG_FAILED && lane->error_n++ % 20 == 0) {
            ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                          "Kafka's relay: api.relay_turn() failed: %s",
                          PQresultErrorField(result,
                                             PG_DIAG_MESSAGE_PRIMARY));
        }

        lane->not_before = ngx_current_msec + 500;
        lane->again = 1;
        return;
    }

    lane->error_n = 0;
    lane->sent_n -= lane->marking;
    ngx_memmove(lane->sent, lane->sent + lane->marking,
                lane->sent_n * sizeof(ngx_commerce_kafka_row_t));
    lane->marking = 0;
    lane->marked = 0;

    /* the busier the shop, the more a statement and a request to a broker are to carry */

    rows = PQntuples(result);
    lane->not_before += ngx_min(rows / 4, NGX_COMMERCE_KAFKA_GATHER);

    (void) ngx_atomic_fetch_add(&ngx_commerce_kafka_shared->relay_turns, 1);

    ngx_commerce_kafka_lane_fill(lane, result);

    /*
     * The lease may have gone while the statement took its time, and be here
     * again: others may have sent these events, and later ones.  Every loss of
     * a lease ends the producer.  A worker that leaves takes nothing more on.
     */

    if (rows == 0 || relay->leaving || relay->producer.rk == NULL
        || lane->generation != relay->generation
        || (ngx_msec_int_t) (ngx_current_msec - relay->lease_until) >= 0)
    {
        lane->shards = 0;
        lane->again |= (rows != 0);
        ngx_commerce_kafka_lanes_run();
        return;
    }

    ngx_commerce_crash("before-produce");

    lane->count = 0;
    lane->answered = 0;
    lane->failed = 0;
    lane->state = NGX_COMMERCE_KAFKA_SENDING;
    left = 0;

    for (row = 0; row < rows && lane->count < NGX_COMMERCE_KAFKA_BATCH; row++)
    {
        if (ngx_commerce_kafka_lane_left(lane, result, row, &left)) {
            continue;
        }

        err = ngx_commerce_kafka_lane_produce(lane, result, row);

        if (err == RD_KAFKA_RESP_ERR_NO_ERROR) {
            continue;
        }

        if (err == RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE) {
            ngx_commerce_kafka_lane_row(&large, result, row);
            ngx_commerce_kafka_lane_bury(&large, rd_kafka_err2str(err));
            continue;
        }

        /* the queue is full, or the producer is no more: those behind keep their place */

        lane->not_before = ngx_current_msec + 100;
        lane->again = 1;

        if (err == RD_KAFKA_RESP_ERR__FATAL) {
            ngx_commerce_kafka_producer_fatal();

        } else if (err != RD_KAFKA_RESP_ERR__QUEUE_FULL) {
            (void) ngx_commerce_kafka_lane_apart(
                                   ngx_commerce_kafka_lane_shard(result, row));
            ngx_commerce_kafka_producer_rebuild(rd_kafka_err2str(err));
        }

        break;
    }

    /* a producer that has just come to its end by itself cannot be ended */

    if (lane->state == NGX_COMMERCE_KAFKA_SENDING
        && ngx_commerce_crash_asked("fatal-produce"))
    {
        (void) rd_kafka_test_fatal_error(ngx_commerce_kafka_relay.producer.rk,
                                RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER,
                                "a test wants it");
    }

    if (lane->state == NGX_COMMERCE_KAFKA_SENDING) {
        ngx_commerce_kafka_lane_settle(lane);
    }
}


/* Whose lane a shard is from here on: one that came back full has more. */

static void
ngx_commerce_kafka_lane_fill(ngx_commerce_kafka_lane_t *lane,
    const PGresult *result)
{
    int                          row;
    ngx_uint_t                   i;
    ngx_uint_t                   found[NGX_COMMERCE_KAFKA_SHARDS];
    ngx_commerce_kafka_relay_t  *relay;

    relay = &ngx_commerce_kafka_relay;

    ngx_memzero(found, sizeof(found));

    for (row = 0; row < PQntuples(result); row++) {
        found[ngx_commerce_kafka_lane_shard(result, row)]++;
    }

    if (lane->number != NGX_COMMERCE_KAFKA_COMMON) {
        lane->full = 0;

        /* what was written meanwhile, should the shards be its own again */
        relay->lanes[NGX_COMMERCE_KAFKA_COMMON].again = 1;
    }

    for (i = 0; i < NGX_COMMERCE_KAFKA_SHARDS; i++) {

        if (found[i] < lane->many) {
            continue;
        }

        /* at once; these marks first, when they are the common lane's */

        ngx_commerce_kafka_lane_apart(i)->not_before = ngx_current_msec;
        lane->not_before = ngx_current_msec;
    }
}


static ngx_uint_t
ngx_commerce_kafka_lane_shard(const PGresult *result, int row)
{
    return (ngx_uint_t) ngx_atoi((u_char *) PQgetvalue(result, row,
                                                    NGX_COMMERCE_KAFKA_SHARD),
                                 PQgetlength(result, row,
                                             NGX_COMMERCE_KAFKA_SHARD))
           % NGX_COMMERCE_KAFKA_SHARDS;
}


/*
 * The shard's own lane works for it, not the common one: it has more than its
 * share, or it failed, which may take its time each time, as with records of a
 * topic that is not there, and the other lanes' shards do not wait for it.
 */

static ngx_commerce_kafka_lane_t *
ngx_commerce_kafka_lane_apart(ngx_uint_t shard)
{
    ngx_commerce_kafka_lane_t  *own;

    own = &ngx_commerce_kafka_relay.lanes[shard / NGX_COMMERCE_KAFKA_SHARE];

    own->full = 1;
    own->again = 1;

    return own;
}


/*
 * librdkafka waits ten seconds for a topic that is not there: what is for one,
 * and what is behind it in its shard, the common lane leaves to the shard's own.
 */

static ngx_uint_t
ngx_commerce_kafka_lane_left(ngx_commerce_kafka_lane_t *lane,
    const PGresult *result, int row, uint32_t *left)
{
    ngx_uint_t  shard;

    if (lane->number != NGX_COMMERCE_KAFKA_COMMON) {
        return 0;
    }

    shard = ngx_commerce_kafka_lane_shard(result, row);

    if (!(*left & (1u << shard))
        && !ngx_commerce_kafka_topics_has(
                            PQgetvalue(result, row, NGX_COMMERCE_KAFKA_TOPIC)))
    {
        (void) ngx_commerce_kafka_lane_apart(shard);
        *left |= 1u << shard;
    }

    return (*left >> shard) & 1;
}


static rd_kafka_resp_err_t
ngx_commerce_kafka_lane_produce(ngx_commerce_kafka_lane_t *lane,
    const PGresult *result, int row)
{
    uintptr_t            opaque;
    ngx_uint_t           i;
    rd_kafka_headers_t  *headers;
    rd_kafka_resp_err_t  err;

    /* CloudEvents 1.0, binary mode */

    static const struct {
        const char  *name;
        int          column;
    } attributes[] = {
        { "ce_id", NGX_COMMERCE_KAFKA_EVENT },
        { "ce_source", 4 },
        { "ce_type", 5 },
        { "ce_subject", 6 },
        { "ce_time", 7 },
        { "ce_partitionkey", NGX_COMMERCE_KAFKA_KEY },
        { "ce_tenantid", 8 },
        { "ce_aggregateversion", 9 },
        { "ce_correlationid", 10 },
        { "ce_traceparent", 11 },
    };

    headers = rd_kafka_headers_new(12);

    (void) rd_kafka_header_add(headers, "ce_specversion", -1, "1.0", 3);
    (void) rd_kafka_header_add(headers, "content-type", -1,
                               "application/json", 16);

    for (i = 0; i < sizeof(attributes) / sizeof(attributes[0]); i++) {

        if (!PQgetisnull(result, row, attributes[i].column)) {
            (void) rd_kafka_header_add(headers, attributes[i].name, -1,
                            PQgetvalue(result, row, attributes[i].column),
                            PQgetlength(result, row, attributes[i].column));
        }
    }

    opaque = (ngx_commerce_kafka_relay.generation << 16)
             | (lane->number << 12) | lane->count;

    err = rd_kafka_producev(ngx_commerce_kafka_relay.producer.rk,
                  RD_KAFKA_V_TOPIC(PQgetvalue(result, row,
                                              NGX_COMMERCE_KAFKA_TOPIC)),
                  RD_KAFKA_V_KEY(PQgetvalue(result, row,
                                            NGX_COMMERCE_KAFKA_KEY),
                                 PQgetlength(result, row,
                                             NGX_COMMERCE_KAFKA_KEY)),
                  RD_KAFKA_V_VALUE(PQgetvalue(result, row,
                                              NGX_COMMERCE_KAFKA_PAYLOAD),
                                   PQgetlength(result, row,
                                               NGX_COMMERCE_KAFKA_PAYLOAD)),
                  RD_KAFKA_V_HEADERS(headers),
                  RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
                  RD_KAFKA_V_OPAQUE((void *) opaque),
                  RD_KAFKA_V_END);

    if (err != RD_KAFKA_RESP_ERR_NO_ERROR) {
        rd_kafka_headers_destroy(headers);
        return err;
    }

    ngx_commerce_kafka_lane_row(&lane->rows[lane->count++], result, row);

    return RD_KAFKA_RESP_ERR_NO_ERROR;
}


static void
ngx_commerce_kafka_lane_row(ngx_commerce_kafka_row_t *to,
    const PGresult *result, int row)
{
    to->id = ngx_atoof((u_char *) PQgetvalue(result, row,
                                             NGX_COMMERCE_KAFKA_ID),
                       PQgetlength(result, row, NGX_COMMERCE_KAFKA_ID));
    ngx_memcpy(to->event, PQgetvalue(result, row, NGX_COMMERCE_KAFKA_EVENT),
               sizeof(to->event));
    to->shard = ngx_commerce_kafka_lane_shard(result, row);
}


/* All have been answered: mark them and go on, at once or, when something failed, after a while. */

static void
ngx_commerce_kafka_lane_settle(ngx_commerce_kafka_lane_t *lane)
{
    if (lane->answered < lane->count) {
        return;
    }

    ngx_commerce_crash("after-produce");

    lane->state = NGX_COMMERCE_KAFKA_IDLE;

    if (lane->failed) {
        lane->not_before = ngx_current_msec + 500;
        lane->again = 1;
        return;
    }

    if (ngx_commerce_kafka_relay.leaving) {
        return;
    }

    ngx_commerce_kafka_lanes_run();
}


static void
ngx_commerce_kafka_lane_bury(const ngx_commerce_kafka_row_t *row,
    const char *error)
{
    u_char                 shard[NGX_INT_T_LEN], id[NGX_INT64_LEN];
    ngx_str_t              values[4];
    ngx_commerce_pg_op_t  *op;

    op = ngx_commerce_pg_alloc();
    if (op == NULL) {
        return;
    }

    values[0].data = shard;
    values[0].len = ngx_sprintf(shard, "%ui", row->shard) - shard;
    values[1].data = id;
    values[1].len = ngx_sprintf(id, "%L", row->id) - id;
    values[2].data = (u_char *) row->event;
    values[2].len = sizeof(row->event);
    values[3].data = (u_char *) error;
    values[3].len = ngx_strlen(error);

    op->lane = NGX_COMMERCE_PG_EVENTS;
    op->rank = NGX_COMMERCE_PG_VITAL;
    op->query.stmt = ngx_commerce_kafka_conf->bury_stmt;
    op->query.values = values;
    op->handler = ngx_commerce_kafka_lane_buried;

    /* busy: it is claimed again, and refused again */
    (void) ngx_commerce_pg_submit(op);
}


static void
ngx_commerce_kafka_lane_buried(ngx_commerce_pg_op_t *op,
    ngx_commerce_pg_status_t status, const PGresult *result)
{
    if (status == NGX_COMMERCE_PG_OK) {
        (void) ngx_atomic_fetch_add(&ngx_commerce_kafka_shared->dead, 1);

    } else if (status == NGX_COMMERCE_PG_FAILED) {
        ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                      "Kafka's relay: api.relay_bury() failed: %s",
                      PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY));
    }
}


void
ngx_commerce_kafka_lane_report(rd_kafka_event_t *event)
{
    uintptr_t                    opaque;
    ngx_uint_t                   row;
    ngx_commerce_kafka_lane_t   *lane;
    const rd_kafka_message_t    *message;
    ngx_commerce_kafka_relay_t  *relay;

    relay = &ngx_commerce_kafka_relay;

    while ((message = rd_kafka_event_message_next(event)) != NULL) {

        opaque = (uintptr_t) message->_private;

        if ((opaque >> 16) != relay->generation) {
            continue;
        }

        lane = &relay->lanes[(opaque >> 12) & 0xf];
        row = opaque & 0xfff;

        if (lane->state != NGX_COMMERCE_KAFKA_SENDING || row >= lane->count) {
            continue;
        }

        lane->answered++;

        if (message->err == RD_KAFKA_RESP_ERR_NO_ERROR) {
            lane->sent[lane->sent_n++] = lane->rows[row];
            relay->rebuilds = 0;
            (void) ngx_atomic_fetch_add(&ngx_commerce_kafka_shared->relayed,
                                        1);

        } else if (ngx_commerce_kafka_lane_large(message->err)
                   && ngx_commerce_kafka_producer_narrow(message) == NGX_OK)
        {
            lane->failed++;

        } else if (ngx_commerce_kafka_lane_large(message->err)
                   || message->err == RD_KAFKA_RESP_ERR_INVALID_RECORD)
        {
            /* for good: the brokers' limit may be lower than ours */

            ngx_commerce_kafka_lane_bury(&lane->rows[row],
                                         rd_kafka_err2str(message->err));
            lane->failed++;

        } else {
            if (lane->failed++ == 0) {
                ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                              "Kafka's relay: a record for topic \"%s\" "
                              "failed: %s; it is sent again",
                              rd_kafka_topic_name(message->rkt),
                              rd_kafka_err2str(message->err));
            }

            (void) ngx_commerce_kafka_lane_apart(lane->rows[row].shard);

            (void) ngx_atomic_fetch_add(
                                  &ngx_commerce_kafka_shared->relay_failed, 1);
        }

        ngx_commerce_kafka_lane_settle(lane);
    }
}


u_char *
ngx_commerce_kafka_shards_text(u_char *p, uint32_t shards)
{
    u_char      *begin;
    ngx_uint_t   i;

    begin = p;
    *p++ = '{';

    for (i = 0; i < NGX_COMMERCE_KAFKA_SHARDS; i++) {
        if (shards & (1u << i)) {
            p = ngx_sprintf(p, p == begin + 1 ? "%ui" : ",%ui", i);
        }
    }

    *p++ = '}';

    return p;
}


uint32_t
ngx_commerce_kafka_shards_read(const char *text)
{
    uint32_t    shards;
    ngx_uint_t  n;

    shards = 0;

    while (*text) {

        if (*text < '0' || *text > '9') {
            text++;
            continue;
        }

        for (n = 0; *text >= '0' && *text <= '9'; text++) {
            n = n * 10 + (*text - '0');
        }

        if (n < NGX_COMMERCE_KAFKA_SHARDS) {
            shards |= 1u << n;
        }
    }

    return shards;
}


uint32_t
ngx_commerce_kafka_lane_busy(const ngx_commerce_kafka_lane_t *lane)
{
    if (lane->state == NGX_COMMERCE_KAFKA_IDLE && lane->sent_n == 0) {
        return 0;
    }

    return lane->shards | lane->marked;
}


/* What a lane may claim now, as bits. */

static uint32_t
ngx_commerce_kafka_lane_shards(const ngx_commerce_kafka_lane_t *lane)
{
    uint32_t                           shards;
    ngx_uint_t                         i;
    const ngx_commerce_kafka_lane_t   *other;
    const ngx_commerce_kafka_relay_t  *relay;

    relay = &ngx_commerce_kafka_relay;

    shards = lane->full ? ngx_commerce_kafka_lane_own(lane->number) : 0;

    if (lane->number == NGX_COMMERCE_KAFKA_COMMON) {
        shards = relay->held;
    }

    for (i = 0; i < NGX_COMMERCE_KAFKA_LANES; i++) {
        other = &relay->lanes[i];

        if (other == lane) {
            continue;
        }

        shards &= ~ngx_commerce_kafka_lane_busy(other);

        if (other->full) {
            shards &= ~ngx_commerce_kafka_lane_own(i);
        }
    }

    return shards & relay->held & ~relay->yielding;
}


static uint32_t
ngx_commerce_kafka_lane_own(ngx_uint_t number)
{
    return ((1u << NGX_COMMERCE_KAFKA_SHARE) - 1)
           << (number * NGX_COMMERCE_KAFKA_SHARE);
}
