/*
 * The request engine: contract → guard → steps → bytes out.
 *
 * One ngx_commerce_request_t per request, in the request's pool.  What is under
 * way in PostgreSQL, Redis or a thread is never there: a request that goes away
 * detaches it through "cancel".
 */

#ifndef NGX_COMMERCE_HTTP_H
#define NGX_COMMERCE_HTTP_H


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "ngx_commerce_contract.h"
#include "ngx_commerce_codec.h"
#include "ngx_commerce_pool.h"
#include "ngx_commerce_header.h"
#include "ngx_commerce_pg.h"
#include "ngx_commerce_redis.h"
#include "ngx_commerce_cache.h"
#include "ngx_commerce_tenant.h"
#include "ngx_commerce_auth.h"
#include "ngx_commerce_limit.h"
#include "ngx_commerce_exchange.h"


#define NGX_COMMERCE_VERSION   "0.1.0"

#define NGX_COMMERCE_UUID_LEN  36

#define NGX_COMMERCE_NO_STORE  "private, no-store"


typedef struct ngx_commerce_request_s  ngx_commerce_request_t;
typedef struct ngx_commerce_gate_state_s  ngx_commerce_gate_state_t;
typedef struct ngx_commerce_address_s  ngx_commerce_address_t;


/* A value of the scope. */

typedef struct {
    ngx_str_t   text;               /* string: unescaped; others: as written */
    unsigned    type:4;             /* ngx_commerce_json_type_t */
    unsigned    set:1;              /* else absent */
} ngx_commerce_value_t;


/* A guest whose token came before; the place may be another's when a request goes on after waiting. */

typedef struct {
    _Alignas(64)
    uint64_t    token[2];           /* a keyed hash */
    u_char      digest[32];
    uint64_t    tenant;             /* where recs/ knows the guest … */
    uint64_t    who;                /* … under this key; 0: was not asked yet */
} ngx_commerce_guest_t;


/* What a step answered, and in the end what the client gets. */

typedef struct {
    ngx_uint_t  status;             /* 0: nothing yet */
    ngx_str_t   body;               /* JSON; data == NULL: none */
    ngx_str_t   headers;            /* JSON object, or empty */
    ngx_str_t   lines;              /* the same for sending: "Name:value\n"… */
    ngx_str_t   edge;               /* JSON object, or empty */
    unsigned    problem:1;
    unsigned    replayed:1;
    unsigned    rendered:1;         /* lines are made */
    unsigned    final:1;            /* a native's: the answer, whatever steps are left */
} ngx_commerce_reply_t;


/*
 * A native step.  NGX_OK: ngx_commerce_step_reply() was called.  NGX_AGAIN: it
 * goes on elsewhere, c->cancel is set and ngx_commerce_step_done() comes later.
 * NGX_ERROR: ngx_commerce_problem() was called.
 */

typedef ngx_int_t (*ngx_commerce_native_pt)(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step);

/* While the configuration is read: has this step what it needs?  NGX_ERROR: a line is logged. */

typedef ngx_int_t (*ngx_commerce_native_bind_pt)(ngx_conf_t *cf,
    const ngx_commerce_operation_t *op, const ngx_commerce_step_t *step);

typedef struct {
    ngx_str_t                    name;
    ngx_commerce_native_pt       handler;
    ngx_commerce_native_bind_pt  bind;      /* or NULL */
} ngx_commerce_native_t;

/* Tables end with an empty name; one file ngx_commerce_natives_<part>.c each. */

extern const ngx_commerce_native_t  ngx_commerce_natives_auth[];
extern const ngx_commerce_native_t  ngx_commerce_natives_secret[];
extern const ngx_commerce_native_t  ngx_commerce_natives_tenant[];
extern const ngx_commerce_native_t  ngx_commerce_natives_health[];
extern const ngx_commerce_native_t  ngx_commerce_natives_recs[];
extern const ngx_commerce_native_t  ngx_commerce_natives_recent[];
extern const ngx_commerce_native_t  ngx_commerce_natives_sentiment[];
extern const ngx_commerce_native_t  ngx_commerce_natives_hook[];
extern const ngx_commerce_native_t  ngx_commerce_natives_webhook[];


