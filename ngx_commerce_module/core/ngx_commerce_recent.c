/*
 * Sets of four slots, found by SipHash under a secret.  A slot belongs to the
 * customer whose 64-bit key it bears.
 *
 * An event is two words: the product, and time | kind | tag.  The second is
 * cleared before and written after the first, so a reader that finds it twice
 * the same has read a whole event.  The tag is 18 other bits of the customer's
 * hash: what a process that was stopped for long writes into a slot that has
 * changed hands is not read as the new owner's.
 *
 * A ring's place is taken by fetch-and-add, so two events never meet in one
 * place unless fifty came between.  Order is by time, not by place.
 *
 * What is not to be shown again is one word of 32 bits: a hash of the product
 * and the customer's key.  It is written by one store and needs no tag, for what
 * a late process writes means nothing under another key.
 */

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "ngx_commerce_recent.h"
#include "ngx_commerce_gcra.h"


#define NGX_COMMERCE_RECENT_MAGIC  UINT64_C(0x6e63726563656e32)
#define NGX_COMMERCE_RECENT_WAYS   4
#define NGX_COMMERCE_RECENT_TAG    ((1 << 18) - 1)
#define NGX_COMMERCE_RECENT_USED   1000        /* ms, as exact as the time of use is */
#define NGX_COMMERCE_RECENT_SAME   10000       /* ms between an event's commit and its way into the ring */
#define NGX_COMMERCE_RECENT_LONG_AGO  1        /* ms since 1970: filled, and to be filled again */
#define NGX_COMMERCE_RECENT_LIFE   32          /* bits of "heard" that count within one life of a slot */


typedef _Atomic uint64_t  ngx_commerce_recent_word_t;
typedef _Atomic uint32_t  ngx_commerce_recent_mark_t;

typedef struct {
    ngx_commerce_recent_word_t   item;
    ngx_commerce_recent_word_t   rest;      /* time << 22 | event << 18 | tag; 0: none */
} ngx_commerce_recent_place_t;

typedef struct {
    _Alignas(64)
    ngx_commerce_recent_word_t   key;       /* 0: free */
    ngx_commerce_recent_word_t   filled;    /* ms; 0: not yet */
    ngx_commerce_recent_word_t   filling;   /* ms, since when */
    ngx_commerce_recent_word_t   used;      /* ms */
    ngx_commerce_recent_word_t   next;      /* counts all events */
    ngx_commerce_recent_place_t  ring[NGX_COMMERCE_RECENT_EVENTS];
    ngx_commerce_recent_word_t   never_next;
    ngx_commerce_recent_mark_t   never[NGX_COMMERCE_RECENT_NEVER];  /* 0: none */
    ngx_commerce_recent_word_t   heard;     /* counts lives, and what was heard of in this one */
} ngx_commerce_recent_slot_t;

struct ngx_commerce_recent_shm_s {
    uint64_t                     magic;
    uint64_t                     size;
    uint64_t                     sets;
    uint8_t                      secret[16];
    ngx_commerce_recent_slot_t   slots[];
};

_Static_assert(sizeof(ngx_commerce_recent_slot_t) == NGX_COMMERCE_RECENT_SLOT,
               "a customer");


static ngx_commerce_recent_slot_t *ngx_commerce_recent_find(
    ngx_commerce_recent_t *recent, uint64_t key);
static ngx_commerce_recent_slot_t *ngx_commerce_recent_claim(
    ngx_commerce_recent_t *recent, uint64_t key, int64_t now);
static ngx_commerce_recent_rc_t ngx_commerce_recent_seen(
    ngx_commerce_recent_slot_t *slot, int64_t now, int64_t valid,
    uint64_t *state);
static void ngx_commerce_recent_clear(ngx_commerce_recent_slot_t *slot);
static void ngx_commerce_recent_write(ngx_commerce_recent_slot_t *slot,
    uint64_t key, const ngx_commerce_recent_event_t *event);
static uint32_t ngx_commerce_recent_events(ngx_commerce_recent_slot_t *slot,
    uint64_t key, ngx_commerce_recent_event_t *events);
static void ngx_commerce_recent_marks_write(ngx_commerce_recent_slot_t *slot,
    uint64_t key, const uint64_t *items, uint32_t n);
static void ngx_commerce_recent_marks(ngx_commerce_recent_slot_t *slot,
    uint64_t key, ngx_commerce_recent_never_t *never);
static int ngx_commerce_recent_compare(const void *a, const void *b);


/* Bits that neither the set nor chance between two neighbours depend on. */

