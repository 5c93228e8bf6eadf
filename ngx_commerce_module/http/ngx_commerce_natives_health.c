/*
 * Native steps: what this edge is, and how it is.
 */

#include "ngx_commerce_health.h"

#include <openssl/crypto.h>


typedef struct {
    ngx_uint_t  read;
    ngx_uint_t  write;
    ngx_uint_t  tenants;            /* their list is there: requests find their shop */
    ngx_uint_t  redis;
    ngx_uint_t  redis_configured;
} ngx_commerce_state_t;


static ngx_int_t ngx_commerce_native_info(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step);
static ngx_int_t ngx_commerce_native_build_info(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step);
static ngx_int_t ngx_commerce_native_health(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step);
static ngx_int_t ngx_commerce_native_health_ready(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step);
static ngx_int_t ngx_commerce_native_health_live(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step);
static void ngx_commerce_native_state(ngx_commerce_state_t *state);
static ngx_int_t ngx_commerce_native_reply(ngx_commerce_request_t *c,
    ngx_uint_t status, const char *fmt, ...);
static ngx_int_t ngx_commerce_native_environment(ngx_commerce_request_t *c,
    ngx_str_t *json);
static char *ngx_commerce_native_bool(ngx_uint_t value);


const ngx_commerce_native_t  ngx_commerce_natives_health[] = {

    { ngx_string("info"), ngx_commerce_native_info },
    { ngx_string("build_info"), ngx_commerce_native_build_info },
    { ngx_string("health"), ngx_commerce_native_health },
    { ngx_string("health_ready"), ngx_commerce_native_health_ready },
    { ngx_string("health_live"), ngx_commerce_native_health_live },
    { ngx_null_string, NULL }
};


static ngx_int_t
ngx_commerce_native_info(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step)
{
    ngx_str_t  environment;

    if (ngx_commerce_native_environment(c, &environment) != NGX_OK) {
        return NGX_ERROR;
    }

    return ngx_commerce_native_reply(c, NGX_HTTP_OK,
               "{\"name\":\"nginx-commerce\",\"version\":\"%s\","
               "\"environment\":%V,\"api\":\"/api/v1\","
               "\"operations\":%uD,"
               "\"links\":{\"health\":\"/health\",\"ready\":\"/health/ready\","
               "\"live\":\"/health/live\",\"info\":\"/info\"}}",
               NGX_COMMERCE_VERSION, &environment,
               ngx_commerce_contract_count(c->conf->contract));
}


static ngx_int_t
ngx_commerce_native_build_info(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step)
{
    ngx_str_t  environment;

    if (ngx_commerce_native_environment(c, &environment) != NGX_OK) {
        return NGX_ERROR;
    }

    return ngx_commerce_native_reply(c, NGX_HTTP_OK,
               "{\"name\":\"nginx-commerce\",\"version\":\"%s\","
               "\"environment\":%V,\"nginx\":\"" NGINX_VERSION "\","
               "\"compiler\":\"" __VERSION__ "\","
               "\"libpq\":%d,\"hiredis\":\"%d.%d.%d\",\"openssl\":\"%s\"}",
               NGX_COMMERCE_VERSION, &environment, PQlibVersion(),
               HIREDIS_MAJOR, HIREDIS_MINOR, HIREDIS_PATCH,
               OpenSSL_version(OPENSSL_VERSION_STRING));
}


/* 200 as long as orders can be placed: nginx with Redis away is degraded, without PostgreSQL it is unhealthy. */

static ngx_int_t
ngx_commerce_native_health(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step)
{
    u_char                *p, now[sizeof("1970-01-01T00:00:00.000Z")];
    char                  *overall, *database, *cache;
    ngx_tm_t               tm;
    ngx_str_t              environment;
    ngx_uint_t             status;
    ngx_time_t            *tp;
    ngx_commerce_state_t   state;

    if (ngx_commerce_native_environment(c, &environment) != NGX_OK) {
        return NGX_ERROR;
    }

    ngx_commerce_native_state(&state);

    status = NGX_HTTP_OK;
    overall = "healthy";

    if (state.read && state.write) {
        database = "healthy";

    } else if (state.read || state.write) {
        database = "degraded";
        overall = "degraded";

    } else {
        database = "unhealthy";
    }

    if (!state.redis_configured) {
        cache = "disabled";

    } else if (state.redis) {
        cache = "healthy";

    } else {
        cache = "degraded";
        overall = "degraded";
    }

    if ((!state.read && !state.write) || !state.tenants) {
        status = NGX_HTTP_SERVICE_UNAVAILABLE;
        overall = "unhealthy";
    }

    tp = ngx_timeofday();
    ngx_gmtime(tp->sec, &tm);

    p = ngx_sprintf(now, "%4d-%02d-%02dT%02d:%02d:%02d.%03MZ", tm.ngx_tm_year,
                    tm.ngx_tm_mon, tm.ngx_tm_mday, tm.ngx_tm_hour,
                    tm.ngx_tm_min, tm.ngx_tm_sec, tp->msec);
    *p = '\0';

    return ngx_commerce_native_reply(c, status,
               "{\"status\":\"%s\",\"timestamp\":\"%s\",\"version\":\"%s\","
               "\"environment\":%V,\"checks\":{\"database\":\"%s\","
               "\"cache\":\"%s\",\"ml_engine\":\"disabled\"}}",
               overall, now, NGX_COMMERCE_VERSION, &environment,
               database, cache);
}


