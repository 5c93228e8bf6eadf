/*
 * Native steps: what customers did, for the recommendations that follow; and
 * which table these are made of.
 */

#include "ngx_commerce_recs_answer.h"


static ngx_int_t ngx_commerce_native_recent_add(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step);
static ngx_int_t ngx_commerce_native_recent_cart(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step);
static ngx_int_t ngx_commerce_native_recent_purchase(
    ngx_commerce_request_t *c, const ngx_commerce_step_t *step);
static ngx_int_t ngx_commerce_native_recent_forget(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step);
static ngx_int_t ngx_commerce_native_recent(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step, ngx_commerce_event_t event);
static ngx_commerce_event_t ngx_commerce_recent_action(
    ngx_commerce_json_t *item);
static ngx_int_t ngx_commerce_native_recs_status(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step);


const ngx_commerce_native_t  ngx_commerce_natives_recent[] = {

    { ngx_string("recent_add"), ngx_commerce_native_recent_add, NULL },
    { ngx_string("recent_cart"), ngx_commerce_native_recent_cart, NULL },
    { ngx_string("recent_purchase"), ngx_commerce_native_recent_purchase,
      NULL },
    { ngx_string("recent_forget"), ngx_commerce_native_recent_forget, NULL },
    { ngx_string("recommendation_status"), ngx_commerce_native_recs_status,
      NULL },
    { ngx_null_string, NULL, NULL }
};


/* product_id, action; or items: [{"product_id","action"}, …], oldest first.  What somebody did counts from now on. */

static ngx_int_t
ngx_commerce_native_recent_add(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step)
{
    ngx_str_t  *action;

    action = ngx_commerce_scope_input(c, step, "action");

    return ngx_commerce_native_recent(c, step,
               action ? ngx_commerce_event((char *) action->data, action->len)
                      : NGX_COMMERCE_EVENTS);
}


/* product_id */

static ngx_int_t
ngx_commerce_native_recent_cart(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step)
{
    return ngx_commerce_native_recent(c, step, NGX_COMMERCE_EVENT_CART);
}


/* items: [{"product_id", …}, …] */

static ngx_int_t
ngx_commerce_native_recent_purchase(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step)
{
    return ngx_commerce_native_recent(c, step, NGX_COMMERCE_EVENT_PURCHASE);
}


/* id: of the customer who was erased; without it whoever asks.  Other nodes forget whom they do not see for long. */

static ngx_int_t
ngx_commerce_native_recent_forget(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step)
{
    u_char     *p;
    ngx_str_t   owner, *id;

    ngx_commerce_step_reply(c, NGX_HTTP_OK, NULL);

    id = ngx_commerce_scope_input(c, step, "id");

    if (id == NULL) {

        if (ngx_commerce_recs_owner(c, &owner) != NGX_OK) {
            return NGX_ERROR;
        }

    } else {
        p = ngx_pnalloc(c->request->pool, id->len + 2);
        if (p == NULL) {
            return NGX_ERROR;
        }

        owner.data = p;
        owner.len = id->len + 2;
        p = ngx_cpymem(p, "u:", 2);
        ngx_memcpy(p, id->data, id->len);
    }

    if (owner.len) {
        ngx_commerce_recs_recent_forget(&c->tenant.id, &owner);
    }

    return NGX_OK;
}


/* NGX_COMMERCE_EVENTS: each item tells.  Who cannot be known again is not counted; nothing of this can fail a request. */

static ngx_int_t
ngx_commerce_native_recent(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step, ngx_commerce_event_t event)
{
    uint64_t                     product;
    ngx_str_t                    owner, *items;
    ngx_commerce_json_t         *root, *row, *id;
    ngx_commerce_event_t         done;
    ngx_commerce_alloc_t         alloc;
    ngx_commerce_json_error_t    error;

    ngx_commerce_step_reply(c, NGX_HTTP_OK, NULL);

    if (ngx_commerce_recs_owner(c, &owner) != NGX_OK || owner.len == 0) {
        return NGX_OK;
    }

    product = ngx_commerce_recs_number(c, step, "product_id");

    if (product && event < NGX_COMMERCE_EVENTS) {
        ngx_commerce_recs_recent_add(&c->tenant.id, &owner, product, event);
        return NGX_OK;
    }

    items = ngx_commerce_scope_input(c, step, "items");
    alloc = ngx_commerce_pool_alloc(c->request->pool);

    if (items == NULL
        || ngx_commerce_json_parse(&alloc, items->data, items->len, NULL,
                                   &root, &error)
           != NGX_COMMERCE_OK)
    {
        return NGX_OK;
    }

    for (row = root->child; row; row = row->next) {
        id = ngx_commerce_json_get(row, "product_id");
        done = (event < NGX_COMMERCE_EVENTS) ? event
               : ngx_commerce_recent_action(row);

        if (id && id->integer && done < NGX_COMMERCE_EVENTS) {
            ngx_commerce_recs_recent_add(&c->tenant.id, &owner, id->number,
                                         done);
        }
    }

    return NGX_OK;
}


