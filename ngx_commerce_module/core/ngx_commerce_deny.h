/*
 * The deny set: sessions and users whose access tokens are void before they
 * expire.  A fixed table in shared memory; readers take no lock and never
 * wait, writers are serialised by the caller.
 *
 * It never forgets: what does not fit any more raises the floor of its set,
 * below which every token that falls into that set is refused until the
 * evicted entries would have expired.  Some clients then have to refresh; no
 * revoked token comes back.
 */

#ifndef NGX_COMMERCE_DENY_H
#define NGX_COMMERCE_DENY_H


#include "ngx_commerce_core.h"


#define NGX_COMMERCE_DENY_MIN  4096         /* bytes of a table */


typedef enum {
    NGX_COMMERCE_DENY_SESSION = 1,
    NGX_COMMERCE_DENY_USER
} ngx_commerce_deny_kind_t;


/* One revocation. */

typedef struct {
    ngx_commerce_deny_kind_t  kind;
    uint64_t                  tenant;       /* 0: of no tenant */
    uint8_t                   id[16];
    uint8_t                   keep[16];     /* of a user's: the session that stays; zeroes: none */
    int64_t                   at;           /* Unix seconds: what was issued until then is void */
} ngx_commerce_deny_item_t;


/* Whom a token names. */

typedef struct {
    uint64_t                  tenant;
    uint8_t                   user[16];
    uint8_t                   session[16];
    bool                      has_session;
    int64_t                   issued;
} ngx_commerce_deny_token_t;


typedef struct ngx_commerce_deny_s  ngx_commerce_deny_t;


/*
 * Lays out "memory" (aligned to 64 bytes, at least DENY_MIN).  seed is random.
 * NULL: too small.
 */
ngx_commerce_deny_t *ngx_commerce_deny_create(void *memory, size_t size,
    const uint8_t seed[16]);
/* Memory that another process laid out; NULL: by another version. */
ngx_commerce_deny_t *ngx_commerce_deny_attach(void *memory);

/*
 * Changes with every revocation, so that a verdict on a token holds as long as
 * this stays.  To be read before ngx_commerce_deny_has().
 */
uint64_t ngx_commerce_deny_version(ngx_commerce_deny_t *deny);

/* Takes a revocation in until the time "until".  One writer at a time. */
void ngx_commerce_deny_add(ngx_commerce_deny_t *deny,
    const ngx_commerce_deny_item_t *item, int64_t until, int64_t now);

/* Is the token void?  From any process, at any time. */
bool ngx_commerce_deny_has(ngx_commerce_deny_t *deny,
    const ngx_commerce_deny_token_t *token, int64_t now);

/* The iat from which on a token of whom "token" names is good: at least "now". */
int64_t ngx_commerce_deny_after(ngx_commerce_deny_t *deny,
    const ngx_commerce_deny_token_t *token, int64_t now);

/* When the last token expires that was issued here, so that entries outlive it. */
void ngx_commerce_deny_issued(ngx_commerce_deny_t *deny, int64_t expires);
int64_t ngx_commerce_deny_latest(ngx_commerce_deny_t *deny);


/*
 * Reads "<tenant>:s:<session>:<seconds>" or
 * "<tenant>:u:<user>:<seconds>[:<session that stays>]".
 */
bool ngx_commerce_deny_parse(ngx_commerce_str_t text,
    ngx_commerce_deny_item_t *item);

/* Decimal of at most 18 digits; empty: 0. */
bool ngx_commerce_deny_tenant(ngx_commerce_str_t text, uint64_t *tenant);
bool ngx_commerce_deny_uuid(ngx_commerce_str_t text, uint8_t id[16]);


#endif /* NGX_COMMERCE_DENY_H */
