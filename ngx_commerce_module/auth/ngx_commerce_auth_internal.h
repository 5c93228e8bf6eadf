/*
 * What the files of auth/ share.
 */

#ifndef NGX_COMMERCE_AUTH_INTERNAL_H
#define NGX_COMMERCE_AUTH_INTERNAL_H


#include "ngx_commerce_auth.h"
#include "ngx_commerce_deny.h"
#include "ngx_commerce_json.h"
#include "ngx_commerce_pg.h"
#include "ngx_commerce_token.h"
#include "ngx_commerce_header.h"

#include <openssl/evp.h>


#define NGX_COMMERCE_AUTH_SECRET_MIN  32
#define NGX_COMMERCE_AUTH_FILE_MAX    16384
#define NGX_COMMERCE_AUTH_LEEWAY      60        /* seconds between two clocks */
#define NGX_COMMERCE_AUTH_FIELD_KEYS  8


/* One kid is one key is one algorithm. */

typedef struct {
    ngx_str_t                  kid;
    ngx_commerce_token_alg_t   alg;
    ngx_str_t                  secret;  /* HS256 */
    EVP_PKEY                  *pkey;    /* RS256, ES256 */
} ngx_commerce_auth_key_t;


/* Of commerce_field_key. */

typedef struct {
    ngx_str_t                  kid;
    u_char                     key[32];
} ngx_commerce_auth_field_key_t;


typedef struct {
    ngx_array_t                keys;    /* of ngx_commerce_auth_key_t */
    ngx_int_t                  sign;    /* index of the signing key, or -1 */
    ngx_str_t                  issuer;
    ngx_str_t                  audience;
    time_t                     ttl;
    ngx_int_t                  password_cost;
    ngx_int_t                  password_limit;  /* at a time, on this node */
    ngx_msec_t                 password_wait;
    ngx_shm_zone_t            *password_zone;
    ngx_str_t                  secret;
    ngx_uint_t                 generation;
    ngx_thread_pool_t         *pool;
    ngx_int_t                  field_encrypt;   /* index of the key that encrypts, or -1 */
    ngx_uint_t                 fields_count;
    ngx_str_t                  field_kids;      /* "one,two" */
    ngx_commerce_auth_field_key_t  fields[NGX_COMMERCE_AUTH_FIELD_KEYS];

    size_t                     deny_size;
    ngx_shm_zone_t            *deny_zone;   /* NULL: no keys */
    ngx_commerce_deny_t       *deny;
    ngx_commerce_pg_stmt_t    *revocations;

    ngx_str_t                  realm;       /* quoted: the issuer's name */
    ngx_str_t                  jwks;
    ngx_str_t                  jwks_etag;
    ngx_uint_t                 guarded;     /* some location has commerce_auth */
} ngx_commerce_auth_main_conf_t;


/* What commerce_auth demands beyond a good token: one of the names, or values. */

typedef enum {
    NGX_COMMERCE_AUTH_ROLE = 0,
    NGX_COMMERCE_AUTH_PERMISSION,
    NGX_COMMERCE_AUTH_SCOPE
} ngx_commerce_auth_demand_kind_t;

typedef struct {
    ngx_commerce_auth_demand_kind_t   kind;
    ngx_array_t                       names;    /* of ngx_str_t: one is enough */
} ngx_commerce_auth_demand_t;

/* commerce_auth_require: one of the values is the claim's, or among its elements. */

typedef struct {
    ngx_http_complex_value_t          value;
    ngx_regex_t                      *regex;    /* instead of value */
} ngx_commerce_auth_value_t;

typedef struct {
    ngx_str_t                         claim;
    ngx_array_t                       values;   /* of ngx_commerce_auth_value_t */
} ngx_commerce_auth_require_t;


#define NGX_COMMERCE_AUTH_OFF       0
#define NGX_COMMERCE_AUTH_IF_SENT   1
#define NGX_COMMERCE_AUTH_REQUIRED  2

typedef struct {
    ngx_uint_t                        mode;
    ngx_array_t                      *demands;  /* of ngx_commerce_auth_demand_t */
    ngx_http_complex_value_t         *tenant;
    ngx_uint_t                        tenant_by_host;
    ngx_array_t                      *requires; /* of ngx_commerce_auth_require_t */
} ngx_commerce_auth_loc_conf_t;


#define NGX_COMMERCE_AUTH_REVOKED   "revoked"
#define NGX_COMMERCE_AUTH_EXPIRED   "expired"   /* what core/ says, too */

/* The verdict on a request's token. */

typedef struct {
    ngx_int_t                         rc;       /* NGX_OK, NGX_DECLINED, NGX_ERROR */
    const char                       *why;
    ngx_str_t                         token;
    ngx_commerce_principal_t          principal;
    ngx_commerce_json_t              *claims;   /* on demand */
    ngx_uint_t                        forbidden;
} ngx_commerce_auth_ctx_t;


/* ngx_commerce_auth_module.c */

ngx_uint_t ngx_commerce_auth_kid_valid(ngx_str_t *kid);
/* HKDF-SHA-256 of a secret for one purpose. */
ngx_int_t ngx_commerce_auth_derive(ngx_log_t *log, ngx_str_t *secret,
    const char *purpose, u_char key[32]);


/* ngx_commerce_auth_field.c: the directive commerce_field_key */

char *ngx_commerce_auth_field_key(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);


/* ngx_commerce_auth_queue.c: whose turn it is to hash */

typedef struct ngx_commerce_auth_turn_s  ngx_commerce_auth_turn_t;

struct ngx_commerce_auth_turn_s {
    uint64_t                          serial;   /* the place */
    ngx_queue_t                       link;
    ngx_int_t                       (*handler)(ngx_commerce_auth_turn_t *turn);
    unsigned                          waiting:1;
};

