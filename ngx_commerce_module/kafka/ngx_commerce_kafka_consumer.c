/*
 * Consumers: one member of the group in each worker of each node.  Records of
 * a partition go to api.event_consume() in their order, a batch at a time; an
 * offset is stored when the effect is committed, and committed by librdkafka
 * every second.  What comes twice is known to SQL (event.inbox).
 */

#include "ngx_commerce_kafka_consumer.h"


#define NGX_COMMERCE_KAFKA_TICK       500           /* ms */
#define NGX_COMMERCE_KAFKA_CLOSE      3000          /* ms that a worker which leaves has for the group */


static void ngx_commerce_kafka_consumer_tick(ngx_event_t *ev);
static void ngx_commerce_kafka_consumer_open(void);
static void ngx_commerce_kafka_consumer_closing(ngx_commerce_watch_t *w);
static void ngx_commerce_kafka_consumer_leave(void);
static void ngx_commerce_kafka_consumer_done(void);
static void ngx_commerce_kafka_consumer_event(
    ngx_commerce_kafka_client_t *client, rd_kafka_event_t *event);
static void ngx_commerce_kafka_consumer_rebalance(rd_kafka_event_t *event);
static void ngx_commerce_kafka_consumer_assigned(
    const rd_kafka_topic_partition_list_t *list);
static void ngx_commerce_kafka_consumer_revoked(
    const rd_kafka_topic_partition_list_t *list);
static void ngx_commerce_kafka_consumer_fetched(rd_kafka_event_t *event);


static const ngx_commerce_kafka_property_t
    ngx_commerce_kafka_consumer_properties[] = {

    { "client.id", "nginx-commerce-consumer" },
    { "partition.assignment.strategy", "cooperative-sticky" },
    { "auto.offset.reset", "earliest" },
    { "enable.auto.offset.store", "false" },
    { "auto.commit.interval.ms", "1000" },
    { "session.timeout.ms", "10000" },
    { "heartbeat.interval.ms", "1000" },
    { "queued.min.messages", "500" },
    { "queued.max.messages.kbytes", "8192" },
    { "fetch.wait.max.ms", "100" },
    { "fetch.error.backoff.ms", "200" },
    { "reconnect.backoff.max.ms", "2000" },
    { "topic.metadata.refresh.interval.ms", "5000" },
    { "statistics.interval.ms", "1000" },
    { "log.queue", "true" },
    { NULL, NULL }
};


ngx_commerce_kafka_consumer_t  ngx_commerce_kafka_consumer;


void
ngx_commerce_kafka_consumer_init(ngx_cycle_t *cycle)
{
    ngx_commerce_kafka_consumer_t  *consumer;

    consumer = &ngx_commerce_kafka_consumer;

    ngx_queue_init(&consumer->parts);

    consumer->client.what = "consumer";
    consumer->client.handler = ngx_commerce_kafka_consumer_event;
    consumer->client.closing = ngx_commerce_kafka_consumer_closing;
    consumer->client.fd = -1;
    consumer->client.lag = -1;

    consumer->timer.handler = ngx_commerce_kafka_consumer_tick;
    consumer->timer.data = consumer;
    consumer->timer.log = cycle->log;
    consumer->timer.cancelable = 1;
}


/* The contract's topics are known. */

void
ngx_commerce_kafka_consumer_subscribe(const ngx_commerce_kafka_topic_t *topics,
    ngx_uint_t n)
{
    ngx_uint_t                        i;
    rd_kafka_topic_partition_list_t  *list;

    if (!ngx_commerce_kafka_conf->consumer || ngx_exiting) {
        return;
    }

    list = rd_kafka_topic_partition_list_new(n);

    for (i = 0; i < n; i++) {
        if (topics[i].consumed) {
            (void) rd_kafka_topic_partition_list_add(list,
                           (char *) topics[i].name.data, RD_KAFKA_PARTITION_UA);
        }
    }

    ngx_commerce_kafka_consumer.topics = list;

    if (list->cnt) {
        ngx_commerce_kafka_consumer_open();
        ngx_add_timer(&ngx_commerce_kafka_consumer.timer,
                      NGX_COMMERCE_KAFKA_TICK);
    }
}


