/*
 * Jobs: SQL functions that are called again and again by one worker, with the
 * outbound calls that they ask for.
 */

#ifndef NGX_COMMERCE_JOBS_H
#define NGX_COMMERCE_JOBS_H


#include <ngx_config.h>
#include <ngx_core.h>

#include "ngx_commerce_pg.h"


/* After each good call of a job of C's that did not say "more". */
typedef void (*ngx_commerce_job_pt)(void *data);

/*
 * While the configuration is read: a job that another module brings along, as
 * if it were written as commerce_job; one that is written there goes before.
 * function: "api.maintain".  done may be NULL.
 */
ngx_int_t ngx_commerce_job_add(ngx_conf_t *cf, ngx_str_t *name,
    ngx_str_t *function, ngx_msec_t interval, ngx_commerce_job_pt done,
    void *data);

/* While the configuration is read: nobody calls this function here, whoever has said so; before other modules bring theirs. */
void ngx_commerce_job_drop(ngx_conf_t *cf, ngx_str_t *function);


extern ngx_module_t  ngx_commerce_jobs_module;


#endif /* NGX_COMMERCE_JOBS_H */
