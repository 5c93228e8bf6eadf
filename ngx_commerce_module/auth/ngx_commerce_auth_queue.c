/*
 * The queue of passwords, one for all workers of the node.
 *
 *   entered ── an operation takes the place ──► waits ── its turn ──► runs ──► left
 *
 * At most "limit" run at a time, whichever workers they are in, in the order in
 * which they came; the table is core/'s (ngx_commerce_turns.h).  Who would wait
 * for longer than "wait" is refused when it enters: by how many are before it
 * and how long one took lately.
 *
 * Nothing wakes a worker when another one's operation ends: who waits looks
 * every few milliseconds, which is little beside a hash.
 */

#include "ngx_commerce_auth_internal.h"
#include "ngx_commerce_turns.h"

#include <signal.h>


#define NGX_COMMERCE_QUEUE_WAIT   3000          /* ms */
#define NGX_COMMERCE_QUEUE_TICK   5
#define NGX_COMMERCE_QUEUE_RENEW  (NGX_COMMERCE_TURNS_LEASE / 10)
#define NGX_COMMERCE_QUEUE_RETRY  30            /* seconds */

/* ms of cost 12, until the first was measured */
#define NGX_COMMERCE_QUEUE_GUESS  275


typedef struct {
    ngx_commerce_auth_main_conf_t  *conf;       /* NULL: no keys, or no worker */
    ngx_slab_pool_t                *shpool;
    ngx_commerce_turns_t           *turns;
    ngx_queue_t                     waiting;
    ngx_uint_t                      held;       /* places of this worker */
    ngx_event_t                     tick;
} ngx_commerce_auth_queue_t;


static ngx_int_t ngx_commerce_auth_queue_zone(ngx_shm_zone_t *zone,
    void *data);
static ngx_uint_t ngx_commerce_auth_queue_limit(void);
static void ngx_commerce_auth_queue_lock(void);
static void ngx_commerce_auth_queue_unlock(void);
static bool ngx_commerce_auth_queue_alive(int64_t owner);
static void ngx_commerce_auth_queue_tick(ngx_event_t *ev);
static void ngx_commerce_auth_queue_run(void);
static void ngx_commerce_auth_queue_arm(void);
static void ngx_commerce_auth_queue_drop(uint64_t serial, ngx_msec_t took);


static ngx_commerce_auth_queue_t  ngx_commerce_auth_queue;


/* commerce_password_limit auto|number [wait=time] */

char *
ngx_commerce_auth_queue_directive(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_commerce_auth_main_conf_t *amcf = conf;

    ngx_int_t   n;
    ngx_str_t  *value, wait;

    if (amcf->password_limit != NGX_CONF_UNSET) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (ngx_strcmp(value[1].data, "auto") == 0) {
        amcf->password_limit = 0;

    } else {
        n = ngx_atoi(value[1].data, value[1].len);

        if (n < 1 || n > NGX_COMMERCE_TURNS / 2) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "\"%V\" is neither \"auto\" nor a number of "
                               "passwords, 1 to %d, that this node hashes at "
                               "a time", &value[1], NGX_COMMERCE_TURNS / 2);
            return NGX_CONF_ERROR;
        }

        amcf->password_limit = n;
    }

    if (cf->args->nelts == 2) {
        return NGX_CONF_OK;
    }

    if (ngx_strncmp(value[2].data, "wait=", 5) != 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid parameter \"%V\", it can only be "
                           "\"wait=time\"", &value[2]);
        return NGX_CONF_ERROR;
    }

    wait.data = value[2].data + 5;
    wait.len = value[2].len - 5;

    n = ngx_parse_time(&wait, 0);

    if (n == NGX_ERROR || n < 100 || n > 3600000) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"%V\" is no time of 100ms to 1h: who would wait "
                           "longer for a thread is refused", &value[2]);
        return NGX_CONF_ERROR;
    }

    amcf->password_wait = n;

    return NGX_CONF_OK;
}


/* The name tells the layout: another version's table is another zone. */

