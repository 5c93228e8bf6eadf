/*
 * The deny set, see ngx_commerce_deny.h.
 *
 * Eight entries and a floor make a set.  An entry is a seqlock of one cache
 * line: its writer makes "seq" odd, writes, makes it even again.  A writer that
 * dies in between leaves it odd: the next one goes on from there, and readers
 * who find what they look for in such an entry refuse.
 */

#include "ngx_commerce_deny.h"
#include "ngx_commerce_codec.h"
#include "ngx_commerce_gcra.h"

#include <stdatomic.h>
#include <string.h>


#define NGX_COMMERCE_DENY_MAGIC  0x31796e6564636e67ULL      /* "gncdeny1" */
#define NGX_COMMERCE_DENY_WAYS   8
#define NGX_COMMERCE_DENY_SPIN   1000


typedef struct {
    _Atomic uint64_t             seq;
    _Atomic uint64_t             head;      /* tenant and kind; 0: free */
    _Atomic uint64_t             id[2];
    _Atomic uint64_t             keep[2];
    _Atomic int64_t              at;
    _Atomic int64_t              until;
} ngx_commerce_deny_entry_t;


typedef struct {
    _Atomic int64_t              floor;
    _Atomic int64_t              floor_until;
    uint64_t                     pad[6];
    ngx_commerce_deny_entry_t    entry[NGX_COMMERCE_DENY_WAYS];
} ngx_commerce_deny_set_t;


struct ngx_commerce_deny_s {
    uint64_t                     magic;
    uint64_t                     sets;
    uint8_t                      seed[16];
    _Atomic uint64_t             version;
    _Atomic int64_t              latest;
    uint64_t                     pad[2];
    ngx_commerce_deny_set_t      set[];
};


/* What a reader took out of an entry in one piece. */

typedef struct {
    uint64_t                     keep[2];
    int64_t                      at;
    int64_t                      until;
    bool                         torn;      /* its writer is under way, or dead */
} ngx_commerce_deny_found_t;


static uint64_t ngx_commerce_deny_head(ngx_commerce_deny_kind_t kind,
    uint64_t tenant);
static ngx_commerce_deny_set_t *ngx_commerce_deny_set(
    ngx_commerce_deny_t *deny, uint64_t head, const uint8_t id[16]);
static ngx_commerce_deny_entry_t *ngx_commerce_deny_slot(
    ngx_commerce_deny_set_t *set, uint64_t head, const uint64_t id[2],
    int64_t now, bool *same);
static void ngx_commerce_deny_evict(ngx_commerce_deny_set_t *set,
    ngx_commerce_deny_entry_t *e, int64_t now);
static bool ngx_commerce_deny_find(ngx_commerce_deny_set_t *set,
    uint64_t head, const uint8_t id[16], ngx_commerce_deny_found_t *found);
static bool ngx_commerce_deny_below(ngx_commerce_deny_set_t *set,
    int64_t issued, int64_t now);
static int64_t ngx_commerce_deny_raise(ngx_commerce_deny_t *deny,
    uint64_t head, const uint8_t id[16], int64_t issued, int64_t now);
static int ngx_commerce_deny_digit(uint8_t ch);


#define ngx_commerce_deny_load(p)                                             \
    atomic_load_explicit(p, memory_order_relaxed)
#define ngx_commerce_deny_store(p, v)                                         \
    atomic_store_explicit(p, v, memory_order_relaxed)


ngx_commerce_deny_t *
ngx_commerce_deny_create(void *memory, size_t size, const uint8_t seed[16])
{
    ngx_commerce_deny_t  *deny = memory;

    if (size < NGX_COMMERCE_DENY_MIN || ((uintptr_t) memory & 63) != 0) {
        return NULL;
    }

    memset(memory, 0, size);
    memcpy(deny->seed, seed, 16);

    deny->sets = (size - sizeof(ngx_commerce_deny_t))
                 / sizeof(ngx_commerce_deny_set_t);
    deny->version = 1;
    deny->magic = NGX_COMMERCE_DENY_MAGIC;

    return deny;
}


ngx_commerce_deny_t *
ngx_commerce_deny_attach(void *memory)
{
    ngx_commerce_deny_t  *deny = memory;

    return (deny->magic == NGX_COMMERCE_DENY_MAGIC) ? deny : NULL;
}


