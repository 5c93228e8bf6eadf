/*
 * The table of one shop's recommendations: for each product its nearest
 * products, what is popular, what is on the rise, and what tells two products
 * apart.  Made by commerce-train, read by the edge from shared memory.
 *
 * Products are numbered 0 to items - 1 in the order of their ids; everything
 * inside the table speaks of these numbers.  A table that open() accepted
 * cannot lead a reader out of its memory as long as that memory stays the
 * same: copy the file, or map one that is only ever replaced by rename().
 *
 * Memory: 256 bytes a product for the row, 64 for the vector, 50 for shares,
 * 8 for the id, 4 for popularity; 256 more for each cold product.
 */

#ifndef NGX_COMMERCE_SIMILARITY_H
#define NGX_COMMERCE_SIMILARITY_H


#include "ngx_commerce_pack.h"


#define NGX_COMMERCE_SIMILARITY_KIND        0x4d495343      /* "CSIM" */
#define NGX_COMMERCE_SIMILARITY_VERSION     1
#define NGX_COMMERCE_SIMILARITY_NEIGHBOURS  50
#define NGX_COMMERCE_SIMILARITY_DIMENSIONS  64
#define NGX_COMMERCE_SIMILARITY_NONE        UINT32_MAX


/* What a row's weights are made of. */

#define NGX_COMMERCE_SIMILARITY_COLLABORATIVE  0x01
#define NGX_COMMERCE_SIMILARITY_CONTENT        0x02


/* What a customer did with a product; a table has a weight for each. */

typedef enum {
    NGX_COMMERCE_EVENT_VIEW = 0,
    NGX_COMMERCE_EVENT_CLICK,
    NGX_COMMERCE_EVENT_WISHLIST,
    NGX_COMMERCE_EVENT_SHARE,
    NGX_COMMERCE_EVENT_CART,
    NGX_COMMERCE_EVENT_PURCHASE,
    NGX_COMMERCE_EVENT_DISMISS,
    NGX_COMMERCE_EVENT_OTHER,
    NGX_COMMERCE_EVENTS
} ngx_commerce_event_t;


/* Four cache lines.  The neighbours descend by weight; weight × scale is the value. */

typedef struct {
    uint32_t  item[NGX_COMMERCE_SIMILARITY_NEIGHBOURS];
    uint8_t   weight[NGX_COMMERCE_SIMILARITY_NEIGHBOURS];
    uint8_t   count;
    uint8_t   components;
    float     scale;
} ngx_commerce_similarity_row_t;


/* Of 255 parts of a neighbour's weight, those that come from its content. */

typedef struct {
    uint8_t   content[NGX_COMMERCE_SIMILARITY_NEIGHBOURS];
} ngx_commerce_similarity_shares_t;


/* A vector of length 127: the product of two over 127² is their cosine. */

typedef struct {
    int8_t    x[NGX_COMMERCE_SIMILARITY_DIMENSIONS];
} ngx_commerce_similarity_vector_t;


typedef enum {
    NGX_COMMERCE_LIST_POPULAR = 0,
    NGX_COMMERCE_LIST_TRENDING,
    NGX_COMMERCE_LISTS
} ngx_commerce_list_kind_t;

/* Lists are sorted by kind, then category; category 0 is the whole shop. */

typedef struct {
    uint64_t  category;
    uint32_t  kind;
    uint32_t  first;                    /* of the entries */
    uint32_t  count;
    uint32_t  unused;                   /* zero */
} ngx_commerce_similarity_list_t;

typedef struct {
    uint32_t  item;
    float     score;                    /* descending in a list */
} ngx_commerce_similarity_entry_t;


/* What the table is, and how its numbers are to be put together. */

