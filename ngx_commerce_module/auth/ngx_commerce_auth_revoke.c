/*
 * Revoked sessions and users: the deny set's zone, and how it is fed.
 *
 * A worker that serves a revoking command takes the entries in before it
 * answers.  The worker that listens to PostgreSQL hears of everybody's
 * commands, and reads what was revoked before whenever its connection is new.
 */

#include "ngx_commerce_auth_internal.h"
#include "ngx_commerce_pg.h"

#include <openssl/rand.h>


#define NGX_COMMERCE_REVOKE_TIMEOUT    10000
#define NGX_COMMERCE_REVOKE_RETRY_MIN  100
#define NGX_COMMERCE_REVOKE_RETRY_MAX  5000
#define NGX_COMMERCE_REVOKE_SKEW       60       /* seconds between PostgreSQL's clock and ours */
#define NGX_COMMERCE_REVOKE_AHEAD      10       /* revocations of one user within a second; domain.revocation_put() too */


typedef struct {
    ngx_slab_pool_t                *shpool;
    ngx_commerce_auth_main_conf_t  *conf;
    ngx_commerce_pg_op_t           *op;         /* under way */
    ngx_event_t                     retry;
    ngx_msec_t                      delay;
    ngx_log_t                      *log;
    unsigned                        again:1;    /* the connection was new once more */
} ngx_commerce_revoke_t;


static ngx_int_t ngx_commerce_auth_revoke_zone(ngx_shm_zone_t *zone,
    void *data);
static ngx_int_t ngx_commerce_auth_revoke_text(ngx_str_t *text,
    ngx_uint_t fresh);
static void ngx_commerce_auth_revoke_notify(ngx_str_t *channel,
    ngx_str_t *payload);
static void ngx_commerce_auth_revoke_again(ngx_event_t *ev);
static void ngx_commerce_auth_revoke_fetch(void);
static void ngx_commerce_auth_revoke_fetched(ngx_commerce_pg_op_t *op,
    ngx_commerce_pg_status_t status, const PGresult *result);
static void ngx_commerce_auth_revoke_later(const char *why);
static time_t ngx_commerce_auth_revoke_life(void);
static ngx_uint_t ngx_commerce_auth_revoke_token(
    ngx_commerce_principal_t *principal, ngx_commerce_deny_token_t *token);


static ngx_str_t  ngx_commerce_auth_revoke_query = ngx_string(
    "SELECT api.edge_revocations($1)");

static ngx_commerce_revoke_t  ngx_commerce_revoke;


ngx_int_t
ngx_commerce_auth_revoke_conf(ngx_conf_t *cf,
    ngx_commerce_auth_main_conf_t *amcf)
{
    ngx_str_t  name;

    ngx_str_set(&name, "commerce_revocations");

    amcf->deny_zone = ngx_shared_memory_add(cf, &name, amcf->deny_size,
                                            &ngx_commerce_auth_module);
    if (amcf->deny_zone == NULL) {
        return NGX_ERROR;
    }

    amcf->deny_zone->init = ngx_commerce_auth_revoke_zone;
    amcf->deny_zone->data = amcf;

    amcf->revocations = ngx_commerce_pg_statement(cf,
                                       &ngx_commerce_auth_revoke_query, 1);

    return (amcf->revocations != NULL) ? NGX_OK : NGX_ERROR;
}


/* The set is all that the slab holds; a reload that keeps the size finds it there. */

static ngx_int_t
ngx_commerce_auth_revoke_zone(ngx_shm_zone_t *zone, void *data)
{
    size_t                          size;
    u_char                         *memory, seed[16];
    ngx_slab_pool_t                *shpool;
    ngx_commerce_auth_main_conf_t  *amcf;

    amcf = zone->data;
    shpool = (ngx_slab_pool_t *) zone->shm.addr;

    if (data != NULL) {
        amcf->deny = ngx_commerce_deny_attach(shpool->data);

        if (amcf->deny == NULL) {
            ngx_log_error(NGX_LOG_EMERG, zone->shm.log, 0,
                          "commerce_revocation_zone was laid out by another "
                          "version: change its size or restart nginx");
            return NGX_ERROR;
        }

        return NGX_OK;
    }

    size = shpool->pfree * ngx_pagesize;
    memory = ngx_slab_alloc(shpool, size);

    if (memory == NULL || RAND_bytes(seed, sizeof(seed)) != 1) {
        return NGX_ERROR;
    }

    amcf->deny = ngx_commerce_deny_create(memory, size, seed);
    shpool->data = memory;

    return (amcf->deny != NULL) ? NGX_OK : NGX_ERROR;
}


