/*
 * An image: blocks, then the index, a power of two of 8-byte slots at most half full. A slot is the name's hash in the
 * upper half and in the lower one the name's offset in units of 8 bytes, plus one; 0 is free. All offsets within a block
 * are relative to it, so that a block can be copied to another image as it is.
 *
 * What a reader sees while a publisher overwrites the image may be anything: every offset is checked against the image
 * before it is followed, and nothing is believed before the generation was seen unchanged.
 */

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "ngx_commerce_directory.h"


#define NGX_COMMERCE_DIRECTORY_MAGIC  UINT64_C(0x6e63735f64697231)
#define NGX_COMMERCE_DIRECTORY_SKEW   60000000      /* us */
#define NGX_COMMERCE_DIRECTORY_TRIES  8

#define ngx_commerce_directory_align(n)  (((n) + 7) & ~(size_t) 7)


typedef struct {
    int64_t   as_of;            /* us */
    uint64_t  len;              /* of the image, index included */
    uint64_t  index;            /* offset */
    uint32_t  mask;
    uint32_t  blocks;
    uint32_t  names;
    uint32_t  unused;
} ngx_commerce_directory_head_t;

struct ngx_commerce_directory_s {
    uint64_t                       magic;
    _Atomic uint64_t               generation;
    uint64_t                       size;        /* of an image's place */
    ngx_commerce_directory_head_t  heads[2];
    /* the places of two images follow */
};


typedef struct {
    uint64_t  id;
    uint32_t  size;             /* a multiple of 8 */
    uint32_t  record;
    uint32_t  record_len;
    uint32_t  names;            /* offset of the names' table */
    uint32_t  names_count;
    uint32_t  unused;
} ngx_commerce_directory_block_t;

typedef struct {
    uint32_t  hash;
    uint32_t  back;             /* to the block's beginning */
    uint32_t  name;
    uint32_t  target;
    uint32_t  target_len;
    uint16_t  name_len;
    uint8_t   kind;
    uint8_t   unused;
} ngx_commerce_directory_name_t;


static ngx_commerce_directory_rc_t ngx_commerce_directory_probe(
    const ngx_commerce_directory_t *d, uint64_t generation, uint8_t kind,
    ngx_commerce_str_t name, const ngx_commerce_alloc_t *alloc,
    ngx_commerce_directory_entry_t *entry);
static ngx_commerce_directory_rc_t ngx_commerce_directory_take(
    const uint8_t *image, size_t len, size_t at,
    const ngx_commerce_alloc_t *alloc, ngx_commerce_directory_entry_t *entry);
static const uint8_t *ngx_commerce_directory_place(
    const ngx_commerce_directory_t *d, uint64_t generation);
static bool ngx_commerce_directory_is(const ngx_commerce_directory_t *d,
    uint64_t generation);
static uint32_t ngx_commerce_directory_hash(uint8_t kind,
    ngx_commerce_str_t name);
static uint8_t *ngx_commerce_image_room(ngx_commerce_directory_image_t *image,
    size_t size);
static uint32_t ngx_commerce_image_bytes(ngx_commerce_directory_image_t *image,
    ngx_commerce_str_t bytes);
static bool ngx_commerce_image_table(ngx_commerce_directory_image_t *image);
static void ngx_commerce_image_insert(ngx_commerce_directory_image_t *image,
    size_t at);


bool
ngx_commerce_directory_create(void *memory, size_t size)
{
    ngx_commerce_directory_t  *d;

    if (size < sizeof(ngx_commerce_directory_t) + 1024) {
        return false;
    }

    d = memory;
    memset(d, 0, sizeof(ngx_commerce_directory_t));

    d->size = ((size - sizeof(ngx_commerce_directory_t)) / 2) & ~(size_t) 7;
    d->magic = NGX_COMMERCE_DIRECTORY_MAGIC;

    return true;
}


bool
ngx_commerce_directory_open(void *memory)
{
    return ((ngx_commerce_directory_t *) memory)->magic
           == NGX_COMMERCE_DIRECTORY_MAGIC;
}