static ngx_commerce_event_t
ngx_commerce_recent_action(ngx_commerce_json_t *item)
{
    ngx_commerce_json_t  *action;

    action = ngx_commerce_json_get(item, "action");

    return action ? ngx_commerce_event((char *) action->text.data,
                                       action->text.len)
           : NGX_COMMERCE_EVENTS;
}


/* The shop's table: which, how old, of what. */

static ngx_int_t
ngx_commerce_native_recs_status(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step)
{
    u_char                                 *p, text[1024];
    int64_t                                 loaded;
    uint64_t                                serial, refusals;
    ngx_str_t                               body;
    ngx_commerce_recs_status_t              status;
    const ngx_commerce_similarity_t        *table;
    const ngx_commerce_similarity_about_t  *about;

    ngx_commerce_recs_status(&status);

    loaded = 0;
    refusals = 0;
    (void) ngx_commerce_recs_loaded(&c->tenant.id, &loaded, &refusals);

    table = ngx_commerce_recs_enter(&c->tenant.id, &serial);

    if (table == NULL) {
        body.len = ngx_sprintf(text, "{\"status\":\"%s\",\"refused\":%uL}",
                               status.configured ? "not_trained" : "disabled",
                               refusals)
                   - text;

    } else {
        about = table->about;

        p = ngx_sprintf(text,
            "{\"status\":\"ready\",\"generation\":%uL,\"created\":%L,"
            "\"loaded\":%L,\"age_seconds\":%L,\"products\":%uD,"
            "\"cold_products\":%uD,\"users\":%uL,\"events\":%uL,"
            "\"models\":{\"collaborative\":\"%s\",\"content\":\"%s\"},"
            "\"weights\":{\"content\":%.4f,\"collaborative\":%.4f,"
            "\"popularity\":%.4f,\"diversity\":%.4f},"
            "\"refused\":%uL,\"metrics\":",
            about->generation, about->created / 1000, loaded / 1000,
            (int64_t) ngx_time() - about->created / 1000, table->items,
            table->ncold, about->users, about->events, about->collaborative,
            about->content, (double) about->content_weight,
            (double) about->collaborative_weight,
            (double) about->popularity_weight, (double) about->diversity,
            refusals);

        /* a table that nobody measured is not one that measured nothing */

        p = (about->ndcg > 0)
            ? ngx_sprintf(p, "{\"ndcg@20\":%.4f,\"coverage@20\":%.4f}}",
                          (double) about->ndcg, (double) about->coverage)
            : ngx_sprintf(p, "null}");

        body.len = p - text;

        ngx_commerce_recs_leave();
    }

    body.data = ngx_pnalloc(c->request->pool, body.len);

    if (body.data == NULL) {
        return NGX_ERROR;
    }

    ngx_memcpy(body.data, text, body.len);
    ngx_commerce_step_reply(c, NGX_HTTP_OK, &body);

    return NGX_OK;
}


uint64_t
ngx_commerce_recs_number(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step, const char *name)
{
    off_t       n;
    ngx_str_t  *value;

    value = ngx_commerce_scope_input(c, step, name);

    if (value == NULL) {
        return 0;
    }

    n = ngx_atoof(value->data, value->len);

    return (n == NGX_ERROR) ? 0 : (uint64_t) n;
}


ngx_int_t
ngx_commerce_recs_owner(ngx_commerce_request_t *c, ngx_str_t *owner)
{
    ngx_commerce_arg_t  arg;

    ngx_str_null(owner);

    if (c->principal.subject.len == 0 && c->h_cart_token == NULL) {
        return NGX_OK;
    }

    arg.name = ngx_commerce_str("$cart_owner");
    arg.slot = -1;

    return ngx_commerce_scope_arg(c, &arg, owner);
}


ngx_int_t
ngx_commerce_recs_customer(ngx_commerce_request_t *c, uint64_t *who)
{
    uint64_t               tenant;
    ngx_str_t              owner;
    ngx_commerce_guest_t  *guest;

    guest = NULL;
    tenant = 0;

    if (c->principal.subject.len == 0 && c->h_cart_token) {

        guest = ngx_commerce_scope_guest(c, &c->h_cart_token->value);
        if (guest == NULL) {
            return NGX_ERROR;
        }

        tenant = ngx_atoof(c->tenant.id.data, c->tenant.id.len);

        if (guest->who && guest->tenant == tenant) {
            *who = guest->who;
            return NGX_OK;
        }
    }

    if (ngx_commerce_recs_owner(c, &owner) != NGX_OK) {
        return NGX_ERROR;
    }

    *who = owner.len ? ngx_commerce_recs_who(&c->tenant.id, &owner) : 0;

    if (guest) {
        guest->tenant = tenant;
        guest->who = *who;
    }

    return NGX_OK;
}
