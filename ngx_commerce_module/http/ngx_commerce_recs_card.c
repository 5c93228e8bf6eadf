/*
 * The products' cards that recommendations show: from the response cache, else
 * from a call between two steps, which fills the cache.
 */

#include "ngx_commerce_recs_answer.h"


#define NGX_COMMERCE_RECS_CARD_TTL  60     /* s */
#define NGX_COMMERCE_RECS_FILL      64     /* products, a power of two */
#define NGX_COMMERCE_RECS_MEMBERS   32768  /* of all cards that fill a list up, 384 at most */


static ngx_int_t ngx_commerce_recs_card_names(ngx_commerce_request_t *c,
    uint64_t id, ngx_str_t *key, ngx_str_t tags[2]);


ngx_int_t
ngx_commerce_recs_cards(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step, ngx_commerce_recs_state_t *state)
{
    ngx_str_t                    *json;
    ngx_uint_t                    i;
    ngx_commerce_json_t          *root, *node, *id, *in_stock;
    ngx_commerce_alloc_t          alloc;
    ngx_commerce_recs_card_t     *card;
    ngx_commerce_json_error_t     error;
    ngx_commerce_json_limits_t    limits;
    ngx_commerce_cache_entry_t    entry;

    if (state->asked == 0) {
        return NGX_OK;
    }

    json = ngx_commerce_scope_input(c, step, "cards");

    if (json == NULL) {
        return NGX_OK;
    }

    alloc = ngx_commerce_pool_alloc(c->request->pool);

    ngx_memzero(&limits, sizeof(limits));
    limits.max_members = NGX_COMMERCE_RECS_MEMBERS;

    if (ngx_commerce_json_parse(&alloc, json->data, json->len, &limits, &root,
                                &error)
        != NGX_COMMERCE_OK)
    {
        return ngx_commerce_problem_internal(c);
    }

    /* asked for, and not among what came: not on sale */

    card = state->cards.elts;

    for (i = 0; i < state->cards.nelts; i++) {
        card[i].asked |= (card[i].text.data == NULL && !state->fallback);
    }

    if (state->fallback) {
        state->nfill = 0;
        state->fill = ngx_palloc(c->request->pool,
                                 (root->count + 1) * sizeof(uint64_t));
        if (state->fill == NULL) {
            return NGX_ERROR;
        }
    }

    ngx_memzero(&entry, sizeof(entry));

    for (node = root->child; node; node = node->next) {

        id = ngx_commerce_json_get(node, "id");
        in_stock = ngx_commerce_json_get(node, "in_stock");

        if (id == NULL || !id->integer || node->raw.len < 2) {
            continue;
        }

        card = ngx_commerce_recs_known(state, id->number);

        if (card == NULL) {
            card = ngx_array_push(&state->cards);
            if (card == NULL) {
                return NGX_ERROR;
            }

            card->ticket.usable = false;
        }

        card->id = id->number;
        card->asked = 0;
        card->in_stock = in_stock && in_stock->type == NGX_COMMERCE_JSON_TRUE;
        card->text.data = node->raw.data;
        card->text.len = node->raw.len - 1;

        if (state->fallback) {
            state->fill[state->nfill++] = card->id;
        }

        if (card->ticket.usable) {
            entry.status = card->in_stock ? 1 : 2;
            entry.body = card->text;
            ngx_commerce_cache_put(&card->ticket, &entry,
                                   NGX_COMMERCE_RECS_CARD_TTL);
        }
    }

    return NGX_OK;
}


ngx_commerce_recs_card_t *
ngx_commerce_recs_card(ngx_commerce_request_t *c,
    ngx_commerce_recs_state_t *state, uint64_t id)
{
    ngx_str_t                     key, tags[2];
    ngx_commerce_recs_card_t     *card;
    ngx_commerce_cache_entry_t    entry;

    card = ngx_commerce_recs_known(state, id);

    if (card) {
        return card;
    }

    card = ngx_array_push(&state->cards);

    if (card == NULL
        || ngx_commerce_recs_card_names(c, id, &key, tags) != NGX_OK)
    {
        return NULL;
    }

    ngx_memzero(card, sizeof(ngx_commerce_recs_card_t));
    card->id = id;

    if (ngx_commerce_cache_get(&key, &card->ticket, &entry, c->request->pool)
        == NGX_OK)
    {
        card->text = entry.body;
        card->in_stock = (entry.status == 1);

    } else {
        ngx_commerce_cache_tags(&card->ticket, tags, 2);
    }

    return card;
}


