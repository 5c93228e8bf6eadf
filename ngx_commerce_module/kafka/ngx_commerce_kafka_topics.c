/*
 * Which topics there are: api/asyncapi.yaml as SQL knows it.  The relay makes
 * those that the brokers do not have yet, and asks how large a batch may be.
 */

#include "ngx_commerce_kafka_internal.h"


#define NGX_COMMERCE_KAFKA_TOPICS       128
#define NGX_COMMERCE_KAFKA_TOPICS_WAIT  15000   /* ms, for the brokers' answer */


static void ngx_commerce_kafka_topics_ask(ngx_event_t *ev);
static void ngx_commerce_kafka_topics_answer(ngx_commerce_pg_op_t *op,
    ngx_commerce_pg_status_t status, const PGresult *result);
static rd_kafka_AdminOptions_t *ngx_commerce_kafka_topics_options(
    ngx_commerce_kafka_client_t *client, rd_kafka_admin_op_t op);
static ngx_commerce_kafka_topic_t *ngx_commerce_kafka_topics_find(
    const char *name);
static ngx_uint_t ngx_commerce_kafka_topics_limit(
    const rd_kafka_ConfigResource_t *topic);


static struct {
    ngx_event_t                   timer;
    ngx_commerce_kafka_topics_pt  handler;
    ngx_pool_t                   *pool;
    ngx_uint_t                    n;
    ngx_commerce_kafka_topic_t    topics[NGX_COMMERCE_KAFKA_TOPICS];
} ngx_commerce_kafka_known;


void
ngx_commerce_kafka_topics_init(ngx_cycle_t *cycle,
    ngx_commerce_kafka_topics_pt handler)
{
    ngx_commerce_kafka_known.handler = handler;
    ngx_commerce_kafka_known.pool = cycle->pool;
    ngx_commerce_kafka_known.timer.handler = ngx_commerce_kafka_topics_ask;
    ngx_commerce_kafka_known.timer.data = &ngx_commerce_kafka_known;
    ngx_commerce_kafka_known.timer.log = cycle->log;
    ngx_commerce_kafka_known.timer.cancelable = 1;

    ngx_add_timer(&ngx_commerce_kafka_known.timer, 1);
}


static void
ngx_commerce_kafka_topics_ask(ngx_event_t *ev)
{
    ngx_commerce_pg_op_t  *op;

    if (ngx_exiting || ngx_terminate) {
        return;
    }

    op = ngx_commerce_pg_alloc();

    if (op) {
        op->lane = NGX_COMMERCE_PG_EVENTS;
        op->rank = NGX_COMMERCE_PG_VITAL;
        op->query.stmt = ngx_commerce_kafka_conf->topics_stmt;
        op->handler = ngx_commerce_kafka_topics_answer;

        if (ngx_commerce_pg_submit(op) == NGX_OK) {
            return;
        }
    }

    ngx_add_timer(ev, 500);
}


static void
ngx_commerce_kafka_topics_answer(ngx_commerce_pg_op_t *op,
    ngx_commerce_pg_status_t status, const PGresult *result)
{
    size_t                       len;
    ngx_uint_t                   i, n;
    ngx_commerce_kafka_topic_t  *topic;

    if (ngx_exiting || ngx_terminate) {
        return;
    }

    if (status != NGX_COMMERCE_PG_OK) {
        if (status == NGX_COMMERCE_PG_FAILED) {
            ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                          "Kafka: api.event_topics() failed: %s",
                          PQresultErrorField(result,
                                             PG_DIAG_MESSAGE_PRIMARY));
        }

        ngx_add_timer(&ngx_commerce_kafka_known.timer, 500);
        return;
    }

    n = ngx_min(PQntuples(result), NGX_COMMERCE_KAFKA_TOPICS);

    for (i = 0; i < n; i++) {
        topic = &ngx_commerce_kafka_known.topics[i];

        len = PQgetlength(result, i, 0);

        topic->name.data = ngx_pnalloc(ngx_commerce_kafka_known.pool, len + 1);
        if (topic->name.data == NULL) {
            return;
        }

        (void) ngx_cpystrn(topic->name.data,
                           (u_char *) PQgetvalue(result, i, 0), len + 1);
        topic->name.len = len;
        topic->consumed = PQgetvalue(result, i, 1)[0] == 't';
    }

    ngx_commerce_kafka_known.n = n;
    ngx_commerce_kafka_known.handler(ngx_commerce_kafka_known.topics, n);
}


