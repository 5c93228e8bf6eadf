/*
 * What each customer did last: rings of 50 events in shared memory, so that a
 * recommendation differs right after the click that changes it.  What is not to
 * be shown again (bought, dismissed) has places of its own, 250 products: views
 * do not push it out.
 *
 * A memory, not a record: customers who have not been seen for longest make
 * room, and whoever is not here is filled in from the database.  No locks; a
 * process killed at any instruction leaves at most one half-written event,
 * which is not read, and a customer who is "being filled" again, which ends by
 * time.
 */

#ifndef NGX_COMMERCE_RECENT_H
#define NGX_COMMERCE_RECENT_H


#include "ngx_commerce_core.h"


#define NGX_COMMERCE_RECENT_EVENTS  50
#define NGX_COMMERCE_RECENT_NEVER   250
#define NGX_COMMERCE_RECENT_SLOT    1856        /* bytes a customer */
#define NGX_COMMERCE_RECENT_FILL    3000        /* ms that a filler has */


typedef struct ngx_commerce_recent_shm_s  ngx_commerce_recent_shm_t;

typedef struct {
    ngx_commerce_recent_shm_t  *shm;
} ngx_commerce_recent_t;

typedef struct {
    uint64_t  item;                     /* the product's id */
    int64_t   time;                     /* ms since 1970 */
    uint32_t  event;                    /* ngx_commerce_event_t, below 16 */
} ngx_commerce_recent_event_t;


/* Products that are not to be shown to a customer: 32 bits of a hash of each, so one in four billion others is left out with them. */

typedef struct {
    uint64_t  key;                      /* of the customer */
    uint32_t  n;
    uint32_t  marks[NGX_COMMERCE_RECENT_NEVER];
} ngx_commerce_recent_never_t;


typedef enum {
    NGX_COMMERCE_RECENT_KNOWN = 0,
    NGX_COMMERCE_RECENT_FILL_IT,        /* nobody knows: read it and call fill() */
    NGX_COMMERCE_RECENT_FILLING         /* another one does, once more: what is here is old by that much */
} ngx_commerce_recent_rc_t;


/* "size" zeroed bytes at "memory", aligned to 64; "secret" keys the hash. */

ngx_commerce_rc_t ngx_commerce_recent_create(ngx_commerce_recent_t *recent,
    void *memory, size_t size, const uint8_t secret[16]);
ngx_commerce_rc_t ngx_commerce_recent_open(ngx_commerce_recent_t *recent,
    void *memory, size_t size);
uint64_t ngx_commerce_recent_capacity(const ngx_commerce_recent_t *recent);

/*
 * Under which key a customer is known, never 0 and as long as the memory is the
 * same.  "shop" ends with a byte that is in no shop's name.
 */

uint64_t ngx_commerce_recent_key(const ngx_commerce_recent_t *recent,
    ngx_commerce_str_t shop, ngx_commerce_str_t customer);

/*
 * "state" changes with every event: an answer that was made of the events is
 * good as long as it is the same.  What was filled in longer than "valid" ms ago
 * is to be filled again (FILL_IT).  Times are ms since 1970.  "heard" is for
 * fill(), of whoever asks the database from now on.
 */

ngx_commerce_recent_rc_t ngx_commerce_recent_look(
    ngx_commerce_recent_t *recent, uint64_t key, int64_t now, int64_t valid,
    uint64_t *state, uint64_t *heard);

/*
 * The same, and the customer's events, newest first; returns by *n how many.
 * FILL_IT comes with the old ones.
 */

ngx_commerce_recent_rc_t ngx_commerce_recent_read(
    ngx_commerce_recent_t *recent, ngx_commerce_str_t shop,
    ngx_commerce_str_t customer, int64_t now, int64_t valid,
    ngx_commerce_recent_event_t events[NGX_COMMERCE_RECENT_EVENTS],
    uint32_t *n, ngx_commerce_recent_never_t *never, uint64_t *state);

/* One more event; "never": its product is not to be shown again.  false: the customer is not here, nothing to do. */

bool ngx_commerce_recent_add(ngx_commerce_recent_t *recent,
    ngx_commerce_str_t shop, ngx_commerce_str_t customer,
    const ngx_commerce_recent_event_t *event, bool never);

/*
 * What the database knows, newest first: "n" events, "m" products not to be
 * shown.  What came meanwhile stays.  "heard" is of before it was asked: what was
 * heard of since makes it be asked again, and who was forgotten since stays so.
 */

void ngx_commerce_recent_fill(ngx_commerce_recent_t *recent,
    ngx_commerce_str_t shop, ngx_commerce_str_t customer, int64_t now,
    uint64_t heard, const ngx_commerce_recent_event_t *events, uint32_t n,
    const uint64_t *never, uint32_t m);

/* Something was done that may not be here: then what is here is to be filled again. */

void ngx_commerce_recent_heard(ngx_commerce_recent_t *recent,
    ngx_commerce_str_t shop, ngx_commerce_str_t customer, uint64_t item,
    int64_t time);

/* For who is not here: "never" begins as zeros.  A product beyond NGX_COMMERCE_RECENT_NEVER is not taken. */

void ngx_commerce_recent_never_add(ngx_commerce_recent_never_t *never,
    uint64_t item);

bool ngx_commerce_recent_never(const ngx_commerce_recent_never_t *never,
    uint64_t item);

/* Nothing of the customer stays (erasure, merge of a guest, an order that was taken back). */

void ngx_commerce_recent_forget(ngx_commerce_recent_t *recent,
    ngx_commerce_str_t shop, ngx_commerce_str_t customer);


#endif /* NGX_COMMERCE_RECENT_H */
