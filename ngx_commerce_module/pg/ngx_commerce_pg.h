/*
 * PostgreSQL on nginx's event loop: libpq in pipeline mode, lanes, deadlines.
 * Knows no HTTP.
 *
 * One pool per worker, made in init_process from the const configuration.  An
 * operation (ngx_commerce_pg_op_t) belongs to the pool's freelist, never to a
 * request: a request that goes away calls ngx_commerce_pg_detach() and the operation
 * runs to its end.
 */

#ifndef NGX_COMMERCE_PG_H
#define NGX_COMMERCE_PG_H


#include <ngx_config.h>
#include <ngx_core.h>
#include <libpq-fe.h>


typedef enum {
    NGX_COMMERCE_PG_READ = 0,
    NGX_COMMERCE_PG_WRITE,
    NGX_COMMERCE_PG_SLOW,
    NGX_COMMERCE_PG_EVENTS,             /* relay and consumers: ngx_commerce_pg_lane_use() */
    NGX_COMMERCE_PG_LANES
} ngx_commerce_pg_lane_t;


/*
 * How much depends on an operation.  A lane serves the first ones first, and refuses the last ones first when it, or
 * the lane for writes, falls behind: pg/README.md.
 */

typedef enum {
    NGX_COMMERCE_PG_VITAL = 0,          /* health, the edge's own work: never refused for load */
    NGX_COMMERCE_PG_CHECKOUT,
    NGX_COMMERCE_PG_CART,
    NGX_COMMERCE_PG_BROWSE,
    NGX_COMMERCE_PG_EXPORT,
    NGX_COMMERCE_PG_RANKS
} ngx_commerce_pg_rank_t;


/* A statement, registered while the configuration is read, prepared on every connection. */

typedef struct {
    ngx_str_t   name;                   /* made of the hash of the text; terminated */
    ngx_str_t   text;                   /* terminated */
    ngx_uint_t  params;
    ngx_uint_t  index;                  /* pg/'s own */
} ngx_commerce_pg_stmt_t;


typedef enum {
    NGX_COMMERCE_PG_OK = 0,             /* result: rows */
    NGX_COMMERCE_PG_FAILED,             /* the server refused: sqlstate, result has message and detail */
    NGX_COMMERCE_PG_OVERLOADED,         /* lane's queue full: nothing was sent */
    NGX_COMMERCE_PG_UNAVAILABLE,        /* no connection / breaker open: nothing was sent */
    NGX_COMMERCE_PG_TIMEOUT,            /* deadline passed while queued: nothing was sent */
    NGX_COMMERCE_PG_LOST                /* sent, but the connection or the deadline went: outcome unknown */
} ngx_commerce_pg_status_t;


typedef struct ngx_commerce_pg_op_s  ngx_commerce_pg_op_t;

/* Called exactly once, from the event loop, never from within submit(). result is NULL unless OK or FAILED; it is cleared after the
   handler returned. */
typedef void (*ngx_commerce_pg_handler_pt)(ngx_commerce_pg_op_t *op,
    ngx_commerce_pg_status_t status, const PGresult *result);

typedef struct {
    ngx_commerce_pg_stmt_t  *stmt;      /* NULL: none */
    ngx_str_t               *values;    /* stmt->params of them; data == NULL: SQL NULL; copied by submit().
                                           text format: no byte 0 inside */
} ngx_commerce_pg_query_t;

struct ngx_commerce_pg_op_s {
    /* filled by the caller */
    ngx_commerce_pg_lane_t       lane;
    ngx_commerce_pg_rank_t       rank;
    ngx_msec_t                   timeout;   /* 0: the lane's */
    ngx_commerce_pg_query_t      before;    /* same transaction, its rows are dropped, its failure is the op's */
    ngx_commerce_pg_query_t      query;
    /* a transaction of its own, not repeated on a lost connection; always for the lanes write and slow and without "before" */
    unsigned                     own_sync:1;
    ngx_commerce_pg_handler_pt   handler;
    void                        *data;

    /* to be read in the handler */
    ngx_msec_t                   queued_ms;     /* submit → sent */
    ngx_msec_t                   total_ms;
    ngx_uint_t                   attempts;      /* retries after 40001/40P01 and after a neighbour's abort included */

    /* private part follows in ngx_commerce_pg_internal.h */
};


/* configuration: directives `commerce_postgres …`, parsed by pg/, see docs/directives.md */

extern ngx_module_t  ngx_commerce_pg_module;

/* Registers (or finds) a statement; only while the configuration is read. */
ngx_commerce_pg_stmt_t *ngx_commerce_pg_statement(ngx_conf_t *cf,
    ngx_str_t *text, ngx_uint_t params);


/* The lane "events" has connections only when somebody says so, while the configuration is read. */
void ngx_commerce_pg_lane_use(ngx_conf_t *cf, ngx_commerce_pg_lane_t lane);


/* run time */

ngx_commerce_pg_op_t *ngx_commerce_pg_alloc(void);      /* NULL: no memory */

/*
 * Queues the operation.  NGX_OK: the handler will be called.  NGX_BUSY (overloaded), NGX_DECLINED (unavailable):
 * NGX_ERROR (no memory, a zero byte in a value):
 * the handler will not be called and the operation is freed; retry_after (seconds) may be asked from
 * ngx_commerce_pg_retry_after().
 */
ngx_int_t ngx_commerce_pg_submit(ngx_commerce_pg_op_t *op);
void ngx_commerce_pg_free(ngx_commerce_pg_op_t *op);    /* one that was not submitted */

/* The caller is gone: handler will not be called, the statement still runs, unless it is a read that was not sent yet. */
void ngx_commerce_pg_detach(ngx_commerce_pg_op_t *op);

ngx_uint_t ngx_commerce_pg_retry_after(ngx_commerce_pg_lane_t lane);

/* "closed", "open", "half-open": of all workers together. */
const char *ngx_commerce_pg_breaker(ngx_commerce_pg_lane_t lane);

typedef struct {
    ngx_uint_t  configured;
    ngx_uint_t  ready;              /* connections of this worker that serve */
    ngx_uint_t  queued;
    ngx_uint_t  in_flight;
    ngx_uint_t  breaker_open;
} ngx_commerce_pg_lane_status_t;

void ngx_commerce_pg_lane_status(ngx_commerce_pg_lane_t lane,
    ngx_commerce_pg_lane_status_t *status);

/* Called after each command of this worker that was committed, on the lanes write and slow: there may be events to be relayed. One handler. */
typedef void (*ngx_commerce_pg_commit_pt)(void);
void ngx_commerce_pg_on_commit(ngx_commerce_pg_commit_pt handler);  /* from init_process of another module */

/* A NOTIFY arrived, or (channel.len == 0) the connection is new and everything may have changed. One worker listens: see pg/README.md. */
typedef void (*ngx_commerce_pg_notify_pt)(ngx_str_t *channel,
    ngx_str_t *payload);
void ngx_commerce_pg_on_notify(const char *channel,
    ngx_commerce_pg_notify_pt handler);     /* from init_process of another module */

/* A worker that leaves goes on listening for so long, until a successor does; 0: not, or no longer. */
void ngx_commerce_pg_listen_linger(ngx_msec_t delay);


#endif /* NGX_COMMERCE_PG_H */
