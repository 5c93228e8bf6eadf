/* Contracts: what a bundle compiles to, each fault's words, and the routes. */

#include "unit.h"

#include <stdio.h>


/* Single quotes stand for double ones: the contracts here stay readable. */

static char *
bundle(unit_arena_t *arena, const char *text)
{
    char  *copy, *p;

    copy = (char *) unit_tight(arena, text, strlen(text) + 1);

    for (p = copy; *p != '\0'; p++) {
        *p = *p == '\'' ? '"' : *p;
    }

    return copy;
}


static bool
native_known(ngx_commerce_str_t name)
{
    return name.len == 6 && memcmp(name.data, "health", 6) == 0;
}


static ngx_commerce_rc_t
load(unit_arena_t *arena, ngx_commerce_contract_t *contract, const char *file,
    const char *text, ngx_commerce_fault_t *fault)
{
    char  *copy = bundle(arena, text);

    return ngx_commerce_contract_add(contract, file, (uint8_t *) copy,
                                     strlen(copy), fault);
}


#define GET(id, more)                                                         \
    "'get':{'operationId':'" id "','x-commerce':{'auth':'public',"            \
    "'lane':'read','call':'api." id "'}" more "}"
#define ID                                                                    \
    ",'parameters':[{'name':'id','in':'path','required':true,"                \
    "'schema':{'type':'integer'}}]"

static const char  shop[] =
    "{'openapi':'3.1.0','paths':{"
    "'/api/v1/products':{" GET("product_list",
        ",'parameters':[{'$ref':'#/components/parameters/Limit'},"
        "{'name':'X-Trace','in':'header','x-name':'trace','schema':{'type':'string'}}]")
    ",'post':{'operationId':'product_add','requestBody':{'required':true,"
        "'content':{'application/json':{'schema':{'$ref':'#/components/schemas/P'}}}},"
        "'x-commerce':{'auth':'staff:catalog.write','lane':'write',"
        "'idempotency':'optional','limit':['a','b'],'ids':['new_id'],"
        "'body_limit':100,'max_members':5,'max_depth':2,'call':'api.product_add'}}},"
    "'/api/v1/products/{id}':{" GET("product_get", ID) "},"
    "'/api/v1/products/search':{" GET("product_search", "") "},"
    "'/api/v1/products/{id}/reviews':{" GET("review_list", ID) "},"
    "'/api/v1/products/search/reviews':{'x-aliases':['/find'],"
        GET("search_reviews", "") "},"
    "'/api/v1/sales':{'parameters':[{'name':'idempotency-KEY','in':'header','schema':{}}],"
        "'post':{'operationId':'sale','x-commerce':{'auth':'public','lane':'write',"
        "'idempotency':'optional','call':'api.sale'}}},"
    "'/api/v1/sales/kept':{'post':{'operationId':'sale_kept','parameters':["
        "{'name':'Idempotency-Key','in':'header','x-name':'mark','schema':{}}],"
        "'x-commerce':{'auth':'public','lane':'write','idempotency':'required','call':'api.sale'}}},"
    "'/api/v1/shops/{shop}/items/{item}':{'x-aliases':['/i/{item}/of/{shop}'],"
        "'parameters':[{'name':'item','in':'path','required':true,'schema':{}},"
        "{'name':'shop','in':'path','required':true,'schema':{}}],"
        GET("shop_item", "") "},"
    "'/api/v1/cart':{'get':{'operationId':'cart','x-commerce':{'auth':'optional',"
        "'lane':'read','steps':["
        "{'script':'cart_read','key':'cart:{$tenant_id:$cart_owner}',"
          "'miss':{'call':'api.restore','args':['owner=$cart_owner']},"
          "'down':{'call':'api.load','args':['$cart_owner']},'backup':'api.keep'},"
        "{'call':'api.view','args':['items','v=version'],'reply':true,"
          "'cache':{'ttl':5,'tags':['all','product:{product_id}:x']}},"
        "{'call':'api.note','lane':'write','args':[],'optional':true,'when':'items'}"
        "]}}},"
    "'/api/v1/things':{'get':{'operationId':'thing_list','parameters':["
        "{'name':'q','in':'query','schema':{'type':'string'}},"
        "{'name':'sort','in':'query','x-list':'sort','schema':{'type':'array'}},"
        "{'name':'fields','in':'query','x-list':'fields','schema':{'type':'array'}},"
        "{'name':'expand','in':'query','x-list':'expand','schema':{'type':'array'}}],"
        "'x-commerce':{'auth':'public','lane':'read','steps':[{'call':'api.things'},{'call':'api.thing_list','reply':true},"
        "{'call':'api.more','when':'expand','args':['reply=$reply','expand'],'amend':true}]}}},"
    "'/':{" GET("root", "") "},"
    "'/health':{'get':{'operationId':'health','x-commerce':{'auth':'public',"
        "'tenant':'none','native':'health'}}}"
    "},'components':{'parameters':{'Limit':{'name':'limit','in':'query',"
    "'schema':{'type':'integer','default':20}}},'schemas':{'P':{'type':'object',"
    "'properties':{'name':{'type':'string'},'brand':{'type':'string'}}}}}}";