/* NGX_AGAIN: SQL did not tell yet. */

ngx_int_t
ngx_commerce_kafka_topics_create(ngx_commerce_kafka_client_t *client)
{
    char                      error[256];
    ngx_uint_t                i, n;
    rd_kafka_NewTopic_t      *topics[NGX_COMMERCE_KAFKA_TOPICS];
    rd_kafka_AdminOptions_t  *options;

    if (ngx_commerce_kafka_known.n == 0) {
        return NGX_AGAIN;
    }

    n = 0;

    for (i = 0; i < ngx_commerce_kafka_known.n; i++) {
        topics[n] = rd_kafka_NewTopic_new(
                        (char *) ngx_commerce_kafka_known.topics[i].name.data,
                        ngx_commerce_kafka_conf->partitions,
                        ngx_commerce_kafka_conf->replication,
                        error, sizeof(error));
        if (topics[n]) {
            n++;

        } else {
            ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                          "Kafka's topic \"%V\": %s",
                          &ngx_commerce_kafka_known.topics[i].name, error);
        }
    }

    options = ngx_commerce_kafka_topics_options(client,
                                              RD_KAFKA_ADMIN_OP_CREATETOPICS);

    if (options && n) {
        rd_kafka_CreateTopics(client->rk, topics, n, options, client->queue);
    }

    rd_kafka_NewTopic_destroy_array(topics, n);

    if (options) {
        rd_kafka_AdminOptions_destroy(options);
    }

    return NGX_OK;
}


static rd_kafka_AdminOptions_t *
ngx_commerce_kafka_topics_options(ngx_commerce_kafka_client_t *client,
    rd_kafka_admin_op_t op)
{
    char                      error[256];
    rd_kafka_AdminOptions_t  *options;

    options = rd_kafka_AdminOptions_new(client->rk, op);

    if (options) {
        (void) rd_kafka_AdminOptions_set_request_timeout(options,
                                  NGX_COMMERCE_KAFKA_TOPICS_WAIT, error,
                                  sizeof(error));
    }

    return options;
}


/*
 * NGX_OK: they are all there; NGX_AGAIN: the brokers did not answer, or would
 * not make one: for lack of rights, or because a broker is not up yet.
 */

ngx_int_t
ngx_commerce_kafka_topics_created(rd_kafka_event_t *event)
{
    size_t                                 i, n, failed;
    const char                            *name;
    rd_kafka_resp_err_t                    err, why;
    const rd_kafka_topic_result_t        **topics;
    const rd_kafka_CreateTopics_result_t  *result;

    if (rd_kafka_event_error(event)) {
        return NGX_AGAIN;
    }

    result = rd_kafka_event_CreateTopics_result(event);
    topics = rd_kafka_CreateTopics_result_topics(result, &n);

    failed = 0;
    name = NULL;
    why = RD_KAFKA_RESP_ERR_NO_ERROR;

    for (i = 0; i < n; i++) {
        err = rd_kafka_topic_result_error(topics[i]);

        if (err != RD_KAFKA_RESP_ERR_NO_ERROR
            && err != RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS
            && failed++ == 0)
        {
            name = rd_kafka_topic_result_name(topics[i]);
            why = err;
        }
    }

    if (failed == 0) {
        return NGX_OK;
    }

    ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                  "%uz of Kafka's topics cannot be made, \"%s\" for one: %s; "
                  "asked again", failed, name, rd_kafka_err2str(why));

    return NGX_AGAIN;
}


