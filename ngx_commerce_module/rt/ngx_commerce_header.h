/*
 * What every module over HTTP adds to nginx: lines to answers, variables to configurations.
 */

#ifndef NGX_COMMERCE_HEADER_H
#define NGX_COMMERCE_HEADER_H


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>


/*
 * A line of r's answer; name and value must live as long as the request.
 * The rest of the element is cleared: later nginx has members there that
 * 1.22 has not.  NULL without memory.
 */
ngx_table_elt_t *ngx_commerce_header_push(ngx_http_request_t *r,
    const ngx_str_t *name, const ngx_str_t *value);

/* The same for a literal; NGX_OK or NGX_ERROR. */
ngx_int_t ngx_commerce_header_add(ngx_http_request_t *r, const char *name,
    const ngx_str_t *value);

/* All of a table that ends with ngx_http_null_variable; NGX_OK or NGX_ERROR. */
ngx_int_t ngx_commerce_variables_add(ngx_conf_t *cf, ngx_http_variable_t *v);


#endif /* NGX_COMMERCE_HEADER_H */
