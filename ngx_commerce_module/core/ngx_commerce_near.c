/*
 * Places in pairs, found by the key's hash.  An entry is counted by its holders: its
 * place is one, each answer that is being sent from it another.
 */

#include <stdlib.h>

#include "ngx_commerce_near.h"
#include "ngx_commerce_store_internal.h"


#define NGX_COMMERCE_NEAR_TURN   7          /* one in so many that were read is kept */
#define NGX_COMMERCE_NEAR_SHARE  16         /* of the room, at most for one */
#define NGX_COMMERCE_NEAR_MEAN   1024       /* bytes for each place */


static ngx_commerce_near_entry_t **ngx_commerce_near_pair(
    ngx_commerce_near_t *near, const uint64_t key[2]);
static bool ngx_commerce_near_current(ngx_commerce_store_shm_t *shm,
    ngx_commerce_near_entry_t *entry);
static void ngx_commerce_near_keep(ngx_commerce_near_t *near,
    ngx_commerce_near_entry_t *entry);
static void ngx_commerce_near_drop(ngx_commerce_near_t *near,
    ngx_commerce_near_entry_t **place);
static size_t ngx_commerce_near_size(const ngx_commerce_store_found_t *found);


void
ngx_commerce_near_init(ngx_commerce_near_t *near, ngx_commerce_store_t *store,
    size_t room)
{
    size_t  places;

    memset(near, 0, sizeof(ngx_commerce_near_t));

    near->store = store;

    for (places = 2;
         places * 2 * NGX_COMMERCE_NEAR_MEAN <= room && places < 65536;
         places *= 2)
    {
        /* void */
    }

    if (room < 2 * NGX_COMMERCE_NEAR_MEAN) {
        return;
    }

    near->places = calloc(places, sizeof(ngx_commerce_near_entry_t *));

    if (near->places) {
        near->mask = (uint32_t) places - 1;
        near->room = room;
    }
}


void
ngx_commerce_near_free(ngx_commerce_near_t *near)
{
    uint32_t  i;

    for (i = 0; near->places && i <= near->mask; i++) {
        ngx_commerce_near_drop(near, &near->places[i]);
    }

    free(near->places);
    near->places = NULL;
}


static ngx_commerce_near_entry_t **
ngx_commerce_near_pair(ngx_commerce_near_t *near, const uint64_t key[2])
{
    return &near->places[key[1] >> 32 & near->mask & ~1U];
}


ngx_commerce_near_entry_t *
ngx_commerce_near_find(ngx_commerce_near_t *near,
    const ngx_commerce_store_ticket_t *ticket, uint64_t now)
{
    uint32_t                     i;
    const uint64_t              *head;
    ngx_commerce_store_t        *store;
    ngx_commerce_near_entry_t   *entry, **pair;

    if (near->places == NULL) {
        return NULL;
    }

    store = near->store;
    pair = ngx_commerce_near_pair(near, ticket->key);

    for (i = 0; i < 2; i++) {
        entry = pair[i];

        if (entry == NULL) {
            continue;
        }

        head = entry->found.head;

        if (head[HEAD_KEY] != ticket->key[0]
            || head[HEAD_KEY + 1] != ticket->key[1])
        {
            continue;
        }

        /* past its time the store decides who refills it */

        if (now >= head[HEAD_EXPIRES]
            || !ngx_commerce_near_current(store->shm, entry))
        {
            ngx_commerce_near_drop(near, &pair[i]);
            return NULL;
        }

        entry->holders++;
        entry->found.age = now > head[HEAD_STORED] ? now - head[HEAD_STORED]
                                                   : 0;
        ngx_commerce_store_count(store, hits);

        return entry;
    }

    return NULL;
}


static bool
ngx_commerce_near_current(ngx_commerce_store_shm_t *shm,
    ngx_commerce_near_entry_t *entry)
{
    if (ngx_commerce_store_mark_is(shm, entry->mark)) {
        return true;
    }

    entry->mark = ngx_commerce_store_mark_take(shm);

    return ngx_commerce_store_current(shm, entry->found.head);
}


ngx_commerce_near_entry_t *
ngx_commerce_near_read(ngx_commerce_near_t *near,
    const ngx_commerce_store_found_t *found)
{
    ngx_commerce_near_entry_t  *entry;

    /* whoever gets text may look one byte beyond it */

    entry = aligned_alloc(NGX_COMMERCE_STORE_UNIT,
                          (ngx_commerce_near_size(found)
                           + NGX_COMMERCE_STORE_UNIT)
                          & ~(size_t) (NGX_COMMERCE_STORE_UNIT - 1));
    if (entry == NULL) {
        return NULL;
    }

    if (!ngx_commerce_store_read(near->store, found, (uint8_t *) entry->data))
    {
        free(entry);
        return NULL;
    }

    entry->found = *found;
    entry->holders = 1;
    entry->mark = 0;

    if (near->places && !found->stale
        && ngx_commerce_near_size(found) <= near->room / NGX_COMMERCE_NEAR_SHARE
        && near->turn++ % NGX_COMMERCE_NEAR_TURN == 0)
    {
        ngx_commerce_near_keep(near, entry);
    }

    return entry;
}


void
ngx_commerce_near_release(ngx_commerce_near_entry_t *entry)
{
    if (--entry->holders == 0) {
        free(entry);
    }
}


void
ngx_commerce_near_forget(ngx_commerce_near_t *near,
    const ngx_commerce_store_ticket_t *ticket)
{
    uint32_t                     i;
    ngx_commerce_near_entry_t  **pair;

    if (near->places == NULL) {
        return;
    }

    pair = ngx_commerce_near_pair(near, ticket->key);

    for (i = 0; i < 2; i++) {
        if (pair[i] && pair[i]->found.head[HEAD_KEY] == ticket->key[0]
            && pair[i]->found.head[HEAD_KEY + 1] == ticket->key[1])
        {
            ngx_commerce_near_drop(near, &pair[i]);
        }
    }
}


/* The older one of the two goes, and whatever the hand comes to until there is room. */

static void
ngx_commerce_near_keep(ngx_commerce_near_t *near,
    ngx_commerce_near_entry_t *entry)
{
    size_t                       size;
    ngx_commerce_near_entry_t  **pair;

    size = ngx_commerce_near_size(&entry->found);

    while (near->used + size > near->room) {
        ngx_commerce_near_drop(near, &near->places[near->hand++ & near->mask]);
    }

    pair = ngx_commerce_near_pair(near, &entry->found.head[HEAD_KEY]);

    ngx_commerce_near_drop(near, &pair[1]);

    pair[1] = pair[0];
    pair[0] = entry;

    near->used += size;
    entry->holders++;
}


static void
ngx_commerce_near_drop(ngx_commerce_near_t *near,
    ngx_commerce_near_entry_t **place)
{
    if (*place) {
        near->used -= ngx_commerce_near_size(&(*place)->found);
        ngx_commerce_near_release(*place);
        *place = NULL;
    }
}


static size_t
ngx_commerce_near_size(const ngx_commerce_store_found_t *found)
{
    return sizeof(ngx_commerce_near_entry_t) + found->size;
}
