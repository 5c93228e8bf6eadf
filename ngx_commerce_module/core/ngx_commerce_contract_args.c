/*
 * What steps take by name: arguments, keys, tags, owners.
 */

#include "ngx_commerce_contract_internal.h"

#include <string.h>


static ngx_commerce_rc_t ngx_commerce_step_arg(ngx_commerce_building_t *b,
    const ngx_commerce_json_t *item, bool first,
    const ngx_commerce_place_t *place, ngx_commerce_arg_t *arg);


static bool
ngx_commerce_step_is_context(ngx_commerce_str_t name)
{
    size_t                    i;
    static const char *const  names[] = {
        "$tenant_id", "$tenant_slug", "$principal", "$session",
        "$cart_owner", "$guest_cart", "$address", "$user_agent",
        "$correlation_id", "$method", "$path", "$reply"
    };

    for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (ngx_commerce_str_is(name, names[i])) {
            return true;
        }
    }

    return false;
}


/* The slot of a name from the scope, -1 of the context; INVALID with a fault. */

ngx_commerce_rc_t
ngx_commerce_step_name(ngx_commerce_building_t *b, ngx_commerce_str_t name,
    bool first, const ngx_commerce_json_t *at,
    const ngx_commerce_place_t *place, int32_t *slot)
{
    *slot = -1;

    if (name.len > 0 && name.data[0] == '$') {
        if (ngx_commerce_step_is_context(name)) {
            b->op->cart |= ngx_commerce_str_is(name, "$cart_owner")
                           || ngx_commerce_str_is(name, "$guest_cart");
            return NGX_COMMERCE_OK;
        }

        return ngx_commerce_loader_fault(b->loader, at, place,
                   "there is no %.*s; the context has $tenant_id, "
                   "$tenant_slug, $principal, $session, $cart_owner, "
                   "$guest_cart, $address, $user_agent, $correlation_id, "
                   "$method, $path and $reply", (int) name.len,
                   (char *) name.data);
    }

    if (!ngx_commerce_is_identifier(name)) {
        return ngx_commerce_loader_fault(b->loader, at, place,
                   "\"%.*s\" is no name; names are of a-z, 0-9 and _",
                   (int) name.len, (char *) name.data);
    }

    *slot = ngx_commerce_building_slot(b, name);

    if (*slot < 0) {
        return NGX_COMMERCE_NOMEM;
    }

    /* no step has answered yet that could have brought the name */

    if (first && (uint32_t) *slot >= b->inputs) {
        return ngx_commerce_loader_fault(b->loader, at, place,
                   "\"%.*s\" is no parameter, no member of the body and not "
                   "among ids", (int) name.len, (char *) name.data);
    }

    return NGX_COMMERCE_OK;
}


static bool
ngx_commerce_step_is_listing(const ngx_commerce_operation_t *op, int32_t slot)
{
    uint32_t  i;

    for (i = 0; i < op->params_count; i++) {
        if (op->params[i].slot == slot) {
            return op->params[i].list == NGX_COMMERCE_LIST_FIELDS
                   || op->params[i].list == NGX_COMMERCE_LIST_EXPAND;
        }
    }

    return false;
}


ngx_commerce_rc_t
ngx_commerce_step_default_args(ngx_commerce_building_t *b,
    ngx_commerce_call_t *call)
{
    uint32_t             i;
    ngx_commerce_arg_t  *arg;

    /* fields and expand are the engine's to serve */

    call->args = ngx_commerce_zalloc(b->loader->alloc,
                                     b->inputs * sizeof(ngx_commerce_arg_t));
    if (call->args == NULL) {
        return NGX_COMMERCE_NOMEM;
    }

    for (i = 0; i < b->inputs; i++) {
        if (ngx_commerce_step_is_listing(b->op, (int32_t) i)) {
            continue;
        }

        arg = &call->args[call->args_count++];
        arg->name = b->op->slots[i];
        arg->parameter = arg->name;
        arg->slot = (int32_t) i;
    }

    return NGX_COMMERCE_OK;
}


