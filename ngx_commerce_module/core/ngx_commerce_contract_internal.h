/*
 * What the files of the contract's loader share.
 */

#ifndef NGX_COMMERCE_CONTRACT_INTERNAL_H
#define NGX_COMMERCE_CONTRACT_INTERNAL_H


#include "ngx_commerce_contract.h"
#include "ngx_commerce_schema_internal.h"


typedef struct ngx_commerce_route_node_s  ngx_commerce_route_node_t;


struct ngx_commerce_contract_s {
    ngx_commerce_alloc_t           alloc;
    ngx_commerce_native_known_pt   known;
    ngx_commerce_operation_t     **operations;
    uint32_t                       count;
    uint32_t                       room;
    ngx_commerce_route_node_t     *routes;
};


/* One bundle being loaded. */

typedef struct {
    ngx_commerce_contract_t       *contract;
    const ngx_commerce_alloc_t    *alloc;
    const char                    *file;
    const ngx_commerce_json_t     *root;
    ngx_commerce_fault_t          *fault;
} ngx_commerce_loader_t;


/* One operation being loaded. */

typedef struct {
    ngx_commerce_loader_t         *loader;
    ngx_commerce_operation_t      *op;
    const ngx_commerce_json_t     *object;      /* the operation */
    const ngx_commerce_json_t     *commerce;    /* its x-commerce */
    uint32_t                       room;        /* for slots */
    uint32_t                       inputs;      /* slots of params, body and ids come first */
    ngx_commerce_lane_t            lane;
    bool                           has_lane;
} ngx_commerce_building_t;


#define ngx_commerce_loader_fault(l, at, place, ...)                          \
    ngx_commerce_fault((l)->fault, (l)->root, at, place, __VA_ARGS__)

#define ngx_commerce_place(up, literal)                                       \
    (&(ngx_commerce_place_t) { up, ngx_commerce_str(literal) })


/* Refuses members that are not in the list (NULL-ended); x-… passes when "extensions". */

ngx_commerce_rc_t ngx_commerce_loader_keys(ngx_commerce_loader_t *l,
    const ngx_commerce_json_t *object, const ngx_commerce_place_t *place,
    bool extensions, const char *const *known);

/* A member that must be a string; absent: *text is empty. */

ngx_commerce_rc_t ngx_commerce_loader_text(ngx_commerce_loader_t *l,
    const ngx_commerce_json_t *object, const char *key,
    const ngx_commerce_place_t *place, ngx_commerce_str_t *text);

ngx_commerce_rc_t ngx_commerce_loader_bool(ngx_commerce_loader_t *l,
    const ngx_commerce_json_t *object, const char *key,
    const ngx_commerce_place_t *place, bool *flag);

/* A positive integer. */

ngx_commerce_rc_t ngx_commerce_loader_number(ngx_commerce_loader_t *l,
    const ngx_commerce_json_t *object, const char *key,
    const ngx_commerce_place_t *place, int64_t *number);

/* One of the words (NULL-ended): its index. */

ngx_commerce_rc_t ngx_commerce_loader_word(ngx_commerce_loader_t *l,
    const ngx_commerce_json_t *object, const char *key,
    const ngx_commerce_place_t *place, const char *const *words,
    uint32_t *index);

/* The value or what its $ref leads to; NULL after a fault. */

const ngx_commerce_json_t *ngx_commerce_loader_deref(ngx_commerce_loader_t *l,
    const ngx_commerce_json_t *value, const ngx_commerce_place_t *place);

/* Compiles the schema of a parameter or body. */

ngx_commerce_rc_t ngx_commerce_loader_schema(ngx_commerce_loader_t *l,
    const ngx_commerce_json_t *source, const ngx_commerce_place_t *place,
    ngx_commerce_schema_t **schema);


/* a-z, 0-9 and _, not beginning with a digit: a name that SQL takes unquoted. */

bool ngx_commerce_is_identifier(ngx_commerce_str_t s);

/* The slot of the name, made when there is none yet; -1: no memory. */

int32_t ngx_commerce_building_slot(ngx_commerce_building_t *b,
    ngx_commerce_str_t name);

/* A slot for a name that has none; -2: it has one. */

int32_t ngx_commerce_building_slot_new(ngx_commerce_building_t *b,
    ngx_commerce_str_t name);


