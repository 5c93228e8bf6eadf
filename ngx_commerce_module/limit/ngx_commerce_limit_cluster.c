/*
 * One quota over all nodes: GCRA in Redis, with Redis' clock.
 *
 * The client's TAT is a key of Redis that one script moves (limit.lua), so
 * whatever Redis has let pass is exact, however many nodes and workers ask.
 * What keeps requests from waiting for it:
 *
 *   - The mirror.  Each answer lifts the client's TAT in this node's zone.  A
 *     client whose quota the mirror knows to be used up is refused here: a
 *     flood costs Redis nothing.
 *   - The lease.  A client that asks again and again is given permits ahead,
 *     one 64th of what remains at most, twice as many each time.  They are
 *     spent here within a second; when half of them are gone the next ones are
 *     fetched in the background.  Near the limit, and of quotas below 64 always,
 *     a lease is nothing and each request asks.
 *
 * Error: with Redis there, never more than the quota passes.  A lease that is
 * not spent within its second is lost: at most 1/64 of what remained, per node,
 * and it comes back as the quota does.  An answer that does not come within
 * commerce_limit_redis_timeout, and an outage of Redis, are decided by the mirror,
 * which then counts alone: each node grants what the mirror says remains, so n
 * nodes grant at most n times that until Redis is back.
 *
 * A lease is one word in a table of its own, shared by the workers: until when
 * (64 ms steps), whether the next one is being fetched, how big it was, how much
 * of it is left.  Killing a worker loses a fetch; the flag ends with the lease.
 */

#include "ngx_commerce_limit_internal.h"
#include "ngx_commerce_sha256.h"

#include <stdatomic.h>


#define NGX_COMMERCE_LEASE_TIME      1000000        /* µs */
#define NGX_COMMERCE_LEASE_MAX       1024           /* permits */

#define NGX_COMMERCE_LEASE_COUNT     0x07ff
#define NGX_COMMERCE_LEASE_SIZE      0x7800         /* log2 of the last one */
#define NGX_COMMERCE_LEASE_FETCHING  0x8000
#define NGX_COMMERCE_LEASE_FLAGS     0xffff

#define NGX_COMMERCE_LEASE_KEY       32             /* hex digits */


/* What was asked.  It belongs to no request, which may be gone when the answer comes. */

struct ngx_commerce_limit_ask_s {
    ngx_commerce_limit_ctx_t           *ctx;        /* NULL: nobody waits */
    const ngx_commerce_limit_policy_t  *policy;
    ngx_commerce_gcra_rate_t            rate;
    ngx_event_t                         timer;
    uint64_t                            cost;
    ngx_str_t                           key;        /* its bytes follow */
};


static ngx_uint_t ngx_commerce_limit_lease_spend(
    ngx_commerce_limit_taken_t *t, ngx_uint_t *want);
static void ngx_commerce_limit_lease_add(ngx_commerce_limit_ask_t *ask,
    uint64_t ahead);
static ngx_commerce_limit_ask_t *ngx_commerce_limit_ask(
    ngx_commerce_limit_taken_t *t, int64_t cost, ngx_uint_t want);
static void ngx_commerce_limit_ask_answer(void *data,
    ngx_commerce_redis_status_t status, redisReply *reply);
static void ngx_commerce_limit_ask_late(ngx_event_t *ev);
static void ngx_commerce_limit_ask_name(ngx_commerce_limit_taken_t *t,
    u_char *name);
static void ngx_commerce_limit_gone(void *data);


ngx_int_t
ngx_commerce_limit_cluster_take(ngx_commerce_limit_ctx_t *ctx, ngx_uint_t i)
{
    ngx_uint_t                   want;
    ngx_http_cleanup_t          *cln;
    ngx_commerce_limit_ask_t    *ask;
    ngx_commerce_limit_taken_t  *t;

    t = (ngx_commerce_limit_taken_t *) ctx->taken.elts + i;

    if (!ngx_commerce_redis_configured()) {
        return NGX_DECLINED;
    }

    if (ngx_commerce_limit_lease_spend(t, &want)) {
        return NGX_OK;
    }

    ngx_commerce_limit_look(t);

    if (!t->verdict.allowed) {
        return NGX_OK;
    }

    cln = ngx_http_cleanup_add(ctx->request, 0);
    if (cln == NULL) {
        return NGX_DECLINED;
    }

    cln->handler = ngx_commerce_limit_gone;
    cln->data = ctx;

    ask = ngx_commerce_limit_ask(t, t->cost, want);

    if (ask == NULL) {
        return NGX_DECLINED;
    }

    ask->ctx = ctx;
    ctx->ask = ask;
    ctx->asked = i;

    ngx_add_timer(&ask->timer, t->policy->conf->patience);

    return NGX_AGAIN;
}


