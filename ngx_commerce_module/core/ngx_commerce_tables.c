/*
 * Layout: control, retired blocks, readers, places, the loader's workspace,
 * blocks.
 *
 * What is in use is never written down: it is what the places and the list of
 * retired blocks point to.  So a loader that dies between any two stores leaks
 * nothing; the block that it was filling is simply free.
 *
 * A place without a block is free, whatever shop it names.  Whoever takes it
 * writes the shop, then the block: a loader that dies in between has taken
 * nothing.  A shop with a table is never given a second place, and one that
 * names it without a block is passed over, so which places it had before does
 * not matter.
 *
 * Reclamation by epochs.  A reader stores the epoch, fences, then loads the
 * place's word; the loader notes the old block with the epoch, stores the
 * word, fences, and counts the epoch up.  A reader that saw the old word
 * entered with that epoch or an earlier one, or entered before the word was
 * changed; so the block is free when no living reader's epoch is at or before
 * its own.  Who died inside is found by its process id.
 */

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ngx_commerce_tables.h"


#define NGX_COMMERCE_TABLES_MAGIC      UINT64_C(0x6e63745f74616233)
#define NGX_COMMERCE_TABLES_PER_PLACE   (16 * 1024)
#define NGX_COMMERCE_TABLES_WINDOW      128     /* places that a shop may have */
#define NGX_COMMERCE_TABLES_PLACES_MIN  NGX_COMMERCE_TABLES_WINDOW
#define NGX_COMMERCE_TABLES_PLACES_MAX  65536
#define NGX_COMMERCE_TABLES_RETIRED     1024
#define NGX_COMMERCE_TABLES_HEAD        64


typedef _Atomic uint64_t  ngx_commerce_tables_word_t;

typedef struct {
    _Alignas(64)
    ngx_commerce_tables_word_t   epoch;     /* 0: outside */
    ngx_commerce_tables_word_t   pid;
} ngx_commerce_tables_reader_t;

/* At most half of the places are taken, so that a shop's window is not full. */

typedef struct {
    ngx_commerce_tables_word_t   shop;      /* whose it is, or was */
    ngx_commerce_tables_word_t   block;     /* offset; 0: the place is free */
} ngx_commerce_tables_place_t;

typedef struct {
    uint64_t                     block;     /* 0: free */
    uint64_t                     epoch;
} ngx_commerce_tables_retired_t;

/* In front of a table; written before the block is shown. */

typedef struct {
    uint64_t                     serial;
    uint64_t                     size;
    uint64_t                     shop;
    int64_t                      loaded;
    ngx_commerce_file_t          file;
} ngx_commerce_tables_block_t;

_Static_assert(sizeof(ngx_commerce_tables_block_t) <= NGX_COMMERCE_TABLES_HEAD,
               "a table begins behind its block's description");

typedef struct {
    uint64_t                     first;
    uint64_t                     last;
} ngx_commerce_tables_range_t;

struct ngx_commerce_tables_shm_s {
    uint64_t                        magic;
    uint64_t                        size;
    uint64_t                        places_mask;
    uint64_t                        places_shift;
    uint64_t                        places_at;
    uint64_t                        ranges_at;
    uint64_t                        blocks_at;
    ngx_commerce_tables_word_t      serial;
    ngx_commerce_tables_word_t      loader;     /* its process, or 0 */

    _Alignas(64)
    ngx_commerce_tables_word_t      epoch;

    _Alignas(64)
    ngx_commerce_tables_retired_t   retired[NGX_COMMERCE_TABLES_RETIRED];
    ngx_commerce_tables_reader_t    readers[NGX_COMMERCE_TABLES_READERS];
};


static ngx_commerce_tables_place_t *ngx_commerce_tables_place(
    const ngx_commerce_tables_shm_t *shm, uint64_t shop, uint64_t *block);
static ngx_commerce_tables_place_t *ngx_commerce_tables_free(
    const ngx_commerce_tables_shm_t *shm, uint64_t shop);
static ngx_commerce_tables_place_t *ngx_commerce_tables_nth(
    const ngx_commerce_tables_shm_t *shm, uint64_t shop, uint64_t n);
static uint64_t ngx_commerce_tables_used(ngx_commerce_tables_shm_t *shm,
    bool retired, ngx_commerce_tables_range_t *ranges);
static void ngx_commerce_tables_reclaim(ngx_commerce_tables_shm_t *shm);
static bool ngx_commerce_tables_shown(ngx_commerce_tables_shm_t *shm,
    uint64_t block);
static bool ngx_commerce_tables_retire(ngx_commerce_tables_shm_t *shm,
    uint64_t block);