ngx_commerce_rc_t
ngx_commerce_step_args(ngx_commerce_building_t *b,
    const ngx_commerce_json_t *list, bool first,
    const ngx_commerce_place_t *up, ngx_commerce_arg_t **args,
    uint32_t *count)
{
    ngx_commerce_rc_t           rc;
    ngx_commerce_place_t        place;
    const ngx_commerce_json_t  *item;

    *count = 0;
    *args = NULL;

    if (list == NULL) {
        return NGX_COMMERCE_OK;
    }

    place.up = up;
    place.name = ngx_commerce_str("args");

    if (list->type != NGX_COMMERCE_JSON_ARRAY) {
        return ngx_commerce_loader_fault(b->loader, list, &place,
                   "must be a list of names, or of parameter=name");
    }

    *args = ngx_commerce_zalloc(b->loader->alloc,
                                list->count * sizeof(ngx_commerce_arg_t));
    if (*args == NULL) {
        return NGX_COMMERCE_NOMEM;
    }

    for (item = list->child; item != NULL; item = item->next) {
        rc = ngx_commerce_step_arg(b, item, first, &place, &(*args)[*count]);
        if (rc != NGX_COMMERCE_OK) {
            return rc;
        }

        (*count)++;
    }

    return NGX_COMMERCE_OK;
}


static ngx_commerce_rc_t
ngx_commerce_step_arg(ngx_commerce_building_t *b,
    const ngx_commerce_json_t *item, bool first,
    const ngx_commerce_place_t *place, ngx_commerce_arg_t *arg)
{
    uint8_t  *equals;

    if (item->type != NGX_COMMERCE_JSON_STRING || item->text.len == 0) {
        return ngx_commerce_loader_fault(b->loader, item, place,
                   "must be a list of names, or of parameter=name");
    }

    arg->name = item->text;
    arg->parameter = item->text;

    equals = memchr(item->text.data, '=', item->text.len);

    if (equals != NULL) {
        arg->parameter.len = (size_t) (equals - item->text.data);
        arg->name.data = equals + 1;
        arg->name.len = item->text.len - arg->parameter.len - 1;

    } else if (item->text.data[0] == '$') {
        arg->parameter.data++;
        arg->parameter.len--;
    }

    if (!ngx_commerce_is_identifier(arg->parameter)) {
        return ngx_commerce_loader_fault(b->loader, item, place,
                   "\"%.*s\" is no name; names are of a-z, 0-9 and _",
                   (int) arg->parameter.len, (char *) arg->parameter.data);
    }

    return ngx_commerce_step_name(b, arg->name, first, item, place, &arg->slot);
}


ngx_commerce_rc_t
ngx_commerce_cache_load(ngx_commerce_building_t *b,
    const ngx_commerce_json_t *object, const ngx_commerce_place_t *up,
    ngx_commerce_cache_rule_t *cache)
{
    int64_t                     ttl;
    ngx_commerce_rc_t           rc;
    ngx_commerce_place_t        place;
    const ngx_commerce_json_t  *value, *tags, *item;
    static const char *const    known[] = { "ttl", "tags", NULL };

    value = ngx_commerce_json_get(object, "cache");
    if (value == NULL) {
        return NGX_COMMERCE_OK;
    }

    place.up = up;
    place.name = ngx_commerce_str("cache");
    ttl = 0;

    rc = ngx_commerce_loader_keys(b->loader, value, &place, false, known);

    if (rc == NGX_COMMERCE_OK) {
        rc = ngx_commerce_loader_number(b->loader, value, "ttl", &place, &ttl);
    }

    if (rc == NGX_COMMERCE_OK && ttl == 0) {
        return ngx_commerce_loader_fault(b->loader, value, &place,
                                         "needs ttl in seconds");
    }

    tags = ngx_commerce_json_get(value, "tags");

    if (rc != NGX_COMMERCE_OK || tags == NULL) {
        cache->ttl = (uint32_t) ttl;
        return rc;
    }

    if (tags->type != NGX_COMMERCE_JSON_ARRAY) {
        return ngx_commerce_loader_fault(b->loader, tags, &place,
                                         "tags must be a list of strings");
    }

    cache->ttl = (uint32_t) ttl;
    cache->tags = ngx_commerce_zalloc(b->loader->alloc,
                              tags->count * sizeof(ngx_commerce_template_t));
    if (cache->tags == NULL) {
        return NGX_COMMERCE_NOMEM;
    }

    for (item = tags->child; item != NULL; item = item->next) {
        rc = ngx_commerce_step_template(b, item, NGX_COMMERCE_TEMPLATE_TAG,
                                        ngx_commerce_place(&place, "tags"),
                                        &cache->tags[cache->tags_count++]);
        if (rc != NGX_COMMERCE_OK) {
            return rc;
        }
    }

    return NGX_COMMERCE_OK;
}


