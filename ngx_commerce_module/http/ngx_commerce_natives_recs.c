/*
 * Native steps: recommendations out of shared memory.
 *
 * "recommend", "similar" and "trending" may stand several times in an
 * operation.  The first that can answer does; the others say in their result
 * what they miss, and the steps between, which run "when" it is missed, bring
 * it:
 *
 *     recent_missing → recent    what the customer did, [[product, event, ms], …], newest first
 *                      never     what is not to be shown to the customer, [product, …], newest first
 *     cards_missing  → cards     the cards of these products, [{…}, …]
 *     fallback, fill → cards     there is no table, or it gave too few: "fill" products, best first, to fill up from
 *
 * Cards that came are kept in the response cache, so all of this is rare.  An
 * operation brings the cards of the table's choice twice, for some of the first
 * may not be on sale, and the table may have become another one meanwhile; and
 * after that what fills up.
 */

#include "ngx_commerce_recs_answer.h"


#define NGX_COMMERCE_RECS_SPARE  10     /* answers beyond the limit, for products out of stock */
#define NGX_COMMERCE_RECS_ASKS   2      /* times that cards of the table's choice are asked for */

#define NGX_COMMERCE_RECS_OF     5      /* words that say which list it is */
#define NGX_COMMERCE_RECS_LISTS  4096   /* whose names a worker remembers */


/* A list that was asked for, and its name in the response cache: hashed once. */

typedef struct {
    _Alignas(64)
    uint64_t     of[NGX_COMMERCE_RECS_OF];
    uint64_t     key[2];
    const void  *found;                 /* the last time */
} ngx_commerce_recs_list_t;


static ngx_int_t ngx_commerce_native_recommend(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step);
static ngx_int_t ngx_commerce_native_similar(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step);
static ngx_int_t ngx_commerce_native_trending(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step);
static ngx_int_t ngx_commerce_native_recs(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step, ngx_commerce_recs_kind_t kind);

static ngx_commerce_recs_state_t *ngx_commerce_recs_state(
    ngx_commerce_request_t *c, const ngx_commerce_step_t *step,
    ngx_commerce_recs_kind_t kind);
static ngx_int_t ngx_commerce_recs_kept(ngx_commerce_request_t *c,
    ngx_commerce_recs_state_t *state, uint64_t serial);
static ngx_int_t ngx_commerce_recs_choose(ngx_commerce_request_t *c,
    ngx_commerce_recs_state_t *state);
static ngx_int_t ngx_commerce_recs_choices(ngx_commerce_request_t *c,
    ngx_commerce_recs_state_t *state, const ngx_commerce_similarity_t *table,
    ngx_uint_t *missing);
static void ngx_commerce_recs_reason(ngx_commerce_recs_state_t *state,
    ngx_commerce_recommend_query_t *query,
    ngx_commerce_recs_choice_t *choice);
static uint32_t ngx_commerce_recs_answers(
    const ngx_commerce_similarity_t *table, ngx_commerce_recs_state_t *state,
    uint32_t limit, ngx_commerce_recommend_query_t *query,
    ngx_commerce_recommend_event_t *events,
    ngx_commerce_recommend_answer_t *answers);
static bool ngx_commerce_recs_listed(const ngx_commerce_similarity_t *table,
    const ngx_commerce_recs_state_t *state);
static bool ngx_commerce_recs_excluded(void *ctx, uint32_t item);


const ngx_commerce_native_t  ngx_commerce_natives_recs[] = {

    { ngx_string("recommend"), ngx_commerce_native_recommend, NULL },
    { ngx_string("similar"), ngx_commerce_native_similar, NULL },
    { ngx_string("trending"), ngx_commerce_native_trending, NULL },
    { ngx_null_string, NULL, NULL }
};


static ngx_commerce_recs_list_t
    ngx_commerce_recs_lists[NGX_COMMERCE_RECS_LISTS];


/* limit, explain, recent, never, cards */

static ngx_int_t
ngx_commerce_native_recommend(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step)
{
    return ngx_commerce_native_recs(c, step, NGX_COMMERCE_RECS_PERSONAL);
}


/* id, limit, explain, cards */

static ngx_int_t
ngx_commerce_native_similar(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step)
{
    return ngx_commerce_native_recs(c, step, NGX_COMMERCE_RECS_SIMILAR);
}


/* category_id, limit, cards */

