/*
 * What an operation does: calls, scripts and native handlers.
 */

#include "ngx_commerce_contract_internal.h"

#include <stdio.h>
#include <string.h>


static ngx_commerce_rc_t ngx_commerce_steps_list(ngx_commerce_building_t *b,
    const ngx_commerce_json_t *list, const ngx_commerce_place_t *up);
static ngx_commerce_rc_t ngx_commerce_steps_keyed(ngx_commerce_building_t *b);
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
    ngx_commerce_step_t *step, const ngx_commerce_json_t *object,
    const ngx_commerce_place_t *place);
static ngx_commerce_rc_t ngx_commerce_step_call(ngx_commerce_building_t *b,
    const ngx_commerce_json_t *object, bool first,
    const ngx_commerce_place_t *place, ngx_commerce_call_t **result);


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
        return ngx_commerce_step_native(b, step, b->commerce, place);
    }

    step->kind = NGX_COMMERCE_STEP_CALL;

    rc = ngx_commerce_step_call(b, b->commerce, true, place, &step->call);

    return rc == NGX_COMMERCE_OK ? ngx_commerce_steps_keyed(b) : rc;
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

        if (!op->steps[i].amend
            || op->steps[i].kind == NGX_COMMERCE_STEP_NATIVE)
        {
            op->last_step = i;
        }

        if (op->steps[i].amend && (op->steps[i].reply || replies == 0)) {
            return ngx_commerce_loader_fault(b->loader, item, &place,
                       "a step that amends stands after the one that says "
                       "reply: true");
        }
    }

    if (replies == 0) {
        op->reply_step = op->last_step;
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

    return ngx_commerce_steps_keyed(b);
}


/*
 * An answer is kept under the Idempotency-Key by the call that replies, and
 * found there by it before it does anything.  Calls that stand before it judge
 * the request by what the first one has changed (a token that is used up, a
 * password that is another), so the key is looked up before them.
 */

static ngx_commerce_rc_t
ngx_commerce_steps_keyed(ngx_commerce_building_t *b)
{
    bool                       judged;
    uint32_t                   i;
    ngx_commerce_call_t       *call;
    ngx_commerce_step_t       *steps, *reply;
    ngx_commerce_operation_t  *op;

    op = b->op;
    reply = &op->steps[op->reply_step];

    if (op->idempotency == NGX_COMMERCE_IDEMPOTENCY_NONE) {
        return NGX_COMMERCE_OK;
    }

    if (reply->kind != NGX_COMMERCE_STEP_CALL) {

        if (reply->down != NULL) {
            /* with Redis away the key is kept where the effect is */
            reply->down->keep_reply = reply->down->command;
        }

        return NGX_COMMERCE_OK;
    }

    reply->call->keep_reply = reply->call->command;
    judged = false;

    for (i = 0; i < op->reply_step; i++) {
        judged |= op->steps[i].kind == NGX_COMMERCE_STEP_CALL;
    }

    if (!judged) {
        return NGX_COMMERCE_OK;
    }

    call = ngx_commerce_zalloc(b->loader->alloc, sizeof(ngx_commerce_call_t));
    steps = ngx_commerce_zalloc(b->loader->alloc, (op->steps_count + 1)
                                                 * sizeof(ngx_commerce_step_t));
    if (call == NULL || steps == NULL) {
        return NGX_COMMERCE_NOMEM;
    }

    call->function = ngx_commerce_str("api.recall");
    call->lane = NGX_COMMERCE_LANE_WRITE;
    call->command = true;
    call->recall = true;

    steps[0].kind = NGX_COMMERCE_STEP_CALL;
    steps[0].when = -1;
    steps[0].call = call;

    memcpy(&steps[1], op->steps, op->steps_count * sizeof(ngx_commerce_step_t));

    op->steps = steps;
    op->steps_count++;
    op->reply_step++;
    op->last_step++;

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
        "call", "lane", "args", "cache", "gate", "reply", "optional", "amend",
        "when", NULL
    };
    static const char *const   scripts[] = {
        "script", "key", "args", "miss", "down", "backup", "reply", "optional",
        "when", NULL
    };
    static const char *const   natives[] = {
        "native", "key", "args", "reply", "optional", "amend", "when", NULL
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
        rc = ngx_commerce_loader_bool(b->loader, object, "amend", place,
                                      &step->amend);
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
        return ngx_commerce_step_native(b, step, object, place);
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
    const ngx_commerce_json_t *object, const ngx_commerce_place_t *place)
{
    ngx_commerce_rc_t             rc;
    const ngx_commerce_json_t    *key;
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

    key = ngx_commerce_json_get(object, "key");

    if (key != NULL) {
        rc = ngx_commerce_step_template(b, key, NGX_COMMERCE_TEMPLATE_KEY,
                                        ngx_commerce_place(place, "key"),
                                        &step->key);
        if (rc != NGX_COMMERCE_OK) {
            return rc;
        }
    }

    /* some bring what their args name */

    return ngx_commerce_step_args(b, ngx_commerce_json_get(object, "args"),
                                  false, place, &step->args,
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
    call->audited = call->command && b->op->auth >= NGX_COMMERCE_AUTH_STAFF;

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

    return rc == NGX_COMMERCE_OK
           ? ngx_commerce_gate_load(b, object, first, place, call) : rc;
}