/* What is known of an operation when the configuration is read. */

typedef struct {
    ngx_uint_t                     limits_count;
    ngx_commerce_limit_policy_t  **limits;
    ngx_str_t                      cache_control;
    ngx_str_t                      vary;        /* empty: the answer is everybody's */
} ngx_commerce_op_conf_t;

typedef struct {
    ngx_commerce_contract_t       *contract;
    ngx_array_t                   *files;       /* of ngx_str_t: commerce_contract */
    ngx_str_t                      environment;
    ngx_str_t                      problem_base;
    ngx_msec_t                     maintenance; /* commerce_maintenance; 0: off */
    ngx_msec_t                     fetch_wait;  /* commerce_fetch_wait */
    ngx_commerce_op_conf_t        *ops;         /* by op->index */
    ngx_commerce_pg_stmt_t        *begin_request;
    ngx_commerce_pg_stmt_t        *begin_command;
    ngx_commerce_pg_stmt_t        *sealed_stale;    /* or NULL: no key encrypts */
    ngx_commerce_pg_stmt_t        *sealed_renew;
    u_char                         cursor_key[32];
} ngx_commerce_main_conf_t;

typedef struct {
    ngx_flag_t                     cache;       /* commerce_cache */
} ngx_commerce_loc_conf_t;


struct ngx_commerce_request_s {
    ngx_http_request_t               *request;
    const ngx_commerce_main_conf_t   *conf;
    const ngx_commerce_operation_t   *op;
    ngx_commerce_match_t              match;

    ngx_commerce_address_t           *address;  /* that was read before, or NULL */
    ngx_commerce_value_t             *slots;    /* op->slots_count */
    ngx_commerce_tenant_t             tenant;   /* in the pool; id.len == 0: none */
    ngx_commerce_api_key_t            key;      /* that came along; id.len == 0: none */
    ngx_commerce_principal_t          principal;
    ngx_str_t                         actor;    /* who acts, if not the principal: "key:ID", "platform:UUID" */

    ngx_str_t                         correlation_id;
    ngx_str_t                         traceparent;  /* of our span, on demand */
    ngx_str_t                         idempotency_key;  /* empty: none */
    u_char                            fingerprint[32];

    /* headers of interest, found in one pass */
    ngx_table_elt_t                  *h_correlation_id;
    ngx_table_elt_t                  *h_traceparent;
    ngx_table_elt_t                  *h_idempotency_key;
    ngx_table_elt_t                  *h_cart_token;
    ngx_table_elt_t                  *h_content_type;
    ngx_table_elt_t                  *h_content_encoding;
    ngx_table_elt_t                  *h_if_none_match;
    ngx_table_elt_t                  *h_if_match;
    ngx_table_elt_t                  *h_prefer;
    ngx_table_elt_t                  *h_repeated;   /* one that may come once only; or NULL */

    ngx_str_t                         cart_token;   /* minted: goes into the answer */
    ngx_str_t                         cart_owner;
    ngx_str_t                         guest_cart;

    ngx_uint_t                        step_index;
    ngx_commerce_reply_t              step;     /* of the step that runs */
    ngx_commerce_reply_t              reply;    /* of the reply step */
    ngx_uint_t                        script_phase;
    ngx_str_t                         script_key;
    ngx_str_t                         script_document;  /* body of the miss call */
    const ngx_commerce_call_t        *call;     /* under way */
    struct ngx_commerce_recs_state_s *recs;     /* of ngx_commerce_natives_recs.c */
    ngx_commerce_password_place_t     password; /* of ngx_commerce_natives_auth.c */

    ngx_commerce_cache_ticket_t       ticket;       /* of the response */
    ngx_commerce_cache_ticket_t       call_ticket;  /* of the call under way */
    ngx_commerce_gate_state_t        *gate;     /* what the call under way asks for; or NULL */

    void                            (*cancel)(void *data);
    void                             *cancel_data;