typedef struct {
    uint64_t  tenant_id;
    uint64_t  generation;               /* grows with each training */
    int64_t   created;                  /* ms since 1970 */
    int64_t   watermark;                /* ms since 1970 of the last event in it; 0: without times */
    uint64_t  users;
    uint64_t  events;
    uint32_t  items;
    uint32_t  cold;                     /* products with a row by content alone */

    char      collaborative[32];        /* "ridge", "cosine", "svd"; terminated */
    char      content[32];              /* "tfidf", "minilm", "none" */

    float     content_weight;
    float     collaborative_weight;
    float     popularity_weight;        /* beside neighbours of weight 1 */
    float     diversity;                /* 0 to 1, MMR */
    float     popularity_days;          /* of the exponential decay */
    float     position_decay;           /* what the next older event counts */
    float     age_days;                 /* an event's weight decays with this; 0: never */
    float     ndcg;                     /* @20 on the days held back; 0: not measured */
    float     coverage;                 /* @20 */
    float     event_weight[NGX_COMMERCE_EVENTS];
    uint32_t  unused[3];                /* zero */
} ngx_commerce_similarity_about_t;


enum {
    NGX_COMMERCE_SIMILARITY_ABOUT = 1,
    NGX_COMMERCE_SIMILARITY_ITEMS,
    NGX_COMMERCE_SIMILARITY_ROWS,
    NGX_COMMERCE_SIMILARITY_SHARES,
    NGX_COMMERCE_SIMILARITY_COLD,
    NGX_COMMERCE_SIMILARITY_COLD_ROWS,
    NGX_COMMERCE_SIMILARITY_POPULARITY,
    NGX_COMMERCE_SIMILARITY_LIST,
    NGX_COMMERCE_SIMILARITY_ENTRIES,
    NGX_COMMERCE_SIMILARITY_VECTORS
};


typedef struct {
    const ngx_commerce_similarity_about_t   *about;
    const uint64_t                          *ids;           /* ascending */
    const ngx_commerce_similarity_row_t     *rows;
    const ngx_commerce_similarity_shares_t  *shares;
    const uint32_t                          *cold;          /* ascending */
    const ngx_commerce_similarity_row_t     *cold_rows;     /* as cold */
    const float                             *popularity;    /* 0 to 1 */
    const ngx_commerce_similarity_list_t    *lists;
    const ngx_commerce_similarity_entry_t   *entries;
    const ngx_commerce_similarity_vector_t  *vectors;       /* NULL: none */
    uint32_t                                 items;
    uint32_t                                 ncold;
    uint32_t                                 nlists;
    uint32_t                                 nentries;
} ngx_commerce_similarity_t;


/*
 * Reads a table of "size" bytes at "data" (aligned to 64) and checks all of
 * it: sums, counts, order, every index.  About a second for 1 GB: not on an
 * event loop.
 */

ngx_commerce_rc_t ngx_commerce_similarity_open(ngx_commerce_similarity_t *table,
    const void *data, size_t size, const char **why);

/* The same for memory that open() accepted before, in another process or place: microseconds. */

ngx_commerce_rc_t ngx_commerce_similarity_attach(
    ngx_commerce_similarity_t *table, const void *data, size_t size,
    const char **why);

/* The number of the product, or NGX_COMMERCE_SIMILARITY_NONE. */

uint32_t ngx_commerce_similarity_find(const ngx_commerce_similarity_t *table,
    uint64_t id);

/* The row by content alone of a cold product; NULL: it is not cold. */

const ngx_commerce_similarity_row_t *ngx_commerce_similarity_cold(
    const ngx_commerce_similarity_t *table, uint32_t item);

/* A list's entries; 0: there is no such list. */

uint32_t ngx_commerce_similarity_list(const ngx_commerce_similarity_t *table,
    ngx_commerce_list_kind_t kind, uint64_t category,
    const ngx_commerce_similarity_entry_t **entries);

/* Cosine of two products' vectors, -1 to 1; 0 without vectors. */

float ngx_commerce_similarity_cosine(const ngx_commerce_similarity_t *table,
    uint32_t a, uint32_t b);

/* "view" → NGX_COMMERCE_EVENT_VIEW, also by the names of the API; NGX_COMMERCE_EVENTS: unknown. */

ngx_commerce_event_t ngx_commerce_event(const char *name, size_t len);


#endif /* NGX_COMMERCE_SIMILARITY_H */
