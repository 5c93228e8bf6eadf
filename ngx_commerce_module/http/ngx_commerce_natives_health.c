/*
 * Native steps: what this edge is, and how it is.
 */

#include "ngx_commerce_health.h"
#include "ngx_commerce_recs.h"
#include "ngx_commerce_kafka.h"

#include <openssl/crypto.h>


typedef struct {
    ngx_uint_t                   read;
    ngx_uint_t                   write;
    ngx_uint_t                   tenants;   /* their list is there: requests find their shop */
    ngx_uint_t                   redis;
    ngx_uint_t                   redis_configured;
    ngx_commerce_recs_status_t   recs;
    ngx_commerce_kafka_status_t  kafka;
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

    { ngx_string("info"), ngx_commerce_native_info, NULL },
    { ngx_string("build_info"), ngx_commerce_native_build_info, NULL },
    { ngx_string("health"), ngx_commerce_native_health, NULL },
    { ngx_string("health_ready"), ngx_commerce_native_health_ready, NULL },
    { ngx_string("health_live"), ngx_commerce_native_health_live, NULL },
    { ngx_null_string, NULL, NULL }
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
    char                  *overall, *database, *cache, *engine, *events;
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

    /* the table before a refused one goes on: worth a look, not an alarm */

    engine = !state.recs.configured ? "disabled"
             : state.recs.refused ? "degraded"
             : state.recs.tables == 0 ? "not_trained" : "healthy";

    /* events wait in the outbox and in the topics: nothing is lost, it comes late */

    if (!state.kafka.configured) {
        events = "disabled";

    } else if (state.kafka.consumer_ready && state.kafka.producer_ready) {
        events = "healthy";

    } else {
        events = "degraded";
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
               "\"cache\":\"%s\",\"ml_engine\":\"%s\"},"
               "\"recommendations\":{\"tables\":%ui,\"refused\":%ui,"
               "\"generation\":%uL,\"age_seconds\":%L},"
               "\"events\":{\"kafka\":\"%s\",\"shards\":%ui,"
               "\"relayed\":%uA,\"failed\":%uA,\"rebuilt\":%uA,"
               "\"consumed\":%uA,\"retried\":%uA,\"dead\":%uA,"
               "\"lag\":%L},"
               "\"breakers\":{\"read\":\"%s\",\"write\":\"%s\","
               "\"slow\":\"%s\",\"redis\":\"%s\"}}",
               overall, now, NGX_COMMERCE_VERSION, &environment,
               database, cache, engine, state.recs.tables, state.recs.refused,
               state.recs.generation,
               state.recs.tables ? tp->sec - state.recs.created / 1000
                                 : (int64_t) 0,
               events, state.kafka.relay_shards, state.kafka.relayed,
               state.kafka.relay_failed, state.kafka.relay_rebuilt,
               state.kafka.consumed, state.kafka.consume_retried,
               state.kafka.dead, state.kafka.consumer_lag,
               ngx_commerce_pg_breaker(NGX_COMMERCE_PG_READ),
               ngx_commerce_pg_breaker(NGX_COMMERCE_PG_WRITE),
               ngx_commerce_pg_breaker(NGX_COMMERCE_PG_SLOW),
               ngx_commerce_redis_breaker());
}


/*
 * Everything without which requests fail is there.  "disabled" names what is
 * not configured: its value is false and does not count.
 */

static ngx_int_t
ngx_commerce_native_health_ready(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step)
{
    u_char                *p;
    u_char                 disabled[64];
    ngx_uint_t             ready;
    ngx_commerce_state_t   state;

    ngx_commerce_native_state(&state);

    /* told from the second byte on: without the first comma */

    disabled[1] = '\0';

    p = ngx_sprintf(disabled, "%s%s%s",
                    state.redis_configured ? "" : ",\"redis\"",
                    ngx_commerce_cache_configured()
                    ? "" : ",\"response_cache\"",
                    state.kafka.configured ? "" : ",\"kafka_consumer\"");
    *p = '\0';

    ready = state.read && state.write && state.tenants;

    return ngx_commerce_native_reply(c,
               ready ? NGX_HTTP_OK : NGX_HTTP_SERVICE_UNAVAILABLE,
               "{\"status\":\"%s\",\"services\":{\"postgres\":%s,"
               "\"tenants\":%s,\"redis\":%s,\"response_cache\":%s,"
               "\"kafka_consumer\":%s,\"interaction_logger\":%s},"
               "\"disabled\":[%s]}",
               !ready ? "not_ready"
               : (state.redis_configured && !state.redis)
                 || (state.kafka.configured && !state.kafka.consumer_ready)
               ? "degraded" : "ready",
               ngx_commerce_native_bool(state.read && state.write),
               ngx_commerce_native_bool(state.tenants),
               ngx_commerce_native_bool(state.redis),
               ngx_commerce_native_bool(ngx_commerce_cache_configured()),
               ngx_commerce_native_bool(state.kafka.consumer_ready),
               ngx_commerce_native_bool(state.write), disabled + 1);
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
    state->read = ngx_commerce_health_lane(NGX_COMMERCE_PG_READ);
    state->write = ngx_commerce_health_lane(NGX_COMMERCE_PG_WRITE);
    state->tenants = ngx_commerce_tenant_known();
    state->redis_configured = ngx_commerce_redis_configured();
    state->redis = state->redis_configured && ngx_commerce_redis_available();
    ngx_commerce_recs_status(&state->recs);
    ngx_commerce_kafka_status(&state->kafka);
}


static ngx_int_t
ngx_commerce_native_reply(ngx_commerce_request_t *c, ngx_uint_t status,
    const char *fmt, ...)
{
    u_char      text[1536];
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