    ngx_str_t                         code;     /* problem code, for the log */
    ngx_msec_t                        pg_time;
    ngx_uint_t                        pg_calls;
    unsigned                          ticketed:1;
    unsigned                          call_ticketed:1;
    unsigned                          cache_hit:1;
    unsigned                          waiting:1;    /* held for an event */
    unsigned                          idle:1;       /* what it waits for has no effect: dropped when the client leaves */
    unsigned                          limited:1;    /* held by a limit, that is by Redis */
    unsigned                          accepted:1;   /* the body is in the scope */
    unsigned                          cache_control:1;  /* the reply brings its own */
    unsigned                          located:1;    /* the reply says where what it made is */
    unsigned                          once:1;       /* the reply shows what nobody can read again */
    unsigned                          view:1;       /* the reply shows more or less than its ETag says */
};


/* ngx_http_commerce_module.c */

extern ngx_module_t  ngx_http_commerce_module;

/* ngx_commerce_bind.c: while the configuration is read */

ngx_int_t ngx_commerce_bind_operation(ngx_conf_t *cf,
    ngx_commerce_main_conf_t *mcf, ngx_commerce_operation_t *op);
bool ngx_commerce_native_known(ngx_commerce_str_t name);

/* ngx_commerce_request.c: match, tenant, guard */

ngx_int_t ngx_commerce_request_handler(ngx_http_request_t *r);
ngx_commerce_request_t *ngx_commerce_request_get(ngx_http_request_t *r);

/* Allow for a 405 of nginx's own, when the address is in the contract. */
ngx_int_t ngx_commerce_request_methods(ngx_commerce_request_t *c);

/* Goes on with a request whose guard waited. */
void ngx_commerce_request_resume(ngx_commerce_request_t *c);

/* ngx_commerce_guard.c.  NGX_OK, or NGX_ERROR: a problem was set. */

ngx_int_t ngx_commerce_guard_tenant(ngx_commerce_request_t *c);
ngx_int_t ngx_commerce_guard_auth(ngx_commerce_request_t *c);

/*
 * ngx_commerce_limits.c.  The policies that are due at this stage; NGX_AGAIN: Redis was asked, ngx_commerce_request_resume()
 * comes.
 */

ngx_int_t ngx_commerce_guard_limits(ngx_commerce_request_t *c,
    ngx_uint_t stage);
void ngx_commerce_limits_init(void);
/* NGX_OK: a policy of the location refused this request, the problem is set. */
ngx_int_t ngx_commerce_limits_refused(ngx_commerce_request_t *c);

/* ngx_commerce_body.c, the same: is it of a kind that is taken; into the scope. */

ngx_int_t ngx_commerce_body_media(ngx_commerce_request_t *c);
ngx_int_t ngx_commerce_body_accept(ngx_commerce_request_t *c);
/* The bytes as they came. */
ngx_int_t ngx_commerce_body_read(ngx_commerce_request_t *c, ngx_str_t *body);

/* ngx_commerce_address.c: what an address means, of those that come again */

ngx_int_t ngx_commerce_address_recall(ngx_commerce_request_t *c);
void ngx_commerce_address_keep(ngx_commerce_request_t *c);
void ngx_commerce_address_found(ngx_commerce_request_t *c, const void *place);
void ngx_commerce_address_forget(void);

/* ngx_commerce_input.c, the same: parameters into the scope. */

ngx_int_t ngx_commerce_input_params(ngx_commerce_request_t *c);
void ngx_commerce_input_binding(ngx_commerce_request_t *c, ngx_str_t *binding);

/* ngx_commerce_scope.c: named values */

void ngx_commerce_scope_set(ngx_commerce_request_t *c, int32_t slot,
    const ngx_commerce_json_t *value);