uint64_t
ngx_commerce_deny_version(ngx_commerce_deny_t *deny)
{
    return atomic_load_explicit(&deny->version, memory_order_acquire);
}


void
ngx_commerce_deny_add(ngx_commerce_deny_t *deny,
    const ngx_commerce_deny_item_t *item, int64_t until, int64_t now)
{
    bool                        same;
    int64_t                     at;
    uint64_t                    seq, head, id[2], keep[2];
    ngx_commerce_deny_set_t    *set;
    ngx_commerce_deny_entry_t  *e;

    head = ngx_commerce_deny_head(item->kind, item->tenant);
    set = ngx_commerce_deny_set(deny, head, item->id);

    memcpy(id, item->id, 16);
    memcpy(keep, item->keep, 16);
    at = item->at;

    e = ngx_commerce_deny_slot(set, head, id, now, &same);

    if (same) {

        /* notices come late and twice: nothing gets shorter by that */

        if (until < ngx_commerce_deny_load(&e->until)) {
            until = ngx_commerce_deny_load(&e->until);
        }

        if (at < ngx_commerce_deny_load(&e->at)) {
            at = ngx_commerce_deny_load(&e->at);
            keep[0] = ngx_commerce_deny_load(&e->keep[0]);
            keep[1] = ngx_commerce_deny_load(&e->keep[1]);
        }

    } else {
        ngx_commerce_deny_evict(set, e, now);
    }

    seq = ngx_commerce_deny_load(&e->seq) | 1;

    ngx_commerce_deny_store(&e->seq, seq);
    atomic_thread_fence(memory_order_release);

    ngx_commerce_deny_store(&e->head, head);
    ngx_commerce_deny_store(&e->id[0], id[0]);
    ngx_commerce_deny_store(&e->id[1], id[1]);
    ngx_commerce_deny_store(&e->keep[0], keep[0]);
    ngx_commerce_deny_store(&e->keep[1], keep[1]);
    ngx_commerce_deny_store(&e->at, at);
    ngx_commerce_deny_store(&e->until, until);

    atomic_store_explicit(&e->seq, seq + 1, memory_order_release);
    atomic_fetch_add_explicit(&deny->version, 1, memory_order_release);
}


bool
ngx_commerce_deny_has(ngx_commerce_deny_t *deny,
    const ngx_commerce_deny_token_t *token, int64_t now)
{
    uint64_t                    head, session[2];
    ngx_commerce_deny_set_t    *set;
    ngx_commerce_deny_found_t   found;

    memset(session, 0, sizeof(session));

    if (token->has_session) {
        memcpy(session, token->session, 16);

        head = ngx_commerce_deny_head(NGX_COMMERCE_DENY_SESSION,
                                      token->tenant);
        set = ngx_commerce_deny_set(deny, head, token->session);

        if (ngx_commerce_deny_below(set, token->issued, now)
            || (ngx_commerce_deny_find(set, head, token->session, &found)
                && (found.torn || now < found.until)))
        {
            return true;
        }
    }

    head = ngx_commerce_deny_head(NGX_COMMERCE_DENY_USER, token->tenant);
    set = ngx_commerce_deny_set(deny, head, token->user);

    if (ngx_commerce_deny_below(set, token->issued, now)) {
        return true;
    }

    if (!ngx_commerce_deny_find(set, head, token->user, &found)) {
        return false;
    }

    if (found.torn) {
        return true;
    }

    return token->issued <= found.at && now < found.until
           && !(token->has_session && memcmp(found.keep, session, 16) == 0);
}


int64_t
ngx_commerce_deny_after(ngx_commerce_deny_t *deny,
    const ngx_commerce_deny_token_t *token, int64_t now)
{
    int64_t                     issued;
    uint64_t                    head;
    ngx_commerce_deny_found_t   found;

    issued = now;

    if (token->has_session) {
        head = ngx_commerce_deny_head(NGX_COMMERCE_DENY_SESSION,
                                      token->tenant);
        issued = ngx_commerce_deny_raise(deny, head, token->session, issued,
                                         now);
    }

    head = ngx_commerce_deny_head(NGX_COMMERCE_DENY_USER, token->tenant);
    issued = ngx_commerce_deny_raise(deny, head, token->user, issued, now);

    if (ngx_commerce_deny_find(ngx_commerce_deny_set(deny, head, token->user),
                               head, token->user, &found)
        && !found.torn && now < found.until && issued <= found.at)
    {
        issued = found.at + 1;
    }

    return issued;
}