/* The next name at or after p: [*name, *after) with its marks; false: none. */

static bool
ngx_commerce_template_next(const uint8_t *p, const uint8_t *end,
    ngx_commerce_template_kind_t kind, const uint8_t **start,
    const uint8_t **after)
{
    const uint8_t  *q;

    p = memchr(p, kind == NGX_COMMERCE_TEMPLATE_TAG ? '{' : '$',
               (size_t) (end - p));
    if (p == NULL) {
        return false;
    }

    for (q = p + 1; q < end; q++) {
        if ((*q < 'a' || *q > 'z') && *q != '_' && (*q < '0' || *q > '9')
            && !(*q == '$' && q == p + 1 && kind == NGX_COMMERCE_TEMPLATE_TAG))
        {
            break;
        }
    }

    *start = p;
    *after = q;

    return true;
}


ngx_commerce_rc_t
ngx_commerce_owner_load(ngx_commerce_building_t *b,
    const ngx_commerce_place_t *place)
{
    const ngx_commerce_json_t  *owner;

    owner = ngx_commerce_json_get(b->commerce, "owner");

    return owner == NULL ? NGX_COMMERCE_OK
           : ngx_commerce_step_template(b, owner, NGX_COMMERCE_TEMPLATE_KEY,
                                        ngx_commerce_place(place, "owner"),
                                        &b->op->owner);
}


ngx_commerce_rc_t
ngx_commerce_step_template(ngx_commerce_building_t *b,
    const ngx_commerce_json_t *value, ngx_commerce_template_kind_t kind,
    const ngx_commerce_place_t *place, ngx_commerce_template_t *template)
{
    uint32_t              room;
    ngx_commerce_rc_t     rc;
    const uint8_t        *p, *end, *start, *after;
    ngx_commerce_part_t  *part;

    if (value->type != NGX_COMMERCE_JSON_STRING || value->text.len == 0) {
        return ngx_commerce_loader_fault(b->loader, value, place,
                                         "must be a string, not empty");
    }

    p = value->text.data;
    end = p + value->text.len;

    for (room = 1; ngx_commerce_template_next(p, end, kind, &start, &after);
         p = after)
    {
        room += 2;
    }

    template->parts = ngx_commerce_zalloc(b->loader->alloc,
                                          room * sizeof(ngx_commerce_part_t));
    if (template->parts == NULL) {
        return NGX_COMMERCE_NOMEM;
    }

    for (p = value->text.data; p < end; /* void */ ) {

        if (!ngx_commerce_template_next(p, end, kind, &start, &after)) {
            start = end;
        }

        if (start > p) {
            part = &template->parts[template->count++];
            part->text.data = (uint8_t *) p;
            part->text.len = (size_t) (start - p);
            part->slot = -1;
        }

        if (start == end) {
            break;
        }

        part = &template->parts[template->count++];
        part->name = true;
        part->text.data = (uint8_t *) start;
        part->text.len = (size_t) (after - start);

        if (kind == NGX_COMMERCE_TEMPLATE_TAG) {
            if (after == end || *after != '}') {
                return ngx_commerce_loader_fault(b->loader, value, place,
                           "a name in a tag stands in braces: product:{id}");
            }

            part->text.data++;
            part->text.len--;
            after++;

        } else if (!ngx_commerce_step_is_context(part->text)) {
            /* $name of the scope */
            part->text.data++;
            part->text.len--;
        }

        rc = ngx_commerce_step_name(b, part->text, false, value, place,
                                    &part->slot);
        if (rc != NGX_COMMERCE_OK) {
            return rc;
        }

        p = after;
    }

    return NGX_COMMERCE_OK;
}
