/*
 * One operation: who may call it, how it is guarded and cached.
 */

#include "ngx_commerce_contract_internal.h"

#include <stdio.h>
#include <string.h>


static ngx_commerce_rc_t ngx_commerce_operation_commerce(
    ngx_commerce_building_t *b, const ngx_commerce_place_t *place);
static ngx_commerce_rc_t ngx_commerce_operation_auth(
    ngx_commerce_building_t *b, const ngx_commerce_place_t *place);
static uint32_t ngx_commerce_operation_class(ngx_commerce_building_t *b,
    uint32_t lane);
static ngx_commerce_rc_t ngx_commerce_operation_limits(
    ngx_commerce_building_t *b, const ngx_commerce_place_t *place);
static ngx_commerce_rc_t ngx_commerce_operation_flag(
    ngx_commerce_building_t *b, const ngx_commerce_place_t *place);
static ngx_commerce_rc_t ngx_commerce_operation_ids(ngx_commerce_building_t *b,
    const ngx_commerce_place_t *place);
static ngx_commerce_rc_t ngx_commerce_operation_rules(
    ngx_commerce_building_t *b, const ngx_commerce_place_t *place);
static ngx_commerce_rc_t ngx_commerce_operation_slots(
    ngx_commerce_building_t *b);


int32_t
ngx_commerce_building_slot(ngx_commerce_building_t *b, ngx_commerce_str_t name)
{
    uint32_t                   i, room;
    ngx_commerce_str_t        *slots;
    ngx_commerce_operation_t  *op;

    op = b->op;

    for (i = 0; i < op->slots_count; i++) {
        if (op->slots[i].len == name.len
            && memcmp(op->slots[i].data, name.data, name.len) == 0)
        {
            return (int32_t) i;
        }
    }

    if (op->slots_count == b->room) {
        room = b->room ? b->room * 2 : 16;

        slots = ngx_commerce_zalloc(b->loader->alloc,
                                    room * sizeof(ngx_commerce_str_t));
        if (slots == NULL) {
            return -1;
        }

        if (op->slots_count != 0) {
            memcpy(slots, op->slots,
                   op->slots_count * sizeof(ngx_commerce_str_t));
        }

        op->slots = slots;
        b->room = room;
    }

    op->slots[op->slots_count] = name;

    return (int32_t) op->slots_count++;
}


int32_t
ngx_commerce_building_slot_new(ngx_commerce_building_t *b,
    ngx_commerce_str_t name)
{
    int32_t   slot;
    uint32_t  count;

    count = b->op->slots_count;
    slot = ngx_commerce_building_slot(b, name);

    return (slot >= 0 && b->op->slots_count == count) ? -2 : slot;
}


