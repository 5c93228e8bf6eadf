/*
 * What the files of kafka/ share.
 */

#ifndef NGX_COMMERCE_KAFKA_INTERNAL_H
#define NGX_COMMERCE_KAFKA_INTERNAL_H


#include "ngx_commerce_kafka.h"
#include "ngx_commerce_pg.h"
#include "ngx_commerce_watch.h"
#include <ngx_event.h>
#include <ngx_http.h>
#include <librdkafka/rdkafka.h>


#define NGX_COMMERCE_KAFKA_SHARDS  16       /* domain.shard() */
#define NGX_COMMERCE_KAFKA_LANES   5        /* of the relay: batches that are under way at once */
#define NGX_COMMERCE_KAFKA_BATCH   1000     /* records of one, at most */
#define NGX_COMMERCE_KAFKA_NARROWEST  500   /* bytes of one: below that no record has neighbours */

/* the last lane is for the shards of all lanes that have little to send; the others have so many each */

#define NGX_COMMERCE_KAFKA_COMMON  (NGX_COMMERCE_KAFKA_LANES - 1)

#define NGX_COMMERCE_KAFKA_SHARE                                              \
    (NGX_COMMERCE_KAFKA_SHARDS / NGX_COMMERCE_KAFKA_COMMON)


/* property=value for librdkafka */

typedef struct {
    char  *name;
    char  *value;
} ngx_commerce_kafka_property_t;


typedef struct {
    ngx_flag_t               enable;
    ngx_flag_t               relay;
    ngx_flag_t               consumer;
    ngx_flag_t               topics;            /* made when they are missing */
    ngx_array_t              common;            /* of ngx_commerce_kafka_property_t */
    ngx_array_t              own;               /* the consumer's */
    char                    *group;
    ngx_msec_t               poll;
    ngx_msec_t               lease;
    ngx_uint_t               batch;             /* events of a shard in one turn */
    size_t                   max_record;
    int                      partitions;        /* of a new topic; -1: the broker's default */
    int                      replication;
    ngx_shm_zone_t          *zone;
    ngx_commerce_pg_stmt_t  *lease_stmt;
    ngx_commerce_pg_stmt_t  *leave_stmt;
    ngx_commerce_pg_stmt_t  *turn_stmt;
    ngx_commerce_pg_stmt_t  *bury_stmt;
    ngx_commerce_pg_stmt_t  *topics_stmt;
    ngx_commerce_pg_stmt_t  *consume_stmt;
} ngx_commerce_kafka_main_conf_t;


/* Of all workers of the node, of both generations during a reload. */

typedef struct {
    u_char        node[32];                     /* random, hexadecimal: the holder of leases */
    ngx_atomic_t  relay;                        /* pid of the worker that relays; 0: nobody */
    ngx_atomic_t  beat;                         /* ms: when that one was last heard of */
    ngx_atomic_t  woken;                        /* an event was written since the relay looked */
    ngx_atomic_t  connected;                    /* brokers that the relay reaches */
    ngx_atomic_t  shards;
    ngx_atomic_t  relayed;
    ngx_atomic_t  relay_failed;
    ngx_atomic_t  relay_rebuilt;
    ngx_atomic_t  relay_turns;
    ngx_atomic_t  consumed;
    ngx_atomic_t  consume_retried;
    ngx_atomic_t  dead;
} ngx_commerce_kafka_shared_t;


/*
 * A librdkafka instance, its queue watched through an eventfd.  Its own
 * threads never touch anything of nginx's.
 */

typedef struct ngx_commerce_kafka_client_s  ngx_commerce_kafka_client_t;

typedef void (*ngx_commerce_kafka_event_pt)(
    ngx_commerce_kafka_client_t *client, rd_kafka_event_t *event);