static const ngx_commerce_operation_t *
operation(const ngx_commerce_contract_t *contract, const char *id)
{
    uint32_t                         i;
    const ngx_commerce_operation_t  *op;

    for (i = 0; i < ngx_commerce_contract_count(contract); i++) {
        op = ngx_commerce_contract_operation(contract, i);
        assert_int_equal(op->index, i);

        if (op->id.len == strlen(id) && memcmp(op->id.data, id, op->id.len) == 0) {
            return op;
        }
    }

    fail_msg("no operation %s", id);
    return NULL;
}


static ngx_commerce_contract_t *
shop_load(unit_arena_t *arena)
{
    ngx_commerce_fault_t      fault;
    ngx_commerce_contract_t  *contract;

    contract = ngx_commerce_contract_create(&arena->alloc, native_known);

    if (load(arena, contract, "shop.json", shop, &fault) != NGX_COMMERCE_OK) {
        fail_msg("%s: %s", fault.place, fault.message);
    }

    return contract;
}


static void
test_operation(void **state)
{
    unit_arena_t                     arena;
    ngx_commerce_contract_t         *contract;
    const ngx_commerce_call_t       *call;
    const ngx_commerce_operation_t  *op;

    (void) state;
    unit_arena(&arena);
    contract = shop_load(&arena);
    assert_null(ngx_commerce_contract_operation(contract, 99));

    op = operation(contract, "product_add");
    assert_int_equal(op->method, NGX_COMMERCE_POST);
    assert_int_equal(op->auth, NGX_COMMERCE_AUTH_STAFF);
    unit_is(op->permission, "catalog.write");
    assert_true(op->tenant);
    assert_int_equal(op->limits_count, 2);
    unit_is(op->limits[1], "b");
    assert_int_equal(op->body_limit, 100);
    assert_int_equal(op->body_limits.max_members, 5);
    assert_int_equal(op->body_limits.max_depth, 2);
    assert_true(op->body_required);
    assert_int_equal(op->members_count, 2);
    unit_is(op->members[0].name, "brand");
    assert_int_equal(op->ids_count, 1);

    call = op->steps[op->reply_step].call;
    assert_true(call->command);
    assert_true(call->keep_reply);
    assert_int_equal(call->args_count, 3);
    unit_is(call->args[2].name, "new_id");
    assert_int_equal(ngx_commerce_operation_slot(op, (uint8_t *) "new_id", 6),
                     call->args[2].slot);
    assert_int_equal(ngx_commerce_operation_slot(op, (uint8_t *) "none", 4), -1);

    op = operation(contract, "thing_list");
    assert_int_equal(op->reply_step, 1);
    assert_int_equal(op->last_step, 1);
    assert_true(op->steps[2].amend);
    /* q and sort are SQL's, fields and expand the engine's */
    assert_int_equal(op->steps[1].call->args_count, 2);
    unit_is(op->steps[1].call->args[1].parameter, "sort");
    assert_int_equal(op->fields, ngx_commerce_operation_slot(op, (uint8_t *) "fields", 6));
    unit_is(op->steps[2].call->args[0].name, "$reply");

    op = operation(contract, "product_list");
    assert_int_equal(op->params_count, 2);
    unit_is(op->params[1].wire, "x-trace");
    unit_is(op->params[1].name, "trace");
    assert_false(op->steps[0].call->command);
    assert_false(op->steps[0].call->keep_reply);

    /* path parameters in the order of the template, not of the declaration */
    op = operation(contract, "shop_item");
    unit_is(op->params[0].name, "shop");
    unit_is(op->params[1].name, "item");

    op = operation(contract, "health");
    assert_false(op->tenant);
    assert_int_equal(op->steps[0].kind, NGX_COMMERCE_STEP_NATIVE);

    unit_free(&arena);
}


/* A key is looked up before calls that stand before the one that replies, and only there. */

