/*
 * Outbound calls: libcurl's multi interface on nginx's event loop.
 *
 * A call (ngx_commerce_fetch_t) lives in a pool of its owner that outlasts it:
 * until the handler is called, or ngx_commerce_fetch_cancel().  What a call is,
 * and what becomes of its answer, is SQL's: see ngx_commerce_exchange.h.
 */

#ifndef NGX_COMMERCE_FETCH_H
#define NGX_COMMERCE_FETCH_H


#include <ngx_config.h>
#include <ngx_core.h>

#include "ngx_commerce_json.h"


#define NGX_COMMERCE_FETCH_ANSWER   (1024 * 1024)   /* bytes of an answer's body */
#define NGX_COMMERCE_FETCH_REQUEST  (4 * 1024 * 1024)   /* of what is sent */


typedef struct ngx_commerce_fetch_s  ngx_commerce_fetch_t;

/* Called once, from the event loop, never from within start(). */
typedef void (*ngx_commerce_fetch_pt)(ngx_commerce_fetch_t *f);

struct ngx_commerce_fetch_s {
    ngx_pool_t             *pool;
    ngx_commerce_fetch_pt   handler;
    void                   *data;

    /* the call; strings end with a zero byte */
    ngx_str_t               url;
    ngx_str_t               method;
    ngx_array_t             headers;        /* of ngx_str_t: "Name: value" */
    ngx_str_t               body;           /* data == NULL: none */
    ngx_str_t               from;           /* mail: the envelope */
    ngx_array_t             recipients;     /* of ngx_str_t */
    ngx_msec_t              timeout;
    ngx_msec_t              after;          /* of a pause */
    unsigned                mail:1;
    unsigned                guard:1;        /* public addresses only */
    unsigned                pause:1;        /* goes nowhere: status 200 after this time */

    /* what came of it */
    ngx_uint_t              status;         /* 0: no whole answer */
    ngx_str_t               answer;         /* UTF-8 without zero bytes; data == NULL: none */
    const char             *error;          /* NULL: answered.  A word: ngx_commerce_fetch_errors */
    ngx_msec_t              elapsed;

    /* fetch/'s own */
    struct ngx_commerce_fetch_easy_s  *easy;
    ngx_queue_t             link;
    ngx_event_t             timer;          /* of a pause */
    ngx_msec_t              started;
    unsigned                state:3;        /* of ngx_commerce_fetch_state_e */
};


/*
 * Words of "error".  Those of the first line say that nothing was sent.
 *
 *   busy config refused resolve connect tls
 *   timeout cut too-large not-text login failed shutdown
 */


/*
 * What SQL asks for: a member of edge.fetch or edge.mail, docs/contract.md
 * section 8.  Fills f, whose pool is set.  tenant: whose sealed values may be
 * opened.  NGX_DECLINED: f->error is "config" or "refused", a line is logged.
 */
ngx_int_t ngx_commerce_fetch_parse(ngx_commerce_fetch_t *f,
    const ngx_commerce_json_t *spec, ngx_uint_t mail, ngx_str_t *tenant);

/*
 * Begins the call, or puts it in the queue.  With f->error set already the
 * handler is told so.  NGX_ERROR: no memory.
 */
ngx_int_t ngx_commerce_fetch_start(ngx_commerce_fetch_t *f);

/* The handler will not be called; what is under way is cut off. */
void ngx_commerce_fetch_cancel(ngx_commerce_fetch_t *f);

/* While the configuration is read, and at run time: the line of commerce_secret's file.  NULL: unknown. */
ngx_str_t *ngx_commerce_fetch_secret(const ngx_cycle_t *cycle, ngx_str_t *name);

/* JSON into nodes of the pool. NULL: it is none. */
ngx_commerce_json_t *ngx_commerce_fetch_json(ngx_pool_t *pool,
    ngx_str_t *text);

/*
 * What "{secret:NAME}" or "{sealed:CONTEXT|TEXT}" stands for, to verify or
 * sign with.  NGX_DECLINED: nobody knows it, a line is logged.
 */
ngx_int_t ngx_commerce_fetch_key(ngx_pool_t *pool, ngx_str_t *tenant,
    const ngx_commerce_json_t *placeholder, ngx_str_t *key);

/* HMAC-SHA-256 of parts one after the other. */
ngx_int_t ngx_commerce_fetch_hmac(ngx_str_t *key, const ngx_str_t *parts,
    ngx_uint_t count, u_char digest[32]);


extern ngx_module_t  ngx_commerce_fetch_module;


#endif /* NGX_COMMERCE_FETCH_H */
