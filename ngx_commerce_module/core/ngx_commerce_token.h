/*
 * Access tokens: the compact form of JWS (RFC 7515) with the claims of
 * RFC 9068, read strictly.  Everything but the signature is decided here; the
 * caller verifies that between open() and claims().
 */

#ifndef NGX_COMMERCE_TOKEN_H
#define NGX_COMMERCE_TOKEN_H


#include "ngx_commerce_json.h"


#define NGX_COMMERCE_TOKEN_MAX    8192      /* bytes of the whole token */
#define NGX_COMMERCE_TOKEN_ROLES  512       /* bytes of the joined roles */


typedef enum {
    NGX_COMMERCE_TOKEN_HS256 = 0,
    NGX_COMMERCE_TOKEN_RS256,
    NGX_COMMERCE_TOKEN_ES256,
    NGX_COMMERCE_TOKEN_ALGS
} ngx_commerce_token_alg_t;


typedef struct {
    ngx_commerce_token_alg_t  alg;
    ngx_commerce_str_t        kid;
    ngx_commerce_str_t        input;        /* signing input: header '.' payload, within the token */
    ngx_commerce_str_t        payload;      /* decoded */
    ngx_commerce_str_t        signature;    /* decoded */
} ngx_commerce_token_t;


/* What the verifier expects.  issuer and audience are never empty. */

typedef struct {
    int64_t             now;                /* Unix time */
    int64_t             leeway;             /* seconds, for exp, nbf and iat */
    ngx_commerce_str_t  issuer;
    ngx_commerce_str_t  audience;
} ngx_commerce_token_policy_t;


typedef struct {
    ngx_commerce_str_t  subject;            /* uuid */
    ngx_commerce_str_t  tenant_id;          /* decimal; empty: a token of no tenant */
    ngx_commerce_str_t  session;            /* uuid, or empty */
    ngx_commerce_str_t  roles;              /* members of "roles" and "scope", space-separated */
    int64_t             issued;
    int64_t             expires;
} ngx_commerce_token_claims_t;


/* The name is exact: "hs256" and "none" are no algorithms. */

bool ngx_commerce_token_alg(ngx_commerce_str_t name,
    ngx_commerce_token_alg_t *alg);
const char *ngx_commerce_token_alg_name(ngx_commerce_token_alg_t alg);


/*
 * Splits and decodes "text" and reads its header.  Nothing of the result is
 * trusted before the signature is verified with the key that kid and alg both
 * name.  INVALID: *why is a static text for the log, never for the client.
 */

ngx_commerce_rc_t ngx_commerce_token_open(const ngx_commerce_alloc_t *alloc,
    ngx_commerce_str_t text, ngx_commerce_token_t *token, const char **why);

/*
 * Reads and checks the claims of a token whose signature was found good.
 */

ngx_commerce_rc_t ngx_commerce_token_claims(const ngx_commerce_alloc_t *alloc,
    const ngx_commerce_token_t *token,
    const ngx_commerce_token_policy_t *policy,
    ngx_commerce_token_claims_t *claims, const char **why);

/* All claims of a token that was found good before, as JSON. */

ngx_commerce_rc_t ngx_commerce_token_payload(const ngx_commerce_alloc_t *alloc,
    ngx_commerce_str_t text, ngx_commerce_json_t **claims);

/* A role or permission: 1 to 64 of [a-z0-9._-]. */

bool ngx_commerce_token_role_valid(const uint8_t *name, size_t len);

/* A tenant id: decimal without leading zero, fits a positive bigint. */

bool ngx_commerce_token_tenant_valid(const uint8_t *id, size_t len);


#endif /* NGX_COMMERCE_TOKEN_H */