static void
test_steps_keyed(void **state)
{
    char                             text[512];
    uint32_t                         i;
    unit_arena_t                     arena;
    ngx_commerce_fault_t             fault;
    ngx_commerce_contract_t         *contract;
    const ngx_commerce_operation_t  *op;
    static const struct {
        const char  *steps;
        uint32_t     count;
        uint32_t     reply;
    } cases[] = {
        { "[{'call':'api.a','lane':'read'},{'call':'api.b'}]", 3, 2 },
        { "[{'call':'api.a'},{'call':'api.b','reply':true},"
          "{'call':'api.c'}]", 4, 2 },
        { "[{'native':'health'},{'call':'api.b'}]", 2, 1 },
        { "[{'call':'api.b','reply':true},{'call':'api.c'}]", 2, 0 },
    };

    (void) state;

    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        snprintf(text, sizeof(text), "{'openapi':'3.1.0','paths':{'/a':{'post':{"
                 "'operationId':'a','x-commerce':{'auth':'public',"
                 "'lane':'write','idempotency':'optional','steps':%s}}}}}",
                 cases[i].steps);

        unit_arena(&arena);
        contract = ngx_commerce_contract_create(&arena.alloc, native_known);

        if (load(&arena, contract, "keyed.json", text, &fault)
            != NGX_COMMERCE_OK)
        {
            fail_msg("%s: %s", fault.place, fault.message);
        }

        op = operation(contract, "a");

        assert_int_equal(op->steps_count, cases[i].count);
        assert_int_equal(op->reply_step, cases[i].reply);
        assert_true(op->steps[op->reply_step].reply);
        assert_true(op->steps[op->reply_step].call->keep_reply);

        if (cases[i].reply == 2) {
            unit_is(op->steps[0].call->function, "api.recall");
            assert_true(op->steps[0].call->recall);
            assert_false(op->steps[0].call->audited);
            assert_false(op->steps[1].call->keep_reply);
        }

        unit_free(&arena);
    }
}


/* What the edge reads itself is declared for clients, and no call gets it, unless it has a name of its own. */

static void
test_operation_key(void **state)
{
    unit_arena_t                     arena;
    ngx_commerce_contract_t         *contract;
    const ngx_commerce_operation_t  *op;

    (void) state;
    unit_arena(&arena);
    contract = shop_load(&arena);

    op = operation(contract, "sale");
    assert_int_equal(op->idempotency, NGX_COMMERCE_IDEMPOTENCY_OPTIONAL);
    assert_int_equal(op->params_count, 0);
    assert_int_equal(op->steps[0].call->args_count, 0);

    op = operation(contract, "sale_kept");
    assert_int_equal(op->idempotency, NGX_COMMERCE_IDEMPOTENCY_REQUIRED);
    assert_int_equal(op->params_count, 1);
    unit_is(op->steps[0].call->args[0].name, "mark");

    unit_free(&arena);
}


static void
test_steps(void **state)
{
    unit_arena_t                     arena;
    const ngx_commerce_step_t       *s;
    const ngx_commerce_operation_t  *op;

    (void) state;
    unit_arena(&arena);
    op = operation(shop_load(&arena), "cart");

    assert_int_equal(op->steps_count, 3);
    assert_int_equal(op->reply_step, 1);

    s = &op->steps[0];
    assert_int_equal(s->kind, NGX_COMMERCE_STEP_SCRIPT);
    assert_int_equal(s->key.count, 5);
    unit_is(s->key.parts[0].text, "cart:{");
    unit_is(s->key.parts[1].text, "$tenant_id");
    assert_true(s->key.parts[1].name);
    unit_is(s->key.parts[2].text, ":");
    unit_is(s->key.parts[3].text, "$cart_owner");
    unit_is(s->key.parts[4].text, "}");
    unit_is(s->backup, "api.keep");
    unit_is(s->miss->args[0].parameter, "owner");
    unit_is(s->miss->args[0].name, "$cart_owner");
    assert_int_equal(s->miss->args[0].slot, -1);
    unit_is(s->down->args[0].parameter, "cart_owner");

    s = &op->steps[1];
    unit_is(s->call->args[1].parameter, "v");
    unit_is(s->call->args[1].name, "version");
    assert_int_equal(s->call->cache.ttl, 5);
    assert_int_equal(s->call->cache.tags[1].count, 3);
    unit_is(s->call->cache.tags[1].parts[1].text, "product_id");
    assert_int_equal(s->call->cache.tags[1].parts[1].slot,
                     ngx_commerce_operation_slot(op, (uint8_t *) "product_id",
                                                 10));
    s = &op->steps[2];
    assert_true(s->optional);
    assert_true(s->call->command);
    assert_int_equal(s->when,
                     ngx_commerce_operation_slot(op, (uint8_t *) "items", 5));

    unit_free(&arena);
}


