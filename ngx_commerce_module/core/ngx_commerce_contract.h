/*
 * The contract: bundled OpenAPI documents compiled into operations and one
 * route tree.  docs/contract.md is the specification of what it reads.
 *
 * Everything is allocated at load time and const afterwards.
 */

#ifndef NGX_COMMERCE_CONTRACT_H
#define NGX_COMMERCE_CONTRACT_H


#include "ngx_commerce_schema.h"


typedef enum {
    NGX_COMMERCE_GET = 0,
    NGX_COMMERCE_POST,
    NGX_COMMERCE_PUT,
    NGX_COMMERCE_PATCH,
    NGX_COMMERCE_DELETE,
    NGX_COMMERCE_METHODS                /* HEAD is served by GET, OPTIONS by the route */
} ngx_commerce_method_t;

typedef enum {
    NGX_COMMERCE_AUTH_PUBLIC = 0,
    NGX_COMMERCE_AUTH_OPTIONAL,
    NGX_COMMERCE_AUTH_CUSTOMER,
    NGX_COMMERCE_AUTH_STAFF,
    NGX_COMMERCE_AUTH_SERVICE,
    NGX_COMMERCE_AUTH_PLATFORM
} ngx_commerce_auth_t;

typedef enum {
    NGX_COMMERCE_LANE_READ = 0,
    NGX_COMMERCE_LANE_WRITE,
    NGX_COMMERCE_LANE_SLOW,
    NGX_COMMERCE_LANES
} ngx_commerce_lane_t;

/* What is refused last when the edge falls behind, to what is refused first. */

typedef enum {
    NGX_COMMERCE_CLASS_HEALTH = 0,
    NGX_COMMERCE_CLASS_CHECKOUT,
    NGX_COMMERCE_CLASS_CART,
    NGX_COMMERCE_CLASS_BROWSE,
    NGX_COMMERCE_CLASS_EXPORT
} ngx_commerce_class_t;

typedef enum {
    NGX_COMMERCE_IDEMPOTENCY_NONE = 0,
    NGX_COMMERCE_IDEMPOTENCY_OPTIONAL,
    NGX_COMMERCE_IDEMPOTENCY_REQUIRED
} ngx_commerce_idempotency_t;

typedef enum {
    NGX_COMMERCE_CONDITIONAL_NONE = 0,
    NGX_COMMERCE_CONDITIONAL_ETAG,
    NGX_COMMERCE_CONDITIONAL_IF_MATCH
} ngx_commerce_conditional_t;

typedef enum {
    NGX_COMMERCE_IN_PATH = 0,
    NGX_COMMERCE_IN_QUERY,
    NGX_COMMERCE_IN_HEADER
} ngx_commerce_in_t;

/* x-list: what a client may ask of a list, beyond filters. */

typedef enum {
    NGX_COMMERCE_LIST_NONE = 0,
    NGX_COMMERCE_LIST_SORT,
    NGX_COMMERCE_LIST_FIELDS,
    NGX_COMMERCE_LIST_EXPAND
} ngx_commerce_list_t;

typedef enum {
    NGX_COMMERCE_STEP_CALL = 0,
    NGX_COMMERCE_STEP_SCRIPT,
    NGX_COMMERCE_STEP_NATIVE
} ngx_commerce_step_kind_t;


/*
 * A template like "product:{id}" or "cart:{$tenant_id:$cart_owner}", cut into parts at load
 * time.  In tags {name} is a scope value.  In keys the braces are Redis's hash
 * tag, stay in the key, and every $name within is replaced.
 */

typedef struct {
    ngx_commerce_str_t   text;          /* literal, or the scope name */
    bool                 name;
    int32_t              slot;          /* of a name; -1 for "$…" of the context */
} ngx_commerce_part_t;

typedef struct {
    ngx_commerce_part_t  *parts;
    uint32_t              count;
} ngx_commerce_template_t;


typedef struct {
    uint32_t                  ttl;      /* seconds; 0: no cache */
    uint32_t                  tags_count;
    ngx_commerce_template_t  *tags;
} ngx_commerce_cache_rule_t;