static void ngx_commerce_tables_swap(ngx_commerce_tables_shm_t *shm,
    ngx_commerce_tables_place_t *place, uint64_t block);
static uint64_t ngx_commerce_tables_gap(ngx_commerce_tables_shm_t *shm,
    ngx_commerce_tables_range_t *ranges, uint64_t n, uint64_t size,
    uint64_t *largest);
static int ngx_commerce_tables_compare(const void *a, const void *b);


static inline uint64_t
ngx_commerce_tables_round(uint64_t size)
{
    return (size + NGX_COMMERCE_TABLES_ALIGN - 1)
           & ~(uint64_t) (NGX_COMMERCE_TABLES_ALIGN - 1);
}


static inline void *
ngx_commerce_tables_at(const ngx_commerce_tables_shm_t *shm, uint64_t offset)
{
    return (uint8_t *) (uintptr_t) shm + offset;
}


static inline uint64_t
ngx_commerce_tables_length(const ngx_commerce_tables_shm_t *shm,
    uint64_t block)
{
    ngx_commerce_tables_block_t  *head;

    head = ngx_commerce_tables_at(shm, block);

    return ngx_commerce_tables_round(head->size + NGX_COMMERCE_TABLES_HEAD);
}


ngx_commerce_rc_t
ngx_commerce_tables_create(ngx_commerce_tables_t *tables, void *memory,
    size_t size)
{
    uint64_t                    bits, places, at;
    ngx_commerce_tables_shm_t  *shm;

    if (size < NGX_COMMERCE_TABLES_MIN
        || (uintptr_t) memory % NGX_COMMERCE_TABLES_ALIGN)
    {
        return NGX_COMMERCE_INVALID;
    }

    places = NGX_COMMERCE_TABLES_PLACES_MIN;

    while (places < NGX_COMMERCE_TABLES_PLACES_MAX
           && places * NGX_COMMERCE_TABLES_PER_PLACE < size)
    {
        places *= 2;
    }

    for (bits = 1; UINT64_C(1) << bits < places; bits++) { /* void */ }

    shm = memory;
    shm->size = size;
    shm->places_mask = places - 1;
    shm->places_shift = 64 - bits;

    at = ngx_commerce_tables_round(sizeof(ngx_commerce_tables_shm_t));
    shm->places_at = at;

    at += places * sizeof(ngx_commerce_tables_place_t);
    shm->ranges_at = at;

    at += (places / 2 + NGX_COMMERCE_TABLES_RETIRED)
          * sizeof(ngx_commerce_tables_range_t);
    shm->blocks_at = ngx_commerce_tables_round(at);

    if (shm->blocks_at + NGX_COMMERCE_TABLES_ALIGN > size) {
        return NGX_COMMERCE_INVALID;
    }

    atomic_store(&shm->epoch, 1);
    shm->magic = NGX_COMMERCE_TABLES_MAGIC;
    tables->shm = shm;

    return NGX_COMMERCE_OK;
}


ngx_commerce_rc_t
ngx_commerce_tables_open(ngx_commerce_tables_t *tables, void *memory,
    size_t size)
{
    ngx_commerce_tables_shm_t  *shm = memory;

    if (shm->magic != NGX_COMMERCE_TABLES_MAGIC || shm->size != size) {
        return NGX_COMMERCE_INVALID;
    }

    tables->shm = shm;

    return NGX_COMMERCE_OK;
}


void
ngx_commerce_tables_join(ngx_commerce_tables_t *tables, uint32_t reader)
{
    ngx_commerce_tables_reader_t  *r;

    tables->reader = reader % NGX_COMMERCE_TABLES_READERS;
    r = &tables->shm->readers[tables->reader];

    atomic_store(&r->epoch, 0);
    atomic_store(&r->pid, (uint64_t) getpid());
}


void
ngx_commerce_tables_enter(ngx_commerce_tables_t *tables)
{
    ngx_commerce_tables_shm_t  *shm = tables->shm;

    /* the epoch must be seen by the loader before the place's word is loaded */

    atomic_store_explicit(&shm->readers[tables->reader].epoch,
                          atomic_load_explicit(&shm->epoch,
                                               memory_order_relaxed),
                          memory_order_relaxed);

    atomic_thread_fence(memory_order_seq_cst);
}


void
ngx_commerce_tables_leave(ngx_commerce_tables_t *tables)
{
    atomic_store_explicit(&tables->shm->readers[tables->reader].epoch, 0,
                          memory_order_release);
}