static inline uint64_t
ngx_commerce_recent_tag(uint64_t key)
{
    return (key >> 46) & NGX_COMMERCE_RECENT_TAG;
}


/* The finalizer of MurmurHash3; never 0. */

static inline uint32_t
ngx_commerce_recent_mark(uint64_t key, uint64_t item)
{
    uint32_t  mark;
    uint64_t  h;

    h = key ^ item;
    h = (h ^ h >> 33) * UINT64_C(0xff51afd7ed558ccd);
    h = (h ^ h >> 33) * UINT64_C(0xc4ceb9fe1a85ec53);
    mark = (uint32_t) (h >> 32);

    return mark ? mark : 1;
}


ngx_commerce_rc_t
ngx_commerce_recent_create(ngx_commerce_recent_t *recent, void *memory,
    size_t size, const uint8_t secret[16])
{
    ngx_commerce_recent_shm_t  *shm = memory;

    if (size < sizeof(*shm) + NGX_COMMERCE_RECENT_WAYS
                              * sizeof(ngx_commerce_recent_slot_t))
    {
        return NGX_COMMERCE_INVALID;
    }

    shm->size = size;
    shm->sets = (size - sizeof(*shm)) / sizeof(ngx_commerce_recent_slot_t)
                / NGX_COMMERCE_RECENT_WAYS;
    memcpy(shm->secret, secret, sizeof(shm->secret));
    shm->magic = NGX_COMMERCE_RECENT_MAGIC;

    recent->shm = shm;

    return NGX_COMMERCE_OK;
}


ngx_commerce_rc_t
ngx_commerce_recent_open(ngx_commerce_recent_t *recent, void *memory,
    size_t size)
{
    ngx_commerce_recent_shm_t  *shm = memory;

    if (shm->magic != NGX_COMMERCE_RECENT_MAGIC || shm->size != size) {
        return NGX_COMMERCE_INVALID;
    }

    recent->shm = shm;

    return NGX_COMMERCE_OK;
}


uint64_t
ngx_commerce_recent_capacity(const ngx_commerce_recent_t *recent)
{
    return recent->shm->sets * NGX_COMMERCE_RECENT_WAYS;
}


uint64_t
ngx_commerce_recent_key(const ngx_commerce_recent_t *recent,
    ngx_commerce_str_t shop, ngx_commerce_str_t customer)
{
    uint64_t  key;

    key = ngx_commerce_siphash(recent->shm->secret, shop, customer);

    return key ? key : 1;
}


ngx_commerce_recent_rc_t
ngx_commerce_recent_look(ngx_commerce_recent_t *recent, uint64_t key,
    int64_t now, int64_t valid, uint64_t *state, uint64_t *heard)
{
    ngx_commerce_recent_slot_t  *slot;

    slot = ngx_commerce_recent_claim(recent, key, now);
    *heard = slot ? atomic_load(&slot->heard) : 0;

    return ngx_commerce_recent_seen(slot, now, valid, state);
}


ngx_commerce_recent_rc_t
ngx_commerce_recent_read(ngx_commerce_recent_t *recent,
    ngx_commerce_str_t shop, ngx_commerce_str_t customer, int64_t now,
    int64_t valid,
    ngx_commerce_recent_event_t events[NGX_COMMERCE_RECENT_EVENTS],
    uint32_t *n, ngx_commerce_recent_never_t *never, uint64_t *state)
{
    uint64_t                     key;
    ngx_commerce_recent_rc_t     rc;
    ngx_commerce_recent_slot_t  *slot;

    key = ngx_commerce_recent_key(recent, shop, customer);
    slot = ngx_commerce_recent_claim(recent, key, now);

    /* the state first: an event that comes in between makes it another one */

    rc = ngx_commerce_recent_seen(slot, now, valid, state);
    *n = slot ? ngx_commerce_recent_events(slot, key, events) : 0;

    ngx_commerce_recent_marks(slot, key, never);

    return rc;
}


/* NULL: nobody is there. */

