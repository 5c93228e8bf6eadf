/*
 * Rate limits: named GCRA policies in lock-free shared memory, for the cluster
 * over Redis.
 *
 * A request is under the policies of its location (commerce_limit) and, at
 * the engine, under those of its operation (x-commerce: limit).  Both take
 * through ngx_commerce_limit_check(): a policy is counted once per request,
 * however often it is named, and all of them share one set of headers.
 */

#ifndef NGX_COMMERCE_LIMIT_H
#define NGX_COMMERCE_LIMIT_H


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>


typedef struct ngx_commerce_limit_policy_s  ngx_commerce_limit_policy_t;

/* NULL: no such policy (yet): a contract may name policies that conf does not set; they do not limit. */
ngx_commerce_limit_policy_t *ngx_commerce_limit_find(ngx_conf_t *cf,
    ngx_str_t *name);


/*
 * When a policy can be counted: what its key is made of must be known, and
 * what is known early is counted before anything is spent on the request.
 */

typedef enum {
    NGX_COMMERCE_STAGE_ADDRESS = 0,     /* before any token is looked at */
    NGX_COMMERCE_STAGE_PRINCIPAL,
    NGX_COMMERCE_STAGE_BODY             /* the account is named in the body */
} ngx_commerce_stage_t;


/* Who asks, as far as it is known at the stage. */

typedef struct {
    ngx_str_t   tenant;                 /* id; empty: none */
    ngx_str_t   user;                   /* empty: nobody is logged in */
    ngx_str_t   api_key;                /* the key's id; empty: none */
    ngx_str_t   account;                /* ip_user: who the body names, instead of the user */
    unsigned    body:1;                 /* there is a body to come: ip_user waits for it */
} ngx_commerce_limit_subject_t;


/* Goes on with a request that waited.  May be called from a timer or from Redis' answer; the request is alive. */

typedef void (*ngx_commerce_limit_resume_pt)(ngx_http_request_t *r);

/*
 * Counts the request under those policies whose stage it is, and sets the
 * headers.  NGX_OK: go on.  NGX_BUSY: refused, see ngx_commerce_limit_refusal();
 * what the same call had taken under other policies is given back.  NGX_AGAIN:
 * Redis was asked, resume() comes soon and the same call is to be made again; the
 * caller holds the request.  NGX_ERROR: no memory.
 */

ngx_int_t ngx_commerce_limit_check(ngx_http_request_t *r,
    ngx_commerce_stage_t stage, ngx_commerce_limit_policy_t **policies,
    ngx_uint_t count, const ngx_commerce_limit_subject_t *subject,
    ngx_commerce_limit_resume_pt resume);

/* The same for the policies of the request's location (commerce_limit): for who answers "known later" to identify. */

ngx_int_t ngx_commerce_limit_check_location(ngx_http_request_t *r,
    ngx_commerce_stage_t stage, const ngx_commerce_limit_subject_t *subject,
    ngx_commerce_limit_resume_pt resume);


typedef struct {
    ngx_uint_t  status;
    ngx_uint_t  retry_after;            /* seconds; the header is set already */
    ngx_str_t   extension;              /* a JSON object: type, violated-policies, retry_after */
} ngx_commerce_limit_refusal_t;

/* NGX_DECLINED: this request was not refused. */

ngx_int_t ngx_commerce_limit_refusal(ngx_http_request_t *r,
    ngx_commerce_limit_refusal_t *refusal);


/*
 * What the engine knows and this folder must not: set while the configuration
 * is read.
 *
 * identify: who asks, at a location with commerce_limit, when the access phase is
 * over.  NGX_DECLINED: that is known later, and the location's handler calls
 * ngx_commerce_limit_check_location() itself.
 *
 * refuse: answers with a problem document; returns what a content handler does.
 *
 * own: what the request's tenant has set for a policy with "override".  NGX_DECLINED: nothing.
 */

/* A tenant's own rate: "20r/m", and burst as text or empty. */

typedef struct {
    ngx_str_t   tenant;                 /* id */
    ngx_str_t   rate;
    ngx_str_t   burst;
} ngx_commerce_limit_own_t;

typedef struct {
    ngx_int_t (*identify)(ngx_http_request_t *r,
        ngx_commerce_limit_subject_t *subject);
    ngx_int_t (*refuse)(ngx_http_request_t *r,
        ngx_commerce_limit_refusal_t *refusal);
    ngx_int_t (*own)(ngx_http_request_t *r, ngx_str_t *policy,
        ngx_commerce_limit_own_t *own);
} ngx_commerce_limit_hooks_t;

void ngx_commerce_limit_set_hooks(const ngx_commerce_limit_hooks_t *hooks);


extern ngx_module_t  ngx_commerce_limit_module;


#endif /* NGX_COMMERCE_LIMIT_H */