bool
ngx_commerce_tables_find(const ngx_commerce_tables_t *tables, uint64_t shop,
    ngx_commerce_tables_found_t *found)
{
    uint64_t                      block;
    ngx_commerce_tables_block_t  *head;

    if (ngx_commerce_tables_place(tables->shm, shop, &block) == NULL) {
        return false;
    }

    head = ngx_commerce_tables_at(tables->shm, block);

    found->data = (uint8_t *) head + NGX_COMMERCE_TABLES_HEAD;
    found->size = head->size;
    found->serial = head->serial;
    found->loaded = head->loaded;
    found->file = &head->file;

    return true;
}


bool
ngx_commerce_tables_lock(ngx_commerce_tables_t *tables)
{
    uint64_t                     owner, self;
    ngx_commerce_tables_word_t  *word;

    word = &tables->shm->loader;
    self = (uint64_t) getpid();
    owner = atomic_load(word);

    /* our own number: of one before us, a process does not do two things at a time */

    if (owner != 0 && owner != self
        && (kill((pid_t) owner, 0) == 0 || errno != ESRCH))
    {
        return false;
    }

    return atomic_compare_exchange_strong(word, &owner, self);
}


void
ngx_commerce_tables_unlock(ngx_commerce_tables_t *tables)
{
    atomic_store(&tables->shm->loader, 0);
}


ngx_commerce_tables_rc_t
ngx_commerce_tables_reserve(ngx_commerce_tables_t *tables, size_t size,
    void **data)
{
    uint64_t                      n, at, wanted, largest;
    ngx_commerce_tables_shm_t    *shm;
    ngx_commerce_tables_range_t  *ranges;

    shm = tables->shm;

    if (size > shm->size) {
        return NGX_COMMERCE_TABLES_FULL;
    }

    wanted = ngx_commerce_tables_round(size + NGX_COMMERCE_TABLES_HEAD);
    ranges = ngx_commerce_tables_at(shm, shm->ranges_at);

    ngx_commerce_tables_reclaim(shm);

    n = ngx_commerce_tables_used(shm, true, ranges);
    at = ngx_commerce_tables_gap(shm, ranges, n, wanted, &largest);

    if (at) {
        *data = ngx_commerce_tables_at(shm, at + NGX_COMMERCE_TABLES_HEAD);
        return NGX_COMMERCE_TABLES_OK;
    }

    n = ngx_commerce_tables_used(shm, false, ranges);
    at = ngx_commerce_tables_gap(shm, ranges, n, wanted, &largest);

    return at ? NGX_COMMERCE_TABLES_BUSY : NGX_COMMERCE_TABLES_FULL;
}


ngx_commerce_tables_rc_t
ngx_commerce_tables_publish(ngx_commerce_tables_t *tables, uint64_t shop,
    const void *data, size_t size, const ngx_commerce_file_t *file,
    int64_t now)
{
    uint64_t                      old;
    ngx_commerce_tables_shm_t    *shm;
    ngx_commerce_tables_place_t  *place;
    ngx_commerce_tables_block_t  *head;

    shm = tables->shm;
    place = ngx_commerce_tables_place(shm, shop, &old);

    if (place == NULL) {
        old = 0;
        place = ngx_commerce_tables_free(shm, shop);

        if (place == NULL) {
            return NGX_COMMERCE_TABLES_FULL;
        }
    }

    head = (ngx_commerce_tables_block_t *)
               ((uint8_t *) (uintptr_t) data - NGX_COMMERCE_TABLES_HEAD);
    head->serial = atomic_fetch_add(&shm->serial, 1) + 1;
    head->size = size;
    head->shop = shop;
    head->loaded = now;
    head->file = *file;

    if (!ngx_commerce_tables_retire(shm, old)) {
        return NGX_COMMERCE_TABLES_BUSY;
    }

    atomic_store_explicit(&place->shop, shop, memory_order_relaxed);

    ngx_commerce_tables_swap(shm, place, (uint64_t) ((uint8_t *) head
                                                     - (uint8_t *) shm));

    return NGX_COMMERCE_TABLES_OK;
}


void
ngx_commerce_tables_withdraw(ngx_commerce_tables_t *tables, uint64_t shop)
{
    uint64_t                      block;
    ngx_commerce_tables_place_t  *place;

    place = ngx_commerce_tables_place(tables->shm, shop, &block);

    if (place && ngx_commerce_tables_retire(tables->shm, block)) {
        ngx_commerce_tables_swap(tables->shm, place, 0);
    }
}


