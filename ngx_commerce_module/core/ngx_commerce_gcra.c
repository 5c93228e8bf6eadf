/*
 * GCRA and its table, see ngx_commerce_gcra.h.
 *
 * A set is one cache line of four {key, TAT} pairs.  A pair is claimed by CAS
 * on its key and moved by CAS on its TAT; the two words are never changed
 * together, so these races are possible and bounded:
 *
 *   - A pair is claimed while its former owner moves the TAT: the new owner
 *     begins with one unit less than it should, or the former one gets one for nothing.
 *   - A pair that was not expired is claimed and the claimer dies before the
 *     TAT is renewed: the new owner inherits the oldest TAT of the set.
 *   - Two processes claim two pairs for one client: the second notices and gives
 *     its pair back; at worst one unit is counted in the pair that is given back.
 *
 * All of them need an eviction at the same instant and err by one unit.
 */

#include "ngx_commerce_gcra.h"

#include <stdatomic.h>
#include <string.h>


#define NGX_COMMERCE_GCRA_MAGIC   0x617263672d78676eULL
#define NGX_COMMERCE_GCRA_LAYOUT  1
#define NGX_COMMERCE_GCRA_WAYS    4
#define NGX_COMMERCE_GCRA_LINE    64


typedef struct {
    _Atomic uint64_t           key;     /* 0: free */
    _Atomic uint64_t           tat;
} ngx_commerce_gcra_pair_t;

typedef struct {
    ngx_commerce_gcra_pair_t   pair[NGX_COMMERCE_GCRA_WAYS];
} ngx_commerce_gcra_set_t;

struct ngx_commerce_gcra_table_s {
    uint64_t                   magic;
    uint32_t                   layout;
    uint32_t                   ways;
    uint64_t                   sets;
    uint8_t                    seed[16];
    _Atomic uint64_t           evicted;
    uint8_t                    pad[16];
    ngx_commerce_gcra_set_t    set[];
};

_Static_assert(sizeof(ngx_commerce_gcra_set_t) == NGX_COMMERCE_GCRA_LINE,
               "a set is a cache line");
_Static_assert(sizeof(ngx_commerce_gcra_table_t) % NGX_COMMERCE_GCRA_LINE == 0,
               "sets begin at a cache line");
_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2,
               "the table needs lock-free 64-bit atomics");


static ngx_commerce_gcra_pair_t *ngx_commerce_gcra_find(
    ngx_commerce_gcra_set_t *set, uint64_t hash);
static ngx_commerce_gcra_pair_t *ngx_commerce_gcra_claim(
    ngx_commerce_gcra_table_t *table, ngx_commerce_gcra_set_t *set,
    uint64_t hash, uint64_t now);


uint64_t
ngx_commerce_gcra(const ngx_commerce_gcra_rate_t *rate, uint64_t tat,
    uint64_t now, uint64_t cost, ngx_commerce_gcra_verdict_t *verdict)
{
    uint64_t  quota, taken, next;

    quota = rate->interval * rate->burst;

    if (tat < now) {
        tat = now;
    }

    /* the rate may have become stricter with a reload: then nothing remains */

    taken = tat - now;
    next = taken + rate->interval * cost;

    verdict->allowed = (next <= quota);

    if (verdict->allowed) {
        taken = next;
        verdict->retry_after = 0;

    } else {
        verdict->retry_after = next - quota;
    }

    verdict->reset = taken;
    verdict->remaining = (taken < quota) ? (quota - taken) / rate->interval : 0;

    return now + taken;
}


ngx_commerce_gcra_table_t *
ngx_commerce_gcra_create(void *mem, size_t size, const uint8_t seed[16])
{
    ngx_commerce_gcra_table_t  *table;

    if (size < sizeof(ngx_commerce_gcra_table_t)
               + sizeof(ngx_commerce_gcra_set_t)
        || (uintptr_t) mem % NGX_COMMERCE_GCRA_LINE != 0)
    {
        return NULL;
    }

    memset(mem, 0, size);

    table = mem;
    table->layout = NGX_COMMERCE_GCRA_LAYOUT;
    table->ways = NGX_COMMERCE_GCRA_WAYS;
    table->sets = (size - sizeof(ngx_commerce_gcra_table_t))
                  / sizeof(ngx_commerce_gcra_set_t);

    if (table->sets > UINT32_MAX) {
        table->sets = UINT32_MAX;
    }

    memcpy(table->seed, seed, sizeof(table->seed));
    table->magic = NGX_COMMERCE_GCRA_MAGIC;

    return table;
}


ngx_commerce_gcra_table_t *
ngx_commerce_gcra_attach(void *mem)
{
    ngx_commerce_gcra_table_t  *table = mem;

    if (table->magic != NGX_COMMERCE_GCRA_MAGIC
        || table->layout != NGX_COMMERCE_GCRA_LAYOUT
        || table->ways != NGX_COMMERCE_GCRA_WAYS)
    {
        return NULL;
    }

    return table;
}