ngx_commerce_rc_t
ngx_commerce_operation_load(ngx_commerce_loader_t *l,
    ngx_commerce_operation_t *op, const ngx_commerce_json_t *item,
    const ngx_commerce_json_t *object, const ngx_commerce_place_t *place)
{
    ngx_commerce_rc_t         rc;
    ngx_commerce_place_t      inner;
    ngx_commerce_building_t   b;
    static const char *const  known[] = {
        "operationId", "tags", "summary", "description", "externalDocs",
        "parameters", "requestBody", "responses", "deprecated", "security",
        "servers", NULL
    };

    rc = ngx_commerce_loader_keys(l, object, place, true, known);

    if (rc == NGX_COMMERCE_OK) {
        rc = ngx_commerce_loader_text(l, object, "operationId", place, &op->id);
    }

    if (rc == NGX_COMMERCE_OK) {
        rc = ngx_commerce_loader_bool(l, object, "deprecated", place,
                                      &op->deprecated);
    }

    if (rc != NGX_COMMERCE_OK) {
        return rc;
    }

    if (!ngx_commerce_is_identifier(op->id)) {
        return ngx_commerce_loader_fault(l, object, place,
                   "needs an operationId of a-z, 0-9 and _, at most 63 "
                   "characters");
    }

    memset(&b, 0, sizeof(b));

    op->fields = -1;

    b.loader = l;
    b.op = op;
    b.object = object;
    b.commerce = ngx_commerce_json_get(object, "x-commerce");

    if (b.commerce == NULL) {
        return ngx_commerce_loader_fault(l, object, place,
                   "needs x-commerce: it says who may call and what is called");
    }

    inner.up = place;
    inner.name = ngx_commerce_str("x-commerce");

    rc = ngx_commerce_operation_commerce(&b, &inner);

    if (rc == NGX_COMMERCE_OK) {
        rc = ngx_commerce_inputs_load(&b, item, place);
    }

    if (rc == NGX_COMMERCE_OK) {
        rc = ngx_commerce_operation_ids(&b, &inner);
    }

    b.inputs = op->slots_count;

    if (rc == NGX_COMMERCE_OK) {
        rc = ngx_commerce_cache_load(&b, b.commerce, &inner, &op->cache);
    }

    if (rc == NGX_COMMERCE_OK) {
        rc = ngx_commerce_steps_load(&b, &inner);
    }

    if (rc == NGX_COMMERCE_OK) {
        rc = ngx_commerce_owner_load(&b, &inner);
    }

    if (rc == NGX_COMMERCE_OK) {
        rc = ngx_commerce_sealed_load(&b, place);
    }

    if (rc == NGX_COMMERCE_OK) {
        rc = ngx_commerce_operation_rules(&b, &inner);
    }

    return rc == NGX_COMMERCE_OK ? ngx_commerce_operation_slots(&b) : rc;
}


static ngx_commerce_rc_t
ngx_commerce_operation_commerce(ngx_commerce_building_t *b,
    const ngx_commerce_place_t *place)
{
    int64_t                    body_limit, members, depth;
    uint32_t                   tenant, lane, class, idempotency, conditional;
    ngx_commerce_rc_t          rc;
    ngx_commerce_loader_t     *l;
    ngx_commerce_operation_t  *op;
    static const char *const   known[] = {
        "auth", "tenant", "lane", "class", "limit", "idempotency", "cache",
        "conditional", "body", "body_limit", "max_members", "max_depth", "ids",
        "call", "native", "args", "steps", "owner", "flag", "gate", NULL
    };
    static const char *const   tenants[] = { "required", "none", NULL };
    static const char *const   lanes[] = { "read", "write", "slow", NULL };
    static const char *const   classes[] = { "health", "checkout", "cart",
                                             "browse", "export", NULL };
    static const char *const   keys[] = { "none", "optional", "required",
                                          NULL };
    static const char *const   conditions[] = { "none", "etag", "if-match",
                                                NULL };

    op = b->op;
    l = b->loader;

    tenant = lane = idempotency = conditional = 0;
    body_limit = 65536;
    members = 1000;
    depth = 32;

    rc = ngx_commerce_loader_keys(l, b->commerce, place, true, known);

    if (rc == NGX_COMMERCE_OK) {
        rc = ngx_commerce_operation_auth(b, place);
    }

    if (rc == NGX_COMMERCE_OK) {
        rc = ngx_commerce_operation_limits(b, place);
    }

    if (rc == NGX_COMMERCE_OK) {
        rc = ngx_commerce_operation_flag(b, place);
    }

#define ngx_commerce_then(kind, key, ...)                                     \
    if (rc == NGX_COMMERCE_OK) {                                              \
        rc = ngx_commerce_loader_##kind(l, b->commerce, key, place,           \
                                        __VA_ARGS__);                         \
    }

    ngx_commerce_then(word, "tenant", tenants, &tenant)
    ngx_commerce_then(word, "lane", lanes, &lane)

    class = ngx_commerce_operation_class(b, lane);

    ngx_commerce_then(word, "class", classes, &class)
    ngx_commerce_then(word, "idempotency", keys, &idempotency)
    ngx_commerce_then(word, "conditional", conditions, &conditional)
    ngx_commerce_then(number, "body_limit", &body_limit)
    ngx_commerce_then(number, "max_members", &members)
    ngx_commerce_then(number, "max_depth", &depth)