uint64_t
ngx_commerce_tables_next(const ngx_commerce_tables_t *tables, uint64_t from,
    uint64_t *shop)
{
    ngx_commerce_tables_place_t  *places;

    places = ngx_commerce_tables_at(tables->shm, tables->shm->places_at);

    for ( /* void */ ; from <= tables->shm->places_mask; from++) {

        if (atomic_load_explicit(&places[from].block, memory_order_relaxed)) {
            *shop = atomic_load_explicit(&places[from].shop,
                                         memory_order_relaxed);
            return from + 1;
        }
    }

    return 0;
}


void
ngx_commerce_tables_stats(ngx_commerce_tables_t *tables,
    ngx_commerce_tables_stats_t *stats)
{
    uint64_t                        i, block;
    ngx_commerce_tables_shm_t      *shm;
    ngx_commerce_tables_place_t    *places;
    ngx_commerce_tables_range_t    *ranges;

    shm = tables->shm;
    places = ngx_commerce_tables_at(shm, shm->places_at);
    ranges = ngx_commerce_tables_at(shm, shm->ranges_at);

    memset(stats, 0, sizeof(*stats));

    stats->memory = shm->size - shm->blocks_at;
    stats->tables_max = (shm->places_mask + 1) / 2;

    for (i = 0; i <= shm->places_mask; i++) {
        block = atomic_load(&places[i].block);

        if (block) {
            stats->tables++;
            stats->used += ngx_commerce_tables_length(shm, block);
        }
    }

    for (i = 0; i < NGX_COMMERCE_TABLES_RETIRED; i++) {
        block = shm->retired[i].block;

        if (block && !ngx_commerce_tables_shown(shm, block)) {
            stats->waiting += ngx_commerce_tables_length(shm, block);
        }
    }

    i = ngx_commerce_tables_used(shm, true, ranges);
    (void) ngx_commerce_tables_gap(shm, ranges, i, shm->size,
                                   &stats->largest);

    if (stats->largest) {
        stats->largest -= NGX_COMMERCE_TABLES_HEAD;
    }
}


/* The place of a shop that has a table, and its block; NULL: it has none. */

static ngx_commerce_tables_place_t *
ngx_commerce_tables_place(const ngx_commerce_tables_shm_t *shm, uint64_t shop,
    uint64_t *block)
{
    uint64_t                            i;
    ngx_commerce_tables_place_t        *place;
    const ngx_commerce_tables_block_t  *head;

    for (i = 0; i < NGX_COMMERCE_TABLES_WINDOW; i++) {
        place = ngx_commerce_tables_nth(shm, shop, i);

        if (atomic_load_explicit(&place->shop, memory_order_relaxed) != shop) {
            continue;
        }

        *block = atomic_load_explicit(&place->block, memory_order_acquire);

        if (*block == 0) {
            continue;
        }

        /* the place may have become another shop's since the line above */

        head = ngx_commerce_tables_at(shm, *block);

        if (head->shop == shop) {
            return place;
        }
    }

    return NULL;
}


/* A place for a shop that has none; NULL: half of all are taken. */

static ngx_commerce_tables_place_t *
ngx_commerce_tables_free(const ngx_commerce_tables_shm_t *shm, uint64_t shop)
{
    uint64_t                      i, taken;
    ngx_commerce_tables_place_t  *places, *place;

    places = ngx_commerce_tables_at(shm, shm->places_at);
    taken = 0;

    for (i = 0; i <= shm->places_mask; i++) {
        taken += (atomic_load(&places[i].block) != 0);
    }

    if (shop == 0 || taken >= (shm->places_mask + 1) / 2) {
        return NULL;
    }

    for (i = 0; i < NGX_COMMERCE_TABLES_WINDOW; i++) {
        place = ngx_commerce_tables_nth(shm, shop, i);

        if (atomic_load(&place->block) == 0) {
            return place;
        }
    }

    return NULL;
}


/* The upper bits of a multiplicative hash: ids are dense, and so their places are far apart. */

static ngx_commerce_tables_place_t *
ngx_commerce_tables_nth(const ngx_commerce_tables_shm_t *shm, uint64_t shop,
    uint64_t n)
{
    uint64_t                      home;
    ngx_commerce_tables_place_t  *places;

    places = ngx_commerce_tables_at(shm, shm->places_at);
    home = (shop * UINT64_C(0x9e3779b97f4a7c15)) >> shm->places_shift;

    return &places[(home + n) & shm->places_mask];
}


/* What must not be written over, as ranges in no order; returns how many. */

