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
    time_t      issued;
    time_t      expires;
    unsigned    customer:1;
    unsigned    staff:1;            /* role staff or owner */
    unsigned    owner:1;            /* has every permission of its tenant */
    unsigned    service:1;
} ngx_commerce_principal_t;


/*
 * Reads and verifies "Authorization: Bearer …", once per request; commerce_auth and the API share the verdict.
 * NGX_OK: principal filled (r->pool).  NGX_DECLINED: no credentials.  NGX_ERROR: bad credentials, 401;
 * why (static text) is for the log only.
 */
ngx_int_t ngx_commerce_auth_verify(ngx_http_request_t *r,
    ngx_commerce_principal_t *principal, const char **why);

/*
 * Who asks, for variables and keys of limits: where commerce_auth is on, or when the token was looked at already.
 * NULL: nobody known.
 */
const ngx_commerce_principal_t *ngx_commerce_auth_principal(
    ngx_http_request_t *r);

/*
 * WWW-Authenticate of a 401 (RFC 6750): error="invalid_token" when a token was sent.  A second call for the same
 * response does nothing.
 */
ngx_int_t ngx_commerce_auth_challenge(ngx_http_request_t *r);

/*
 * True when nginx refused the request by itself (400) for its Authorization: two of them, or one that is too long.  The
 * verdict on the request is then "bad token".
 */
ngx_uint_t ngx_commerce_auth_refused(ngx_http_request_t *r);

/*
 * A revocation that a command answered in edge.revoke: access tokens are void from now on, in all workers.
 * See docs/contract.md.
 */
void ngx_commerce_auth_revoke(ngx_str_t *tenant_id, ngx_str_t *entry);

/* True when roles contain "name"; an owner has every permission (a name with a dot). */
ngx_uint_t ngx_commerce_auth_has(ngx_commerce_principal_t *principal,
    ngx_str_t *name);


/* Issues an access token with the signing key; claims as given, iat/nbf/exp/jti/iss/aud added. */

typedef struct {
    ngx_str_t   subject, tenant_id, session;
    ngx_str_t   roles;              /* space-separated → claim "roles": [..]; those with a dot → claim "scope" */
    ngx_str_t   actor;              /* uuid → claim "act" (RFC 8693): who acts; empty: the subject itself */
    time_t      ttl;                /* seconds, when shorter than commerce_jwt_ttl; 0: that */
} ngx_commerce_claims_t;

/* NGX_DECLINED: no key is marked `sign`. */
ngx_int_t ngx_commerce_auth_issue(ngx_http_request_t *r,
    ngx_commerce_claims_t *claims, ngx_str_t *token, ngx_uint_t *expires_in);


/*
 * A place in the queue of passwords, one for all workers of the node.  Of a request, or of whoever wants several hashed: entered once,
 * before anything else is done for it, so that what it did is never for nothing.  All zero: outside.
 */

typedef struct {
    uint64_t    serial;             /* the place; 0: none, or an operation has it */
    ngx_uint_t  retry;              /* of who is refused: seconds until it is worth while to come again */
    unsigned    entered:1;          /* not refused any more */
} ngx_commerce_password_place_t;

/*
 * NGX_OK: there is a place.  NGX_BUSY: the wait would be longer than that of commerce_password_limit (503, place->retry).  NGX_ERROR:
 * no keys, a line is logged.
 */
ngx_int_t ngx_commerce_password_enter(ngx_commerce_password_place_t *place,
    ngx_log_t *log);
/* A place that no operation took is given back. */
void ngx_commerce_password_leave(ngx_commerce_password_place_t *place);


/*
 * bcrypt in the thread pool `commerce_crypto`, when its turn has come.  Takes the place, or enters.  NGX_OK: the handler is called once,
 * from the event loop, unless detached.  NGX_BUSY, NGX_ERROR: as enter(), or no memory; nothing was started.  NGX_DECLINED: the password
 * is longer than 72 bytes or has a NUL in it, so bcrypt would not see all of it (422).  Passwords are copied and wiped.
 */

