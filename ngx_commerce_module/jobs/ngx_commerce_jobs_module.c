/*
 * commerce_job NAME call=api.function interval=1s [lane=slow] [batch=100]
 *              [parallel=64];
 *
 * Worker 0 of each node calls the function.  Functions see to it that two
 * nodes do not do the same work at once (leases, SKIP LOCKED, advisory locks):
 * during a reload, too, two workers may.
 *
 *   resting ── interval, NOTIFY commerce_job ──► running ──► resting
 *                                    └── "more": true ──► running
 *
 * Calls that a reply asks for go on while the next round runs, up to
 * "parallel" of them.
 */

#include <ngx_http.h>

#include "ngx_commerce_jobs.h"
#include "ngx_commerce_exchange.h"
#include "ngx_commerce_crash.h"


#define NGX_COMMERCE_JOBS_CHANNEL  "commerce_job"
#define NGX_COMMERCE_JOBS_FIRST    1000     /* the first round comes no later */
#define NGX_COMMERCE_JOBS_BEAT     1000     /* a round that PostgreSQL did not take is tried again, or sooner */


typedef struct {
    ngx_str_t                  name;
    ngx_str_t                  function;
    ngx_msec_t                 interval;
    ngx_commerce_pg_lane_t     lane;
    ngx_int_t                  batch;       /* NGX_CONF_UNSET: the function's own */
    ngx_uint_t                 parallel;
    ngx_commerce_pg_stmt_t    *stmt;
    ngx_commerce_job_pt        done;
    void                      *data;
    unsigned                   written:1;   /* in the configuration */
    ngx_uint_t                 index;
} ngx_commerce_job_t;

typedef struct {
    const ngx_commerce_job_t  *job;
    ngx_event_t                timer;
    ngx_uint_t                 out;         /* calls under way */
    unsigned                   running:1;
    unsigned                   again:1;     /* there is more, or somebody knocked */
} ngx_commerce_job_state_t;

typedef struct {
    ngx_array_t               *jobs;        /* of ngx_commerce_job_t * */
} ngx_commerce_jobs_conf_t;


static void *ngx_commerce_jobs_create_main_conf(ngx_conf_t *cf);
static ngx_int_t ngx_commerce_jobs_init_process(ngx_cycle_t *cycle);
static void ngx_commerce_jobs_exit_process(ngx_cycle_t *cycle);