static ngx_int_t
ngx_commerce_native_trending(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step)
{
    return ngx_commerce_native_recs(c, step, NGX_COMMERCE_RECS_TRENDING);
}


static ngx_int_t
ngx_commerce_native_recs(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step, ngx_commerce_recs_kind_t kind)
{
    ngx_int_t                   rc;
    ngx_commerce_recs_state_t  *state;

    state = ngx_commerce_recs_state(c, step, kind);

    if (state == NULL
        || ngx_commerce_recs_cards(c, step, state) != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (!state->fallback) {

        if (kind == NGX_COMMERCE_RECS_PERSONAL) {
            rc = ngx_commerce_recs_history(c, step, state);

            if (rc != NGX_DECLINED) {
                return rc;
            }
        }

        rc = ngx_commerce_recs_choose(c, state);

        if (rc != NGX_DECLINED) {
            return rc;
        }
    }

    return ngx_commerce_recs_body(c, state);
}


static ngx_commerce_recs_state_t *
ngx_commerce_recs_state(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step, ngx_commerce_recs_kind_t kind)
{
    ngx_str_t                  *explain;
    ngx_commerce_recs_state_t  *state;

    state = c->recs;

    if (state) {
        return state;
    }

    state = ngx_pcalloc(c->request->pool, sizeof(ngx_commerce_recs_state_t));

    if (state == NULL) {
        return NULL;
    }

    state->kind = kind;
    state->limit = ngx_commerce_recs_number(c, step, "limit");
    state->limit = ngx_max(1, ngx_min(state->limit,
                                      NGX_COMMERCE_RECOMMEND_LIMIT));

    if (kind == NGX_COMMERCE_RECS_TRENDING) {
        state->category = ngx_commerce_recs_number(c, step, "category_id");

    } else {
        explain = ngx_commerce_scope_input(c, step, "explain");
        state->explain = explain && explain->len == 4;      /* true */
    }

    if (kind == NGX_COMMERCE_RECS_SIMILAR) {
        state->product = ngx_commerce_recs_number(c, step, "id");
    }

    ngx_str_set(&state->model, "null");

    c->recs = state;

    return state;
}


/* NGX_DECLINED: chosen, and all cards are here.  NGX_OK: said what is missing, or answered from the cache. */

static ngx_int_t
ngx_commerce_recs_choose(ngx_commerce_request_t *c,
    ngx_commerce_recs_state_t *state)
{
    uint64_t                          serial;
    ngx_int_t                         rc;
    ngx_uint_t                        missing;
    const ngx_commerce_similarity_t  *table;

    table = ngx_commerce_recs_enter(&c->tenant.id, &serial);

    if (table && state->kind == NGX_COMMERCE_RECS_PERSONAL
        && state->asked == 0)
    {
        rc = ngx_commerce_recs_kept(c, state, serial);

        if (rc != NGX_DECLINED) {
            ngx_commerce_recs_leave();
            return rc;
        }
    }

    missing = 0;
    state->nchoices = 0;

    rc = ngx_commerce_recs_room(c, state);

    if (rc == NGX_OK) {
        rc = ngx_commerce_recs_history_read(c, state);
    }

    if (table) {
        if (rc == NGX_OK && ngx_commerce_recs_listed(table, state)) {
            rc = ngx_commerce_recs_choices(c, state, table, &missing);
        }

        ngx_commerce_recs_leave();
    }

    if (rc != NGX_OK) {
        return NGX_ERROR;
    }

    if (missing && state->asked < NGX_COMMERCE_RECS_ASKS) {
        return ngx_commerce_recs_missing(c, state);
    }

    return (state->nchoices < state->limit) ? ngx_commerce_recs_short(c, state)
                                            : NGX_DECLINED;
}


/*
 * Between enter() and leave(): up to "limit" that are on sale.  "missing":
 * there are others whose cards are not known.  None when the product that they
 * are to be like is gone: then what fills lists up says so.
 */

static ngx_int_t
ngx_commerce_recs_choices(ngx_commerce_request_t *c,
    ngx_commerce_recs_state_t *state, const ngx_commerce_similarity_t *table,
    ngx_uint_t *missing)
{
    uint32_t                          i, n, limit;
    ngx_uint_t                        pass;
    ngx_commerce_recs_card_t         *card;
    ngx_commerce_recs_choice_t       *choice;
    ngx_commerce_recommend_query_t    query;
    ngx_commerce_recommend_event_t    events[NGX_COMMERCE_RECENT_EVENTS];
    ngx_commerce_recommend_answer_t   answers[NGX_COMMERCE_RECOMMEND_LIMIT];

    limit = ngx_min(state->limit + NGX_COMMERCE_RECS_SPARE,
                    NGX_COMMERCE_RECOMMEND_LIMIT);

    if (state->kind == NGX_COMMERCE_RECS_SIMILAR) {
        card = ngx_commerce_recs_card(c, state, state->product);

        if (card == NULL) {
            return NGX_ERROR;
        }

        if (card->asked) {
            return NGX_OK;
        }

        *missing = (card->text.data == NULL);
    }

    /* once more without what turned out not to be on sale */

    for (pass = 0; pass < 2; pass++) {

        n = ngx_commerce_recs_answers(table, state, limit, &query, events,
                                      answers);
        state->nchoices = 0;

        for (i = 0; i < n && state->nchoices < state->limit; i++) {
            choice = &state->choices[state->nchoices];

            choice->id = table->ids[answers[i].item];
            choice->answer = answers[i];
            choice->filled = state->popular;

            card = ngx_commerce_recs_card(c, state, choice->id);

            if (card == NULL) {
                return NGX_ERROR;
            }

            if (card->text.data == NULL && !card->asked) {
                *missing = 1;
                continue;
            }

            if (card->asked || !card->in_stock) {
                continue;
            }

            if (state->explain) {
                ngx_commerce_recs_reason(state, &query, choice);
            }

            state->nchoices++;
        }

        if (*missing || state->nchoices == state->limit || n < limit) {
            break;
        }
    }

    return ngx_commerce_recs_describe(c, table, state);
}


static void
ngx_commerce_recs_reason(ngx_commerce_recs_state_t *state,
    ngx_commerce_recommend_query_t *query, ngx_commerce_recs_choice_t *choice)
{
    ngx_commerce_recommend_query_t   one;
    ngx_commerce_recommend_event_t   event;

    one = *query;

    if (state->kind == NGX_COMMERCE_RECS_SIMILAR) {

        /* as if this product were all that was looked at */

        event.item = ngx_commerce_similarity_find(state->table,
                                                  state->product);
        event.event = NGX_COMMERCE_EVENT_VIEW;
        event.time = one.now;
        one.events = &event;
        one.nevents = 1;
    }

    ngx_commerce_recommend_explain(state->table, &one, &choice->answer,
                                   &choice->reason);

    choice->source = (choice->reason.source != NGX_COMMERCE_SIMILARITY_NONE)
                     ? state->table->ids[choice->reason.source] : 0;
}


static uint32_t
ngx_commerce_recs_answers(const ngx_commerce_similarity_t *table,
    ngx_commerce_recs_state_t *state, uint32_t limit,
    ngx_commerce_recommend_query_t *query,
    ngx_commerce_recommend_event_t *events,
    ngx_commerce_recommend_answer_t *answers)
{
    uint32_t                             i, n;
    ngx_time_t                          *tp;
    ngx_commerce_recommend_scratch_t    *scratch;

    tp = ngx_timeofday();
    scratch = ngx_commerce_recs_scratch();

    ngx_commerce_recommend_query(table, query);

    state->table = table;

    query->limit = limit;
    query->now = (int64_t) tp->sec * 1000 + tp->msec;
    query->excluded = ngx_commerce_recs_excluded;
    query->ctx = state;

    if (state->kind == NGX_COMMERCE_RECS_SIMILAR) {
        i = ngx_commerce_similarity_find(table, state->product);
        return ngx_commerce_recommend_similar(table, i, query, answers);
    }

    if (state->kind == NGX_COMMERCE_RECS_TRENDING) {
        n = ngx_commerce_recommend_list(table, NGX_COMMERCE_LIST_TRENDING,
                                        state->category, query, answers);

        /* nothing is on the rise: what the table calls popular is no growth */

        state->popular = (n == 0);

        return n ? n : ngx_commerce_recommend_list(table,
                                              NGX_COMMERCE_LIST_POPULAR,
                                              state->category, query, answers);
    }

    for (i = 0, n = 0; i < state->nrecent; i++) {
        events[n].item = ngx_commerce_similarity_find(table,
                                                      state->recent[i].item);
        events[n].event = state->recent[i].event;
        events[n].time = state->recent[i].time;

        if (events[n].item != NGX_COMMERCE_SIMILARITY_NONE) {
            n++;
        }
    }

    query->events = events;
    query->nevents = n;

    i = ngx_commerce_recommend(table, scratch, query, answers);

    if (i < limit && n) {

        /* a small shop: what was only looked at may come again */

        query->again = true;
        i = ngx_commerce_recommend(table, scratch, query, answers);
    }

    return i;
}


/* Whether the table can tell: a category that only holds others, or is newer than the table, has no list of its own. */

static bool
ngx_commerce_recs_listed(const ngx_commerce_similarity_t *table,
    const ngx_commerce_recs_state_t *state)
{
    const ngx_commerce_similarity_entry_t  *entries;

    if (state->kind == NGX_COMMERCE_RECS_SIMILAR) {
        return ngx_commerce_similarity_find(table, state->product)
               != NGX_COMMERCE_SIMILARITY_NONE;
    }

    return state->kind == NGX_COMMERCE_RECS_PERSONAL || state->category == 0
           || ngx_commerce_similarity_list(table, NGX_COMMERCE_LIST_TRENDING,
                                           state->category, &entries)
           || ngx_commerce_similarity_list(table, NGX_COMMERCE_LIST_POPULAR,
                                           state->category, &entries);
}


/* Bought, dismissed, or known not to be on sale now. */

static bool
ngx_commerce_recs_excluded(void *ctx, uint32_t item)
{
    ngx_commerce_recs_state_t *state = ctx;

    uint64_t                   id;
    ngx_commerce_recs_card_t  *card;

    id = state->table->ids[item];

    if (ngx_commerce_recs_unwanted(state, id)) {
        return true;
    }

    card = ngx_commerce_recs_known(state, id);

    return card && (card->asked || (card->text.data && !card->in_stock));
}


/*
 * A customer's list is good as long as the ring and the table are the same,
 * but for the stock.  NGX_OK: answered.
 */

static ngx_int_t
ngx_commerce_recs_kept(ngx_commerce_request_t *c,
    ngx_commerce_recs_state_t *state, uint64_t serial)
{
    u_char                       name[1 + NGX_COMMERCE_RECS_OF * 8];
    u_char                      *p;
    uint64_t                     of[NGX_COMMERCE_RECS_OF];
    ngx_int_t                    rc;
    ngx_str_t                    key, tag;
    ngx_commerce_recs_list_t    *list;
    ngx_commerce_cache_entry_t   entry;

    /* of whom nothing is remembered it is not known what changes the list */

    if (state->who == 0 && state->recent_asked) {
        return NGX_DECLINED;
    }

    of[0] = state->who;
    of[1] = state->version;
    of[2] = serial;
    of[3] = ngx_atoof(c->tenant.id.data, c->tenant.id.len);
    of[4] = state->limit << 1 | state->explain;

    list = &ngx_commerce_recs_lists[of[0] % NGX_COMMERCE_RECS_LISTS];

    if (ngx_memcmp(list->of, of, sizeof(of)) == 0) {
        ngx_commerce_cache_expect(list->found);

        ngx_memcpy(state->ticket.key, list->key, sizeof(list->key));
        rc = ngx_commerce_cache_again(&state->ticket, &entry,
                                      c->request->pool);
    } else {
        name[0] = 'l';
        ngx_memcpy(name + 1, of, sizeof(of));

        key.data = name;
        key.len = sizeof(name);

        rc = ngx_commerce_cache_get(&key, &state->ticket, &entry,
                                    c->request->pool);

        ngx_memcpy(list->of, of, sizeof(of));
        ngx_memcpy(list->key, state->ticket.key, sizeof(list->key));
        list->found = NULL;
    }

    if (rc == NGX_OK) {
        list->found = entry.place;
        return ngx_commerce_recs_final(c, &entry.body);
    }

    p = ngx_pnalloc(c->request->pool, c->tenant.id.len + sizeof(":catalog"));
    if (p == NULL) {
        return NGX_ERROR;
    }

    tag.data = p;
    p = ngx_cpymem(p, c->tenant.id.data, c->tenant.id.len);
    p = ngx_cpymem(p, ":catalog", 8);
    tag.len = p - tag.data;

    ngx_commerce_cache_tags(&state->ticket, &tag, 1);
    state->ticketed = 1;

    return NGX_DECLINED;
}
