/* Thread pools by name, see ngx_commerce_threads.h. */

#include "ngx_commerce_threads.h"


#define NGX_COMMERCE_THREADS_WORD  (sizeof("max_queue=") + NGX_INT_T_LEN)


/* core/ngx_thread_pool.c exports it without a header */
extern ngx_module_t  ngx_thread_pool_module;


/*
 * ngx_thread_pool_add() alone would make a pool without threads, which nginx
 * refuses at the end, so the directive itself is run.
 */

ngx_thread_pool_t *
ngx_commerce_threads(ngx_conf_t *cf, ngx_str_t *name, ngx_uint_t threads,
    ngx_uint_t max_queue)
{
    char               *rc;
    void               *conf;
    u_char             *p;
    ngx_str_t           words[4];
    ngx_array_t         args, *saved;
    ngx_command_t      *cmd;
    ngx_thread_pool_t  *pool;

    pool = ngx_thread_pool_get(cf->cycle, name);

    if (pool != NULL) {
        return pool;
    }

    p = ngx_pnalloc(cf->pool, 2 * NGX_COMMERCE_THREADS_WORD);
    if (p == NULL) {
        return NULL;
    }

    ngx_str_set(&words[0], "thread_pool");
    words[1] = *name;
    words[2].data = p;
    words[2].len = ngx_sprintf(p, "threads=%ui", threads) - p;

    p += NGX_COMMERCE_THREADS_WORD;
    words[3].data = p;
    words[3].len = ngx_sprintf(p, "max_queue=%ui", max_queue) - p;

    args.elts = words;
    args.nelts = 4;
    args.size = sizeof(ngx_str_t);
    args.nalloc = 4;
    args.pool = cf->pool;

    conf = ngx_get_conf(cf->cycle->conf_ctx, ngx_thread_pool_module);
    rc = NGX_CONF_ERROR;

    for (cmd = ngx_thread_pool_module.commands; cmd->name.len; cmd++) {

        if (cmd->name.len == words[0].len
            && ngx_strncmp(cmd->name.data, words[0].data, words[0].len) == 0)
        {
            saved = cf->args;
            cf->args = &args;
            rc = cmd->set(cf, cmd, conf);
            cf->args = saved;
            break;
        }
    }

    pool = (rc == NGX_CONF_OK) ? ngx_thread_pool_get(cf->cycle, name) : NULL;

    if (pool == NULL) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "there is no thread pool \"%V\": write "
                           "\"thread_pool %V threads=%ui max_queue=%ui;\" "
                           "before http{}", name, name, threads, max_queue);
    }

    return pool;
}