static uint64_t
ngx_commerce_tables_used(ngx_commerce_tables_shm_t *shm, bool retired,
    ngx_commerce_tables_range_t *ranges)
{
    uint64_t                      i, n, block;
    ngx_commerce_tables_place_t  *places;

    places = ngx_commerce_tables_at(shm, shm->places_at);
    n = 0;

    for (i = 0; i <= shm->places_mask; i++) {
        block = atomic_load(&places[i].block);

        if (block) {
            ranges[n].first = block;
            ranges[n++].last = block + ngx_commerce_tables_length(shm, block);
        }
    }

    for (i = 0; retired && i < NGX_COMMERCE_TABLES_RETIRED; i++) {
        block = shm->retired[i].block;

        if (block) {
            ranges[n].first = block;
            ranges[n++].last = block + ngx_commerce_tables_length(shm, block);
        }
    }

    return n;
}


/* Forgets the retired blocks that no living reader can hold. */

static void
ngx_commerce_tables_reclaim(ngx_commerce_tables_shm_t *shm)
{
    uint64_t                       i, epoch, oldest;
    ngx_commerce_tables_reader_t  *r;

    /* after the swap's stores, before the readers' are looked at */

    atomic_thread_fence(memory_order_seq_cst);

    oldest = UINT64_MAX;

    for (i = 0; i < NGX_COMMERCE_TABLES_READERS; i++) {
        r = &shm->readers[i];
        epoch = atomic_load(&r->epoch);

        if (epoch == 0 || epoch >= oldest) {
            continue;
        }

        if (kill((pid_t) atomic_load(&r->pid), 0) == -1 && errno == ESRCH) {
            continue;
        }

        oldest = epoch;
    }

    for (i = 0; i < NGX_COMMERCE_TABLES_RETIRED; i++) {

        if (shm->retired[i].block == 0) {
            continue;
        }

        /* a loader died between retire() and swap(): it is still shown */

        if (shm->retired[i].epoch < oldest
            || ngx_commerce_tables_shown(shm, shm->retired[i].block))
        {
            shm->retired[i].block = 0;
        }
    }
}


static bool
ngx_commerce_tables_shown(ngx_commerce_tables_shm_t *shm, uint64_t block)
{
    uint64_t                      shown;
    ngx_commerce_tables_block_t  *head;

    head = ngx_commerce_tables_at(shm, block);

    return ngx_commerce_tables_place(shm, head->shop, &shown)
           && shown == block;
}


/* Notes the block before it is taken away; false: no room for the note. */

static bool
ngx_commerce_tables_retire(ngx_commerce_tables_shm_t *shm, uint64_t block)
{
    uint64_t  i;

    if (block == 0) {
        return true;
    }

    for (i = 0; i < NGX_COMMERCE_TABLES_RETIRED; i++) {

        if (shm->retired[i].block == 0) {
            shm->retired[i].epoch = atomic_load(&shm->epoch);
            atomic_thread_fence(memory_order_release);
            shm->retired[i].block = block;
            return true;
        }
    }

    return false;
}


static void
ngx_commerce_tables_swap(ngx_commerce_tables_shm_t *shm,
    ngx_commerce_tables_place_t *place, uint64_t block)
{
    atomic_store_explicit(&place->block, block, memory_order_release);
    atomic_thread_fence(memory_order_seq_cst);
    atomic_fetch_add(&shm->epoch, 1);
}


/*
 * The smallest gap that is large enough, so that large gaps stay; 0: none.
 * Two ranges may be the same (see reclaim), but never overlap otherwise.
 */

static uint64_t
ngx_commerce_tables_gap(ngx_commerce_tables_shm_t *shm,
    ngx_commerce_tables_range_t *ranges, uint64_t n, uint64_t size,
    uint64_t *largest)
{
    uint64_t  i, at, end, gap, best, found;

    qsort(ranges, n, sizeof(ngx_commerce_tables_range_t),
          ngx_commerce_tables_compare);

    at = shm->blocks_at;
    best = UINT64_MAX;
    found = 0;
    *largest = 0;

    for (i = 0; i <= n; i++) {

        end = (i < n) ? ranges[i].first
                      : shm->size & ~(uint64_t) (NGX_COMMERCE_TABLES_ALIGN - 1);

        if (end > at) {
            gap = end - at;

            if (gap >= size && gap < best) {
                best = gap;
                found = at;
            }

            if (gap > *largest) {
                *largest = gap;
            }
        }

        if (i < n && ranges[i].last > at) {
            at = ranges[i].last;
        }
    }

    return found;
}


static int
ngx_commerce_tables_compare(const void *a, const void *b)
{
    const ngx_commerce_tables_range_t  *x = a, *y = b;

    return (x->first > y->first) - (x->first < y->first);
}
