/*
 * Addresses that were read before.  What a path and its query mean, an
 * operation and its checked parameters, depends on nothing but their bytes and
 * the contract: each worker remembers it of the GETs that come again and again.
 *
 * An address has one of two places, so whoever sends many different ones only
 * makes the worker read them, as without this.
 */

#include "ngx_commerce_http.h"


#define NGX_COMMERCE_ADDRESSES      1024    /* in pairs */
#define NGX_COMMERCE_ADDRESS_ROOM   476     /* bytes of values and address */


typedef struct {
    uint16_t                         len;
    uint8_t                          type;
    uint8_t                          set;
} ngx_commerce_address_value_t;

/*
 * What is read of a short address are two lines of the processor's cache: these
 * members, the values' heads, the address, the values' texts.
 */

struct ngx_commerce_address_s {
    _Alignas(64)
    const ngx_commerce_operation_t  *op;        /* NULL: a free place */
    const char                      *allow;
    const void                      *found;     /* in the response cache, the last time */
    uint32_t                         hash;
    uint16_t                         len;       /* of the address */
    uint16_t                         values_len;
    uint8_t                          alias;
    uint8_t                          deprecated_path;
    uint16_t                         count;     /* of values */
    ngx_commerce_address_value_t     values[NGX_COMMERCE_ADDRESS_ROOM / 4];
};

#define ngx_commerce_address_text(a)  ((u_char *) &(a)->values[(a)->count])


static ngx_commerce_address_t *ngx_commerce_address_place(
    ngx_http_request_t *r, uint32_t *hash);


static ngx_commerce_address_t  ngx_commerce_addresses[NGX_COMMERCE_ADDRESSES];


/* With another contract the same bytes mean something else. */

void
ngx_commerce_address_forget(void)
{
    ngx_uint_t  i;

    for (i = 0; i < NGX_COMMERCE_ADDRESSES; i++) {
        ngx_commerce_addresses[i].op = NULL;
    }
}


/* The first of its two places; NULL: of a kind that is not remembered. */

static ngx_commerce_address_t *
ngx_commerce_address_place(ngx_http_request_t *r, uint32_t *hash)
{
    if (!(r->method & (NGX_HTTP_GET|NGX_HTTP_HEAD)) || !r->valid_unparsed_uri
        || r->unparsed_uri.len > NGX_COMMERCE_ADDRESS_ROOM)
    {
        return NULL;
    }

    *hash = ngx_murmur_hash2(r->unparsed_uri.data, r->unparsed_uri.len);

    return &ngx_commerce_addresses[*hash % NGX_COMMERCE_ADDRESSES & ~1U];
}


/* NGX_OK: c->op, c->match without its parameters and c->slots are as if it had been read.  NGX_DECLINED: it must be. */

ngx_int_t
ngx_commerce_address_recall(ngx_commerce_request_t *c)
{
    u_char                        *p;
    uint32_t                       hash;
    ngx_uint_t                     i;
    ngx_http_request_t            *r;
    ngx_commerce_value_t          *slot;
    ngx_commerce_address_t        *a;
    ngx_commerce_address_value_t  *v;

    r = c->request;
    a = ngx_commerce_address_place(r, &hash);

    if (a == NULL) {
        return NGX_DECLINED;
    }

    __builtin_prefetch(&a->values[8]);

    if (a->hash != hash) {
        a++;
    }

    if (a->op == NULL || a->hash != hash || a->len != r->unparsed_uri.len
        || ngx_memcmp(ngx_commerce_address_text(a), r->unparsed_uri.data,
                      a->len)
           != 0)
    {
        return NGX_DECLINED;
    }

    ngx_commerce_cache_expect(a->found);

    /* the place may be another's when this request goes on */

    c->slots = ngx_palloc(r->pool, (a->op->slots_count + 1)
                                   * sizeof(ngx_commerce_value_t)
                                   + a->values_len);
    if (c->slots == NULL) {
        return NGX_ERROR;
    }

    ngx_memzero(c->slots, (a->op->slots_count + 1)
                          * sizeof(ngx_commerce_value_t));

    p = (u_char *) &c->slots[a->op->slots_count + 1];
    ngx_memcpy(p, ngx_commerce_address_text(a) + a->len, a->values_len);

    for (i = 0; i < a->count; i++) {
        v = &a->values[i];

        if (v->set) {
            slot = &c->slots[a->op->params[i].slot];

            slot->set = 1;
            slot->type = v->type;
            slot->text.data = p;
            slot->text.len = v->len;

            p += v->len;
        }
    }

    c->address = a;
    c->op = a->op;
    c->match.op = a->op;
    c->match.allow = a->allow;
    c->match.alias = a->alias;
    c->match.deprecated_path = a->deprecated_path;

    return NGX_OK;
}


/* Its parameters are good; those from headers and cursors are not the address's alone. */

void
ngx_commerce_address_keep(ngx_commerce_request_t *c)
{
    size_t                       len;
    u_char                      *p;
    uint32_t                     hash;
    ngx_str_t                   *uri;
    ngx_uint_t                   i;
    ngx_commerce_value_t        *slot;
    ngx_commerce_address_t      *a;
    const ngx_commerce_param_t  *param;

    a = ngx_commerce_address_place(c->request, &hash);

    if (a == NULL) {
        return;
    }

    uri = &c->request->unparsed_uri;
    len = uri->len + c->op->params_count
                     * sizeof(ngx_commerce_address_value_t);

    for (i = 0; i < c->op->params_count; i++) {
        param = &c->op->params[i];
        slot = &c->slots[param->slot];

        if (param->in == NGX_COMMERCE_IN_HEADER
            || (slot->set && ngx_commerce_schema_is_cursor(param->schema)))
        {
            return;
        }

        len += slot->set ? slot->text.len : 0;
    }

    if (len > NGX_COMMERCE_ADDRESS_ROOM) {
        return;
    }

    /* the older one of the two goes */
    a[1] = a[0];

    a->op = c->op;
    a->allow = c->match.allow;
    a->alias = c->match.alias;
    a->deprecated_path = c->match.deprecated_path;
    a->hash = hash;
    a->len = uri->len;
    a->found = NULL;
    a->count = c->op->params_count;

    p = ngx_cpymem(ngx_commerce_address_text(a), uri->data, uri->len);

    for (i = 0; i < c->op->params_count; i++) {
        slot = &c->slots[c->op->params[i].slot];

        a->values[i].set = slot->set;
        a->values[i].type = slot->type;
        a->values[i].len = slot->set ? slot->text.len : 0;

        if (a->values[i].len) {
            p = ngx_cpymem(p, slot->text.data, slot->text.len);
        }
    }

    a->values_len = p - ngx_commerce_address_text(a) - uri->len;
}


/* Its answer was in the response cache: the next time that is fetched while the guard is at work. */

void
ngx_commerce_address_found(ngx_commerce_request_t *c, const void *place)
{
    if (c->address && c->address->op == c->op) {
        c->address->found = place;
    }
}