uint64_t
ngx_commerce_gcra_capacity(const ngx_commerce_gcra_table_t *table)
{
    return table->sets * NGX_COMMERCE_GCRA_WAYS;
}


uint64_t
ngx_commerce_gcra_evicted(const ngx_commerce_gcra_table_t *table)
{
    return atomic_load_explicit(&table->evicted, memory_order_relaxed);
}


void
ngx_commerce_gcra_take(ngx_commerce_gcra_table_t *table,
    const ngx_commerce_gcra_rate_t *rate, ngx_commerce_str_t scope,
    ngx_commerce_str_t key, uint64_t now, uint64_t cost,
    ngx_commerce_gcra_verdict_t *verdict)
{
    uint64_t           tat, next;
    _Atomic uint64_t  *word;

    for ( ;; ) {
        word = ngx_commerce_gcra_word(table, scope, key, now, cost != 0);

        if (word == NULL) {
            (void) ngx_commerce_gcra(rate, now, now, 0, verdict);
            return;
        }

        tat = atomic_load_explicit(word, memory_order_relaxed);
        next = ngx_commerce_gcra(rate, tat, now, cost, verdict);

        if (!verdict->allowed || cost == 0) {
            return;
        }

        /* TATs only grow: a lost race means that somebody else was counted */

        if (atomic_compare_exchange_strong(word, &tat, next)) {
            return;
        }
    }
}


void
ngx_commerce_gcra_look(ngx_commerce_gcra_table_t *table,
    const ngx_commerce_gcra_rate_t *rate, ngx_commerce_str_t scope,
    ngx_commerce_str_t key, uint64_t now, uint64_t cost,
    ngx_commerce_gcra_verdict_t *verdict)
{
    uint64_t           tat;
    _Atomic uint64_t  *word;

    word = ngx_commerce_gcra_word(table, scope, key, now, false);
    tat = word ? atomic_load_explicit(word, memory_order_relaxed) : now;

    (void) ngx_commerce_gcra(rate, tat, now, cost, verdict);
}


void
ngx_commerce_gcra_give(ngx_commerce_gcra_table_t *table,
    const ngx_commerce_gcra_rate_t *rate, ngx_commerce_str_t scope,
    ngx_commerce_str_t key, uint64_t cost)
{
    uint64_t           tat, back;
    _Atomic uint64_t  *word;

    word = ngx_commerce_gcra_word(table, scope, key, 0, false);

    if (word == NULL) {
        return;
    }

    back = rate->interval * cost;
    tat = atomic_load_explicit(word, memory_order_relaxed);

    while (!atomic_compare_exchange_weak(word, &tat,
                                         tat > back ? tat - back : 0))
    {
        /* void */
    }
}


void
ngx_commerce_gcra_raise(ngx_commerce_gcra_table_t *table,
    ngx_commerce_str_t scope, ngx_commerce_str_t key, uint64_t now,
    uint64_t tat)
{
    uint64_t           old;
    _Atomic uint64_t  *word;

    word = ngx_commerce_gcra_word(table, scope, key, now, true);
    old = atomic_load_explicit(word, memory_order_relaxed);

    while (old < tat && !atomic_compare_exchange_weak(word, &old, tat)) {
        /* void */
    }
}


_Atomic uint64_t *
ngx_commerce_gcra_word(ngx_commerce_gcra_table_t *table,
    ngx_commerce_str_t scope, ngx_commerce_str_t key, uint64_t now,
    bool create)
{
    uint64_t                   hash;
    ngx_commerce_gcra_set_t   *set;
    ngx_commerce_gcra_pair_t  *pair;

    hash = ngx_commerce_siphash(table->seed, scope, key);

    if (hash == 0) {
        hash = 1;
    }

    /* maps the upper half onto any number of sets without a division */

    set = &table->set[((hash >> 32) * table->sets) >> 32];

    do {
        pair = ngx_commerce_gcra_find(set, hash);

        if (pair == NULL && create) {
            pair = ngx_commerce_gcra_claim(table, set, hash, now);
        }

    } while (pair == NULL && create);

    return pair ? &pair->tat : NULL;
}


static ngx_commerce_gcra_pair_t *
ngx_commerce_gcra_find(ngx_commerce_gcra_set_t *set, uint64_t hash)
{
    unsigned  i;

    for (i = 0; i < NGX_COMMERCE_GCRA_WAYS; i++) {
        if (atomic_load_explicit(&set->pair[i].key, memory_order_acquire)
            == hash)
        {
            return &set->pair[i];
        }
    }

    return NULL;
}


/* A free pair, else an expired one, else the oldest.  NULL: lost a race, look again. */

