/*
 * The relay's producer: made, thrown away with its queue when it cannot go on,
 * and made anew.  Then all that is not acknowledged is claimed again, so that no
 * record goes behind a later one of its key.
 */

#include "ngx_commerce_kafka_relay.h"


#define NGX_COMMERCE_KAFKA_TOPICS_PAUSE  60000  /* ms between two attempts to make what cannot be made */
#define NGX_COMMERCE_KAFKA_FRAME  128           /* bytes of a batch beside its records' own */


static ngx_int_t ngx_commerce_kafka_producer_open(void);
static ngx_uint_t ngx_commerce_kafka_producer_batch_size(void);
static void ngx_commerce_kafka_producer_narrowed(void);
static void ngx_commerce_kafka_producer_limits(rd_kafka_event_t *event);
static void ngx_commerce_kafka_producer_batches(ngx_uint_t size,
    const char *why);


static const ngx_commerce_kafka_property_t
    ngx_commerce_kafka_producer_properties[] = {

    { "client.id", "nginx-commerce-relay" },
    { "enable.idempotence", "true" },
    { "acks", "all" },
    { "linger.ms", "2" },
    { "queue.buffering.max.messages", "20000" },
    { "queue.buffering.max.kbytes", "65536" },
    /* for ever: one that timed out alone would be overtaken by those behind it; the relay takes all back or none */
    { "message.timeout.ms", "0" },
    { "reconnect.backoff.max.ms", "2000" },
    { "topic.metadata.propagation.max.ms", "10000" },
    { "socket.nagle.disable", "true" },
    { "statistics.interval.ms", "1000" },
    { "log.queue", "true" },
    { NULL, NULL }
};


ngx_uint_t
ngx_commerce_kafka_producer_ready(void)
{
    ngx_commerce_kafka_relay_t  *relay;

    relay = &ngx_commerce_kafka_relay;

    if (relay->producer.rk == NULL) {

        if ((ngx_msec_int_t) (ngx_current_msec - relay->rebuild_at) < 0) {
            return 0;
        }

        if (ngx_commerce_kafka_producer_open() != NGX_OK) {
            relay->rebuild_at = ngx_current_msec + NGX_COMMERCE_KAFKA_BACKOFF;
            return 0;
        }

        relay->generation++;
    }

    if (ngx_commerce_kafka_conf->topics && relay->topics == 0
        && (ngx_msec_int_t) (ngx_current_msec - relay->topics_at) >= 0)
    {
        relay->topics_at = ngx_current_msec
                           + (ngx_commerce_kafka_topics_create(&relay->producer)
                              == NGX_OK ? 20000 : 100);
    }

    if (!relay->ready && !relay->limits
        && ngx_commerce_kafka_topics_describe(&relay->producer) == NGX_OK)
    {
        relay->limits = 1;
    }

    return relay->ready;
}


/* What the brokers have taught goes behind what the configuration says. */

static ngx_int_t
ngx_commerce_kafka_producer_open(void)
{
    u_char                          size[NGX_INT_T_LEN + 1];
    ngx_array_t                     own;
    ngx_commerce_kafka_relay_t     *relay;
    ngx_commerce_kafka_property_t   property;

    relay = &ngx_commerce_kafka_relay;

    *ngx_sprintf(size, "%ui", relay->batch_size) = '\0';

    property.name = "batch.size";
    property.value = (char *) size;

    ngx_memzero(&own, sizeof(ngx_array_t));
    own.elts = &property;
    own.nelts = 1;

    return ngx_commerce_kafka_client_open(&relay->producer, RD_KAFKA_PRODUCER,
                                          relay->batch_size ? &own : NULL,
                                          ngx_commerce_kafka_producer_properties);
}


void
ngx_commerce_kafka_producer_rebuild(const char *why)
{
    ngx_msec_t                   pause;
    ngx_uint_t                   i;
    ngx_commerce_kafka_lane_t   *lane;
    ngx_commerce_kafka_relay_t  *relay;

    relay = &ngx_commerce_kafka_relay;

    ngx_log_error(NGX_LOG_WARN, ngx_cycle->log, 0,
                  "Kafka's relay begins with a new producer: %s", why);

    ngx_commerce_kafka_client_close(&relay->producer);
    relay->limits = 0;
    relay->ready = 0;

    (void) ngx_atomic_fetch_add(&ngx_commerce_kafka_shared->relay_rebuilt, 1);

    for (i = 0; i < NGX_COMMERCE_KAFKA_LANES; i++) {
        lane = &relay->lanes[i];

        if (lane->state == NGX_COMMERCE_KAFKA_SENDING) {
            (void) ngx_atomic_fetch_add(
                                     &ngx_commerce_kafka_shared->relay_failed,
                                     lane->count - lane->answered);
            lane->state = NGX_COMMERCE_KAFKA_IDLE;
        }
    }

    ngx_commerce_kafka_relay_again();

    pause = ngx_min(100 << ngx_min(relay->rebuilds, 6),
                    NGX_COMMERCE_KAFKA_BACKOFF);

    relay->rebuilds++;
    relay->generation++;
    relay->rebuild_at = ngx_current_msec + pause;
}


/* It is told twice, as an event and by the next record that is refused, whichever comes first. */

void
ngx_commerce_kafka_producer_fatal(void)
{
    char  text[256];

    text[0] = '\0';

    (void) rd_kafka_fatal_error(ngx_commerce_kafka_relay.producer.rk, text,
                                sizeof(text));

    ngx_commerce_kafka_producer_rebuild(text);
}