/*
 * Everything without which requests fail is there.  "disabled" names what is
 * not configured: its value is false and does not count.
 */

static ngx_int_t
ngx_commerce_native_health_ready(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step)
{
    ngx_uint_t             ready;
    ngx_commerce_state_t   state;

    ngx_commerce_native_state(&state);

    ready = state.read && state.write && state.tenants;

    return ngx_commerce_native_reply(c,
               ready ? NGX_HTTP_OK : NGX_HTTP_SERVICE_UNAVAILABLE,
               "{\"status\":\"%s\",\"services\":{\"postgres\":%s,"
               "\"tenants\":%s,\"redis\":%s,\"response_cache\":%s,"
               "\"kafka_consumer\":false,\"interaction_logger\":%s},"
               "\"disabled\":[%s%s\"kafka_consumer\"]}",
               !ready ? "not_ready"
               : state.redis_configured && !state.redis ? "degraded" : "ready",
               ngx_commerce_native_bool(state.read && state.write),
               ngx_commerce_native_bool(state.tenants),
               ngx_commerce_native_bool(state.redis),
               ngx_commerce_native_bool(ngx_commerce_cache_configured()),
               ngx_commerce_native_bool(state.write),
               state.redis_configured ? "" : "\"redis\",",
               ngx_commerce_cache_configured() ? "" : "\"response_cache\",");
}


/* The event loop turns: that is all it says, and it asks nobody. */

static ngx_int_t
ngx_commerce_native_health_live(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step)
{
    return ngx_commerce_native_reply(c, NGX_HTTP_OK,
                                     "{\"status\":\"alive\"}");
}


static void
ngx_commerce_native_state(ngx_commerce_state_t *state)
{
    ngx_str_t              nobody;
    ngx_commerce_tenant_t  tenant;

    ngx_str_set(&nobody, "0");

    state->read = ngx_commerce_health_lane(NGX_COMMERCE_PG_READ);
    state->write = ngx_commerce_health_lane(NGX_COMMERCE_PG_WRITE);
    state->tenants = ngx_commerce_tenant_by_id(&nobody, &tenant) != NGX_AGAIN;
    state->redis_configured = ngx_commerce_redis_configured();
    state->redis = state->redis_configured && ngx_commerce_redis_available();
}


static ngx_int_t
ngx_commerce_native_reply(ngx_commerce_request_t *c, ngx_uint_t status,
    const char *fmt, ...)
{
    u_char      text[1024];
    va_list     args;
    ngx_str_t   body;

    va_start(args, fmt);
    body.len = ngx_vslprintf(text, text + sizeof(text), fmt, args) - text;
    va_end(args);

    body.data = ngx_pnalloc(c->request->pool, body.len);
    if (body.data == NULL) {
        return ngx_commerce_problem(c, NGX_HTTP_INTERNAL_SERVER_ERROR,
                                    "internal", "Out of memory.");
    }

    ngx_memcpy(body.data, text, body.len);

    ngx_commerce_step_reply(c, status, &body);

    return NGX_OK;
}


/* commerce_environment as a JSON string */

static ngx_int_t
ngx_commerce_native_environment(ngx_commerce_request_t *c, ngx_str_t *json)
{
    const ngx_str_t  *name;

    name = &c->conf->environment;

    json->len = (size_t) (uintptr_t) ngx_commerce_json_quote(NULL, name->data,
                                                             name->len);
    json->data = ngx_pnalloc(c->request->pool, json->len);

    if (json->data == NULL) {
        return ngx_commerce_problem(c, NGX_HTTP_INTERNAL_SERVER_ERROR,
                                    "internal", "Out of memory.");
    }

    (void) ngx_commerce_json_quote(json->data, name->data, name->len);

    return NGX_OK;
}


static char *
ngx_commerce_native_bool(ngx_uint_t value)
{
    return value ? "true" : "false";
}
