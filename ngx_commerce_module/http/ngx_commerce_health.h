/*
 * Is PostgreSQL there?  Each worker asks its lanes once a second, so that an
 * answer about it needs no waiting and notices a server that hangs.
 */

#ifndef NGX_COMMERCE_HEALTH_H
#define NGX_COMMERCE_HEALTH_H


#include "ngx_commerce_http.h"


/* While the configuration is read; when a worker begins. */
ngx_int_t ngx_commerce_health_register(ngx_conf_t *cf);
void ngx_commerce_health_init(ngx_cycle_t *cycle);

/* The lane serves, and answered not long ago. */
ngx_uint_t ngx_commerce_health_lane(ngx_commerce_pg_lane_t lane);


#endif /* NGX_COMMERCE_HEALTH_H */
