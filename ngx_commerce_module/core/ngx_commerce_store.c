/*
 * Layout: control, leases, statistics, tags, index, ring.
 *
 * Positions in the ring are counted in units of 64 bytes and never wrap; an
 * entry at "pos" is intact while tail <= pos + units.  An index word is
 * 1 bit "claimed" | 15 bits of the key | 48 bits of position; 0 is empty.
 *
 * Memory order.  A writer moves the tail, then a release fence, then stores
 * the data; a reader loads the data, then an acquire fence, then loads the
 * tail.  If the reader saw one word of the writer, the fences synchronise and
 * it sees the new tail too, so it knows that its entry was overwritten.  An
 * index word is published by a release CAS after the data and loaded with
 * acquire before it.  All shared words are atomics, hence there is no data race
 * in the language's sense.
 *
 * A writer that was stopped between reservation and stores may wake a whole
 * round later and scribble over newer entries; the tail does not show that,
 * the checksum does.
 */

#include "ngx_commerce_store_internal.h"


static void ngx_commerce_store_void(ngx_commerce_store_t *store,
    ngx_commerce_store_word_t *generation);


static inline ngx_commerce_store_word_t *
ngx_commerce_store_at(ngx_commerce_store_shm_t *shm, uint64_t offset)
{
    return (ngx_commerce_store_word_t *) ((uint8_t *) shm + offset);
}


static inline ngx_commerce_store_word_t *
ngx_commerce_store_entry(ngx_commerce_store_shm_t *shm, uint64_t pos)
{
    return ngx_commerce_store_at(shm, shm->ring_at
                               + pos % shm->units * NGX_COMMERCE_STORE_UNIT);
}


static inline ngx_commerce_store_word_t *
ngx_commerce_store_set_of(ngx_commerce_store_shm_t *shm, const uint64_t key[2])
{
    return ngx_commerce_store_at(shm, shm->index_at)
           + (key[0] & shm->sets_mask) * NGX_COMMERCE_STORE_WAYS;
}


/* The key's part of an index word; never in the low bits that choose the set. */

static inline uint64_t
ngx_commerce_store_mark(const uint64_t key[2])
{
    return (key[1] & 0x7fff) << 48;
}


static inline bool
ngx_commerce_store_live(ngx_commerce_store_shm_t *shm, uint64_t word,
    uint64_t tail)
{
    uint64_t  pos;

    pos = word & NGX_COMMERCE_STORE_POS;

    return pos != 0 && tail <= pos + shm->units;
}


ngx_commerce_rc_t
ngx_commerce_store_create(ngx_commerce_store_t *store, void *memory,
    size_t size, const uint8_t secret[16])
{
    uint64_t                   tags, sets;
    unsigned                   i;
    ngx_commerce_store_shm_t  *shm;

    if (size < NGX_COMMERCE_STORE_MIN
        || (uintptr_t) memory % NGX_COMMERCE_STORE_UNIT != 0)
    {
        return NGX_COMMERCE_INVALID;
    }

    shm = memory;
    memset(shm, 0, sizeof(*shm));

    shm->version = NGX_COMMERCE_STORE_VERSION;
    shm->size = size;
    memcpy(shm->secret, secret, 16);

    for (i = 0; i < 4; i++) {
        shm->lanes[i] = ngx_commerce_store_fold(
                            shm->secret[0] ^ UINT64_C(0x9e3779b97f4a7c15),
                            shm->secret[1] + i * UINT64_C(0xd1342543de82ef95))
                        | 1;
    }

    tags = size < 16 * 1024 * 1024 ? 8192 : 65536;

    /* about one way for each half kilobyte, so that the ring fills up first */

    for (sets = 8;
         sets * NGX_COMMERCE_STORE_WAYS * 512 < size;
         sets *= 2)
    {
        /* void */
    }

    shm->tags_mask = tags - 1;
    shm->sets_mask = sets - 1;

    shm->tags_at = (sizeof(*shm) + NGX_COMMERCE_STORE_UNIT - 1)
                   & ~(uint64_t) (NGX_COMMERCE_STORE_UNIT - 1);
    shm->index_at = shm->tags_at + tags * 8;
    shm->ring_at = shm->index_at + sets * NGX_COMMERCE_STORE_WAYS * 8;
    shm->units = (size - shm->ring_at) / NGX_COMMERCE_STORE_UNIT;

    shm->max = shm->units * NGX_COMMERCE_STORE_UNIT / 8;
    if (shm->max > NGX_COMMERCE_STORE_MAX) {
        shm->max = NGX_COMMERCE_STORE_MAX;
    }

    memset((uint8_t *) shm + shm->tags_at, 0, shm->ring_at - shm->tags_at);

    /* position 0 never occurs: a word of 0 is empty */
    ngx_commerce_store_set(&shm->tail, shm->units);

    shm->magic = NGX_COMMERCE_STORE_MAGIC;

    store->shm = shm;
    store->stripe = 0;

    return NGX_COMMERCE_OK;
}