void
ngx_commerce_deny_issued(ngx_commerce_deny_t *deny, int64_t expires)
{
    int64_t  latest;

    latest = ngx_commerce_deny_load(&deny->latest);

    while (latest < expires
           && !atomic_compare_exchange_weak(&deny->latest, &latest, expires))
    {
        /* void */
    }
}


int64_t
ngx_commerce_deny_latest(ngx_commerce_deny_t *deny)
{
    return ngx_commerce_deny_load(&deny->latest);
}


bool
ngx_commerce_deny_parse(ngx_commerce_str_t text,
    ngx_commerce_deny_item_t *item)
{
    uint8_t             *p, *end, *colon;
    uint64_t             at;
    unsigned             n;
    ngx_commerce_str_t   part[5];

    memset(item, 0, sizeof(ngx_commerce_deny_item_t));

    p = text.data;
    end = p + text.len;

    for (n = 0; n < 5; n++) {
        colon = memchr(p, ':', end - p);

        part[n].data = p;
        part[n].len = (colon != NULL ? colon : end) - p;

        if (colon == NULL) {
            break;
        }

        p = colon + 1;
    }

    if (n < 3 || n > 4 || part[0].len == 0 || part[1].len != 1
        || !ngx_commerce_deny_tenant(part[0], &item->tenant)
        || !ngx_commerce_deny_uuid(part[2], item->id)
        || part[3].len == 0
        || !ngx_commerce_deny_tenant(part[3], &at))
    {
        return false;
    }

    item->at = at;

    switch (part[1].data[0]) {

    case 's':
        item->kind = NGX_COMMERCE_DENY_SESSION;
        return n == 3;

    case 'u':
        item->kind = NGX_COMMERCE_DENY_USER;
        return n == 3 || ngx_commerce_deny_uuid(part[4], item->keep);

    default:
        return false;
    }
}


bool
ngx_commerce_deny_tenant(ngx_commerce_str_t text, uint64_t *tenant)
{
    size_t  i;

    *tenant = 0;

    if (text.len > 18) {
        return false;
    }

    for (i = 0; i < text.len; i++) {
        if (text.data[i] < '0' || text.data[i] > '9') {
            return false;
        }

        *tenant = *tenant * 10 + (text.data[i] - '0');
    }

    return true;
}


bool
ngx_commerce_deny_uuid(ngx_commerce_str_t text, uint8_t id[16])
{
    size_t   i, n;

    if (!ngx_commerce_uuid_valid(text.data, text.len)) {
        return false;
    }

    for (i = 0, n = 0; i < text.len; i++) {
        if (text.data[i] == '-') {
            continue;
        }

        id[n / 2] = (n & 1)
                    ? id[n / 2] | ngx_commerce_deny_digit(text.data[i])
                    : ngx_commerce_deny_digit(text.data[i]) << 4;
        n++;
    }

    return true;
}


static uint64_t
ngx_commerce_deny_head(ngx_commerce_deny_kind_t kind, uint64_t tenant)
{
    return tenant << 2 | kind;
}


static ngx_commerce_deny_set_t *
ngx_commerce_deny_set(ngx_commerce_deny_t *deny, uint64_t head,
    const uint8_t id[16])
{
    uint64_t            hash;
    ngx_commerce_str_t  a, b;

    a.data = (uint8_t *) &head;
    a.len = sizeof(head);
    b.data = (uint8_t *) id;
    b.len = 16;

    hash = ngx_commerce_siphash(deny->seed, a, b);

    return &deny->set[((hash >> 32) * deny->sets) >> 32];
}


/* The entry of this id, else one that is free or over, else the one that is over first. */

