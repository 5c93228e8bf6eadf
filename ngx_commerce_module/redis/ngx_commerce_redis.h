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
 * A Lua file, read and hashed while the configuration is read (commerce_redis_scripts DIR names the folder).
 * NULL with a message logged when there is no such file.
 */
ngx_commerce_redis_script_t *ngx_commerce_redis_script(ngx_conf_t *cf,
    ngx_str_t *name);


typedef enum {
    NGX_COMMERCE_REDIS_OK = 0,
    NGX_COMMERCE_REDIS_FAILED,          /* an error reply; text in reply->str */
    NGX_COMMERCE_REDIS_UNAVAILABLE,     /* not configured, not connected, breaker open: nothing was sent */
    NGX_COMMERCE_REDIS_LOST             /* sent, then timeout or disconnect: outcome unknown */
} ngx_commerce_redis_status_t;

typedef struct ngx_commerce_redis_op_s  ngx_commerce_redis_op_t;

typedef void (*ngx_commerce_redis_handler_pt)(void *data,
    ngx_commerce_redis_status_t status, redisReply *reply);

/*
 * EVALSHA with one transparent reload after NOSCRIPT.  Returns NULL when unavailable (the handler is not called),
 * else the handler is called exactly once, never from within this call.  Keys and arguments are copied.
 */
ngx_commerce_redis_op_t *ngx_commerce_redis_eval(
    ngx_commerce_redis_script_t *script, ngx_uint_t keys, ngx_uint_t args,
    ngx_str_t *values, ngx_commerce_redis_handler_pt handler, void *data);

void ngx_commerce_redis_detach(ngx_commerce_redis_op_t *op);

ngx_uint_t ngx_commerce_redis_configured(void);
ngx_uint_t ngx_commerce_redis_available(void);


/*
 * Write-behind: keeps the newest document of a key and the list of actions, and hands each batch to "flush" every
 * commerce_redis_backup_interval and when the worker leaves.  See redis/README.md for what a lost worker costs.
 * document: JSON text; action: JSON text or empty.
 */
ngx_int_t ngx_commerce_backup_put(ngx_str_t *function, ngx_str_t *tenant_id,
    ngx_str_t *key, ngx_str_t *document);


extern ngx_module_t  ngx_commerce_redis_module;


#endif /* NGX_COMMERCE_REDIS_H */
