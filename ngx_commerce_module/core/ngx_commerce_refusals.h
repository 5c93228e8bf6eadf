/*
 * Files that were no good, in memory that processes share: each is told about
 * once, until it changes or goes.
 *
 * A bounded set of its own, so that a folder full of junk takes no place that
 * something good needs; when it is full, add() says so.  A name is a number
 * from 1.  How many files of a name were refused is kept when the last one is
 * forgotten, until another name needs the room.
 *
 * One process writes at a time, which is the caller's to see to; killed at any
 * instruction it leaves a set that is good, in which the file that it was
 * about is perhaps missing.
 */

#ifndef NGX_COMMERCE_REFUSALS_H
#define NGX_COMMERCE_REFUSALS_H


#include "ngx_commerce_file.h"


#define NGX_COMMERCE_REFUSALS_MIN  4096     /* bytes of memory; a name takes 64 */


typedef struct ngx_commerce_refusals_shm_s  ngx_commerce_refusals_shm_t;

typedef struct {
    ngx_commerce_refusals_shm_t  *shm;
} ngx_commerce_refusals_t;


typedef struct {
    ngx_commerce_file_t  file;
    bool                 room;          /* it was good, but there was no room for it */
} ngx_commerce_refusal_t;


typedef enum {
    NGX_COMMERCE_REFUSALS_NEW = 0,
    NGX_COMMERCE_REFUSALS_BEFORE,       /* the very same file was refused before */
    NGX_COMMERCE_REFUSALS_FULL          /* it cannot be remembered */
} ngx_commerce_refusals_rc_t;


/* create() takes "size" zeroed bytes at "memory", aligned to 64; open() what create() made, also in another process. */

ngx_commerce_rc_t ngx_commerce_refusals_create(
    ngx_commerce_refusals_t *refusals, void *memory, size_t size);
ngx_commerce_rc_t ngx_commerce_refusals_open(
    ngx_commerce_refusals_t *refusals, void *memory, size_t size);

/* The last file of the name that was refused; false: it has none, or none any more. */

bool ngx_commerce_refusals_find(const ngx_commerce_refusals_t *refusals,
    uint64_t name, ngx_commerce_refusal_t *refusal);

ngx_commerce_refusals_rc_t ngx_commerce_refusals_add(
    ngx_commerce_refusals_t *refusals, uint64_t name,
    const ngx_commerce_refusal_t *refusal);

/* The file is good now, or gone. */

void ngx_commerce_refusals_forget(ngx_commerce_refusals_t *refusals,
    uint64_t name);

/* The names that find() finds, "from" 0 on: returns where to go on, 0 at the end. */

uint64_t ngx_commerce_refusals_next(const ngx_commerce_refusals_t *refusals,
    uint64_t from, uint64_t *name);

/* How many files of the name were refused.  Any process may ask, at any time. */

uint64_t ngx_commerce_refusals_count(const ngx_commerce_refusals_t *refusals,
    uint64_t name);

/* How many names it has room for. */

uint64_t ngx_commerce_refusals_max(const ngx_commerce_refusals_t *refusals);


#endif /* NGX_COMMERCE_REFUSALS_H */
