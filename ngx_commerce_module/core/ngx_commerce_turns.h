/*
 * Turns at something of which a node has only a few, such as cores to hash
 * passwords on.  A table in memory that processes share:
 *
 *   take() ── reserved ── ready() ──► waits ── its turn ──► has it ── drop()
 *
 * Who is ready goes in the order in which it became so, whichever process it is
 * in.  A place belongs to a process and has a lease, which that one renews: of
 * a process that died, or that has stood still for too long, nothing remains.
 *
 * All functions are called under the caller's lock.  A process that dies within
 * one leaves a place that nobody renews, and nothing worse.
 */

#ifndef NGX_COMMERCE_TURNS_H
#define NGX_COMMERCE_TURNS_H


#include "ngx_commerce_core.h"


#define NGX_COMMERCE_TURNS        64        /* places */
#define NGX_COMMERCE_TURNS_LEASE  10000     /* ms */


typedef struct {
    uint64_t  serial;                       /* 0: free */
    uint64_t  ticket;                       /* 0: reserved, it is not ready yet */
    uint64_t  until;                        /* ms */
    int64_t   owner;                        /* a process id */
} ngx_commerce_turn_t;

/* All zero: nobody is there. */

typedef struct {
    uint64_t             last;              /* serial or ticket */
    uint64_t             pace;              /* ms that one takes, a mean; 0: none has ended yet */
    ngx_commerce_turn_t  places[NGX_COMMERCE_TURNS];
} ngx_commerce_turns_t;


/* Frees what is nobody's any more.  alive: whether there is such a process. */
void ngx_commerce_turns_sweep(ngx_commerce_turns_t *t, uint64_t now,
    int64_t self, bool (*alive)(int64_t owner));

/* How many places are taken. */
unsigned ngx_commerce_turns_taken(const ngx_commerce_turns_t *t);

/* How long who comes now would wait for its turn, when "limit" have theirs at a time.  guess: the pace while none is known; ms. */
uint64_t ngx_commerce_turns_wait(const ngx_commerce_turns_t *t,
    unsigned limit, uint64_t guess);

/* The place's serial, or 0: all are taken. */
uint64_t ngx_commerce_turns_take(ngx_commerce_turns_t *t, uint64_t now,
    int64_t self);

/* From now on it waits.  False: the place is lost. */
bool ngx_commerce_turns_ready(ngx_commerce_turns_t *t, uint64_t serial);

/* Has it its turn?  A place that was lost has: nobody waits for it any more. */
bool ngx_commerce_turns_may(const ngx_commerce_turns_t *t, uint64_t serial,
    unsigned limit);

/* The leases of this process' places. */
void ngx_commerce_turns_renew(ngx_commerce_turns_t *t, uint64_t now,
    int64_t self);

/* All places of a process: a new one may have the id of one that died. */
void ngx_commerce_turns_forget(ngx_commerce_turns_t *t, int64_t owner);

void ngx_commerce_turns_drop(ngx_commerce_turns_t *t, uint64_t serial);

/* One has taken so many ms. */
void ngx_commerce_turns_took(ngx_commerce_turns_t *t, uint64_t ms);


#endif /* NGX_COMMERCE_TURNS_H */
