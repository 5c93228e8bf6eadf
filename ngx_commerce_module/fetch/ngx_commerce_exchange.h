/*
 * An exchange: a call to somebody outside, then a SQL function that is told
 * what came of it, in the context of whoever asked; its reply may ask for the
 * next call.  docs/contract.md, section 8.
 *
 * Memory is the exchange's own: the request or job that began it may go.
 */

#ifndef NGX_COMMERCE_EXCHANGE_H
#define NGX_COMMERCE_EXCHANGE_H


#include "ngx_commerce_fetch.h"
#include "ngx_commerce_pg.h"


#define NGX_COMMERCE_EXCHANGE_HOPS     4        /* calls in a row */
#define NGX_COMMERCE_EXCHANGE_CONTEXT  11       /* parameters of api.begin_command */

/* among them */
#define NGX_COMMERCE_EXCHANGE_TENANT   0
#define NGX_COMMERCE_EXCHANGE_CORRELATION  3
#define NGX_COMMERCE_EXCHANGE_KEY      6
#define NGX_COMMERCE_EXCHANGE_SCOPE    8


typedef struct ngx_commerce_exchange_s  ngx_commerce_exchange_t;

/*
 * What the function answered.  status and result as of ngx_commerce_pg_op_t; more: the reply asks for another call, and the handler
 * will be called again.  Without "more" the exchange is over and gone when the handler returns.  result == NULL with OK: there was no
 * function to tell.
 */
typedef void (*ngx_commerce_exchange_pt)(void *data,
    ngx_commerce_pg_status_t status, const PGresult *result, ngx_uint_t more);


/* While the configuration is read: registers its statements.  Any number of times. */
ngx_int_t ngx_commerce_exchange_register(ngx_conf_t *cf);

/*
 * spec: an object of edge.fetch, or of edge.mail (mail).  context: copied; members "tenant_id" and "correlation_id" of spec go before.
 * handler may be NULL.  *x is for detach.  NGX_ERROR: no memory, a line is logged.
 */
ngx_int_t ngx_commerce_exchange_start(const ngx_str_t *context,
    const ngx_commerce_json_t *spec, ngx_uint_t mail,
    ngx_commerce_exchange_pt handler, void *data,
    ngx_commerce_exchange_t **x);

/*
 * Those of a list, side by side, each on its own.  Returns how many were begun; handler is called once for each, with more == 0.
 */
ngx_uint_t ngx_commerce_exchange_all(const ngx_str_t *context,
    const ngx_commerce_json_t *list, ngx_uint_t mail,
    ngx_commerce_exchange_pt handler, void *data);

/*
 * What a reply says is void now, wherever that reply goes: edge.invalidate, tags of the tenant's answers in the cache, and edge.revoke,
 * its users and sessions.  Members that are missing or no text are passed over.
 */
void ngx_commerce_exchange_void(ngx_str_t *tenant,
    const ngx_commerce_json_t *edge);

/* Nobody waits for it any more; it goes on. */
void ngx_commerce_exchange_detach(ngx_commerce_exchange_t *x);


/* fetch/'s own: the worker ends. */
void ngx_commerce_exchange_init(ngx_log_t *log);
void ngx_commerce_exchange_exit(void);


#endif /* NGX_COMMERCE_EXCHANGE_H */