ngx_int_t
ngx_commerce_kafka_topics_describe(ngx_commerce_kafka_client_t *client)
{
    ngx_uint_t                  i, n;
    rd_kafka_AdminOptions_t    *options;
    rd_kafka_ConfigResource_t  *topics[NGX_COMMERCE_KAFKA_TOPICS];

    n = ngx_commerce_kafka_known.n;

    if (n == 0) {
        return NGX_AGAIN;
    }

    options = ngx_commerce_kafka_topics_options(client,
                                           RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS);
    if (options == NULL) {
        return NGX_AGAIN;
    }

    for (i = 0; i < n; i++) {
        topics[i] = rd_kafka_ConfigResource_new(RD_KAFKA_RESOURCE_TOPIC,
                       (char *) ngx_commerce_kafka_known.topics[i].name.data);
    }

    rd_kafka_DescribeConfigs(client->rk, topics, n, options, client->queue);

    rd_kafka_ConfigResource_destroy_array(topics, n);
    rd_kafka_AdminOptions_destroy(options);

    return NGX_OK;
}


ngx_int_t
ngx_commerce_kafka_topics_described(rd_kafka_event_t *event,
    ngx_uint_t *limit)
{
    size_t                                    i, n;
    ngx_uint_t                                one;
    ngx_commerce_kafka_topic_t               *topic;
    const rd_kafka_ConfigResource_t         **topics;
    const rd_kafka_DescribeConfigs_result_t  *result;

    *limit = 0;

    switch (rd_kafka_event_error(event)) {

    case RD_KAFKA_RESP_ERR_NO_ERROR:
        break;

    case RD_KAFKA_RESP_ERR__TIMED_OUT:
    case RD_KAFKA_RESP_ERR__TRANSPORT:
    case RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT:
        return NGX_AGAIN;

    default:
        return NGX_OK;
    }

    result = rd_kafka_event_DescribeConfigs_result(event);
    topics = rd_kafka_DescribeConfigs_result_resources(result, &n);

    for (i = 0; i < n; i++) {
        topic = ngx_commerce_kafka_topics_find(
                                     rd_kafka_ConfigResource_name(topics[i]));
        if (topic) {
            topic->missing = rd_kafka_ConfigResource_error(topics[i])
                             == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
        }

        one = ngx_commerce_kafka_topics_limit(topics[i]);

        if (one > NGX_COMMERCE_KAFKA_NARROWEST
            && (*limit == 0 || one < *limit))
        {
            *limit = one;
        }
    }

    return NGX_OK;
}


ngx_uint_t
ngx_commerce_kafka_topics_has(const char *name)
{
    ngx_commerce_kafka_topic_t  *topic;

    topic = ngx_commerce_kafka_topics_find(name);

    return topic && !topic->missing;
}


static ngx_commerce_kafka_topic_t *
ngx_commerce_kafka_topics_find(const char *name)
{
    ngx_uint_t  i;

    for (i = 0; i < ngx_commerce_kafka_known.n; i++) {
        if (ngx_strcmp(ngx_commerce_kafka_known.topics[i].name.data, name)
            == 0)
        {
            return &ngx_commerce_kafka_known.topics[i];
        }
    }

    return NULL;
}


/* max.message.bytes; 0: the broker does not say, for want of rights or of the topic. */

static ngx_uint_t
ngx_commerce_kafka_topics_limit(const rd_kafka_ConfigResource_t *topic)
{
    size_t                          i, n;
    ngx_int_t                       limit;
    const char                     *value;
    const rd_kafka_ConfigEntry_t  **entries;

    if (rd_kafka_ConfigResource_error(topic) != RD_KAFKA_RESP_ERR_NO_ERROR) {
        return 0;
    }

    entries = rd_kafka_ConfigResource_configs(topic, &n);

    for (i = 0; i < n; i++) {

        if (ngx_strcmp(rd_kafka_ConfigEntry_name(entries[i]),
                       "max.message.bytes")
            != 0)
        {
            continue;
        }

        value = rd_kafka_ConfigEntry_value(entries[i]);
        limit = value ? ngx_atoi((u_char *) value, ngx_strlen(value)) : 0;

        return ngx_max(limit, 0);
    }

    return 0;
}
