/*
 * Circuit breaker, see ngx_commerce_breaker.h.
 */

#include "ngx_commerce_breaker.h"


#define NGX_COMMERCE_BREAKER_PAUSE_MIN  100         /* ms */
#define NGX_COMMERCE_BREAKER_PAUSE_MAX  2000

#define ngx_commerce_breaker_word(until, state)                               \
    (((ngx_atomic_uint_t) (until) << 2) | (state))


static ngx_int_t ngx_commerce_breaker_init_zone(ngx_shm_zone_t *zone,
    void *data);
static ngx_msec_t ngx_commerce_breaker_pause(ngx_commerce_breaker_t *b);


static const char  *ngx_commerce_breaker_texts[] = {
    "closed", "open", "half-open"
};


ngx_shm_zone_t *
ngx_commerce_breaker_zone(ngx_conf_t *cf, ngx_str_t *name, void *tag)
{
    ngx_shm_zone_t  *zone;

    zone = ngx_shared_memory_add(cf, name, 8 * ngx_pagesize, tag);

    if (zone) {
        zone->init = ngx_commerce_breaker_init_zone;
    }

    return zone;
}


static ngx_int_t
ngx_commerce_breaker_init_zone(ngx_shm_zone_t *zone, void *data)
{
    ngx_slab_pool_t  *shpool;

    shpool = (ngx_slab_pool_t *) zone->shm.addr;

    if (data || zone->shm.exists) {
        zone->data = data ? data : shpool->data;
        return NGX_OK;
    }

    zone->data = ngx_slab_calloc(shpool, NGX_COMMERCE_BREAKERS
                                 * sizeof(ngx_commerce_breaker_shared_t));
    if (zone->data == NULL) {
        return NGX_ERROR;
    }

    shpool->data = zone->data;

    return NGX_OK;
}


ngx_uint_t
ngx_commerce_breaker_state(const ngx_commerce_breaker_t *b)
{
    return b->shared ? (b->shared->word & 3) : NGX_COMMERCE_BREAKER_CLOSED;
}


const char *
ngx_commerce_breaker_text(const ngx_commerce_breaker_t *b)
{
    return ngx_commerce_breaker_texts[ngx_commerce_breaker_state(b)];
}


ngx_uint_t
ngx_commerce_breaker_enter(ngx_commerce_breaker_t *b, ngx_msec_t patience)
{
    ngx_atomic_uint_t  word, claim;

    if (b->shared == NULL) {
        return 1;
    }

    word = b->shared->word;

    if ((word & 3) == NGX_COMMERCE_BREAKER_CLOSED) {
        return 1;
    }

    /* whose time is over has died, or has forgotten us */

    if ((ngx_msec_int_t) (ngx_current_msec - (word >> 2)) < 0) {
        return 0;
    }

    claim = ngx_commerce_breaker_word(ngx_current_msec + patience,
                                      NGX_COMMERCE_BREAKER_HALF_OPEN);

    if (!ngx_atomic_cmp_set(&b->shared->word, word, claim)) {
        return 0;
    }

    b->claim = claim;

    return 1;
}


void
ngx_commerce_breaker_success(ngx_commerce_breaker_t *b)
{
    ngx_atomic_uint_t  word;

    if (b->shared == NULL) {
        return;
    }

    if (b->shared->served != ngx_current_msec) {
        b->shared->served = ngx_current_msec;
    }

    word = b->shared->word;

    if ((word & 3) == NGX_COMMERCE_BREAKER_CLOSED
        || !ngx_atomic_cmp_set(&b->shared->word, word,
                               ngx_commerce_breaker_word(0,
                                               NGX_COMMERCE_BREAKER_CLOSED)))
    {
        return;
    }

    b->shared->failures = 0;

    ngx_log_error(NGX_LOG_WARN, ngx_cycle->log, 0,
                  "%s \"%V\": the circuit breaker is closed, it serves again",
                  b->backend, &b->name);
}


void
ngx_commerce_breaker_failure(ngx_commerce_breaker_t *b, ngx_msec_t since)
{
    ngx_atomic_uint_t  word, open;

    if (b->shared == NULL) {
        return;
    }

    word = b->shared->word;

    switch (word & 3) {

    case NGX_COMMERCE_BREAKER_CLOSED:

        /* it serves other workers: what fails is ours */

        if (b->shared->served
            && (ngx_msec_int_t) (b->shared->served - since) > 0)
        {
            return;
        }

        break;

    case NGX_COMMERCE_BREAKER_HALF_OPEN:

        if (word != b->claim) {
            return;
        }

        break;

    default:
        return;
    }

    open = ngx_commerce_breaker_word(ngx_current_msec
                                     + ngx_commerce_breaker_pause(b),
                                     NGX_COMMERCE_BREAKER_OPEN);

    if (!ngx_atomic_cmp_set(&b->shared->word, word, open)) {
        return;
    }

    (void) ngx_atomic_fetch_add(&b->shared->failures, 1);

    if ((word & 3) == NGX_COMMERCE_BREAKER_CLOSED) {
        ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                      "%s \"%V\": the circuit breaker is open, requests that "
                      "need it are refused until a try succeeds",
                      b->backend, &b->name);
    }
}


static ngx_msec_t
ngx_commerce_breaker_pause(ngx_commerce_breaker_t *b)
{
    ngx_msec_t  pause;

    pause = (ngx_msec_t) NGX_COMMERCE_BREAKER_PAUSE_MIN
            << ngx_min(b->shared->failures, 5);
    pause = ngx_min(pause, NGX_COMMERCE_BREAKER_PAUSE_MAX);

    return pause / 2 + ngx_random() % (pause / 2 + 1);
}