/* Members of a JSON object become values. */
ngx_int_t ngx_commerce_scope_bind(ngx_commerce_request_t *c, ngx_str_t *object);
/* For natives: NULL when absent, null or unknown to the operation. */
ngx_str_t *ngx_commerce_scope_get(ngx_commerce_request_t *c, const char *name);
/* The same for what the step's args call "name" (name=other); without such an argument the scope's own. */
ngx_str_t *ngx_commerce_scope_input(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step, const char *name);
/* Text for SQL: data == NULL when absent or null. */
ngx_int_t ngx_commerce_scope_arg(ngx_commerce_request_t *c,
    const ngx_commerce_arg_t *arg, ngx_str_t *text);
ngx_int_t ngx_commerce_scope_render(ngx_commerce_request_t *c,
    const ngx_commerce_template_t *t, ngx_str_t *text);
/* The guest whose token came; NULL: it is no token, c->step says so, or there is no memory. */
ngx_commerce_guest_t *ngx_commerce_scope_guest(ngx_commerce_request_t *c,
    ngx_str_t *token);
/* {"name":value,…} */
ngx_int_t ngx_commerce_scope_json(ngx_commerce_request_t *c,
    const ngx_commerce_arg_t *args, ngx_uint_t count, ngx_str_t *json);

/* ngx_commerce_steps.c: the engine */

/* NGX_AGAIN: held.  Otherwise what the handler returns to nginx. */
ngx_int_t ngx_commerce_steps_run(ngx_commerce_request_t *c);
/* An asynchronous step has filled c->step: goes on.  c may be gone afterwards. */
void ngx_commerce_step_done(ngx_commerce_request_t *c);
void ngx_commerce_step_reply(ngx_commerce_request_t *c, ngx_uint_t status,
    ngx_str_t *body);

/* ngx_commerce_call.c, ngx_commerce_script.c: NGX_OK, NGX_AGAIN, NGX_ERROR as natives */

ngx_int_t ngx_commerce_call_start(ngx_commerce_request_t *c,
    const ngx_commerce_call_t *call);
ngx_int_t ngx_commerce_call_register(ngx_conf_t *cf, ngx_commerce_call_t *call);
ngx_int_t ngx_commerce_script_start(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step);
/* A call within a script step (miss, down) is done. */
ngx_int_t ngx_commerce_script_resume(ngx_commerce_request_t *c);

/* Takes a row of api.reply into c->step, or what failed.  As natives. */
ngx_int_t ngx_commerce_call_result(ngx_commerce_request_t *c,
    ngx_commerce_pg_status_t status, const PGresult *result);
/* The parameters of api.begin_command for a command of this request. */
ngx_int_t ngx_commerce_call_context(ngx_commerce_request_t *c,
    ngx_uint_t keep, ngx_str_t **values);

/*
 * ngx_commerce_outbound.c: edge.fetch and edge.mail of c->step.  NGX_AGAIN: the call is under way, ngx_commerce_step_done() comes later.
 * NGX_OK: c->step is the answer.
 */
ngx_int_t ngx_commerce_outbound_start(ngx_commerce_request_t *c,
    ngx_uint_t keep);

/* ngx_commerce_sealed.c: members with x-encrypt.  body: NGX_ERROR, a problem was set. */

ngx_int_t ngx_commerce_sealed_bind(ngx_conf_t *cf,
    const ngx_commerce_operation_t *op);
ngx_int_t ngx_commerce_sealed_body(ngx_commerce_request_t *c,
    ngx_commerce_json_t *root);
ngx_int_t ngx_commerce_sealed_reply(ngx_commerce_request_t *c,
    ngx_commerce_reply_t *reply);
/* What is authenticated with a sealed value: "<purpose> <tenant> <owner>". */
ngx_int_t ngx_commerce_sealed_place(ngx_pool_t *pool, ngx_str_t *purpose,
    ngx_str_t *tenant, ngx_str_t *owner, ngx_str_t *context);
/* The bytes of a value whose text, or some of whose members, are new. */
ngx_int_t ngx_commerce_sealed_write(ngx_pool_t *pool,
    ngx_commerce_json_t *value);

/* ngx_commerce_renewal.c: sealing anew with the key that encrypts, after each round of maintenance */

ngx_int_t ngx_commerce_renewal_register(ngx_conf_t *cf,
    ngx_commerce_main_conf_t *mcf);
