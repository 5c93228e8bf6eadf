/*
 * Redis on nginx's event loop: hiredis' asynchronous API over rt/ watches.
 *
 * Everything in Redis may vanish: each caller has a way on without it.
 */

#ifndef NGX_COMMERCE_REDIS_H
#define NGX_COMMERCE_REDIS_H


#include <ngx_config.h>
#include <ngx_core.h>
#include <hiredis/hiredis.h>
#include <hiredis/async.h>


typedef struct ngx_commerce_redis_script_s  ngx_commerce_redis_script_t;

/*
 * A Lua file, read and hashed while the configuration is read
 * (commerce_redis_scripts DIR names the folder).  NULL with a message logged
 * when there is no such file.  Call it when all directives were read
 * (postconfiguration), so that their order does not matter.
 */
ngx_commerce_redis_script_t *ngx_commerce_redis_script(ngx_conf_t *cf,
    ngx_str_t *name);


typedef enum {
    NGX_COMMERCE_REDIS_OK = 0,
    NGX_COMMERCE_REDIS_FAILED,          /* an error reply: reply->str */
    NGX_COMMERCE_REDIS_UNAVAILABLE,     /* Redis refused, nothing was run:
                                           read-only, loading, no memory */
    NGX_COMMERCE_REDIS_LOST             /* sent, then timeout or disconnect:
                                           outcome unknown */
} ngx_commerce_redis_status_t;

typedef struct ngx_commerce_redis_op_s  ngx_commerce_redis_op_t;

/* The reply is freed after the handler returned; NULL unless OK or FAILED. */
typedef void (*ngx_commerce_redis_handler_pt)(void *data,
    ngx_commerce_redis_status_t status, redisReply *reply);

/*
 * EVALSHA with one transparent EVAL after NOSCRIPT.  Returns NULL when
 * unavailable (not configured, not connected, breaker open, queue full: the
 * handler is not called), else the handler is called exactly once, never from
 * within this call.  values: the keys, then the arguments; they are copied.
 * The handler may call ngx_commerce_redis_eval().
 */
ngx_commerce_redis_op_t *ngx_commerce_redis_eval(
    ngx_commerce_redis_script_t *script, ngx_uint_t keys, ngx_uint_t args,
    ngx_str_t *values, ngx_commerce_redis_handler_pt handler, void *data);

/* The caller is gone: the handler will not be called, the script still runs. */
void ngx_commerce_redis_detach(ngx_commerce_redis_op_t *op);

ngx_uint_t ngx_commerce_redis_configured(void);
ngx_uint_t ngx_commerce_redis_available(void);  /* to this worker, now */
/* "closed", "open", "half-open": of all workers together. */
const char *ngx_commerce_redis_breaker(void);


typedef struct {
    ngx_uint_t  connections;            /* ready */
    ngx_uint_t  in_flight;
    ngx_uint_t  evals;
    ngx_uint_t  lost;                   /* by timeout or disconnect */
    ngx_uint_t  refused;                /* by us: unavailable, queue full */
    ngx_uint_t  reconnects;
    ngx_uint_t  backup_pending;         /* carts not yet in PostgreSQL */
    ngx_uint_t  backup_saved;
    ngx_uint_t  backup_retried;
    ngx_uint_t  backup_dropped;
} ngx_commerce_redis_stats_t;

/* This worker's figures. */
void ngx_commerce_redis_stats(ngx_commerce_redis_stats_t *stats);


/*
 * Write-behind: keeps the newest document of a key and the list of actions
 * since the last flush, and hands them to a PostgreSQL function
 * f(tenant_id bigint, documents jsonb) every commerce_redis_backup_interval
 * and when the worker leaves.  redis/README.md says what a killed worker
 * costs.
 */
typedef struct ngx_commerce_backup_s  ngx_commerce_backup_t;

/* While the configuration is read.  "api.cart_backup" */
ngx_commerce_backup_t *ngx_commerce_backup_function(ngx_conf_t *cf,
    ngx_str_t *function);

/*
 * document: the 4th element of a script's reply as it is: the document, or
 * the action (JSON), a newline and the document.  NGX_DECLINED: no room, the
 * document is not backed up before its next change (counted, logged).
 */
ngx_int_t ngx_commerce_backup_put(ngx_commerce_backup_t *backup,
    ngx_str_t *tenant_id, ngx_str_t *key, ngx_str_t *document);


extern ngx_module_t  ngx_commerce_redis_module;


#endif /* NGX_COMMERCE_REDIS_H */
