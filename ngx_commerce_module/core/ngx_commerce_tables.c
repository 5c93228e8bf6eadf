/*
 * Layout: control, readers, shops, retired blocks, the loader's workspace,
 * blocks.
 *
 * What is in use is never written down: it is what the shops' entries and the
 * list of retired blocks point to.  So a loader that dies between any two
 * stores leaks nothing; the block that it was filling is simply free.
 *
 * Reclamation by epochs.  A reader stores the epoch, fences, then loads the
 * entry's word; the loader stores the word, notes the old block with the
 * epoch, fences, and counts the epoch up.  A reader that saw the old word
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


#define NGX_COMMERCE_TABLES_MAGIC      UINT64_C(0x6e63745f74616232)
#define NGX_COMMERCE_TABLES_PER_SHOP   (16 * 1024)
#define NGX_COMMERCE_TABLES_SHOPS_MIN  64
#define NGX_COMMERCE_TABLES_SHOPS_MAX  65536
#define NGX_COMMERCE_TABLES_RETIRED    1024
#define NGX_COMMERCE_TABLES_HEAD       64


typedef _Atomic uint64_t  ngx_commerce_tables_word_t;

typedef struct {
    _Alignas(64)
    ngx_commerce_tables_word_t   epoch;     /* 0: outside */
    ngx_commerce_tables_word_t   pid;
} ngx_commerce_tables_reader_t;

typedef struct {
    ngx_commerce_tables_word_t   shop;      /* 0: free, and the end of a search */
    ngx_commerce_tables_word_t   block;     /* offset; 0: no table */
    ngx_commerce_tables_word_t   loaded;
    ngx_commerce_tables_word_t   refusals;
    ngx_commerce_tables_file_t   file;      /* these are the loader's alone */
    ngx_commerce_tables_file_t   refused;
} ngx_commerce_tables_shop_t;

typedef struct {
    uint64_t                     block;     /* 0: free */
    uint64_t                     epoch;
} ngx_commerce_tables_retired_t;

/* In front of a table; written before the block is shown. */

typedef struct {
    uint64_t                     serial;
    uint64_t                     size;
    uint64_t                     shop;
} ngx_commerce_tables_block_t;

typedef struct {
    uint64_t                     first;
    uint64_t                     last;
} ngx_commerce_tables_range_t;

struct ngx_commerce_tables_shm_s {
    uint64_t                        magic;
    uint64_t                        size;
    uint64_t                        shops_mask;
    uint64_t                        shops_at;
    uint64_t                        ranges_at;
    uint64_t                        blocks_at;
    ngx_commerce_tables_word_t      serial;
    ngx_commerce_tables_word_t      shops;      /* entries taken */
    ngx_commerce_tables_word_t      loader;     /* its process, or 0 */

    _Alignas(64)
    ngx_commerce_tables_word_t      epoch;

    _Alignas(64)
    ngx_commerce_tables_retired_t   retired[NGX_COMMERCE_TABLES_RETIRED];
    ngx_commerce_tables_reader_t    readers[NGX_COMMERCE_TABLES_READERS];
};


static ngx_commerce_tables_shop_t *ngx_commerce_tables_entry(
    const ngx_commerce_tables_t *tables, uint64_t shop, bool create);
static uint64_t ngx_commerce_tables_used(ngx_commerce_tables_shm_t *shm,
    bool retired, ngx_commerce_tables_range_t *ranges);
static void ngx_commerce_tables_reclaim(ngx_commerce_tables_shm_t *shm);
static bool ngx_commerce_tables_shown(ngx_commerce_tables_shm_t *shm,
    uint64_t block);
static bool ngx_commerce_tables_retire(ngx_commerce_tables_shm_t *shm,
    uint64_t block);
