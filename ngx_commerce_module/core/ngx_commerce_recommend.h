/*
 * What to show next: a customer's recent products × their neighbours +
 * popularity, then MMR.  The trainer's evaluation runs this very code.
 *
 * Scratch memory is the caller's, one for a worker, and allocates nothing
 * later; tables of all shops share it.
 */

#ifndef NGX_COMMERCE_RECOMMEND_H
#define NGX_COMMERCE_RECOMMEND_H


#include "ngx_commerce_similarity.h"


#define NGX_COMMERCE_RECOMMEND_POOL   60        /* candidates that MMR chooses from, at most */
#define NGX_COMMERCE_RECOMMEND_LIMIT  50        /* answers, at most */


/* What a customer did, newest first. */

typedef struct {
    uint32_t  item;
    uint32_t  event;                    /* ngx_commerce_event_t */
    int64_t   time;                     /* ms since 1970; used when the table has age_days */
} ngx_commerce_recommend_event_t;


typedef struct {
    const ngx_commerce_recommend_event_t  *events;
    uint32_t                               nevents;
    uint32_t                               limit;
    int64_t                                now;         /* ms since 1970 */
    float                                  popularity;  /* weight beside the best neighbour's 1; below 0: neighbours only */
    float                                  diversity;   /* 0: by score alone */
    bool                                   again;       /* may name products of the history */

    /* what must not be named (out of stock, dismissed, owned); NULL: anything may */
    bool                                 (*excluded)(void *ctx, uint32_t item);
    void                                  *ctx;
} ngx_commerce_recommend_query_t;


typedef struct {
    uint32_t  item;
    float     score;                    /* neighbours + popularity */
    float     neighbours;               /* 0 to 1: the best candidate has 1 */
    float     popularity;               /* as weighted */
} ngx_commerce_recommend_answer_t;


/* Why an answer was given. */

typedef struct {
    uint32_t  source;                   /* product of the history that spoke most for it; NONE: popular */
    uint32_t  event;                    /* what the customer did with it */
    float     content;                  /* shares of the score, together 1 */
    float     collaborative;
    float     popularity;
} ngx_commerce_recommend_reason_t;


typedef struct ngx_commerce_recommend_scratch_s  ngx_commerce_recommend_scratch_t;

/* Scratch for histories of up to "events" events, one block of about 2.5 kB an event.  NULL: no memory. */

ngx_commerce_recommend_scratch_t *ngx_commerce_recommend_scratch(
    const ngx_commerce_alloc_t *alloc, uint32_t events);

/* The table's own weights; no history, 10 answers. */

void ngx_commerce_recommend_query(const ngx_commerce_similarity_t *table,
    ngx_commerce_recommend_query_t *query);

/*
 * Up to query->limit answers, best first.  Events beyond the scratch's are
 * not looked at.  Without a history, or with one that the table does not
 * know, these are the popular products.
 */

uint32_t ngx_commerce_recommend(const ngx_commerce_similarity_t *table,
    ngx_commerce_recommend_scratch_t *scratch,
    const ngx_commerce_recommend_query_t *query,
    ngx_commerce_recommend_answer_t *answers);

/* Products like this one: its row, the cold row where it has one and no other; then as recommend(). */

uint32_t ngx_commerce_recommend_similar(const ngx_commerce_similarity_t *table,
    uint32_t item, const ngx_commerce_recommend_query_t *query,
    ngx_commerce_recommend_answer_t *answers);

/* A list without what is excluded. */

uint32_t ngx_commerce_recommend_list(const ngx_commerce_similarity_t *table,
    ngx_commerce_list_kind_t kind, uint64_t category,
    const ngx_commerce_recommend_query_t *query,
    ngx_commerce_recommend_answer_t *answers);

void ngx_commerce_recommend_explain(const ngx_commerce_similarity_t *table,
    const ngx_commerce_recommend_query_t *query,
    const ngx_commerce_recommend_answer_t *answer,
    ngx_commerce_recommend_reason_t *reason);


#endif /* NGX_COMMERCE_RECOMMEND_H */
