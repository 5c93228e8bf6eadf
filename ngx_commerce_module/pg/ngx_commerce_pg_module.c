/*
 * ngx_commerce_pg_module: directive, statements, the worker's start and end.
 */

#include <ngx_md5.h>
#include "ngx_commerce_pg_internal.h"


static void *ngx_commerce_pg_create_main_conf(ngx_conf_t *cf);
static char *ngx_commerce_pg_init_main_conf(ngx_conf_t *cf, void *conf);
static ngx_int_t ngx_commerce_pg_init_process(ngx_cycle_t *cycle);
static void ngx_commerce_pg_exit_process(ngx_cycle_t *cycle);


static ngx_command_t  ngx_commerce_pg_commands[] = {

    { ngx_string("commerce_postgres"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_2MORE,
      ngx_commerce_pg_conf_directive,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

      ngx_null_command
};


static ngx_http_module_t  ngx_commerce_pg_module_ctx = {
    NULL,                                  /* preconfiguration */
    NULL,                                  /* postconfiguration */

    ngx_commerce_pg_create_main_conf,      /* create main configuration */
    ngx_commerce_pg_init_main_conf,        /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    NULL,                                  /* create location configuration */
    NULL                                   /* merge location configuration */
};


ngx_module_t  ngx_commerce_pg_module = {
    NGX_MODULE_V1,
    &ngx_commerce_pg_module_ctx,           /* module context */
    ngx_commerce_pg_commands,              /* module directives */
    NGX_HTTP_MODULE,                       /* module type */
    NULL,                                  /* init master */
    NULL,                                  /* init module */
    ngx_commerce_pg_init_process,          /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    ngx_commerce_pg_exit_process,          /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


/* static, so that it may be registered before this module's init_process ran */
static ngx_commerce_pg_commit_pt  ngx_commerce_pg_commit_handler;


void
ngx_commerce_pg_on_commit(ngx_commerce_pg_commit_pt handler)
{
    ngx_commerce_pg_commit_handler = handler;
}


void
ngx_commerce_pg_committed(ngx_commerce_pg_lane_t lane)
{
    if (ngx_commerce_pg_commit_handler
        && (lane == NGX_COMMERCE_PG_WRITE || lane == NGX_COMMERCE_PG_SLOW))
    {
        ngx_commerce_pg_commit_handler();
    }
}


static void *
ngx_commerce_pg_create_main_conf(ngx_conf_t *cf)
{
    ngx_commerce_pg_main_conf_t  *pmcf;

    pmcf = ngx_pcalloc(cf->pool, sizeof(ngx_commerce_pg_main_conf_t));
    if (pmcf == NULL) {
        return NULL;
    }

    if (ngx_array_init(&pmcf->statements, cf->pool, 64,
                       sizeof(ngx_commerce_pg_stmt_t *))
        != NGX_OK)
    {
        return NULL;
    }

    ngx_commerce_pg_conf_init(pmcf);

    return pmcf;
}


static char *
ngx_commerce_pg_init_main_conf(ngx_conf_t *cf, void *conf)
{
    return ngx_commerce_pg_conf_finish(cf, conf);
}


/* The name is made of the text, so that a server's log shows the same name in every worker and version. */

ngx_commerce_pg_stmt_t *
ngx_commerce_pg_statement(ngx_conf_t *cf, ngx_str_t *text, ngx_uint_t params)
{
    u_char                        hash[16];
    ngx_md5_t                     md5;
    ngx_uint_t                    i;
    ngx_commerce_pg_stmt_t       *stmt, **list;
    ngx_commerce_pg_main_conf_t  *pmcf;

    pmcf = ngx_http_conf_get_module_main_conf(cf, ngx_commerce_pg_module);
    list = pmcf->statements.elts;

    for (i = 0; i < pmcf->statements.nelts; i++) {
        if (list[i]->text.len == text->len
            && ngx_memcmp(list[i]->text.data, text->data, text->len) == 0)
        {
            return list[i];
        }
    }

    stmt = ngx_palloc(cf->pool, sizeof(ngx_commerce_pg_stmt_t));
    if (stmt == NULL) {
        return NULL;
    }

    stmt->text.len = text->len;
    stmt->text.data = ngx_pnalloc(cf->pool, text->len + 1);
    stmt->name.len = 1 + 16;
    stmt->name.data = ngx_pnalloc(cf->pool, 1 + 32 + 1);

    list = ngx_array_push(&pmcf->statements);

    if (stmt->text.data == NULL || stmt->name.data == NULL || list == NULL) {
        return NULL;
    }

    (void) ngx_cpystrn(stmt->text.data, text->data, text->len + 1);

    ngx_md5_init(&md5);
    ngx_md5_update(&md5, text->data, text->len);
    ngx_md5_final(hash, &md5);

    stmt->name.data[0] = 's';
    (void) ngx_hex_dump(stmt->name.data + 1, hash, 8);
    stmt->name.data[1 + 16] = '\0';

    stmt->params = params;
    stmt->index = pmcf->statements.nelts - 1;

    *list = stmt;

    return stmt;
}


static ngx_int_t
ngx_commerce_pg_init_process(ngx_cycle_t *cycle)
{
    ngx_uint_t                    i, n;
    ngx_commerce_pg_main_conf_t  *pmcf;

    if (ngx_process != NGX_PROCESS_WORKER && ngx_process != NGX_PROCESS_SINGLE)
    {
        return NGX_OK;
    }

    pmcf = ngx_http_cycle_get_module_main_conf(cycle, ngx_commerce_pg_module);

    if (pmcf == NULL || !pmcf->configured) {
        return NGX_OK;
    }

    n = 1;

    for (i = 0; i < NGX_COMMERCE_PG_LANES; i++) {
        n += pmcf->lanes[i].connections;
    }

    if (n > cycle->connection_n / 2) {
        ngx_log_error(NGX_LOG_WARN, cycle->log, 0,
                      "%ui connections to PostgreSQL take more than half of "
                      "worker_connections (%ui)", n, cycle->connection_n);
    }

    if (ngx_commerce_pg_pool_init(cycle, pmcf) != NGX_OK) {
        return NGX_ERROR;
    }

    /* a respawned worker has the slot of the one that it replaces */

    if (ngx_worker == 0) {
        ngx_commerce_pg_listen_init(pmcf, cycle->log);
    }

    return NGX_OK;
}


static void
ngx_commerce_pg_exit_process(ngx_cycle_t *cycle)
{
    if (ngx_commerce_pg_pool.conf == NULL) {
        return;
    }

    ngx_commerce_pg_listen_close();
    ngx_commerce_pg_pool_close();
    ngx_commerce_pg_task_free_all();
}
