/*
 * Faults in what operators write, and memory at load time.
 */

#ifndef NGX_COMMERCE_FAULT_H
#define NGX_COMMERCE_FAULT_H


#include "ngx_commerce_json.h"


/* Where the reader of a document is: "paths", "/api/v1/cart", "get", … */

typedef struct ngx_commerce_place_s  ngx_commerce_place_t;

struct ngx_commerce_place_s {
    const ngx_commerce_place_t  *up;
    ngx_commerce_str_t           name;
};


/*
 * Fills *fault and returns INVALID.  "at" is the value at fault within the
 * document whose root is "root"; both may be NULL.
 */

ngx_commerce_rc_t ngx_commerce_fault(ngx_commerce_fault_t *fault,
    const ngx_commerce_json_t *root, const ngx_commerce_json_t *at,
    const ngx_commerce_place_t *place, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

/* Line and column of a byte of the text that begins at "start". */

void ngx_commerce_fault_position(ngx_commerce_fault_t *fault,
    const uint8_t *start, const uint8_t *at);

/* Cleared memory, or NULL. */

void *ngx_commerce_zalloc(const ngx_commerce_alloc_t *alloc, size_t size);

/* What follows "#/", or NULL. */

const ngx_commerce_json_t *ngx_commerce_json_resolve(
    const ngx_commerce_json_t *root, ngx_commerce_str_t ref);

bool ngx_commerce_str_is(ngx_commerce_str_t s, const char *text);


#endif /* NGX_COMMERCE_FAULT_H */
