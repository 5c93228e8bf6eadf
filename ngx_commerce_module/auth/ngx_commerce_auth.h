/*
 * Who is asking: access tokens (CONVENTIONS "Tokens"), passwords.
 */

#ifndef NGX_COMMERCE_AUTH_H
#define NGX_COMMERCE_AUTH_H


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>


typedef struct {
    ngx_str_t   subject;            /* uuid; empty: nobody */
    ngx_str_t   tenant_id;          /* tid, decimal */
    ngx_str_t   session;            /* sid */
    ngx_str_t   roles;              /* space-separated roles and permissions: "staff catalog.write" */
    time_t      expires;
    unsigned    customer:1;
    unsigned    staff:1;            /* role staff or owner */
    unsigned    owner:1;            /* has every permission of its tenant */
    unsigned    service:1;
} ngx_commerce_principal_t;


/*
 * Reads and verifies "Authorization: Bearer …" (verified tokens are cached per worker).
 * NGX_OK: principal filled (r->pool).  NGX_DECLINED: no credentials.  NGX_ERROR: bad credentials, 401;
 * why (static text) is for the log only.
 */
ngx_int_t ngx_commerce_auth_verify(ngx_http_request_t *r,
    ngx_commerce_principal_t *principal, const char **why);

/* True when roles contain "name"; an owner has every permission (a name with a dot). */
ngx_uint_t ngx_commerce_auth_has(ngx_commerce_principal_t *principal,
    ngx_str_t *name);


/* Issues an access token with the signing key; claims as given, iat/nbf/exp/jti/iss/aud added. */

typedef struct {
    ngx_str_t   subject, tenant_id, session;
    ngx_str_t   roles;              /* space-separated → claim "roles": [..]; those with a dot → claim "scope" */
} ngx_commerce_claims_t;

/* NGX_DECLINED: no key is marked `sign`. */
ngx_int_t ngx_commerce_auth_issue(ngx_http_request_t *r,
    ngx_commerce_claims_t *claims, ngx_str_t *token, ngx_uint_t *expires_in);


/*
 * bcrypt in the thread pool `commerce_crypto`.  NGX_OK: the handler is called once, from the event loop, unless
 * detached.  NGX_BUSY: too many wait already, nothing was started (503, NGX_COMMERCE_PASSWORD_RETRY).  NGX_DECLINED: the password is
 * longer than 72 bytes or has a NUL in it, so bcrypt would not see all of it (422).  NGX_ERROR: no memory, no pool.
 * Passwords are copied and wiped.
 */

#define NGX_COMMERCE_PASSWORD_MAX    72
#define NGX_COMMERCE_PASSWORD_RETRY  3      /* seconds until a full queue has drained */

typedef struct ngx_commerce_password_op_s  ngx_commerce_password_op_t;

/*
 * verify: ok says whether the password fits; hash is empty, or the new one to store when the old one was cheaper than
 * commerce_password_cost.  hash: ok and the hash, or not ok: the system has no randomness.  hash is gone after the handler.
 */
typedef void (*ngx_commerce_password_pt)(void *data, ngx_uint_t ok,
    ngx_str_t *hash);

/* hash empty or not "$2b$…": an unknown user, costs the same, answers not ok. */
ngx_int_t ngx_commerce_password_verify(ngx_str_t *password, ngx_str_t *hash,
    ngx_commerce_password_pt handler, void *data,
    ngx_commerce_password_op_t **op, ngx_log_t *log);
ngx_int_t ngx_commerce_password_hash(ngx_str_t *password,
    ngx_commerce_password_pt handler, void *data,
    ngx_commerce_password_op_t **op, ngx_log_t *log);
/* The caller is gone: the handler will not be called, the thread still ends its work. */
void ngx_commerce_password_detach(ngx_commerce_password_op_t *op);

/*
 * A key of 32 bytes derived from commerce_secret_file for one purpose ("cursor", "cart-token"): HKDF-SHA-256.
 * To be called when the directives of http{} are read: in init_main_conf or postconfiguration.  NGX_ERROR with a message logged
 * when there is no secret.
 */
ngx_int_t ngx_commerce_auth_secret(ngx_conf_t *cf, const char *purpose,
    u_char key[32]);


extern ngx_module_t  ngx_commerce_auth_module;


#endif /* NGX_COMMERCE_AUTH_H */
