/*
 * What the files of redis/ share.  Nothing here is for other folders.
 */

#ifndef NGX_COMMERCE_REDIS_INTERNAL_H
#define NGX_COMMERCE_REDIS_INTERNAL_H


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include <ngx_http.h>

#include "ngx_commerce_password.h"
#include "ngx_commerce_watch.h"
#include "ngx_commerce_breaker.h"
#include "ngx_commerce_pg.h"
#include "ngx_commerce_redis.h"


#define NGX_COMMERCE_REDIS_MAX_VALUES  16
#define NGX_COMMERCE_REDIS_MAX_CONNS   16


struct ngx_commerce_redis_script_s {
    ngx_str_t    name;
    ngx_str_t    text;                  /* includes expanded */
    u_char       sha[40];
    ngx_uint_t   index;
};


typedef struct {
    ngx_flag_t   enable;
    ngx_str_t    name;                  /* as configured, for the log */
    ngx_str_t    host;                  /* numeric, or the path; terminated */
    in_port_t    port;                  /* 0: unix socket */
    ngx_str_t    user;
    ngx_str_t    password;
    ngx_msec_t   timeout;
    ngx_uint_t   connections;
    ngx_uint_t   queue;                 /* commands under way, per connection */

    ngx_str_t    scripts_dir;
    ngx_array_t  scripts;               /* of ngx_commerce_redis_script_t * */

    ngx_shm_zone_t  *zone;              /* of ngx_commerce_redis_shared_t */
    ngx_shm_zone_t  *breaker;

    ngx_msec_t   backup_interval;
    ngx_array_t  backups;               /* of ngx_commerce_backup_t * */
} ngx_commerce_redis_main_conf_t;


typedef enum {
    NGX_COMMERCE_REDIS_DOWN = 0,        /* breaker open until `retry` */
    NGX_COMMERCE_REDIS_CONNECTING,
    NGX_COMMERCE_REDIS_SETUP,           /* half-open: AUTH, scripts, probe */
    NGX_COMMERCE_REDIS_READY,
    NGX_COMMERCE_REDIS_LEAVING          /* answers only, then closed */
} ngx_commerce_redis_state_t;


typedef struct {
    redisAsyncContext           *context;
    ngx_commerce_redis_state_t   state;
    ngx_commerce_watch_t         watch;
    ngx_event_t                  flush;     /* posted */
    ngx_event_t                  deadline;  /* of the oldest command */
    ngx_event_t                  retry;
    ngx_queue_t                  pending;   /* operations, in order sent */
    ngx_uint_t                   in_flight;
    ngx_uint_t                   awaited;   /* answers of the setup */
    ngx_uint_t                   failures;  /* since it was last ready */
    ngx_msec_t                   tried;     /* last connect */
    unsigned                     flushing:1;
} ngx_commerce_redis_conn_t;


struct ngx_commerce_redis_op_s {
    ngx_queue_t                     queue;
    ngx_commerce_redis_conn_t      *conn;
    ngx_commerce_redis_script_t    *script;
    ngx_commerce_redis_handler_pt   handler;    /* NULL: detached */
    void                           *data;
    ngx_msec_t                      sent;
    ngx_uint_t                      keys;
    ngx_uint_t                      values;
    const char                     *argv[NGX_COMMERCE_REDIS_MAX_VALUES + 3];
    size_t                          argvlen[NGX_COMMERCE_REDIS_MAX_VALUES + 3];
    u_char                         *buffer;
    size_t                          size;
    unsigned                        reloaded:1;
};


/* What the workers of a node tell each other. */

typedef struct {
    ngx_atomic_t   served;              /* when Redis last served one of them */
} ngx_commerce_redis_shared_t;


typedef struct {
    const ngx_commerce_redis_main_conf_t  *conf;
    ngx_commerce_redis_shared_t           *shared;
    ngx_commerce_breaker_t                 breaker;
    ngx_msec_t                             down_since;
    ngx_commerce_redis_conn_t             *conns;
    ngx_queue_t                            free;    /* operations */
    ngx_queue_t                            held;    /* operations, see op.c */
    ngx_uint_t                             held_count;
    ngx_event_t                            hold;    /* deadline of these */
    ngx_commerce_redis_stats_t             stats;
    unsigned                               starting:1;
    unsigned                               synced:1;
    unsigned                               gone:1;  /* the process ends */
} ngx_commerce_redis_pool_t;


/* One per worker.  conf == NULL: no commerce_redis, or not a worker. */
extern ngx_commerce_redis_pool_t  ngx_commerce_redis_pool;


/* ngx_commerce_redis_conn.c */
void ngx_commerce_redis_conn_init(ngx_commerce_redis_conn_t *conn);
void ngx_commerce_redis_conn_leave(ngx_commerce_redis_conn_t *conn);
void ngx_commerce_redis_conn_hasten(void);
void ngx_commerce_redis_conn_exit(ngx_commerce_redis_conn_t *conn);
ngx_uint_t ngx_commerce_redis_ready(void);

/* ngx_commerce_redis_op.c; eval_now: also before the carts are in step */
ngx_commerce_redis_op_t *ngx_commerce_redis_eval_now(
    ngx_commerce_redis_script_t *script, ngx_uint_t keys, ngx_uint_t args,
    ngx_str_t *values, ngx_commerce_redis_handler_pt handler, void *data);

void ngx_commerce_redis_hold_init(void);
void ngx_commerce_redis_release(void);          /* in use, or away */

/* ngx_commerce_redis_script.c */
ngx_int_t ngx_commerce_redis_script_file(ngx_conf_t *cf, ngx_str_t *path,
    ngx_str_t *text);

/* ngx_commerce_redis_backup.c */
struct ngx_commerce_backup_s {
    ngx_str_t                     function;
    ngx_commerce_pg_stmt_t       *begin;
    ngx_commerce_pg_stmt_t       *save;
    ngx_commerce_pg_stmt_t       *stale;
    ngx_commerce_pg_stmt_t       *settled;
    ngx_commerce_redis_script_t  *resync;
};

void ngx_commerce_backup_init(const ngx_commerce_redis_main_conf_t *conf);
void ngx_commerce_backup_hurry(void);           /* QUIT, Redis lost */
void ngx_commerce_backup_exit(void);            /* the process ends */

/* ngx_commerce_redis_resync.c */
void ngx_commerce_redis_resync_init(void);
void ngx_commerce_redis_resync_start(void);     /* Redis is back */
void ngx_commerce_redis_resync_stop(void);      /* Redis is away */
void ngx_commerce_redis_resync_soon(void);      /* a script was not run */


#endif /* NGX_COMMERCE_REDIS_INTERNAL_H */
