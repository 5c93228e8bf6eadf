/*
 * Turns, see ngx_commerce_turns.h.
 */

#include "ngx_commerce_turns.h"


/* so much of the mean is the last one's */
#define NGX_COMMERCE_TURNS_WEIGHT  4


static ngx_commerce_turn_t *ngx_commerce_turns_find(ngx_commerce_turns_t *t,
    uint64_t serial);


static ngx_commerce_turn_t *
ngx_commerce_turns_find(ngx_commerce_turns_t *t, uint64_t serial)
{
    unsigned  i;

    for (i = 0; i < NGX_COMMERCE_TURNS; i++) {
        if (t->places[i].serial == serial) {
            return &t->places[i];
        }
    }

    return NULL;
}


void
ngx_commerce_turns_sweep(ngx_commerce_turns_t *t, uint64_t now, int64_t self,
    bool (*alive)(int64_t owner))
{
    unsigned              i;
    ngx_commerce_turn_t  *p;

    for (i = 0; i < NGX_COMMERCE_TURNS; i++) {
        p = &t->places[i];

        if (p->serial == 0 || p->owner == self) {
            continue;
        }

        if ((int64_t) (now - p->until) >= 0 || !alive(p->owner)) {
            p->serial = 0;
        }
    }
}


unsigned
ngx_commerce_turns_taken(const ngx_commerce_turns_t *t)
{
    unsigned  i, n;

    for (i = 0, n = 0; i < NGX_COMMERCE_TURNS; i++) {
        n += (t->places[i].serial != 0);
    }

    return n;
}


uint64_t
ngx_commerce_turns_wait(const ngx_commerce_turns_t *t, unsigned limit,
    uint64_t guess)
{
    unsigned  taken;

    taken = ngx_commerce_turns_taken(t);

    if (taken < limit) {
        return 0;
    }

    return (taken - limit + 1) * (t->pace ? t->pace : guess) / limit;
}


uint64_t
ngx_commerce_turns_take(ngx_commerce_turns_t *t, uint64_t now, int64_t self)
{
    ngx_commerce_turn_t  *p;

    p = ngx_commerce_turns_find(t, 0);

    if (p == NULL) {
        return 0;
    }

    p->ticket = 0;
    p->until = now + NGX_COMMERCE_TURNS_LEASE;
    p->owner = self;

    /* a place that has a serial has its owner: whoever dies in between */
    __atomic_signal_fence(__ATOMIC_SEQ_CST);

    p->serial = ++t->last;

    return p->serial;
}


bool
ngx_commerce_turns_ready(ngx_commerce_turns_t *t, uint64_t serial)
{
    ngx_commerce_turn_t  *p;

    p = ngx_commerce_turns_find(t, serial);

    if (p == NULL) {
        return false;
    }

    p->ticket = ++t->last;

    return true;
}


bool
ngx_commerce_turns_may(const ngx_commerce_turns_t *t, uint64_t serial,
    unsigned limit)
{
    unsigned                    i, before;
    const ngx_commerce_turn_t  *p, *own;

    own = ngx_commerce_turns_find((ngx_commerce_turns_t *) t, serial);

    if (own == NULL) {
        return true;
    }

    for (i = 0, before = 0; i < NGX_COMMERCE_TURNS; i++) {
        p = &t->places[i];

        before += (p->serial != 0 && p->ticket != 0
                   && p->ticket < own->ticket);
    }

    return before < limit;
}


void
ngx_commerce_turns_renew(ngx_commerce_turns_t *t, uint64_t now, int64_t self)
{
    unsigned  i;

    for (i = 0; i < NGX_COMMERCE_TURNS; i++) {
        if (t->places[i].serial != 0 && t->places[i].owner == self) {
            t->places[i].until = now + NGX_COMMERCE_TURNS_LEASE;
        }
    }
}


void
ngx_commerce_turns_forget(ngx_commerce_turns_t *t, int64_t owner)
{
    unsigned  i;

    for (i = 0; i < NGX_COMMERCE_TURNS; i++) {
        if (t->places[i].owner == owner) {
            t->places[i].serial = 0;
        }
    }
}


void
ngx_commerce_turns_drop(ngx_commerce_turns_t *t, uint64_t serial)
{
    ngx_commerce_turn_t  *p;

    p = serial ? ngx_commerce_turns_find(t, serial) : NULL;

    if (p != NULL) {
        p->serial = 0;
    }
}


void
ngx_commerce_turns_took(ngx_commerce_turns_t *t, uint64_t ms)
{
    ms += (ms == 0);

    t->pace = t->pace ? (t->pace * (NGX_COMMERCE_TURNS_WEIGHT - 1) + ms)
                        / NGX_COMMERCE_TURNS_WEIGHT
                      : ms;
    t->pace += (t->pace == 0);
}