/*
 * librdkafka fills a batch up to its batch.size, a topic may take less, and a
 * broker refuses a batch as a whole.  A record of a batch's size had no
 * neighbours there.
 */

ngx_int_t
ngx_commerce_kafka_producer_narrow(const rd_kafka_message_t *message)
{
    size_t               i, len, n;
    const char          *name;
    const void          *value;
    ngx_uint_t           size;
    rd_kafka_headers_t  *headers;

    size = ngx_commerce_kafka_producer_batch_size();
    len = message->len + message->key_len + NGX_COMMERCE_KAFKA_FRAME;

    if (rd_kafka_message_headers(message, &headers)
        == RD_KAFKA_RESP_ERR_NO_ERROR)
    {
        for (i = 0;
             rd_kafka_header_get_all(headers, i, &name, &value, &n)
             == RD_KAFKA_RESP_ERR_NO_ERROR;
             i++)
        {
            len += ngx_strlen(name) + n;
        }
    }

    if (len >= size || size <= NGX_COMMERCE_KAFKA_NARROWEST) {
        return NGX_DECLINED;
    }

    ngx_commerce_kafka_relay.narrow = 1;

    return NGX_OK;
}


static ngx_uint_t
ngx_commerce_kafka_producer_batch_size(void)
{
    char    text[NGX_INT_T_LEN + 1];
    size_t  len;

    len = sizeof(text);

    if (rd_kafka_conf_get(rd_kafka_conf(ngx_commerce_kafka_relay.producer.rk),
                          "batch.size", text, &len)
        != RD_KAFKA_CONF_OK)
    {
        return 0;
    }

    return (ngx_uint_t) ngx_max(ngx_atoi((u_char *) text, ngx_strlen(text)),
                                0);
}


static void
ngx_commerce_kafka_producer_narrowed(void)
{
    ngx_commerce_kafka_relay.narrow = 0;

    ngx_commerce_kafka_producer_batches(
                              ngx_commerce_kafka_producer_batch_size() / 2,
                              "a broker refused a batch");
}


/* Asked before the first record, so that no broker has to refuse one, and again when topics were made. */

static void
ngx_commerce_kafka_producer_limits(rd_kafka_event_t *event)
{
    ngx_int_t                    rc;
    ngx_uint_t                   limit;
    ngx_commerce_kafka_relay_t  *relay;

    relay = &ngx_commerce_kafka_relay;
    relay->limits = 0;

    rc = ngx_commerce_kafka_topics_described(event, &limit);
    rd_kafka_event_destroy(event);

    if (rc != NGX_OK) {
        return;
    }

    if (limit && limit < ngx_commerce_kafka_producer_batch_size()) {
        ngx_commerce_kafka_producer_batches(limit, "a topic's "
                                            "max.message.bytes is lower");
        return;
    }

    relay->ready = 1;
    ngx_commerce_kafka_lanes_run();
}


/* All is taken back, so that what was refused does not go behind what was not. */

static void
ngx_commerce_kafka_producer_batches(ngx_uint_t size, const char *why)
{
    u_char                       text[128];
    ngx_commerce_kafka_relay_t  *relay;

    relay = &ngx_commerce_kafka_relay;
    relay->batch_size = size;

    *ngx_snprintf(text, sizeof(text) - 1, "%s, its batch.size is %ui from "
                  "now on", why, size)
        = '\0';

    ngx_commerce_kafka_producer_rebuild((char *) text);

    /* the brokers are well: there is nothing to wait for */

    relay->rebuilds = 0;
    relay->rebuild_at = ngx_current_msec;
}


void
ngx_commerce_kafka_producer_event(ngx_commerce_kafka_client_t *client,
    rd_kafka_event_t *event)
{
    rd_kafka_resp_err_t  err;

    switch (rd_kafka_event_type(event)) {

    case RD_KAFKA_EVENT_DR:
        ngx_commerce_kafka_lane_report(event);

        if (ngx_commerce_kafka_relay.narrow) {
            rd_kafka_event_destroy(event);
            ngx_commerce_kafka_producer_narrowed();
            return;
        }

        break;

    case RD_KAFKA_EVENT_CREATETOPICS_RESULT:
        if (ngx_commerce_kafka_topics_created(event) == NGX_OK) {
            ngx_commerce_kafka_relay.topics = 1;
            (void) ngx_commerce_kafka_topics_describe(client);

        } else {
            ngx_commerce_kafka_relay.topics_at = ngx_current_msec
                                       + ngx_commerce_kafka_relay.topics_wait;
            ngx_commerce_kafka_relay.topics_wait =
                               ngx_min(2 * ngx_commerce_kafka_relay.topics_wait,
                                       NGX_COMMERCE_KAFKA_TOPICS_PAUSE);
        }
        break;

    case RD_KAFKA_EVENT_DESCRIBECONFIGS_RESULT:
        ngx_commerce_kafka_producer_limits(event);
        return;

    case RD_KAFKA_EVENT_ERROR:
        err = rd_kafka_event_error(event);

        if (err == RD_KAFKA_RESP_ERR__FATAL) {
            rd_kafka_event_destroy(event);
            ngx_commerce_kafka_producer_fatal();
            return;
        }

        ngx_log_error(NGX_LOG_WARN, ngx_cycle->log, 0, "Kafka's relay: %s",
                      rd_kafka_event_error_string(event));
        break;

    default:
        break;
    }

    rd_kafka_event_destroy(event);
}