static ngx_commerce_recent_rc_t
ngx_commerce_recent_seen(ngx_commerce_recent_slot_t *slot, int64_t now,
    int64_t valid, uint64_t *state)
{
    uint64_t  filled, filling;

    *state = 0;

    if (slot == NULL) {
        return NGX_COMMERCE_RECENT_FILL_IT;
    }

    /* a line that is only read may be in the caches of all processors */

    if ((uint64_t) now
        > atomic_load_explicit(&slot->used, memory_order_relaxed)
          + NGX_COMMERCE_RECENT_USED)
    {
        atomic_store_explicit(&slot->used, (uint64_t) now,
                              memory_order_relaxed);
    }

    filled = atomic_load_explicit(&slot->filled, memory_order_acquire);
    *state = atomic_load_explicit(&slot->next, memory_order_relaxed) ^ filled;

    if (filled && now - (int64_t) filled < valid) {
        return NGX_COMMERCE_RECENT_KNOWN;
    }

    /*
     * The first time nobody goes on without what the database knows: it would
     * show what was dismissed.  Of two that fill, the second adds nothing.
     */

    if (filled == 0) {
        return NGX_COMMERCE_RECENT_FILL_IT;
    }

    filling = atomic_load_explicit(&slot->filling, memory_order_relaxed);

    if ((filling && now - (int64_t) filling < NGX_COMMERCE_RECENT_FILL)
        || !atomic_compare_exchange_strong(&slot->filling, &filling,
                                           (uint64_t) now))
    {
        return NGX_COMMERCE_RECENT_FILLING;
    }

    return NGX_COMMERCE_RECENT_FILL_IT;
}


bool
ngx_commerce_recent_add(ngx_commerce_recent_t *recent,
    ngx_commerce_str_t shop, ngx_commerce_str_t customer,
    const ngx_commerce_recent_event_t *event, bool never)
{
    uint64_t                     key;
    ngx_commerce_recent_slot_t  *slot;

    key = ngx_commerce_recent_key(recent, shop, customer);
    slot = ngx_commerce_recent_find(recent, key);

    if (slot == NULL) {
        return false;
    }

    atomic_store_explicit(&slot->used, (uint64_t) event->time,
                          memory_order_relaxed);

    /* the mark first: the event makes the answers before it stale */

    if (never) {
        ngx_commerce_recent_marks_write(slot, key, &event->item, 1);
    }

    ngx_commerce_recent_write(slot, key, event);

    return true;
}


/*
 * The oldest first, so that they are the first to go.  What came while the
 * database was read may be among its rows too: those that are there already,
 * to the second, are not written twice.
 */

void
ngx_commerce_recent_fill(ngx_commerce_recent_t *recent,
    ngx_commerce_str_t shop, ngx_commerce_str_t customer, int64_t now,
    uint64_t heard, const ngx_commerce_recent_event_t *events, uint32_t n,
    const uint64_t *never, uint32_t m)
{
    uint32_t                      i, k, here;
    uint64_t                      key;
    ngx_commerce_recent_slot_t   *slot;
    ngx_commerce_recent_event_t   known[NGX_COMMERCE_RECENT_EVENTS];
    ngx_commerce_recent_never_t   marked;

    key = ngx_commerce_recent_key(recent, shop, customer);
    slot = ngx_commerce_recent_find(recent, key);

    /* the rows may tell of what made the customer be forgotten */

    if (slot == NULL
        || (atomic_load(&slot->heard) ^ heard) >> NGX_COMMERCE_RECENT_LIFE)
    {
        return;
    }

    here = ngx_commerce_recent_events(slot, key, known);
    ngx_commerce_recent_marks(slot, key, &marked);

    /* the first time, what came meanwhile is newer than all of these */

    if (atomic_load_explicit(&slot->filled, memory_order_relaxed) == 0) {

        if (n > NGX_COMMERCE_RECENT_EVENTS - here) {
            n = NGX_COMMERCE_RECENT_EVENTS - here;
        }

        if (m > NGX_COMMERCE_RECENT_NEVER - marked.n) {
            m = NGX_COMMERCE_RECENT_NEVER - marked.n;
        }
    }

    for (i = n; i-- > 0; /* void */) {

        for (k = 0; k < here; k++) {
            if (known[k].item == events[i].item
                && known[k].event == events[i].event
                && llabs(known[k].time - events[i].time) < 1000)
            {
                break;
            }
        }

        if (k == here) {
            ngx_commerce_recent_write(slot, key, &events[i]);
        }
    }

    ngx_commerce_recent_marks_write(slot, key, never, m);

    atomic_store_explicit(&slot->filling, 0, memory_order_relaxed);
    atomic_store(&slot->filled, (uint64_t) now);

    /* after the store: whoever hears of something later finds a slot that is filled */

    if (atomic_load(&slot->heard) != heard) {
        atomic_store(&slot->filled, NGX_COMMERCE_RECENT_LONG_AGO);
    }
}