ngx_commerce_rc_t
ngx_commerce_store_open(ngx_commerce_store_t *store, void *memory, size_t size)
{
    ngx_commerce_store_shm_t  *shm;

    shm = memory;

    if (shm->magic != NGX_COMMERCE_STORE_MAGIC
        || shm->version != NGX_COMMERCE_STORE_VERSION
        || shm->size != size)
    {
        return NGX_COMMERCE_INVALID;
    }

    store->shm = shm;
    store->stripe = 0;

    return NGX_COMMERCE_OK;
}


void
ngx_commerce_store_key(ngx_commerce_store_t *store, ngx_commerce_str_t key,
    ngx_commerce_store_ticket_t *ticket)
{
    ngx_commerce_store_siphash(store->shm->secret, key.data, key.len,
                               ticket->key);
    ticket->usable = false;
}


void
ngx_commerce_store_tags(ngx_commerce_store_t *store,
    const ngx_commerce_str_t *tags, uint32_t tags_count,
    ngx_commerce_store_ticket_t *ticket)
{
    uint32_t                    i;
    uint64_t                    hash[2];
    ngx_commerce_store_shm_t   *shm;
    ngx_commerce_store_word_t  *generations;

    shm = store->shm;

    ticket->usable = tags_count <= NGX_COMMERCE_STORE_TAGS;
    ticket->tags_count = ticket->usable ? tags_count : 0;

    generations = ngx_commerce_store_at(shm, shm->tags_at);

    for (i = 0; i < ticket->tags_count; i++) {
        ngx_commerce_store_siphash(shm->secret, tags[i].data, tags[i].len,
                                   hash);
        ticket->tags[i] = hash[0] & shm->tags_mask;
        ticket->generations[i] =
                   ngx_commerce_store_acquire(&generations[ticket->tags[i]]);
    }

    ticket->epoch = ngx_commerce_store_acquire(&shm->epoch);
}


bool
ngx_commerce_store_current(ngx_commerce_store_shm_t *shm, const uint64_t *head)
{
    uint32_t                    i, n, tag;
    ngx_commerce_store_word_t  *generations;

    n = (uint32_t) head[HEAD_STATUS];

    if (n > NGX_COMMERCE_STORE_TAGS
        || head[HEAD_EPOCH] != ngx_commerce_store_acquire(&shm->epoch))
    {
        return false;
    }

    generations = ngx_commerce_store_at(shm, shm->tags_at);

    for (i = 0; i < n; i++) {
        tag = (uint32_t) (head[HEAD_TAGS + i / 2] >> (i % 2 * 32));

        if (head[HEAD_GENERATIONS + i]
            != ngx_commerce_store_acquire(&generations[tag & shm->tags_mask]))
        {
            return false;
        }
    }

    return true;
}


/* Takes the lengths out of a head that may be torn; false: they cannot be. */

static bool
ngx_commerce_store_lengths(ngx_commerce_store_shm_t *shm,
    ngx_commerce_store_found_t *found)
{
    size_t    bytes;
    uint32_t  i;

    found->len[0] = (uint32_t) (found->head[HEAD_LEN01] >> 32);
    found->len[1] = (uint32_t) found->head[HEAD_LEN01];
    found->len[2] = (uint32_t) found->head[HEAD_LEN2];
    found->size = 0;

    for (i = 0; i < NGX_COMMERCE_STORE_PARTS; i++) {
        found->size += ngx_commerce_store_words(found->len[i]) * 8;
    }

    bytes = found->size + NGX_COMMERCE_STORE_WORDS * 8;

    return bytes <= shm->max
           && found->head[HEAD_POS] % shm->units * NGX_COMMERCE_STORE_UNIT
              + bytes <= shm->units * NGX_COMMERCE_STORE_UNIT;
}


