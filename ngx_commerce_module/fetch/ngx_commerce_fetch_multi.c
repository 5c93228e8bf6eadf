/*
 * curl's multi interface on nginx's event loop: its sockets are watches, its
 * timer is a timer, and what ends is told from a posted event.
 *
 * waiting → active → ended → handler.  A call that waits counts its deadline,
 * too.  Timers hold a worker that leaves as long as a call is there.  A pause
 * is a call that goes nowhere: paused → ended → handler.
 */

#include "ngx_commerce_fetch_internal.h"


typedef struct {
    ngx_commerce_watch_t         watch;
    ngx_commerce_fetch_multi_t  *multi;
    curl_socket_t                fd;
} ngx_commerce_fetch_socket_t;


static ngx_int_t ngx_commerce_fetch_multi_init(ngx_commerce_fetch_multi_t *m,
    const ngx_commerce_fetch_conf_t *conf);
static int ngx_commerce_fetch_on_socket(CURL *easy, curl_socket_t fd, int what,
    void *data, void *socket);
static int ngx_commerce_fetch_on_timer(CURLM *multi, long ms, void *data);
static void ngx_commerce_fetch_readable(ngx_commerce_watch_t *w);
static void ngx_commerce_fetch_writable(ngx_commerce_watch_t *w);
static void ngx_commerce_fetch_closing(ngx_commerce_watch_t *w);
static void ngx_commerce_fetch_timer(ngx_event_t *ev);
static void ngx_commerce_fetch_act(ngx_commerce_fetch_multi_t *m,
    curl_socket_t fd, int what);
static void ngx_commerce_fetch_collect(ngx_commerce_fetch_multi_t *m);
static void ngx_commerce_fetch_turn(ngx_event_t *ev);
static void ngx_commerce_fetch_begin(ngx_commerce_fetch_t *f);
static void ngx_commerce_fetch_end(ngx_commerce_fetch_t *f);
static void ngx_commerce_fetch_paused(ngx_event_t *ev);
static void ngx_commerce_fetch_resume(void);
static void ngx_commerce_fetch_expire(ngx_event_t *ev);
static void ngx_commerce_fetch_abort(const char *error);


ngx_commerce_fetch_pool_t  ngx_commerce_fetch_pool;


