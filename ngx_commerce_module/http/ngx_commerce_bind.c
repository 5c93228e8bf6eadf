/*
 * What a contract names is bound to what the module has, while the
 * configuration is read: statements, scripts, handlers, policies, headers.
 */

#include "ngx_commerce_http.h"


static ngx_int_t ngx_commerce_bind_cache_control(ngx_conf_t *cf,
    ngx_commerce_main_conf_t *mcf, ngx_commerce_operation_t *op);
static void ngx_commerce_bind_vary(ngx_str_t *value,
    ngx_commerce_operation_t *op);
static ngx_int_t ngx_commerce_bind_step(ngx_conf_t *cf,
    ngx_commerce_operation_t *op, ngx_commerce_step_t *step);
static ngx_int_t ngx_commerce_bind_limits(ngx_conf_t *cf,
    ngx_commerce_main_conf_t *mcf, ngx_commerce_operation_t *op);
static const ngx_commerce_native_t *ngx_commerce_native_find(
    ngx_commerce_str_t name);


static const ngx_commerce_native_t  *ngx_commerce_natives[] = {
    ngx_commerce_natives_auth,
    ngx_commerce_natives_secret,
    ngx_commerce_natives_tenant,
    ngx_commerce_natives_health,
    ngx_commerce_natives_recs,
    ngx_commerce_natives_recent,
    ngx_commerce_natives_sentiment,
    ngx_commerce_natives_hook,
    ngx_commerce_natives_webhook,
    NULL
};


/* What a step names becomes a pointer: statement, script, handler, policy. */

ngx_int_t
ngx_commerce_bind_operation(ngx_conf_t *cf, ngx_commerce_main_conf_t *mcf,
    ngx_commerce_operation_t *op)
{
    uint32_t  i;

    if (op->cache.tags_count > NGX_COMMERCE_CACHE_TAGS_MAX) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "commerce_contract: operation \"%*s\": a cached reply "
                      "has %d tags at most", op->id.len, op->id.data,
                      NGX_COMMERCE_CACHE_TAGS_MAX);
        return NGX_ERROR;
    }

    for (i = 0; i < op->steps_count; i++) {
        if (ngx_commerce_bind_step(cf, op, &op->steps[i]) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    if (ngx_commerce_bind_cache_control(cf, mcf, op) != NGX_OK) {
        return NGX_ERROR;
    }

    ngx_commerce_bind_vary(&mcf->ops[op->index].vary, op);

    if (ngx_commerce_sealed_bind(cf, op) != NGX_OK) {
        return NGX_ERROR;
    }

    return ngx_commerce_bind_limits(cf, mcf, op);
}


static ngx_int_t
ngx_commerce_bind_cache_control(ngx_conf_t *cf, ngx_commerce_main_conf_t *mcf,
    ngx_commerce_operation_t *op)
{
    u_char     *p;
    ngx_str_t  *value;

    value = &mcf->ops[op->index].cache_control;

    if (op->cache.ttl == 0) {
        ngx_str_set(value, NGX_COMMERCE_NO_STORE);
        return NGX_OK;
    }

    p = ngx_pnalloc(cf->pool, sizeof("public, max-age=, "
                                     "stale-while-revalidate=")
                              + 2 * NGX_INT32_LEN);
    if (p == NULL) {
        return NGX_ERROR;
    }

    value->data = p;
    value->len = ngx_sprintf(p, "public, max-age=%uD, "
                             "stale-while-revalidate=%uD",
                             op->cache.ttl, op->cache.ttl)
                 - p;

    return NGX_OK;
}


/* Who asks is told by the token, and by the guest's where a cart is concerned. */

static void
ngx_commerce_bind_vary(ngx_str_t *value, ngx_commerce_operation_t *op)
{
    if (op->auth == NGX_COMMERCE_AUTH_PUBLIC) {

        if (op->cart) {
            ngx_str_set(value, "X-Cart-Token");
        }

        return;
    }

    if (op->cart) {
        ngx_str_set(value, "Authorization, X-Cart-Token");

    } else {
        ngx_str_set(value, "Authorization");
    }
}


static ngx_int_t
ngx_commerce_bind_step(ngx_conf_t *cf, ngx_commerce_operation_t *op,
    ngx_commerce_step_t *step)
{
    const ngx_commerce_native_t  *native;

    switch (step->kind) {

    case NGX_COMMERCE_STEP_CALL:
        return ngx_commerce_call_register(cf, step->call);

    case NGX_COMMERCE_STEP_NATIVE:
        native = ngx_commerce_native_find(step->name);
        step->data = (void *) (uintptr_t) native->handler;
        return native->bind ? native->bind(cf, op, step) : NGX_OK;

    default:
        break;
    }

    step->data = ngx_commerce_redis_script(cf, (ngx_str_t *) &step->name);

    if (step->data == NULL) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "commerce_contract: operation \"%*s\": there is no "
                      "Redis script \"%*s\"; see commerce_redis_scripts",
                      op->id.len, op->id.data, step->name.len,
                      step->name.data);
        return NGX_ERROR;
    }

    if ((step->miss && ngx_commerce_call_register(cf, step->miss) != NGX_OK)
        || (step->down && ngx_commerce_call_register(cf, step->down)
                          != NGX_OK))
    {
        return NGX_ERROR;
    }

    if (step->backup.len) {
        step->backup_data = ngx_commerce_backup_function(cf,
                                                (ngx_str_t *) &step->backup);
        if (step->backup_data == NULL) {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_commerce_bind_limits(ngx_conf_t *cf, ngx_commerce_main_conf_t *mcf,
    ngx_commerce_operation_t *op)
{
    uint32_t                      i;
    ngx_commerce_op_conf_t       *conf;
    ngx_commerce_limit_policy_t  *policy;

    if (op->limits_count == 0) {
        return NGX_OK;
    }

    conf = &mcf->ops[op->index];

    conf->limits = ngx_palloc(cf->pool, op->limits_count * sizeof(void *));
    if (conf->limits == NULL) {
        return NGX_ERROR;
    }

    for (i = 0; i < op->limits_count; i++) {
        policy = ngx_commerce_limit_find(cf, (ngx_str_t *) &op->limits[i]);

        if (policy) {
            conf->limits[conf->limits_count++] = policy;
        }
    }

    return NGX_OK;
}


bool
ngx_commerce_native_known(ngx_commerce_str_t name)
{
    return ngx_commerce_native_find(name) != NULL;
}


static const ngx_commerce_native_t *
ngx_commerce_native_find(ngx_commerce_str_t name)
{
    ngx_uint_t                    i;
    const ngx_commerce_native_t  *native;

    for (i = 0; ngx_commerce_natives[i]; i++) {

        for (native = ngx_commerce_natives[i]; native->name.len; native++) {

            if (native->name.len == name.len
                && ngx_memcmp(native->name.data, name.data, name.len) == 0)
            {
                return native;
            }
        }
    }

    return NULL;
}