/*
 * An entry past its time: the first process that asks gets a miss and a lease
 * of one second to refill it, the others may serve it meanwhile.
 * Two keys that share a lease word only cause a refill more.
 */

static bool
ngx_commerce_store_leased(ngx_commerce_store_shm_t *shm, const uint64_t key[2],
    uint64_t now)
{
    uint64_t                    mine, word, deadline;
    ngx_commerce_store_word_t  *lease;

    deadline = (UINT64_C(1) << 40) - 1;
    lease = &shm->leases[key[0] >> 32 & (NGX_COMMERCE_STORE_LEASES - 1)];
    mine = key[1] & ~deadline;

    word = ngx_commerce_store_load(lease);

    if ((word & ~deadline) == mine && (word & deadline) > now) {
        return true;
    }

    return !atomic_compare_exchange_strong_explicit(lease, &word,
                              mine | ((now + NGX_COMMERCE_STORE_LEASE)
                                      & deadline),
                              memory_order_relaxed, memory_order_relaxed);
}


bool
ngx_commerce_store_find(ngx_commerce_store_t *store,
    const ngx_commerce_store_ticket_t *ticket, uint64_t now,
    ngx_commerce_store_found_t *found)
{
    uint32_t                    i, k;
    uint64_t                    word, tail, late;
    ngx_commerce_store_shm_t   *shm;
    ngx_commerce_store_word_t  *set, *entry;

    shm = store->shm;
    set = ngx_commerce_store_set_of(shm, ticket->key);

    for (i = 0; i < NGX_COMMERCE_STORE_WAYS; i++) {
        word = ngx_commerce_store_acquire(&set[i]);

        if (((word ^ ngx_commerce_store_mark(ticket->key))
             & ~NGX_COMMERCE_STORE_CLAIMED) >> 48 != 0)
        {
            continue;
        }

        tail = ngx_commerce_store_load(&shm->tail);

        if (!ngx_commerce_store_live(shm, word, tail)) {
            continue;
        }

        entry = ngx_commerce_store_entry(shm, word & NGX_COMMERCE_STORE_POS);

        for (k = 0; k < NGX_COMMERCE_STORE_WORDS; k++) {
            found->head[k] = ngx_commerce_store_load(&entry[k]);
        }

        if (found->head[HEAD_POS] != (word & NGX_COMMERCE_STORE_POS)
            || found->head[HEAD_KEY] != ticket->key[0]
            || found->head[HEAD_KEY + 1] != ticket->key[1]
            || !ngx_commerce_store_lengths(shm, found)
            || !ngx_commerce_store_current(shm, found->head))
        {
            continue;
        }

        found->stale = false;

        if (now >= found->head[HEAD_EXPIRES]) {
            late = now - found->head[HEAD_EXPIRES];

            if (late >= NGX_COMMERCE_STORE_GRACE
                || !ngx_commerce_store_leased(shm, ticket->key, now))
            {
                continue;
            }

            found->stale = true;
        }

        found->word = word;
        found->slot = i;
        found->status = (uint32_t) (found->head[HEAD_STATUS] >> 32);
        found->age = now > found->head[HEAD_STORED]
                     ? now - found->head[HEAD_STORED] : 0;

        return true;
    }

    ngx_commerce_store_count(store, misses);

    return false;
}


size_t
ngx_commerce_store_offset(const ngx_commerce_store_found_t *found, uint32_t n)
{
    size_t    offset;
    uint32_t  i;

    offset = 0;

    for (i = 0; i < n; i++) {
        offset += ngx_commerce_store_words(found->len[i]) * 8;
    }

    return offset;
}


/*
 * Reserves room, writes the entry, completes its head.  Returns the position,
 * or 0 when the ring came round meanwhile.  A process that ends in here leaves
 * a hole that nothing points to.
 */

