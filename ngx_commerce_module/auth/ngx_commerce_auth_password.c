/*
 * bcrypt in threads.
 *
 * An operation is a malloc of its own, never of a request's pool.  States:
 *
 *     posted ── a thread runs it ──► done (event loop): handler, unless detached ──► wiped, freed
 *
 * A quarter of a second of CPU each: at most NGX_COMMERCE_PASSWORD_QUEUE wait
 * for a thread, whatever max_queue the operator gave the pool.
 */

#include "ngx_commerce_auth_internal.h"

#include <crypt.h>
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <string.h>


#define NGX_COMMERCE_PASSWORD_QUEUE     16
#define NGX_COMMERCE_PASSWORD_HASH_LEN  60
#define NGX_COMMERCE_PASSWORD_NICE      5
#define NGX_COMMERCE_PASSWORD_HOLD      10000


struct ngx_commerce_password_op_s {
    ngx_thread_task_t          task;
    ngx_event_t                hold;
    ngx_connection_t           dummy;       /* of "hold": the worker's exit names its owner by fd */
    ngx_commerce_password_pt   handler;     /* NULL: detached */
    void                      *data;
    ngx_uint_t                 cost;
    unsigned                   verify:1;
    unsigned                   ok:1;
    size_t                     made_len;
    char                       password[NGX_COMMERCE_PASSWORD_MAX + 1];
    char                       stored[NGX_COMMERCE_PASSWORD_HASH_LEN + 1];
    char                       made[NGX_COMMERCE_PASSWORD_HASH_LEN + 1];
    struct crypt_data          crypt;
};


static ngx_int_t ngx_commerce_password_start(ngx_str_t *password,
    ngx_str_t *hash, ngx_commerce_password_pt handler, void *data,
    ngx_commerce_password_op_t **op, ngx_log_t *log);
static void ngx_commerce_password_hold(ngx_event_t *ev);
static void ngx_commerce_password_done(ngx_event_t *ev);
static void ngx_commerce_password_free(ngx_commerce_password_op_t *op);
static void ngx_commerce_password_thread(void *data, ngx_log_t *log);
static ngx_uint_t ngx_commerce_password_cost(const char *hash);
static void ngx_commerce_password_check(ngx_commerce_password_op_t *op);
static void ngx_commerce_password_burn(ngx_commerce_password_op_t *op,
    ngx_uint_t cost);
static void ngx_commerce_password_make(ngx_commerce_password_op_t *op);


/* posted: by the event loop; started: by the threads.  The difference waits. */
static ngx_uint_t    ngx_commerce_password_posted;
static ngx_atomic_t  ngx_commerce_password_started;


ngx_int_t
ngx_commerce_password_verify(ngx_str_t *password, ngx_str_t *hash,
    ngx_commerce_password_pt handler, void *data,
    ngx_commerce_password_op_t **op, ngx_log_t *log)
{
    return ngx_commerce_password_start(password, hash, handler, data, op, log);
}


ngx_int_t
ngx_commerce_password_hash(ngx_str_t *password,
    ngx_commerce_password_pt handler, void *data,
    ngx_commerce_password_op_t **op, ngx_log_t *log)
{
    return ngx_commerce_password_start(password, NULL, handler, data, op, log);
}


void
ngx_commerce_password_detach(ngx_commerce_password_op_t *op)
{
    op->handler = NULL;
}


static ngx_int_t
ngx_commerce_password_start(ngx_str_t *password, ngx_str_t *hash,
    ngx_commerce_password_pt handler, void *data,
    ngx_commerce_password_op_t **opp, ngx_log_t *log)
{
    ngx_commerce_password_op_t     *op;
    ngx_commerce_auth_main_conf_t  *amcf;

    if (password->len > NGX_COMMERCE_PASSWORD_MAX
        || ngx_strlchr(password->data, password->data + password->len, '\0')
           != NULL)
    {
        return NGX_DECLINED;
    }

    amcf = ngx_http_cycle_get_module_main_conf(ngx_cycle,
                                               ngx_commerce_auth_module);

    if (amcf == NULL || amcf->pool == NULL) {
        ngx_log_error(NGX_LOG_ERR, log, 0,
                      "passwords need a commerce_jwt_key");
        return NGX_ERROR;
    }

    if (ngx_commerce_password_posted - ngx_commerce_password_started
        >= NGX_COMMERCE_PASSWORD_QUEUE)
    {
        return NGX_BUSY;
    }

    op = ngx_calloc(sizeof(ngx_commerce_password_op_t), log);
    if (op == NULL) {
        return NGX_ERROR;
    }

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

    if (ngx_thread_task_post(amcf->pool, &op->task) != NGX_OK) {
        ngx_commerce_password_free(op);
        return NGX_BUSY;
    }

    ngx_commerce_password_posted++;

    /* a worker that was asked to quit leaves when no timer is left: not before the answer */

    op->dummy.fd = (ngx_socket_t) -1;
    op->hold.data = &op->dummy;
    op->hold.handler = ngx_commerce_password_hold;
    op->hold.log = ngx_cycle->log;
    ngx_add_timer(&op->hold, NGX_COMMERCE_PASSWORD_HOLD);

    *opp = op;

    return NGX_OK;
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

    (void) ngx_atomic_fetch_add(&ngx_commerce_password_started, 1);

    /* on Linux the priority is the thread's: event loops come first */

    if (!niced) {
        (void) setpriority(PRIO_PROCESS, syscall(SYS_gettid),
                           NGX_COMMERCE_PASSWORD_NICE);
        niced = 1;
    }

    /* TERM waits for the queue to drain, and the master kills after four seconds */

    if (ngx_terminate) {
        return;
    }

    if (op->verify) {
        ngx_commerce_password_check(op);

    } else {
        ngx_commerce_password_make(op);
        op->ok = (op->made_len != 0);
    }

    OPENSSL_cleanse(op->password, sizeof(op->password));
    OPENSSL_cleanse(&op->crypt, sizeof(op->crypt));
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
