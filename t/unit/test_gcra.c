/*
 * GCRA: the formula, the table, and the table under several processes.
 */

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ngx_commerce_gcra.h"


#define SECOND  1000000ULL
#define START   (1000 * SECOND)


static const uint8_t             seed[16] = {
    0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
};

/* 60 a minute, 60 at once */
static ngx_commerce_gcra_rate_t  minute = { SECOND, 60 };

static ngx_commerce_str_t        scope = { 3, (uint8_t *) "ip" };


static ngx_commerce_gcra_table_t *
make(size_t size)
{
    void                       *mem;
    ngx_commerce_gcra_table_t  *table;

    mem = mmap(NULL, size, PROT_READ|PROT_WRITE, MAP_SHARED|MAP_ANONYMOUS, -1,
               0);
    assert_ptr_not_equal(mem, MAP_FAILED);

    table = ngx_commerce_gcra_create(mem, size, seed);
    assert_non_null(table);
    assert_ptr_equal(ngx_commerce_gcra_attach(mem), table);

    return table;
}


static bool
take(ngx_commerce_gcra_table_t *table, const char *key, uint64_t now,
    ngx_commerce_gcra_verdict_t *verdict)
{
    ngx_commerce_str_t  s = { strlen(key), (uint8_t *) key };

    ngx_commerce_gcra_take(table, &minute, scope, s, now, 1, verdict);

    return verdict->allowed;
}


/* The reference vectors of SipHash-2-4: key 00…0f, messages 00…, first and sixteenth. */

static void
siphash(void **state)
{
    ngx_commerce_str_t  none = { 0, (uint8_t *) "" };
    ngx_commerce_str_t  head = { 6, (uint8_t *) seed };
    ngx_commerce_str_t  tail = { 9, (uint8_t *) seed + 6 };
    ngx_commerce_str_t  whole = { 15, (uint8_t *) seed };

    assert_int_equal(ngx_commerce_siphash(seed, none, none),
                     0x726fdb47dd0e0e31ULL);
    assert_int_equal(ngx_commerce_siphash(seed, whole, none),
                     0xa129ca6149be45e5ULL);
    assert_int_equal(ngx_commerce_siphash(seed, head, tail),
                     0xa129ca6149be45e5ULL);
}


static void
formula(void **state)
{
    unsigned                     i;
    uint64_t                     tat;
    ngx_commerce_gcra_verdict_t  v;

    tat = 0;

    for (i = 0; i < 60; i++) {
        tat = ngx_commerce_gcra(&minute, tat, START, 1, &v);
        assert_true(v.allowed);
        assert_int_equal(v.remaining, 59 - i);
        assert_int_equal(v.reset, (i + 1) * SECOND);
        assert_int_equal(v.retry_after, 0);
    }

    /* the 61st: a refusal costs nothing */

    for (i = 0; i < 5; i++) {
        assert_int_equal(ngx_commerce_gcra(&minute, tat, START, 1, &v), tat);
        assert_false(v.allowed);
        assert_int_equal(v.remaining, 0);
        assert_int_equal(v.retry_after, SECOND);
        assert_int_equal(v.reset, 60 * SECOND);
    }

    ngx_commerce_gcra(&minute, tat, START + SECOND - 1, 1, &v);
    assert_false(v.allowed);
    assert_int_equal(v.retry_after, 1);

    tat = ngx_commerce_gcra(&minute, tat, START + SECOND, 1, &v);
    assert_true(v.allowed);

    /* after a minute's rest all of it is back, and not more */

    ngx_commerce_gcra(&minute, tat, START + 1000 * SECOND, 0, &v);
    assert_true(v.allowed);
    assert_int_equal(v.remaining, 60);
    assert_int_equal(v.reset, 0);
}


static void
costs(void **state)
{
    uint64_t                     tat;
    ngx_commerce_gcra_verdict_t  v;

    tat = ngx_commerce_gcra(&minute, 0, START, 50, &v);
    assert_true(v.allowed);
    assert_int_equal(v.remaining, 10);

    assert_int_equal(ngx_commerce_gcra(&minute, tat, START, 11, &v), tat);
    assert_false(v.allowed);
    assert_int_equal(v.remaining, 10);
    assert_int_equal(v.retry_after, SECOND);

    tat = ngx_commerce_gcra(&minute, tat, START, 10, &v);
    assert_true(v.allowed);
    assert_int_equal(v.remaining, 0);

    /* more than the quota never passes */

    ngx_commerce_gcra(&minute, 0, START, 61, &v);
    assert_false(v.allowed);
}


/* The rate became stricter with a reload: what was taken under the old one is paid off. */