ngx_commerce_recs_card_t *
ngx_commerce_recs_known(ngx_commerce_recs_state_t *state, uint64_t id)
{
    ngx_uint_t                 i;
    ngx_commerce_recs_card_t  *card;

    card = state->cards.elts;

    for (i = 0; i < state->cards.nelts; i++) {
        if (card[i].id == id) {
            return &card[i];
        }
    }

    return NULL;
}


static ngx_int_t
ngx_commerce_recs_card_names(ngx_commerce_request_t *c, uint64_t id,
    ngx_str_t *key, ngx_str_t tags[2])
{
    u_char  *p;

    p = ngx_pnalloc(c->request->pool,
                    3 * c->tenant.id.len + 2 * NGX_INT64_LEN
                    + sizeof("k::product::catalog"));
    if (p == NULL) {
        return NGX_ERROR;
    }

    key->data = p;
    p = ngx_sprintf(p, "k%V%Z%uL", &c->tenant.id, id);
    key->len = p - key->data;

    tags[0].data = p;
    p = ngx_sprintf(p, "%V:product:%uL", &c->tenant.id, id);
    tags[0].len = p - tags[0].data;

    tags[1].data = p;
    tags[1].len = ngx_sprintf(p, "%V:catalog", &c->tenant.id) - p;

    return NGX_OK;
}


ngx_int_t
ngx_commerce_recs_missing(ngx_commerce_request_t *c,
    ngx_commerce_recs_state_t *state)
{
    u_char                    *p;
    ngx_str_t                  body;
    ngx_uint_t                 i;
    ngx_commerce_recs_card_t  *card;

    p = ngx_pnalloc(c->request->pool, sizeof("{\"cards_missing\":[]}")
                    + state->cards.nelts * (NGX_INT64_LEN + 1));
    if (p == NULL) {
        return NGX_ERROR;
    }

    state->asked++;

    body.data = p;
    p = ngx_cpymem(p, "{\"cards_missing\":[", 18);
    card = state->cards.elts;

    for (i = 0; i < state->cards.nelts; i++) {
        if (card[i].text.data == NULL && !card[i].asked) {
            p = ngx_sprintf(p, "%s%uL", p[-1] == '[' ? "" : ",", card[i].id);
        }
    }

    p = ngx_cpymem(p, "]}", 2);
    body.len = p - body.data;

    ngx_commerce_step_reply(c, NGX_HTTP_OK, &body);

    return NGX_OK;
}


/*
 * Among the popular ones may be all that was chosen, bought and dismissed: 40
 * and 250 of them.  In rounds of 64, so that what a step keeps of them serves
 * other customers too.
 */

ngx_int_t
ngx_commerce_recs_short(ngx_commerce_request_t *c,
    ngx_commerce_recs_state_t *state)
{
    u_char      *p;
    ngx_str_t    body;
    ngx_uint_t   n;

    n = state->limit + state->nchoices;

    if (state->never) {
        n += state->never->n;
    }

    if (n > state->limit) {
        n = ngx_align(n, NGX_COMMERCE_RECS_FILL);
    }

    p = ngx_pnalloc(c->request->pool,
                    sizeof("{\"fallback\":true,\"fill\":,"
                           "\"cards_missing\":null}") + NGX_INT_T_LEN);
    if (p == NULL) {
        return NGX_ERROR;
    }

    state->asked++;
    state->fallback = 1;

    body.data = p;
    body.len = ngx_sprintf(p, "{\"fallback\":true,\"fill\":%ui,"
                           "\"cards_missing\":null}", n)
               - p;

    ngx_commerce_step_reply(c, NGX_HTTP_OK, &body);

    return NGX_OK;
}
