/*
 * A librdkafka instance on nginx's event loop: an eventfd tells that its queue
 * is not empty, the queue is served in bounded turns, nothing here blocks.
 */

#include "ngx_commerce_kafka_internal.h"
#include "ngx_commerce_json.h"

#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>


#define NGX_COMMERCE_KAFKA_TURN  200        /* events that are served before others have theirs */
#define NGX_COMMERCE_KAFKA_EXIT  500        /* ms */


static rd_kafka_conf_t *ngx_commerce_kafka_client_conf(
    ngx_commerce_kafka_client_t *client, const ngx_array_t *own,
    const ngx_commerce_kafka_property_t *defaults);
static ngx_int_t ngx_commerce_kafka_client_set(rd_kafka_conf_t *conf,
    const ngx_commerce_kafka_property_t *property);
static void ngx_commerce_kafka_client_readable(ngx_commerce_watch_t *w);
static void ngx_commerce_kafka_client_more(ngx_event_t *ev);
static void ngx_commerce_kafka_client_serve(
    ngx_commerce_kafka_client_t *client);
static void ngx_commerce_kafka_client_log(ngx_commerce_kafka_client_t *client,
    rd_kafka_event_t *event);
static void ngx_commerce_kafka_client_stats(
    ngx_commerce_kafka_client_t *client, rd_kafka_event_t *event);
static void *ngx_commerce_kafka_client_alloc(void *ctx, size_t size);
static void *ngx_commerce_kafka_client_destroy(void *rk);


static const uint64_t  ngx_commerce_kafka_one = 1;

/* instances that were let go, and whose threads have not ended */
static ngx_atomic_t          ngx_commerce_kafka_ending;

/* the last one that must not be destroyed: still reachable */
static rd_kafka_t *volatile  ngx_commerce_kafka_kept;


ngx_int_t
ngx_commerce_kafka_client_open(ngx_commerce_kafka_client_t *client,
    rd_kafka_type_t type, const ngx_array_t *own,
    const ngx_commerce_kafka_property_t *defaults)
{
    char              error[512];
    rd_kafka_conf_t  *conf;

    client->rk = NULL;
    client->brokers_up = 0;
    client->joined = 0;
    client->endless = type == RD_KAFKA_CONSUMER;
    client->lag = -1;

    conf = ngx_commerce_kafka_client_conf(client, own, defaults);
    if (conf == NULL) {
        return NGX_ERROR;
    }

    /* librdkafka asks that this be non-blocking, or its threads may hang */

    client->fd = eventfd(0, EFD_NONBLOCK|EFD_CLOEXEC);

    if (client->fd == -1) {
        ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, ngx_errno,
                      "eventfd() for Kafka's %s failed", client->what);
        rd_kafka_conf_destroy(conf);
        return NGX_ERROR;
    }

    client->watch.readable = ngx_commerce_kafka_client_readable;
    client->watch.writable = NULL;
    client->watch.closing = client->closing;
    client->watch.data = client;

    client->more.handler = ngx_commerce_kafka_client_more;
    client->more.data = client;
    client->more.log = ngx_cycle->log;

    if (ngx_commerce_watch_open(&client->watch, client->fd, ngx_cycle->log)
        != NGX_OK)
    {
        (void) close(client->fd);
        rd_kafka_conf_destroy(conf);
        return NGX_ERROR;
    }

    client->rk = rd_kafka_new(type, conf, error, sizeof(error));

    if (client->rk == NULL) {
        ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                      "Kafka's %s cannot begin: %s", client->what, error);
        ngx_commerce_watch_close(&client->watch);
        (void) close(client->fd);
        rd_kafka_conf_destroy(conf);
        return NGX_ERROR;
    }

    if (type == RD_KAFKA_CONSUMER) {
        (void) rd_kafka_poll_set_consumer(client->rk);
        client->queue = rd_kafka_queue_get_consumer(client->rk);

    } else {
        client->queue = rd_kafka_queue_get_main(client->rk);
    }

    (void) rd_kafka_set_log_queue(client->rk, client->queue);

    rd_kafka_queue_io_event_enable(client->queue, client->fd,
                                   &ngx_commerce_kafka_one,
                                   sizeof(ngx_commerce_kafka_one));

    if (ngx_commerce_watch_set(&client->watch, 1, 0) != NGX_OK) {
        ngx_commerce_kafka_client_close(client);
        return NGX_ERROR;
    }

    /* what came before the descriptor was known */
    ngx_post_event(&client->more, &ngx_posted_events);

    return NGX_OK;
}


