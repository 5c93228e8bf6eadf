/* What the unit tests share: an arena whose blocks AddressSanitizer sees. */

#ifndef UNIT_H
#define UNIT_H


#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ngx_commerce_contract.h"
#include "ngx_commerce_codec.h"


/* The sanitizers cost about ten times, and the machine has others to serve. */

#define UNIT_SLOW  10


typedef struct unit_block_s  unit_block_t;

struct unit_block_s {
    unit_block_t  *next;
    max_align_t    data[];
};


typedef struct {
    ngx_commerce_alloc_t   alloc;
    unit_block_t          *blocks;
    size_t                 used;
    long                   left;        /* allocations until there is no memory; -1: no end */
} unit_arena_t;


static inline void *
unit_alloc(void *ctx, size_t size)
{
    unit_arena_t  *arena = ctx;
    unit_block_t  *block;

    if (arena->left == 0) {
        return NULL;
    }

    arena->left -= arena->left > 0;

    block = malloc(sizeof(unit_block_t) + size);
    assert_non_null(block);
    memset(block->data, 0xA5, size);

    block->next = arena->blocks;
    arena->blocks = block;
    arena->used += size;

    return block->data;
}


static inline void
unit_arena(unit_arena_t *arena)
{
    arena->alloc.alloc = unit_alloc;
    arena->alloc.ctx = arena;
    arena->blocks = NULL;
    arena->used = 0;
    arena->left = -1;
}


static inline void
unit_free(unit_arena_t *arena)
{
    unit_block_t  *block;

    while ((block = arena->blocks) != NULL) {
        arena->blocks = block->next;
        free(block);
    }
}


/* A copy without a byte to spare, so that reading past the end is seen. */

static inline uint8_t *
unit_tight(unit_arena_t *arena, const void *data, size_t len)
{
    uint8_t  *copy = unit_alloc(arena, len);

    memcpy(copy, data, len);

    return copy;
}


static inline ngx_commerce_json_t *
unit_json(unit_arena_t *arena, const char *text)
{
    ngx_commerce_json_t        *root;
    ngx_commerce_json_error_t   error;
    ngx_commerce_json_limits_t  limits = { 128, 1000000, false };

    if (ngx_commerce_json_parse(&arena->alloc,
                                unit_tight(arena, text, strlen(text)),
                                strlen(text), &limits, &root, &error)
        != NGX_COMMERCE_OK)
    {
        fail_msg("%s at %zu of %s", error.code, error.offset, text);
    }

    return root;
}


static inline ngx_commerce_str_t
unit_str(const char *s)
{
    return (ngx_commerce_str_t) { strlen(s), (uint8_t *) s };
}


#define unit_is(str, text)                                                    \
    do {                                                                      \
        assert_int_equal((str).len, strlen(text));                            \
        assert_memory_equal((str).data, text, strlen(text));                  \
    } while (0)


#endif /* UNIT_H */
