/*
 * What the files of limit/ share.  Nobody else includes this.
 *
 *   module   directives, phases, variables
 *   policy   commerce_limit_policy → const policies
 *   zone     shared memory; taking and giving back on this node
 *   key      what a policy counts by
 *   request  one request under its policies: verdicts, headers, refusal
 *   cluster  the same quota over all nodes, through Redis
 */

#ifndef NGX_COMMERCE_LIMIT_INTERNAL_H
#define NGX_COMMERCE_LIMIT_INTERNAL_H


#include "ngx_commerce_limit.h"
#include "ngx_commerce_gcra.h"
#include "ngx_commerce_redis.h"
#include "ngx_commerce_header.h"


#define NGX_COMMERCE_LIMIT_NAME_MAX   64
#define NGX_COMMERCE_LIMIT_QUOTA_MAX  1000000


typedef enum {
    NGX_COMMERCE_LIMIT_IP = 0,
    NGX_COMMERCE_LIMIT_USER,
    NGX_COMMERCE_LIMIT_TENANT,
    NGX_COMMERCE_LIMIT_API_KEY,
    NGX_COMMERCE_LIMIT_IP_USER,
    NGX_COMMERCE_LIMIT_VARIABLE
} ngx_commerce_limit_key_t;


typedef struct {
    ngx_shm_zone_t              *zone;
    ngx_shm_zone_t              *leases;    /* of permits taken ahead; NULL: no policy is cluster-wide */
    ngx_array_t                  policies;  /* of ngx_commerce_limit_policy_t * */
    ngx_msec_t                   patience;  /* commerce_limit_redis_timeout */
    ngx_commerce_redis_script_t *script;    /* NULL: the same */
    unsigned                     cluster:1; /* some policy is */
    unsigned                     located:1; /* some location has commerce_limit */
} ngx_commerce_limit_main_conf_t;


struct ngx_commerce_limit_policy_s {
    ngx_str_t                    name;
    ngx_str_t                    scope;     /* name and its NUL: hashed before the key */
    ngx_commerce_limit_key_t     key;
    ngx_commerce_stage_t         stage;     /* for ip_user: at the earliest */
    ngx_http_complex_value_t     value;     /* NGX_COMMERCE_LIMIT_VARIABLE */
    ngx_http_complex_value_t    *cost;      /* NULL: constant */
    ngx_uint_t                   units;
    ngx_uint_t                   status;
    ngx_uint_t                   ip6_prefix;
    ngx_uint_t                   window;    /* seconds in which burst comes back */
    ngx_commerce_gcra_rate_t     rate;
    ngx_str_t                    header;    /* "name";q=60;w=60 */
    const ngx_commerce_limit_main_conf_t  *conf;
    unsigned                     dry_run:1;
    unsigned                     cluster:1;
    unsigned                     override:1;    /* tenants may set another rate */
};


/* What the zone's init callback hands over from one cycle to the next. */

typedef struct {
    ngx_commerce_gcra_table_t   *table;
} ngx_commerce_limit_shctx_t;


typedef struct {
    ngx_array_t                 *names;     /* of ngx_str_t; NULL: off or inherited */
    ngx_commerce_limit_policy_t **policies;
    ngx_uint_t                   count;
    ngx_uint_t                   set;
    ngx_uint_t                   log_level;
} ngx_commerce_limit_loc_conf_t;


/* A policy that this request has been counted under. */

typedef enum {
    NGX_COMMERCE_LIMIT_NEW = 0,             /* cluster-wide, Redis is to be asked */
    NGX_COMMERCE_LIMIT_WAITS,               /* it was */
    NGX_COMMERCE_LIMIT_TOLD,                /* it said */
    NGX_COMMERCE_LIMIT_LOCAL,               /* to be decided here */
    NGX_COMMERCE_LIMIT_EXEMPT,              /* empty key */
    NGX_COMMERCE_LIMIT_PASSED,              /* from here on: told in the headers */
    NGX_COMMERCE_LIMIT_DRY,
    NGX_COMMERCE_LIMIT_REFUSED
} ngx_commerce_limit_state_e;

typedef struct ngx_commerce_limit_ctx_s  ngx_commerce_limit_ctx_t;
typedef struct ngx_commerce_limit_ask_s  ngx_commerce_limit_ask_t;

