/*
 * What one process read out of a store and keeps: entries that are asked for
 * again and again are neither copied nor summed up again.  Whether an entry
 * still counts is the store's word each time: the generations of its tags.
 *
 * Not shared, not for threads.  Knows no nginx.
 */

#ifndef NGX_COMMERCE_NEAR_H
#define NGX_COMMERCE_NEAR_H


#include "ngx_commerce_store.h"


/*
 * An entry whose parts are at "data"; it stays as it is until it is let go.
 * Begins a line of the processor's cache: a hit reads four, all before "data".
 */

typedef struct {
    ngx_commerce_store_found_t  found;
    uint32_t                    holders;
    uint64_t                    mark;       /* of the store, when it was last found to be current */
    uint64_t                    data[];
} ngx_commerce_near_entry_t;

typedef struct {
    ngx_commerce_store_t        *store;
    ngx_commerce_near_entry_t  **places;    /* in pairs; NULL: nothing is kept */
    uint32_t                     mask;
    uint32_t                     hand;      /* the next place to be emptied */
    uint32_t                     turn;
    size_t                       used;
    size_t                       room;
} ngx_commerce_near_t;


/* room: bytes of entries that are kept; too little for any, or no memory: none are. */
void ngx_commerce_near_init(ngx_commerce_near_t *near,
    ngx_commerce_store_t *store, size_t room);
void ngx_commerce_near_free(ngx_commerce_near_t *near);

/* The key's entry, held once more for the caller; NULL: ask the store. */
ngx_commerce_near_entry_t *ngx_commerce_near_find(ngx_commerce_near_t *near,
    const ngx_commerce_store_ticket_t *ticket, uint64_t now);

/*
 * Reads what the store found, held for the caller.  One in a few is kept: what comes again and
 * again soon is, what comes once mostly is not.  NULL: it was overwritten
 * meanwhile, or there is no memory; treat as a miss.
 */
ngx_commerce_near_entry_t *ngx_commerce_near_read(ngx_commerce_near_t *near,
    const ngx_commerce_store_found_t *found);

void ngx_commerce_near_release(ngx_commerce_near_entry_t *entry);

/* What will probably be found is fetched from memory meanwhile; an entry that is long gone does no harm. */

static inline void
ngx_commerce_near_expect(const ngx_commerce_near_entry_t *entry)
{
    __builtin_prefetch((const uint8_t *) entry);
    __builtin_prefetch((const uint8_t *) entry + 64);
    __builtin_prefetch((const uint8_t *) entry + 128);
    __builtin_prefetch((const uint8_t *) entry + 192);
}


/* The key is about to get other content. */
void ngx_commerce_near_forget(ngx_commerce_near_t *near,
    const ngx_commerce_store_ticket_t *ticket);


#endif /* NGX_COMMERCE_NEAR_H */