static const struct {
    ngx_commerce_method_t   method;
    const char             *path;
    const char             *id;         /* NULL: 405, "": 404 */
    const char             *allow;
    bool                    alias;
    bool                    deprecated;
    const char             *params;     /* joined by commas */
}  routes[] = {
    { NGX_COMMERCE_GET, "/api/v1/products", "product_list", "GET, HEAD, POST, OPTIONS", 0, 0, "" },
    { NGX_COMMERCE_POST, "/api/v1/products", "product_add", "GET, HEAD, POST, OPTIONS", 0, 0, "" },
    { NGX_COMMERCE_DELETE, "/api/v1/products", NULL, "GET, HEAD, POST, OPTIONS", 0, 0, "" },
    { NGX_COMMERCE_METHODS, "/api/v1/products", NULL, "GET, HEAD, POST, OPTIONS", 0, 0, "" },
    { NGX_COMMERCE_GET, "/api/products", "product_list", "GET, HEAD, POST, OPTIONS", 1, 1, "" },
    { NGX_COMMERCE_GET, "/api/v1/products/7", "product_get", "GET, HEAD, OPTIONS", 0, 0, "7" },
    { NGX_COMMERCE_GET, "/api/v1/products/%37", "product_get", "GET, HEAD, OPTIONS", 0, 0, "%37" },
    { NGX_COMMERCE_GET, "/api/v1/products/search", "product_search", "GET, HEAD, OPTIONS", 0, 0, "" },
    { NGX_COMMERCE_GET, "/api/v1/products/searching", "product_get", "GET, HEAD, OPTIONS", 0, 0, "searching" },
    { NGX_COMMERCE_GET, "/api/v1/products/7/reviews", "review_list", "GET, HEAD, OPTIONS", 0, 0, "7" },
    { NGX_COMMERCE_GET, "/api/v1/products/search/reviews", "search_reviews", "GET, HEAD, OPTIONS", 0, 0, "" },
    { NGX_COMMERCE_GET, "/find", "search_reviews", "GET, HEAD, OPTIONS", 1, 0, "" },
    { NGX_COMMERCE_GET, "/api/v1/shops/a/items/b", "shop_item", "GET, HEAD, OPTIONS", 0, 0, "a,b" },
    { NGX_COMMERCE_GET, "/i/b/of/a", "shop_item", "GET, HEAD, OPTIONS", 1, 0, "a,b" },
    { NGX_COMMERCE_GET, "/health", "health", "GET, HEAD, OPTIONS", 0, 0, "" },
    { NGX_COMMERCE_GET, "", "", NULL, 0, 0, "" },
    { NGX_COMMERCE_GET, "/", "root", "GET, HEAD, OPTIONS", 0, 0, "" },
    { NGX_COMMERCE_GET, "//", "", NULL, 0, 0, "" },
    { NGX_COMMERCE_GET, "health", "", NULL, 0, 0, "" },
    { NGX_COMMERCE_GET, "/health/", "", NULL, 0, 0, "" },
    { NGX_COMMERCE_GET, "//health", "", NULL, 0, 0, "" },
    { NGX_COMMERCE_GET, "/api/v1/products/", "", NULL, 0, 0, "" },
    { NGX_COMMERCE_GET, "/api/v1/products/..", "", NULL, 0, 0, "" },
    { NGX_COMMERCE_GET, "/api/v1/products/.", "", NULL, 0, 0, "" },
    { NGX_COMMERCE_GET, "/api/v1/products/7/nothing", "", NULL, 0, 0, "" },
    { NGX_COMMERCE_GET, "/api/v1/products/7/reviews/1", "", NULL, 0, 0, "" },
    { NGX_COMMERCE_GET, "/api/v1", "", NULL, 0, 0, "" },
    { NGX_COMMERCE_GET, "/API/v1/products", "", NULL, 0, 0, "" },
};


static void
test_routes(void **state)
{
    char                      joined[64];
    bool                      found;
    size_t                    i;
    uint32_t                  k;
    unit_arena_t              arena;
    ngx_commerce_match_t      match;
    ngx_commerce_contract_t  *contract;

    (void) state;
    unit_arena(&arena);
    contract = shop_load(&arena);

    arena.left = 0;                     /* a match allocates nothing */

    for (i = 0; i < sizeof(routes) / sizeof(routes[0]); i++) {
        found = ngx_commerce_contract_match(contract, routes[i].method,
                                            (const uint8_t *) routes[i].path,
                                            strlen(routes[i].path), &match);

        if (routes[i].id != NULL && routes[i].id[0] == '\0') {
            if (found) {
                fail_msg("%s is found", routes[i].path);
            }

            continue;
        }

        if (!found) {
            fail_msg("%s is not found", routes[i].path);
        }

        assert_string_equal(match.allow, routes[i].allow);

        if (routes[i].id == NULL) {
            assert_null(match.op);
            continue;
        }

        if (match.op == NULL) {
            fail_msg("%s has no operation", routes[i].path);
        }

        unit_is(match.op->id, routes[i].id);
        assert_int_equal(match.alias, routes[i].alias);
        assert_int_equal(match.deprecated_path, routes[i].deprecated);

        for (joined[0] = '\0', k = 0; k < match.params_count; k++) {
            sprintf(joined + strlen(joined), "%s%.*s", k ? "," : "",
                    (int) match.params[k].len, match.params[k].data);
        }

        assert_string_equal(joined, routes[i].params);
    }

    unit_free(&arena);
}