ngx_commerce_directory_rc_t
ngx_commerce_directory_find(const ngx_commerce_directory_t *d, uint8_t kind,
    ngx_commerce_str_t name, const ngx_commerce_alloc_t *alloc,
    ngx_commerce_directory_entry_t *entry)
{
    uint32_t                     i;
    uint64_t                     generation;
    ngx_commerce_directory_rc_t  rc;

    for (i = 0; i < NGX_COMMERCE_DIRECTORY_TRIES; i++) {
        generation = atomic_load_explicit(&d->generation,
                                          memory_order_acquire);
        if (generation == 0) {
            return NGX_COMMERCE_DIRECTORY_EMPTY;
        }

        rc = ngx_commerce_directory_probe(d, generation, kind, name, alloc,
                                          entry);

        if (ngx_commerce_directory_is(d, generation)
            || rc == NGX_COMMERCE_DIRECTORY_NOMEM)
        {
            return rc;
        }
    }

    /* as many publications within one look-up cannot be */

    return NGX_COMMERCE_DIRECTORY_MISSING;
}


static ngx_commerce_directory_rc_t
ngx_commerce_directory_probe(const ngx_commerce_directory_t *d,
    uint64_t generation, uint8_t kind, ngx_commerce_str_t name,
    const ngx_commerce_alloc_t *alloc, ngx_commerce_directory_entry_t *entry)
{
    size_t                         at;
    uint32_t                       hash, i, n;
    uint64_t                       slot;
    const uint8_t                 *image;
    ngx_commerce_directory_head_t  head;
    ngx_commerce_directory_name_t  found;

    head = d->heads[generation & 1];
    image = ngx_commerce_directory_place(d, generation);

    if (head.len > d->size || head.index > head.len
        || ((uint64_t) head.mask + 1) * 8 > head.len - head.index)
    {
        return NGX_COMMERCE_DIRECTORY_MISSING;
    }

    hash = ngx_commerce_directory_hash(kind, name);

    for (i = hash, n = 0; n <= head.mask; i++, n++) {
        memcpy(&slot, image + head.index + (i & head.mask) * 8, 8);

        if (slot == 0) {
            break;
        }

        if (slot >> 32 != hash) {
            continue;
        }

        at = ((size_t) (uint32_t) slot - 1) * 8;

        if (at + sizeof(found) > head.index) {
            break;
        }

        memcpy(&found, image + at, sizeof(found));

        if (found.kind != kind || found.name_len != name.len
            || found.back > at
            || at - found.back + found.name + name.len > head.index
            || memcmp(image + at - found.back + found.name, name.data,
                      name.len)
               != 0)
        {
            continue;
        }

        return ngx_commerce_directory_take(image, head.index, at, alloc,
                                           entry);
    }

    return NGX_COMMERCE_DIRECTORY_MISSING;
}


/* Record and target in one piece of memory. */

static ngx_commerce_directory_rc_t
ngx_commerce_directory_take(const uint8_t *image, size_t len, size_t at,
    const ngx_commerce_alloc_t *alloc, ngx_commerce_directory_entry_t *entry)
{
    size_t                          begin;
    uint8_t                        *p;
    ngx_commerce_directory_name_t   name;
    ngx_commerce_directory_block_t  block;

    memcpy(&name, image + at, sizeof(name));
    begin = at - name.back;

    if (name.back > at || begin + sizeof(block) > len) {
        return NGX_COMMERCE_DIRECTORY_MISSING;
    }

    memcpy(&block, image + begin, sizeof(block));

    if (begin + block.record + (size_t) block.record_len > len
        || begin + name.target + (size_t) name.target_len > len)
    {
        return NGX_COMMERCE_DIRECTORY_MISSING;
    }

    p = alloc->alloc(alloc->ctx, (size_t) block.record_len + name.target_len
                                 + 1);
    if (p == NULL) {
        return NGX_COMMERCE_DIRECTORY_NOMEM;
    }

    entry->record.data = p;
    entry->record.len = block.record_len;
    memcpy(p, image + begin + block.record, block.record_len);

    entry->target.data = p + block.record_len;
    entry->target.len = name.target_len;
    memcpy(entry->target.data, image + begin + name.target, name.target_len);

    return NGX_COMMERCE_DIRECTORY_OK;
}


