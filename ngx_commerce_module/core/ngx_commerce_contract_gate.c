/*
 * The gate of a call: what was refused a moment ago is refused without asking.
 */

#include "ngx_commerce_contract_internal.h"

#include <string.h>


static ngx_commerce_rc_t ngx_commerce_gate_by(ngx_commerce_building_t *b,
    const ngx_commerce_json_t *list, const ngx_commerce_place_t *place,
    ngx_commerce_gate_t *gate);
static ngx_commerce_rc_t ngx_commerce_gate_texts(ngx_commerce_building_t *b,
    const ngx_commerce_json_t *object, const ngx_commerce_place_t *place,
    ngx_commerce_gate_t *gate);


ngx_commerce_rc_t
ngx_commerce_gate_load(ngx_commerce_building_t *b,
    const ngx_commerce_json_t *object, bool first,
    const ngx_commerce_place_t *up, ngx_commerce_call_t *call)
{
    int64_t                     ttl;
    ngx_commerce_rc_t           rc;
    ngx_commerce_str_t          each, attempt;
    ngx_commerce_gate_t        *gate;
    ngx_commerce_place_t        place;
    const ngx_commerce_json_t  *value;
    static const char *const    known[] = {
        "each", "by", "want", "refusal", "tag", "attempt", "ttl", NULL
    };

    gate = &call->gate;
    value = ngx_commerce_json_get(object, "gate");

    if (value == NULL) {
        return NGX_COMMERCE_OK;
    }

    place.up = up;
    place.name = ngx_commerce_str("gate");
    gate->attempt = -1;
    ttl = 0;

    if (!call->command) {
        return ngx_commerce_loader_fault(b->loader, value, &place,
                   "is for commands; what reads has cache");
    }

    rc = ngx_commerce_loader_keys(b->loader, value, &place, false, known);

    if (rc == NGX_COMMERCE_OK) {
        rc = ngx_commerce_loader_text(b->loader, value, "each", &place, &each);
    }

    if (rc == NGX_COMMERCE_OK) {
        rc = ngx_commerce_loader_text(b->loader, value, "attempt", &place,
                                      &attempt);
    }

    if (rc == NGX_COMMERCE_OK) {
        rc = ngx_commerce_gate_texts(b, value, &place, gate);
    }

    if (rc == NGX_COMMERCE_OK) {
        rc = ngx_commerce_loader_number(b->loader, value, "ttl", &place, &ttl);
    }

    if (rc == NGX_COMMERCE_OK && (ttl == 0 || each.len == 0)) {
        return ngx_commerce_loader_fault(b->loader, value, &place,
                   "needs each, a list of the scope, and ttl in seconds");
    }

    if (rc == NGX_COMMERCE_OK) {
        rc = ngx_commerce_gate_by(b, ngx_commerce_json_get(value, "by"),
                                  &place, gate);
    }

    if (rc == NGX_COMMERCE_OK) {
        rc = ngx_commerce_step_name(b, each, first, value,
                                    ngx_commerce_place(&place, "each"),
                                    &gate->each);
    }

    if (rc == NGX_COMMERCE_OK && attempt.len != 0) {
        rc = ngx_commerce_step_name(b, attempt, first, value,
                                    ngx_commerce_place(&place, "attempt"),
                                    &gate->attempt);
    }

    if (rc == NGX_COMMERCE_OK && gate->each < 0) {
        return ngx_commerce_loader_fault(b->loader, value, &place,
                   "each takes a name of the scope, not of the context");
    }

    gate->ttl = (uint32_t) ttl;

    return rc;
}


static ngx_commerce_rc_t
ngx_commerce_gate_texts(ngx_commerce_building_t *b,
    const ngx_commerce_json_t *object, const ngx_commerce_place_t *place,
    ngx_commerce_gate_t *gate)
{
    ngx_commerce_rc_t  rc;

    rc = ngx_commerce_loader_text(b->loader, object, "want", place,
                                  &gate->want);

    if (rc == NGX_COMMERCE_OK) {
        rc = ngx_commerce_loader_text(b->loader, object, "refusal", place,
                                      &gate->refusal);
    }

    if (rc == NGX_COMMERCE_OK) {
        rc = ngx_commerce_loader_text(b->loader, object, "tag", place,
                                      &gate->tag);
    }

    if (rc == NGX_COMMERCE_OK
        && (gate->want.len == 0 || gate->refusal.len == 0
            || gate->tag.len == 0))
    {
        return ngx_commerce_loader_fault(b->loader, object, place,
                   "needs want, a member of the list's elements, refusal, "
                   "the code of a problem, and tag");
    }

    return rc;
}


static ngx_commerce_rc_t
ngx_commerce_gate_by(ngx_commerce_building_t *b,
    const ngx_commerce_json_t *list, const ngx_commerce_place_t *place,
    ngx_commerce_gate_t *gate)
{
    const ngx_commerce_json_t  *item;

    if (list == NULL || list->type != NGX_COMMERCE_JSON_ARRAY
        || list->count == 0 || list->count > NGX_COMMERCE_GATE_BY)
    {
        return ngx_commerce_loader_fault(b->loader, list ? list : b->commerce,
                   place, "by lists one to four members of the list's "
                   "elements, like [product_id, variant_id]");
    }

    for (item = list->child; item != NULL; item = item->next) {

        if (item->type != NGX_COMMERCE_JSON_STRING
            || !ngx_commerce_is_identifier(item->text))
        {
            return ngx_commerce_loader_fault(b->loader, item, place,
                                             "by lists names of members");
        }

        gate->by[gate->by_count++] = item->text;
    }

    return NGX_COMMERCE_OK;
}