/* Another policy refused: nobody waits for Redis to hear of it. */

void
ngx_commerce_limit_cluster_give(ngx_commerce_limit_taken_t *t)
{
    (void) ngx_commerce_limit_ask(t, - (int64_t) t->cost, 0);
}


static void
ngx_commerce_limit_gone(void *data)
{
    ngx_commerce_limit_cluster_leave(data);
}


void
ngx_commerce_limit_cluster_leave(ngx_commerce_limit_ctx_t *ctx)
{
    ngx_commerce_limit_ask_t  *ask;

    ask = ctx->ask;

    if (ask == NULL) {
        return;
    }

    ctx->ask = NULL;
    ask->ctx = NULL;

    if (ask->timer.timer_set) {
        ngx_del_timer(&ask->timer);
    }
}


/*
 * Takes t->cost out of the client's lease.  want: how many permits to ask for
 * ahead when there is none.
 */

static ngx_uint_t
ngx_commerce_limit_lease_spend(ngx_commerce_limit_taken_t *t, ngx_uint_t *want)
{
    uint64_t           now, word, next, left, size;
    ngx_uint_t         fetch;
    _Atomic uint64_t  *lease;

    *want = 0;

    now = ngx_commerce_limit_now();

    lease = ngx_commerce_gcra_word(
                ngx_commerce_limit_table(t->policy->conf->leases),
                ngx_commerce_limit_bytes(&t->policy->scope),
                ngx_commerce_limit_bytes(&t->key), now, false);

    if (lease == NULL) {
        return 0;
    }

    word = atomic_load_explicit(lease, memory_order_relaxed);

    do {
        if ((word & ~(uint64_t) NGX_COMMERCE_LEASE_FLAGS) <= now) {
            return 0;
        }

        left = word & NGX_COMMERCE_LEASE_COUNT;
        size = (uint64_t) 1 << ((word & NGX_COMMERCE_LEASE_SIZE) >> 11);

        *want = ngx_min(2 * size, NGX_COMMERCE_LEASE_MAX);

        if (left < t->cost) {
            return 0;
        }

        left -= t->cost;
        fetch = (2 * left <= size && !(word & NGX_COMMERCE_LEASE_FETCHING));
        next = word - t->cost;

        if (fetch) {
            next |= NGX_COMMERCE_LEASE_FETCHING;
        }

    } while (!atomic_compare_exchange_weak(lease, &word, next));

    if (fetch) {
        (void) ngx_commerce_limit_ask(t, 0, *want);
    }

    ngx_commerce_limit_look(t);

    t->verdict.allowed = true;
    t->verdict.remaining += left;

    return 1;
}


/* A lease of nothing remembers that the client asked within the last second. */

static void
ngx_commerce_limit_lease_add(ngx_commerce_limit_ask_t *ask, uint64_t ahead)
{
    uint64_t                            now, word, next, left, size;
    _Atomic uint64_t                   *lease;
    const ngx_commerce_limit_policy_t  *policy;

    policy = ask->policy;
    now = ngx_commerce_limit_now();

    for (size = 0; ahead >> (size + 1); size++) { /* void */ }

    lease = ngx_commerce_gcra_word(
                ngx_commerce_limit_table(policy->conf->leases),
                ngx_commerce_limit_bytes((ngx_str_t *) &policy->scope),
                ngx_commerce_limit_bytes(&ask->key), now, true);

    word = atomic_load_explicit(lease, memory_order_relaxed);

    do {
        left = ahead;

        if ((word & ~(uint64_t) NGX_COMMERCE_LEASE_FLAGS) > now) {
            left += word & NGX_COMMERCE_LEASE_COUNT;
        }

        next = ((now + NGX_COMMERCE_LEASE_TIME)
                & ~(uint64_t) NGX_COMMERCE_LEASE_FLAGS)
               | (size << 11) | ngx_min(left, NGX_COMMERCE_LEASE_COUNT);

    } while (!atomic_compare_exchange_weak(lease, &word, next));
}


/* cost < 0: gives back.  NULL: Redis is away. */