#undef ngx_commerce_then

    op->tenant = tenant == 0;
    op->rank = (ngx_commerce_class_t) class;
    op->idempotency = (ngx_commerce_idempotency_t) idempotency;
    op->conditional = (ngx_commerce_conditional_t) conditional;
    op->body_limit = (size_t) body_limit;
    op->body_limits.max_members = (uint32_t) members;
    op->body_limits.max_depth = (uint32_t) depth;
    op->body_limits.nfc = true;

    b->lane = (ngx_commerce_lane_t) lane;
    b->has_lane = ngx_commerce_json_get(b->commerce, "lane") != NULL;

    return rc;
}


/*
 * Without "class": reading is browsing, slow work of staff is an export, a
 * customer's command is on the way to an order or, with the tags orders and
 * identity, the last step there.
 */

static uint32_t
ngx_commerce_operation_class(ngx_commerce_building_t *b, uint32_t lane)
{
    bool                        staff;
    ngx_commerce_str_t          tag;
    const ngx_commerce_json_t  *tags;

    tags = ngx_commerce_json_get(b->object, "tags");
    tag = ngx_commerce_str("");

    if (tags && tags->type == NGX_COMMERCE_JSON_ARRAY && tags->child
        && tags->child->type == NGX_COMMERCE_JSON_STRING)
    {
        tag = tags->child->text;
    }

    staff = b->op->auth == NGX_COMMERCE_AUTH_STAFF
            || b->op->auth == NGX_COMMERCE_AUTH_SERVICE;

    if (ngx_commerce_str_is(tag, "operations") && !staff) {
        return NGX_COMMERCE_CLASS_HEALTH;
    }

    if (lane == NGX_COMMERCE_LANE_SLOW && staff) {
        return NGX_COMMERCE_CLASS_EXPORT;
    }

    if (ngx_commerce_str_is(tag, "cart")) {
        return NGX_COMMERCE_CLASS_CART;
    }

    if (b->op->method == NGX_COMMERCE_GET) {
        return NGX_COMMERCE_CLASS_BROWSE;
    }

    if (!staff && (ngx_commerce_str_is(tag, "orders")
                   || ngx_commerce_str_is(tag, "identity")))
    {
        return NGX_COMMERCE_CLASS_CHECKOUT;
    }

    return NGX_COMMERCE_CLASS_CART;
}


static ngx_commerce_rc_t
ngx_commerce_operation_auth(ngx_commerce_building_t *b,
    const ngx_commerce_place_t *place)
{
    size_t                      i;
    ngx_commerce_operation_t   *op;
    const ngx_commerce_json_t  *auth;
    static const char *const    words[] = {
        "public", "optional", "customer", "staff", "service", "platform"
    };

    op = b->op;
    auth = ngx_commerce_json_get(b->commerce, "auth");

    if (auth == NULL) {
        return ngx_commerce_loader_fault(b->loader, b->commerce, place,
                   "auth is missing and has no default; write public, "
                   "optional, customer, staff, staff:<permission>, service, "
                   "service:<permission> or platform");
    }

    for (i = 0; i < 6 && auth->type == NGX_COMMERCE_JSON_STRING; i++) {
        if (ngx_commerce_str_is(auth->text, words[i])) {
            op->auth = (ngx_commerce_auth_t) i;
            return NGX_COMMERCE_OK;
        }
    }

    if (auth->type == NGX_COMMERCE_JSON_STRING && auth->text.len > 6
        && memcmp(auth->text.data, "staff:", 6) == 0)
    {
        op->auth = NGX_COMMERCE_AUTH_STAFF;
        op->permission.data = auth->text.data + 6;
        op->permission.len = auth->text.len - 6;
        return NGX_COMMERCE_OK;
    }

    if (auth->type == NGX_COMMERCE_JSON_STRING && auth->text.len > 8
        && memcmp(auth->text.data, "service:", 8) == 0)
    {
        op->auth = NGX_COMMERCE_AUTH_SERVICE;
        op->permission.data = auth->text.data + 8;
        op->permission.len = auth->text.len - 8;
        return NGX_COMMERCE_OK;
    }

    return ngx_commerce_loader_fault(b->loader, auth,
               ngx_commerce_place(place, "auth"),
               "%.*s is none of public, optional, customer, staff, "
               "staff:<permission>, service, service:<permission>, platform",
               (int) auth->raw.len,
               (char *) auth->raw.data);
}