void
ngx_commerce_kafka_consumer_status(ngx_commerce_kafka_status_t *status)
{
    ngx_commerce_kafka_consumer_t  *consumer;

    consumer = &ngx_commerce_kafka_consumer;

    status->consumer_ready = !ngx_commerce_kafka_conf->consumer
                             || (consumer->client.rk != NULL
                                 && consumer->client.brokers_up
                                 && consumer->client.joined);
    status->consumer_lag = consumer->client.lag;
}


static void
ngx_commerce_kafka_consumer_tick(ngx_event_t *ev)
{
    ngx_commerce_kafka_consumer_t  *consumer;

    consumer = ev->data;

    if (consumer->leaving) {
        ngx_commerce_kafka_consumer_leave();
        return;
    }

    ngx_add_timer(ev, NGX_COMMERCE_KAFKA_TICK);

    if (consumer->client.rk == NULL) {
        if ((ngx_msec_int_t) (ngx_current_msec - consumer->open_at) >= 0) {
            ngx_commerce_kafka_consumer_open();
        }

        return;
    }

    /* the group wants to hear of us also when there is nothing to be read */

    if (!consumer->client.more.posted) {
        ngx_post_event(&consumer->client.more, &ngx_posted_events);
    }
}


static void
ngx_commerce_kafka_consumer_open(void)
{
    rd_kafka_resp_err_t              err;
    ngx_array_t                      own;
    ngx_commerce_kafka_property_t    group[65];
    ngx_commerce_kafka_consumer_t   *consumer;
    const ngx_array_t               *conf;

    consumer = &ngx_commerce_kafka_consumer;
    conf = &ngx_commerce_kafka_conf->own;

    /* the group first, then what the directive says */

    group[0].name = "group.id";
    group[0].value = ngx_commerce_kafka_conf->group;

    own = *conf;
    own.nelts = ngx_min(conf->nelts, 64);
    ngx_memcpy(&group[1], conf->elts,
               own.nelts * sizeof(ngx_commerce_kafka_property_t));
    own.elts = group;
    own.nelts++;

    if (ngx_commerce_kafka_client_open(&consumer->client, RD_KAFKA_CONSUMER,
                                       &own,
                                       ngx_commerce_kafka_consumer_properties)
        != NGX_OK)
    {
        consumer->open_at = ngx_current_msec + 5000;
        return;
    }

    err = rd_kafka_subscribe(consumer->client.rk, consumer->topics);

    if (err != RD_KAFKA_RESP_ERR_NO_ERROR) {
        ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                      "Kafka's consumer cannot subscribe: %s",
                      rd_kafka_err2str(err));
        ngx_commerce_kafka_client_close(&consumer->client);
        consumer->open_at = ngx_current_msec + 5000;
    }
}


/* QUIT: batches under way end, then the group is left; or there is no time for that. */

static void
ngx_commerce_kafka_consumer_closing(ngx_commerce_watch_t *w)
{
    ngx_commerce_kafka_consumer_t  *consumer;

    consumer = &ngx_commerce_kafka_consumer;

    if (w->connection->error) {
        ngx_commerce_kafka_consumer_done();
        return;
    }

    if (!consumer->leaving) {
        consumer->leaving = 1;
        consumer->leave_by = ngx_current_msec + NGX_COMMERCE_KAFKA_CLOSE;
        consumer->timer.cancelable = 0;
        ngx_add_timer(&consumer->timer, 1);
    }
}


