/*
 * A circuit breaker per backend, shared by the workers of a node.
 *
 *   CLOSED ── no worker is served any more ──► OPEN ── its time has come ──► HALF_OPEN
 *     ▲                                          ▲                              │
 *     └───────────── a connection serves ────────┼──────────────────────────────┤
 *                                                └── it failed, or never said ──┘
 *
 * While it is open nobody connects, and callers are told at once; then one
 * worker of all tries.  State, time and who tries are one word that is moved by
 * compare-and-swap: a worker killed while it tries leaves a time behind, after
 * which another one does.
 */

#ifndef NGX_COMMERCE_BREAKER_H
#define NGX_COMMERCE_BREAKER_H


#include <ngx_config.h>
#include <ngx_core.h>


typedef enum {
    NGX_COMMERCE_BREAKER_CLOSED = 0,
    NGX_COMMERCE_BREAKER_OPEN,
    NGX_COMMERCE_BREAKER_HALF_OPEN
} ngx_commerce_breaker_state_e;


/* One per backend, in shared memory; all zero: closed. */

typedef struct {
    ngx_atomic_t    word;           /* until when (ms), and the state in the lowest two bits */
    ngx_atomic_t    served;         /* when the backend last answered one of the workers */
    ngx_atomic_t    failures;       /* tries that failed since it opened */
} ngx_commerce_breaker_shared_t;


/* A worker's view of it. */

typedef struct {
    ngx_commerce_breaker_shared_t  *shared;     /* NULL: always closed */
    const char                     *backend;    /* "PostgreSQL", for the log */
    ngx_str_t                       name;
    ngx_atomic_uint_t               claim;      /* our try */
} ngx_commerce_breaker_t;


/* While the configuration is read: zone->data becomes an array of so many shared parts.  NULL: no memory. */

ngx_shm_zone_t *ngx_commerce_breaker_zone(ngx_conf_t *cf, ngx_str_t *name,
    void *tag);

#define NGX_COMMERCE_BREAKERS  8            /* in a zone */

ngx_uint_t ngx_commerce_breaker_state(const ngx_commerce_breaker_t *b);
const char *ngx_commerce_breaker_text(const ngx_commerce_breaker_t *b);

/* May a connection be tried now?  Of an open breaker the answer is yes for one, who has "patience" ms for it. */

ngx_uint_t ngx_commerce_breaker_enter(ngx_commerce_breaker_t *b,
    ngx_msec_t patience);

/* The backend serves us. */

void ngx_commerce_breaker_success(ngx_commerce_breaker_t *b);

/* A connection could not be made, and this worker has had none since "since". */

void ngx_commerce_breaker_failure(ngx_commerce_breaker_t *b, ngx_msec_t since);


/* How long who may not enter waits before it asks again, ms. */

#define NGX_COMMERCE_BREAKER_TICK  50


#endif /* NGX_COMMERCE_BREAKER_H */
