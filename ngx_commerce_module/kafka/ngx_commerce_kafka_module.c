/*
 * Directives of Kafka, the node's shared memory, start and end of a worker.
 *
 *   commerce_kafka off | BROKERS [property=value ...];
 *   commerce_kafka_relay on|off [poll=] [lease=] [batch=];
 *   commerce_kafka_consumer off | GROUP [max_record=] [property=value ...];
 *   commerce_kafka_topics off | [partitions=] [replication=];
 */

#include "ngx_commerce_kafka_internal.h"

#include "ngx_commerce_jobs.h"

#include <openssl/rand.h>
#include <sys/eventfd.h>


static void *ngx_commerce_kafka_create_main_conf(ngx_conf_t *cf);
static char *ngx_commerce_kafka_init_main_conf(ngx_conf_t *cf, void *conf);
static ngx_int_t ngx_commerce_kafka_init_zone(ngx_shm_zone_t *zone,
    void *data);
static ngx_int_t ngx_commerce_kafka_init_module(ngx_cycle_t *cycle);
static ngx_int_t ngx_commerce_kafka_init_process(ngx_cycle_t *cycle);
static void ngx_commerce_kafka_exit_process(ngx_cycle_t *cycle);
static char *ngx_commerce_kafka(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_commerce_kafka_relay(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_commerce_kafka_consumer(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_commerce_kafka_topics(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_commerce_kafka_property(ngx_conf_t *cf, ngx_array_t *list,
    ngx_str_t *value);
static char *ngx_commerce_kafka_add(ngx_conf_t *cf, ngx_array_t *list,
    char *name, char *value);
static char *ngx_commerce_kafka_text(ngx_conf_t *cf, u_char *data,
    size_t len);
static ngx_uint_t ngx_commerce_kafka_is_off(ngx_str_t *value);
static ngx_int_t ngx_commerce_kafka_named(ngx_str_t *value, const char *name,
    ngx_str_t *rest);


static ngx_command_t  ngx_commerce_kafka_commands[] = {

    { ngx_string("commerce_kafka"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_1MORE,
      ngx_commerce_kafka,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("commerce_kafka_relay"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_1MORE,
      ngx_commerce_kafka_relay,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("commerce_kafka_consumer"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_1MORE,
      ngx_commerce_kafka_consumer,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("commerce_kafka_topics"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_1MORE,
      ngx_commerce_kafka_topics,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

      ngx_null_command
};


static ngx_http_module_t  ngx_commerce_kafka_module_ctx = {
    NULL,                                  /* preconfiguration */
    NULL,                                  /* postconfiguration */

    ngx_commerce_kafka_create_main_conf,   /* create main configuration */
    ngx_commerce_kafka_init_main_conf,     /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    NULL,                                  /* create location configuration */
    NULL                                   /* merge location configuration */
};


ngx_module_t  ngx_commerce_kafka_module = {
    NGX_MODULE_V1,
    &ngx_commerce_kafka_module_ctx,        /* module context */
    ngx_commerce_kafka_commands,           /* module directives */
    NGX_HTTP_MODULE,                       /* module type */
    NULL,                                  /* init master */
    ngx_commerce_kafka_init_module,        /* init module */
    ngx_commerce_kafka_init_process,       /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    ngx_commerce_kafka_exit_process,       /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


const ngx_commerce_kafka_main_conf_t  *ngx_commerce_kafka_conf;
ngx_commerce_kafka_shared_t           *ngx_commerce_kafka_shared;

/* made once by the master, so that both generations of a reload have the same */

int                                    ngx_commerce_kafka_wake_fd = -1;


static ngx_str_t  ngx_commerce_kafka_feed = ngx_string("api.events_feed");
static ngx_str_t  ngx_commerce_kafka_lease_text =
    ngx_string("SELECT l.shards, l.share FROM api.relay_lease($1, $2, $3) l");
static ngx_str_t  ngx_commerce_kafka_leave_text =
    ngx_string("SELECT api.relay_leave($1)");
static ngx_str_t  ngx_commerce_kafka_turn_text =
    ngx_string("SELECT t.id, t.topic, t.key, t.event_id, t.source, "
               "t.type, t.subject, t.\"time\", t.tenant_id, "
               "t.aggregate_version, t.correlation_id, t.traceparent, "
               "t.payload, t.shard FROM api.relay_turn($1, $2, $3, $4, $5, $6) t");
static ngx_str_t  ngx_commerce_kafka_bury_text =
    ngx_string("SELECT api.relay_bury($1, $2, $3, $4)");
static ngx_str_t  ngx_commerce_kafka_topics_text =
    ngx_string("SELECT t.topic, t.consumed FROM api.event_topics() t");
static ngx_str_t  ngx_commerce_kafka_consume_text =
    ngx_string("SELECT r.body FROM api.event_consume($1, $2) r");


ngx_uint_t
ngx_commerce_kafka_configured(void)
{
    return ngx_commerce_kafka_conf != NULL;
}


void
ngx_commerce_kafka_status(ngx_commerce_kafka_status_t *status)
{
    ngx_commerce_kafka_shared_t  *sh;

    ngx_memzero(status, sizeof(ngx_commerce_kafka_status_t));
    status->consumer_lag = -1;

    if (ngx_commerce_kafka_conf == NULL) {
        return;
    }

    sh = ngx_commerce_kafka_shared;

    status->configured = 1;
    status->relay_shards = sh->shards;
    status->relayed = sh->relayed;
    status->relay_failed = sh->relay_failed;
    status->relay_rebuilt = sh->relay_rebuilt;
    status->relay_turns = sh->relay_turns;
    status->consumed = sh->consumed;
    status->consume_retried = sh->consume_retried;
    status->dead = sh->dead;

    ngx_commerce_kafka_relay_status(status);
    ngx_commerce_kafka_consumer_status(status);
}


static void *
ngx_commerce_kafka_create_main_conf(ngx_conf_t *cf)
{
    ngx_commerce_kafka_main_conf_t  *kmcf;

    kmcf = ngx_pcalloc(cf->pool, sizeof(ngx_commerce_kafka_main_conf_t));
    if (kmcf == NULL) {
        return NULL;
    }

    /*
     * set by ngx_pcalloc():
     *
     *     kmcf->zone, statements = NULL;
     */

    kmcf->enable = NGX_CONF_UNSET;
    kmcf->relay = NGX_CONF_UNSET;
    kmcf->consumer = NGX_CONF_UNSET;
    kmcf->topics = NGX_CONF_UNSET;
    kmcf->group = "nginx-commerce";
    kmcf->poll = 50;
    kmcf->lease = 10000;
    kmcf->batch = 100;
    kmcf->max_record = 1024 * 1024;
    kmcf->partitions = -1;
    kmcf->replication = -1;

    if (ngx_array_init(&kmcf->common, cf->pool, 4,
                       sizeof(ngx_commerce_kafka_property_t)) != NGX_OK
        || ngx_array_init(&kmcf->own, cf->pool, 4,
                          sizeof(ngx_commerce_kafka_property_t)) != NGX_OK)
    {
        return NULL;
    }

    return kmcf;
}


static char *
ngx_commerce_kafka_init_main_conf(ngx_conf_t *cf, void *conf)
{
    ngx_commerce_kafka_main_conf_t  *kmcf = conf;

    ngx_str_t  name;

    ngx_conf_init_value(kmcf->enable, 0);
    ngx_conf_init_value(kmcf->relay, 1);
    ngx_conf_init_value(kmcf->consumer, 1);
    ngx_conf_init_value(kmcf->topics, 0);

    if (!kmcf->enable) {
        return NGX_CONF_OK;
    }

    /* the outbox has one owner: events that the relay is to send are not fed to the consumers as well */

    ngx_commerce_job_drop(cf, &ngx_commerce_kafka_feed);

    kmcf->lease_stmt = ngx_commerce_pg_statement(cf,
                                        &ngx_commerce_kafka_lease_text, 3);
    kmcf->leave_stmt = ngx_commerce_pg_statement(cf,
                                        &ngx_commerce_kafka_leave_text, 1);
    kmcf->turn_stmt = ngx_commerce_pg_statement(cf,
                                        &ngx_commerce_kafka_turn_text, 6);
    kmcf->bury_stmt = ngx_commerce_pg_statement(cf,
                                        &ngx_commerce_kafka_bury_text, 4);
    kmcf->topics_stmt = ngx_commerce_pg_statement(cf,
                                        &ngx_commerce_kafka_topics_text, 0);
    kmcf->consume_stmt = ngx_commerce_pg_statement(cf,
                                        &ngx_commerce_kafka_consume_text, 2);

    if (kmcf->lease_stmt == NULL || kmcf->leave_stmt == NULL
        || kmcf->turn_stmt == NULL || kmcf->bury_stmt == NULL
        || kmcf->topics_stmt == NULL || kmcf->consume_stmt == NULL)
    {
        return NGX_CONF_ERROR;
    }

    ngx_str_set(&name, "commerce_kafka");

    kmcf->zone = ngx_shared_memory_add(cf, &name, 8 * ngx_pagesize,
                                       &ngx_commerce_kafka_module);
    if (kmcf->zone == NULL) {
        return NGX_CONF_ERROR;
    }

    kmcf->zone->init = ngx_commerce_kafka_init_zone;

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_commerce_kafka_init_zone(ngx_shm_zone_t *zone, void *data)
{
    u_char                        bytes[16];
    ngx_slab_pool_t              *shpool;
    ngx_commerce_kafka_shared_t  *sh;

    if (data) {
        zone->data = data;
        return NGX_OK;
    }

    shpool = (ngx_slab_pool_t *) zone->shm.addr;

    if (zone->shm.exists) {
        zone->data = shpool->data;
        return NGX_OK;
    }

    sh = ngx_slab_calloc(shpool, sizeof(ngx_commerce_kafka_shared_t));

    if (sh == NULL || RAND_bytes(bytes, sizeof(bytes)) != 1) {
        return NGX_ERROR;
    }

    (void) ngx_hex_dump(sh->node, bytes, sizeof(bytes));

    shpool->data = sh;
    zone->data = sh;

    return NGX_OK;
}


static ngx_int_t
ngx_commerce_kafka_init_module(ngx_cycle_t *cycle)
{
    if (ngx_commerce_kafka_wake_fd == -1 && !ngx_test_config) {
        ngx_commerce_kafka_wake_fd = eventfd(0, EFD_NONBLOCK|EFD_CLOEXEC);

        if (ngx_commerce_kafka_wake_fd == -1) {
            ngx_log_error(NGX_LOG_EMERG, cycle->log, ngx_errno,
                          "eventfd() for the relay failed");
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_commerce_kafka_init_process(ngx_cycle_t *cycle)
{
    ngx_commerce_kafka_main_conf_t  *kmcf;

    if (ngx_process != NGX_PROCESS_WORKER && ngx_process != NGX_PROCESS_SINGLE)
    {
        return NGX_OK;
    }

    kmcf = ngx_http_cycle_get_module_main_conf(cycle,
                                               ngx_commerce_kafka_module);

    if (kmcf == NULL || !kmcf->enable) {
        return NGX_OK;
    }

    ngx_commerce_kafka_conf = kmcf;
    ngx_commerce_kafka_shared = kmcf->zone->data;

    ngx_commerce_kafka_consumer_init(cycle);
    ngx_commerce_kafka_topics_init(cycle,
                                   ngx_commerce_kafka_consumer_subscribe);
    ngx_commerce_kafka_relay_init(cycle);

    return NGX_OK;
}


static void
ngx_commerce_kafka_exit_process(ngx_cycle_t *cycle)
{
    if (ngx_commerce_kafka_conf) {
        ngx_commerce_kafka_relay_exit();
        ngx_commerce_kafka_consumer_exit();
        ngx_commerce_kafka_client_wait();
    }
}


static char *
ngx_commerce_kafka(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_commerce_kafka_main_conf_t  *kmcf = conf;

    char        *rv, *brokers;
    ngx_str_t   *value;
    ngx_uint_t   i;

    if (kmcf->enable != NGX_CONF_UNSET) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (ngx_commerce_kafka_is_off(&value[1])) {
        kmcf->enable = 0;
        return cf->args->nelts == 2 ? NGX_CONF_OK
               : "takes no properties after \"off\"";
    }

    kmcf->enable = 1;

    brokers = ngx_commerce_kafka_text(cf, value[1].data, value[1].len);
    if (brokers == NULL) {
        return NGX_CONF_ERROR;
    }

    rv = ngx_commerce_kafka_add(cf, &kmcf->common, "bootstrap.servers",
                                brokers);

    for (i = 2; rv == NGX_CONF_OK && i < cf->args->nelts; i++) {
        rv = ngx_commerce_kafka_property(cf, &kmcf->common, &value[i]);
    }

    ngx_commerce_pg_lane_use(cf, NGX_COMMERCE_PG_EVENTS);

    return rv;
}


static char *
ngx_commerce_kafka_relay(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_commerce_kafka_main_conf_t  *kmcf = conf;

    ngx_int_t    n;
    ngx_str_t   *value, rest;
    ngx_uint_t   i;

    if (kmcf->relay != NGX_CONF_UNSET) {
        return "is duplicate";
    }

    value = cf->args->elts;
    kmcf->relay = !ngx_commerce_kafka_is_off(&value[1]);

    i = !kmcf->relay
        || (value[1].len == 2 && ngx_strncmp(value[1].data, "on", 2) == 0)
        ? 2 : 1;

    for ( /* void */ ; i < cf->args->nelts; i++) {

        if (ngx_commerce_kafka_named(&value[i], "poll", &rest) == NGX_OK) {
            n = ngx_parse_time(&rest, 0);

            if (n >= 10 && n <= 1000) {
                kmcf->poll = n;
                continue;
            }

        } else if (ngx_commerce_kafka_named(&value[i], "lease", &rest)
                   == NGX_OK)
        {
            n = ngx_parse_time(&rest, 0);

            if (n >= 1000 && n <= 300000) {
                kmcf->lease = n;
                continue;
            }

        } else if (ngx_commerce_kafka_named(&value[i], "batch", &rest)
                   == NGX_OK)
        {
            n = ngx_atoi(rest.data, rest.len);

            if (n >= 1
                && n <= NGX_COMMERCE_KAFKA_BATCH / NGX_COMMERCE_KAFKA_SHARE)
            {
                kmcf->batch = n;
                continue;
            }
        }

        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid parameter \"%V\" in "
                           "\"commerce_kafka_relay\": it takes poll=10ms to "
                           "1s, lease=1s to 5m and batch=1 to %d", &value[i],
                           NGX_COMMERCE_KAFKA_BATCH
                           / NGX_COMMERCE_KAFKA_SHARE);
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


static char *
ngx_commerce_kafka_consumer(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_commerce_kafka_main_conf_t  *kmcf = conf;

    char        *rv;
    ssize_t      size;
    ngx_str_t   *value, rest;
    ngx_uint_t   i;

    if (kmcf->consumer != NGX_CONF_UNSET) {
        return "is duplicate";
    }

    value = cf->args->elts;
    kmcf->consumer = !ngx_commerce_kafka_is_off(&value[1]);

    if (!kmcf->consumer) {
        return NGX_CONF_OK;
    }

    kmcf->group = ngx_commerce_kafka_text(cf, value[1].data, value[1].len);
    if (kmcf->group == NULL) {
        return NGX_CONF_ERROR;
    }

    for (i = 2; i < cf->args->nelts; i++) {

        if (ngx_commerce_kafka_named(&value[i], "max_record", &rest)
            == NGX_OK)
        {
            size = ngx_parse_size(&rest);

            if (size < 1024 || size > 8 * 1024 * 1024) {
                ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                                   "\"max_record\" must be from 1k to 8m");
                return NGX_CONF_ERROR;
            }

            kmcf->max_record = size;
            continue;
        }

        rv = ngx_commerce_kafka_property(cf, &kmcf->own, &value[i]);
        if (rv != NGX_CONF_OK) {
            return rv;
        }
    }

    return NGX_CONF_OK;
}


static char *
ngx_commerce_kafka_topics(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_commerce_kafka_main_conf_t  *kmcf = conf;

    int         *target;
    ngx_int_t    n;
    ngx_str_t   *value, rest;
    ngx_uint_t   i;

    if (kmcf->topics != NGX_CONF_UNSET) {
        return "is duplicate";
    }

    value = cf->args->elts;
    kmcf->topics = !ngx_commerce_kafka_is_off(&value[1]);

    for (i = 1; kmcf->topics && i < cf->args->nelts; i++) {

        target = ngx_commerce_kafka_named(&value[i], "partitions", &rest)
                 == NGX_OK ? &kmcf->partitions
                 : ngx_commerce_kafka_named(&value[i], "replication", &rest)
                   == NGX_OK ? &kmcf->replication : NULL;

        n = target ? ngx_atoi(rest.data, rest.len) : NGX_ERROR;

        if (n < 1 || n > 1000) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid parameter \"%V\" in "
                               "\"commerce_kafka_topics\": it takes "
                               "partitions=N and replication=N, or off",
                               &value[i]);
            return NGX_CONF_ERROR;
        }

        *target = n;
    }

    return NGX_CONF_OK;
}


/* librdkafka says at once whether it knows the property. */

static char *
ngx_commerce_kafka_property(ngx_conf_t *cf, ngx_array_t *list,
    ngx_str_t *value)
{
    char             *name, *text, error[512];
    u_char           *eq;
    rd_kafka_conf_t  *conf;

    eq = ngx_strlchr(value->data, value->data + value->len, '=');

    if (eq == NULL || eq == value->data) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"%V\" is no property=value of librdkafka", value);
        return NGX_CONF_ERROR;
    }

    name = ngx_commerce_kafka_text(cf, value->data, eq - value->data);
    text = ngx_commerce_kafka_text(cf, eq + 1,
                                   value->data + value->len - eq - 1);
    if (name == NULL || text == NULL) {
        return NGX_CONF_ERROR;
    }

    conf = rd_kafka_conf_new();

    if (rd_kafka_conf_set(conf, name, text, error, sizeof(error))
        != RD_KAFKA_CONF_OK)
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "librdkafka: %s", error);
        rd_kafka_conf_destroy(conf);
        return NGX_CONF_ERROR;
    }

    rd_kafka_conf_destroy(conf);

    return ngx_commerce_kafka_add(cf, list, name, text);
}


static char *
ngx_commerce_kafka_add(ngx_conf_t *cf, ngx_array_t *list, char *name,
    char *value)
{
    ngx_commerce_kafka_property_t  *property;

    property = ngx_array_push(list);
    if (property == NULL) {
        return NGX_CONF_ERROR;
    }

    property->name = name;
    property->value = value;

    return NGX_CONF_OK;
}


static char *
ngx_commerce_kafka_text(ngx_conf_t *cf, u_char *data, size_t len)
{
    u_char  *p;

    p = ngx_pnalloc(cf->pool, len + 1);

    if (p) {
        ngx_memcpy(p, data, len);
        p[len] = '\0';
    }

    return (char *) p;
}


static ngx_uint_t
ngx_commerce_kafka_is_off(ngx_str_t *value)
{
    return value->len == 3 && ngx_strncmp(value->data, "off", 3) == 0;
}


static ngx_int_t
ngx_commerce_kafka_named(ngx_str_t *value, const char *name, ngx_str_t *rest)
{
    size_t  len;

    len = ngx_strlen(name);

    if (value->len <= len || value->data[len] != '='
        || ngx_strncmp(value->data, name, len) != 0)
    {
        return NGX_DECLINED;
    }

    rest->data = value->data + len + 1;
    rest->len = value->len - len - 1;

    return NGX_OK;
}