static void
ngx_commerce_kafka_consumer_leave(void)
{
    ngx_queue_t                    *q;
    rd_kafka_error_t               *error;
    ngx_commerce_kafka_part_t      *part;
    ngx_commerce_kafka_consumer_t  *consumer;

    consumer = &ngx_commerce_kafka_consumer;

    if (consumer->client.rk == NULL
        || (ngx_msec_int_t) (ngx_current_msec - consumer->leave_by) >= 0
        || (consumer->closing && rd_kafka_consumer_closed(consumer->client.rk)))
    {
        ngx_commerce_kafka_consumer_done();
        return;
    }

    ngx_add_timer(&consumer->timer, 20);

    if (consumer->closing) {
        return;
    }

    for (q = ngx_queue_head(&consumer->parts);
         q != ngx_queue_sentinel(&consumer->parts);
         q = ngx_queue_next(q))
    {
        part = ngx_queue_data(q, ngx_commerce_kafka_part_t, queue);

        if (part->op) {
            return;
        }
    }

    error = rd_kafka_consumer_close_queue(consumer->client.rk,
                                          consumer->client.queue);
    if (error) {
        rd_kafka_error_destroy(error);
        ngx_commerce_kafka_consumer_done();
        return;
    }

    consumer->closing = 1;
}


static void
ngx_commerce_kafka_consumer_done(void)
{
    ngx_queue_t                    *q;
    ngx_commerce_kafka_part_t      *part;
    ngx_commerce_kafka_consumer_t  *consumer;

    consumer = &ngx_commerce_kafka_consumer;
    consumer->leaving = 1;

    if (consumer->timer.timer_set) {
        ngx_del_timer(&consumer->timer);
    }

    /* messages before the instance that they are of */

    while (!ngx_queue_empty(&consumer->parts)) {
        q = ngx_queue_head(&consumer->parts);
        part = ngx_queue_data(q, ngx_commerce_kafka_part_t, queue);

        if (part->op) {
            ngx_commerce_pg_detach(part->op);
            part->op = NULL;
        }

        ngx_commerce_kafka_part_free(part);
    }

    ngx_commerce_kafka_client_close(&consumer->client);
}


void
ngx_commerce_kafka_consumer_exit(void)
{
    ngx_queue_t                    *q;
    ngx_commerce_kafka_part_t      *part;
    ngx_commerce_kafka_consumer_t  *consumer;

    consumer = &ngx_commerce_kafka_consumer;

    while (!ngx_queue_empty(&consumer->parts)) {
        q = ngx_queue_head(&consumer->parts);
        part = ngx_queue_data(q, ngx_commerce_kafka_part_t, queue);
        part->op = NULL;                /* pg/ has told nobody, or will not */
        ngx_commerce_kafka_part_free(part);
    }

    if (consumer->timer.timer_set) {
        ngx_del_timer(&consumer->timer);
    }

    ngx_commerce_kafka_client_close(&consumer->client);

    if (consumer->topics) {
        rd_kafka_topic_partition_list_destroy(consumer->topics);
        consumer->topics = NULL;
    }
}


static void
ngx_commerce_kafka_consumer_event(ngx_commerce_kafka_client_t *client,
    rd_kafka_event_t *event)
{
    char                 text[256];
    rd_kafka_resp_err_t  err;

    switch (rd_kafka_event_type(event)) {

    case RD_KAFKA_EVENT_FETCH:
        ngx_commerce_kafka_consumer_fetched(event);
        return;                             /* kept with its message */

    case RD_KAFKA_EVENT_REBALANCE:
        ngx_commerce_kafka_consumer_rebalance(event);
        break;

    case RD_KAFKA_EVENT_ERROR:
        err = rd_kafka_event_error(event);

        if (err == RD_KAFKA_RESP_ERR__FATAL) {
            (void) rd_kafka_fatal_error(client->rk, text, sizeof(text));
            ngx_log_error(NGX_LOG_WARN, ngx_cycle->log, 0,
                          "Kafka's consumer begins anew: %s", text);
            rd_kafka_event_destroy(event);
            ngx_commerce_kafka_consumer_revoked(NULL);
            ngx_commerce_kafka_client_close(client);
            ngx_commerce_kafka_consumer.open_at = ngx_current_msec + 1000;
            return;
        }

        ngx_log_error((err == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART
                       ? NGX_LOG_NOTICE : NGX_LOG_WARN), ngx_cycle->log, 0,
                      "Kafka's consumer: %s",
                      rd_kafka_event_error_string(event));
        break;

    default:
        break;
    }

    rd_kafka_event_destroy(event);
}


