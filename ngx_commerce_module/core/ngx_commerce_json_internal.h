/*
 * The JSON reader's state, for the files of the reader.
 */

#ifndef NGX_COMMERCE_JSON_INTERNAL_H
#define NGX_COMMERCE_JSON_INTERNAL_H


#include "ngx_commerce_json.h"


/* The containers around the place of reading, for the error's pointer. */

typedef struct ngx_commerce_json_scope_s  ngx_commerce_json_scope_t;

struct ngx_commerce_json_scope_s {
    ngx_commerce_json_scope_t   *up;
    const ngx_commerce_json_t   *container;
    const ngx_commerce_json_t   *last;
};


typedef struct {
    uint32_t                     hash;
    const ngx_commerce_json_t   *node;
} ngx_commerce_json_entry_t;


typedef struct {
    const ngx_commerce_alloc_t  *alloc;
    const uint8_t               *start;
    const uint8_t               *p;
    const uint8_t               *end;
    uint32_t                     members;
    uint32_t                     max_members;
    uint32_t                     max_depth;
    bool                         nfc;
    bool                         changed;   /* a string is not what the source says */

    ngx_commerce_json_t         *block;
    uint32_t                     block_left;

    ngx_commerce_json_entry_t   *table;     /* scratch for duplicates */
    size_t                       table_size;

    ngx_commerce_json_scope_t   *scope;
    ngx_commerce_json_error_t   *error;
} ngx_commerce_json_reader_t;


/* Reads the string whose quote is at rd->p. */

ngx_commerce_rc_t ngx_commerce_json_string(
    ngx_commerce_json_reader_t *rd, ngx_commerce_str_t *text);

/* Fills the error; always INVALID. */

ngx_commerce_rc_t ngx_commerce_json_fail(ngx_commerce_json_reader_t *rd,
    const uint8_t *at, const char *code, const char *message);


#endif /* NGX_COMMERCE_JSON_INTERNAL_H */