ngx_int_t
ngx_commerce_auth_queue_conf(ngx_conf_t *cf,
    ngx_commerce_auth_main_conf_t *amcf)
{
    ngx_str_t        name;
    ngx_shm_zone_t  *zone;

    /* half of the cores, one at least: the event loops and PostgreSQL have the others */

    if (amcf->password_limit == NGX_CONF_UNSET || amcf->password_limit == 0) {
        amcf->password_limit = ngx_max(ngx_ncpu / 2, 1);
        amcf->password_limit = ngx_min(amcf->password_limit,
                                       NGX_COMMERCE_TURNS / 2);
    }

    ngx_conf_init_msec_value(amcf->password_wait, NGX_COMMERCE_QUEUE_WAIT);

    ngx_str_set(&name, "commerce_passwords_1");

    zone = ngx_shared_memory_add(cf, &name, 8 * ngx_pagesize,
                                 &ngx_commerce_auth_module);
    if (zone == NULL) {
        return NGX_ERROR;
    }

    zone->init = ngx_commerce_auth_queue_zone;
    zone->data = amcf;
    amcf->password_zone = zone;

    return NGX_OK;
}


static ngx_int_t
ngx_commerce_auth_queue_zone(ngx_shm_zone_t *zone, void *data)
{
    ngx_slab_pool_t  *shpool;

    shpool = (ngx_slab_pool_t *) zone->shm.addr;

    if (data != NULL || zone->shm.exists) {
        return NGX_OK;
    }

    shpool->data = ngx_slab_calloc(shpool, sizeof(ngx_commerce_turns_t));

    return shpool->data ? NGX_OK : NGX_ERROR;
}


void
ngx_commerce_auth_queue_init(ngx_commerce_auth_main_conf_t *amcf,
    ngx_log_t *log)
{
    ngx_commerce_auth_queue_t *q = &ngx_commerce_auth_queue;

    ngx_memzero(q, sizeof(ngx_commerce_auth_queue_t));
    ngx_queue_init(&q->waiting);

    q->conf = amcf;
    q->shpool = (ngx_slab_pool_t *) amcf->password_zone->shm.addr;
    q->turns = q->shpool->data;

    q->tick.handler = ngx_commerce_auth_queue_tick;
    q->tick.data = q;
    q->tick.log = log;
    q->tick.cancelable = 1;

    ngx_commerce_auth_queue_lock();
    ngx_commerce_turns_forget(q->turns, ngx_pid);
    ngx_commerce_auth_queue_unlock();
}


void
ngx_commerce_auth_queue_exit(void)
{
    if (ngx_commerce_auth_queue.conf == NULL) {
        return;
    }

    ngx_commerce_auth_queue_lock();
    ngx_commerce_turns_forget(ngx_commerce_auth_queue.turns, ngx_pid);
    ngx_commerce_auth_queue_unlock();

    ngx_commerce_auth_queue.conf = NULL;
}


ngx_int_t
ngx_commerce_password_enter(ngx_commerce_password_place_t *place,
    ngx_log_t *log)
{
    uint64_t                    wait;
    ngx_uint_t                  limit, refused;
    ngx_commerce_turns_t       *turns;
    ngx_commerce_auth_queue_t  *q;

    q = &ngx_commerce_auth_queue;

    if (q->conf == NULL) {
        ngx_log_error(NGX_LOG_ERR, log, 0,
                      "passwords need a commerce_jwt_key");
        return NGX_ERROR;
    }

    if (place->serial) {
        return NGX_OK;
    }

    turns = q->turns;
    limit = ngx_commerce_auth_queue_limit();

    ngx_commerce_auth_queue_lock();

    ngx_commerce_turns_sweep(turns, ngx_current_msec, ngx_pid,
                             ngx_commerce_auth_queue_alive);

    wait = ngx_commerce_turns_wait(turns, limit, NGX_COMMERCE_QUEUE_GUESS
                                   << ngx_max(q->conf->password_cost - 12, 0));

    /* the first that has to wait is never too late: from its like the pace is learned */

    refused = !place->entered && wait > q->conf->password_wait
              && ngx_commerce_turns_taken(turns) > limit;

    if (!refused) {
        place->serial = ngx_commerce_turns_take(turns, ngx_current_msec,
                                                ngx_pid);
    }

    ngx_commerce_auth_queue_unlock();

    if (place->serial == 0) {
        place->retry = ngx_min(1 + wait / 1000, NGX_COMMERCE_QUEUE_RETRY);
        return NGX_BUSY;
    }

    place->entered = 1;
    q->held++;
    ngx_commerce_auth_queue_arm();

    return NGX_OK;
}


void
ngx_commerce_password_leave(ngx_commerce_password_place_t *place)
{
    if (place->serial) {
        ngx_commerce_auth_queue_drop(place->serial, 0);
        place->serial = 0;
    }
}


