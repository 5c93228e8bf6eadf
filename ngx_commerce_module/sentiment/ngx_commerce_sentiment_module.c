/*
 * commerce_sentiment_model: the file, and each worker's copy of it.
 *
 * A thread looks at the file every interval.  One that has changed is read
 * into memory of its own, checked there and made read-only; the event loop
 * then takes it in place of the one before.  One for which there was no
 * descriptor or no memory is tried again in the next round.
 */

#include "ngx_commerce_sentiment_model.h"
#include "ngx_commerce_file.h"
#include "ngx_commerce_rounds.h"

#include <ngx_http.h>

#include <sys/mman.h>


#define NGX_COMMERCE_SENTIMENT_MAX  (160 * 1024 * 1024)


typedef struct {
    ngx_str_t            path;              /* terminated; len == 0: off */
    ngx_msec_t           interval;
    ngx_thread_pool_t   *pool;
} ngx_commerce_sentiment_main_conf_t;

typedef struct {
    void                       *data;       /* NULL: none */
    size_t                      size;
    ngx_commerce_sentiment_t    model;
} ngx_commerce_sentiment_copy_t;

/* What a round has; the thread's while it runs. */

typedef struct {
    const char                     *path;
    ngx_log_t                      *log;
    ngx_commerce_file_t             seen;   /* taken or refused */
    ngx_uint_t                      refused;
    ngx_err_t                       err;    /* of opening or mapping, in this round */
    ngx_uint_t                      waiting; /* for descriptors or memory, and that was said */
    ngx_commerce_sentiment_copy_t   copy;   /* a new one, for the event loop */
    ngx_uint_t                      hasty;  /* does not wait for the file to settle */
} ngx_commerce_sentiment_round_t;

typedef struct {
    ngx_commerce_rounds_t           rounds;
    ngx_commerce_sentiment_round_t  round;
    ngx_commerce_sentiment_copy_t   copy;   /* in use */
} ngx_commerce_sentiment_worker_t;


static void *ngx_commerce_sentiment_create_main_conf(ngx_conf_t *cf);
static char *ngx_commerce_sentiment_init_main_conf(ngx_conf_t *cf, void *conf);
static char *ngx_commerce_sentiment_directive(ngx_conf_t *cf,
    ngx_command_t *cmd, void *conf);
static ngx_int_t ngx_commerce_sentiment_init(ngx_conf_t *cf);
static ngx_int_t ngx_commerce_sentiment_init_process(ngx_cycle_t *cycle);
static ngx_msec_t ngx_commerce_sentiment_take(void *data);
static void ngx_commerce_sentiment_thread(void *data, ngx_log_t *log);
static void ngx_commerce_sentiment_wait(
    ngx_commerce_sentiment_round_t *round, const char *why);
static const char *ngx_commerce_sentiment_load(
    ngx_commerce_sentiment_round_t *round, int fd,
    const ngx_commerce_file_t *file);