static ngx_commerce_rc_t
ngx_commerce_operation_limits(ngx_commerce_building_t *b,
    const ngx_commerce_place_t *place)
{
    ngx_commerce_operation_t   *op;
    const ngx_commerce_json_t  *limit, *item;

    op = b->op;
    limit = ngx_commerce_json_get(b->commerce, "limit");

    if (limit == NULL) {
        return NGX_COMMERCE_OK;
    }

    item = limit->type == NGX_COMMERCE_JSON_ARRAY ? limit->child : limit;

    op->limits = ngx_commerce_zalloc(b->loader->alloc,
                             (limit->count + 1) * sizeof(ngx_commerce_str_t));
    if (op->limits == NULL) {
        return NGX_COMMERCE_NOMEM;
    }

    for ( /* void */ ; item != NULL; item = item == limit ? NULL : item->next) {
        if (item->type != NGX_COMMERCE_JSON_STRING || item->text.len == 0) {
            return ngx_commerce_loader_fault(b->loader, item,
                       ngx_commerce_place(place, "limit"),
                       "must name a policy of commerce_limit_policy, or a list "
                       "of such names");
        }

        op->limits[op->limits_count++] = item->text;
    }

    return NGX_COMMERCE_OK;
}


/* A flag's name is a part of a variable's: $commerce_flag_NAME. */

static ngx_commerce_rc_t
ngx_commerce_operation_flag(ngx_commerce_building_t *b,
    const ngx_commerce_place_t *place)
{
    const ngx_commerce_json_t  *flag;

    flag = ngx_commerce_json_get(b->commerce, "flag");

    if (flag == NULL) {
        return NGX_COMMERCE_OK;
    }

    if (flag->type != NGX_COMMERCE_JSON_STRING
        || !ngx_commerce_is_identifier(flag->text))
    {
        return ngx_commerce_loader_fault(b->loader, flag,
                   ngx_commerce_place(place, "flag"),
                   "must name a feature flag, of a-z, 0-9 and _");
    }

    b->op->flag = flag->text;

    return NGX_COMMERCE_OK;
}


static ngx_commerce_rc_t
ngx_commerce_operation_ids(ngx_commerce_building_t *b,
    const ngx_commerce_place_t *place)
{
    uint32_t                    slots;
    ngx_commerce_operation_t   *op;
    const ngx_commerce_json_t  *ids, *item;

    op = b->op;
    ids = ngx_commerce_json_get(b->commerce, "ids");

    if (ids == NULL) {
        return NGX_COMMERCE_OK;
    }

    op->ids = ngx_commerce_zalloc(b->loader->alloc,
                                  (ids->count + 1) * sizeof(int32_t));
    if (op->ids == NULL) {
        return NGX_COMMERCE_NOMEM;
    }

    if (ids->type != NGX_COMMERCE_JSON_ARRAY) {
        return ngx_commerce_loader_fault(b->loader, ids,
                   ngx_commerce_place(place, "ids"), "must be a list of names");
    }

    for (item = ids->child; item != NULL; item = item->next) {
        slots = op->slots_count;

        if (item->type != NGX_COMMERCE_JSON_STRING
            || !ngx_commerce_is_identifier(item->text))
        {
            return ngx_commerce_loader_fault(b->loader, item,
                       ngx_commerce_place(place, "ids"),
                       "must list names of a-z, 0-9 and _");
        }

        op->ids[op->ids_count] = ngx_commerce_building_slot(b, item->text);

        if (op->ids[op->ids_count++] < 0) {
            return NGX_COMMERCE_NOMEM;
        }

        if (op->slots_count == slots) {
            return ngx_commerce_loader_fault(b->loader, item,
                       ngx_commerce_place(place, "ids"),
                       "%.*s is a parameter or member already: a client would "
                       "choose the id", (int) item->text.len,
                       (char *) item->text.data);
        }
    }

    return NGX_COMMERCE_OK;
}