static char *ngx_commerce_jobs_directive(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_commerce_jobs_parameter(ngx_conf_t *cf,
    ngx_commerce_job_t *job, ngx_str_t *value);
static ngx_commerce_job_t *ngx_commerce_jobs_find(
    ngx_commerce_jobs_conf_t *jcf, ngx_str_t *name);
static ngx_commerce_job_t *ngx_commerce_jobs_push(ngx_conf_t *cf,
    ngx_commerce_jobs_conf_t *jcf);
static ngx_int_t ngx_commerce_jobs_statement(ngx_conf_t *cf,
    ngx_commerce_job_t *job);

static void ngx_commerce_jobs_knock(ngx_str_t *channel, ngx_str_t *payload);
static void ngx_commerce_jobs_tick(ngx_event_t *ev);
static void ngx_commerce_jobs_done(ngx_commerce_pg_op_t *op,
    ngx_commerce_pg_status_t status, const PGresult *result);
static void ngx_commerce_jobs_reply(ngx_commerce_job_state_t *s,
    const PGresult *result);
static void ngx_commerce_jobs_failed(ngx_commerce_job_state_t *s,
    const PGresult *result);
static void ngx_commerce_jobs_came(void *data,
    ngx_commerce_pg_status_t status, const PGresult *result, ngx_uint_t more);
static void ngx_commerce_jobs_later(ngx_commerce_job_state_t *s);
static void ngx_commerce_jobs_rest(ngx_commerce_job_state_t *s);


static ngx_commerce_job_state_t  *ngx_commerce_jobs;
static ngx_uint_t                 ngx_commerce_jobs_count;
static ngx_uint_t                 ngx_commerce_jobs_listening;


static ngx_command_t  ngx_commerce_jobs_commands[] = {

    { ngx_string("commerce_job"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_2MORE,
      ngx_commerce_jobs_directive,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

      ngx_null_command
};


static ngx_http_module_t  ngx_commerce_jobs_module_ctx = {
    NULL,                                  /* preconfiguration */
    NULL,                                  /* postconfiguration */

    ngx_commerce_jobs_create_main_conf,    /* create main configuration */
    NULL,                                  /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    NULL,                                  /* create location configuration */
    NULL                                   /* merge location configuration */
};


ngx_module_t  ngx_commerce_jobs_module = {
    NGX_MODULE_V1,
    &ngx_commerce_jobs_module_ctx,         /* module context */
    ngx_commerce_jobs_commands,            /* module directives */
    NGX_HTTP_MODULE,                       /* module type */
    NULL,                                  /* init master */
    NULL,                                  /* init module */
    ngx_commerce_jobs_init_process,        /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    ngx_commerce_jobs_exit_process,        /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


static void *
ngx_commerce_jobs_create_main_conf(ngx_conf_t *cf)
{
    ngx_commerce_jobs_conf_t  *jcf;

    jcf = ngx_pcalloc(cf->pool, sizeof(ngx_commerce_jobs_conf_t));
    if (jcf == NULL) {
        return NULL;
    }

    jcf->jobs = ngx_array_create(cf->pool, 8, sizeof(ngx_commerce_job_t *));

    return jcf->jobs ? jcf : NULL;
}


static char *
ngx_commerce_jobs_directive(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_commerce_jobs_conf_t *jcf = conf;

    char                *rv;
    ngx_str_t           *value;
    ngx_uint_t           i;
    ngx_commerce_job_t  *job;

    value = cf->args->elts;

    if (ngx_commerce_jobs_find(jcf, &value[1])) {
        return "is duplicate: give the second job another name";
    }

    job = ngx_commerce_jobs_push(cf, jcf);
    if (job == NULL) {
        return NGX_CONF_ERROR;
    }

    job->name = value[1];
    job->written = 1;

    for (i = 2; i < cf->args->nelts; i++) {
        rv = ngx_commerce_jobs_parameter(cf, job, &value[i]);
        if (rv != NGX_CONF_OK) {
            return rv;
        }
    }

    if (job->function.len == 0 || job->interval == NGX_CONF_UNSET_MSEC) {
        return "needs call=api.function and interval=";
    }

    return ngx_commerce_jobs_statement(cf, job) == NGX_OK ? NGX_CONF_OK
                                                          : NGX_CONF_ERROR;
}


static char *
ngx_commerce_jobs_parameter(ngx_conf_t *cf, ngx_commerce_job_t *job,
    ngx_str_t *value)
{
    ngx_int_t   n;
    ngx_str_t   text;

    if (ngx_strncmp(value->data, "call=", 5) == 0) {
        job->function.data = value->data + 5;
        job->function.len = value->len - 5;

        if (ngx_strncmp(job->function.data, "api.", 4) != 0
            || strspn((char *) job->function.data + 4,
                      "abcdefghijklmnopqrstuvwxyz0123456789_")
               != job->function.len - 4)
        {
            return "can only call functions of schema api: call=api.name";
        }

        return NGX_CONF_OK;
    }

    if (ngx_strncmp(value->data, "interval=", 9) == 0) {
        text.data = value->data + 9;
        text.len = value->len - 9;
        n = ngx_parse_time(&text, 0);

        if (n == NGX_ERROR || n == 0) {
            return "needs an interval like interval=500ms or interval=1m";
        }

        job->interval = n;
        return NGX_CONF_OK;
    }

    if (ngx_strncmp(value->data, "batch=", 6) == 0) {
        n = ngx_atoi(value->data + 6, value->len - 6);

        if (n == NGX_ERROR || n == 0 || n > 100000) {
            return "needs a batch from 1 to 100000";
        }

        job->batch = n;
        return NGX_CONF_OK;
    }

    if (ngx_strncmp(value->data, "parallel=", 9) == 0) {
        n = ngx_atoi(value->data + 9, value->len - 9);

        if (n == NGX_ERROR || n == 0) {
            return "needs a number of calls at once, from 1 on";
        }

        job->parallel = n;
        return NGX_CONF_OK;
    }

    if (ngx_strcmp(value->data, "lane=slow") == 0) {
        job->lane = NGX_COMMERCE_PG_SLOW;
        return NGX_CONF_OK;
    }

    if (ngx_strcmp(value->data, "lane=write") == 0) {
        job->lane = NGX_COMMERCE_PG_WRITE;
        return NGX_CONF_OK;
    }

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "invalid parameter \"%V\": commerce_job takes call=, "
                       "interval=, lane=slow or lane=write, batch= and "
                       "parallel=", value);

    return NGX_CONF_ERROR;
}


ngx_int_t
ngx_commerce_job_add(ngx_conf_t *cf, ngx_str_t *name, ngx_str_t *function,
    ngx_msec_t interval, ngx_commerce_job_pt done, void *data)
{
    ngx_commerce_job_t        *job;
    ngx_commerce_jobs_conf_t  *jcf;

    jcf = ngx_http_conf_get_module_main_conf(cf, ngx_commerce_jobs_module);

    job = ngx_commerce_jobs_find(jcf, name);

    if (job) {
        job->done = done;
        job->data = data;
        return NGX_OK;
    }

    job = ngx_commerce_jobs_push(cf, jcf);
    if (job == NULL) {
        return NGX_ERROR;
    }

    job->name = *name;
    job->function = *function;
    job->interval = interval;
    job->done = done;
    job->data = data;

    return ngx_commerce_jobs_statement(cf, job);
}


void
ngx_commerce_job_drop(ngx_conf_t *cf, ngx_str_t *function)
{
    ngx_uint_t                  i, n;
    ngx_commerce_job_t        **jobs;
    ngx_commerce_jobs_conf_t   *jcf;

    jcf = ngx_http_conf_get_module_main_conf(cf, ngx_commerce_jobs_module);
    jobs = jcf->jobs->elts;

    for (i = 0, n = 0; i < jcf->jobs->nelts; i++) {

        if (jobs[i]->function.len != function->len
            || ngx_strncmp(jobs[i]->function.data, function->data,
                           function->len) != 0)
        {
            jobs[i]->index = n;
            jobs[n++] = jobs[i];
        }
    }

    jcf->jobs->nelts = n;
}


static ngx_commerce_job_t *
ngx_commerce_jobs_find(ngx_commerce_jobs_conf_t *jcf, ngx_str_t *name)
{
    ngx_uint_t            i;
    ngx_commerce_job_t  **jobs;

    jobs = jcf->jobs->elts;

    for (i = 0; i < jcf->jobs->nelts; i++) {
        if (jobs[i]->name.len == name->len
            && ngx_memcmp(jobs[i]->name.data, name->data, name->len) == 0)
        {
            return jobs[i];
        }
    }

    return NULL;
}


static ngx_commerce_job_t *
ngx_commerce_jobs_push(ngx_conf_t *cf, ngx_commerce_jobs_conf_t *jcf)
{
    ngx_commerce_job_t  *job, **slot;

    job = ngx_pcalloc(cf->pool, sizeof(ngx_commerce_job_t));
    slot = ngx_array_push(jcf->jobs);

    if (job == NULL || slot == NULL) {
        return NULL;
    }

    job->index = jcf->jobs->nelts - 1;
    job->interval = NGX_CONF_UNSET_MSEC;
    job->batch = NGX_CONF_UNSET;
    job->lane = NGX_COMMERCE_PG_SLOW;
    job->parallel = 64;

    *slot = job;

    return job;
}


static ngx_int_t
ngx_commerce_jobs_statement(ngx_conf_t *cf, ngx_commerce_job_t *job)
{
    ngx_str_t  text;

    text.data = ngx_pnalloc(cf->pool, job->function.len + 128);
    if (text.data == NULL) {
        return NGX_ERROR;
    }

    text.len = ((job->batch == NGX_CONF_UNSET)
                ? ngx_sprintf(text.data, "SELECT r.status, r.body, r.headers, "
                              "r.edge FROM %V() r%Z", &job->function)
                : ngx_sprintf(text.data, "SELECT r.status, r.body, r.headers, "
                              "r.edge FROM %V(batch => %i) r%Z",
                              &job->function, job->batch))
               - text.data - 1;

    job->stmt = ngx_commerce_pg_statement(cf, &text, 0);

    return job->stmt ? NGX_OK : NGX_ERROR;
}


/* A respawned worker has the slot of the one that it replaces, so there is one worker 0. */

static ngx_int_t
ngx_commerce_jobs_init_process(ngx_cycle_t *cycle)
{
    ngx_uint_t                  i;
    ngx_commerce_job_t        **jobs;
    ngx_commerce_job_state_t   *s;
    ngx_commerce_jobs_conf_t   *jcf;

    if ((ngx_process != NGX_PROCESS_WORKER
         && ngx_process != NGX_PROCESS_SINGLE)
        || ngx_worker != 0)
    {
        return NGX_OK;
    }

    jcf = ngx_http_cycle_get_module_main_conf(cycle, ngx_commerce_jobs_module);

    if (jcf == NULL || jcf->jobs->nelts == 0) {
        return NGX_OK;
    }

    ngx_commerce_jobs_count = jcf->jobs->nelts;
    ngx_commerce_jobs = ngx_pcalloc(cycle->pool, ngx_commerce_jobs_count
                                          * sizeof(ngx_commerce_job_state_t));
    if (ngx_commerce_jobs == NULL) {
        return NGX_ERROR;
    }

    jobs = jcf->jobs->elts;

    for (i = 0; i < ngx_commerce_jobs_count; i++) {
        s = &ngx_commerce_jobs[i];

        s->job = jobs[i];
        s->timer.handler = ngx_commerce_jobs_tick;
        s->timer.data = s;
        s->timer.log = cycle->log;
        s->timer.cancelable = 1;

        ngx_add_timer(&s->timer, ngx_min(s->job->interval,
                                         NGX_COMMERCE_JOBS_FIRST));
    }

    if (!ngx_commerce_jobs_listening) {
        ngx_commerce_pg_on_notify(NGX_COMMERCE_JOBS_CHANNEL,
                                  ngx_commerce_jobs_knock);
        ngx_commerce_jobs_listening = 1;
    }

    return NGX_OK;
}


static void
ngx_commerce_jobs_exit_process(ngx_cycle_t *cycle)
{
    ngx_uint_t  i;

    for (i = 0; i < ngx_commerce_jobs_count; i++) {
        if (ngx_commerce_jobs[i].timer.timer_set) {
            ngx_del_timer(&ngx_commerce_jobs[i].timer);
        }
    }

    ngx_commerce_jobs_count = 0;
}


/* NOTIFY commerce_job, 'NAME'.  An empty channel: notices may have been missed, the intervals see to that. */

static void
ngx_commerce_jobs_knock(ngx_str_t *channel, ngx_str_t *payload)
{
    ngx_uint_t                 i;
    ngx_commerce_job_state_t  *s;

    if (channel->len == 0) {
        return;
    }

    for (i = 0; i < ngx_commerce_jobs_count; i++) {
        s = &ngx_commerce_jobs[i];

        if (s->job->name.len != payload->len
            || ngx_memcmp(s->job->name.data, payload->data, payload->len) != 0)
        {
            continue;
        }

        s->again = 1;

        if (!s->running) {
            ngx_commerce_jobs_rest(s);
        }

        return;
    }
}


static void
ngx_commerce_jobs_tick(ngx_event_t *ev)
{
    ngx_commerce_pg_op_t      *op;
    ngx_commerce_job_state_t  *s;

    s = ev->data;

    if (ngx_exiting || ngx_terminate) {
        return;
    }

    /* their end calls us */

    if (s->out >= s->job->parallel) {
        s->again = 1;
        ngx_commerce_jobs_rest(s);
        return;
    }

    s->again = 0;

    op = ngx_commerce_pg_alloc();

    if (op) {
        op->lane = s->job->lane;
        op->query.stmt = s->job->stmt;
        op->handler = ngx_commerce_jobs_done;
        op->data = s;

        if (ngx_commerce_pg_submit(op) == NGX_OK) {
            s->running = 1;
            return;
        }
    }

    ngx_commerce_jobs_later(s);
}


static void
ngx_commerce_jobs_done(ngx_commerce_pg_op_t *op,
    ngx_commerce_pg_status_t status, const PGresult *result)
{
    ngx_commerce_job_state_t  *s;

    s = op->data;
    s->running = 0;

    ngx_commerce_crash("after-job");

    switch (status) {

    case NGX_COMMERCE_PG_OK:
        ngx_commerce_jobs_reply(s, result);
        break;

    case NGX_COMMERCE_PG_FAILED:
        ngx_commerce_jobs_failed(s, result);
        break;

    default:
        ngx_commerce_jobs_later(s);
        return;
    }

    ngx_commerce_jobs_rest(s);
}


static void
ngx_commerce_jobs_reply(ngx_commerce_job_state_t *s, const PGresult *result)
{
    ngx_str_t             text, context[NGX_COMMERCE_EXCHANGE_CONTEXT];
    ngx_uint_t            more;
    ngx_pool_t           *pool;
    ngx_commerce_json_t  *root;

    if (PQntuples(result) != 1 || PQnfields(result) != 4) {
        ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                      "commerce: job %V: %V() returned %d rows instead of one "
                      "api.reply", &s->job->name, &s->job->function,
                      PQntuples(result));
        return;
    }

    /* part of it failed, and the rest is done */

    if (ngx_strcmp(PQgetvalue(result, 0, 0), "200") != 0) {
        ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                      "commerce: job %V: %V() answered %s: %s", &s->job->name,
                      &s->job->function, PQgetvalue(result, 0, 0),
                      PQgetvalue(result, 0, 1));
    }

    pool = ngx_create_pool(4096, ngx_cycle->log);
    if (pool == NULL) {
        return;
    }

    more = 0;

    if (!PQgetisnull(result, 0, 1)) {
        text.data = (u_char *) PQgetvalue(result, 0, 1);
        text.len = PQgetlength(result, 0, 1);

        root = ngx_commerce_json_get(ngx_commerce_fetch_json(pool, &text),
                                     "more");
        more = (root && root->type == NGX_COMMERCE_JSON_TRUE);
        s->again |= more;
    }

    if (!more && s->job->done) {
        s->job->done(s->job->data);
    }

    if (!PQgetisnull(result, 0, 3)) {
        text.data = (u_char *) PQgetvalue(result, 0, 3);
        text.len = PQgetlength(result, 0, 3);

        root = ngx_commerce_fetch_json(pool, &text);

        if (root == NULL) {
            ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                          "commerce: job %V: the edge instructions are not "
                          "JSON", &s->job->name);
        }

        /* the tenant comes with each call */

        ngx_memzero(context, sizeof(context));
        ngx_str_set(&context[2], "");
        context[5] = s->job->name;

        s->out += ngx_commerce_exchange_all(context,
                                     ngx_commerce_json_get(root, "fetch"), 0,
                                     ngx_commerce_jobs_came, s);
        s->out += ngx_commerce_exchange_all(context,
                                     ngx_commerce_json_get(root, "mail"), 1,
                                     ngx_commerce_jobs_came, s);
    }

    ngx_destroy_pool(pool);
}