static const uint8_t *
ngx_commerce_directory_place(const ngx_commerce_directory_t *d,
    uint64_t generation)
{
    return (const uint8_t *) d + sizeof(ngx_commerce_directory_t)
           + (generation & 1) * d->size;
}


/* Whatever was read before this call was of this generation. */

static bool
ngx_commerce_directory_is(const ngx_commerce_directory_t *d,
    uint64_t generation)
{
    atomic_thread_fence(memory_order_acquire);

    return atomic_load_explicit(&d->generation, memory_order_relaxed)
           == generation;
}


/* FNV-1a with a final mix: names are short. */

static uint32_t
ngx_commerce_directory_hash(uint8_t kind, ngx_commerce_str_t name)
{
    size_t    i;
    uint64_t  h;

    h = UINT64_C(0xcbf29ce484222325) ^ kind;
    h *= UINT64_C(0x100000001b3);

    for (i = 0; i < name.len; i++) {
        h = (h ^ name.data[i]) * UINT64_C(0x100000001b3);
    }

    h ^= h >> 32;
    h *= UINT64_C(0x9e3779b97f4a7c15);

    return (uint32_t) (h >> 32);
}


uint64_t
ngx_commerce_directory_generation(const ngx_commerce_directory_t *d)
{
    return atomic_load_explicit(&d->generation, memory_order_acquire);
}


void
ngx_commerce_directory_stats(const ngx_commerce_directory_t *d,
    ngx_commerce_directory_stats_t *stats)
{
    ngx_commerce_directory_head_t  head;

    memset(stats, 0, sizeof(ngx_commerce_directory_stats_t));

    stats->generation = atomic_load_explicit(&d->generation,
                                             memory_order_acquire);
    stats->size = d->size;

    if (stats->generation) {
        head = d->heads[stats->generation & 1];
        stats->blocks = head.blocks;
        stats->names = head.names;
        stats->used = head.len;
    }
}


void
ngx_commerce_image_init(ngx_commerce_directory_image_t *image)
{
    memset(image, 0, sizeof(ngx_commerce_directory_image_t));
}


void
ngx_commerce_image_free(ngx_commerce_directory_image_t *image)
{
    free(image->data);
    free(image->names);
    ngx_commerce_image_init(image);
}


/* Appends room, zeroed and aligned. */

static uint8_t *
ngx_commerce_image_room(ngx_commerce_directory_image_t *image, size_t size)
{
    size_t    room;
    uint8_t  *data;

    if (image->failed) {
        return NULL;
    }

    size = ngx_commerce_directory_align(size);

    if (size > image->room - image->len) {

        for (room = image->room ? image->room : 65536;
             room - image->len < size;
             room *= 2)
        { /* void */ }

        data = realloc(image->data, room);
        if (data == NULL) {
            image->failed = true;
            return NULL;
        }

        image->data = data;
        image->room = room;
    }

    data = image->data + image->len;
    memset(data, 0, size);
    image->len += size;

    return data;
}


void
ngx_commerce_image_begin(ngx_commerce_directory_image_t *image, uint64_t id)
{
    ngx_commerce_directory_block_t  *block;

    image->block = image->len;
    image->names_count = 0;

    block = (void *) ngx_commerce_image_room(image, sizeof(*block));

    if (block) {
        block->id = id;
    }
}


/* Returns the offset within the block. */

static uint32_t
ngx_commerce_image_bytes(ngx_commerce_directory_image_t *image,
    ngx_commerce_str_t bytes)
{
    uint8_t  *p;

    p = ngx_commerce_image_room(image, bytes.len);

    if (p == NULL) {
        return 0;
    }

    if (bytes.len) {
        memcpy(p, bytes.data, bytes.len);
    }

    return (uint32_t) (p - image->data - image->block);
}


void
ngx_commerce_image_record(ngx_commerce_directory_image_t *image,
    ngx_commerce_str_t record)
{
    uint32_t                         at;
    ngx_commerce_directory_block_t  *block;

    at = ngx_commerce_image_bytes(image, record);

    if (image->failed) {
        return;
    }

    block = (void *) (image->data + image->block);
    block->record = at;
    block->record_len = (uint32_t) record.len;
}


