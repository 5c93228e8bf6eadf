/*
 * bcrypt in threads.
 *
 * An operation is a malloc of its own, never of a request's pool.  States:
 *
 *     waits ── its turn ──► posted ── a thread runs it ──► done (event loop): handler, unless detached ──► wiped, freed
 *
 * Turns are those of ngx_commerce_auth_queue.c, one queue for all workers: a
 * quarter of a second of CPU each, and the event loops need the same cores.
 *
 * What is detached before a thread begins costs nothing: a flood of clients
 * that hang up leaves no work behind.
 */

#include "ngx_commerce_auth_internal.h"

#include <crypt.h>
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <string.h>
#include <time.h>


#define NGX_COMMERCE_PASSWORD_HASH_LEN  60
#define NGX_COMMERCE_PASSWORD_NICE      5           /* behind the event loops */
#define NGX_COMMERCE_PASSWORD_SLICE     100000000   /* nanoseconds, the most that Linux takes */
#define NGX_COMMERCE_PASSWORD_HOLD      10000


/* sched_setattr(2), first version: the header of Linux's own is not to be had beside <sched.h> */

typedef struct {
    uint32_t                   size;
    uint32_t                   policy;
    uint64_t                   flags;
    int32_t                    nice;
    uint32_t                   priority;
    uint64_t                   runtime;
    uint64_t                   deadline;
    uint64_t                   period;
} ngx_commerce_password_sched_t;


struct ngx_commerce_password_op_s {
    ngx_commerce_auth_turn_t   turn;
    ngx_thread_task_t          task;
    ngx_event_t                hold;
    ngx_connection_t           dummy;       /* of "hold": the worker's exit names its owner by fd */
    ngx_commerce_password_pt   handler;     /* NULL: detached */
    ngx_atomic_t               skip;        /* detached: a thread that has not begun need not */
    void                      *data;
    ngx_uint_t                 cost;
    ngx_msec_t                 took;        /* 0: it was skipped */
    unsigned                   verify:1;
    unsigned                   ok:1;
    size_t                     made_len;
    char                       password[NGX_COMMERCE_PASSWORD_MAX + 1];
    char                       stored[NGX_COMMERCE_PASSWORD_HASH_LEN + 1];
    char                       made[NGX_COMMERCE_PASSWORD_HASH_LEN + 1];
    struct crypt_data          crypt;
};


static ngx_int_t ngx_commerce_password_start(
    ngx_commerce_password_place_t *place, ngx_str_t *password,
    ngx_str_t *hash, ngx_commerce_password_pt handler, void *data,
    ngx_commerce_password_op_t **op, ngx_log_t *log);
static ngx_int_t ngx_commerce_password_turn(ngx_commerce_auth_turn_t *turn);
static void ngx_commerce_password_hold(ngx_event_t *ev);
static void ngx_commerce_password_done(ngx_event_t *ev);
static void ngx_commerce_password_free(ngx_commerce_password_op_t *op);
static void ngx_commerce_password_thread(void *data, ngx_log_t *log);
static ngx_msec_t ngx_commerce_password_clock(void);
static void ngx_commerce_password_yield(void);
static ngx_uint_t ngx_commerce_password_cost(const char *hash);
static void ngx_commerce_password_check(ngx_commerce_password_op_t *op);
static void ngx_commerce_password_burn(ngx_commerce_password_op_t *op,
    ngx_uint_t cost);
static void ngx_commerce_password_make(ngx_commerce_password_op_t *op);


ngx_int_t
ngx_commerce_password_verify(ngx_commerce_password_place_t *place,
    ngx_str_t *password, ngx_str_t *hash, ngx_commerce_password_pt handler,
    void *data, ngx_commerce_password_op_t **op, ngx_log_t *log)
{
    return ngx_commerce_password_start(place, password, hash, handler, data,
                                       op, log);
}


ngx_int_t
ngx_commerce_password_hash(ngx_commerce_password_place_t *place,
    ngx_str_t *password, ngx_commerce_password_pt handler, void *data,
    ngx_commerce_password_op_t **op, ngx_log_t *log)
{
    return ngx_commerce_password_start(place, password, NULL, handler, data,
                                       op, log);
}


void
ngx_commerce_password_detach(ngx_commerce_password_op_t *op)
{
    op->handler = NULL;
    op->skip = 1;

    if (op->turn.waiting) {
        ngx_del_timer(&op->hold);
        ngx_commerce_auth_queue_leave(&op->turn, 0);
        ngx_commerce_password_free(op);
    }
}