static uint64_t
ngx_commerce_store_append(ngx_commerce_store_shm_t *shm,
    uint64_t head[NGX_COMMERCE_STORE_WORDS],
    const ngx_commerce_str_t parts[NGX_COMMERCE_STORE_PARTS])
{
    size_t                      words;
    uint32_t                    i;
    uint64_t                    tail, pos, offset, units;
    ngx_commerce_store_sum_t    sum;
    ngx_commerce_store_word_t  *entry, *dst;

    words = NGX_COMMERCE_STORE_WORDS;
    for (i = 0; i < NGX_COMMERCE_STORE_PARTS; i++) {
        words += ngx_commerce_store_words(parts[i].len);
    }

    units = (words * 8 + NGX_COMMERCE_STORE_UNIT - 1) / NGX_COMMERCE_STORE_UNIT;
    tail = ngx_commerce_store_load(&shm->tail);

    do {
        offset = tail % shm->units;

        /* an entry does not wrap round the end */
        pos = offset + units > shm->units ? tail + shm->units - offset : tail;

    } while (!atomic_compare_exchange_weak_explicit(&shm->tail, &tail,
                            pos + units,
                            memory_order_relaxed, memory_order_relaxed));

    atomic_thread_fence(memory_order_release);

    entry = ngx_commerce_store_entry(shm, pos);
    dst = entry + NGX_COMMERCE_STORE_WORDS;
    ngx_commerce_store_sum_init(shm, &sum);

    for (i = 0; i < NGX_COMMERCE_STORE_PARTS; i++) {
        ngx_commerce_store_copy_in(shm, &sum, dst, parts[i].data,
                                   parts[i].len);
        dst += ngx_commerce_store_words(parts[i].len);
    }

    head[HEAD_POS] = pos;
    head[HEAD_CHECKSUM] = ngx_commerce_store_sum_final(shm, &sum, head);

    for (i = 0; i < NGX_COMMERCE_STORE_WORDS; i++) {
        ngx_commerce_store_set(&entry[i], head[i]);
    }

    tail = ngx_commerce_store_load(&shm->tail);

    return ngx_commerce_store_live(shm, pos, tail) ? pos : 0;
}


/*
 * An entry that is still asked for when three quarters of the ring were written
 * after it moves to the front.  The claim in its index word makes one process do it; if that
 * one is killed, the entry just grows old.
 */

static void
ngx_commerce_store_move(ngx_commerce_store_t *store,
    const ngx_commerce_store_found_t *found, uint8_t *data, uint64_t tail)
{
    uint32_t                    i;
    uint64_t                    pos, word, claimed;
    uint64_t                    head[NGX_COMMERCE_STORE_WORDS];
    ngx_commerce_str_t          parts[NGX_COMMERCE_STORE_PARTS];
    ngx_commerce_store_shm_t   *shm;
    ngx_commerce_store_word_t  *slot;

    shm = store->shm;
    pos = found->word & NGX_COMMERCE_STORE_POS;

    if (tail - pos < shm->units / 4 * 3
        || found->stale
        || (found->word & NGX_COMMERCE_STORE_CLAIMED))
    {
        return;
    }

    slot = ngx_commerce_store_set_of(shm, &found->head[HEAD_KEY])
           + found->slot;
    word = found->word;
    claimed = word | NGX_COMMERCE_STORE_CLAIMED;

    if (!atomic_compare_exchange_strong_explicit(slot, &word, claimed,
                             memory_order_relaxed, memory_order_relaxed))
    {
        return;
    }

    memcpy(head, found->head, sizeof(head));

    for (i = 0; i < NGX_COMMERCE_STORE_PARTS; i++) {
        parts[i].data = data + ngx_commerce_store_offset(found, i);
        parts[i].len = found->len[i];
    }

    pos = ngx_commerce_store_append(shm, head, parts);

    if (pos != 0
        && atomic_compare_exchange_strong_explicit(slot, &claimed,
                       pos | ngx_commerce_store_mark(&head[HEAD_KEY]),
                       memory_order_release, memory_order_relaxed))
    {
        ngx_commerce_store_count(store, moved);
    }
}


