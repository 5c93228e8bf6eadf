/*
 * What an operation does: calls, scripts, native handlers, and their
 * templates and arguments.
 */

#include "ngx_commerce_contract_internal.h"

#include <stdio.h>
#include <string.h>


typedef enum {
    NGX_COMMERCE_TEMPLATE_TAG = 0,      /* {name} */
    NGX_COMMERCE_TEMPLATE_KEY           /* $name; braces stay */
} ngx_commerce_template_kind_t;


static ngx_commerce_rc_t ngx_commerce_steps_list(ngx_commerce_building_t *b,
    const ngx_commerce_json_t *list, const ngx_commerce_place_t *up);
static ngx_commerce_rc_t ngx_commerce_step_load(ngx_commerce_building_t *b,
    const ngx_commerce_json_t *object, uint32_t index,
    const ngx_commerce_place_t *place);
static ngx_commerce_rc_t ngx_commerce_step_script(ngx_commerce_building_t *b,
    ngx_commerce_step_t *step, const ngx_commerce_json_t *object, bool first,
    const ngx_commerce_place_t *place);
static ngx_commerce_rc_t ngx_commerce_step_beside(ngx_commerce_building_t *b,
    const ngx_commerce_json_t *object, const char *key, bool first,
    const ngx_commerce_place_t *up, ngx_commerce_call_t **call);
static ngx_commerce_rc_t ngx_commerce_step_native(ngx_commerce_building_t *b,
    ngx_commerce_step_t *step, const ngx_commerce_json_t *object, bool first,
    const ngx_commerce_place_t *place);
static ngx_commerce_rc_t ngx_commerce_step_call(ngx_commerce_building_t *b,
    const ngx_commerce_json_t *object, bool first,
    const ngx_commerce_place_t *place, ngx_commerce_call_t **result);
static ngx_commerce_rc_t ngx_commerce_step_args(ngx_commerce_building_t *b,
    const ngx_commerce_json_t *list, bool first,
    const ngx_commerce_place_t *up, ngx_commerce_arg_t **args,
    uint32_t *count);
static ngx_commerce_rc_t ngx_commerce_step_arg(ngx_commerce_building_t *b,
    const ngx_commerce_json_t *item, bool first,
    const ngx_commerce_place_t *place, ngx_commerce_arg_t *arg);
static ngx_commerce_rc_t ngx_commerce_step_default_args(
    ngx_commerce_building_t *b, ngx_commerce_call_t *call);
static ngx_commerce_rc_t ngx_commerce_step_template(ngx_commerce_building_t *b,
    const ngx_commerce_json_t *value, ngx_commerce_template_kind_t kind,
    const ngx_commerce_place_t *place, ngx_commerce_template_t *template);


static bool
ngx_commerce_step_is_context(ngx_commerce_str_t name)
{
    size_t                    i;
    static const char *const  names[] = {
        "$tenant_id", "$tenant_slug", "$principal", "$cart_owner",
        "$guest_cart", "$correlation_id", "$method", "$path"
    };

    for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (ngx_commerce_str_is(name, names[i])) {
            return true;
        }
    }

    return false;
}


/* The slot of a name from the scope, -1 of the context; INVALID with a fault. */