void
ngx_commerce_auth_revoke_init(ngx_commerce_auth_main_conf_t *amcf,
    ngx_log_t *log)
{
    ngx_memzero(&ngx_commerce_revoke, sizeof(ngx_commerce_revoke_t));

    ngx_commerce_revoke.conf = amcf;
    ngx_commerce_revoke.shpool = (ngx_slab_pool_t *)
                                 amcf->deny_zone->shm.addr;
    ngx_commerce_revoke.log = log;
    ngx_commerce_revoke.delay = NGX_COMMERCE_REVOKE_RETRY_MIN;

    ngx_commerce_revoke.retry.handler = ngx_commerce_auth_revoke_again;
    ngx_commerce_revoke.retry.data = &ngx_commerce_revoke;
    ngx_commerce_revoke.retry.log = log;
    ngx_commerce_revoke.retry.cancelable = 1;

    ngx_commerce_pg_on_notify("commerce_revoke",
                              ngx_commerce_auth_revoke_notify);
}


void
ngx_commerce_auth_revoke(ngx_str_t *tenant_id, ngx_str_t *entry)
{
    u_char     buf[NGX_COMMERCE_AUTH_ENTRY_MAX];
    ngx_str_t  text;

    text.data = buf;
    text.len = ngx_snprintf(buf, sizeof(buf), "%V:%V", tenant_id, entry)
               - buf;

    if (ngx_commerce_auth_revoke_text(&text, 1) != NGX_OK) {
        ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                      "\"%V\" is no revocation: return what "
                      "domain.revoke_sessions() and domain.revoke_user() "
                      "return", &text);
    }
}


/* fresh: of now, by whatever clock.  NGX_DECLINED: it is none. */

static ngx_int_t
ngx_commerce_auth_revoke_text(ngx_str_t *text, ngx_uint_t fresh)
{
    time_t                          now, life, until;
    ngx_commerce_str_t              s;
    ngx_commerce_deny_t            *deny;
    ngx_commerce_deny_item_t        item;

    if (ngx_commerce_revoke.conf == NULL) {
        /* no keys, hence no tokens */
        return NGX_OK;
    }

    s.data = text->data;
    s.len = text->len;

    if (!ngx_commerce_deny_parse(s, &item)) {
        return NGX_DECLINED;
    }

    deny = ngx_commerce_revoke.conf->deny;
    now = ngx_time();
    life = ngx_commerce_auth_revoke_life();
    until = item.at + life + NGX_COMMERCE_REVOKE_SKEW;

    /*
     * Whoever logs in right after a revocation gets a token of the second
     * after it, and the next revocation is of that second.  What is further
     * ahead is another clock, which must not refuse what we issue next.
     */

    if (item.at > now + NGX_COMMERCE_REVOKE_AHEAD) {
        item.at = now + NGX_COMMERCE_REVOKE_AHEAD;
    }

    if (fresh && until < now + life) {
        until = now + life;
    }

    if (until <= now) {
        return NGX_OK;
    }

    /* the master frees the lock of a worker that dies */

    ngx_shmtx_lock(&ngx_commerce_revoke.shpool->mutex);
    ngx_commerce_deny_add(deny, &item, until, now);
    ngx_shmtx_unlock(&ngx_commerce_revoke.shpool->mutex);

    return NGX_OK;
}


/* An empty channel: the connection is new, and notices may have been missed. */

static void
ngx_commerce_auth_revoke_notify(ngx_str_t *channel, ngx_str_t *payload)
{
    if (channel->len == 0) {

        if (ngx_commerce_revoke.op != NULL) {
            ngx_commerce_revoke.again = 1;
            return;
        }

        ngx_commerce_auth_revoke_fetch();
        return;
    }

    if (ngx_commerce_auth_revoke_text(payload, 1) != NGX_OK) {
        ngx_log_error(NGX_LOG_ERR, ngx_commerce_revoke.log, 0,
                      "the notice \"%V\" on commerce_revoke is no revocation",
                      payload);
    }
}


static void
ngx_commerce_auth_revoke_again(ngx_event_t *ev)
{
    ngx_commerce_auth_revoke_fetch();
}


/* From the primary: a replica may not know yet. */

static void
ngx_commerce_auth_revoke_fetch(void)
{
    u_char                          text[NGX_TIME_T_LEN];
    ngx_str_t                       seconds;
    ngx_commerce_pg_op_t           *op;
    ngx_commerce_pg_lane_status_t   lane;

    if (ngx_exiting || ngx_terminate || ngx_quit) {
        return;
    }

    if (ngx_commerce_revoke.retry.timer_set) {
        ngx_del_timer(&ngx_commerce_revoke.retry);
    }

    op = ngx_commerce_pg_alloc();
    if (op == NULL) {
        ngx_commerce_auth_revoke_later("out of memory");
        return;
    }

    ngx_commerce_pg_lane_status(NGX_COMMERCE_PG_WRITE, &lane);

    seconds.data = text;
    seconds.len = ngx_sprintf(text, "%T", ngx_commerce_auth_revoke_life()
                                          + NGX_COMMERCE_REVOKE_SKEW)
                  - text;

    op->lane = lane.configured ? NGX_COMMERCE_PG_WRITE : NGX_COMMERCE_PG_READ;
    op->timeout = NGX_COMMERCE_REVOKE_TIMEOUT;
    op->query.stmt = ngx_commerce_revoke.conf->revocations;
    op->query.values = &seconds;
    op->own_sync = 1;
    op->handler = ngx_commerce_auth_revoke_fetched;
    op->data = NULL;

    ngx_commerce_revoke.again = 0;

    if (ngx_commerce_pg_submit(op) != NGX_OK) {
        ngx_commerce_auth_revoke_later("PostgreSQL is not available");
        return;
    }

    ngx_commerce_revoke.op = op;
}