void
ngx_commerce_recent_heard(ngx_commerce_recent_t *recent,
    ngx_commerce_str_t shop, ngx_commerce_str_t customer, uint64_t item,
    int64_t time)
{
    uint32_t                      i, n;
    uint64_t                      key;
    ngx_commerce_recent_slot_t   *slot;
    ngx_commerce_recent_event_t   known[NGX_COMMERCE_RECENT_EVENTS];

    key = ngx_commerce_recent_key(recent, shop, customer);
    slot = ngx_commerce_recent_find(recent, key);

    if (slot == NULL) {
        return;
    }

    n = ngx_commerce_recent_events(slot, key, known);

    for (i = 0; i < n; i++) {
        if (known[i].item == item
            && llabs(known[i].time - time) < NGX_COMMERCE_RECENT_SAME)
        {
            return;
        }
    }

    /* the database may have been asked just before: see fill() */

    atomic_fetch_add(&slot->heard, 1);

    if (atomic_load(&slot->filled) == 0) {
        return;
    }

    /* the kept answers' state is no more */

    atomic_store_explicit(&slot->filling, 0, memory_order_relaxed);
    atomic_store(&slot->filled, NGX_COMMERCE_RECENT_LONG_AGO);
}


void
ngx_commerce_recent_never_add(ngx_commerce_recent_never_t *never,
    uint64_t item)
{
    if (never->n < NGX_COMMERCE_RECENT_NEVER) {
        never->marks[never->n++] = ngx_commerce_recent_mark(never->key, item);
    }
}


bool
ngx_commerce_recent_never(const ngx_commerce_recent_never_t *never,
    uint64_t item)
{
    uint32_t  i, mark;

    mark = ngx_commerce_recent_mark(never->key, item);

    for (i = 0; i < never->n; i++) {
        if (never->marks[i] == mark) {
            return true;
        }
    }

    return false;
}


void
ngx_commerce_recent_forget(ngx_commerce_recent_t *recent,
    ngx_commerce_str_t shop, ngx_commerce_str_t customer)
{
    uint64_t                     key;
    ngx_commerce_recent_slot_t  *slot;

    key = ngx_commerce_recent_key(recent, shop, customer);
    slot = ngx_commerce_recent_find(recent, key);

    if (slot) {
        ngx_commerce_recent_clear(slot);
        (void) atomic_compare_exchange_strong(&slot->key, &key, 0);
    }
}


static ngx_commerce_recent_slot_t *
ngx_commerce_recent_find(ngx_commerce_recent_t *recent, uint64_t key)
{
    uint64_t                     i;
    ngx_commerce_recent_slot_t  *set;

    set = recent->shm->slots
          + key % recent->shm->sets * NGX_COMMERCE_RECENT_WAYS;

    for (i = 0; i < NGX_COMMERCE_RECENT_WAYS; i++) {
        if (atomic_load_explicit(&set[i].key, memory_order_acquire) == key) {
            return &set[i];
        }
    }

    return NULL;
}


/*
 * The customer's slot, or that of whoever was not seen for longest.  NULL:
 * somebody else was faster, and the slot may be anybody's.
 */

static ngx_commerce_recent_slot_t *
ngx_commerce_recent_claim(ngx_commerce_recent_t *recent, uint64_t key,
    int64_t now)
{
    uint64_t                     i, old, used, least;
    ngx_commerce_recent_slot_t  *set, *slot, *victim;

    slot = ngx_commerce_recent_find(recent, key);

    if (slot) {
        return slot;
    }

    set = recent->shm->slots
          + key % recent->shm->sets * NGX_COMMERCE_RECENT_WAYS;
    victim = NULL;
    least = UINT64_MAX;

    for (i = 0; i < NGX_COMMERCE_RECENT_WAYS; i++) {
        used = (atomic_load_explicit(&set[i].key, memory_order_relaxed) == 0)
               ? 0
               : atomic_load_explicit(&set[i].used, memory_order_relaxed) + 1;

        if (used < least) {
            least = used;
            victim = &set[i];
        }
    }

    old = atomic_load_explicit(&victim->key, memory_order_relaxed);

    /* nobody's while it is cleared, and for good if we are killed here */

    if (!atomic_compare_exchange_strong(&victim->key, &old, 0)) {
        return NULL;
    }

    ngx_commerce_recent_clear(victim);
    atomic_store_explicit(&victim->used, (uint64_t) now, memory_order_relaxed);

    old = 0;

    return atomic_compare_exchange_strong(&victim->key, &old, key) ? victim
                                                                   : NULL;
}


