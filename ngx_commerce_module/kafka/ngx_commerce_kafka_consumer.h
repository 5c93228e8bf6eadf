/*
 * Consumers, in two files: the group and its messages (consumer), and what a
 * partition does with its records (part).
 */

#ifndef NGX_COMMERCE_KAFKA_CONSUMER_H
#define NGX_COMMERCE_KAFKA_CONSUMER_H


#include "ngx_commerce_kafka_internal.h"


typedef struct {
    ngx_queue_t               queue;
    rd_kafka_event_t         *event;                /* owns the message */
    const rd_kafka_message_t *message;
} ngx_commerce_kafka_held_t;


typedef struct ngx_commerce_kafka_part_s  ngx_commerce_kafka_part_t;

struct ngx_commerce_kafka_part_s {
    ngx_queue_t              queue;                 /* of all */
    ngx_str_t                topic;
    int32_t                  partition;
    ngx_queue_t              waiting;               /* ngx_commerce_kafka_held_t, in order of offsets */
    ngx_uint_t               n;
    size_t                   bytes;
    ngx_commerce_pg_op_t    *op;                    /* the batch under way */
    ngx_uint_t               batch;                 /* its records: the first of "waiting" */
    ngx_uint_t               attempt;               /* of the first record, from 1 */
    ngx_uint_t               failures;              /* of the statement, in a row */
    ngx_uint_t               single;                /* one record at a time: it failed, or breaks the statement */
    ngx_event_t              timer;                 /* the next attempt */
    unsigned                 paused:1;
    unsigned                 revoked:1;             /* no longer ours; freed when the batch is back */
};


typedef struct {
    ngx_commerce_kafka_client_t  client;
    ngx_event_t                  timer;
    ngx_queue_t                  parts;
    ngx_uint_t                   leaving;
    ngx_uint_t                   closing;           /* librdkafka leaves the group */
    ngx_msec_t                   leave_by;
    ngx_msec_t                   open_at;
    rd_kafka_topic_partition_list_t  *topics;       /* NULL: not known yet */
} ngx_commerce_kafka_consumer_t;


extern ngx_commerce_kafka_consumer_t  ngx_commerce_kafka_consumer;


/* part */

ngx_commerce_kafka_part_t *ngx_commerce_kafka_part_find(const char *topic,
    int32_t partition, ngx_uint_t make);
void ngx_commerce_kafka_part_free(ngx_commerce_kafka_part_t *part);

/* Takes the event over. */
ngx_int_t ngx_commerce_kafka_part_take(ngx_commerce_kafka_part_t *part,
    rd_kafka_event_t *event, const rd_kafka_message_t *message);


#endif /* NGX_COMMERCE_KAFKA_CONSUMER_H */
