/*
 * The layout of the store's memory, for the files of the store.
 */

#ifndef NGX_COMMERCE_STORE_INTERNAL_H
#define NGX_COMMERCE_STORE_INTERNAL_H


#include "ngx_commerce_store.h"

#include <stdatomic.h>
#include <string.h>


#define NGX_COMMERCE_STORE_MAGIC     UINT64_C(0x6e63735f73746f72)
#define NGX_COMMERCE_STORE_VERSION   2

#define NGX_COMMERCE_STORE_UNIT      64
#define NGX_COMMERCE_STORE_WAYS      8
#define NGX_COMMERCE_STORE_STRIPES   64
#define NGX_COMMERCE_STORE_LEASES    1024

#define NGX_COMMERCE_STORE_POS       ((UINT64_C(1) << 48) - 1)
#define NGX_COMMERCE_STORE_CLAIMED   (UINT64_C(1) << 63)

#define ngx_commerce_store_words(n)  (((size_t) (n) + 7) / 8)


/* the words of an entry's head */

enum {
    HEAD_CHECKSUM = 0,
    HEAD_POS,
    HEAD_KEY,                           /* two */
    HEAD_STORED = 4,
    HEAD_EXPIRES,
    HEAD_EPOCH,
    HEAD_STATUS,                        /* status << 32 | tags_count */
    HEAD_LEN01,
    HEAD_LEN2,
    HEAD_TAGS,                          /* four, two tags each */
    HEAD_GENERATIONS = 14               /* eight */
};


typedef _Atomic uint64_t  ngx_commerce_store_word_t;

typedef struct {
    ngx_commerce_store_word_t  hits, stale, misses, puts, refused, moved,
                               displaced, torn, invalidations;
    uint64_t                   pad[7];
} ngx_commerce_store_stripe_t;

struct ngx_commerce_store_shm_s {
    uint64_t                     magic;
    uint64_t                     version;
    uint64_t                     size;
    uint64_t                     secret[2];
    uint64_t                     lanes[4];
    uint64_t                     units;         /* of the ring */
    uint64_t                     max;           /* bytes of the largest entry */
    uint64_t                     sets_mask;
    uint64_t                     tags_mask;
    uint64_t                     tags_at;       /* offsets from the beginning */
    uint64_t                     index_at;
    uint64_t                     ring_at;

    _Alignas(64)
    ngx_commerce_store_word_t    tail;
    _Alignas(64)
    ngx_commerce_store_word_t    epoch;
    ngx_commerce_store_word_t    started;       /* invalidations, of tags and of everything */
    ngx_commerce_store_word_t    finished;

    _Alignas(64)
    ngx_commerce_store_word_t    leases[NGX_COMMERCE_STORE_LEASES];
    ngx_commerce_store_stripe_t  stripes[NGX_COMMERCE_STORE_STRIPES];
};


typedef struct {
    uint64_t  s[4];
} ngx_commerce_store_sum_t;


#define ngx_commerce_store_count(store, counter)                              \
    atomic_fetch_add_explicit(                                                \
        &(store)->shm->stripes[(store)->stripe                                \
                               % NGX_COMMERCE_STORE_STRIPES].counter,         \
        1, memory_order_relaxed)

#define ngx_commerce_store_load(word)                                         \
    atomic_load_explicit((word), memory_order_relaxed)
#define ngx_commerce_store_acquire(word)                                      \
    atomic_load_explicit((word), memory_order_acquire)
#define ngx_commerce_store_set(word, value)                                   \
    atomic_store_explicit((word), (value), memory_order_relaxed)


/* 64×64→128-bit multiply and fold. */

static inline uint64_t
ngx_commerce_store_fold(uint64_t a, uint64_t b)
{
    unsigned __int128  r;

    r = (unsigned __int128) a * b;

    return (uint64_t) r ^ (uint64_t) (r >> 64);
}


/* Are the generations of an entry's head the present ones? */

bool ngx_commerce_store_current(ngx_commerce_store_shm_t *shm,
    const uint64_t *head);

/*
 * Whoever finds an entry current after taking a mark need not look again as long
 * as the mark is the same: nothing was invalidated since.  0 is no mark, an invalidation is
 * under way.  If a process was killed in the middle of one that stays so, and everybody looks.
 */

static inline uint64_t
ngx_commerce_store_mark_take(ngx_commerce_store_shm_t *shm)
{
    uint64_t  started, finished;

    finished = ngx_commerce_store_acquire(&shm->finished);
    started = ngx_commerce_store_acquire(&shm->started);

    return (finished == started) ? started + 1 : 0;
}


static inline bool
ngx_commerce_store_mark_is(ngx_commerce_store_shm_t *shm, uint64_t mark)
{
    return mark == ngx_commerce_store_acquire(&shm->started) + 1;
}



/*
 * ngx_commerce_store_sum.c: the sum of an entry is begun, its words are copied
 * out of or into the shared memory and added, its head ends it.
 */

void ngx_commerce_store_sum_init(ngx_commerce_store_shm_t *shm,
    ngx_commerce_store_sum_t *sum);
void ngx_commerce_store_copy_out(ngx_commerce_store_shm_t *shm,
    ngx_commerce_store_sum_t *sum, uint8_t *dst,
    ngx_commerce_store_word_t *src, size_t n);
void ngx_commerce_store_copy_in(ngx_commerce_store_shm_t *shm,
    ngx_commerce_store_sum_t *sum, ngx_commerce_store_word_t *dst,
    const uint8_t *src, size_t len);
uint64_t ngx_commerce_store_sum_final(ngx_commerce_store_shm_t *shm,
    ngx_commerce_store_sum_t *sum,
    const uint64_t head[NGX_COMMERCE_STORE_WORDS]);


#endif /* NGX_COMMERCE_STORE_INTERNAL_H */