typedef struct {
    ngx_commerce_str_t  parameter;      /* the SQL parameter, the script's member */
    ngx_commerce_str_t  name;           /* the scope name; "$…" for the context */
    int32_t             slot;           /* index in the operation's slots, -1 for "$…" */
} ngx_commerce_arg_t;


/*
 * A gate before a call: elements of a list that were refused for want of
 * something are refused again for a while, without asking.
 */

#define NGX_COMMERCE_GATE_BY  4

typedef struct {
    uint32_t            ttl;            /* seconds; 0: no gate */
    int32_t             each;           /* slot of the list */
    uint32_t            by_count;
    ngx_commerce_str_t  by[NGX_COMMERCE_GATE_BY];   /* members that say what an element is of */
    ngx_commerce_str_t  want;           /* member: how many */
    ngx_commerce_str_t  refusal;        /* code of the problem that is remembered */
    ngx_commerce_str_t  tag;            /* void by <tenant>:<tag>:<the first of by> */
    int32_t             attempt;        /* slot of what is done once, besides the Idempotency-Key; or -1 */
} ngx_commerce_gate_t;


/* A call of a SQL function: a step, or what a script needs around it. */

typedef struct {
    ngx_commerce_str_t          function;   /* "api.cart_view" */
    ngx_commerce_lane_t         lane;
    uint32_t                    args_count;
    ngx_commerce_arg_t         *args;
    ngx_commerce_cache_rule_t   cache;
    ngx_commerce_gate_t         gate;
    bool                        command;    /* runs after api.begin_command */
    bool                        audited;    /* a command of staff: wrapped in api.audited */
    bool                        keep_reply; /* wrapped in api.keep_reply when a key came */
    bool                        recall;     /* only looks the key up; nothing without one */
    void                       *stmt;       /* the module's: prepared statement */
    void                       *stmt_keep;
} ngx_commerce_call_t;


typedef struct {
    ngx_commerce_step_kind_t    kind;
    ngx_commerce_str_t          name;       /* script or native */
    bool                        reply;
    bool                        optional;
    bool                        amend;      /* its body replaces the reply's */
    int32_t                     when;       /* slot, or -1 */
    ngx_commerce_call_t        *call;       /* STEP_CALL */
    ngx_commerce_template_t     key;        /* STEP_SCRIPT and STEP_NATIVE from here */
    uint32_t                    args_count;
    ngx_commerce_arg_t         *args;
    ngx_commerce_call_t        *miss;       /* STEP_SCRIPT from here; or NULL */
    ngx_commerce_call_t        *down;       /* or NULL: 503 */
    ngx_commerce_str_t          backup;     /* "api.cart_backup", or empty */
    void                       *data;       /* the module's: script or handler */
    void                       *backup_data;    /* the module's */
} ngx_commerce_step_t;


typedef struct {
    ngx_commerce_str_t      name;       /* scope name */
    ngx_commerce_str_t      wire;       /* name on the wire (lower case for headers) */
    ngx_commerce_in_t       in;
    bool                    required;
    ngx_commerce_list_t     list;
    int32_t                 slot;
    ngx_commerce_schema_t  *schema;
} ngx_commerce_param_t;


/* A member that x-encrypt seals before SQL sees it, or opens in what SQL answers. */

typedef struct {
    ngx_commerce_str_t          *path;      /* names of members; an empty one: every element */
    uint32_t                     depth;
    ngx_commerce_str_t           purpose;
} ngx_commerce_sealed_t;


