/*
 * Turns: their order over processes, what is foreseen, and what remains of who dies.
 */

#include "unit.h"

#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ngx_commerce_turns.h"


static int64_t  dead;


static bool
alive(int64_t owner)
{
    return owner != dead;
}


static bool
process(int64_t owner)
{
    return kill((pid_t) owner, 0) == 0 || errno != ESRCH;
}


static void
in_order(void **state)
{
    uint64_t              a, b, c;
    ngx_commerce_turns_t  t = { 0 };

    a = ngx_commerce_turns_take(&t, 0, 1);
    b = ngx_commerce_turns_take(&t, 0, 2);
    c = ngx_commerce_turns_take(&t, 0, 1);
    assert_int_equal(ngx_commerce_turns_taken(&t), 3);

    /* who came first is not who is ready first */
    assert_true(ngx_commerce_turns_ready(&t, b));
    assert_true(ngx_commerce_turns_ready(&t, c));
    assert_true(ngx_commerce_turns_ready(&t, a));

    assert_true(ngx_commerce_turns_may(&t, b, 1));
    assert_false(ngx_commerce_turns_may(&t, c, 1));
    assert_false(ngx_commerce_turns_may(&t, a, 1));
    assert_true(ngx_commerce_turns_may(&t, c, 2));
    assert_false(ngx_commerce_turns_may(&t, a, 2));

    ngx_commerce_turns_drop(&t, c);
    assert_false(ngx_commerce_turns_may(&t, a, 1));
    ngx_commerce_turns_drop(&t, b);
    assert_true(ngx_commerce_turns_may(&t, a, 1));

    /* twice, or none: nothing happens */
    ngx_commerce_turns_drop(&t, b);
    ngx_commerce_turns_drop(&t, 0);
    assert_int_equal(ngx_commerce_turns_taken(&t), 1);
}


/* A place that is only reserved holds nobody up. */

static void
reserved(void **state)
{
    uint64_t              a, b;
    ngx_commerce_turns_t  t = { 0 };

    a = ngx_commerce_turns_take(&t, 0, 1);
    b = ngx_commerce_turns_take(&t, 0, 2);
    assert_true(a != b);
    assert_true(ngx_commerce_turns_ready(&t, b));
    assert_true(ngx_commerce_turns_may(&t, b, 1));
    assert_true(ngx_commerce_turns_ready(&t, a));
    assert_false(ngx_commerce_turns_may(&t, a, 1));
}


static void
foreseen(void **state)
{
    unsigned              i;
    ngx_commerce_turns_t  t = { 0 };

    assert_int_equal(ngx_commerce_turns_wait(&t, 1, 300), 0);

    for (i = 0; i < 4; i++) {
        assert_true(ngx_commerce_turns_take(&t, 0, 1));
    }

    assert_int_equal(ngx_commerce_turns_wait(&t, 1, 300), 1200);
    assert_int_equal(ngx_commerce_turns_wait(&t, 4, 300), 75);
    assert_int_equal(ngx_commerce_turns_wait(&t, 5, 300), 0);

    /* the pace is learned, the last ones count most */
    ngx_commerce_turns_took(&t, 100);
    assert_int_equal(ngx_commerce_turns_wait(&t, 1, 300), 400);
    ngx_commerce_turns_took(&t, 500);
    assert_int_equal(ngx_commerce_turns_wait(&t, 1, 300), 800);

    for (i = 0; i < 20; i++) {
        ngx_commerce_turns_took(&t, 0);
    }

    /* and it is never nothing */
    assert_in_range(ngx_commerce_turns_wait(&t, 1, 300), 4, 16);
}


static void
full(void **state)
{
    unsigned              i;
    uint64_t              last = 0;
    ngx_commerce_turns_t  t = { 0 };

    for (i = 0; i < NGX_COMMERCE_TURNS; i++) {
        last = ngx_commerce_turns_take(&t, 0, 1);
        assert_true(last);
    }

    assert_int_equal(ngx_commerce_turns_take(&t, 0, 1), 0);
    ngx_commerce_turns_drop(&t, last);
    assert_true(ngx_commerce_turns_take(&t, 0, 1) > last);
}