void
ngx_commerce_auth_queue_wait(ngx_commerce_auth_turn_t *turn,
    ngx_commerce_password_place_t *place)
{
    turn->serial = place->serial;
    place->serial = 0;

    ngx_commerce_auth_queue_lock();

    /* false: this worker stood still for longer than a lease.  Then it does not wait. */

    (void) ngx_commerce_turns_ready(ngx_commerce_auth_queue.turns,
                                    turn->serial);

    ngx_commerce_auth_queue_unlock();

    turn->waiting = 1;
    ngx_queue_insert_tail(&ngx_commerce_auth_queue.waiting, &turn->link);

    ngx_commerce_auth_queue_run();
}


void
ngx_commerce_auth_queue_leave(ngx_commerce_auth_turn_t *turn, ngx_msec_t took)
{
    if (turn->waiting) {
        ngx_queue_remove(&turn->link);
        turn->waiting = 0;
    }

    ngx_commerce_auth_queue_drop(turn->serial, took);
    ngx_commerce_auth_queue_run();
}


static void
ngx_commerce_auth_queue_drop(uint64_t serial, ngx_msec_t took)
{
    ngx_commerce_auth_queue_t *q = &ngx_commerce_auth_queue;

    if (q->conf == NULL) {
        return;
    }

    ngx_commerce_auth_queue_lock();

    ngx_commerce_turns_drop(q->turns, serial);

    if (took) {
        ngx_commerce_turns_took(q->turns, took);
    }

    ngx_commerce_auth_queue_unlock();

    q->held--;
}


static ngx_uint_t
ngx_commerce_auth_queue_limit(void)
{
    return ngx_commerce_auth_queue.conf->password_limit;
}


/* The master frees the lock of a worker that dies. */

static void
ngx_commerce_auth_queue_lock(void)
{
    ngx_shmtx_lock(&ngx_commerce_auth_queue.shpool->mutex);
}


static void
ngx_commerce_auth_queue_unlock(void)
{
    ngx_shmtx_unlock(&ngx_commerce_auth_queue.shpool->mutex);
}


static bool
ngx_commerce_auth_queue_alive(int64_t owner)
{
    return kill((ngx_pid_t) owner, 0) == 0 || ngx_errno != NGX_ESRCH;
}


static void
ngx_commerce_auth_queue_tick(ngx_event_t *ev)
{
    ngx_commerce_auth_queue_run();
}


/* Those whose turn has come begin; leases are renewed. */

static void
ngx_commerce_auth_queue_run(void)
{
    ngx_uint_t                  may;
    ngx_commerce_auth_turn_t   *turn;
    ngx_commerce_auth_queue_t  *q;

    q = &ngx_commerce_auth_queue;

    if (q->conf == NULL) {
        return;
    }

    ngx_commerce_auth_queue_lock();

    ngx_commerce_turns_sweep(q->turns, ngx_current_msec, ngx_pid,
                             ngx_commerce_auth_queue_alive);
    ngx_commerce_turns_renew(q->turns, ngx_current_msec, ngx_pid);

    ngx_commerce_auth_queue_unlock();

    while (!ngx_queue_empty(&q->waiting)) {

        turn = ngx_queue_data(ngx_queue_head(&q->waiting),
                              ngx_commerce_auth_turn_t, link);

        ngx_commerce_auth_queue_lock();

        may = ngx_commerce_turns_may(q->turns, turn->serial,
                                     ngx_commerce_auth_queue_limit());

        ngx_commerce_auth_queue_unlock();

        /* a pool without room for it: the next tick */

        if (!may || turn->handler(turn) != NGX_OK) {
            break;
        }

        ngx_queue_remove(&turn->link);
        turn->waiting = 0;
    }

    ngx_commerce_auth_queue_arm();
}


static void
ngx_commerce_auth_queue_arm(void)
{
    ngx_commerce_auth_queue_t *q = &ngx_commerce_auth_queue;

    /* deleted first: nginx leaves a timer where it is that moves by less than 300 ms */

    if (q->tick.timer_set) {
        ngx_del_timer(&q->tick);
    }

    if (q->held) {
        ngx_add_timer(&q->tick, ngx_queue_empty(&q->waiting)
                                ? NGX_COMMERCE_QUEUE_RENEW
                                : NGX_COMMERCE_QUEUE_TICK);
    }
}
