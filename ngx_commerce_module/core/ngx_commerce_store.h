/*
 * A cache of byte strings in shared memory, with tags: entries are appended to
 * a ring, a set-associative index of single words points into it.
 *
 * No locks.  A process may be killed or stopped at any instruction: what it
 * had half-written is not reachable, or fails its checksum and is a miss.
 * cache/README.md has the reasoning.  Knows no nginx; the memory is the
 * caller's.
 */

#ifndef NGX_COMMERCE_STORE_H
#define NGX_COMMERCE_STORE_H


#include "ngx_commerce_core.h"


#define NGX_COMMERCE_STORE_TAGS    8            /* of one entry */
#define NGX_COMMERCE_STORE_PARTS   3
#define NGX_COMMERCE_STORE_MAX     (256 * 1024) /* the largest entry */
#define NGX_COMMERCE_STORE_MIN     (512 * 1024) /* the smallest memory */
#define NGX_COMMERCE_STORE_WORDS   22           /* of an entry's head */

/* How long an entry may be served past its time while one process refills it. */
#define NGX_COMMERCE_STORE_GRACE   2000         /* ms */
#define NGX_COMMERCE_STORE_LEASE   1000


typedef struct ngx_commerce_store_shm_s  ngx_commerce_store_shm_t;

/* A process's view of the shared memory. */

typedef struct {
    ngx_commerce_store_shm_t  *shm;
    uint32_t                   stripe;  /* which statistics line to count in: the worker's number */
} ngx_commerce_store_t;


/*
 * Names an entry and the state of its tags at one moment.  Taken before the
 * content is asked for, handed to put() with the content: an invalidation in
 * between makes the entry a miss.
 */

typedef struct {
    uint64_t  key[2];
    uint64_t  epoch;
    uint32_t  tags_count;
    uint32_t  tags[NGX_COMMERCE_STORE_TAGS];
    uint64_t  generations[NGX_COMMERCE_STORE_TAGS];
    bool      usable;                   /* false: no tags yet, or too many: put() does nothing */
} ngx_commerce_store_ticket_t;


/* An entry that was found and not yet read. */

typedef struct {
    uint64_t  head[NGX_COMMERCE_STORE_WORDS];   /* private copy */
    uint64_t  word;                     /* of the index */
    uint32_t  slot;
    uint32_t  status;
    uint32_t  len[NGX_COMMERCE_STORE_PARTS];
    size_t    size;                     /* room that read() needs */
    uint64_t  age;                      /* ms */
    bool      stale;                    /* past its time, another process refills it */
} ngx_commerce_store_found_t;


typedef struct {
    uint64_t  hits;
    uint64_t  stale;                    /* of the hits */
    uint64_t  misses;
    uint64_t  puts;
    uint64_t  refused;                  /* too large, too many tags, the index was taken */
    uint64_t  moved;                    /* second chance before the ring came round */
    uint64_t  displaced;                /* live entries that lost their place in the index */
    uint64_t  torn;                     /* failed the checksum */
    uint64_t  invalidations;
} ngx_commerce_store_stats_t;


/*
 * create() lays the store out in "size" zeroed bytes at "memory" (64-byte
 * aligned); open() takes over what create() made, also in another process, and
 * fails when magic, layout version or size differ.  "secret" keys the hashes,
 * so that no client can aim at collisions.
 */

ngx_commerce_rc_t ngx_commerce_store_create(ngx_commerce_store_t *store,
    void *memory, size_t size, const uint8_t secret[16]);
ngx_commerce_rc_t ngx_commerce_store_open(ngx_commerce_store_t *store,
    void *memory, size_t size);

/*
 * A ticket begins with its key, which is all that find() needs; put() needs its tags too, as they were
 * before the content was asked for.
 */

void ngx_commerce_store_key(ngx_commerce_store_t *store,
    ngx_commerce_str_t key, ngx_commerce_store_ticket_t *ticket);
void ngx_commerce_store_tags(ngx_commerce_store_t *store,
    const ngx_commerce_str_t *tags, uint32_t tags_count,
    ngx_commerce_store_ticket_t *ticket);

/*
 * find() looks the ticket's entry up; "now" is monotonic milliseconds, the same
 * clock in all processes.  read() then copies the parts to "dst" (found->size bytes, 8-byte
 * aligned), each beginning at a multiple of 8 in their order; false: it was overwritten
 * meanwhile, treat as a miss.
 */

bool ngx_commerce_store_find(ngx_commerce_store_t *store,
    const ngx_commerce_store_ticket_t *ticket, uint64_t now,
    ngx_commerce_store_found_t *found);
bool ngx_commerce_store_read(ngx_commerce_store_t *store,
    const ngx_commerce_store_found_t *found, uint8_t *dst);

/* Where part "n" begins in "dst". */
size_t ngx_commerce_store_offset(const ngx_commerce_store_found_t *found,
    uint32_t n);

/* Returns false when the entry was not kept. */
bool ngx_commerce_store_put(ngx_commerce_store_t *store,
    const ngx_commerce_store_ticket_t *ticket, uint32_t status,
    const ngx_commerce_str_t parts[NGX_COMMERCE_STORE_PARTS], uint64_t now,
    uint64_t ttl);

/* Entries with this tag, or all entries, put with older tickets are misses from now on. */
void ngx_commerce_store_invalidate(ngx_commerce_store_t *store,
    ngx_commerce_str_t tag);
void ngx_commerce_store_invalidate_all(ngx_commerce_store_t *store);

void ngx_commerce_store_stats(ngx_commerce_store_t *store,
    ngx_commerce_store_stats_t *stats);


/* SipHash-1-3 with 128 bits out: what finds keys and tags. */

void ngx_commerce_store_siphash(const uint64_t secret[2], const uint8_t *data,
    size_t len, uint64_t out[2]);


#endif /* NGX_COMMERCE_STORE_H */