static ngx_command_t  ngx_commerce_sentiment_commands[] = {

    { ngx_string("commerce_sentiment_model"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE12,
      ngx_commerce_sentiment_directive,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

      ngx_null_command
};


static ngx_http_module_t  ngx_commerce_sentiment_module_ctx = {
    NULL,                                  /* preconfiguration */
    ngx_commerce_sentiment_init,           /* postconfiguration */

    ngx_commerce_sentiment_create_main_conf, /* create main configuration */
    ngx_commerce_sentiment_init_main_conf, /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    NULL,                                  /* create location configuration */
    NULL                                   /* merge location configuration */
};


ngx_module_t  ngx_commerce_sentiment_module = {
    NGX_MODULE_V1,
    &ngx_commerce_sentiment_module_ctx,    /* module context */
    ngx_commerce_sentiment_commands,       /* module directives */
    NGX_HTTP_MODULE,                       /* module type */
    NULL,                                  /* init master */
    NULL,                                  /* init module */
    ngx_commerce_sentiment_init_process,   /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    NULL,                                  /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


static ngx_str_t  ngx_commerce_sentiment_pool = ngx_string("commerce_files");

static ngx_commerce_sentiment_worker_t  ngx_commerce_sentiment_worker;


const ngx_commerce_sentiment_t *
ngx_commerce_sentiment_model(void)
{
    return ngx_commerce_sentiment_worker.copy.data
           ? &ngx_commerce_sentiment_worker.copy.model : NULL;
}


static void *
ngx_commerce_sentiment_create_main_conf(ngx_conf_t *cf)
{
    ngx_commerce_sentiment_main_conf_t  *smcf;

    smcf = ngx_pcalloc(cf->pool, sizeof(ngx_commerce_sentiment_main_conf_t));
    if (smcf == NULL) {
        return NULL;
    }

    /*
     * set by ngx_pcalloc():
     *
     *     smcf->path = { 0, NULL };
     *     smcf->pool = NULL;
     */

    smcf->interval = NGX_CONF_UNSET_MSEC;

    return smcf;
}


static char *
ngx_commerce_sentiment_init_main_conf(ngx_conf_t *cf, void *conf)
{
    ngx_commerce_sentiment_main_conf_t *smcf = conf;

    ngx_conf_init_msec_value(smcf->interval, 1000);

    return NGX_CONF_OK;
}


/* commerce_sentiment_model FILE [interval=TIME] */

static char *
ngx_commerce_sentiment_directive(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_commerce_sentiment_main_conf_t *smcf = conf;

    ngx_str_t  *value, s;

    if (smcf->path.len) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (value[1].len == 0) {
        return "needs the file that commerce-train sentiment fit has made";
    }

    smcf->path = value[1];

    if (ngx_conf_full_name(cf->cycle, &smcf->path, 1) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    if (cf->args->nelts == 2) {
        return NGX_CONF_OK;
    }

    if (value[2].len > 9 && ngx_strncmp(value[2].data, "interval=", 9) == 0) {
        s.data = value[2].data + 9;
        s.len = value[2].len - 9;

        smcf->interval = ngx_parse_time(&s, 0);

        if (smcf->interval != (ngx_msec_t) NGX_ERROR
            && smcf->interval >= 100)
        {
            return NGX_CONF_OK;
        }
    }

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "invalid parameter \"%V\": interval=TIME is the only "
                       "one, of at least 100ms", &value[2]);

    return NGX_CONF_ERROR;
}


static ngx_int_t
ngx_commerce_sentiment_init(ngx_conf_t *cf)
{
    ngx_commerce_sentiment_main_conf_t  *smcf;

    smcf = ngx_http_conf_get_module_main_conf(cf,
                                              ngx_commerce_sentiment_module);

    if (smcf->path.len == 0) {
        return NGX_OK;
    }

    smcf->pool = ngx_commerce_threads(cf, &ngx_commerce_sentiment_pool, 1, 16);

    return smcf->pool ? NGX_OK : NGX_ERROR;
}


static ngx_int_t
ngx_commerce_sentiment_init_process(ngx_cycle_t *cycle)
{
    ngx_commerce_sentiment_worker_t     *worker;
    ngx_commerce_sentiment_main_conf_t  *smcf;

    worker = &ngx_commerce_sentiment_worker;

    ngx_memzero(worker, sizeof(ngx_commerce_sentiment_worker_t));

    if (ngx_process != NGX_PROCESS_WORKER && ngx_process != NGX_PROCESS_SINGLE)
    {
        return NGX_OK;
    }

    smcf = ngx_http_cycle_get_module_main_conf(cycle,
                                               ngx_commerce_sentiment_module);

    if (smcf == NULL || smcf->path.len == 0) {
        return NGX_OK;
    }

    worker->round.path = (const char *) smcf->path.data;
    worker->round.log = cycle->log;

    /* the first one here: a reload has no moment without a model */

    worker->round.hasty = 1;
    ngx_commerce_sentiment_thread(&worker->round, cycle->log);
    (void) ngx_commerce_sentiment_take(&worker->round);
    worker->round.hasty = 0;

    return ngx_commerce_rounds_start(&worker->rounds, cycle, smcf->pool,
                                     smcf->interval, smcf->interval,
                                     ngx_commerce_sentiment_thread,
                                     ngx_commerce_sentiment_take,
                                     &worker->round);
}


/* The event loop takes what a round has brought. */

static ngx_msec_t
ngx_commerce_sentiment_take(void *data)
{
    ngx_commerce_sentiment_round_t *round = data;

    ngx_commerce_sentiment_copy_t     old;
    ngx_commerce_sentiment_worker_t  *worker;

    if (round->copy.data == NULL) {
        return 0;
    }

    worker = &ngx_commerce_sentiment_worker;

    old = worker->copy;
    worker->copy = round->copy;
    round->copy.data = NULL;

    ngx_log_error(NGX_LOG_NOTICE, round->log, 0,
                  "sentiment: a model of %uL reviews",
                  worker->copy.model.about->reviews);

    if (old.data) {
        (void) munmap(old.data, old.size);
    }

    return 0;
}


static void
ngx_commerce_sentiment_thread(void *data, ngx_log_t *log)
{
    ngx_commerce_sentiment_round_t *round = data;

    int                   fd;
    const char           *why;
    struct stat           st;
    ngx_commerce_file_t   file;

    if (stat(round->path, &st) == -1) {

        /* what was refused and comes back is told about again */

        if (round->refused && ngx_errno == NGX_ENOENT) {
            ngx_memzero(&round->seen, sizeof(ngx_commerce_file_t));
            round->refused = 0;
        }

        return;
    }

    ngx_commerce_file_identify(&file, &st);

    if (ngx_commerce_file_same(&file, &round->seen)
        || !(round->hasty || ngx_commerce_file_settled(&file)))
    {
        return;
    }

    /* NONBLOCK: a fifo must not hold the thread */

    round->err = 0;

    fd = open(round->path, O_RDONLY|O_CLOEXEC|O_NONBLOCK);

    if (fd == -1) {
        round->err = ngx_errno;
        why = "it cannot be opened";

    } else if (fstat(fd, &st) == -1 || !S_ISREG(st.st_mode)) {
        why = "it is not a regular file";

    } else {
        ngx_commerce_file_identify(&file, &st);
        why = ngx_commerce_sentiment_load(round, fd, &file);
    }

    if (fd != -1) {
        (void) close(fd);
    }

    if (ngx_commerce_file_scarce(round->err)) {
        ngx_commerce_sentiment_wait(round, why);
        return;
    }

    round->waiting = 0;
    round->seen = file;
    round->refused = (why != NULL);

    if (why) {
        ngx_log_error(NGX_LOG_ERR, round->log, 0,
                      "commerce_sentiment_model: \"%s\" is no model: %s; %s",
                      round->path, why,
                      ngx_commerce_sentiment_worker.copy.data
                      ? "the one before it stays"
                      : "reviews get no sentiment; make one with "
                        "\"commerce-train sentiment fit\"");
    }
}


/* Once, until the file is taken or refused. */

static void
ngx_commerce_sentiment_wait(ngx_commerce_sentiment_round_t *round,
    const char *why)
{
    if (!round->waiting) {
        ngx_log_error(NGX_LOG_ERR, round->log, round->err,
                      "commerce_sentiment_model: \"%s\" has to wait: %s; each "
                      "round tries again", round->path, why);
    }

    round->waiting = 1;
}


/* NULL: it is in round->copy; else what is wrong with it. */

static const char *
ngx_commerce_sentiment_load(ngx_commerce_sentiment_round_t *round, int fd,
    const ngx_commerce_file_t *file)
{
    void        *data;
    const char  *why;

    if (file->size == 0) {
        return "it is empty";
    }

    if (file->size > NGX_COMMERCE_SENTIMENT_MAX) {
        return "it is larger than any model can be";
    }

    data = mmap(NULL, file->size, PROT_READ|PROT_WRITE,
                MAP_PRIVATE|MAP_ANONYMOUS, -1, 0);

    if (data == MAP_FAILED) {
        round->err = ngx_errno;
        return "there is no memory for it";
    }

    why = ngx_commerce_file_read(fd, data, file);

    if (why == NULL
        && mprotect(data, file->size, PROT_READ) == 0
        && ngx_commerce_sentiment_open(&round->copy.model, data, file->size,
                                       &why)
           == NGX_COMMERCE_OK)
    {
        round->copy.data = data;
        round->copy.size = file->size;
        return NULL;
    }

    (void) munmap(data, file->size);

    return why ? why : "its memory cannot be made read-only";
}