typedef struct {
    ngx_commerce_limit_policy_t  *policy;
    ngx_commerce_limit_state_e    state;
    ngx_commerce_stage_t          stage;
    ngx_commerce_gcra_rate_t      rate;
    ngx_str_t                     header;   /* of RateLimit-Policy */
    ngx_str_t                     key;
    ngx_uint_t                    cost;
    ngx_commerce_gcra_verdict_t   verdict;
} ngx_commerce_limit_taken_t;

struct ngx_commerce_limit_ctx_s {
    ngx_http_request_t           *request;
    ngx_array_t                   taken;    /* of ngx_commerce_limit_taken_t */
    ngx_commerce_limit_taken_t   *refused;
    ngx_commerce_limit_ask_t     *ask;      /* under way */
    ngx_uint_t                    asked;    /* in taken: what it is for */
    ngx_commerce_limit_resume_pt  resume;
    unsigned                      dry:1;    /* a dry run would have refused */
};


/* policy */

char *ngx_commerce_limit_policy(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
ngx_commerce_limit_policy_t *ngx_commerce_limit_lookup(
    ngx_commerce_limit_main_conf_t *lmcf, ngx_str_t *name);
/* "60r/m" */
ngx_int_t ngx_commerce_limit_parse_rate(ngx_str_t *value, ngx_uint_t *count,
    ngx_uint_t *period);

/* zone */

char *ngx_commerce_limit_zone(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
ngx_int_t ngx_commerce_limit_lease_zone(ngx_conf_t *cf,
    ngx_commerce_limit_main_conf_t *lmcf);
ngx_commerce_gcra_table_t *ngx_commerce_limit_table(
    const ngx_shm_zone_t *zone);
uint64_t ngx_commerce_limit_now(void);
/* On this node: take, say what take would, give back. */
void ngx_commerce_limit_take(ngx_commerce_limit_taken_t *t);
void ngx_commerce_limit_look(ngx_commerce_limit_taken_t *t);
void ngx_commerce_limit_give(ngx_commerce_limit_taken_t *t);

static ngx_inline ngx_commerce_str_t
ngx_commerce_limit_bytes(ngx_str_t *s)
{
    return (ngx_commerce_str_t) { s->len, s->data };
}

/*
 * The tenant's own rate instead of conf's: another quota, so another key.  NGX_DECLINED: it is not one; the policy stays.
 */
ngx_int_t ngx_commerce_limit_override(ngx_pool_t *pool,
    ngx_commerce_limit_taken_t *t, ngx_commerce_limit_own_t *own);
/* Room for "name";q=…;w=… */
#define NGX_COMMERCE_LIMIT_HEADER_LEN                                         \
    (NGX_COMMERCE_LIMIT_NAME_MAX + sizeof("\"\";q=;w=") + 2 * NGX_INT64_LEN)

/* key: NGX_OK; NGX_DECLINED: empty, not limited; NGX_ERROR: no memory */

ngx_int_t ngx_commerce_limit_make_key(ngx_http_request_t *r,
    ngx_commerce_limit_policy_t *policy,
    const ngx_commerce_limit_subject_t *subject, ngx_str_t *key);
ngx_int_t ngx_commerce_limit_make_cost(ngx_http_request_t *r,
    ngx_commerce_limit_policy_t *policy, ngx_uint_t *cost);

/* module */

extern const ngx_commerce_limit_hooks_t  *ngx_commerce_limit_hooks;

/* request */

ngx_commerce_limit_ctx_t *ngx_commerce_limit_ctx(ngx_http_request_t *r);
/* Redis answered, or did not: decided, or to be decided here. */
void ngx_commerce_limit_answered(ngx_commerce_limit_ctx_t *ctx);

/*
 * cluster: take for ctx->taken[i].  NGX_OK: it has its verdict; NGX_AGAIN: Redis
 * is asked; NGX_DECLINED: Redis is away, decide here.
 */

ngx_int_t ngx_commerce_limit_cluster_take(ngx_commerce_limit_ctx_t *ctx,
    ngx_uint_t i);
void ngx_commerce_limit_cluster_give(ngx_commerce_limit_taken_t *t);
/* The request is gone, or waits no longer. */
void ngx_commerce_limit_cluster_leave(ngx_commerce_limit_ctx_t *ctx);


#endif /* NGX_COMMERCE_LIMIT_INTERNAL_H */
