/*
 * The relay, in three files: who relays what (relay), the batches (lane), and
 * what sends them (producer).
 */

#ifndef NGX_COMMERCE_KAFKA_RELAY_H
#define NGX_COMMERCE_KAFKA_RELAY_H


#include "ngx_commerce_kafka_internal.h"


#define NGX_COMMERCE_KAFKA_BACKOFF  5000        /* ms at most between two attempts */


typedef enum {
    NGX_COMMERCE_KAFKA_IDLE = 0,
    NGX_COMMERCE_KAFKA_CLAIMING,                /* the statement is under way */
    NGX_COMMERCE_KAFKA_SENDING                  /* the brokers have not acknowledged all */
} ngx_commerce_kafka_lane_state_t;


/* A row of the outbox: by its number alone it could be another one, in a database that has lost its last second. */

typedef struct {
    int64_t                          id;
    u_char                           event[36]; /* as text */
    ngx_uint_t                       shard;
} ngx_commerce_kafka_row_t;


typedef struct {
    ngx_commerce_kafka_lane_state_t  state;
    ngx_uint_t                       number;
    ngx_uint_t                       count;     /* records that were produced */
    ngx_uint_t                       answered;
    ngx_uint_t                       failed;
    ngx_uint_t                       sent_n;    /* to be marked: the first of "sent" */
    ngx_uint_t                       marking;   /* of these, those that the statement under way marks */
    ngx_uint_t                       again;     /* there are more, or may be */
    ngx_uint_t                       full;      /* a shard of its own came back full, or failed: it is not left to the common lane */
    ngx_uint_t                       many;      /* events of a shard that the last claim asked for */
    ngx_uint_t                       generation;    /* of the producer, then */
    ngx_uint_t                       error_n;
    uint32_t                         shards;    /* of the last claim */
    uint32_t                         marked;    /* of those before, until their marks are committed */
    ngx_msec_t                       not_before;
    ngx_commerce_kafka_row_t         rows[NGX_COMMERCE_KAFKA_BATCH];
    ngx_commerce_kafka_row_t         sent[2 * NGX_COMMERCE_KAFKA_BATCH];
} ngx_commerce_kafka_lane_t;


typedef struct {
    ngx_commerce_kafka_client_t  producer;
    ngx_commerce_watch_t         wake;
    ngx_event_t                  timer;
    ngx_uint_t                   owner;         /* this worker relays for its node */
    ngx_uint_t                   leaving;
    ngx_msec_t                   leave_by;
    ngx_uint_t                   left;          /* the leases are given back, or that is under way */
    ngx_uint_t                   generation;    /* of the producer: reports of an earlier one are not heard */
    ngx_msec_t                   rebuild_at;
    ngx_uint_t                   rebuilds;      /* in a row */
    ngx_uint_t                   batch_size;    /* bytes of a broker's request that are taken; 0: as configured */
    ngx_uint_t                   narrow;        /* one was refused as too large */
    ngx_uint_t                   limits;        /* of topics are asked for; below, known */
    ngx_uint_t                   ready;         /* the producer makes batches that the topics take, as far as anybody says */
    ngx_uint_t                   topics;        /* they are there */
    ngx_uint_t                   turn;          /* polls since the lanes looked without being told */
    ngx_msec_t                   topics_at;
    ngx_msec_t                   topics_wait;   /* after the next failure */
    ngx_uint_t                   leasing;
    ngx_msec_t                   lease_asked;
    ngx_msec_t                   lease_next;
    ngx_msec_t                   lease_until;
    uint32_t                     held;          /* bits of shards */
    uint32_t                     yielding;      /* held, but somebody else's share: no longer claimed */
    ngx_commerce_kafka_lane_t    lanes[NGX_COMMERCE_KAFKA_LANES];
} ngx_commerce_kafka_relay_t;


extern ngx_commerce_kafka_relay_t  ngx_commerce_kafka_relay;


/* relay */

/* There may be events, of any shard. */
void ngx_commerce_kafka_relay_again(void);


/* producer */

/* Makes it, and its topics, when that is due.  False: there is none now. */
ngx_uint_t ngx_commerce_kafka_producer_ready(void);

void ngx_commerce_kafka_producer_event(ngx_commerce_kafka_client_t *client,
    rd_kafka_event_t *event);

/* Nothing that was produced and not acknowledged counts: it is claimed again, in order. */
void ngx_commerce_kafka_producer_rebuild(const char *why);

/* The same, when librdkafka has given the producer up: with its reason */
void ngx_commerce_kafka_producer_fatal(void);

/*
 * A broker refused a batch as too large, with this record in it.  NGX_OK: the
 * next producer makes smaller ones, and it is sent again; NGX_DECLINED: it was
 * alone.
 */
ngx_int_t ngx_commerce_kafka_producer_narrow(const rd_kafka_message_t *message);


/* lane */

/* Lets those that are idle and have something to do begin. */
void ngx_commerce_kafka_lanes_run(void);

/* Marks what was sent and claims what is next; without shards it only marks. */
void ngx_commerce_kafka_lane_claim(ngx_commerce_kafka_lane_t *lane,
    uint32_t shards);

/* Shards of which it has events under way, or sent and not marked. */
uint32_t ngx_commerce_kafka_lane_busy(const ngx_commerce_kafka_lane_t *lane);

/* The brokers' answers. */
void ngx_commerce_kafka_lane_report(rd_kafka_event_t *event);

/* Bits as PostgreSQL's array of numbers: at most 3 bytes each and 2. */
u_char *ngx_commerce_kafka_shards_text(u_char *p, uint32_t shards);
uint32_t ngx_commerce_kafka_shards_read(const char *text);


#endif /* NGX_COMMERCE_KAFKA_RELAY_H */
