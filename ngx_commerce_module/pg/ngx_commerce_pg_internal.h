/*
 * What the files of pg/ share.  Nobody else includes this.
 *
 *   conf    directives → const configuration
 *   module  ngx_module_t, statements, the worker's start and end
 *   op      memory of operations
 *   link    one PGconn on the event loop: connect, back off, flush, close
 *   conn    a link in pipeline mode: statements sent, results in order
 *   lane    operations waiting for a connection, deadlines, breaker
 *   load    who is refused when a lane falls behind
 *   listen  a link outside pipeline mode that hears NOTIFY
 */

#ifndef NGX_COMMERCE_PG_INTERNAL_H
#define NGX_COMMERCE_PG_INTERNAL_H


#include <ngx_http.h>
#include "ngx_commerce_pg.h"
#include "ngx_commerce_password.h"
#include "ngx_commerce_watch.h"
#include "ngx_commerce_breaker.h"


#define NGX_COMMERCE_PG_KEYWORDS      24
#define NGX_COMMERCE_PG_ATTEMPTS      4     /* the first and three more */


/* conf */

typedef struct {
    ngx_str_t     lane;                 /* "read" */
    ngx_str_t     address;              /* as written, for the log */
    unsigned      set:1;                /* has a directive of its own */

    ngx_uint_t    connections;
    ngx_uint_t    depth;                /* operations in flight per connection */
    ngx_uint_t    queue;                /* operations waiting beyond that */
    ngx_msec_t    wait;                 /* submit → result, expected */
    ngx_msec_t    timeout;              /* submit → result */
    ngx_msec_t    connect_timeout;
    ngx_msec_t    grace;                /* how long to wait for a lane that is down */
    ngx_msec_t    statement_timeout;
    ngx_msec_t    lock_timeout;

    ngx_str_t     host;                 /* for TLS; a unix socket's folder */
    ngx_str_t     hostaddr;             /* numeric, comma-separated */
    ngx_str_t     port;
    ngx_str_t     dbname;
    ngx_str_t     user;
    ngx_str_t     password;
    ngx_str_t     sslmode;
    ngx_str_t     sslrootcert;
    ngx_str_t     sslcert;
    ngx_str_t     sslkey;

    /* PQconnectStartParams(), terminated by NULL */
    const char   *keywords[NGX_COMMERCE_PG_KEYWORDS];
    const char   *values[NGX_COMMERCE_PG_KEYWORDS];
} ngx_commerce_pg_lane_conf_t;

typedef struct {
    ngx_commerce_pg_lane_conf_t  lanes[NGX_COMMERCE_PG_LANES];
    ngx_array_t                  statements;    /* ngx_commerce_pg_stmt_t * */
    ngx_shm_zone_t              *breakers;      /* one per lane */
    ngx_uint_t                   configured;
    ngx_uint_t                   events;        /* the lane of this name is used */
} ngx_commerce_pg_main_conf_t;

