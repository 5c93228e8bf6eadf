/*
 * Rate limits: named GCRA policies in lock-free shared memory.
 */

#ifndef NGX_COMMERCE_LIMIT_H
#define NGX_COMMERCE_LIMIT_H


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>


typedef struct ngx_commerce_limit_policy_s  ngx_commerce_limit_policy_t;

typedef enum {
    NGX_COMMERCE_LIMIT_IP = 0,
    NGX_COMMERCE_LIMIT_USER,
    NGX_COMMERCE_LIMIT_TENANT,
    NGX_COMMERCE_LIMIT_IP_USER
} ngx_commerce_limit_key_t;

/* NULL: no such policy (yet): a contract may name policies that conf does not set; they do not limit. */
ngx_commerce_limit_policy_t *ngx_commerce_limit_find(ngx_conf_t *cf,
    ngx_str_t *name);

ngx_commerce_limit_key_t ngx_commerce_limit_key(
    ngx_commerce_limit_policy_t *policy);

typedef struct {
    ngx_uint_t  allowed;
    ngx_uint_t  remaining;
    ngx_uint_t  reset;              /* seconds until the quota is whole */
    ngx_uint_t  retry_after;        /* seconds, when refused */
} ngx_commerce_limit_verdict_t;

/* key: bytes that identify the client under the policy (address, tenant ":" user …). */
void ngx_commerce_limit_take(ngx_commerce_limit_policy_t *policy,
    ngx_str_t *key, ngx_uint_t cost, ngx_commerce_limit_verdict_t *verdict);

/* Adds RateLimit-Policy and RateLimit for one verdict, joining what is there. */
ngx_int_t ngx_commerce_limit_headers(ngx_http_request_t *r,
    ngx_commerce_limit_policy_t *policy, ngx_commerce_limit_verdict_t *verdict);

ngx_str_t *ngx_commerce_limit_name(ngx_commerce_limit_policy_t *policy);


extern ngx_module_t  ngx_commerce_limit_module;


#endif /* NGX_COMMERCE_LIMIT_H */