static void
leases(void **state)
{
    uint64_t              a, b, c;
    ngx_commerce_turns_t  t = { 0 };

    a = ngx_commerce_turns_take(&t, 1000, 1);
    b = ngx_commerce_turns_take(&t, 1000, 2);
    c = ngx_commerce_turns_take(&t, 1000, 3);
    ngx_commerce_turns_ready(&t, a);
    ngx_commerce_turns_ready(&t, b);
    ngx_commerce_turns_ready(&t, c);

    /* 1 renews, 2 stands still, 3 dies */
    ngx_commerce_turns_renew(&t, 5000, 1);
    dead = 3;
    ngx_commerce_turns_sweep(&t, 6000, 1, alive);
    dead = 0;
    assert_int_equal(ngx_commerce_turns_taken(&t), 2);
    ngx_commerce_turns_sweep(&t, 1000 + NGX_COMMERCE_TURNS_LEASE - 1, 9, alive);
    assert_int_equal(ngx_commerce_turns_taken(&t), 2);
    ngx_commerce_turns_sweep(&t, 1000 + NGX_COMMERCE_TURNS_LEASE, 9, alive);
    assert_int_equal(ngx_commerce_turns_taken(&t), 1);
    assert_true(ngx_commerce_turns_may(&t, a, 1));

    /* whose place is gone is not held up for ever */
    assert_true(ngx_commerce_turns_may(&t, b, 1));
    assert_false(ngx_commerce_turns_ready(&t, c));

    /* its own a process does not sweep, however late it is */
    ngx_commerce_turns_sweep(&t, 1000000, 1, alive);
    assert_int_equal(ngx_commerce_turns_taken(&t), 1);

    /* but a new one with the id of a dead one begins with none */
    ngx_commerce_turns_forget(&t, 1);
    assert_int_equal(ngx_commerce_turns_taken(&t), 0);
}


/* Processes are killed with places in hand, at any instruction: who comes after them is held up by none. */

static void
killed(void **state)
{
    int                    round, status;
    pid_t                  pid;
    uint64_t               serial;
    volatile uint64_t     *done;
    ngx_commerce_turns_t  *t;

    t = mmap(NULL, 8192, PROT_READ|PROT_WRITE, MAP_SHARED|MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(t, MAP_FAILED);
    done = (uint64_t *) ((char *) t + 4096);

    for (round = 0; round < 50; round++) {

        *done = 0;
        pid = fork();
        assert_true(pid >= 0);

        if (pid == 0) {
            for ( ;; ) {
                serial = ngx_commerce_turns_take(t, 0, getpid());
                (void) ngx_commerce_turns_ready(t, serial);
                (void) ngx_commerce_turns_may(t, serial, 1);
                if (*done % 3) {
                    ngx_commerce_turns_drop(t, serial);
                }
                if (ngx_commerce_turns_taken(t) > 40) {
                    ngx_commerce_turns_sweep(t, NGX_COMMERCE_TURNS_LEASE, 0,
                                             process);
                }
                (*done)++;
            }
        }

        while (*done < (uint64_t) round + 1) { /* void */ }

        assert_int_equal(kill(pid, SIGKILL), 0);
        assert_int_equal(waitpid(pid, &status, 0), pid);

        ngx_commerce_turns_sweep(t, 0, getpid(), process);
        assert_int_equal(ngx_commerce_turns_taken(t), 0);

        serial = ngx_commerce_turns_take(t, 0, getpid());
        assert_true(ngx_commerce_turns_ready(t, serial));
        assert_true(ngx_commerce_turns_may(t, serial, 1));
        ngx_commerce_turns_drop(t, serial);
    }
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(in_order),
        cmocka_unit_test(reserved),
        cmocka_unit_test(foreseen),
        cmocka_unit_test(full),
        cmocka_unit_test(leases),
        cmocka_unit_test(killed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