static rd_kafka_conf_t *
ngx_commerce_kafka_client_conf(ngx_commerce_kafka_client_t *client,
    const ngx_array_t *own, const ngx_commerce_kafka_property_t *defaults)
{
    ngx_uint_t                            i, n;
    rd_kafka_conf_t                      *conf;
    const ngx_array_t                    *lists[2];
    const ngx_commerce_kafka_property_t  *property;

    conf = rd_kafka_conf_new();
    if (conf == NULL) {
        return NULL;
    }

    /* ours first, then what the configuration says: it has the last word */

    for (property = defaults; property->name; property++) {
        if (ngx_commerce_kafka_client_set(conf, property) != NGX_OK) {
            rd_kafka_conf_destroy(conf);
            return NULL;
        }
    }

    lists[0] = &ngx_commerce_kafka_conf->common;
    lists[1] = own;

    for (n = 0; n < 2; n++) {
        if (lists[n] == NULL) {
            continue;
        }

        property = lists[n]->elts;

        for (i = 0; i < lists[n]->nelts; i++) {
            if (ngx_commerce_kafka_client_set(conf, &property[i]) != NGX_OK) {
                rd_kafka_conf_destroy(conf);
                return NULL;
            }
        }
    }

    rd_kafka_conf_set_events(conf, RD_KAFKA_EVENT_DR|RD_KAFKA_EVENT_ERROR
                                   |RD_KAFKA_EVENT_LOG|RD_KAFKA_EVENT_STATS
                                   |RD_KAFKA_EVENT_REBALANCE
                                   |RD_KAFKA_EVENT_OFFSET_COMMIT);

    return conf;
}


static ngx_int_t
ngx_commerce_kafka_client_set(rd_kafka_conf_t *conf,
    const ngx_commerce_kafka_property_t *property)
{
    char  error[512];

    if (rd_kafka_conf_set(conf, property->name, property->value, error,
                          sizeof(error))
        == RD_KAFKA_CONF_OK)
    {
        return NGX_OK;
    }

    ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0, "Kafka: %s", error);

    return NGX_ERROR;
}


static void
ngx_commerce_kafka_client_readable(ngx_commerce_watch_t *w)
{
    uint64_t                      n;
    ngx_commerce_kafka_client_t  *client;

    client = w->data;

    /* before the queue is served, or a wake-up would be lost */

    while (read(client->fd, &n, sizeof(n)) == sizeof(n)) { /* void */ }

    ngx_commerce_kafka_client_serve(client);
}


static void
ngx_commerce_kafka_client_more(ngx_event_t *ev)
{
    ngx_commerce_kafka_client_serve(ev->data);
}


static void
ngx_commerce_kafka_client_serve(ngx_commerce_kafka_client_t *client)
{
    ngx_uint_t         n;
    rd_kafka_t        *rk;
    rd_kafka_event_t  *event;

    rk = client->rk;

    for (n = 0; n < NGX_COMMERCE_KAFKA_TURN; n++) {

        if (client->rk == NULL || client->rk != rk) {
            return;
        }

        event = rd_kafka_queue_poll(client->queue, 0);
        if (event == NULL) {
            return;
        }

        switch (rd_kafka_event_type(event)) {

        case RD_KAFKA_EVENT_LOG:
            ngx_commerce_kafka_client_log(client, event);
            break;

        case RD_KAFKA_EVENT_STATS:
            ngx_commerce_kafka_client_stats(client, event);
            break;

        default:
            client->handler(client, event);
            continue;                       /* it is the handler's to destroy */
        }

        rd_kafka_event_destroy(event);
    }

    ngx_post_event(&client->more, &ngx_posted_next_events);
}


/* A broker that is away is told of as an error, not more: the shop goes on. */

static void
ngx_commerce_kafka_client_log(ngx_commerce_kafka_client_t *client,
    rd_kafka_event_t *event)
{
    int          level;
    ngx_uint_t   to;
    const char  *facility, *text;

    if (rd_kafka_event_log(event, &facility, &text, &level) != 0) {
        return;
    }

    to = level <= 3 ? NGX_LOG_ERR : level == 4 ? NGX_LOG_WARN
         : level == 5 ? NGX_LOG_NOTICE : NGX_LOG_INFO;

    ngx_log_error(to, ngx_cycle->log, 0, "Kafka's %s: %s: %s", client->what,
                  facility, text);
}


/* Once a second: whether a broker answers, whether the group has us, how far behind we are. */