#define PATHS(s)  "{'paths':{" s "}}"
#define OP(s)     PATHS("'/a':{'get':{'operationId':'a'," s "}}")
#define POST(s)   PATHS("'/a':{'post':{'operationId':'a'," s "}}")
#define X(s)      OP("'x-commerce':{" s "}")
#define CALL      "'auth':'public','lane':'read','call':'api.a'"
#define WRITE     "'auth':'public','lane':'write','call':'api.a'"
#define GATE      "'want':'n','refusal':'r','tag':'t','by':['id']"
#define BODY(s)   "'requestBody':{'content':{" s "}}"
#define JSON(s)   BODY("'application/json':{'schema':" s "}")
#define STEPS(s)  X("'auth':'public','lane':'read','steps':[" s "]")
#define KEY(s)    "'parameters':[{'name':'Idempotency-Key','in':'header'" s ",'schema':{}}]"
#define PARAM(s)  OP("'parameters':[" s "],'x-commerce':{" CALL "}")

static const struct {
    const char  *text;
    const char  *message;
    const char  *place;
}  faults[] = {
    { "{'paths':", "not JSON (syntax)", "/paths" },
    { "{'paths':{'/a':1,'/a':2}}", "not JSON (duplicate-key)", "/paths/~1a" },
    { "{}", "there is no object \"paths\"", "" },
    { PATHS("'a':{}"), "must begin with a slash", "paths.a" },
    { PATHS("'/a/':{}"), "must not have empty segments or end with a slash", "paths./a/" },
    { PATHS("'/a/{b}.json':{}"), "a segment must be a literal or one {parameter}", "paths./a/{b}.json" },
    { PATHS("'/{a}/{a}':{}"), "two parameters of one name", "paths./{a}/{a}" },
    { PATHS("'/a':{'head':{}}"), "HEAD is served by get", "paths./a" },
    { PATHS("'/a':{'gte':{}}"), "unknown key; known are get, post", "paths./a.gte" },
    { OP("'x':1"), "unknown key", "paths./a.get.x" },
    { PATHS("'/a':{'get':{'x-commerce':{}}}"), "needs an operationId", "paths./a.get" },
    { PATHS("'/a':{'get':{'operationId':'a-b'}}"), "needs an operationId of a-z", "paths./a.get" },
    { OP("'tags':[]"), "needs x-commerce", "paths./a.get" },
    { X("'lane':'read','call':'api.a'"), "auth is missing and has no default", "paths./a.get.x-commerce" },
    { X("'auth':'everyone','lane':'read','call':'api.a'"), "\"everyone\" is none of public", "paths./a.get.x-commerce.auth" },
    { X("'auth':'staff:','lane':'read','call':'api.a'"), "is none of public", "paths./a.get.x-commerce.auth" },
    { X(CALL ",'cahce':{}"), "unknown key; known are auth", "paths./a.get.x-commerce.cahce" },
    { X("'auth':'public','call':'api.a'"), "a call needs a lane", "paths./a.get.x-commerce" },
    { X("'auth':'public','lane':'fast','call':'api.a'"), "\"fast\" is none of read, write, slow", "paths./a.get.x-commerce.lane" },
    { X("'auth':'public','lane':'read'"), "exactly one of call, native and steps", "paths./a.get.x-commerce" },
    { X(CALL ",'steps':[]"), "exactly one of call, native and steps", "paths./a.get.x-commerce" },
    { X("'auth':'public','lane':'read','steps':[{'call':'api.a'},{'call':'api.b','amend':true}]"),
      "stands after the one that says reply: true", "paths./a.get.x-commerce.steps.1" },
    { OP("'x-commerce':{" CALL "},'parameters':[{'name':'fields','in':'query','x-list':'fields','schema':{'type':'string'}}]"),
      "x-list is for a query parameter of type array", "paths./a.get.parameters.0" },
    { OP("'x-commerce':{" CALL "},'parameters':[{'name':'fields','in':'query','x-list':'pick','schema':{'type':'array'}}]"),
      "is none of none, sort, fields, expand", "paths./a.get.parameters.0.x-list" },
    { X("'auth':'public','lane':'read','call':'pg_sleep'"), "must be a function of the schema api", "paths./a.get.x-commerce.call" },
    { X("'auth':'public','lane':'read','call':'api.a;b'"), "must be a function of the schema api", "paths./a.get.x-commerce.call" },
    { X("'auth':'public','native':'nothing'"), "the module has no handler \"nothing\"", "paths./a.get.x-commerce.native" },
    { X(CALL ",'limit':1"), "must name a policy", "paths./a.get.x-commerce.limit" },
    { X(CALL ",'tenant':'some'"), "is none of required, none", "paths./a.get.x-commerce.tenant" },
    { X(CALL ",'body_limit':'64k'"), "integer from 1 up", "paths./a.get.x-commerce.body_limit" },
    { X(CALL ",'cache':{'ttl':'60s'}"), "integer from 1 up", "paths./a.get.x-commerce.cache.ttl" },
    { X(CALL ",'gate':{'ttl':1}"), "is for commands", "paths./a.get.x-commerce.gate" },
    { POST("'x-commerce':{" WRITE ",'gate':{" GATE "}}"), "needs each", "paths./a.post.x-commerce.gate" },
    { POST("'x-commerce':{" WRITE ",'gate':{" GATE ",'each':'x','ttl':1}}"), "\"x\"", "paths./a.post.x-commerce.gate.each" },
    { POST("'x-commerce':{" WRITE ",'gate':{'each':'x','ttl':1}}"), "needs want", "paths./a.post.x-commerce.gate" },
    { POST("'x-commerce':{" WRITE ",'gate':{'want':'n','refusal':'r','tag':'t','each':'x','ttl':1,'by':['A b']}}"),
      "by lists names", "paths./a.post.x-commerce.gate" },
    { X(CALL ",'cache':{}"), "needs ttl in seconds", "paths./a.get.x-commerce.cache" },
    { X(CALL ",'cache':{'ttl':1,'tags':['a:{b']}"), "stands in braces", "paths./a.get.x-commerce.cache.tags" },
    { X("'auth':'customer','lane':'read','call':'api.a','cache':{'ttl':1}"), "cache needs auth: public", "paths./a.get.x-commerce" },
    { POST("'x-commerce':{" CALL ",'cache':{'ttl':1}}"), "cache is for GET only", "paths./a.post.x-commerce" },
    { X(CALL ",'idempotency':'required'"), "idempotency is for writes only", "paths./a.get.x-commerce" },
    { POST("'x-commerce':{" CALL ",'idempotency':'required'}"), "must be on lane: write", "paths./a.post.x-commerce" },
    { POST("'x-commerce':{" WRITE ",'tenant':'none','idempotency':'optional'}"), "does not go with tenant: none", "paths./a.post.x-commerce" },
    { POST("'x-commerce':{'auth':'public','idempotency':'optional','native':'health'}"), "must be a call or a script", "paths./a.post.x-commerce" },
    { X(CALL ",'conditional':'if-match'"), "if-match is for writes only", "paths./a.get.x-commerce" },
    { POST("'x-commerce':{" CALL ",'conditional':'etag'}"), "etag is for GET only", "paths./a.post.x-commerce" },
    { X("'auth':'customer','tenant':'none','lane':'read','call':'api.a'"), "a customer belongs to a tenant", "paths./a.get.x-commerce" },
    { X(CALL ",'ids':'x'"), "must be a list of names", "paths./a.get.x-commerce.ids" },
    { X(CALL ",'args':['b']"), "\"b\" is no parameter, no member of the body and not among ids", "paths./a.get.x-commerce.args" },
    { X(CALL ",'args':['$user']"), "there is no $user; the context has", "paths./a.get.x-commerce.args" },
    { X(CALL ",'args':['A=b']"), "\"A\" is no name", "paths./a.get.x-commerce.args" },
    { STEPS(""), "at least one step", "paths./a.get.x-commerce.steps" },
    { STEPS("{'cal':'api.a'}"), "a step is one of call, script and native", "paths./a.get.x-commerce.steps.0" },
    { STEPS("{'call':'api.a','key':'x'}"), "unknown key; known are call, lane", "paths./a.get.x-commerce.steps.0.key" },
    { STEPS("{'script':'s'}"), "a script needs a key", "paths./a.get.x-commerce.steps.0" },
    { STEPS("{'script':'../s','key':'k'}"), "script names a file", "paths./a.get.x-commerce.steps.0" },
    { STEPS("{'script':'s','key':'k','backup':'f'}"), "must be a function of the schema api", "paths./a.get.x-commerce.steps.0.backup" },
    { STEPS("{'call':'api.a','reply':true},{'call':'api.b','reply':true}"), "only one step can be the reply", "paths./a.get.x-commerce.steps" },
    { STEPS("{'call':'api.a','optional':true}"), "the step that replies cannot be optional", "paths./a.get.x-commerce.steps" },
    { STEPS("{'call':'api.a','when':'b'}"), "\"b\" is no parameter", "paths./a.get.x-commerce.steps.0.when" },
    { STEPS("{'call':'api.a','lane':'write','cache':{'ttl':1}}"), "a call that writes cannot be cached", "paths./a.get.x-commerce.steps.0.cache" },
    { PARAM("{'name':'b','in':'query'}"), "needs name, in (path, query, header) and schema", "paths./a.get.parameters.0" },
    { PARAM("{'name':'b','in':'cookie','schema':{}}"), "\"cookie\" is none of path, query, header", "paths./a.get.parameters.0.in" },
    { PARAM("{'name':'b','in':'query','schema':{'foo':1}}"), "the keyword \"foo\" is not supported", "paths./a.get.parameters.0.schema.foo" },
    { PARAM("{'name':'b','in':'query','schema':{'type':'object'}}"), "cannot be an object", "paths./a.get.parameters.0" },
    { PARAM("{'name':'b[x]','in':'query','schema':{}}"), "give it one of a-z, 0-9 and _ by x-name", "paths./a.get.parameters.0" },
    { PARAM("{'name':'b','in':'query','schema':{}},{'name':'B','in':'header','x-name':'b','schema':{}}"), "another parameter's name already", "paths./a.get.parameters.1" },
    { PARAM("{'name':'Idempotency-Key','in':'header','schema':{}}"), "give it one of a-z, 0-9 and _ by x-name", "paths./a.get.parameters.0" },
    { POST(KEY("") ",'x-commerce':{" CALL ",'idempotency':'required'}"), "says otherwise than x-commerce", "paths./a.post.parameters.0" },
    { POST(KEY(",'required':true") ",'x-commerce':{" CALL ",'idempotency':'optional'}"), "says otherwise than x-commerce", "paths./a.post.parameters.0" },
    { PARAM("{'name':'b','in':'path','required':true,'schema':{}}"), "there is no {b} in the path", "paths./a.get" },
    { PARAM("{'$ref':'#/components/parameters/B'}"), "there is nothing at", "paths./a.get.parameters.0" },
    { PATHS("'/{b}':{'get':{'operationId':'a','x-commerce':{" CALL "}}}"), "the path parameter {b} is not declared", "paths./{b}.get" },
    { PATHS("'/{b}':{'get':{'operationId':'a','parameters':[{'name':'b','in':'path','schema':{}}],'x-commerce':{" CALL "}}}"), "must say required: true", "paths./{b}.get.parameters.0" },
    { OP(JSON("{'type':'object'}") ",'x-commerce':{" CALL "}"), "GET has no body", "paths./a.get.requestBody" },
    { POST(JSON("{'type':'array'}") ",'x-commerce':{" CALL "}"), "a body that is spread must have type: object", "paths./a.post.requestBody" },
    { POST(JSON("{'type':['object','null']}") ",'x-commerce':{" CALL "}"), "must have type: object", "paths./a.post.requestBody" },
    { POST(JSON("{'type':'object','properties':{'A-b':{}}}") ",'x-commerce':{" CALL "}"), "cannot be a SQL parameter", "paths./a.post.requestBody" },
    { POST("'parameters':[{'name':'b','in':'query','schema':{}}]," JSON("{'type':'object','properties':{'b':{}}}") ",'x-commerce':{" CALL "}"), "both a parameter and a member", "paths./a.post.requestBody" },
    { POST(JSON("{'type':'object','properties':{'b':{}}}") ",'x-commerce':{" CALL ",'ids':['b']}"), "a client would choose the id", "paths./a.post.x-commerce.ids" },
    { POST(BODY("'text/csv':{}") ",'x-commerce':{" CALL "}"), "needs x-commerce.body: NAME", "paths./a.post.requestBody" },
    { POST(BODY("'text/csv':{},'application/json':{'schema':{}}") ",'x-commerce':{" CALL "}"), "cannot be mixed", "paths./a.post.requestBody.content.application/json" },
    { POST(BODY("'application/json':{}") ",'x-commerce':{" CALL "}"), "needs a schema", "paths./a.post.requestBody.content.application/json" },
    { PATHS("'/a':{'x-aliases':'/b'," GET("a", "") "}"), "must be a list of paths", "paths./a.get.x-aliases" },
    { PATHS("'/a':{'x-aliases':['/b/{c}']," GET("a", "") "}"), "an alias must have the path parameters of /a", "paths./a.get.x-aliases" },
    { PATHS("'/a':{'x-aliases':['/b']," GET("a", "") "},'/b':{" GET("b", "") "}"), "GET /b is taken by operation a of x.json", "paths./b.get" },
    { PATHS("'/a/{id}':{" GET("a", ID) "},'/a/{b}':{" GET("b", ",'parameters':[{'name':'b','in':'path','required':true,'schema':{}}]") "}"), "is taken by operation a", "paths./a/{b}.get" },
    { PATHS("'/a':{" GET("a", "") "},'/b':{" GET("a", "") "}"), "operationId a is taken by /a of x.json", "paths./b.get" },
};