static ngx_commerce_deny_entry_t *
ngx_commerce_deny_slot(ngx_commerce_deny_set_t *set, uint64_t head,
    const uint64_t id[2], int64_t now, bool *same)
{
    int64_t                     until, first;
    unsigned                    i;
    ngx_commerce_deny_entry_t  *e, *slot;

    *same = false;
    slot = NULL;
    first = INT64_MAX;

    for (i = 0; i < NGX_COMMERCE_DENY_WAYS; i++) {
        e = &set->entry[i];

        if (ngx_commerce_deny_load(&e->head) == head
            && ngx_commerce_deny_load(&e->id[0]) == id[0]
            && ngx_commerce_deny_load(&e->id[1]) == id[1])
        {
            *same = true;
            return e;
        }

        until = ngx_commerce_deny_load(&e->until);

        /* half-written by a worker that died */
        if (ngx_commerce_deny_load(&e->seq) & 1) {
            until = 0;
        }

        if (ngx_commerce_deny_load(&e->head) == 0 || until <= now) {
            until = 0;
        }

        if (until < first) {
            first = until;
            slot = e;
        }
    }

    return slot;
}


static void
ngx_commerce_deny_evict(ngx_commerce_deny_set_t *set,
    ngx_commerce_deny_entry_t *e, int64_t now)
{
    int64_t  at, until;

    if ((ngx_commerce_deny_load(&e->seq) & 1) == 0
        && (ngx_commerce_deny_load(&e->head) == 0
            || ngx_commerce_deny_load(&e->until) <= now))
    {
        return;
    }

    at = ngx_commerce_deny_load(&e->at);
    until = ngx_commerce_deny_load(&e->until);

    if (until <= now) {
        return;
    }

    if (at > ngx_commerce_deny_load(&set->floor)) {
        ngx_commerce_deny_store(&set->floor, at);
    }

    if (until > ngx_commerce_deny_load(&set->floor_until)) {
        ngx_commerce_deny_store(&set->floor_until, until);
    }

    /* a reader sees the floor before it misses the entry */
    atomic_thread_fence(memory_order_release);
}


static bool
ngx_commerce_deny_find(ngx_commerce_deny_set_t *set, uint64_t head,
    const uint8_t id[16], ngx_commerce_deny_found_t *found)
{
    bool                        match;
    uint64_t                    seq, key[2];
    unsigned                    i, spin;
    ngx_commerce_deny_entry_t  *e;

    memcpy(key, id, 16);

    for (i = 0; i < NGX_COMMERCE_DENY_WAYS; i++) {
        e = &set->entry[i];

        for (spin = 0; spin < NGX_COMMERCE_DENY_SPIN; spin++) {

            seq = atomic_load_explicit(&e->seq, memory_order_acquire);

            match = (ngx_commerce_deny_load(&e->head) == head
                     && ngx_commerce_deny_load(&e->id[0]) == key[0]
                     && ngx_commerce_deny_load(&e->id[1]) == key[1]);

            found->keep[0] = ngx_commerce_deny_load(&e->keep[0]);
            found->keep[1] = ngx_commerce_deny_load(&e->keep[1]);
            found->at = ngx_commerce_deny_load(&e->at);
            found->until = ngx_commerce_deny_load(&e->until);

            atomic_thread_fence(memory_order_acquire);

            if ((seq & 1) == 0 && ngx_commerce_deny_load(&e->seq) == seq) {

                if (match) {
                    found->torn = false;
                    return true;
                }

                break;
            }
        }

        if (spin == NGX_COMMERCE_DENY_SPIN && match) {
            found->torn = true;
            return true;
        }
    }

    return false;
}


static bool
ngx_commerce_deny_below(ngx_commerce_deny_set_t *set, int64_t issued,
    int64_t now)
{
    return issued <= ngx_commerce_deny_load(&set->floor)
           && now < ngx_commerce_deny_load(&set->floor_until);
}


static int64_t
ngx_commerce_deny_raise(ngx_commerce_deny_t *deny, uint64_t head,
    const uint8_t id[16], int64_t issued, int64_t now)
{
    ngx_commerce_deny_set_t  *set;

    set = ngx_commerce_deny_set(deny, head, id);

    if (ngx_commerce_deny_below(set, issued, now)) {
        return ngx_commerce_deny_load(&set->floor) + 1;
    }

    return issued;
}


static int
ngx_commerce_deny_digit(uint8_t ch)
{
    return (ch <= '9') ? ch - '0' : (ch | 0x20) - 'a' + 10;
}
