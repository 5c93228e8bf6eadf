/*
 * Places, of which a name may have one of WINDOW that follow each other.  Who
 * looks for a name looks at all of these, so a place can be taken away without
 * a trace, and none is ever moved.
 *
 * A place is in use while it has a name and a file.  Another name's, without
 * a file, may be taken: its name is removed first and the new one written
 * last, and whoever counts without being the writer looks at the name before
 * and after, so it never reads one name's count for another's.
 */

#include <stdatomic.h>

#include "ngx_commerce_refusals.h"


#define NGX_COMMERCE_REFUSALS_MAGIC   UINT64_C(0x6e63726566757331)
#define NGX_COMMERCE_REFUSALS_WINDOW  32        /* no more than the fewest places that there are */


typedef _Atomic uint64_t  ngx_commerce_refusals_word_t;

typedef struct {
    _Alignas(64)
    ngx_commerce_refusals_word_t   name;        /* 0: free */
    ngx_commerce_refusals_word_t   count;
    ngx_commerce_file_t            file;        /* the writer's, as what follows; inode 0: none */
    uint64_t                       room;
} ngx_commerce_refusals_place_t;

struct ngx_commerce_refusals_shm_s {
    uint64_t                       magic;
    uint64_t                       size;
    uint64_t                       mask;
    uint64_t                       shift;

    ngx_commerce_refusals_place_t  places[];
};


static ngx_commerce_refusals_place_t *ngx_commerce_refusals_place(
    const ngx_commerce_refusals_t *refusals, uint64_t name, bool create);


ngx_commerce_rc_t
ngx_commerce_refusals_create(ngx_commerce_refusals_t *refusals, void *memory,
    size_t size)
{
    uint64_t                      bits, room;
    ngx_commerce_refusals_shm_t  *shm = memory;

    if (size < NGX_COMMERCE_REFUSALS_MIN || (uintptr_t) memory % 64) {
        return NGX_COMMERCE_INVALID;
    }

    room = (size - sizeof(ngx_commerce_refusals_shm_t))
           / sizeof(ngx_commerce_refusals_place_t);

    for (bits = 1; UINT64_C(2) << bits <= room; bits++) { /* void */ }

    shm->size = size;
    shm->mask = (UINT64_C(1) << bits) - 1;
    shm->shift = 64 - bits;
    shm->magic = NGX_COMMERCE_REFUSALS_MAGIC;

    refusals->shm = shm;

    return NGX_COMMERCE_OK;
}


ngx_commerce_rc_t
ngx_commerce_refusals_open(ngx_commerce_refusals_t *refusals, void *memory,
    size_t size)
{
    ngx_commerce_refusals_shm_t  *shm = memory;

    if (shm->magic != NGX_COMMERCE_REFUSALS_MAGIC || shm->size != size) {
        return NGX_COMMERCE_INVALID;
    }

    refusals->shm = shm;

    return NGX_COMMERCE_OK;
}


bool
ngx_commerce_refusals_find(const ngx_commerce_refusals_t *refusals,
    uint64_t name, ngx_commerce_refusal_t *refusal)
{
    ngx_commerce_refusals_place_t  *place;

    place = ngx_commerce_refusals_place(refusals, name, false);

    if (place == NULL || place->file.inode == 0) {
        return false;
    }

    refusal->file = place->file;
    refusal->room = place->room;

    return true;
}


ngx_commerce_refusals_rc_t
ngx_commerce_refusals_add(ngx_commerce_refusals_t *refusals, uint64_t name,
    const ngx_commerce_refusal_t *refusal)
{
    bool                            known;
    ngx_commerce_refusals_place_t  *place;

    place = ngx_commerce_refusals_place(refusals, name, true);

    if (place == NULL) {
        return NGX_COMMERCE_REFUSALS_FULL;
    }

    if (atomic_load(&place->name) != name) {
        atomic_store_explicit(&place->name, 0, memory_order_relaxed);
        atomic_thread_fence(memory_order_release);

        atomic_store_explicit(&place->count, 0, memory_order_relaxed);
        place->file.inode = 0;
    }

    known = ngx_commerce_file_same(&place->file, &refusal->file);

    place->file = refusal->file;
    place->room = refusal->room;

    if (!known) {
        atomic_fetch_add_explicit(&place->count, 1, memory_order_relaxed);
    }

    atomic_store_explicit(&place->name, name, memory_order_release);

    return known ? NGX_COMMERCE_REFUSALS_BEFORE : NGX_COMMERCE_REFUSALS_NEW;
}


void
ngx_commerce_refusals_forget(ngx_commerce_refusals_t *refusals, uint64_t name)
{
    ngx_commerce_refusals_place_t  *place;

    place = ngx_commerce_refusals_place(refusals, name, false);

    if (place) {
        place->file.inode = 0;
    }
}


uint64_t
ngx_commerce_refusals_next(const ngx_commerce_refusals_t *refusals,
    uint64_t from, uint64_t *name)
{
    ngx_commerce_refusals_place_t  *place;

    for ( /* void */ ; from <= refusals->shm->mask; from++) {
        place = &refusals->shm->places[from];
        *name = atomic_load(&place->name);

        if (*name && place->file.inode) {
            return from + 1;
        }
    }

    return 0;
}


uint64_t
ngx_commerce_refusals_count(const ngx_commerce_refusals_t *refusals,
    uint64_t name)
{
    uint64_t                        count;
    ngx_commerce_refusals_place_t  *place;

    place = ngx_commerce_refusals_place(refusals, name, false);

    if (place == NULL) {
        return 0;
    }

    count = atomic_load_explicit(&place->count, memory_order_relaxed);
    atomic_thread_fence(memory_order_acquire);

    return atomic_load_explicit(&place->name, memory_order_relaxed) == name
           ? count : 0;
}


uint64_t
ngx_commerce_refusals_max(const ngx_commerce_refusals_t *refusals)
{
    return refusals->shm->mask + 1;
}


/* "create": a place that the name may have; one that nobody had comes first, then one whose file is forgotten. */

static ngx_commerce_refusals_place_t *
ngx_commerce_refusals_place(const ngx_commerce_refusals_t *refusals,
    uint64_t name, bool create)
{
    uint64_t                        i, home, found;
    ngx_commerce_refusals_shm_t    *shm;
    ngx_commerce_refusals_place_t  *place, *free, *forgotten;

    shm = refusals->shm;
    free = NULL;
    forgotten = NULL;

    if (name == 0) {
        return NULL;
    }

    /* the upper bits: numbers that follow each other, or are multiples, are far apart */

    home = (name * UINT64_C(0x9e3779b97f4a7c15)) >> shm->shift;

    for (i = 0; i < NGX_COMMERCE_REFUSALS_WINDOW; i++) {
        place = &shm->places[(home + i) & shm->mask];
        found = atomic_load_explicit(&place->name, memory_order_acquire);

        if (found == name) {
            return place;
        }

        if (found == 0) {
            free = free ? free : place;

        } else if (create && place->file.inode == 0) {
            forgotten = forgotten ? forgotten : place;
        }
    }

    return !create ? NULL : free ? free : forgotten;
}
