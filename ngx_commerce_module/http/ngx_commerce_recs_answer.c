/* The answer of a recommendation as JSON. */

#include "ngx_commerce_recs_answer.h"


#define NGX_COMMERCE_RECS_LIST_TTL  15     /* s, of a customer's own list */
#define NGX_COMMERCE_RECS_EXPLAIN   sizeof(",\"score\":-1000.0000,"          \
    "\"source\":\"personal\",\"explanation\":{\"because_of\":,\"event\":"     \
    "\"wishlist\",\"components\":{\"content\":0.0000,\"collaborative\":"      \
    "0.0000,\"popularity\":0.0000}}},") + NGX_INT64_LEN


static void ngx_commerce_recs_fill(ngx_commerce_recs_state_t *state);
static u_char *ngx_commerce_recs_entry(u_char *p,
    ngx_commerce_recs_state_t *state, ngx_commerce_recs_choice_t *choice,
    ngx_commerce_recs_card_t *card);


static const char  *ngx_commerce_recs_sources[] = {
    "personal", "similar", "trending"
};

static const char  *ngx_commerce_recs_events[NGX_COMMERCE_EVENTS] = {
    "view", "click", "wishlist", "share", "cart", "purchase", "dismiss",
    "other"
};


ngx_int_t
ngx_commerce_recs_describe(ngx_commerce_request_t *c,
    const ngx_commerce_similarity_t *table, ngx_commerce_recs_state_t *state)
{
    u_char  *p;
    size_t   len;

    len = sizeof("{\"generation\":,\"created\":,\"collaborative\":\"\","
                 "\"content\":\"\"}")
          + 2 * NGX_INT64_LEN + sizeof(table->about->collaborative)
          + sizeof(table->about->content);

    p = ngx_pnalloc(c->request->pool, len);

    if (p == NULL) {
        return NGX_ERROR;
    }

    state->model.data = p;
    state->model.len = ngx_sprintf(p, "{\"generation\":%uL,\"created\":%L,"
                                   "\"collaborative\":\"%s\","
                                   "\"content\":\"%s\"}",
                                   table->about->generation,
                                   table->about->created / 1000,
                                   table->about->collaborative,
                                   table->about->content)
                       - p;

    return NGX_OK;
}


ngx_uint_t
ngx_commerce_recs_unwanted(ngx_commerce_recs_state_t *state, uint64_t id)
{
    return state->never && state->never->n
           && ngx_commerce_recent_never(state->never, id);
}


ngx_int_t
ngx_commerce_recs_body(ngx_commerce_request_t *c,
    ngx_commerce_recs_state_t *state)
{
    size_t                        len;
    u_char                       *p;
    ngx_str_t                     body;
    ngx_uint_t                    i;
    ngx_commerce_cache_entry_t    entry;

    ngx_commerce_recs_fill(state);

    len = sizeof("{\"data\":[],\"model\":}") + state->model.len
          + state->nchoices * (NGX_COMMERCE_RECS_EXPLAIN);

    for (i = 0; i < state->nchoices; i++) {
        len += ngx_commerce_recs_known(state, state->choices[i].id)->text.len;
    }

    p = ngx_pnalloc(c->request->pool, len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    body.data = p;
    p = ngx_cpymem(p, "{\"data\":[", 9);

    for (i = 0; i < state->nchoices; i++) {
        p = ngx_commerce_recs_entry(p, state, &state->choices[i],
                ngx_commerce_recs_known(state, state->choices[i].id));
    }

    if (p[-1] == ',') {
        p--;
    }

    p = ngx_sprintf(p, "],\"model\":%V}", &state->model);
    body.len = p - body.data;

    if (state->ticketed) {
        ngx_memzero(&entry, sizeof(entry));
        entry.status = NGX_HTTP_OK;
        entry.body = body;
        ngx_commerce_cache_put(&state->ticket, &entry,
                               NGX_COMMERCE_RECS_LIST_TTL);
    }

    return ngx_commerce_recs_final(c, &body);
}


/* To the choices what came to fill them up, without what is there or must not be. */

static void
ngx_commerce_recs_fill(ngx_commerce_recs_state_t *state)
{
    uint64_t                     id;
    ngx_uint_t                   i, k;
    ngx_commerce_recs_card_t    *card;
    ngx_commerce_recs_choice_t  *choice;

    for (i = 0; i < state->nfill && state->nchoices < state->limit; i++) {
        id = state->fill[i];
        card = ngx_commerce_recs_known(state, id);

        for (k = 0; k < state->nchoices && state->choices[k].id != id; k++) {
            /* void */
        }

        if (k < state->nchoices || !card->in_stock
            || (state->kind == NGX_COMMERCE_RECS_SIMILAR
                && id == state->product)
            || ngx_commerce_recs_unwanted(state, id))
        {
            continue;
        }

        choice = &state->choices[state->nchoices++];

        ngx_memzero(choice, sizeof(ngx_commerce_recs_choice_t));
        choice->id = id;
        choice->filled = 1;
        choice->reason.popularity = 1;
    }
}


static u_char *
ngx_commerce_recs_entry(u_char *p, ngx_commerce_recs_state_t *state,
    ngx_commerce_recs_choice_t *choice, ngx_commerce_recs_card_t *card)
{
    const char                       *source;
    ngx_commerce_recommend_reason_t  *reason;

    p = ngx_cpymem(p, card->text.data, card->text.len);

    /* what fills up a product's page shares its category */

    source = (state->kind != NGX_COMMERCE_RECS_SIMILAR
              && (choice->filled
                  || (state->kind == NGX_COMMERCE_RECS_PERSONAL
                      && choice->answer.neighbours <= 0)))
             ? "popular" : ngx_commerce_recs_sources[state->kind];

    if (choice->filled) {
        p = ngx_cpymem(p, ",\"score\":null", 13);

    } else {
        p = ngx_sprintf(p, ",\"score\":%.4f",
                        (double) choice->answer.score);
    }

    p = ngx_sprintf(p, ",\"source\":\"%s\"", source);

    if (state->explain) {
        reason = &choice->reason;

        p = ngx_cpymem(p, ",\"explanation\":{\"because_of\":", 29);

        if (choice->source) {
            p = ngx_sprintf(p, "%uL,\"event\":\"%s\"", choice->source,
                            ngx_commerce_recs_events[
                                ngx_min(reason->event,
                                        NGX_COMMERCE_EVENTS - 1)]);
        } else {
            p = ngx_cpymem(p, "null,\"event\":null", 17);
        }

        p = ngx_sprintf(p, ",\"components\":{\"content\":%.4f,"
                        "\"collaborative\":%.4f,\"popularity\":%.4f}}",
                        (double) reason->content,
                        (double) reason->collaborative,
                        (double) reason->popularity);
    }

    return ngx_cpymem(p, "},", 2);
}


ngx_int_t
ngx_commerce_recs_final(ngx_commerce_request_t *c, ngx_str_t *body)
{
    ngx_commerce_step_reply(c, NGX_HTTP_OK, body);
    c->step.final = 1;

    return NGX_OK;
}


ngx_int_t
ngx_commerce_recs_say(ngx_commerce_request_t *c, const char *text)
{
    ngx_str_t  body;

    body.data = (u_char *) text;
    body.len = ngx_strlen(text);

    ngx_commerce_step_reply(c, NGX_HTTP_OK, &body);

    return NGX_OK;
}