static void
ngx_commerce_kafka_consumer_rebalance(rd_kafka_event_t *event)
{
    rd_kafka_t                       *rk;
    rd_kafka_error_t                 *error;
    rd_kafka_topic_partition_list_t  *list;

    rk = ngx_commerce_kafka_consumer.client.rk;
    list = rd_kafka_event_topic_partition_list(event);

    if (rd_kafka_event_error(event) == RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS) {
        ngx_commerce_kafka_consumer.client.endless = 0;
        ngx_commerce_kafka_consumer_assigned(list);

        if (ngx_strcmp(rd_kafka_rebalance_protocol(rk), "COOPERATIVE") == 0) {
            error = rd_kafka_incremental_assign(rk, list);

        } else {
            error = NULL;
            (void) rd_kafka_assign(rk, list);
        }

    } else {
        ngx_commerce_kafka_consumer_revoked(list);

        if (ngx_strcmp(rd_kafka_rebalance_protocol(rk), "COOPERATIVE") == 0) {
            error = rd_kafka_incremental_unassign(rk, list);

        } else {
            error = NULL;
            (void) rd_kafka_assign(rk, NULL);
        }
    }

    if (error) {
        ngx_log_error(NGX_LOG_WARN, ngx_cycle->log, 0,
                      "Kafka's consumer: a rebalance failed: %s",
                      rd_kafka_error_string(error));
        rd_kafka_error_destroy(error);
    }
}


/* What a partition held when it was ours before is read again from its stored offset. */

static void
ngx_commerce_kafka_consumer_assigned(
    const rd_kafka_topic_partition_list_t *list)
{
    int                         i;
    ngx_commerce_kafka_part_t  *part;

    for (i = 0; i < list->cnt; i++) {
        part = ngx_commerce_kafka_part_find(list->elems[i].topic,
                                            list->elems[i].partition, 0);
        if (part) {
            part->revoked = 1;

            if (part->op == NULL) {
                ngx_commerce_kafka_part_free(part);
            }
        }
    }
}


/* NULL: all. */

static void
ngx_commerce_kafka_consumer_revoked(
    const rd_kafka_topic_partition_list_t *list)
{
    int                         i;
    ngx_queue_t                *q, *next;
    ngx_commerce_kafka_part_t  *part;

    for (q = ngx_queue_head(&ngx_commerce_kafka_consumer.parts);
         q != ngx_queue_sentinel(&ngx_commerce_kafka_consumer.parts);
         q = next)
    {
        next = ngx_queue_next(q);
        part = ngx_queue_data(q, ngx_commerce_kafka_part_t, queue);

        for (i = 0; list && i < list->cnt; i++) {
            if (list->elems[i].partition == part->partition
                && ngx_strcmp(list->elems[i].topic, part->topic.data) == 0)
            {
                break;
            }
        }

        if (list && i == list->cnt) {
            continue;
        }

        part->revoked = 1;

        if (part->op == NULL) {
            ngx_commerce_kafka_part_free(part);

        } else if (list == NULL) {

            /* its messages are of an instance that ends now */

            ngx_commerce_pg_detach(part->op);
            part->op = NULL;
            ngx_commerce_kafka_part_free(part);
        }
    }
}


static void
ngx_commerce_kafka_consumer_fetched(rd_kafka_event_t *event)
{
    const rd_kafka_message_t   *message;
    ngx_commerce_kafka_part_t  *part;

    message = rd_kafka_event_message_next(event);

    if (message == NULL || message->err) {

        if (message && message->err != RD_KAFKA_RESP_ERR__PARTITION_EOF) {
            ngx_log_error((message->err
                           == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART
                           ? NGX_LOG_NOTICE : NGX_LOG_WARN),
                          ngx_cycle->log, 0,
                          "Kafka's consumer: %s",
                          rd_kafka_message_errstr(message));
        }

        rd_kafka_event_destroy(event);
        return;
    }

    part = ngx_commerce_kafka_part_find(rd_kafka_topic_name(message->rkt),
                                        message->partition, 1);

    if (part == NULL
        || ngx_commerce_kafka_part_take(part, event, message) != NGX_OK)
    {
        rd_kafka_event_destroy(event);      /* its offset is not stored: it comes again */
    }
}
