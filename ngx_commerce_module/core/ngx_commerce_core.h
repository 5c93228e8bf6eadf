/*
 * Shared ground of core/: strings, memory, faults.
 *
 * core/ knows nothing of nginx.  It is linked by the module, the unit tests,
 * the fuzzers and the trainer.
 */

#ifndef NGX_COMMERCE_CORE_H
#define NGX_COMMERCE_CORE_H


#include <stddef.h>
#include <stdint.h>
#include <stdbool.h>


/* Same layout as ngx_str_t: rt/ casts between the two.  Not terminated. */

typedef struct {
    size_t    len;
    uint8_t  *data;
} ngx_commerce_str_t;

#define ngx_commerce_str(s)                                                   \
    (ngx_commerce_str_t) { sizeof(s) - 1, (uint8_t *) (s) }


/*
 * Where memory comes from: a pool of nginx, an arena of a test.  Nothing is
 * freed one by one.  alloc() returns NULL when there is no memory; what it
 * returns is aligned for any type and not cleared.
 */

typedef struct {
    void  *(*alloc)(void *ctx, size_t size);
    void    *ctx;
} ngx_commerce_alloc_t;


/*
 * What is wrong with a text that an operator wrote (contract, table file).
 * place: "paths./api/v1/cart.get.x-commerce.auth"; message: a sentence with
 * the cure.  Both are terminated and cut when they do not fit.
 */

typedef struct {
    uint32_t  line;                     /* 1-based, 0: unknown */
    uint32_t  column;
    char      place[256];
    char      message[256];
} ngx_commerce_fault_t;


typedef enum {
    NGX_COMMERCE_OK = 0,
    NGX_COMMERCE_INVALID,               /* the input is at fault */
    NGX_COMMERCE_NOMEM
} ngx_commerce_rc_t;


#endif /* NGX_COMMERCE_CORE_H */
