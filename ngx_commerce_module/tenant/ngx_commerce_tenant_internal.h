/*
 * What the files of tenant/ share.
 */

#ifndef NGX_COMMERCE_TENANT_INTERNAL_H
#define NGX_COMMERCE_TENANT_INTERNAL_H


#include "ngx_commerce_tenant.h"
#include "ngx_commerce_pg.h"
#include "ngx_commerce_header.h"


/* kinds of names in the directory */

#define NGX_COMMERCE_TENANT_HOST     'h'
#define NGX_COMMERCE_TENANT_SLUG     's'
#define NGX_COMMERCE_TENANT_ID       'i'
#define NGX_COMMERCE_TENANT_KEY      'k'    /* SHA-256 of an API key */
#define NGX_COMMERCE_TENANT_ORIGIN   'o'

/* columns of api.edge_directory() */

enum {
    NGX_COMMERCE_TENANT_COL_AS_OF = 0,
    NGX_COMMERCE_TENANT_COL_ID,
    NGX_COMMERCE_TENANT_COL_SLUG,
    NGX_COMMERCE_TENANT_COL_STATUS,
    NGX_COMMERCE_TENANT_COL_SETTINGS,   /* JSON object */
    NGX_COMMERCE_TENANT_COL_HOSTS,      /* separated by spaces */
    NGX_COMMERCE_TENANT_COL_KEYS,       /* lines "sha256-hex uuid kind expires roles" */
    NGX_COMMERCE_TENANT_COLS
};


typedef struct {
    ngx_str_t   name;
    ngx_flag_t  on;
} ngx_commerce_tenant_default_t;

typedef struct {
    ngx_str_t                  name;
    ngx_http_complex_value_t   value;
    ngx_uint_t                 tls;         /* for connections with TLS only */
} ngx_commerce_tenant_header_t;


typedef struct {
    ngx_shm_zone_t             *zone;
    ngx_commerce_directory_t   *directory;
    ngx_array_t                 bases;      /* of ngx_str_t: commerce_base_domain, with its leading dot */
    ngx_array_t                 flags;      /* of ngx_commerce_tenant_default_t */
    ngx_commerce_pg_stmt_t     *snapshot;
    ngx_commerce_pg_stmt_t     *used;
} ngx_commerce_tenant_main_conf_t;

typedef struct {
    ngx_str_t                   tenant;     /* commerce_tenant: for hosts that no tenant has */
    ngx_flag_t                  cors;
    ngx_flag_t                  security_headers;
    ngx_array_t                *headers;    /* of ngx_commerce_tenant_header_t: commerce_security_header */
    ngx_array_t                *effective;  /* these over the defaults, after merging */
} ngx_commerce_tenant_loc_conf_t;


/* ngx_commerce_tenant_record.c */

void ngx_commerce_tenant_init(ngx_commerce_tenant_main_conf_t *tmcf,
    ngx_log_t *log);
/* Looks a name up in the directory; target (or NULL): what the name has beside its tenant's record. */
ngx_int_t ngx_commerce_tenant_find(ngx_pool_t *pool, u_char kind,
    ngx_str_t *name, ngx_commerce_tenant_t *tenant, ngx_str_t *target);
/* A row of api.edge_directory() becomes a block of the image. */
ngx_int_t ngx_commerce_tenant_row(ngx_commerce_directory_image_t *image,
    const PGresult *result, int row, ngx_log_t *log);
ngx_commerce_directory_rc_t ngx_commerce_tenant_publish(
    ngx_commerce_directory_image_t *image, int64_t as_of, uint64_t generation);
ngx_commerce_directory_t *ngx_commerce_tenant_directory(void);

typedef ngx_uint_t (*ngx_commerce_tenant_equal_pt)(ngx_str_t *name,
    ngx_str_t *wanted);

/* The first setting whose name is "wanted" in the eyes of "equal". */
ngx_int_t ngx_commerce_tenant_setting_spelled(ngx_commerce_tenant_t *tenant,
    ngx_str_t *wanted, ngx_str_t *value, ngx_commerce_tenant_equal_pt equal);

/* ngx_commerce_tenant_snapshot.c */

void ngx_commerce_tenant_snapshot_init(ngx_commerce_pg_stmt_t *stmt,
    ngx_log_t *log);

/* ngx_commerce_tenant_resolve.c */

/* For headers of errors too: what is known so far, else host, else commerce_tenant. */
ngx_int_t ngx_commerce_tenancy_tenant(ngx_http_request_t *r,
    ngx_commerce_tenant_t *tenant);
/* By the host name alone; NGX_DECLINED when that is of no tenant. */
ngx_int_t ngx_commerce_tenancy_host(ngx_http_request_t *r,
    ngx_commerce_tenant_t *tenant);

/* ngx_commerce_tenant_used.c: when keys were used last, told to PostgreSQL once a minute */

void ngx_commerce_tenant_used_init(ngx_commerce_pg_stmt_t *stmt,
    ngx_log_t *log);
void ngx_commerce_tenant_used(ngx_commerce_tenant_t *tenant,
    ngx_commerce_api_key_t *key);

/* ngx_commerce_tenant_headers.c: security headers, CORS */

ngx_int_t ngx_commerce_tenant_headers_init(ngx_conf_t *cf);
char *ngx_commerce_tenant_headers_merge(ngx_conf_t *cf,
    ngx_commerce_tenant_loc_conf_t *prev,
    ngx_commerce_tenant_loc_conf_t *conf);
char *ngx_commerce_tenant_header(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);


#endif /* NGX_COMMERCE_TENANT_INTERNAL_H */
