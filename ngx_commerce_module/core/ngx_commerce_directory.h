/*
 * A directory in shared memory: names of several kinds → records, read by many
 * processes without a lock, replaced as a whole by one.
 *
 * Two images of one buffer size each: a publisher copies a finished image into the one that is not shown, then counts
 * the generation up, whose lowest bit says which one is shown. Readers look up in the shown one, copy what they found
 * and look at the generation again. A publisher that is killed at any instruction leaves the shown image as it was.
 * Publishers exclude each other (the caller's lock).
 *
 * An image is made of blocks, in ascending order of their ids. A block holds one record and the names that lead to it;
 * a name may have a target of its own (an API key) beside the block's record.
 */

#ifndef NGX_COMMERCE_DIRECTORY_H
#define NGX_COMMERCE_DIRECTORY_H


#include "ngx_commerce_core.h"


typedef struct ngx_commerce_directory_s  ngx_commerce_directory_t;

typedef enum {
    NGX_COMMERCE_DIRECTORY_OK = 0,
    NGX_COMMERCE_DIRECTORY_MISSING,     /* there is no such name */
    NGX_COMMERCE_DIRECTORY_EMPTY,       /* nothing was published yet */
    NGX_COMMERCE_DIRECTORY_AGAIN,       /* call again, or begin anew: see each function */
    NGX_COMMERCE_DIRECTORY_TOO_LARGE,
    NGX_COMMERCE_DIRECTORY_NOMEM
} ngx_commerce_directory_rc_t;


/* An image in the making, in memory of its process. */

typedef struct {
    uint8_t   *data;
    size_t     len;
    size_t     room;
    size_t     block;           /* offset of the one that is being made */
    void      *names;           /* of that block */
    uint32_t   names_room;
    uint32_t   names_count;
    uint32_t   blocks;
    uint32_t   total;           /* names of all blocks */
    uint32_t   mask;            /* of the index; 0: not begun */
    size_t     index;           /* its offset */
    size_t     indexed;         /* offset of the next block to be indexed */
    bool       failed;          /* no memory */
} ngx_commerce_directory_image_t;


typedef struct {
    ngx_commerce_str_t  record;
    ngx_commerce_str_t  target;     /* empty: the name has none */
} ngx_commerce_directory_entry_t;


typedef struct {
    uint64_t  generation;           /* 0: nothing was published yet */
    uint32_t  blocks;
    uint32_t  names;
    size_t    used;                 /* bytes of the shown image */
    size_t    size;                 /* bytes that an image may have */
} ngx_commerce_directory_stats_t;


/* Lays the directory out in "size" bytes; false: too few. */
bool ngx_commerce_directory_create(void *memory, size_t size);
/* false: made by another version. */
bool ngx_commerce_directory_open(void *memory);

/* OK, MISSING, EMPTY, NOMEM. The entry is in memory of "alloc". Cost: a probe, and copying the record. */
ngx_commerce_directory_rc_t ngx_commerce_directory_find(
    const ngx_commerce_directory_t *directory, uint8_t kind,
    ngx_commerce_str_t name, const ngx_commerce_alloc_t *alloc,
    ngx_commerce_directory_entry_t *entry);

/* Another one after each publication; 0: nothing was published yet. */
uint64_t ngx_commerce_directory_generation(
    const ngx_commerce_directory_t *directory);

void ngx_commerce_directory_stats(const ngx_commerce_directory_t *directory,
    ngx_commerce_directory_stats_t *stats);


/* Making an image: begin, names and the record in any order, end; for each block. That memory was short is told by index. */

void ngx_commerce_image_init(ngx_commerce_directory_image_t *image);
void ngx_commerce_image_free(ngx_commerce_directory_image_t *image);
void ngx_commerce_image_begin(ngx_commerce_directory_image_t *image,
    uint64_t id);
void ngx_commerce_image_record(ngx_commerce_directory_image_t *image,
    ngx_commerce_str_t record);
/* target: data == NULL: the record alone. */
void ngx_commerce_image_name(ngx_commerce_directory_image_t *image,
    uint8_t kind, ngx_commerce_str_t name, ngx_commerce_str_t target);
void ngx_commerce_image_end(ngx_commerce_directory_image_t *image);

/*
 * Copies blocks of the shown image from *position on (0: the first) up to the one with "id" or a greater one; "id"
 * itself is passed over. UINT64_MAX: to the end. At most "budget" blocks. OK: there. AGAIN: call again. MISSING:
 * another image than "generation" is shown by now, begin anew.
 */
ngx_commerce_directory_rc_t ngx_commerce_image_copy(
    ngx_commerce_directory_image_t *image,
    const ngx_commerce_directory_t *directory, uint64_t generation,
    size_t *position, uint64_t id, uint32_t budget);

/* Copies the block with "id" of another image that is in the making, if it has one. */
void ngx_commerce_image_take(ngx_commerce_directory_image_t *image,
    const ngx_commerce_directory_image_t *from, uint64_t id);

/* Indexes up to "budget" blocks more. OK: all are. AGAIN: call again. NOMEM. */
ngx_commerce_directory_rc_t ngx_commerce_image_index(
    ngx_commerce_directory_image_t *image, uint32_t budget);

/*
 * Shows an indexed image; the caller holds the lock. "as_of" says when it was true (microseconds): AGAIN when the shown
 * one is newer, unless by a minute or more (a clock that was set back). "generation": the image that it was made from,
 * or 0; another is shown by now: AGAIN, the same: it is as new as can be. An image that says nothing new is not counted. TOO_LARGE.
 */
ngx_commerce_directory_rc_t ngx_commerce_directory_publish(
    ngx_commerce_directory_t *directory,
    const ngx_commerce_directory_image_t *image, int64_t as_of,
    uint64_t generation);


#endif /* NGX_COMMERCE_DIRECTORY_H */