ngx_int_t
ngx_commerce_fetch_init(const ngx_commerce_fetch_conf_t *conf, ngx_log_t *log)
{
    ngx_uint_t                  i;
    ngx_commerce_fetch_pool_t  *p;

    p = &ngx_commerce_fetch_pool;

    ngx_memzero(p, sizeof(ngx_commerce_fetch_pool_t));
    ngx_queue_init(&p->paused);
    ngx_queue_init(&p->waiting);
    ngx_queue_init(&p->active);
    ngx_queue_init(&p->ended);

    p->log = log;

    p->turn.handler = ngx_commerce_fetch_turn;
    p->turn.data = p;
    p->turn.log = log;

    p->expiry.handler = ngx_commerce_fetch_expire;
    p->expiry.data = p;
    p->expiry.log = log;

    /* in a worker, before it has other threads that use OpenSSL's start-up */

    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
        ngx_log_error(NGX_LOG_EMERG, log, 0, "curl_global_init() failed");
        return NGX_ERROR;
    }

    p->conf = conf;

    for (i = 0; i < 2; i++) {
        if (ngx_commerce_fetch_multi_init(&p->multis[i], conf) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_commerce_fetch_multi_init(ngx_commerce_fetch_multi_t *m,
    const ngx_commerce_fetch_conf_t *conf)
{
    m->multi = curl_multi_init();
    if (m->multi == NULL) {
        return NGX_ERROR;
    }

    m->timer.handler = ngx_commerce_fetch_timer;
    m->timer.data = m;
    m->timer.log = ngx_commerce_fetch_pool.log;
    m->timer.cancelable = 1;

    (void) curl_multi_setopt(m->multi, CURLMOPT_SOCKETFUNCTION,
                             ngx_commerce_fetch_on_socket);
    (void) curl_multi_setopt(m->multi, CURLMOPT_SOCKETDATA, m);
    (void) curl_multi_setopt(m->multi, CURLMOPT_TIMERFUNCTION,
                             ngx_commerce_fetch_on_timer);
    (void) curl_multi_setopt(m->multi, CURLMOPT_TIMERDATA, m);

    /* connections that are kept for the next call */
    (void) curl_multi_setopt(m->multi, CURLMOPT_MAXCONNECTS,
                             (long) conf->connections);

    return NGX_OK;
}


void
ngx_commerce_fetch_exit(void)
{
    ngx_uint_t                  i;
    ngx_queue_t                *q;
    ngx_commerce_fetch_pool_t  *p;

    p = &ngx_commerce_fetch_pool;

    if (p->conf == NULL) {
        return;
    }

    ngx_commerce_fetch_resume();

    while (!ngx_queue_empty(&p->waiting) || !ngx_queue_empty(&p->active)
           || !ngx_queue_empty(&p->ended))
    {
        q = ngx_queue_empty(&p->waiting)
            ? ngx_queue_empty(&p->active) ? &p->ended : &p->active
            : &p->waiting;

        ngx_commerce_fetch_cancel(ngx_queue_data(ngx_queue_head(q),
                                                 ngx_commerce_fetch_t, link));
    }

    for (i = 0; i < 2; i++) {
        (void) curl_multi_cleanup(p->multis[i].multi);

        if (p->multis[i].timer.timer_set) {
            ngx_del_timer(&p->multis[i].timer);
        }
    }

    p->conf = NULL;

    curl_global_cleanup();
}


ngx_int_t
ngx_commerce_fetch_start(ngx_commerce_fetch_t *f)
{
    ngx_commerce_fetch_pool_t  *p;

    p = &ngx_commerce_fetch_pool;

    f->status = 0;
    f->easy = NULL;
    f->elapsed = 0;
    f->started = ngx_current_msec;
    ngx_str_null(&f->answer);

    if (p->conf == NULL) {
        return NGX_ERROR;
    }

    if (f->error == NULL && !f->pause
        && p->active_count + p->waiting_count
           >= p->conf->connections + p->conf->queue)
    {
        f->error = "busy";
    }

    if (f->error) {
        ngx_queue_insert_tail(&p->ended, &f->link);
        f->state = NGX_COMMERCE_FETCH_ENDED;

    } else {

        if (f->pause) {
            f->state = NGX_COMMERCE_FETCH_PAUSED;
            ngx_queue_insert_tail(&p->paused, &f->link);

            ngx_memzero(&f->timer, sizeof(ngx_event_t));
            f->timer.handler = ngx_commerce_fetch_paused;
            f->timer.data = f;
            f->timer.log = p->log;
            ngx_add_timer(&f->timer, f->after);

        } else {
            f->state = NGX_COMMERCE_FETCH_WAITING;
            ngx_queue_insert_tail(&p->waiting, &f->link);
            p->waiting_count++;
        }

        /* holds a worker that leaves, and looks after the queue's deadlines */

        if (!p->expiry.timer_set) {
            ngx_add_timer(&p->expiry, 100);
        }
    }

    ngx_post_event(&p->turn, &ngx_posted_events);

    return NGX_OK;
}


void
ngx_commerce_fetch_cancel(ngx_commerce_fetch_t *f)
{
    ngx_commerce_fetch_pool_t  *p;

    p = &ngx_commerce_fetch_pool;

    switch (f->state) {

    case NGX_COMMERCE_FETCH_IDLE:
        return;

    case NGX_COMMERCE_FETCH_PAUSED:
        ngx_del_timer(&f->timer);
        break;

    case NGX_COMMERCE_FETCH_WAITING:
        p->waiting_count--;
        break;

    case NGX_COMMERCE_FETCH_ACTIVE:
        (void) curl_multi_remove_handle(p->multis[f->guard].multi,
                                        f->easy->handle);
        p->active_count--;
        break;
    }

    f->state = NGX_COMMERCE_FETCH_IDLE;

    if (f->easy) {
        ngx_commerce_fetch_easy_destroy(f->easy);
        f->easy = NULL;
    }

    ngx_queue_remove(&f->link);

    if (p->waiting_count) {
        ngx_post_event(&p->turn, &ngx_posted_events);
    }
}


/* curl wants to hear of a socket, or no longer.  Never calls curl. */

static int
ngx_commerce_fetch_on_socket(CURL *easy, curl_socket_t fd, int what,
    void *data, void *socket)
{
    ngx_commerce_fetch_multi_t   *m = data;
    ngx_commerce_fetch_socket_t  *s = socket;

    if (what == CURL_POLL_REMOVE) {

        if (s) {
            ngx_commerce_watch_close(&s->watch);
            ngx_free(s);
            (void) curl_multi_assign(m->multi, fd, NULL);
        }

        return 0;
    }

    if (s == NULL) {
        s = ngx_calloc(sizeof(ngx_commerce_fetch_socket_t),
                       ngx_commerce_fetch_pool.log);
        if (s == NULL) {
            return -1;
        }

        s->multi = m;
        s->fd = fd;
        s->watch.readable = ngx_commerce_fetch_readable;
        s->watch.writable = ngx_commerce_fetch_writable;
        s->watch.closing = ngx_commerce_fetch_closing;
        s->watch.data = s;

        if (ngx_commerce_watch_open(&s->watch, fd,
                                    ngx_commerce_fetch_pool.log)
            != NGX_OK)
        {
            ngx_free(s);
            return -1;
        }

        (void) curl_multi_assign(m->multi, fd, s);
    }

    if (ngx_commerce_watch_set(&s->watch, what & CURL_POLL_IN,
                               what & CURL_POLL_OUT)
        != NGX_OK)
    {
        return -1;
    }

    return 0;
}


static int
ngx_commerce_fetch_on_timer(CURLM *multi, long ms, void *data)
{
    ngx_commerce_fetch_multi_t  *m = data;

    if (m->timer.timer_set) {
        ngx_del_timer(&m->timer);
    }

    /* 0 is "at once, but not from here" */

    if (ms >= 0) {
        ngx_add_timer(&m->timer, (ngx_msec_t) ms);
    }

    return 0;
}


static void
ngx_commerce_fetch_readable(ngx_commerce_watch_t *w)
{
    ngx_commerce_fetch_socket_t  *s = w->data;

    ngx_commerce_fetch_act(s->multi, s->fd, CURL_CSELECT_IN);
}


static void
ngx_commerce_fetch_writable(ngx_commerce_watch_t *w)
{
    ngx_commerce_fetch_socket_t  *s = w->data;

    ngx_commerce_fetch_act(s->multi, s->fd, CURL_CSELECT_OUT);
}


/* QUIT: what is under way goes on.  worker_shutdown_timeout: it does not. */

static void
ngx_commerce_fetch_closing(ngx_commerce_watch_t *w)
{
    if (w->connection->error) {
        w->connection->error = 0;
        ngx_commerce_fetch_abort("shutdown");
    }
}


static void
ngx_commerce_fetch_timer(ngx_event_t *ev)
{
    ngx_commerce_fetch_act(ev->data, CURL_SOCKET_TIMEOUT, 0);
}


/* The socket, and what is known of it, may be gone afterwards. */

static void
ngx_commerce_fetch_act(ngx_commerce_fetch_multi_t *m, curl_socket_t fd,
    int what)
{
    int  running;

    (void) curl_multi_socket_action(m->multi, fd, what, &running);

    ngx_commerce_fetch_collect(m);
}


static void
ngx_commerce_fetch_collect(ngx_commerce_fetch_multi_t *m)
{
    int                         left;
    CURLMsg                    *msg;
    CURLcode                    code;
    ngx_commerce_fetch_t       *f;
    ngx_commerce_fetch_easy_t  *e;

    for ( ;; ) {

        msg = curl_multi_info_read(m->multi, &left);

        if (msg == NULL) {
            return;
        }

        if (msg->msg != CURLMSG_DONE) {
            continue;
        }

        code = msg->data.result;

        e = NULL;
        (void) curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, &e);

        f = e->f;

        ngx_commerce_fetch_easy_outcome(e, code, ngx_commerce_fetch_pool.log);

        (void) curl_multi_remove_handle(m->multi, e->handle);
        ngx_commerce_fetch_pool.active_count--;

        ngx_commerce_fetch_end(f);
    }
}


/* From here on the handler is due. */

static void
ngx_commerce_fetch_end(ngx_commerce_fetch_t *f)
{
    ngx_commerce_fetch_pool_t  *p;

    p = &ngx_commerce_fetch_pool;

    f->state = NGX_COMMERCE_FETCH_ENDED;
    f->elapsed = ngx_current_msec - f->started;

    if (f->easy) {
        ngx_commerce_fetch_easy_destroy(f->easy);
        f->easy = NULL;
    }

    ngx_queue_remove(&f->link);
    ngx_queue_insert_tail(&p->ended, &f->link);

    ngx_post_event(&p->turn, &ngx_posted_events);
}


/* Outside of curl: handlers may start and cancel what they like. */

static void
ngx_commerce_fetch_turn(ngx_event_t *ev)
{
    ngx_queue_t                *q;
    ngx_commerce_fetch_t       *f;
    ngx_commerce_fetch_pool_t  *p;

    p = ev->data;

    while (!ngx_queue_empty(&p->ended)) {
        q = ngx_queue_head(&p->ended);
        f = ngx_queue_data(q, ngx_commerce_fetch_t, link);

        ngx_queue_remove(q);
        f->state = NGX_COMMERCE_FETCH_IDLE;

        f->handler(f);
    }

    while (!ngx_queue_empty(&p->waiting)
           && p->active_count < p->conf->connections)
    {
        q = ngx_queue_head(&p->waiting);
        ngx_queue_remove(q);
        p->waiting_count--;

        ngx_commerce_fetch_begin(ngx_queue_data(q, ngx_commerce_fetch_t,
                                                link));
    }
}


static void
ngx_commerce_fetch_begin(ngx_commerce_fetch_t *f)
{
    ngx_msec_t                  gone;
    ngx_commerce_fetch_pool_t  *p;

    p = &ngx_commerce_fetch_pool;

    ngx_queue_insert_tail(&p->active, &f->link);

    gone = ngx_current_msec - f->started;

    if (gone >= f->timeout) {
        f->error = "busy";
        ngx_commerce_fetch_end(f);
        return;
    }

    f->easy = ngx_commerce_fetch_easy_create(p->conf, f);

    if (f->easy == NULL) {
        f->error = "failed";
        ngx_commerce_fetch_end(f);
        return;
    }

    (void) curl_easy_setopt(f->easy->handle, CURLOPT_TIMEOUT_MS,
                            (long) (f->timeout - gone));

    if (curl_multi_add_handle(p->multis[f->guard].multi, f->easy->handle)
        != CURLM_OK)
    {
        f->error = "failed";
        ngx_commerce_fetch_end(f);
        return;
    }

    f->state = NGX_COMMERCE_FETCH_ACTIVE;
    p->active_count++;
}


static void
ngx_commerce_fetch_paused(ngx_event_t *ev)
{
    ngx_commerce_fetch_t  *f;

    f = ev->data;
    f->status = 200;

    ngx_commerce_fetch_end(f);
}


/* Nobody waits for time to pass. */

static void
ngx_commerce_fetch_resume(void)
{
    ngx_queue_t           *q;
    ngx_commerce_fetch_t  *f;

    while (!ngx_queue_empty(&ngx_commerce_fetch_pool.paused)) {
        q = ngx_queue_head(&ngx_commerce_fetch_pool.paused);
        f = ngx_queue_data(q, ngx_commerce_fetch_t, link);

        ngx_del_timer(&f->timer);
        ngx_commerce_fetch_paused(&f->timer);
    }
}


/*
 * A beat while anything is there: it holds the worker that leaves (curl's own
 * timers do not, since it keeps some for connections that nobody uses), and
 * ends what waited too long for its turn.
 */

static void
ngx_commerce_fetch_expire(ngx_event_t *ev)
{
    ngx_queue_t                *q, *next;
    ngx_commerce_fetch_t       *f;
    ngx_commerce_fetch_pool_t  *p;

    p = ev->data;

    for (q = ngx_queue_head(&p->waiting);
         q != ngx_queue_sentinel(&p->waiting);
         q = next)
    {
        next = ngx_queue_next(q);
        f = ngx_queue_data(q, ngx_commerce_fetch_t, link);

        if (ngx_current_msec - f->started >= f->timeout) {
            p->waiting_count--;
            f->error = "busy";
            ngx_commerce_fetch_end(f);
        }
    }

    if (ngx_exiting) {
        ngx_commerce_fetch_resume();
    }

    if (p->active_count || p->waiting_count || !ngx_queue_empty(&p->paused)
        || !ngx_queue_empty(&p->ended))
    {
        ngx_add_timer(ev, 100);
    }
}


static void
ngx_commerce_fetch_abort(const char *error)
{
    ngx_queue_t                *q;
    ngx_commerce_fetch_t       *f;
    ngx_commerce_fetch_pool_t  *p;

    p = &ngx_commerce_fetch_pool;

    while (!ngx_queue_empty(&p->waiting)) {
        q = ngx_queue_head(&p->waiting);
        f = ngx_queue_data(q, ngx_commerce_fetch_t, link);

        p->waiting_count--;
        f->error = error;
        ngx_commerce_fetch_end(f);
    }

    while (!ngx_queue_empty(&p->active)) {
        q = ngx_queue_head(&p->active);
        f = ngx_queue_data(q, ngx_commerce_fetch_t, link);

        (void) curl_multi_remove_handle(p->multis[f->guard].multi,
                                        f->easy->handle);
        p->active_count--;

        f->error = error;
        ngx_commerce_fetch_end(f);
    }
}