bool
ngx_commerce_store_read(ngx_commerce_store_t *store,
    const ngx_commerce_store_found_t *found, uint8_t *dst)
{
    size_t                      words;
    uint8_t                    *data;
    uint32_t                    i;
    uint64_t                    word, tail;
    ngx_commerce_store_sum_t    sum;
    ngx_commerce_store_shm_t   *shm;
    ngx_commerce_store_word_t  *src, *set;

    shm = store->shm;
    data = dst;
    src = ngx_commerce_store_entry(shm, found->word & NGX_COMMERCE_STORE_POS)
          + NGX_COMMERCE_STORE_WORDS;

    ngx_commerce_store_sum_init(shm, &sum);

    for (i = 0; i < NGX_COMMERCE_STORE_PARTS; i++) {
        words = ngx_commerce_store_words(found->len[i]);
        ngx_commerce_store_copy_out(shm, &sum, dst, src, words);
        src += words;
        dst += words * 8;
    }

    atomic_thread_fence(memory_order_acquire);

    tail = ngx_commerce_store_load(&shm->tail);

    if (!ngx_commerce_store_live(shm, found->word, tail)) {
        ngx_commerce_store_count(store, misses);
        return false;
    }

    if (ngx_commerce_store_sum_final(shm, &sum, found->head)
        != found->head[HEAD_CHECKSUM])
    {
        word = found->word;
        set = ngx_commerce_store_set_of(shm, &found->head[HEAD_KEY]);

        (void) atomic_compare_exchange_strong_explicit(&set[found->slot],
                       &word, 0, memory_order_relaxed, memory_order_relaxed);

        ngx_commerce_store_count(store, torn);
        ngx_commerce_store_count(store, misses);
        return false;
    }

    ngx_commerce_store_count(store, hits);

    if (found->stale) {
        ngx_commerce_store_count(store, stale);
    }

    ngx_commerce_store_move(store, found, data, tail);

    return true;
}


/*
 * Publishes an entry: in place of one with the same key, else in an empty or
 * overwritten way, else in place of the oldest.
 */

static bool
ngx_commerce_store_publish(ngx_commerce_store_t *store, const uint64_t key[2],
    uint64_t fresh)
{
    bool                        live;
    uint32_t                    i, best, attempt;
    uint64_t                    word, words[NGX_COMMERCE_STORE_WAYS], tail,
                                rank, lowest;
    ngx_commerce_store_shm_t   *shm;
    ngx_commerce_store_word_t  *set, *entry;

    shm = store->shm;
    set = ngx_commerce_store_set_of(shm, key);

    for (attempt = 0; attempt < 4; attempt++) {
        tail = ngx_commerce_store_load(&shm->tail);
        lowest = UINT64_MAX;
        best = 0;

        for (i = 0; i < NGX_COMMERCE_STORE_WAYS; i++) {
            word = ngx_commerce_store_acquire(&set[i]);
            words[i] = word;
            live = ngx_commerce_store_live(shm, word, tail);
            rank = live ? 2 + (word & NGX_COMMERCE_STORE_POS) : 1;

            if (live && ((word ^ fresh) & ~NGX_COMMERCE_STORE_CLAIMED) >> 48
                        == 0)
            {
                entry = ngx_commerce_store_entry(shm,
                                              word & NGX_COMMERCE_STORE_POS);

                if (ngx_commerce_store_load(&entry[HEAD_KEY]) == key[0]
                    && ngx_commerce_store_load(&entry[HEAD_KEY + 1]) == key[1])
                {
                    rank = 0;
                }
            }

            if (rank < lowest) {
                lowest = rank;
                best = i;
            }
        }

        word = words[best];

        if (atomic_compare_exchange_strong_explicit(&set[best], &word, fresh,
                             memory_order_release, memory_order_relaxed))
        {
            if (lowest > 1) {
                ngx_commerce_store_count(store, displaced);
            }

            return true;
        }
    }

    return false;
}