#define NGX_COMMERCE_PASSWORD_MAX    72

typedef struct ngx_commerce_password_op_s  ngx_commerce_password_op_t;

/*
 * verify: ok says whether the password fits; hash is empty, or the new one to store when the old one was cheaper than
 * commerce_password_cost.  hash: ok and the hash, or not ok: the system has no randomness.  hash is gone after the handler.
 */
typedef void (*ngx_commerce_password_pt)(void *data, ngx_uint_t ok,
    ngx_str_t *hash);

/* hash empty or not "$2b$…": an unknown user, costs the same, answers not ok. */
ngx_int_t ngx_commerce_password_verify(ngx_commerce_password_place_t *place,
    ngx_str_t *password, ngx_str_t *hash, ngx_commerce_password_pt handler,
    void *data, ngx_commerce_password_op_t **op, ngx_log_t *log);
ngx_int_t ngx_commerce_password_hash(ngx_commerce_password_place_t *place,
    ngx_str_t *password, ngx_commerce_password_pt handler, void *data,
    ngx_commerce_password_op_t **op, ngx_log_t *log);
/* The caller is gone: the handler will not be called.  Work that no thread has begun is not done. */
void ngx_commerce_password_detach(ngx_commerce_password_op_t *op);

/*
 * A key of 32 bytes derived from commerce_secret_file for one purpose ("cursor", "cart-token"): HKDF-SHA-256.
 * To be called when the directives of http{} are read: in init_main_conf or postconfiguration.  NGX_ERROR with a message logged
 * when there is no secret.
 */
ngx_int_t ngx_commerce_auth_secret(ngx_conf_t *cf, const char *purpose,
    u_char key[32]);


/*
 * Fields sealed before they reach the database: AES-256-GCM under the commerce_field_key with `encrypt`, as text
 * "v1:<kid>:<base64url>".  context names the place (table, tenant, row, column): it is authenticated, so that a sealed field cannot be
 * moved.  NGX_ERROR: no key, no memory (a line is in pool's log).
 */
ngx_int_t ngx_commerce_field_encrypt(ngx_pool_t *pool, ngx_str_t *context,
    ngx_str_t *plain, ngx_str_t *sealed);
/* While the configuration is read: is there a key that encrypts? */
ngx_uint_t ngx_commerce_field_ready(ngx_conf_t *cf);
/* Its id; empty: none encrypts. */
void ngx_commerce_field_kid(ngx_str_t *kid);
/* The ids of all keys, separated by commas: they open. */
void ngx_commerce_field_kids(ngx_str_t *kids);
/* Has this sealed text a key here that may open it? */
ngx_uint_t ngx_commerce_field_known(ngx_str_t *sealed);
/* By the key that the text names.  NGX_DECLINED: it was changed, is of another place, or its key is gone. */
ngx_int_t ngx_commerce_field_decrypt(ngx_pool_t *pool, ngx_str_t *context,
    ngx_str_t *sealed, ngx_str_t *plain);


/* RFC 6238.  A secret is 160 bits in base32. */

#define NGX_COMMERCE_TOTP_SECRET  32

ngx_int_t ngx_commerce_totp_mint(u_char secret[NGX_COMMERCE_TOTP_SECRET]);
/*
 * NGX_OK: the code is that of *step (the number of 30 seconds since 1970), now or one step beside; whoever takes a step twice is the
 * caller's to refuse.  NGX_DECLINED: a wrong code.  NGX_ERROR: secret is none.
 */
ngx_int_t ngx_commerce_totp_verify(ngx_str_t *secret, ngx_str_t *code,
    time_t now, uint64_t *step);


extern ngx_module_t  ngx_commerce_auth_module;


#endif /* NGX_COMMERCE_AUTH_H */