ngx_commerce_rc_t ngx_commerce_operation_load(ngx_commerce_loader_t *l,
    ngx_commerce_operation_t *op,
    const ngx_commerce_json_t *item, const ngx_commerce_json_t *object,
    const ngx_commerce_place_t *place);

ngx_commerce_rc_t ngx_commerce_inputs_load(ngx_commerce_building_t *b,
    const ngx_commerce_json_t *item, const ngx_commerce_place_t *place);

ngx_commerce_rc_t ngx_commerce_steps_load(ngx_commerce_building_t *b,
    const ngx_commerce_place_t *place);

/* A template like "u:$user_id": names of the scope and of the context. */

ngx_commerce_rc_t ngx_commerce_owner_load(ngx_commerce_building_t *b,
    const ngx_commerce_place_t *place);

/* Members with x-encrypt. */

ngx_commerce_rc_t ngx_commerce_sealed_load(ngx_commerce_building_t *b,
    const ngx_commerce_place_t *place);

ngx_commerce_rc_t ngx_commerce_cache_load(ngx_commerce_building_t *b,
    const ngx_commerce_json_t *object, const ngx_commerce_place_t *place,
    ngx_commerce_cache_rule_t *cache);


/* "gate" of a call; without it call->gate.ttl stays 0. */

ngx_commerce_rc_t ngx_commerce_gate_load(ngx_commerce_building_t *b,
    const ngx_commerce_json_t *object, bool first,
    const ngx_commerce_place_t *place, ngx_commerce_call_t *call);


typedef enum {
    NGX_COMMERCE_TEMPLATE_TAG = 0,      /* {name} */
    NGX_COMMERCE_TEMPLATE_KEY           /* $name; braces stay */
} ngx_commerce_template_kind_t;


/* The slot of a name from the scope, -1 of the context; INVALID with a fault.  "first": only what the request brings. */

ngx_commerce_rc_t ngx_commerce_step_name(ngx_commerce_building_t *b,
    ngx_commerce_str_t name, bool first, const ngx_commerce_json_t *at,
    const ngx_commerce_place_t *place, int32_t *slot);

/* A list of names, or of parameter=name; NULL: none. */

ngx_commerce_rc_t ngx_commerce_step_args(ngx_commerce_building_t *b,
    const ngx_commerce_json_t *list, bool first,
    const ngx_commerce_place_t *up, ngx_commerce_arg_t **args, uint32_t *count);

/* What a call takes that names nothing: the operation's inputs. */

ngx_commerce_rc_t ngx_commerce_step_default_args(ngx_commerce_building_t *b,
    ngx_commerce_call_t *call);

ngx_commerce_rc_t ngx_commerce_step_template(ngx_commerce_building_t *b,
    const ngx_commerce_json_t *value, ngx_commerce_template_kind_t kind,
    const ngx_commerce_place_t *place, ngx_commerce_template_t *template);


/* How a path got into the tree: what is declared wins over what is derived. */

typedef enum {
    NGX_COMMERCE_ROUTE_DECLARED = 0,
    NGX_COMMERCE_ROUTE_ALIAS,
    NGX_COMMERCE_ROUTE_DERIVED          /* /api/… of /api/v1/… */
} ngx_commerce_route_origin_t;

ngx_commerce_route_node_t *ngx_commerce_route_root(
    const ngx_commerce_alloc_t *alloc);

/*
 * Adds a path for the operation.  An alias has the same path
 * parameters, in any order.
 */

ngx_commerce_rc_t ngx_commerce_route_add(ngx_commerce_loader_t *l,
    ngx_commerce_operation_t *op, const ngx_commerce_json_t *at,
    ngx_commerce_str_t path, ngx_commerce_route_origin_t origin,
    const ngx_commerce_place_t *place);

/*
 * Cuts "/a/{b}/c": the names in braces, at most PATH_PARAMS_MAX.  Returns
 * their number, or -1 and *why.
 */

int32_t ngx_commerce_route_params(ngx_commerce_str_t path,
    ngx_commerce_str_t names[NGX_COMMERCE_PATH_PARAMS_MAX], const char **why);


#endif /* NGX_COMMERCE_CONTRACT_INTERNAL_H */
