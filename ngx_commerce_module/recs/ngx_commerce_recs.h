/*
 * Recommendations: the shops' tables in shared memory, and what customers did
 * last.  Knows no HTTP.
 */

#ifndef NGX_COMMERCE_RECS_H
#define NGX_COMMERCE_RECS_H


#include <ngx_config.h>
#include <ngx_core.h>

#include "ngx_commerce_recommend.h"
#include "ngx_commerce_recent.h"


/*
 * The table of the shop (its id in decimal), until leave(): neither may be
 * forgotten, nor may anything be waited for in between.  NULL: it has none,
 * and there is nothing to leave.  "serial" is never the same for two tables.
 */

const ngx_commerce_similarity_t *ngx_commerce_recs_enter(ngx_str_t *tenant,
    uint64_t *serial);
void ngx_commerce_recs_leave(void);

/* The worker's; for histories of NGX_COMMERCE_RECENT_EVENTS. */

ngx_commerce_recommend_scratch_t *ngx_commerce_recs_scratch(void);


/*
 * As ngx_commerce_recent_…; without commerce_recent_zone everybody is unknown, which is FILL_IT each time.  "who" is the
 * key of a customer of a shop, the same as long as this process lives; 0: there is no zone.
 */

uint64_t ngx_commerce_recs_who(ngx_str_t *tenant, ngx_str_t *customer);
ngx_commerce_recent_rc_t ngx_commerce_recs_look(uint64_t who,
    uint64_t *state, uint64_t *heard);

/* Whoever only reads does not fill: what is there is good enough, however old. */

ngx_commerce_recent_rc_t ngx_commerce_recs_recent(ngx_str_t *tenant,
    ngx_str_t *customer,
    ngx_commerce_recent_event_t events[NGX_COMMERCE_RECENT_EVENTS],
    uint32_t *n, ngx_commerce_recent_never_t *never, uint64_t *state);
void ngx_commerce_recs_recent_add(ngx_str_t *tenant, ngx_str_t *customer,
    uint64_t item, ngx_commerce_event_t event);
void ngx_commerce_recs_recent_fill(ngx_str_t *tenant, ngx_str_t *customer,
    uint64_t heard, const ngx_commerce_recent_event_t *events, uint32_t n,
    const uint64_t *never, uint32_t m);
void ngx_commerce_recs_recent_forget(ngx_str_t *tenant, ngx_str_t *customer);


typedef struct {
    ngx_uint_t  configured;
    ngx_uint_t  tables;
    ngx_uint_t  refused;                /* shops whose last file was no good */
    uint64_t    generation;             /* of the newest table */
    int64_t     created;                /* ms since 1970, of the newest table */
} ngx_commerce_recs_status_t;

/* Over all shops, as the loader saw them last. */

void ngx_commerce_recs_status(ngx_commerce_recs_status_t *status);

/* When this shop's table was put in place, ms since 1970, and how many of its files were refused. */

ngx_int_t ngx_commerce_recs_loaded(ngx_str_t *tenant, int64_t *loaded,
    uint64_t *refusals);


extern ngx_module_t  ngx_commerce_recs_module;


#endif /* NGX_COMMERCE_RECS_H */