static void
test_faults(void **state)
{
    size_t                    i;
    unit_arena_t              arena;
    ngx_commerce_fault_t      fault;
    ngx_commerce_contract_t  *contract;

    (void) state;

    for (i = 0; i < sizeof(faults) / sizeof(faults[0]); i++) {
        unit_arena(&arena);
        contract = ngx_commerce_contract_create(&arena.alloc, native_known);
        memset(&fault, 0, sizeof(fault));

        if (load(&arena, contract, "x.json", faults[i].text, &fault)
            != NGX_COMMERCE_INVALID)
        {
            fail_msg("%s: is taken", faults[i].text);
        }

        if (strstr(fault.message, faults[i].message) == NULL
            || strcmp(fault.place, faults[i].place) != 0)
        {
            fail_msg("%s: %s: %s", faults[i].text, fault.place, fault.message);
        }

        assert_int_equal(fault.line, 1);
        unit_free(&arena);
    }
}


/* An operator's second contract: new routes, more methods of old paths, no theft. */

static void
test_two_contracts(void **state)
{
    unit_arena_t              arena;
    ngx_commerce_fault_t      fault;
    ngx_commerce_match_t      match;
    ngx_commerce_contract_t  *contract;

    (void) state;
    unit_arena(&arena);
    contract = shop_load(&arena);

    assert_int_equal(load(&arena, contract, "own.json",
        PATHS("'/api/v1/own':{" GET("own", "") "},'/api/v1/products/{key}':{'put':"
              "{'operationId':'own_put','parameters':[{'name':'key','in':'path',"
              "'required':true,'schema':{}}],'x-commerce':{" CALL "}}},"
              "'/api/cart':{" GET("own_cart", "") "}"), &fault),
        NGX_COMMERCE_OK);

    assert_true(ngx_commerce_contract_match(contract, NGX_COMMERCE_PUT,
                    (uint8_t *) "/api/v1/products/7", 18, &match));
    unit_is(match.op->id, "own_put");
    assert_string_equal(match.allow, "GET, HEAD, PUT, OPTIONS");

    /* what is declared wins over the /api alias of another operation */
    assert_true(ngx_commerce_contract_match(contract, NGX_COMMERCE_GET,
                    (uint8_t *) "/api/cart", 9, &match));
    unit_is(match.op->id, "own_cart");
    assert_false(match.deprecated_path);

    assert_int_equal(load(&arena, contract, "more.json",
        PATHS("'/api/v1/products/{id}':{" GET("mine", ID) "}"), &fault),
        NGX_COMMERCE_INVALID);
    assert_string_equal(fault.message, "GET /api/v1/products/{id} is taken by "
                        "operation product_get of shop.json");

    unit_free(&arena);
}