static ngx_commerce_limit_ask_t *
ngx_commerce_limit_ask(ngx_commerce_limit_taken_t *t, int64_t cost,
    ngx_uint_t want)
{
    u_char                     name[NGX_COMMERCE_LIMIT_NAME_MAX
                                    + NGX_COMMERCE_LEASE_KEY + 16];
    u_char                     text[4 * NGX_INT64_LEN], *p;
    ngx_str_t                  values[5];
    ngx_uint_t                 i;
    ngx_commerce_limit_ask_t  *ask;

    ask = ngx_calloc(sizeof(ngx_commerce_limit_ask_t) + t->key.len,
                     ngx_cycle->log);
    if (ask == NULL) {
        return NULL;
    }

    ask->policy = t->policy;
    ask->rate = t->rate;
    ask->cost = (cost > 0) ? cost : 0;
    ask->key.len = t->key.len;
    ask->key.data = (u_char *) ask + sizeof(ngx_commerce_limit_ask_t);
    ngx_memcpy(ask->key.data, t->key.data, t->key.len);

    ask->timer.handler = ngx_commerce_limit_ask_late;
    ask->timer.data = ask;
    ask->timer.log = ngx_cycle->log;

    ngx_commerce_limit_ask_name(t, name);

    values[0].data = name;
    values[0].len = ngx_strlen(name);

    p = text;

    for (i = 1; i < 5; i++) {
        values[i].data = p;

        p = ngx_sprintf(p, "%L", (i == 1) ? (int64_t) t->rate.interval
                                 : (i == 2) ? (int64_t) t->rate.burst
                                 : (i == 3) ? cost : (int64_t) want);

        values[i].len = p - values[i].data;
    }

    if (ngx_commerce_redis_eval(t->policy->conf->script, 1, 4, values,
                                ngx_commerce_limit_ask_answer, ask)
        == NULL)
    {
        ngx_free(ask);
        return NULL;
    }

    return ask;
}


/* A hash that all nodes agree on; what the key is made of stays out of Redis. */

static void
ngx_commerce_limit_ask_name(ngx_commerce_limit_taken_t *t, u_char *name)
{
    u_char   hash[32];
    u_char  *p;

    ngx_commerce_sha256(t->key.data, t->key.len, hash);

    p = ngx_sprintf(name, "limit:%V:", &t->policy->name);
    p = ngx_hex_dump(p, hash, NGX_COMMERCE_LEASE_KEY / 2);
    *p = '\0';
}


/* {passed, permits ahead, µs until the quota is whole} */

static void
ngx_commerce_limit_ask_answer(void *data, ngx_commerce_redis_status_t status,
    redisReply *reply)
{
    uint64_t                     now, taken;
    ngx_commerce_limit_ctx_t    *ctx;
    ngx_commerce_limit_ask_t    *ask;
    ngx_commerce_limit_taken_t  *t;

    ask = data;
    ctx = ask->ctx;
    t = NULL;

    if (ctx) {
        ngx_commerce_limit_cluster_leave(ctx);

        t = (ngx_commerce_limit_taken_t *) ctx->taken.elts + ctx->asked;
        t->state = NGX_COMMERCE_LIMIT_LOCAL;
    }

    if (status == NGX_COMMERCE_REDIS_OK && reply->type == REDIS_REPLY_ARRAY
        && reply->elements == 3
        && reply->element[0]->type == REDIS_REPLY_INTEGER
        && reply->element[1]->type == REDIS_REPLY_INTEGER
        && reply->element[2]->type == REDIS_REPLY_INTEGER)
    {
        now = ngx_commerce_limit_now();
        taken = reply->element[2]->integer;

        ngx_commerce_gcra_raise(
            ngx_commerce_limit_table(ask->policy->conf->zone),
            ngx_commerce_limit_bytes((ngx_str_t *) &ask->policy->scope),
            ngx_commerce_limit_bytes(&ask->key), now, now + taken);

        ngx_commerce_limit_lease_add(ask, reply->element[1]->integer);

        if (t) {
            (void) ngx_commerce_gcra(&ask->rate, now + taken, now,
                                     reply->element[0]->integer ? 0 : t->cost,
                                     &t->verdict);

            t->verdict.allowed = reply->element[0]->integer != 0;
            t->state = NGX_COMMERCE_LIMIT_TOLD;
        }

    } else if (status == NGX_COMMERCE_REDIS_FAILED) {
        ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                      "limit \"%V\": Redis' script failed: %s",
                      &ask->policy->name, reply->str ? reply->str : "");
    }

    ngx_free(ask);

    if (ctx) {
        ngx_commerce_limit_answered(ctx);
    }
}


/* The answer, when it comes, still lifts the mirror. */

static void
ngx_commerce_limit_ask_late(ngx_event_t *ev)
{
    ngx_commerce_limit_ctx_t    *ctx;
    ngx_commerce_limit_ask_t    *ask;
    ngx_commerce_limit_taken_t  *t;

    ask = ev->data;
    ctx = ask->ctx;

    ngx_commerce_limit_cluster_leave(ctx);

    t = (ngx_commerce_limit_taken_t *) ctx->taken.elts + ctx->asked;
    t->state = NGX_COMMERCE_LIMIT_LOCAL;

    ngx_commerce_limit_answered(ctx);
}