void ngx_commerce_renewal_start(ngx_commerce_main_conf_t *mcf);

/* ngx_commerce_problem.c: RFC 9457.  All return NGX_ERROR, with c->step a problem document. */

/* detail is a format of ngx_vslprintf: a sentence for the client. */
ngx_int_t ngx_commerce_problem(ngx_commerce_request_t *c, ngx_uint_t status,
    const char *code, const char *detail, ...);
/* 500, the cause is in the log. */
ngx_int_t ngx_commerce_problem_internal(ngx_commerce_request_t *c);
/* Overload and absence: with Retry-After. */
ngx_int_t ngx_commerce_problem_retry(ngx_commerce_request_t *c,
    ngx_uint_t status, const char *code, ngx_uint_t retry_after,
    const char *detail);
/* extension: a JSON object whose members go along, or NULL; its code, title, type and retry_after count. */
ngx_int_t ngx_commerce_problem_extended(ngx_commerce_request_t *c,
    ngx_uint_t status, ngx_str_t *code, ngx_str_t *detail,
    ngx_str_t *extension);
ngx_int_t ngx_commerce_problem_violations(ngx_commerce_request_t *c,
    ngx_uint_t status, const char *code,
    ngx_commerce_violations_t *violations);
/* Content handler of commerce_problem, for error_page. */
ngx_int_t ngx_commerce_problem_handler(ngx_http_request_t *r);

/* ngx_commerce_reply.c */

/* reply->lines from reply->headers, with the ETag of what it shows: once, before the reply is kept or sent. */
ngx_int_t ngx_commerce_reply_render(ngx_commerce_request_t *c,
    ngx_commerce_reply_t *reply);
/* Sends c->reply; returns what the handler returns to nginx. */
ngx_int_t ngx_commerce_reply_send(ngx_commerce_request_t *c);
/* fields=: leaves of c->reply what was asked for. */
ngx_int_t ngx_commerce_reply_fields(ngx_commerce_request_t *c);

/* ngx_commerce_edge.c */

/* edge.page → signed cursors, "page" member and Link; edge.invalidate, edge.revoke. */
ngx_int_t ngx_commerce_reply_edge(ngx_commerce_request_t *c,
    ngx_commerce_reply_t *reply);

/* ngx_commerce_cached.c: responses and calls in the edge's cache */

ngx_int_t ngx_commerce_cached_response(ngx_commerce_request_t *c);
void ngx_commerce_cached_keep_response(ngx_commerce_request_t *c);
ngx_int_t ngx_commerce_cached_call(ngx_commerce_request_t *c,
    const ngx_commerce_call_t *call, ngx_str_t *args);
void ngx_commerce_cached_keep_call(ngx_commerce_request_t *c);

/* ngx_commerce_gate.c.  enter(): NGX_OK, or NGX_ERROR: refused.  learn(): what the call failed with; needs c->gate. */

ngx_int_t ngx_commerce_gate_enter(ngx_commerce_request_t *c,
    const ngx_commerce_gate_t *rule);
void ngx_commerce_gate_learn(ngx_commerce_request_t *c,
    const ngx_commerce_gate_t *rule, const PGresult *result);

/* ngx_commerce_maintenance.c */

ngx_int_t ngx_commerce_maintenance_register(ngx_conf_t *cf,
    ngx_commerce_main_conf_t *mcf);

/* ngx_commerce_util.c */

void ngx_commerce_random(u_char *dst, size_t len);
void ngx_commerce_uuid7_now(u_char dst[NGX_COMMERCE_UUID_LEN]);
ngx_int_t ngx_commerce_traceparent(ngx_commerce_request_t *c);

static ngx_inline ngx_commerce_str_t
ngx_commerce_to_core(const ngx_str_t *s)
{
    return (ngx_commerce_str_t) { s->len, s->data };
}


static ngx_inline ngx_str_t
ngx_commerce_from_core(const ngx_commerce_str_t *s)
{
    return (ngx_str_t) { s->len, s->data };
}


#endif /* NGX_COMMERCE_HTTP_H */