static ngx_commerce_rc_t
ngx_commerce_step_name(ngx_commerce_building_t *b, ngx_commerce_str_t name,
    bool first, const ngx_commerce_json_t *at,
    const ngx_commerce_place_t *place, int32_t *slot)
{
    *slot = -1;

    if (name.len > 0 && name.data[0] == '$') {
        if (ngx_commerce_step_is_context(name)) {
            return NGX_COMMERCE_OK;
        }

        return ngx_commerce_loader_fault(b->loader, at, place,
                   "there is no %.*s; the context has $tenant_id, "
                   "$tenant_slug, $principal, $cart_owner, $guest_cart, "
                   "$correlation_id, $method and $path", (int) name.len,
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


ngx_commerce_rc_t
ngx_commerce_steps_load(ngx_commerce_building_t *b,
    const ngx_commerce_place_t *place)
{
    uint32_t                     ways;
    ngx_commerce_rc_t            rc;
    ngx_commerce_step_t         *step;
    ngx_commerce_operation_t    *op;
    const ngx_commerce_json_t   *call, *native, *steps;

    op = b->op;
    call = ngx_commerce_json_get(b->commerce, "call");
    native = ngx_commerce_json_get(b->commerce, "native");
    steps = ngx_commerce_json_get(b->commerce, "steps");

    ways = (call != NULL) + (native != NULL) + (steps != NULL);

    if (ways != 1) {
        return ngx_commerce_loader_fault(b->loader, b->commerce, place,
                   "needs exactly one of call, native and steps");
    }

    if (steps != NULL) {
        if (ngx_commerce_json_get(b->commerce, "args") != NULL) {
            return ngx_commerce_loader_fault(b->loader, b->commerce, place,
                       "args stand within the step that takes them");
        }

        return ngx_commerce_steps_list(b, steps, place);
    }

    step = ngx_commerce_zalloc(b->loader->alloc, sizeof(ngx_commerce_step_t));
    if (step == NULL) {
        return NGX_COMMERCE_NOMEM;
    }

    op->steps = step;
    op->steps_count = 1;

    step->reply = true;
    step->when = -1;

    if (native != NULL) {
        return ngx_commerce_step_native(b, step, b->commerce, true, place);
    }

    step->kind = NGX_COMMERCE_STEP_CALL;

    rc = ngx_commerce_step_call(b, b->commerce, true, place, &step->call);

    if (rc == NGX_COMMERCE_OK) {
        step->call->keep_reply = step->call->command
                           && op->idempotency != NGX_COMMERCE_IDEMPOTENCY_NONE;
    }

    return rc;
}


static ngx_commerce_rc_t
ngx_commerce_steps_list(ngx_commerce_building_t *b,
    const ngx_commerce_json_t *list, const ngx_commerce_place_t *up)
{
    char                        digits[12];
    uint32_t                    i, replies;
    ngx_commerce_rc_t           rc;
    ngx_commerce_step_t        *reply;
    ngx_commerce_place_t        steps, place;
    ngx_commerce_operation_t   *op;
    const ngx_commerce_json_t  *item;

    op = b->op;
    steps.up = up;
    steps.name = ngx_commerce_str("steps");

    if (list->type != NGX_COMMERCE_JSON_ARRAY || list->count == 0) {
        return ngx_commerce_loader_fault(b->loader, list, &steps,
                                         "must be a list of at least one step");
    }

    op->steps = ngx_commerce_zalloc(b->loader->alloc,
                                    list->count * sizeof(ngx_commerce_step_t));
    if (op->steps == NULL) {
        return NGX_COMMERCE_NOMEM;
    }

    op->steps_count = list->count;
    op->reply_step = list->count - 1;
    replies = 0;

    for (item = list->child, i = 0; item != NULL; item = item->next, i++) {
        snprintf(digits, sizeof(digits), "%u", i);

        place.up = &steps;
        place.name.data = (uint8_t *) digits;
        place.name.len = strlen(digits);

        rc = ngx_commerce_step_load(b, item, i, &place);
        if (rc != NGX_COMMERCE_OK) {
            return rc;
        }

        if (op->steps[i].reply) {
            op->reply_step = i;
            replies++;
        }
    }

    if (replies > 1) {
        return ngx_commerce_loader_fault(b->loader, list, &steps,
                                         "only one step can be the reply");
    }

    reply = &op->steps[op->reply_step];
    reply->reply = true;

    if (reply->optional) {
        return ngx_commerce_loader_fault(b->loader, list, &steps,
                   "the step that replies cannot be optional");
    }

    if (reply->kind == NGX_COMMERCE_STEP_CALL) {
        reply->call->keep_reply = reply->call->command
                           && op->idempotency != NGX_COMMERCE_IDEMPOTENCY_NONE;

    } else if (reply->down != NULL) {
        /* with Redis away the key is kept where the effect is */
        reply->down->keep_reply = reply->down->command
                           && op->idempotency != NGX_COMMERCE_IDEMPOTENCY_NONE;
    }

    return NGX_COMMERCE_OK;
}


static ngx_commerce_rc_t
ngx_commerce_step_load(ngx_commerce_building_t *b,
    const ngx_commerce_json_t *object, uint32_t index,
    const ngx_commerce_place_t *place)
{
    bool                       first;
    size_t                     kind;
    ngx_commerce_rc_t          rc;
    ngx_commerce_str_t         when;
    ngx_commerce_step_t       *step;
    static const char *const   calls[] = {
        "call", "lane", "args", "cache", "reply", "optional", "when", NULL
    };
    static const char *const   scripts[] = {
        "script", "key", "args", "miss", "down", "backup", "reply", "optional",
        "when", NULL
    };
    static const char *const   natives[] = {
        "native", "args", "reply", "optional", "when", NULL
    };
    static const char *const  *known[] = { calls, scripts, natives };

    step = &b->op->steps[index];
    step->when = -1;
    first = index == 0;

    for (kind = 0; kind < 3; kind++) {
        if (ngx_commerce_json_get(object, known[kind][0]) != NULL) {
            break;
        }
    }

    if (kind == 3) {
        return ngx_commerce_loader_fault(b->loader, object, place,
                   "a step is one of call, script and native");
    }

    step->kind = (ngx_commerce_step_kind_t) kind;

    rc = ngx_commerce_loader_keys(b->loader, object, place, false,
                                  known[kind]);

    if (rc == NGX_COMMERCE_OK) {
        rc = ngx_commerce_loader_bool(b->loader, object, "reply", place,
                                      &step->reply);
    }

    if (rc == NGX_COMMERCE_OK) {
        rc = ngx_commerce_loader_bool(b->loader, object, "optional", place,
                                      &step->optional);
    }

    if (rc == NGX_COMMERCE_OK) {
        rc = ngx_commerce_loader_text(b->loader, object, "when", place, &when);
    }

    if (rc == NGX_COMMERCE_OK && when.len != 0) {
        if (when.data[0] == '$') {
            return ngx_commerce_loader_fault(b->loader, object, place,
                       "when takes a name of the scope, not of the context");
        }

        rc = ngx_commerce_step_name(b, when, first, object,
                                    ngx_commerce_place(place, "when"),
                                    &step->when);
    }

    if (rc != NGX_COMMERCE_OK) {
        return rc;
    }

    switch (step->kind) {

    case NGX_COMMERCE_STEP_CALL:
        return ngx_commerce_step_call(b, object, first, place, &step->call);

    case NGX_COMMERCE_STEP_SCRIPT:
        return ngx_commerce_step_script(b, step, object, first, place);

    default:
        return ngx_commerce_step_native(b, step, object, first, place);
    }
}


/* "api.name": what the edge's role may execute, and nothing to quote. */

static bool
ngx_commerce_step_is_function(ngx_commerce_str_t name)
{
    ngx_commerce_str_t  function;

    if (name.len < 5 || memcmp(name.data, "api.", 4) != 0) {
        return false;
    }

    function.data = name.data + 4;
    function.len = name.len - 4;

    return ngx_commerce_is_identifier(function);
}


static ngx_commerce_rc_t
ngx_commerce_step_script(ngx_commerce_building_t *b, ngx_commerce_step_t *step,
    const ngx_commerce_json_t *object, bool first,
    const ngx_commerce_place_t *place)
{
    ngx_commerce_rc_t           rc;
    ngx_commerce_loader_t      *l;
    const ngx_commerce_json_t  *key;

    l = b->loader;

    rc = ngx_commerce_loader_text(l, object, "script", place, &step->name);

    if (rc == NGX_COMMERCE_OK && !ngx_commerce_is_identifier(step->name)) {
        return ngx_commerce_loader_fault(l, object, place,
                   "script names a file without its suffix, of a-z, 0-9 and _");
    }

    if (rc == NGX_COMMERCE_OK) {
        rc = ngx_commerce_loader_text(l, object, "backup", place,
                                      &step->backup);
    }

    if (rc == NGX_COMMERCE_OK && step->backup.len != 0
        && !ngx_commerce_step_is_function(step->backup))
    {
        return ngx_commerce_loader_fault(l, object,
                   ngx_commerce_place(place, "backup"),
                   "must be a function of the schema api, like "
                   "api.cart_backup");
    }

    key = ngx_commerce_json_get(object, "key");

    if (rc == NGX_COMMERCE_OK && key == NULL) {
        return ngx_commerce_loader_fault(l, object, place,
                   "a script needs a key, like "
                   "\"cart:{$tenant_id:$cart_owner}\"");
    }

    if (rc == NGX_COMMERCE_OK) {
        rc = ngx_commerce_step_template(b, key, NGX_COMMERCE_TEMPLATE_KEY,
                                        ngx_commerce_place(place, "key"),
                                        &step->key);
    }

    if (rc == NGX_COMMERCE_OK) {
        rc = ngx_commerce_step_args(b, ngx_commerce_json_get(object, "args"),
                                    first, place, &step->args,
                                    &step->args_count);
    }

    if (rc == NGX_COMMERCE_OK) {
        rc = ngx_commerce_step_beside(b, object, "miss", first, place,
                                      &step->miss);
    }

    if (rc == NGX_COMMERCE_OK) {
        rc = ngx_commerce_step_beside(b, object, "down", first, place,
                                      &step->down);
    }

    return rc;
}


/* The calls around a script: miss and down. */

static ngx_commerce_rc_t
ngx_commerce_step_beside(ngx_commerce_building_t *b,
    const ngx_commerce_json_t *object, const char *key, bool first,
    const ngx_commerce_place_t *up, ngx_commerce_call_t **call)
{
    ngx_commerce_rc_t           rc;
    ngx_commerce_place_t        place;
    const ngx_commerce_json_t  *value;
    static const char *const    known[] = { "call", "args", "lane", NULL };

    value = ngx_commerce_json_get(object, key);
    if (value == NULL) {
        return NGX_COMMERCE_OK;
    }

    place.up = up;
    place.name.data = (uint8_t *) key;
    place.name.len = strlen(key);

    rc = ngx_commerce_loader_keys(b->loader, value, &place, false, known);

    return rc == NGX_COMMERCE_OK
           ? ngx_commerce_step_call(b, value, first, &place, call) : rc;
}


static ngx_commerce_rc_t
ngx_commerce_step_native(ngx_commerce_building_t *b, ngx_commerce_step_t *step,
    const ngx_commerce_json_t *object, bool first,
    const ngx_commerce_place_t *place)
{
    ngx_commerce_rc_t           rc;
    ngx_commerce_native_known_pt  known;

    step->kind = NGX_COMMERCE_STEP_NATIVE;

    rc = ngx_commerce_loader_text(b->loader, object, "native", place,
                                  &step->name);
    if (rc != NGX_COMMERCE_OK) {
        return rc;
    }

    known = b->loader->contract->known;

    if (known != NULL && !known(step->name)) {
        return ngx_commerce_loader_fault(b->loader, object,
                   ngx_commerce_place(place, "native"),
                   "the module has no handler \"%.*s\"",
                   (int) step->name.len, (char *) step->name.data);
    }

    return ngx_commerce_step_args(b, ngx_commerce_json_get(object, "args"),
                                  first, place, &step->args,
                                  &step->args_count);
}


static ngx_commerce_rc_t
ngx_commerce_step_call(ngx_commerce_building_t *b,
    const ngx_commerce_json_t *object, bool first,
    const ngx_commerce_place_t *place, ngx_commerce_call_t **result)
{
    uint32_t                    lane;
    ngx_commerce_rc_t           rc;
    ngx_commerce_call_t        *call;
    ngx_commerce_loader_t      *l;
    const ngx_commerce_json_t  *args;
    static const char *const    lanes[] = { "read", "write", "slow", NULL };

    l = b->loader;
    lane = b->lane;

    call = ngx_commerce_zalloc(l->alloc, sizeof(ngx_commerce_call_t));
    if (call == NULL) {
        return NGX_COMMERCE_NOMEM;
    }

    *result = call;

    rc = ngx_commerce_loader_text(l, object, "call", place, &call->function);

    if (rc == NGX_COMMERCE_OK
        && !ngx_commerce_step_is_function(call->function))
    {
        return ngx_commerce_loader_fault(l, object,
                   ngx_commerce_place(place, "call"),
                   "must be a function of the schema api, like api.cart_view");
    }

    if (rc == NGX_COMMERCE_OK) {
        rc = ngx_commerce_loader_word(l, object, "lane", place, lanes, &lane);
    }

    if (rc != NGX_COMMERCE_OK) {
        return rc;
    }

    if (!b->has_lane && ngx_commerce_json_get(object, "lane") == NULL) {
        return ngx_commerce_loader_fault(l, object, place,
                   "a call needs a lane (read, write or slow), here or for "
                   "the operation");
    }

    call->lane = (ngx_commerce_lane_t) lane;
    call->command = lane == NGX_COMMERCE_LANE_WRITE
                    || (lane == NGX_COMMERCE_LANE_SLOW
                        && b->op->method != NGX_COMMERCE_GET);

    args = ngx_commerce_json_get(object, "args");

    rc = args == NULL
         ? ngx_commerce_step_default_args(b, call)
         : ngx_commerce_step_args(b, args, first, place, &call->args,
                                  &call->args_count);

    /* at the operation cache is the whole reply's */

    if (rc == NGX_COMMERCE_OK && object != b->commerce) {
        rc = ngx_commerce_cache_load(b, object, place, &call->cache);
    }

    if (rc == NGX_COMMERCE_OK && call->cache.ttl != 0 && call->command) {
        return ngx_commerce_loader_fault(l, object,
                   ngx_commerce_place(place, "cache"),
                   "a call that writes cannot be cached");
    }

    return rc;
}


static ngx_commerce_rc_t
ngx_commerce_step_default_args(ngx_commerce_building_t *b,
    ngx_commerce_call_t *call)
{
    uint32_t             i;
    ngx_commerce_arg_t  *arg;

    call->args = ngx_commerce_zalloc(b->loader->alloc,
                                     b->inputs * sizeof(ngx_commerce_arg_t));
    if (call->args == NULL) {
        return NGX_COMMERCE_NOMEM;
    }

    call->args_count = b->inputs;

    for (i = 0; i < b->inputs; i++) {
        arg = &call->args[i];
        arg->name = b->op->slots[i];
        arg->parameter = arg->name;
        arg->slot = (int32_t) i;
    }

    return NGX_COMMERCE_OK;
}


static ngx_commerce_rc_t
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


static ngx_commerce_rc_t
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