static ngx_int_t
ngx_commerce_password_start(ngx_commerce_password_place_t *place,
    ngx_str_t *password, ngx_str_t *hash, ngx_commerce_password_pt handler,
    void *data, ngx_commerce_password_op_t **opp, ngx_log_t *log)
{
    ngx_int_t                       rc;
    ngx_commerce_password_op_t     *op;
    ngx_commerce_auth_main_conf_t  *amcf;

    if (password->len > NGX_COMMERCE_PASSWORD_MAX
        || ngx_strlchr(password->data, password->data + password->len, '\0')
           != NULL)
    {
        return NGX_DECLINED;
    }

    rc = ngx_commerce_password_enter(place, log);

    if (rc != NGX_OK) {
        return rc;
    }

    op = ngx_calloc(sizeof(ngx_commerce_password_op_t), log);
    if (op == NULL) {
        return NGX_ERROR;
    }

    amcf = ngx_http_cycle_get_module_main_conf(ngx_cycle,
                                               ngx_commerce_auth_module);

    op->handler = handler;
    op->data = data;
    op->cost = amcf->password_cost;
    op->verify = (hash != NULL);

    if (password->len != 0) {
        ngx_memcpy(op->password, password->data, password->len);
    }

    if (hash != NULL && hash->len == NGX_COMMERCE_PASSWORD_HASH_LEN) {
        ngx_memcpy(op->stored, hash->data, hash->len);
    }

    op->task.ctx = op;
    op->task.handler = ngx_commerce_password_thread;
    op->task.event.data = op;
    op->task.event.handler = ngx_commerce_password_done;
    op->task.event.log = ngx_cycle->log;

    /* a worker that was asked to quit leaves when no timer is left: not before the answer */

    op->dummy.fd = (ngx_socket_t) -1;
    op->hold.data = &op->dummy;
    op->hold.handler = ngx_commerce_password_hold;
    op->hold.log = ngx_cycle->log;
    ngx_add_timer(&op->hold, NGX_COMMERCE_PASSWORD_HOLD);

    *opp = op;

    op->turn.handler = ngx_commerce_password_turn;
    ngx_commerce_auth_queue_wait(&op->turn, place);

    return NGX_OK;
}


static ngx_int_t
ngx_commerce_password_turn(ngx_commerce_auth_turn_t *turn)
{
    ngx_commerce_password_op_t     *op;
    ngx_commerce_auth_main_conf_t  *amcf;

    op = ngx_queue_data(turn, ngx_commerce_password_op_t, turn);

    amcf = ngx_http_cycle_get_module_main_conf(ngx_cycle,
                                               ngx_commerce_auth_module);

    return ngx_thread_task_post(amcf->pool, &op->task);
}


static void
ngx_commerce_password_hold(ngx_event_t *ev)
{
    ngx_add_timer(ev, NGX_COMMERCE_PASSWORD_HOLD);
}


static void
ngx_commerce_password_done(ngx_event_t *ev)
{
    ngx_str_t                    hash;
    ngx_commerce_password_op_t  *op = ev->data;

    if (op->hold.timer_set) {
        ngx_del_timer(&op->hold);
    }

    ngx_commerce_auth_queue_leave(&op->turn, op->took);

    hash.data = (u_char *) op->made;
    hash.len = op->made_len;

    if (op->handler != NULL) {
        op->handler(op->data, op->ok, &hash);
    }

    ngx_commerce_password_free(op);
}


static void
ngx_commerce_password_free(ngx_commerce_password_op_t *op)
{
    OPENSSL_cleanse(op, sizeof(ngx_commerce_password_op_t));
    ngx_free(op);
}


/* From here on in a thread: no nginx time, pools or logs. */

static void
ngx_commerce_password_thread(void *data, ngx_log_t *log)
{
    static __thread ngx_uint_t   niced;

    ngx_commerce_password_op_t  *op = data;

    ngx_msec_t  began;

    if (!niced) {
        ngx_commerce_password_yield();
        niced = 1;
    }

    /* TERM waits for the queue to drain, and the master kills after four seconds */

    if (ngx_terminate || op->skip) {
        return;
    }

    began = ngx_commerce_password_clock();

    if (op->verify) {
        ngx_commerce_password_check(op);

    } else {
        ngx_commerce_password_make(op);
        op->ok = (op->made_len != 0);
    }

    op->took = ngx_commerce_password_clock() - began + 1;

    OPENSSL_cleanse(op->password, sizeof(op->password));
    OPENSSL_cleanse(&op->crypt, sizeof(op->crypt));
}