static void
ngx_commerce_recent_clear(ngx_commerce_recent_slot_t *slot)
{
    uint32_t  i;

    atomic_store(&slot->filled, 0);
    atomic_store(&slot->filling, 0);

    for (i = 0; i < NGX_COMMERCE_RECENT_EVENTS; i++) {
        atomic_store_explicit(&slot->ring[i].rest, 0, memory_order_relaxed);
    }

    for (i = 0; i < NGX_COMMERCE_RECENT_NEVER; i++) {
        atomic_store_explicit(&slot->never[i], 0, memory_order_relaxed);
    }

    /* neither what is read now nor an answer kept under an earlier state is found again */

    atomic_fetch_add(&slot->heard, UINT64_C(1) << NGX_COMMERCE_RECENT_LIFE);
    atomic_fetch_add(&slot->next, NGX_COMMERCE_RECENT_EVENTS);
}


static void
ngx_commerce_recent_write(ngx_commerce_recent_slot_t *slot, uint64_t key,
    const ngx_commerce_recent_event_t *event)
{
    uint64_t                      rest;
    ngx_commerce_recent_place_t  *place;

    place = &slot->ring[atomic_fetch_add(&slot->next, 1)
                        % NGX_COMMERCE_RECENT_EVENTS];

    rest = (uint64_t) event->time << 22 | (uint64_t) (event->event & 15) << 18
           | ngx_commerce_recent_tag(key);

    atomic_store_explicit(&place->rest, 0, memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
    atomic_store_explicit(&place->item, event->item, memory_order_relaxed);
    atomic_store_explicit(&place->rest, rest, memory_order_release);
}


static uint32_t
ngx_commerce_recent_events(ngx_commerce_recent_slot_t *slot, uint64_t key,
    ngx_commerce_recent_event_t *events)
{
    uint32_t                      i, n;
    uint64_t                      rest, item;
    ngx_commerce_recent_place_t  *place;

    n = 0;

    for (i = 0; i < NGX_COMMERCE_RECENT_EVENTS; i++) {
        place = &slot->ring[i];

        rest = atomic_load_explicit(&place->rest, memory_order_acquire);

        if (rest == 0
            || (rest & NGX_COMMERCE_RECENT_TAG) != ngx_commerce_recent_tag(key))
        {
            continue;
        }

        item = atomic_load_explicit(&place->item, memory_order_relaxed);
        atomic_thread_fence(memory_order_acquire);

        if (atomic_load_explicit(&place->rest, memory_order_relaxed) != rest) {
            continue;
        }

        events[n].item = item;
        events[n].event = rest >> 18 & 15;
        events[n++].time = (int64_t) (rest >> 22);
    }

    /* the slot may have changed hands on the way */

    if (atomic_load_explicit(&slot->key, memory_order_acquire) != key) {
        return 0;
    }

    qsort(events, n, sizeof(ngx_commerce_recent_event_t),
          ngx_commerce_recent_compare);

    return n;
}


/* The last of "items" first, so that it is the first to go; those that are there already keep their place. */

static void
ngx_commerce_recent_marks_write(ngx_commerce_recent_slot_t *slot,
    uint64_t key, const uint64_t *items, uint32_t n)
{
    uint32_t                      mark;
    uint64_t                      place;
    ngx_commerce_recent_never_t   known;

    if (n == 0) {
        return;
    }

    ngx_commerce_recent_marks(slot, key, &known);

    while (n-- > 0) {

        if (ngx_commerce_recent_never(&known, items[n])) {
            continue;
        }

        mark = ngx_commerce_recent_mark(key, items[n]);
        place = atomic_fetch_add(&slot->never_next, 1)
                % NGX_COMMERCE_RECENT_NEVER;

        atomic_store_explicit(&slot->never[place], mark, memory_order_relaxed);
    }
}


/* slot == NULL: none. */

static void
ngx_commerce_recent_marks(ngx_commerce_recent_slot_t *slot, uint64_t key,
    ngx_commerce_recent_never_t *never)
{
    uint32_t  i, mark;

    never->key = key;
    never->n = 0;

    for (i = 0; slot && i < NGX_COMMERCE_RECENT_NEVER; i++) {
        mark = atomic_load_explicit(&slot->never[i], memory_order_relaxed);

        if (mark) {
            never->marks[never->n++] = mark;
        }
    }
}


/* newest first */

static int
ngx_commerce_recent_compare(const void *a, const void *b)
{
    const ngx_commerce_recent_event_t  *x = a, *y = b;

    return (x->time < y->time) - (x->time > y->time);
}