static ngx_commerce_gcra_pair_t *
ngx_commerce_gcra_claim(ngx_commerce_gcra_table_t *table,
    ngx_commerce_gcra_set_t *set, uint64_t hash, uint64_t now)
{
    uint64_t                   key, tat, rank, old_key, old_tat, old_rank;
    unsigned                   i;
    ngx_commerce_gcra_pair_t  *pair, *found;

    pair = NULL;
    old_key = 0;
    old_tat = 0;
    old_rank = 0;

    for (i = 0; i < NGX_COMMERCE_GCRA_WAYS; i++) {
        key = atomic_load_explicit(&set->pair[i].key, memory_order_acquire);
        tat = atomic_load_explicit(&set->pair[i].tat, memory_order_relaxed);

        rank = (key == 0) ? 0 : tat;

        if (pair == NULL || rank < old_rank) {
            pair = &set->pair[i];
            old_key = key;
            old_tat = tat;
            old_rank = rank;
        }
    }

    if (!atomic_compare_exchange_strong(&pair->key, &old_key, hash)) {
        return NULL;
    }

    if (old_rank > now) {
        atomic_fetch_add_explicit(&table->evicted, 1, memory_order_relaxed);
    }

    if (old_tat > now) {

        /* when this fails, the client was counted here already: leave it */

        (void) atomic_compare_exchange_strong(&pair->tat, &old_tat, now);
    }

    found = ngx_commerce_gcra_find(set, hash);

    if (found != pair) {
        (void) atomic_compare_exchange_strong(&pair->key, &hash, 0);
        return NULL;
    }

    return pair;
}


/* called out of line, a round costs as much again in stores and loads of its state */

static inline __attribute__((always_inline)) void
ngx_commerce_sip_round(uint64_t v[4])
{
#define ngx_commerce_rotl(x, n)  (((x) << (n)) | ((x) >> (64 - (n))))

    v[0] += v[1];
    v[1] = ngx_commerce_rotl(v[1], 13) ^ v[0];
    v[0] = ngx_commerce_rotl(v[0], 32);

    v[2] += v[3];
    v[3] = ngx_commerce_rotl(v[3], 16) ^ v[2];

    v[0] += v[3];
    v[3] = ngx_commerce_rotl(v[3], 21) ^ v[0];

    v[2] += v[1];
    v[1] = ngx_commerce_rotl(v[1], 17) ^ v[2];
    v[2] = ngx_commerce_rotl(v[2], 32);

#undef ngx_commerce_rotl
}


static inline uint64_t
ngx_commerce_sip_word(const uint8_t *p)
{
    /* the compiler makes one load of it where bytes are in this order */

    return (uint64_t) p[0] | (uint64_t) p[1] << 8 | (uint64_t) p[2] << 16
           | (uint64_t) p[3] << 24 | (uint64_t) p[4] << 32
           | (uint64_t) p[5] << 40 | (uint64_t) p[6] << 48
           | (uint64_t) p[7] << 56;
}


uint64_t
ngx_commerce_siphash(const uint8_t key[16], ngx_commerce_str_t a,
    ngx_commerce_str_t b)
{
    size_t    i, n, total;
    uint8_t   tail[8];
    uint64_t  v[4], k0, k1, m;

    k0 = ngx_commerce_sip_word(key);
    k1 = ngx_commerce_sip_word(key + 8);

    v[0] = k0 ^ 0x736f6d6570736575ULL;
    v[1] = k1 ^ 0x646f72616e646f6dULL;
    v[2] = k0 ^ 0x6c7967656e657261ULL;
    v[3] = k1 ^ 0x7465646279746573ULL;

    total = a.len + b.len;
    i = 0;

    /* whole words as they lie, the seam and the rest byte by byte */

    while (i + 8 <= total) {

        if (i + 8 <= a.len) {
            m = ngx_commerce_sip_word(a.data + i);

        } else if (i >= a.len) {
            m = ngx_commerce_sip_word(b.data + (i - a.len));

        } else {
            for (n = 0; n < 8; n++) {
                tail[n] = (i + n < a.len) ? a.data[i + n]
                                          : b.data[i + n - a.len];
            }

            m = ngx_commerce_sip_word(tail);
        }

        v[3] ^= m;
        ngx_commerce_sip_round(v);
        ngx_commerce_sip_round(v);
        v[0] ^= m;

        i += 8;
    }

    for (n = 0; i < total; i++, n++) {
        tail[n] = (i < a.len) ? a.data[i] : b.data[i - a.len];
    }

    memset(tail + (total & 7), 0, 8 - (total & 7));
    m = ngx_commerce_sip_word(tail) | ((uint64_t) total << 56);

    v[3] ^= m;
    ngx_commerce_sip_round(v);
    ngx_commerce_sip_round(v);
    v[0] ^= m;

    v[2] ^= 0xff;

    for (i = 0; i < 4; i++) {
        ngx_commerce_sip_round(v);
    }

    return v[0] ^ v[1] ^ v[2] ^ v[3];
}