void
ngx_commerce_image_name(ngx_commerce_directory_image_t *image, uint8_t kind,
    ngx_commerce_str_t name, ngx_commerce_str_t target)
{
    uint32_t                        room;
    ngx_commerce_directory_name_t  *names, *n;

    if (image->failed || name.len > UINT16_MAX) {
        return;
    }

    if (image->names_count == image->names_room) {
        room = image->names_room ? image->names_room * 2 : 16;

        names = realloc(image->names, room * sizeof(*names));
        if (names == NULL) {
            image->failed = true;
            return;
        }

        image->names = names;
        image->names_room = room;
    }

    n = (ngx_commerce_directory_name_t *) image->names + image->names_count++;
    memset(n, 0, sizeof(*n));

    n->hash = ngx_commerce_directory_hash(kind, name);
    n->kind = kind;
    n->name_len = (uint16_t) name.len;
    n->name = ngx_commerce_image_bytes(image, name);

    if (target.data) {
        n->target = ngx_commerce_image_bytes(image, target);
        n->target_len = (uint32_t) target.len;
    }
}


void
ngx_commerce_image_end(ngx_commerce_directory_image_t *image)
{
    uint32_t                         i, at;
    uint8_t                         *p;
    ngx_commerce_directory_name_t   *n;
    ngx_commerce_directory_block_t  *block;

    p = ngx_commerce_image_room(image, image->names_count * sizeof(*n));

    if (p == NULL) {
        return;
    }

    at = (uint32_t) (p - image->data - image->block);

    for (i = 0; i < image->names_count; i++) {
        n = (ngx_commerce_directory_name_t *) image->names + i;
        n->back = at + i * (uint32_t) sizeof(*n);
    }

    if (image->names_count) {
        memcpy(p, image->names, image->names_count * sizeof(*n));
    }

    block = (void *) (image->data + image->block);
    block->size = (uint32_t) (image->len - image->block);
    block->names = at;
    block->names_count = image->names_count;

    image->blocks++;
    image->total += image->names_count;
}


ngx_commerce_directory_rc_t
ngx_commerce_image_copy(ngx_commerce_directory_image_t *image,
    const ngx_commerce_directory_t *d, uint64_t generation, size_t *position,
    uint64_t id, uint32_t budget)
{
    uint8_t                         *p;
    const uint8_t                   *place;
    ngx_commerce_directory_head_t    head;
    ngx_commerce_directory_block_t   block;

    head = d->heads[generation & 1];
    place = ngx_commerce_directory_place(d, generation);

    while (*position < head.index) {

        if (!ngx_commerce_directory_is(d, generation)) {
            return NGX_COMMERCE_DIRECTORY_MISSING;
        }

        if (budget-- == 0) {
            return NGX_COMMERCE_DIRECTORY_AGAIN;
        }

        memcpy(&block, place + *position, sizeof(block));

        if (!ngx_commerce_directory_is(d, generation)
            || block.size < sizeof(block)
            || block.size > head.index - *position)
        {
            return NGX_COMMERCE_DIRECTORY_MISSING;
        }

        if (block.id > id) {
            break;
        }

        if (block.id < id) {
            p = ngx_commerce_image_room(image, block.size);

            if (p) {
                memcpy(p, place + *position, block.size);
                image->blocks++;
                image->total += block.names_count;
            }
        }

        *position += block.size;
    }

    return ngx_commerce_directory_is(d, generation)
           ? NGX_COMMERCE_DIRECTORY_OK : NGX_COMMERCE_DIRECTORY_MISSING;
}


void
ngx_commerce_image_take(ngx_commerce_directory_image_t *image,
    const ngx_commerce_directory_image_t *from, uint64_t id)
{
    size_t                                at;
    uint8_t                              *p;
    const ngx_commerce_directory_block_t *block;

    image->failed |= from->failed;

    for (at = 0; at < from->len; at += block->size) {
        block = (const void *) (from->data + at);

        if (block->size == 0) {
            return;                         /* memory ran out in the middle */
        }

        if (block->id != id) {
            continue;
        }

        p = ngx_commerce_image_room(image, block->size);

        if (p) {
            memcpy(p, block, block->size);
            image->blocks++;
            image->total += block->names_count;
        }

        return;
    }
}