typedef struct {
    ngx_commerce_str_t           id;        /* operationId */
    uint32_t                     index;     /* dense, over all contracts: metrics slots */
    ngx_commerce_method_t        method;
    ngx_commerce_str_t           path;      /* template as declared */
    const char                  *file;      /* the bundle, for messages */
    ngx_commerce_auth_t          auth;
    ngx_commerce_str_t           permission;    /* staff:<permission>, service:<permission>, or empty */
    ngx_commerce_str_t           flag;      /* of the tenant, or empty: without it the operation is not there */
    ngx_commerce_class_t         rank;      /* "class" */
    bool                         tenant;    /* needs one */
    bool                         deprecated;
    bool                         cart;      /* takes $cart_owner or $guest_cart */
    uint32_t                     limits_count;
    ngx_commerce_str_t          *limits;
    ngx_commerce_idempotency_t   idempotency;
    ngx_commerce_conditional_t   conditional;
    ngx_commerce_cache_rule_t    cache;

    uint32_t                     params_count;
    ngx_commerce_param_t        *params;

    ngx_commerce_schema_t       *body;      /* or NULL: a body is ignored when empty, else 415/400 */
    bool                         body_required;
    bool                         body_raw;  /* requestBody is no JSON (text/csv): passed as text, slot body_slot */
    uint32_t                     media_count;
    ngx_commerce_str_t          *media;     /* accepted content types, lower case */
    ngx_commerce_str_t           body_name; /* empty: spread */
    int32_t                      body_slot; /* of body_name */
    uint32_t                     members_count;     /* spread: top-level members → slots, sorted by name */
    ngx_commerce_arg_t          *members;
    size_t                       body_limit;
    ngx_commerce_json_limits_t   body_limits;

    uint32_t                     sealed_count;      /* in the body */
    ngx_commerce_sealed_t       *sealed;
    uint32_t                     revealed_count;    /* in the reply */
    ngx_commerce_sealed_t       *revealed;
    ngx_commerce_template_t      owner;     /* whose sealed members are; count == 0: $cart_owner's */

    uint32_t                     ids_count; /* fresh UUIDv7 */
    int32_t                     *ids;       /* slots */

    uint32_t                     slots_count;       /* every scope name of the operation has a slot */
    ngx_commerce_str_t          *slots;             /* names, for binding step results */
    void                        *slot_names;        /* their hash: ngx_commerce_operation_slot() */

    uint32_t                     steps_count;
    ngx_commerce_step_t         *steps;
    uint32_t                     reply_step;
    uint32_t                     last_step;     /* no later one takes names of results: those are calls that amend */
    int32_t                      fields;        /* slot of the parameter with x-list: fields, or -1 */
} ngx_commerce_operation_t;


typedef struct ngx_commerce_contract_s  ngx_commerce_contract_t;

/* Called once for each native step; returns false when there is no such handler. */
typedef bool (*ngx_commerce_native_known_pt)(ngx_commerce_str_t name);


ngx_commerce_contract_t *ngx_commerce_contract_create(
    const ngx_commerce_alloc_t *alloc, ngx_commerce_native_known_pt known);

/* Adds one bundle.  "file" is for messages; both it and "text" must outlive the contract. */

ngx_commerce_rc_t ngx_commerce_contract_add(ngx_commerce_contract_t *contract,
    const char *file, const uint8_t *text, size_t len,
    ngx_commerce_fault_t *fault);

uint32_t ngx_commerce_contract_count(const ngx_commerce_contract_t *contract);
ngx_commerce_operation_t *ngx_commerce_contract_operation(
    const ngx_commerce_contract_t *contract, uint32_t index);

/* Slot of a name, or -1.  For binding the members of step results: hash, not a scan. */

int32_t ngx_commerce_operation_slot(const ngx_commerce_operation_t *op,
    const uint8_t *name, size_t len);


#define NGX_COMMERCE_PATH_PARAMS_MAX  8

typedef struct {
    const ngx_commerce_operation_t  *op;        /* NULL: see allow */
    const char                      *allow;     /* "GET, HEAD, OPTIONS" of the path */
    bool                             alias;     /* matched under /api/… or an alias */
    bool                             deprecated_path;   /* answer with Deprecation */
    ngx_commerce_str_t               params[NGX_COMMERCE_PATH_PARAMS_MAX]; /* raw segments, in the order of the template */
    uint32_t                         params_count;
} ngx_commerce_match_t;

/*
 * Matches a raw path (percent-encoded, without query).  Literal segments win
 * over parameters.  Returns true when the path exists: op is NULL when the
 * method is not among allow.  No allocation, cost by depth of the tree.
 */

bool ngx_commerce_contract_match(const ngx_commerce_contract_t *contract,
    ngx_commerce_method_t method, const uint8_t *path, size_t len,
    ngx_commerce_match_t *match);


#endif /* NGX_COMMERCE_CONTRACT_H */