static void
ngx_commerce_auth_revoke_fetched(ngx_commerce_pg_op_t *op,
    ngx_commerce_pg_status_t status, const PGresult *result)
{
    int        i, n;
    ngx_str_t  text;

    ngx_commerce_revoke.op = NULL;

    if (status == NGX_COMMERCE_PG_FAILED) {
        ngx_commerce_auth_revoke_later(PQresultErrorMessage(result));
        return;
    }

    if (status != NGX_COMMERCE_PG_OK) {
        ngx_commerce_auth_revoke_later("PostgreSQL did not answer");
        return;
    }

    n = PQntuples(result);

    for (i = 0; i < n; i++) {
        text.data = (u_char *) PQgetvalue(result, i, 0);
        text.len = PQgetlength(result, i, 0);

        if (ngx_commerce_auth_revoke_text(&text, 0) != NGX_OK) {
            ngx_log_error(NGX_LOG_ERR, ngx_commerce_revoke.log, 0,
                          "api.edge_revocations() answered \"%V\", which is "
                          "no revocation", &text);
        }
    }

    ngx_commerce_revoke.delay = NGX_COMMERCE_REVOKE_RETRY_MIN;

    if (ngx_commerce_revoke.again) {
        ngx_commerce_auth_revoke_fetch();
    }
}


static void
ngx_commerce_auth_revoke_later(const char *why)
{
    if (ngx_exiting || ngx_terminate || ngx_quit) {
        return;
    }

    ngx_log_error(NGX_LOG_WARN, ngx_commerce_revoke.log, 0,
                  "the revoked sessions could not be read, again in %M ms: "
                  "%s", ngx_commerce_revoke.delay, why);

    ngx_add_timer(&ngx_commerce_revoke.retry, ngx_commerce_revoke.delay);

    ngx_commerce_revoke.delay = ngx_min(ngx_commerce_revoke.delay * 2,
                                        NGX_COMMERCE_REVOKE_RETRY_MAX);
}


/*
 * How long an access token issued now, or one issued before commerce_jwt_ttl
 * was lowered, is taken.
 */

static time_t
ngx_commerce_auth_revoke_life(void)
{
    time_t                          life, left;
    ngx_commerce_auth_main_conf_t  *amcf;

    amcf = ngx_commerce_revoke.conf;

    life = amcf->ttl;
    left = ngx_commerce_deny_latest(amcf->deny) - ngx_time();

    return ngx_max(life, left) + NGX_COMMERCE_AUTH_LEEWAY;
}


ngx_int_t
ngx_commerce_auth_revoked(ngx_commerce_auth_main_conf_t *amcf,
    ngx_commerce_principal_t *principal, uint64_t *verdict)
{
    uint64_t                   version;
    ngx_commerce_deny_token_t  token;

    version = ngx_commerce_deny_version(amcf->deny);

    if (*verdict == version) {
        return NGX_OK;
    }

    if (!ngx_commerce_auth_revoke_token(principal, &token)) {
        return NGX_DECLINED;
    }

    if (ngx_commerce_deny_has(amcf->deny, &token, ngx_time())) {
        return NGX_DECLINED;
    }

    *verdict = version;

    return NGX_OK;
}


time_t
ngx_commerce_auth_revoke_issue(ngx_commerce_auth_main_conf_t *amcf,
    ngx_commerce_claims_t *claims)
{
    time_t                      now, issued;
    ngx_commerce_deny_token_t   token;
    ngx_commerce_principal_t    principal;

    now = ngx_time();

    ngx_memzero(&principal, sizeof(ngx_commerce_principal_t));
    principal.subject = claims->subject;
    principal.tenant_id = claims->tenant_id;
    principal.session = claims->session;

    if (!ngx_commerce_auth_revoke_token(&principal, &token)) {
        return now;
    }

    issued = ngx_commerce_deny_after(amcf->deny, &token, now);
    ngx_commerce_deny_issued(amcf->deny, issued + amcf->ttl);

    return issued;
}


/* False: the ids are none, which no verified token has. */

static ngx_uint_t
ngx_commerce_auth_revoke_token(ngx_commerce_principal_t *principal,
    ngx_commerce_deny_token_t *token)
{
    ngx_commerce_str_t  *subject, *session, *tenant;

    subject = (ngx_commerce_str_t *) &principal->subject;
    session = (ngx_commerce_str_t *) &principal->session;
    tenant = (ngx_commerce_str_t *) &principal->tenant_id;

    token->issued = principal->issued;
    token->has_session = (session->len != 0);

    return ngx_commerce_deny_tenant(*tenant, &token->tenant)
           && ngx_commerce_deny_uuid(*subject, token->user)
           && (!token->has_session
               || ngx_commerce_deny_uuid(*session, token->session));
}