static void
stricter(void **state)
{
    uint64_t                     tat;
    ngx_commerce_gcra_rate_t     two = { SECOND, 2 };
    ngx_commerce_gcra_verdict_t  v;

    tat = ngx_commerce_gcra(&minute, 0, START, 30, &v);
    ngx_commerce_gcra(&two, tat, START, 1, &v);
    assert_false(v.allowed);
    assert_int_equal(v.remaining, 0);
    assert_int_equal(v.retry_after, 29 * SECOND);
}


static void
table(void **state)
{
    char                          key[32];
    unsigned                      i, passed;
    ngx_commerce_str_t            other = { 6, (uint8_t *) "login" };
    ngx_commerce_str_t            a = { 1, (uint8_t *) "a" };
    ngx_commerce_gcra_table_t    *t;
    ngx_commerce_gcra_verdict_t   v;

    t = make(1 << 20);
    assert_in_range(ngx_commerce_gcra_capacity(t), 65000, 65536);

    passed = 0;

    for (i = 0; i < 100; i++) {
        passed += take(t, "a", START, &v);
    }

    assert_int_equal(passed, 60);

    /* another policy, another client: quotas of their own */

    ngx_commerce_gcra_take(t, &minute, other, a, START, 1, &v);
    assert_true(v.allowed);
    assert_int_equal(v.remaining, 59);
    assert_true(take(t, "b", START, &v));
    assert_int_equal(v.remaining, 59);

    /* looking takes nothing, and makes no entry */

    ngx_commerce_gcra_take(t, &minute, other, a, START, 0, &v);
    assert_int_equal(v.remaining, 59);

    /* thousands of clients leave the first one where it was */

    for (i = 0; i < 10000; i++) {
        snprintf(key, sizeof(key), "client %u", i);
        assert_true(take(t, key, START, &v));
    }

    assert_false(take(t, "a", START, &v));
}


/* A table of 16 for 100,000 clients: bounded, and who came last is still known. */

static void
eviction(void **state)
{
    char                          key[32];
    unsigned                      i;
    ngx_commerce_gcra_table_t    *t;
    ngx_commerce_gcra_verdict_t   v;

    t = make(64 + 4 * 64);
    assert_int_equal(ngx_commerce_gcra_capacity(t), 16);

    for (i = 0; i < 100000; i++) {
        snprintf(key, sizeof(key), "%u", i);
        assert_true(take(t, key, START + i, &v));
        assert_int_equal(v.remaining, 59);
        assert_true(take(t, key, START + i, &v));
        assert_int_equal(v.remaining, 58);
    }

    assert_in_range(ngx_commerce_gcra_evicted(t), 99900, 100000);
}


/* Expired pairs go first: a client that is limited is not forgotten for those that are not. */

static void
expired_first(void **state)
{
    char                          key[32];
    unsigned                      i;
    ngx_commerce_gcra_table_t    *t;
    ngx_commerce_gcra_verdict_t   v;

    t = make(64 + 64);
    assert_int_equal(ngx_commerce_gcra_capacity(t), 4);

    for (i = 0; i < 60; i++) {
        take(t, "hot", START, &v);
    }

    /* each of them has its quota whole again when the next one comes */

    for (i = 0; i < 25; i++) {
        snprintf(key, sizeof(key), "%u", i);
        assert_true(take(t, key, START + i * 2 * SECOND, &v));
    }

    assert_int_equal(ngx_commerce_gcra_evicted(t), 0);
    assert_true(take(t, "hot", START + 50 * SECOND, &v));
    assert_int_equal(v.remaining, 49);
}


/* Four processes share one client's quota: exactly as many pass as with one. */

static void
processes(void **state)
{
    int                           status;
    pid_t                         pid[4];
    unsigned                      i, k;
    _Atomic unsigned             *passed;
    ngx_commerce_gcra_rate_t      rate = { SECOND, 20000 };
    ngx_commerce_str_t            key = { 5, (uint8_t *) "share" };
    ngx_commerce_gcra_table_t    *t;
    ngx_commerce_gcra_verdict_t   v;

    t = make(1 << 16);
    passed = mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_SHARED|MAP_ANONYMOUS,
                  -1, 0);
    assert_ptr_not_equal(passed, MAP_FAILED);

    /* the client is known: claiming it is another test's concern */
    ngx_commerce_gcra_take(t, &rate, scope, key, START, 1, &v);

    for (i = 0; i < 4; i++) {
        pid[i] = fork();
        assert_int_not_equal(pid[i], -1);

        if (pid[i] == 0) {
            for (k = 0; k < 10000; k++) {
                ngx_commerce_gcra_take(t, &rate, scope, key, START, 1, &v);
                atomic_fetch_add(passed, v.allowed);
            }

            _exit(0);
        }
    }

    for (i = 0; i < 4; i++) {
        assert_int_equal(waitpid(pid[i], &status, 0), pid[i]);
        assert_int_equal(status, 0);
    }

    assert_int_equal(*passed, 19999);
}


/* A process killed in the midst of takes leaves a table that works. */

