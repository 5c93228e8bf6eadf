/*
 * What the files of recommendations share: the state of a request, and how an
 * answer is made of it.
 */

#ifndef NGX_COMMERCE_RECS_ANSWER_H
#define NGX_COMMERCE_RECS_ANSWER_H


#include "ngx_commerce_http.h"
#include "ngx_commerce_recs.h"


typedef enum {
    NGX_COMMERCE_RECS_PERSONAL = 0,
    NGX_COMMERCE_RECS_SIMILAR,
    NGX_COMMERCE_RECS_TRENDING
} ngx_commerce_recs_kind_t;

typedef struct {
    uint64_t                         id;
    ngx_str_t                        text;      /* without the closing brace; data == NULL: not known */
    ngx_commerce_cache_ticket_t      ticket;    /* from before it was asked for */
    unsigned                         asked:1;   /* and there is none */
    unsigned                         in_stock:1;
} ngx_commerce_recs_card_t;

/* "filled": the table had too few, and this is what sells otherwise; it has no score. */

typedef struct {
    uint64_t                         id;
    ngx_commerce_recommend_answer_t  answer;
    ngx_commerce_recommend_reason_t  reason;
    uint64_t                         source;    /* the reason's product; 0: none */
    unsigned                         filled:1;
} ngx_commerce_recs_choice_t;

/* What a request has so far.  Mostly the customer's list is at hand, and nothing else is needed: room is made when it is. */

typedef struct ngx_commerce_recs_state_s {
    ngx_commerce_recs_kind_t         kind;
    ngx_uint_t                       limit;
    ngx_uint_t                       explain;
    uint64_t                         product;   /* SIMILAR */
    uint64_t                         category;  /* TRENDING; 0: all */
    const ngx_commerce_similarity_t *table;     /* between enter() and leave() */

    ngx_commerce_recent_event_t     *recent;    /* room for NGX_COMMERCE_RECENT_EVENTS, or NULL */
    uint32_t                         nrecent;
    ngx_commerce_recent_never_t     *never;     /* PERSONAL, and there is room */
    uint64_t                         who;       /* the customer for recs/; 0: nobody, or no zone of recent events */
    uint64_t                         version;   /* of the ring */
    uint64_t                         heard;     /* before the database was asked */

    ngx_array_t                      cards;     /* of ngx_commerce_recs_card_t */
    ngx_uint_t                       nchoices;
    ngx_commerce_recs_choice_t      *choices;   /* room for NGX_COMMERCE_RECOMMEND_LIMIT, or NULL */
    ngx_uint_t                       asked;     /* how often the steps were asked for cards */
    ngx_uint_t                       nfill;
    uint64_t                        *fill;      /* what was asked for to fill up, best first */
    ngx_commerce_cache_ticket_t      ticket;    /* of the customer's list */
    ngx_str_t                        model;     /* JSON */

    unsigned                         recent_read:1;     /* it is known what the customer did */
    unsigned                         events_read:1;     /* and in "recent" */
    unsigned                         recent_asked:1;
    unsigned                         fallback:1;        /* asked for what fills the list up */
    unsigned                         popular:1;         /* TRENDING, and nothing is */
    unsigned                         ticketed:1;
} ngx_commerce_recs_state_t;


/* ngx_commerce_natives_recent.c */

/* 0: absent */
uint64_t ngx_commerce_recs_number(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step, const char *name);
/* Empty: nobody who could be known again, and no token is made for that. */
ngx_int_t ngx_commerce_recs_owner(ngx_commerce_request_t *c,
    ngx_str_t *owner);
/* The owner's key in recs/, mostly without its text; 0: nobody, or nobody is remembered. */
ngx_int_t ngx_commerce_recs_customer(ngx_commerce_request_t *c,
    uint64_t *who);

/* ngx_commerce_recs_history.c */

ngx_int_t ngx_commerce_recs_room(ngx_commerce_request_t *c,
    ngx_commerce_recs_state_t *state);
/* NGX_DECLINED: it is known what the customer did.  NGX_OK: said that it is to be asked for. */
ngx_int_t ngx_commerce_recs_history(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step, ngx_commerce_recs_state_t *state);
/* Now that a list must be made: into the state. */
ngx_int_t ngx_commerce_recs_history_read(ngx_commerce_request_t *c,
    ngx_commerce_recs_state_t *state);

/* ngx_commerce_recs_card.c */

/* What a call brought: into the state, and into the cache. */
ngx_int_t ngx_commerce_recs_cards(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step, ngx_commerce_recs_state_t *state);
/* The card, from the state or the cache; without text when it must be asked for.  NULL: no memory. */
ngx_commerce_recs_card_t *ngx_commerce_recs_card(ngx_commerce_request_t *c,
    ngx_commerce_recs_state_t *state, uint64_t id);
ngx_commerce_recs_card_t *ngx_commerce_recs_known(
    ngx_commerce_recs_state_t *state, uint64_t id);
/* Says which cards are missing. */
ngx_int_t ngx_commerce_recs_missing(ngx_commerce_request_t *c,
    ngx_commerce_recs_state_t *state);
/* Says that the list is too short, and by how many products, of which some may be no news. */
ngx_int_t ngx_commerce_recs_short(ngx_commerce_request_t *c,
    ngx_commerce_recs_state_t *state);

/* ngx_commerce_recs_answer.c */

/* What the answer will say of its table. */
ngx_int_t ngx_commerce_recs_describe(ngx_commerce_request_t *c,
    const ngx_commerce_similarity_t *table, ngx_commerce_recs_state_t *state);
/* Whether the customer bought or dismissed the product; false in lists that are nobody's. */
ngx_uint_t ngx_commerce_recs_unwanted(ngx_commerce_recs_state_t *state,
    uint64_t id);
/* The answer: cards, each with its score. */
ngx_int_t ngx_commerce_recs_body(ngx_commerce_request_t *c,
    ngx_commerce_recs_state_t *state);
ngx_int_t ngx_commerce_recs_final(ngx_commerce_request_t *c, ngx_str_t *body);
/* A result for the steps that follow. */
ngx_int_t ngx_commerce_recs_say(ngx_commerce_request_t *c, const char *text);


#endif /* NGX_COMMERCE_RECS_ANSWER_H */