void ngx_commerce_pg_conf_init(ngx_commerce_pg_main_conf_t *pmcf);
char *ngx_commerce_pg_conf_directive(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_commerce_pg_conf_finish(ngx_conf_t *cf,
    ngx_commerce_pg_main_conf_t *pmcf);


/* link */

typedef enum {
    NGX_COMMERCE_PG_LINK_CLOSED = 0,        /* for good, or not started */
    NGX_COMMERCE_PG_LINK_WAITING,           /* timer: the next attempt */
    NGX_COMMERCE_PG_LINK_CONNECTING,        /* timer: the attempt's deadline */
    NGX_COMMERCE_PG_LINK_UP
} ngx_commerce_pg_link_state_e;

typedef struct ngx_commerce_pg_link_s  ngx_commerce_pg_link_t;

typedef void (*ngx_commerce_pg_link_pt)(ngx_commerce_pg_link_t *link);

struct ngx_commerce_pg_link_s {
    PGconn                        *pg;
    ngx_commerce_pg_link_state_e   state;
    ngx_commerce_watch_t           watch;
    ngx_event_t                    timer;
    ngx_commerce_pg_lane_conf_t   *conf;
    const char                    *purpose;     /* for the log */
    ngx_uint_t                     failures;    /* since it last served */

    ngx_commerce_pg_link_pt        up;          /* connected */
    ngx_commerce_pg_link_pt        input;       /* bytes came */
    ngx_commerce_pg_link_pt        down;        /* was up; pg is gone already */
    ngx_commerce_pg_link_pt        closing;     /* the worker leaves, see ngx_commerce_watch_t */
    ngx_commerce_pg_link_pt        failed;      /* an attempt, or what was up; or NULL */
    ngx_commerce_breaker_t        *breaker;     /* who may connect; or NULL: always */
    void                          *data;
};

void ngx_commerce_pg_link_init(ngx_commerce_pg_link_t *link,
    ngx_commerce_pg_lane_conf_t *conf, const char *purpose, ngx_log_t *log);
void ngx_commerce_pg_link_start(ngx_commerce_pg_link_t *link,
    ngx_msec_t delay);
void ngx_commerce_pg_link_hurry(ngx_commerce_pg_link_t *link);
/* Reads what is there; NGX_ERROR: the connection is lost, but complete results may still be taken. */
ngx_int_t ngx_commerce_pg_link_consume(ngx_commerce_pg_link_t *link);
void ngx_commerce_pg_link_flush(ngx_commerce_pg_link_t *link);
/* It serves: the next failure begins with a short pause again. */
void ngx_commerce_pg_link_serves(ngx_commerce_pg_link_t *link);
/* Drops the connection, calls down() when it was up, and tries again later. */
void ngx_commerce_pg_link_fail(ngx_commerce_pg_link_t *link, const char *why);
void ngx_commerce_pg_link_close(ngx_commerce_pg_link_t *link);


/* op */

typedef struct ngx_commerce_pg_lane_state_s  ngx_commerce_pg_lane_state_t;
typedef struct ngx_commerce_pg_conn_s        ngx_commerce_pg_conn_t;

/* What is sent for one operation, in this order; each but the last is optional. */

typedef enum {
    NGX_COMMERCE_PG_STEP_CLOSE = 0,         /* DEALLOCATE a stale statement */
    NGX_COMMERCE_PG_STEP_PREPARE,
    NGX_COMMERCE_PG_STEP_RUN
} ngx_commerce_pg_step_e;

typedef struct {
    ngx_commerce_pg_step_e   kind;
    ngx_commerce_pg_stmt_t  *stmt;
} ngx_commerce_pg_step_t;

typedef struct {
    ngx_commerce_pg_op_t           op;          /* first: the caller's view */

    ngx_queue_t                    link;        /* waiting, in flight, or free */
    ngx_commerce_pg_lane_state_t  *lane;
    ngx_msec_t                     submitted;
    ngx_msec_t                     sent;
    ngx_msec_t                     deadline;

    u_char                        *buffer;      /* pointers, then the values */
    size_t                         size;
    const char                   **values;      /* of before, then of query */

    ngx_commerce_pg_step_t         steps[6];
    ngx_uint_t                     steps_count;
    ngx_uint_t                     step;        /* whose result comes next */
    ngx_uint_t                     failed_step;
    PGresult                      *result;      /* query's rows, or the error */

    unsigned                       alone:1;     /* may not share a Sync again */
    unsigned                       own:1;       /* sent with a Sync of its own: done when that came */
    unsigned                       sync:1;      /* a Sync follows it */
    unsigned                       failed:1;
    unsigned                       aborted:1;   /* by a neighbour */
    unsigned                       waiting:1;   /* not sent */
    unsigned                       expired:1;   /* handler was told, result still to come */
} ngx_commerce_pg_task_t;

#define ngx_commerce_pg_task(q)                                               \
    (ngx_queue_data(q, ngx_commerce_pg_task_t, link))

/* NGX_OK; NGX_ERROR: no memory, or a zero byte in a value. */
ngx_int_t ngx_commerce_pg_task_copy(ngx_commerce_pg_task_t *task);
/* Calls the handler, once. */
void ngx_commerce_pg_task_tell(ngx_commerce_pg_task_t *task,
    ngx_commerce_pg_status_t status);
/* Tells, and frees the task, which is in no queue any more. */
void ngx_commerce_pg_task_done(ngx_commerce_pg_task_t *task,
    ngx_commerce_pg_status_t status);
void ngx_commerce_pg_task_free_all(void);


/* conn */

typedef enum {
    NGX_COMMERCE_PG_STMT_MISSING = 0,
    NGX_COMMERCE_PG_STMT_SENT,              /* a Prepare is on its way */
    NGX_COMMERCE_PG_STMT_READY,
    NGX_COMMERCE_PG_STMT_STALE              /* its result type changed: prepare anew */
} ngx_commerce_pg_stmt_state_e;

struct ngx_commerce_pg_conn_s {
    ngx_commerce_pg_link_t         link;        /* first */
    ngx_commerce_pg_lane_state_t  *lane;
    ngx_uint_t                     number;

    ngx_queue_t                    flight;      /* tasks, in the order of the results */
    ngx_uint_t                     in_flight;
    ngx_msec_t                     last_input;
    ngx_event_t                    timer;       /* the earliest deadline in flight */

    u_char                        *prepared;    /* ngx_commerce_pg_stmt_state_e by statement */
    ngx_uint_t                     preparing;   /* statement whose result comes next */
    ngx_uint_t                     resume;      /* first statement that an earlier failure aborted */

    unsigned                       ready:1;     /* serves */
    unsigned                       dirty:1;     /* sent something in this turn */
    unsigned                       open:1;      /* … that no Sync follows yet */
    unsigned                       await_sync:1;
    unsigned                       await_null:1;
    unsigned                       retire:1;    /* close as soon as it is idle */
};

void ngx_commerce_pg_conn_init(ngx_commerce_pg_conn_t *conn,
    ngx_commerce_pg_lane_state_t *lane, ngx_log_t *log);
/* NGX_ERROR: the connection failed and the task with it; NGX_DECLINED: before the task was taken. */
ngx_int_t ngx_commerce_pg_conn_send(ngx_commerce_pg_conn_t *conn,
    ngx_commerce_pg_task_t *task);
/* The turn's Sync and flush. */
void ngx_commerce_pg_conn_finish(ngx_commerce_pg_conn_t *conn);
/* Takes the results that are complete.  NGX_ERROR: *why tells what broke the connection. */
ngx_int_t ngx_commerce_pg_conn_results(ngx_commerce_pg_conn_t *conn,
    const char **why);
/* Sends Prepare for the statements from conn->preparing on; ready when there is none left. */
void ngx_commerce_pg_conn_prepare(ngx_commerce_pg_conn_t *conn);


/* lane */

struct ngx_commerce_pg_lane_state_s {
    ngx_commerce_pg_lane_conf_t  *conf;
    ngx_commerce_pg_conn_t       *conns;
    ngx_uint_t                    ready;
    ngx_uint_t                    in_flight;
    ngx_queue_t                   waiting[NGX_COMMERCE_PG_RANKS];
    ngx_uint_t                    ranked[NGX_COMMERCE_PG_RANKS];
    ngx_uint_t                    queued;       /* their sum */
    ngx_uint_t                    pace;         /* µs from one result to the next while some wait */
    ngx_uint_t                    paces;        /* … and of how many, up to its memory */
    ngx_msec_t                    settled;      /* the last result */
    unsigned                      busy:1;       /* some waited then */
    ngx_commerce_breaker_t        breaker;
    ngx_msec_t                    down_since;   /* while ready == 0 */
    ngx_event_t                   timer;        /* the earliest deadline waiting */
};

typedef struct {
    ngx_commerce_pg_main_conf_t   *conf;        /* NULL: no pool in this process */
    ngx_commerce_pg_lane_state_t   lanes[NGX_COMMERCE_PG_LANES];
    ngx_event_t                    turn;        /* posted: what was gathered is sent */
    ngx_log_t                     *log;
} ngx_commerce_pg_pool_t;

extern ngx_commerce_pg_pool_t  ngx_commerce_pg_pool;

ngx_int_t ngx_commerce_pg_pool_init(ngx_cycle_t *cycle,
    ngx_commerce_pg_main_conf_t *pmcf);
void ngx_commerce_pg_pool_close(void);
void ngx_commerce_pg_lane_ready(ngx_commerce_pg_conn_t *conn);
void ngx_commerce_pg_lane_lost(ngx_commerce_pg_conn_t *conn);
void ngx_commerce_pg_lane_failed(ngx_commerce_pg_link_t *link);
/* The server has answered; retries what deserves it, else tells the caller. */
void ngx_commerce_pg_lane_settle(ngx_commerce_pg_conn_t *conn,
    ngx_commerce_pg_task_t *task);
/* Fails, or repeats, what was in flight on a connection that is gone. */
void ngx_commerce_pg_lane_drop(ngx_commerce_pg_lane_state_t *lane,
    ngx_queue_t *flight);
/* A statement's result type changed on the server: every connection prepares it anew. */
void ngx_commerce_pg_pool_stale(ngx_commerce_pg_stmt_t *stmt);
void ngx_commerce_pg_lane_wake(void);
void ngx_commerce_pg_lane_closing(ngx_commerce_pg_link_t *link);


/* module */

/* A command of this lane was committed. */
void ngx_commerce_pg_committed(ngx_commerce_pg_lane_t lane);


/* load */

/* Operations that wait beyond what the connections take now. */
ngx_uint_t ngx_commerce_pg_lane_backlog(ngx_commerce_pg_lane_state_t *lane);
/* Is an operation of this rank to be refused? */
ngx_uint_t ngx_commerce_pg_lane_sheds(ngx_commerce_pg_lane_state_t *lane,
    ngx_uint_t rank);
/* A result came. */
void ngx_commerce_pg_lane_measure(ngx_commerce_pg_lane_state_t *lane);


/* listen */

void ngx_commerce_pg_listen_init(ngx_commerce_pg_main_conf_t *pmcf,
    ngx_log_t *log);
void ngx_commerce_pg_listen_close(void);


#endif /* NGX_COMMERCE_PG_INTERNAL_H */