static void
killed(void **state)
{
    char                          name[32];
    pid_t                         pid;
    unsigned                      i, k, n;
    _Atomic unsigned             *alive;
    ngx_commerce_gcra_table_t    *t;
    ngx_commerce_gcra_verdict_t   v;

    t = make(64 + 2 * 64);
    alive = mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_SHARED|MAP_ANONYMOUS,
                 -1, 0);
    assert_ptr_not_equal(alive, MAP_FAILED);

    for (i = 0; i < 50; i++) {
        *alive = 0;
        pid = fork();
        assert_int_not_equal(pid, -1);

        if (pid == 0) {
            for (k = 0; ; k++) {
                snprintf(name, sizeof(name), "%u", k % 1000);
                take(t, name, START + k, &v);
                *alive = k;
            }
        }

        while (*alive < 1000) {
            /* until it is at work */
        }

        kill(pid, SIGKILL);
        assert_int_equal(waitpid(pid, NULL, 0), pid);

        /* a fresh client gets its quota, whatever was left behind: an hour later all is expired */

        snprintf(name, sizeof(name), "after %u", i);
        n = 0;

        for (k = 0; k < 100; k++) {
            n += take(t, name, START + (i + 1) * 100000 * SECOND, &v);
        }

        assert_int_equal(n, 60);
    }
}


/* What was not used is given back; what others counted is lifted; looking changes nothing. */

static void
given_back(void **state)
{
    unsigned                     i;
    ngx_commerce_str_t           s = { 1, (uint8_t *) "g" };
    ngx_commerce_gcra_table_t   *t;
    ngx_commerce_gcra_verdict_t  v;

    t = make(65536);

    ngx_commerce_gcra_give(t, &minute, scope, s, 5);    /* of nobody */

    for (i = 0; i < 60; i++) {
        assert_true(take(t, "g", START, &v));
    }

    ngx_commerce_gcra_look(t, &minute, scope, s, START, 1, &v);
    assert_false(v.allowed);
    assert_int_equal(v.retry_after, SECOND);

    ngx_commerce_gcra_give(t, &minute, scope, s, 2);
    ngx_commerce_gcra_look(t, &minute, scope, s, START, 2, &v);
    assert_true(v.allowed);
    assert_true(take(t, "g", START, &v));
    assert_true(take(t, "g", START, &v));
    assert_false(take(t, "g", START, &v));

    /* more than was taken is the whole quota, and not more */

    ngx_commerce_gcra_give(t, &minute, scope, s, 1000000);
    ngx_commerce_gcra_look(t, &minute, scope, s, START, 60, &v);
    assert_true(v.allowed);
    ngx_commerce_gcra_look(t, &minute, scope, s, START, 61, &v);
    assert_false(v.allowed);

    ngx_commerce_gcra_raise(t, scope, s, START, START + 59 * SECOND);
    ngx_commerce_gcra_raise(t, scope, s, START, START + 9 * SECOND);
    assert_true(take(t, "g", START, &v));
    assert_false(take(t, "g", START, &v));
}


/* A million clients pass through a table for 4,000: the newest is always counted exactly. */

static void
million(void **state)
{
    char                         key[32];
    unsigned                     i;
    ngx_commerce_gcra_table_t   *t;
    ngx_commerce_gcra_verdict_t  v;

    t = make(65536);

    for (i = 0; i < 1000000; i++) {
        snprintf(key, sizeof(key), "client%u", i);
        assert_true(take(t, key, START + i, &v));
        assert_int_equal(v.remaining, 59);
        assert_true(take(t, key, START + i, &v));
        assert_int_equal(v.remaining, 58);
    }

    assert_int_equal(ngx_commerce_gcra_capacity(t), (65536 / 64 - 1) * 4);
    assert_true(ngx_commerce_gcra_evicted(t) > 900000);
}


static void
refuses(void **state)
{
    static _Alignas(64) uint8_t  mem[256];

    assert_null(ngx_commerce_gcra_create(mem, 127, seed));
    assert_null(ngx_commerce_gcra_create(mem + 8, 200, seed));
    assert_null(ngx_commerce_gcra_attach(mem));
    assert_non_null(ngx_commerce_gcra_create(mem, 128, seed));
    mem[8] ^= 0xff;                     /* another layout */
    assert_null(ngx_commerce_gcra_attach(mem));
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(siphash),
        cmocka_unit_test(formula),
        cmocka_unit_test(costs),
        cmocka_unit_test(stricter),
        cmocka_unit_test(table),
        cmocka_unit_test(eviction),
        cmocka_unit_test(expired_first),
        cmocka_unit_test(processes),
        cmocka_unit_test(killed),
        cmocka_unit_test(given_back),
        cmocka_unit_test(million),
        cmocka_unit_test(refuses)
    };

    return cmocka_run_group_tests_name("gcra", tests, NULL, NULL);
}
