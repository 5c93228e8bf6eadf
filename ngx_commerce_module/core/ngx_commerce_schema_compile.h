/*
 * The compiler of schemas: what its files share.
 */

#ifndef NGX_COMMERCE_SCHEMA_COMPILE_H
#define NGX_COMMERCE_SCHEMA_COMPILE_H


#include "ngx_commerce_schema_internal.h"


/* The schemas that apply to the same value: one of them below itself never ends. */

typedef struct ngx_commerce_chain_s  ngx_commerce_chain_t;

struct ngx_commerce_chain_s {
    const ngx_commerce_chain_t  *up;
    const ngx_commerce_json_t   *source;
};


typedef struct {
    const ngx_commerce_alloc_t  *alloc;
    const ngx_commerce_json_t   *root;
    ngx_commerce_fault_t        *fault;
    ngx_commerce_schema_t       *done;
} ngx_commerce_compiler_t;


typedef struct {
    ngx_commerce_compiler_t     *compiler;
    ngx_commerce_schema_t       *schema;
    const ngx_commerce_json_t   *object;
    const ngx_commerce_place_t  *place;
    const ngx_commerce_chain_t  *chain;
} ngx_commerce_compiling_t;


typedef ngx_commerce_rc_t (*ngx_commerce_keyword_pt)(
    ngx_commerce_compiling_t *c, const ngx_commerce_json_t *value,
    size_t offset);


typedef struct {
    const char               *name;
    ngx_commerce_keyword_pt   handler;  /* NULL: an annotation */
    size_t                    offset;
} ngx_commerce_keyword_t;


/* A fault at a value of the schema that is being compiled. */

#define ngx_commerce_schema_fault(c, at, ...)                                 \
    ngx_commerce_fault((c)->compiler->fault, (c)->compiler->root, at,         \
                       (c)->place, __VA_ARGS__)


/* Compiles a schema, or finds it when it was compiled before. */

ngx_commerce_rc_t ngx_commerce_schema_one(ngx_commerce_compiler_t *cc,
    const ngx_commerce_json_t *source, bool in_place,
    const ngx_commerce_place_t *place, const ngx_commerce_chain_t *chain,
    ngx_commerce_schema_t **compiled);

/* A member of a schema: runs the keyword's function, refuses what is none. */

ngx_commerce_rc_t ngx_commerce_schema_keyword(ngx_commerce_compiling_t *c,
    const ngx_commerce_json_t *member);

/* True when nothing but remarks stands beside "$ref". */

bool ngx_commerce_schema_alias(const ngx_commerce_json_t *source);


#endif /* NGX_COMMERCE_SCHEMA_COMPILE_H */