char *ngx_commerce_auth_queue_directive(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
ngx_int_t ngx_commerce_auth_queue_conf(ngx_conf_t *cf,
    ngx_commerce_auth_main_conf_t *amcf);
void ngx_commerce_auth_queue_init(ngx_commerce_auth_main_conf_t *amcf,
    ngx_log_t *log);
void ngx_commerce_auth_queue_exit(void);
/* Takes the place.  turn->handler is called when its turn has come, perhaps at once; not NGX_OK: it wants to be called again. */
void ngx_commerce_auth_queue_wait(ngx_commerce_auth_turn_t *turn,
    ngx_commerce_password_place_t *place);
/* Its turn is over, after so many ms of work; or it does not wait any more. */
void ngx_commerce_auth_queue_leave(ngx_commerce_auth_turn_t *turn,
    ngx_msec_t took);


/* ngx_commerce_auth_key.c */

char *ngx_commerce_auth_key_load(ngx_conf_t *cf, ngx_commerce_auth_key_t *key,
    ngx_str_t *file, ngx_uint_t sign);
/* A file with a secret: at least 32 bytes, not open to everyone; one line break at its end is dropped. */
char *ngx_commerce_auth_secret_load(ngx_conf_t *cf, ngx_str_t *file,
    ngx_str_t *secret);
ngx_commerce_auth_key_t *ngx_commerce_auth_key_find(
    ngx_commerce_auth_main_conf_t *conf, ngx_commerce_str_t *kid,
    ngx_commerce_token_alg_t alg);
/* NGX_OK, NGX_DECLINED: the signature is not of this key. */
ngx_int_t ngx_commerce_auth_key_verify(ngx_commerce_auth_key_t *key,
    ngx_commerce_token_t *token);
/* Writes at most *len bytes to sig. */
ngx_int_t ngx_commerce_auth_key_sign(ngx_commerce_auth_key_t *key,
    ngx_str_t *input, u_char *sig, size_t *len);


/* ngx_commerce_auth_conf.c: commerce_auth and commerce_auth_require */

char *ngx_commerce_auth_directive(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_commerce_auth_require_directive(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
void *ngx_commerce_auth_create_loc_conf(ngx_conf_t *cf);
char *ngx_commerce_auth_merge_loc_conf(ngx_conf_t *cf, void *parent,
    void *child);


/* ngx_commerce_auth_verify.c */

/* The verdict, made on the first call.  NULL: no memory. */
ngx_commerce_auth_ctx_t *ngx_commerce_auth_get(ngx_http_request_t *r);
/* The one that was made already, before an internal redirect too, or NULL. */
ngx_commerce_auth_ctx_t *ngx_commerce_auth_found(ngx_http_request_t *r);
/* One claim of a good token, or NULL. */
ngx_commerce_json_t *ngx_commerce_auth_claim(ngx_http_request_t *r,
    ngx_commerce_auth_ctx_t *ctx, ngx_str_t *name);
ngx_uint_t ngx_commerce_auth_listed(ngx_str_t *list, ngx_str_t *name);


/* ngx_commerce_auth_access.c: phases */

ngx_int_t ngx_commerce_auth_access_init(ngx_conf_t *cf);


/* ngx_commerce_auth_variables.c */

ngx_int_t ngx_commerce_auth_add_variables(ngx_conf_t *cf);


/* ngx_commerce_auth_jwks.c: the public keys */

ngx_int_t ngx_commerce_auth_jwks_build(ngx_conf_t *cf,
    ngx_commerce_auth_main_conf_t *amcf);
char *ngx_commerce_auth_jwks_directive(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);


/* ngx_commerce_auth_revoke.c: the deny set */

#define NGX_COMMERCE_AUTH_ENTRY_MAX  256        /* bytes of a revocation as text */

ngx_int_t ngx_commerce_auth_revoke_conf(ngx_conf_t *cf,
    ngx_commerce_auth_main_conf_t *amcf);
void ngx_commerce_auth_revoke_init(ngx_commerce_auth_main_conf_t *amcf,
    ngx_log_t *log);
/* NGX_DECLINED: the token is void.  *verdict: version of the set that did not have it; 0: not asked yet. */
ngx_int_t ngx_commerce_auth_revoked(ngx_commerce_auth_main_conf_t *amcf,
    ngx_commerce_principal_t *principal, uint64_t *verdict);
/* iat of a token that is issued now. */
time_t ngx_commerce_auth_revoke_issue(ngx_commerce_auth_main_conf_t *amcf,
    ngx_commerce_claims_t *claims);


/* ngx_commerce_auth_cache.c: verified tokens, per worker.  An entry is valid until the next put(). */

typedef struct ngx_commerce_auth_entry_s  ngx_commerce_auth_entry_t;

ngx_int_t ngx_commerce_auth_cache_init(ngx_cycle_t *cycle);
void ngx_commerce_auth_cache_exit(void);
ngx_commerce_auth_entry_t *ngx_commerce_auth_cache_find(ngx_str_t *token,
    ngx_uint_t generation);
uint64_t *ngx_commerce_auth_cache_verdict(ngx_commerce_auth_entry_t *e);
void ngx_commerce_auth_cache_drop(ngx_commerce_auth_entry_t *e);
ngx_int_t ngx_commerce_auth_cache_copy(ngx_commerce_auth_entry_t *e,
    ngx_commerce_principal_t *principal, ngx_pool_t *pool);
void ngx_commerce_auth_cache_put(ngx_str_t *token, ngx_uint_t generation,
    ngx_commerce_principal_t *principal, uint64_t verdict);


#endif /* NGX_COMMERCE_AUTH_INTERNAL_H */
