/*
 * Rate limits by the generic cell rate algorithm: the state of a client is one
 * theoretical arrival time (TAT).
 *
 * The table is lock-free in memory that the caller provides and processes
 * share.  A process killed at any instruction leaves nothing behind that
 * another one waits for.
 */

#ifndef NGX_COMMERCE_GCRA_H
#define NGX_COMMERCE_GCRA_H


#include "ngx_commerce_core.h"


/* Times are microseconds of one monotonic clock that all processes share. */

typedef struct {
    uint64_t  interval;         /* between two units at the sustained rate */
    uint64_t  burst;            /* units that pass at once: the quota */
} ngx_commerce_gcra_rate_t;


typedef struct {
    bool      allowed;
    uint64_t  remaining;        /* whole units that would pass now */
    uint64_t  reset;            /* µs until the quota is whole */
    uint64_t  retry_after;      /* µs until "cost" units pass; 0 when allowed */
} ngx_commerce_gcra_verdict_t;


/*
 * The formula alone.  Returns the new TAT, or the old one when refused: a
 * refused request costs nothing.  cost > burst never passes.
 */

uint64_t ngx_commerce_gcra(const ngx_commerce_gcra_rate_t *rate, uint64_t tat,
    uint64_t now, uint64_t cost, ngx_commerce_gcra_verdict_t *verdict);


typedef struct ngx_commerce_gcra_table_s  ngx_commerce_gcra_table_t;

/*
 * Makes a table in "size" bytes at "mem" (aligned to 64); "seed" keys its hash
 * and must be random: with a known seed a client could choose its neighbours.
 * NULL: too small.
 */

ngx_commerce_gcra_table_t *ngx_commerce_gcra_create(void *mem, size_t size,
    const uint8_t seed[16]);

/* The table that create() made at "mem" with this layout, or NULL. */

ngx_commerce_gcra_table_t *ngx_commerce_gcra_attach(void *mem);

/* Clients it can hold at a time. */

uint64_t ngx_commerce_gcra_capacity(const ngx_commerce_gcra_table_t *table);

/* Clients that were forgotten before their quota was whole: the table is too small. */

uint64_t ngx_commerce_gcra_evicted(const ngx_commerce_gcra_table_t *table);

/*
 * Takes "cost" units of the client (scope, key); cost 0 only looks.  The two
 * are hashed in one run: a scope ends with a byte that is in no scope (NUL).
 */

void ngx_commerce_gcra_take(ngx_commerce_gcra_table_t *table,
    const ngx_commerce_gcra_rate_t *rate, ngx_commerce_str_t scope,
    ngx_commerce_str_t key, uint64_t now, uint64_t cost,
    ngx_commerce_gcra_verdict_t *verdict);


/* The verdict that take() would give; nothing changes. */

void ngx_commerce_gcra_look(ngx_commerce_gcra_table_t *table,
    const ngx_commerce_gcra_rate_t *rate, ngx_commerce_str_t scope,
    ngx_commerce_str_t key, uint64_t now, uint64_t cost,
    ngx_commerce_gcra_verdict_t *verdict);

/* Gives "cost" units back that were taken and not used. */

void ngx_commerce_gcra_give(ngx_commerce_gcra_table_t *table,
    const ngx_commerce_gcra_rate_t *rate, ngx_commerce_str_t scope,
    ngx_commerce_str_t key, uint64_t cost);

/* The TAT of the client is at least "tat": somebody else has counted it too. */

void ngx_commerce_gcra_raise(ngx_commerce_gcra_table_t *table,
    ngx_commerce_str_t scope, ngx_commerce_str_t key, uint64_t now,
    uint64_t tat);

/*
 * The client's word itself, for tables whose words are not TATs; what it holds
 * must compare as a time does, because the lowest of a set is forgotten first.
 * NULL: "create" is not set and there is none.  A new one is at most "now".
 */

_Atomic uint64_t *ngx_commerce_gcra_word(ngx_commerce_gcra_table_t *table,
    ngx_commerce_str_t scope, ngx_commerce_str_t key, uint64_t now,
    bool create);


/* SipHash-2-4 of the concatenation of two strings. */

uint64_t ngx_commerce_siphash(const uint8_t key[16], ngx_commerce_str_t a,
    ngx_commerce_str_t b);


#endif /* NGX_COMMERCE_GCRA_H */
