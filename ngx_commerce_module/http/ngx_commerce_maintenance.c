/*
 * Housekeeping: jobs that come with the module, api.maintain() now and then
 * and every few seconds api.stock_publish().  What is to be done is SQL's
 * business, and SQL sees to it that two nodes do not do it at once.
 */

#include "ngx_commerce_http.h"
#include "ngx_commerce_jobs.h"


/* lists show what was sold this much later */
#define NGX_COMMERCE_MAINTENANCE_PUBLISH 5000


static void ngx_commerce_maintenance_done(void *data);


ngx_int_t
ngx_commerce_maintenance_register(ngx_conf_t *cf,
    ngx_commerce_main_conf_t *mcf)
{
    static ngx_str_t  maintain = ngx_string("maintain");
    static ngx_str_t  publish = ngx_string("stock_publish");
    static ngx_str_t  maintain_call = ngx_string("api.maintain");
    static ngx_str_t  publish_call = ngx_string("api.stock_publish");

    if (mcf->maintenance == 0) {
        return NGX_OK;
    }

    if (ngx_commerce_job_add(cf, &maintain, &maintain_call, mcf->maintenance,
                             ngx_commerce_maintenance_done, mcf)
        != NGX_OK
        || ngx_commerce_job_add(cf, &publish, &publish_call,
                                ngx_min(mcf->maintenance,
                                        NGX_COMMERCE_MAINTENANCE_PUBLISH),
                                NULL, NULL)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    return ngx_commerce_renewal_register(cf, mcf);
}


static void
ngx_commerce_maintenance_done(void *data)
{
    ngx_commerce_renewal_start(data);
}