static void ngx_commerce_tables_swap(ngx_commerce_tables_shm_t *shm,
    ngx_commerce_tables_shop_t *entry, uint64_t block);
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
    uint64_t                    shops, at;
    ngx_commerce_tables_shm_t  *shm;

    if (size < NGX_COMMERCE_TABLES_MIN
        || (uintptr_t) memory % NGX_COMMERCE_TABLES_ALIGN)
    {
        return NGX_COMMERCE_INVALID;
    }

    shops = NGX_COMMERCE_TABLES_SHOPS_MIN;

    while (shops < NGX_COMMERCE_TABLES_SHOPS_MAX
           && shops * NGX_COMMERCE_TABLES_PER_SHOP < size)
    {
        shops *= 2;
    }

    shm = memory;
    shm->size = size;
    shm->shops_mask = shops - 1;

    at = ngx_commerce_tables_round(sizeof(ngx_commerce_tables_shm_t));
    shm->shops_at = at;

    at += shops * sizeof(ngx_commerce_tables_shop_t);
    shm->ranges_at = at;

    at += (shops + NGX_COMMERCE_TABLES_RETIRED)
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

    /* the epoch must be seen by the loader before the entry's word is loaded */

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
    ngx_commerce_tables_shop_t   *entry;
    ngx_commerce_tables_block_t  *head;

    entry = ngx_commerce_tables_entry(tables, shop, false);

    if (entry == NULL) {
        return false;
    }

    block = atomic_load_explicit(&entry->block, memory_order_acquire);

    if (block == 0) {
        return false;
    }

    head = ngx_commerce_tables_at(tables->shm, block);

    found->data = (uint8_t *) head + NGX_COMMERCE_TABLES_HEAD;
    found->size = head->size;
    found->serial = head->serial;

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
    const void *data, size_t size, const ngx_commerce_tables_file_t *file,
    int64_t now)
{
    ngx_commerce_tables_shm_t    *shm;
    ngx_commerce_tables_shop_t   *entry;
    ngx_commerce_tables_block_t  *head;

    shm = tables->shm;
    entry = ngx_commerce_tables_entry(tables, shop, true);

    if (entry == NULL) {
        return NGX_COMMERCE_TABLES_FULL;
    }

    head = (ngx_commerce_tables_block_t *)
               ((uint8_t *) (uintptr_t) data - NGX_COMMERCE_TABLES_HEAD);
    head->serial = atomic_fetch_add(&shm->serial, 1) + 1;
    head->size = size;
    head->shop = shop;

    if (!ngx_commerce_tables_retire(shm, atomic_load(&entry->block))) {
        return NGX_COMMERCE_TABLES_BUSY;
    }

    entry->file = *file;
    memset(&entry->refused, 0, sizeof(entry->refused));
    atomic_store(&entry->loaded, (uint64_t) now);

    ngx_commerce_tables_swap(shm, entry, (uint64_t) ((uint8_t *) head
                                                     - (uint8_t *) shm));

    return NGX_COMMERCE_TABLES_OK;
}


void
ngx_commerce_tables_withdraw(ngx_commerce_tables_t *tables, uint64_t shop)
{
    ngx_commerce_tables_shop_t  *entry;

    entry = ngx_commerce_tables_entry(tables, shop, false);

    if (entry == NULL || atomic_load(&entry->block) == 0
        || !ngx_commerce_tables_retire(tables->shm,
                                       atomic_load(&entry->block)))
    {
        return;
    }

    memset(&entry->file, 0, sizeof(entry->file));
    memset(&entry->refused, 0, sizeof(entry->refused));

    ngx_commerce_tables_swap(tables->shm, entry, 0);
}


bool
ngx_commerce_tables_note(const ngx_commerce_tables_t *tables, uint64_t shop,
    ngx_commerce_tables_note_t *note)
{
    ngx_commerce_tables_shop_t  *entry;

    entry = ngx_commerce_tables_entry(tables, shop, false);

    if (entry == NULL) {
        return false;
    }

    note->file = entry->file;
    note->refused = entry->refused;
    note->loaded = (int64_t) atomic_load(&entry->loaded);
    note->refusals = atomic_load(&entry->refusals);

    return true;
}


void
ngx_commerce_tables_refuse(ngx_commerce_tables_t *tables, uint64_t shop,
    const ngx_commerce_tables_file_t *file)
{
    ngx_commerce_tables_shop_t  *entry;

    entry = ngx_commerce_tables_entry(tables, shop, true);

    if (entry) {
        entry->refused = *file;
        atomic_fetch_add(&entry->refusals, 1);
    }
}