static void
ngx_commerce_jobs_failed(ngx_commerce_job_state_t *s, const PGresult *result)
{
    const char  *state;

    state = PQresultErrorField(result, PG_DIAG_SQLSTATE);

    ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                  "commerce: job %V: %V() failed: SQLSTATE %s: %s",
                  &s->job->name, &s->job->function, state ? state : "?",
                  PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY));
}


static void
ngx_commerce_jobs_came(void *data, ngx_commerce_pg_status_t status,
    const PGresult *result, ngx_uint_t more)
{
    ngx_commerce_job_state_t  *s = data;

    if (more) {
        return;
    }

    s->out--;

    if (s->again && !s->running) {
        ngx_commerce_jobs_rest(s);
    }
}


/* PostgreSQL is busy or away: what is done once an hour does not wait for the next one. */

static void
ngx_commerce_jobs_later(ngx_commerce_job_state_t *s)
{
    if (ngx_exiting || ngx_terminate) {
        return;
    }

    ngx_add_timer(&s->timer, ngx_min(s->job->interval,
                                     NGX_COMMERCE_JOBS_BEAT));
}


/*
 * The next round: at once when there is more and room for it, else after the
 * interval; nodes that were started together part by up to an eighth.
 */

static void
ngx_commerce_jobs_rest(ngx_commerce_job_state_t *s)
{
    ngx_msec_t  delay;

    if (ngx_exiting || ngx_terminate) {
        return;
    }

    delay = (s->again && s->out < s->job->parallel) ? 1
            : s->job->interval + ngx_random() % (s->job->interval / 8 + 1);

    if (s->timer.timer_set) {
        ngx_del_timer(&s->timer);
    }

    ngx_add_timer(&s->timer, delay);
}