static void
ngx_commerce_kafka_client_stats(ngx_commerce_kafka_client_t *client,
    rd_kafka_event_t *event)
{
    const char                 *text;
    ngx_pool_t                 *pool;
    ngx_commerce_json_t        *root, *broker, *state, *topic, *part, *ours,
                               *lag;
    ngx_commerce_alloc_t        alloc;
    ngx_commerce_json_error_t   error;
    ngx_commerce_json_limits_t  limits;

    text = rd_kafka_event_stats(event);
    pool = ngx_create_pool(16384, ngx_cycle->log);

    if (text == NULL || pool == NULL) {
        if (pool) {
            ngx_destroy_pool(pool);
        }
        return;
    }

    alloc.alloc = ngx_commerce_kafka_client_alloc;
    alloc.ctx = pool;
    limits.max_depth = 16;
    limits.max_members = 1000000;
    limits.nfc = 0;

    if (ngx_commerce_json_parse(&alloc, (const uint8_t *) text,
                                ngx_strlen(text), &limits, &root, &error)
        != NGX_COMMERCE_OK)
    {
        ngx_destroy_pool(pool);
        return;
    }

    client->brokers_up = 0;

    broker = ngx_commerce_json_get(root, "brokers");

    for (broker = broker ? broker->child : NULL; broker;
         broker = broker->next)
    {
        state = ngx_commerce_json_get(broker, "state");

        if (state && state->text.len == 2
            && ngx_strncmp(state->text.data, "UP", 2) == 0)
        {
            client->brokers_up++;
        }
    }

    state = ngx_commerce_json_get(ngx_commerce_json_get(root, "cgrp"),
                                  "join_state");

    client->joined = state && state->text.len == 6
                     && ngx_strncmp(state->text.data, "steady", 6) == 0;

    client->lag = -1;
    topic = ngx_commerce_json_get(root, "topics");

    for (topic = topic ? topic->child : NULL; topic; topic = topic->next) {

        part = ngx_commerce_json_get(topic, "partitions");

        for (part = part ? part->child : NULL; part; part = part->next) {

            /* one that another member has got since is told of as it was */

            ours = ngx_commerce_json_get(part, "desired");
            lag = ngx_commerce_json_get(part, "consumer_lag");

            if (ours && ours->type == NGX_COMMERCE_JSON_TRUE
                && lag && lag->integer && lag->number >= 0)
            {
                client->lag = ngx_max(client->lag, 0) + lag->number;
            }
        }
    }

    ngx_destroy_pool(pool);
}


static void *
ngx_commerce_kafka_client_alloc(void *ctx, size_t size)
{
    return ngx_palloc(ctx, size);
}


void
ngx_commerce_kafka_client_close(ngx_commerce_kafka_client_t *client)
{
    int          failed;
    sigset_t     all, was;
    pthread_t    thread;
    rd_kafka_t  *rk;

    rk = client->rk;

    if (rk == NULL) {
        return;
    }

    client->rk = NULL;
    client->brokers_up = 0;
    client->joined = 0;

    if (client->more.posted) {
        ngx_delete_posted_event(&client->more);
    }

    rd_kafka_queue_io_event_enable(client->queue, -1, NULL, 0);
    rd_kafka_queue_destroy(client->queue);
    client->queue = NULL;

    ngx_commerce_watch_close(&client->watch);
    (void) close(client->fd);

    /*
     * librdkafka before 2.3 aborts the process (its issue 4312) at the end of
     * an instance that joined a group and had no assignment in it: such a one
     * has left the group, if there was time, and its threads end with us.
     */

    if (client->endless) {
        ngx_commerce_kafka_kept = rk;
        return;
    }

    /* it waits for its threads: not on the event loop; signals are for that one */

    (void) sigfillset(&all);
    (void) pthread_sigmask(SIG_SETMASK, &all, &was);

    (void) ngx_atomic_fetch_add(&ngx_commerce_kafka_ending, 1);

    failed = pthread_create(&thread, NULL, ngx_commerce_kafka_client_destroy,
                            rk);

    (void) pthread_sigmask(SIG_SETMASK, &was, NULL);

    if (failed) {
        (void) ngx_atomic_fetch_add(&ngx_commerce_kafka_ending, -1);
        ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, failed,
                      "no thread to end Kafka's %s with", client->what);
        return;
    }

    (void) pthread_detach(thread);
}


/* An exit() under librdkafka's threads could take from them what they still use. */

void
ngx_commerce_kafka_client_wait(void)
{
    ngx_uint_t  waited;

    for (waited = 0;
         ngx_commerce_kafka_ending && waited < NGX_COMMERCE_KAFKA_EXIT;
         waited += 5)
    {
        ngx_msleep(5);
    }
}


static void *
ngx_commerce_kafka_client_destroy(void *rk)
{
    rd_kafka_destroy_flags(rk, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);

    (void) ngx_atomic_fetch_add(&ngx_commerce_kafka_ending, -1);

    return NULL;
}
