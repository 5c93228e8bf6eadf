/*
 * What the customer did, for a list that is made of it: from the ring in shared
 * memory, or from a call between two steps, which fills the ring.
 */

#include "ngx_commerce_recs_answer.h"


static ngx_int_t ngx_commerce_recs_history_fill(ngx_commerce_request_t *c,
    ngx_commerce_recs_state_t *state, ngx_str_t *owner, ngx_str_t *json,
    ngx_str_t *never);
static uint32_t ngx_commerce_recs_history_never(ngx_commerce_request_t *c,
    ngx_str_t *json, uint64_t items[NGX_COMMERCE_RECENT_NEVER]);


ngx_int_t
ngx_commerce_recs_room(ngx_commerce_request_t *c,
    ngx_commerce_recs_state_t *state)
{
    if (state->recent) {
        return NGX_OK;
    }

    state->choices = ngx_palloc(c->request->pool,
        NGX_COMMERCE_RECOMMEND_LIMIT * sizeof(ngx_commerce_recs_choice_t));

    if (state->choices == NULL
        || ngx_array_init(&state->cards, c->request->pool, 20,
                          sizeof(ngx_commerce_recs_card_t))
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (state->kind == NGX_COMMERCE_RECS_PERSONAL) {
        state->never = ngx_palloc(c->request->pool,
                                  sizeof(ngx_commerce_recent_never_t));
        if (state->never == NULL) {
            return NGX_ERROR;
        }

        state->never->n = 0;
    }

    state->recent = ngx_palloc(c->request->pool,
        NGX_COMMERCE_RECENT_EVENTS * sizeof(ngx_commerce_recent_event_t));

    return state->recent ? NGX_OK : NGX_ERROR;
}


ngx_int_t
ngx_commerce_recs_history(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step, ngx_commerce_recs_state_t *state)
{
    ngx_str_t  owner, *json, *never;

    if (state->recent_read) {
        return NGX_DECLINED;
    }

    if (state->recent_asked) {
        state->recent_read = 1;
        json = ngx_commerce_scope_input(c, step, "recent");
        never = ngx_commerce_scope_input(c, step, "never");

        if (json && (ngx_commerce_recs_owner(c, &owner) != NGX_OK
                     || ngx_commerce_recs_history_fill(c, state, &owner, json,
                                                       never)
                        != NGX_OK))
        {
            return NGX_ERROR;
        }

        return NGX_DECLINED;
    }

    if (c->principal.subject.len == 0 && c->h_cart_token == NULL) {
        state->recent_read = 1;
        return NGX_DECLINED;
    }

    if (ngx_commerce_recs_customer(c, &state->who) != NGX_OK) {
        return NGX_ERROR;
    }

    /* mostly there is a list for this state */

    if (ngx_commerce_recs_look(state->who, &state->version, &state->heard)
        == NGX_COMMERCE_RECENT_FILL_IT)
    {
        state->recent_asked = 1;
        return ngx_commerce_recs_say(c, "{\"recent_missing\":true}");
    }

    state->recent_read = 1;

    return NGX_DECLINED;
}


/* [[product, "event", ms], …] and [product, …], newest first */

static ngx_int_t
ngx_commerce_recs_history_fill(ngx_commerce_request_t *c,
    ngx_commerce_recs_state_t *state, ngx_str_t *owner, ngx_str_t *json,
    ngx_str_t *never)
{
    uint32_t                      i, n, m;
    uint64_t                      items[NGX_COMMERCE_RECENT_NEVER];
    ngx_commerce_json_t          *root, *row, *event, *time;
    ngx_commerce_alloc_t          alloc;
    ngx_commerce_json_error_t     error;
    ngx_commerce_recent_event_t   events[NGX_COMMERCE_RECENT_EVENTS];

    alloc = ngx_commerce_pool_alloc(c->request->pool);

    if (ngx_commerce_recs_room(c, state) != NGX_OK) {
        return NGX_ERROR;
    }

    if (ngx_commerce_json_parse(&alloc, json->data, json->len, NULL, &root,
                                &error)
        != NGX_COMMERCE_OK)
    {
        return ngx_commerce_problem_internal(c);
    }

    n = 0;

    for (row = root->child; row && n < NGX_COMMERCE_RECENT_EVENTS;
         row = row->next)
    {
        if (row->type != NGX_COMMERCE_JSON_ARRAY || row->count != 3) {
            continue;
        }

        event = row->child->next;
        time = event->next;

        events[n].item = row->child->number;
        events[n].event = ngx_commerce_event((char *) event->text.data,
                                             event->text.len);
        events[n].time = time->number;

        if (events[n].event < NGX_COMMERCE_EVENTS) {
            n++;
        }
    }

    m = ngx_commerce_recs_history_never(c, never, items);

    ngx_commerce_recs_recent_fill(&c->tenant.id, owner, state->heard, events, n,
                                  items, m);

    /* with what came meanwhile; without a zone it is what was read */

    if (ngx_commerce_recs_recent(&c->tenant.id, owner, state->recent,
                                 &state->nrecent, state->never,
                                 &state->version)
        == NGX_COMMERCE_RECENT_FILL_IT)
    {
        ngx_memcpy(state->recent, events, sizeof(events));
        state->nrecent = n;

        ngx_memzero(state->never, sizeof(ngx_commerce_recent_never_t));

        for (i = 0; i < m; i++) {
            ngx_commerce_recent_never_add(state->never, items[i]);
        }
    }

    state->events_read = 1;

    return NGX_OK;
}


static uint32_t
ngx_commerce_recs_history_never(ngx_commerce_request_t *c, ngx_str_t *json,
    uint64_t items[NGX_COMMERCE_RECENT_NEVER])
{
    uint32_t                    m;
    ngx_commerce_json_t        *root, *item;
    ngx_commerce_alloc_t        alloc;
    ngx_commerce_json_error_t   error;

    alloc = ngx_commerce_pool_alloc(c->request->pool);

    if (json == NULL
        || ngx_commerce_json_parse(&alloc, json->data, json->len, NULL, &root,
                                   &error)
           != NGX_COMMERCE_OK)
    {
        return 0;
    }

    m = 0;

    for (item = root->child; item && m < NGX_COMMERCE_RECENT_NEVER;
         item = item->next)
    {
        if (item->integer) {
            items[m++] = item->number;
        }
    }

    return m;
}


ngx_int_t
ngx_commerce_recs_history_read(ngx_commerce_request_t *c,
    ngx_commerce_recs_state_t *state)
{
    uint64_t   version;
    ngx_str_t  owner;

    if (state->kind != NGX_COMMERCE_RECS_PERSONAL || state->events_read) {
        return NGX_OK;
    }

    if (ngx_commerce_recs_owner(c, &owner) != NGX_OK) {
        return NGX_ERROR;
    }

    if (owner.len) {
        (void) ngx_commerce_recs_recent(&c->tenant.id, &owner, state->recent,
                                        &state->nrecent, state->never,
                                        &version);
    }

    state->events_read = 1;

    return NGX_OK;
}
