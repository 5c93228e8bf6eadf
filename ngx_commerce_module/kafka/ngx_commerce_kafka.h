/*
 * Events to and from Apache Kafka: a relay that empties the outbox, consumers
 * that hand records to SQL.  Knows no HTTP.
 *
 * Everything that must not be lost is a row in PostgreSQL; librdkafka's queues
 * may vanish with the worker at any time.
 */

#ifndef NGX_COMMERCE_KAFKA_H
#define NGX_COMMERCE_KAFKA_H


#include <ngx_config.h>
#include <ngx_core.h>


/* Counters of the node since its zone was made, and what its workers are now. */

typedef struct {
    ngx_uint_t         configured;
    ngx_uint_t         relay_shards;    /* leases that the node holds */
    ngx_atomic_uint_t  relayed;         /* events that the broker has acknowledged */
    ngx_atomic_uint_t  relay_failed;    /* records that it refused, and those taken back */
    ngx_atomic_uint_t  relay_rebuilt;   /* producers that were given up */
    ngx_atomic_uint_t  relay_turns;
    ngx_atomic_uint_t  consumed;        /* records whose effect is committed */
    ngx_atomic_uint_t  consume_retried; /* batches that stopped at a consumer that failed */
    ngx_atomic_uint_t  dead;            /* records that were buried */
    ngx_uint_t         consumer_ready;  /* of this worker: member of its group, a broker answers */
    ngx_uint_t         producer_ready;  /* the node's relay reaches a broker, or it is not this node's to relay */
    int64_t            consumer_lag;    /* of this worker's partitions; -1: not known */
} ngx_commerce_kafka_status_t;

void ngx_commerce_kafka_status(ngx_commerce_kafka_status_t *status);

/* "commerce_kafka off", or no such directive */
ngx_uint_t ngx_commerce_kafka_configured(void);


#endif /* NGX_COMMERCE_KAFKA_H */
