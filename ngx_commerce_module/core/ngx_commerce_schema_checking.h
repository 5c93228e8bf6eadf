/*
 * The checker's state, for its files.
 */

#ifndef NGX_COMMERCE_SCHEMA_CHECKING_H
#define NGX_COMMERCE_SCHEMA_CHECKING_H


#include "ngx_commerce_schema_internal.h"


/* Where in the document the checker is: kept on the stack, written only for a violation. */

typedef struct ngx_commerce_spot_s  ngx_commerce_spot_t;

struct ngx_commerce_spot_s {
    const ngx_commerce_spot_t    *up;
    const ngx_commerce_str_t     *key;      /* NULL: an element */
    uint32_t                      index;
};


typedef struct {
    ngx_commerce_violations_t    *violations;   /* NULL: silent */
    uint32_t                      budget;
    bool                          nomem;
} ngx_commerce_checking_t;


/* Always false, so that a check can return it. */

bool ngx_commerce_check_fail(ngx_commerce_checking_t *c,
    const ngx_commerce_spot_t *spot, const char *code, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* The T_… of a value. */

uint32_t ngx_commerce_json_type(const ngx_commerce_json_t *value);

/* Fails, with the types that would do. */

bool ngx_commerce_check_type(ngx_commerce_checking_t *c, uint32_t types,
    const ngx_commerce_json_t *value, const ngx_commerce_spot_t *spot);

bool ngx_commerce_check_enum(ngx_commerce_checking_t *c,
    const ngx_commerce_json_t *list, const ngx_commerce_json_t *value,
    const ngx_commerce_spot_t *spot);
bool ngx_commerce_check_number(ngx_commerce_checking_t *c,
    const ngx_commerce_schema_t *s, const ngx_commerce_json_t *value,
    const ngx_commerce_spot_t *spot);
bool ngx_commerce_check_string(ngx_commerce_checking_t *c,
    const ngx_commerce_schema_t *s, const ngx_commerce_str_t *text,
    const ngx_commerce_spot_t *spot);
bool ngx_commerce_check_unique(ngx_commerce_checking_t *c,
    const ngx_commerce_json_t *array, const ngx_commerce_spot_t *spot);

/* "s" but for one. */

const char * ngx_commerce_plural(uint32_t n);


#endif /* NGX_COMMERCE_SCHEMA_CHECKING_H */