/* What does not go together. */

static ngx_commerce_rc_t
ngx_commerce_operation_rules(ngx_commerce_building_t *b,
    const ngx_commerce_place_t *place)
{
    const char                  *why;
    ngx_commerce_operation_t    *op;
    const ngx_commerce_step_t   *reply;

    op = b->op;
    why = NULL;
    reply = &op->steps[op->reply_step];

    if (op->cache.ttl != 0 && op->method != NGX_COMMERCE_GET) {
        why = "cache is for GET only";

    } else if (op->cache.ttl != 0 && op->auth != NGX_COMMERCE_AUTH_PUBLIC) {
        why = "cache needs auth: public, or one caller's reply is another's";

    } else if (op->conditional == NGX_COMMERCE_CONDITIONAL_ETAG
               && op->method != NGX_COMMERCE_GET)
    {
        why = "conditional: etag is for GET only";

    } else if (op->conditional == NGX_COMMERCE_CONDITIONAL_IF_MATCH
               && op->method == NGX_COMMERCE_GET)
    {
        why = "conditional: if-match is for writes only";

    } else if (op->idempotency != NGX_COMMERCE_IDEMPOTENCY_NONE
               && op->method == NGX_COMMERCE_GET)
    {
        why = "idempotency is for writes only: GET is idempotent";

    } else if (op->idempotency != NGX_COMMERCE_IDEMPOTENCY_NONE
               && reply->kind == NGX_COMMERCE_STEP_CALL
               && !reply->call->command)
    {
        why = "idempotency keeps the reply with the effect: the step that "
              "replies must be on lane: write";

    } else if (op->idempotency != NGX_COMMERCE_IDEMPOTENCY_NONE
               && reply->kind == NGX_COMMERCE_STEP_NATIVE)
    {
        why = "idempotency keeps the reply with the effect: the step that "
              "replies must be a call or a script, not a handler of the module";

    } else if (op->idempotency != NGX_COMMERCE_IDEMPOTENCY_NONE
               && !op->tenant)
    {
        why = "idempotency does not go with tenant: none, a key is kept by "
              "the tenant's";

    } else if (!op->tenant && (op->auth == NGX_COMMERCE_AUTH_CUSTOMER
                               || op->auth == NGX_COMMERCE_AUTH_OPTIONAL
                               || op->auth == NGX_COMMERCE_AUTH_PLATFORM))
    {
        why = "tenant: none goes with auth public, staff or service only: a "
              "customer belongs to a tenant, the platform's staff too";

    } else if (!op->tenant && op->flag.len != 0) {
        why = "flag is a tenant's: it does not go with tenant: none";
    }

    return why == NULL ? NGX_COMMERCE_OK
           : ngx_commerce_loader_fault(b->loader, b->commerce, place, "%s",
                                       why);
}


static ngx_commerce_rc_t
ngx_commerce_operation_slots(ngx_commerce_building_t *b)
{
    ngx_commerce_names_t  *names;

    names = ngx_commerce_zalloc(b->loader->alloc, sizeof(ngx_commerce_names_t));
    if (names == NULL) {
        return NGX_COMMERCE_NOMEM;
    }

    b->op->slot_names = names;

    return ngx_commerce_names_build(names, b->loader->alloc, b->op->slots,
                                    b->op->slots_count);
}


int32_t
ngx_commerce_operation_slot(const ngx_commerce_operation_t *op,
    const uint8_t *name, size_t len)
{
    return ngx_commerce_names_find(op->slot_names, name, len);
}