/* Loading survives the end of memory at each allocation. */

static void
test_no_memory(void **state)
{
    long                      left;
    char                     *text;
    unit_arena_t              arena, texts;
    ngx_commerce_rc_t         rc;
    ngx_commerce_fault_t      fault;
    ngx_commerce_contract_t  *contract;

    (void) state;
    unit_arena(&texts);
    text = bundle(&texts, shop);

    for (left = 0, rc = NGX_COMMERCE_NOMEM; rc != NGX_COMMERCE_OK; left++) {
        unit_arena(&arena);
        arena.left = left;
        contract = ngx_commerce_contract_create(&arena.alloc, native_known);

        if (contract != NULL) {
            rc = ngx_commerce_contract_add(contract, "x", (uint8_t *) text,
                                           strlen(text), &fault);
            if (rc == NGX_COMMERCE_INVALID) {
                fail_msg("%ld: %s: %s", left, fault.place, fault.message);
            }
        }

        unit_free(&arena);
    }

    assert_true(left > 50);
    unit_free(&texts);
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_operation),
        cmocka_unit_test(test_operation_key),
        cmocka_unit_test(test_steps),
        cmocka_unit_test(test_steps_keyed),
        cmocka_unit_test(test_routes),
        cmocka_unit_test(test_faults),
        cmocka_unit_test(test_two_contracts),
        cmocka_unit_test(test_no_memory),
    };

    return cmocka_run_group_tests_name("contract", tests, NULL, NULL);
}