static ngx_msec_t
ngx_commerce_password_clock(void)
{
    struct timespec  ts;

    (void) clock_gettime(CLOCK_MONOTONIC, &ts);

    return (ngx_msec_t) ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}


/*
 * Event loops and PostgreSQL come first; on Linux all of this is the thread's
 * own.  A lower weight alone is not enough: since 6.6 who wakes up may have to
 * wait for the end of the slice of who runs, some 3 ms, since 6.12 not if that
 * one's slice is longer.  Older ones ignore it.  SCHED_IDLE would yield always,
 * and let nobody log in while the cores are busy.
 */

static void
ngx_commerce_password_yield(void)
{
    int                            nice;
    pid_t                          tid;
    ngx_commerce_password_sched_t  attr;

    tid = syscall(SYS_gettid);

    nice = getpriority(PRIO_PROCESS, tid) + NGX_COMMERCE_PASSWORD_NICE;

    ngx_memzero(&attr, sizeof(ngx_commerce_password_sched_t));
    attr.size = sizeof(ngx_commerce_password_sched_t);
    attr.policy = SCHED_BATCH;
    attr.nice = ngx_min(nice, 19);
    attr.runtime = NGX_COMMERCE_PASSWORD_SLICE;

    if (syscall(SYS_sched_setattr, tid, &attr, 0) == -1) {
        (void) setpriority(PRIO_PROCESS, tid, attr.nice);
    }
}


/*
 * A wrong password costs 2^cost rounds, whether there is a hash or not and
 * whatever the hash's own cost is: 2^c + 2^c + 2^(c+1) + … + 2^(cost-1).
 */

static void
ngx_commerce_password_check(ngx_commerce_password_op_t *op)
{
    char        *out;
    ngx_uint_t   cost;

    cost = ngx_commerce_password_cost(op->stored);

    if (cost == 0) {
        ngx_commerce_password_burn(op, op->cost);
        return;
    }

    out = crypt_rn(op->password, op->stored, &op->crypt, sizeof(op->crypt));

    op->ok = (out != NULL
              && strlen(out) == NGX_COMMERCE_PASSWORD_HASH_LEN
              && CRYPTO_memcmp(out, op->stored, NGX_COMMERCE_PASSWORD_HASH_LEN)
                 == 0);

    if (cost >= op->cost) {
        return;
    }

    if (op->ok) {
        ngx_commerce_password_make(op);
        return;
    }

    for ( /* void */ ; cost < op->cost; cost++) {
        ngx_commerce_password_burn(op, cost);
    }
}


/* The cost of a "$2b$" hash, or 0: no such hash, or one that would hold a thread for minutes. */

static ngx_uint_t
ngx_commerce_password_cost(const char *hash)
{
    ngx_uint_t  cost;

    if (memcmp(hash, "$2b$", 4) != 0 || hash[6] != '$'
        || hash[4] < '0' || hash[4] > '9' || hash[5] < '0' || hash[5] > '9')
    {
        return 0;
    }

    cost = (hash[4] - '0') * 10 + (hash[5] - '0');

    return (cost >= 4 && cost <= 16) ? cost : 0;
}


static void
ngx_commerce_password_burn(ngx_commerce_password_op_t *op, ngx_uint_t cost)
{
    char  setting[] = "$2b$00$ngx.commerce.no.such.u";

    setting[4] = '0' + cost / 10;
    setting[5] = '0' + cost % 10;

    (void) crypt_rn(op->password, setting, &op->crypt, sizeof(op->crypt));
}


static void
ngx_commerce_password_make(ngx_commerce_password_op_t *op)
{
    char   setting[CRYPT_GENSALT_OUTPUT_SIZE], *out;
    u_char salt[16];

    if (RAND_bytes(salt, sizeof(salt)) != 1
        || crypt_gensalt_rn("$2b$", op->cost, (char *) salt, sizeof(salt),
                            setting, sizeof(setting)) == NULL)
    {
        return;
    }

    out = crypt_rn(op->password, setting, &op->crypt, sizeof(op->crypt));

    if (out == NULL || strlen(out) != NGX_COMMERCE_PASSWORD_HASH_LEN) {
        return;
    }

    memcpy(op->made, out, NGX_COMMERCE_PASSWORD_HASH_LEN);
    op->made_len = NGX_COMMERCE_PASSWORD_HASH_LEN;
}