bool
ngx_commerce_store_put(ngx_commerce_store_t *store,
    const ngx_commerce_store_ticket_t *ticket, uint32_t status,
    const ngx_commerce_str_t parts[NGX_COMMERCE_STORE_PARTS], uint64_t now,
    uint64_t ttl)
{
    size_t                     bytes;
    uint32_t                   i;
    uint64_t                   pos, head[NGX_COMMERCE_STORE_WORDS];
    ngx_commerce_store_shm_t  *shm;

    shm = store->shm;
    bytes = NGX_COMMERCE_STORE_WORDS * 8;

    for (i = 0; i < NGX_COMMERCE_STORE_PARTS; i++) {
        if (parts[i].len > shm->max) {
            goto refused;
        }

        bytes += ngx_commerce_store_words(parts[i].len) * 8;
    }

    if (!ticket->usable || bytes > shm->max) {
        goto refused;
    }

    memset(head, 0, sizeof(head));

    head[HEAD_KEY] = ticket->key[0];
    head[HEAD_KEY + 1] = ticket->key[1];
    head[HEAD_STORED] = now;
    head[HEAD_EXPIRES] = now + ttl;
    head[HEAD_EPOCH] = ticket->epoch;
    head[HEAD_STATUS] = (uint64_t) status << 32 | ticket->tags_count;
    head[HEAD_LEN01] = (uint64_t) parts[0].len << 32 | parts[1].len;
    head[HEAD_LEN2] = parts[2].len;

    for (i = 0; i < ticket->tags_count; i++) {
        head[HEAD_TAGS + i / 2] |= (uint64_t) ticket->tags[i] << (i % 2 * 32);
        head[HEAD_GENERATIONS + i] = ticket->generations[i];
    }

    if (!ngx_commerce_store_current(shm, head)) {
        goto refused;
    }

    pos = ngx_commerce_store_append(shm, head, parts);

    if (pos == 0
        || !ngx_commerce_store_publish(store, ticket->key,
                                 pos | ngx_commerce_store_mark(ticket->key)))
    {
        goto refused;
    }

    ngx_commerce_store_count(store, puts);

    return true;

refused:

    ngx_commerce_store_count(store, refused);

    return false;
}


void
ngx_commerce_store_invalidate(ngx_commerce_store_t *store,
    ngx_commerce_str_t tag)
{
    uint64_t                   hash[2];
    ngx_commerce_store_shm_t  *shm;

    shm = store->shm;

    ngx_commerce_store_siphash(shm->secret, tag.data, tag.len, hash);

    ngx_commerce_store_void(store, ngx_commerce_store_at(shm, shm->tags_at)
                                   + (hash[0] & shm->tags_mask));
}


void
ngx_commerce_store_invalidate_all(ngx_commerce_store_t *store)
{
    ngx_commerce_store_void(store, &store->shm->epoch);
}


static void
ngx_commerce_store_void(ngx_commerce_store_t *store,
    ngx_commerce_store_word_t *generation)
{
    ngx_commerce_store_shm_t  *shm;

    shm = store->shm;

    atomic_fetch_add_explicit(&shm->started, 1, memory_order_acq_rel);
    atomic_fetch_add_explicit(generation, 1, memory_order_acq_rel);
    atomic_fetch_add_explicit(&shm->finished, 1, memory_order_acq_rel);

    ngx_commerce_store_count(store, invalidations);
}


void
ngx_commerce_store_stats(ngx_commerce_store_t *store,
    ngx_commerce_store_stats_t *stats)
{
    uint32_t                      i;
    ngx_commerce_store_stripe_t  *s;

    memset(stats, 0, sizeof(*stats));

    for (i = 0; i < NGX_COMMERCE_STORE_STRIPES; i++) {
        s = &store->shm->stripes[i];

        stats->hits += ngx_commerce_store_load(&s->hits);
        stats->stale += ngx_commerce_store_load(&s->stale);
        stats->misses += ngx_commerce_store_load(&s->misses);
        stats->puts += ngx_commerce_store_load(&s->puts);
        stats->refused += ngx_commerce_store_load(&s->refused);
        stats->moved += ngx_commerce_store_load(&s->moved);
        stats->displaced += ngx_commerce_store_load(&s->displaced);
        stats->torn += ngx_commerce_store_load(&s->torn);
        stats->invalidations += ngx_commerce_store_load(&s->invalidations);
    }
}