void
ngx_commerce_tables_forgive(ngx_commerce_tables_t *tables, uint64_t shop)
{
    ngx_commerce_tables_shop_t  *entry;

    entry = ngx_commerce_tables_entry(tables, shop, false);

    if (entry) {
        memset(&entry->refused, 0, sizeof(entry->refused));
    }
}


uint64_t
ngx_commerce_tables_next_refused(const ngx_commerce_tables_t *tables,
    uint64_t from, uint64_t *shop)
{
    ngx_commerce_tables_shop_t  *entries;

    entries = ngx_commerce_tables_at(tables->shm, tables->shm->shops_at);

    for ( /* void */ ; from <= tables->shm->shops_mask; from++) {

        if (entries[from].refused.inode) {
            *shop = atomic_load(&entries[from].shop);
            return from + 1;
        }
    }

    return 0;
}


uint64_t
ngx_commerce_tables_next(const ngx_commerce_tables_t *tables, uint64_t from,
    uint64_t *shop)
{
    ngx_commerce_tables_shop_t  *entries;

    entries = ngx_commerce_tables_at(tables->shm, tables->shm->shops_at);

    for ( /* void */ ; from <= tables->shm->shops_mask; from++) {

        if (atomic_load_explicit(&entries[from].block, memory_order_relaxed)) {
            *shop = atomic_load(&entries[from].shop);
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
    ngx_commerce_tables_shop_t     *entries;
    ngx_commerce_tables_range_t    *ranges;

    shm = tables->shm;
    entries = ngx_commerce_tables_at(shm, shm->shops_at);
    ranges = ngx_commerce_tables_at(shm, shm->ranges_at);

    memset(stats, 0, sizeof(*stats));

    stats->memory = shm->size - shm->blocks_at;
    stats->shops = atomic_load(&shm->shops);
    stats->shops_max = (shm->shops_mask + 1) / 2;

    for (i = 0; i <= shm->shops_mask; i++) {
        block = atomic_load(&entries[i].block);

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


/* At most half of the places are taken, so a search soon meets a free one. */

static ngx_commerce_tables_shop_t *
ngx_commerce_tables_entry(const ngx_commerce_tables_t *tables, uint64_t shop,
    bool create)
{
    uint64_t                     i, found;
    ngx_commerce_tables_shm_t   *shm;
    ngx_commerce_tables_shop_t  *entries;

    shm = tables->shm;
    entries = ngx_commerce_tables_at(shm, shm->shops_at);

    if (shop == 0) {
        return NULL;
    }

    /* ids are dense: neighbours of a multiplicative hash are far apart */

    for (i = (shop * UINT64_C(0x9e3779b97f4a7c15)) >> 32;
         /* void */ ;
         i++)
    {
        i &= shm->shops_mask;
        found = atomic_load_explicit(&entries[i].shop, memory_order_acquire);

        if (found == shop) {
            return &entries[i];
        }

        if (found == 0) {
            break;
        }
    }

    if (!create || atomic_load(&shm->shops) >= (shm->shops_mask + 1) / 2) {
        return NULL;
    }

    atomic_fetch_add(&shm->shops, 1);
    atomic_store_explicit(&entries[i].shop, shop, memory_order_release);

    return &entries[i];
}


/* What must not be written over, as ranges in no order; returns how many. */

static uint64_t
ngx_commerce_tables_used(ngx_commerce_tables_shm_t *shm, bool retired,
    ngx_commerce_tables_range_t *ranges)
{
    uint64_t                     i, n, block;
    ngx_commerce_tables_shop_t  *entries;

    entries = ngx_commerce_tables_at(shm, shm->shops_at);
    n = 0;

    for (i = 0; i <= shm->shops_mask; i++) {
        block = atomic_load(&entries[i].block);

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
    ngx_commerce_tables_t         tables = { .shm = shm };
    ngx_commerce_tables_shop_t   *entry;
    ngx_commerce_tables_block_t  *head;

    head = ngx_commerce_tables_at(shm, block);
    entry = ngx_commerce_tables_entry(&tables, head->shop, false);

    return entry && atomic_load(&entry->block) == block;
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
    ngx_commerce_tables_shop_t *entry, uint64_t block)
{
    atomic_store_explicit(&entry->block, block, memory_order_release);
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