ngx_commerce_directory_rc_t
ngx_commerce_image_index(ngx_commerce_directory_image_t *image,
    uint32_t budget)
{
    uint32_t                         i;
    size_t                           at;
    ngx_commerce_directory_block_t  *block;

    if (image->mask == 0 && !ngx_commerce_image_table(image)) {
        return NGX_COMMERCE_DIRECTORY_NOMEM;
    }

    while (image->indexed < image->index) {

        if (budget-- == 0) {
            return NGX_COMMERCE_DIRECTORY_AGAIN;
        }

        block = (void *) (image->data + image->indexed);
        at = image->indexed + block->names;

        for (i = 0; i < block->names_count; i++) {
            ngx_commerce_image_insert(image,
                          at + i * sizeof(ngx_commerce_directory_name_t));
        }

        image->indexed += block->size;
    }

    return NGX_COMMERCE_DIRECTORY_OK;
}


static bool
ngx_commerce_image_table(ngx_commerce_directory_image_t *image)
{
    uint32_t  size;

    for (size = 16; size < image->total * 2; size *= 2) { /* void */ }

    image->index = image->len;

    if (ngx_commerce_image_room(image, (size_t) size * 8) == NULL) {
        return false;
    }

    image->mask = size - 1;

    return true;
}


/* The first of two equal names counts: PostgreSQL keeps them unique where it matters. */

static void
ngx_commerce_image_insert(ngx_commerce_directory_image_t *image, size_t at)
{
    uint32_t                        i;
    uint64_t                       *slots;
    ngx_commerce_directory_name_t  *n;

    n = (void *) (image->data + at);
    slots = (void *) (image->data + image->index);

    for (i = n->hash; slots[i & image->mask]; i++) { /* void */ }

    slots[i & image->mask] = (uint64_t) n->hash << 32 | (at / 8 + 1);
}


ngx_commerce_directory_rc_t
ngx_commerce_directory_publish(ngx_commerce_directory_t *d,
    const ngx_commerce_directory_image_t *image, int64_t as_of,
    uint64_t generation)
{
    int64_t                         behind;
    uint8_t                        *place;
    uint64_t                        current;
    ngx_commerce_directory_head_t  *shown, *hidden;

    if (image->len > d->size || image->len / 8 >= UINT32_MAX) {
        return NGX_COMMERCE_DIRECTORY_TOO_LARGE;
    }

    current = atomic_load_explicit(&d->generation, memory_order_acquire);

    if (generation && generation != current) {
        return NGX_COMMERCE_DIRECTORY_AGAIN;
    }

    shown = &d->heads[current & 1];
    hidden = &d->heads[(current + 1) & 1];

    if (generation) {
        as_of = as_of > shown->as_of ? as_of : shown->as_of;
    }

    if (current) {
        behind = shown->as_of - as_of;

        if (behind > 0 && behind < NGX_COMMERCE_DIRECTORY_SKEW) {
            return NGX_COMMERCE_DIRECTORY_AGAIN;
        }

        if (shown->len == image->len
            && memcmp(ngx_commerce_directory_place(d, current), image->data,
                      image->len)
               == 0)
        {
            shown->as_of = as_of;
            return NGX_COMMERCE_DIRECTORY_OK;
        }
    }

    /* who still reads there has to see that "current" is shown */

    atomic_thread_fence(memory_order_seq_cst);

    place = (uint8_t *) ngx_commerce_directory_place(d, current + 1);
    memcpy(place, image->data, image->len);

    hidden->as_of = as_of;
    hidden->len = image->len;
    hidden->index = image->index;
    hidden->mask = image->mask;
    hidden->blocks = image->blocks;
    hidden->names = image->total;

    atomic_store_explicit(&d->generation, current + 1, memory_order_release);

    return NGX_COMMERCE_DIRECTORY_OK;
}