struct ngx_commerce_kafka_client_s {
    rd_kafka_t                   *rk;           /* NULL: none */
    rd_kafka_queue_t             *queue;
    int                           fd;
    ngx_commerce_watch_t          watch;
    ngx_event_t                   more;         /* posted: the queue was not emptied in one go */
    ngx_commerce_kafka_event_pt   handler;
    ngx_commerce_watch_pt         closing;
    const char                   *what;         /* "producer", "consumer" */
    void                         *data;
    ngx_uint_t                    brokers_up;
    ngx_uint_t                    joined;       /* of a consumer */
    ngx_uint_t                    endless;      /* a consumer that had no assignment yet: must not be destroyed */
    int64_t                       lag;          /* of a consumer; -1: not known */
};


extern ngx_module_t  ngx_commerce_kafka_module;
extern const ngx_commerce_kafka_main_conf_t  *ngx_commerce_kafka_conf;
extern ngx_commerce_kafka_shared_t           *ngx_commerce_kafka_shared;
extern int                                    ngx_commerce_kafka_wake_fd;


/* client */

/* rd_kafka_new() with our log and statistics; takes nothing over when it fails. */
ngx_int_t ngx_commerce_kafka_client_open(ngx_commerce_kafka_client_t *client,
    rd_kafka_type_t type, const ngx_array_t *own,
    const ngx_commerce_kafka_property_t *defaults);

/* Lets the instance go at once; a thread of its own waits for its threads. */
void ngx_commerce_kafka_client_close(ngx_commerce_kafka_client_t *client);

/* exit_process, when all are closed: waits for these threads, but not for long. */
void ngx_commerce_kafka_client_wait(void);


/* relay */

void ngx_commerce_kafka_relay_init(ngx_cycle_t *cycle);
void ngx_commerce_kafka_relay_exit(void);
void ngx_commerce_kafka_relay_status(ngx_commerce_kafka_status_t *status);


/* topics */

typedef struct {
    ngx_str_t   name;                           /* terminated */
    ngx_uint_t  consumed;
    ngx_uint_t  missing;                        /* the brokers said so when they were asked last */
} ngx_commerce_kafka_topic_t;

/* Asks SQL for the contract's topics; the handler runs when they are known, again and again asked until then. */
typedef void (*ngx_commerce_kafka_topics_pt)(
    const ngx_commerce_kafka_topic_t *topics, ngx_uint_t n);

void ngx_commerce_kafka_topics_init(ngx_cycle_t *cycle,
    ngx_commerce_kafka_topics_pt handler);

/* Makes those that are missing; the result comes as an event. */
ngx_int_t ngx_commerce_kafka_topics_create(ngx_commerce_kafka_client_t *client);
ngx_int_t ngx_commerce_kafka_topics_created(rd_kafka_event_t *event);

/* Asks how large a batch may be; the result comes as an event.  NGX_AGAIN: SQL did not tell the topics yet. */
ngx_int_t ngx_commerce_kafka_topics_describe(
    ngx_commerce_kafka_client_t *client);

/* The smallest max.message.bytes that a batch can have, 0 when no broker says.  NGX_AGAIN: they did not answer. */
ngx_int_t ngx_commerce_kafka_topics_described(rd_kafka_event_t *event,
    ngx_uint_t *limit);

/* Whether it is the contract's, and nobody has said that it is missing. */
ngx_uint_t ngx_commerce_kafka_topics_has(const char *name);


/* consumer */

void ngx_commerce_kafka_consumer_init(ngx_cycle_t *cycle);
void ngx_commerce_kafka_consumer_subscribe(
    const ngx_commerce_kafka_topic_t *topics, ngx_uint_t n);
void ngx_commerce_kafka_consumer_exit(void);
void ngx_commerce_kafka_consumer_status(ngx_commerce_kafka_status_t *status);


/* record: a message as api.event_consume() takes it */

/* Bytes that ngx_commerce_kafka_record_write() needs at most. */
size_t ngx_commerce_kafka_record_size(const rd_kafka_message_t *message);

/* Writes the JSON object and returns its end. With "broken" the payload goes as bytes that nobody could read. */
u_char *ngx_commerce_kafka_record_write(u_char *p,
    const rd_kafka_message_t *message, ngx_pool_t *pool, ngx_uint_t broken);


#endif /* NGX_COMMERCE_KAFKA_INTERNAL_H */
