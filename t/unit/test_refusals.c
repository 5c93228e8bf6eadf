/*
 * ngx_commerce_refusals: told about once, bounded, and good whenever the
 * writer is killed.
 */

#define _GNU_SOURCE

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "ngx_commerce_refusals.h"


#define SIZE  (64 * 1024)


typedef struct {
    ngx_commerce_refusals_t   refusals;
    void                     *memory;
} fixture_t;


static int
setup(void **state)
{
    fixture_t  *f;

    f = calloc(1, sizeof(*f));
    f->memory = mmap(NULL, SIZE, PROT_READ|PROT_WRITE, MAP_SHARED|MAP_ANONYMOUS, -1, 0);
    assert_int_equal(ngx_commerce_refusals_create(&f->refusals, f->memory, SIZE), NGX_COMMERCE_OK);
    *state = f;

    return 0;
}


static int
teardown(void **state)
{
    fixture_t  *f = *state;

    munmap(f->memory, SIZE);
    free(f);

    return 0;
}


static ngx_commerce_refusals_rc_t
refuse(fixture_t *f, uint64_t name, uint64_t inode)
{
    ngx_commerce_refusal_t  refusal = { { inode, 2, 3, 4 }, false };

    return ngx_commerce_refusals_add(&f->refusals, name, &refusal);
}


static uint64_t
refused(fixture_t *f)
{
    uint64_t  at, n, name;

    n = 0;

    for (at = 0; (at = ngx_commerce_refusals_next(&f->refusals, at, &name)) != 0; n++) {
        assert_int_not_equal(name, 0);
    }

    return n;
}


static void
test_a_file_is_told_about_once(void **state)
{
    fixture_t               *f = *state;
    ngx_commerce_refusals_t  other;
    ngx_commerce_refusal_t   refusal;

    assert_false(ngx_commerce_refusals_find(&f->refusals, 9, &refusal));
    assert_int_equal(ngx_commerce_refusals_count(&f->refusals, 9), 0);

    assert_int_equal(refuse(f, 9, 1), NGX_COMMERCE_REFUSALS_NEW);
    assert_int_equal(refuse(f, 9, 1), NGX_COMMERCE_REFUSALS_BEFORE);
    assert_int_equal(refuse(f, 9, 2), NGX_COMMERCE_REFUSALS_NEW);
    assert_int_equal(refused(f), 1);

    assert_true(ngx_commerce_refusals_find(&f->refusals, 9, &refusal));
    assert_int_equal(refusal.file.inode, 2);
    assert_false(refusal.room);

    /* in another process, too */

    assert_int_equal(ngx_commerce_refusals_open(&other, f->memory, SIZE), NGX_COMMERCE_OK);
    assert_int_equal(ngx_commerce_refusals_count(&other, 9), 2);
    assert_int_equal(ngx_commerce_refusals_open(&other, f->memory, SIZE / 2), NGX_COMMERCE_INVALID);

    /* gone, and back: the same file is told about again, and the count goes on */

    ngx_commerce_refusals_forget(&f->refusals, 9);
    ngx_commerce_refusals_forget(&f->refusals, 10);
    assert_int_equal(refused(f), 0);
    assert_false(ngx_commerce_refusals_find(&f->refusals, 9, &refusal));
    assert_int_equal(ngx_commerce_refusals_count(&f->refusals, 9), 2);
    assert_int_equal(refuse(f, 9, 2), NGX_COMMERCE_REFUSALS_NEW);
    assert_int_equal(ngx_commerce_refusals_count(&f->refusals, 9), 3);

    /* it changed by a chmod alone, and then there was no room for it */

    refusal.file = (ngx_commerce_file_t) { 2, 2, 3, 5 };
    refusal.room = true;
    assert_int_equal(ngx_commerce_refusals_add(&f->refusals, 9, &refusal), NGX_COMMERCE_REFUSALS_NEW);
    assert_true(ngx_commerce_refusals_find(&f->refusals, 9, &refusal));
    assert_true(refusal.room);
}


static void
test_it_is_bounded_and_used_again(void **state)
{
    uint64_t    name, full, max;
    fixture_t  *f = *state;

    max = ngx_commerce_refusals_max(&f->refusals);
    assert_true(max >= SIZE / 128);

    /* three quarters always fit */

    for (name = 1; name <= max * 3 / 4; name++) {
        assert_int_equal(refuse(f, name, 1), NGX_COMMERCE_REFUSALS_NEW);
    }

    for (full = 0; name <= 2 * max; name++) {
        full += (refuse(f, name, 1) == NGX_COMMERCE_REFUSALS_FULL);
    }

    assert_true(full >= max);
    assert_int_equal(refused(f) + full, 2 * max);

    /* those that are in it stay, and a changed file finds its own place */

    for (name = 1; name <= max * 3 / 4; name++) {
        assert_int_equal(refuse(f, name, 1), NGX_COMMERCE_REFUSALS_BEFORE);
        assert_int_equal(refuse(f, name, 2), NGX_COMMERCE_REFUSALS_NEW);
        assert_int_equal(ngx_commerce_refusals_count(&f->refusals, name), 2);
    }

    /* the junk is taken away: other names come into its places, with counts of their own */

    for (name = 1; name <= 2 * max; name++) {
        ngx_commerce_refusals_forget(&f->refusals, name);
    }

    assert_int_equal(refused(f), 0);
    assert_int_equal(ngx_commerce_refusals_count(&f->refusals, 5), 2);

    for (name = 5 * max; name < 5 * max + max * 3 / 4; name++) {
        assert_int_equal(refuse(f, name, 1), NGX_COMMERCE_REFUSALS_NEW);
        assert_int_equal(ngx_commerce_refusals_count(&f->refusals, name), 1);
    }

    assert_int_equal(refused(f), max * 3 / 4);
}


static void
writer(fixture_t *f)
{
    srandom(getpid());

    for ( ;; ) {
        if (random() % 3 == 0) {
            ngx_commerce_refusals_forget(&f->refusals, 1 + random() % 5000);

        } else {
            (void) refuse(f, 1 + random() % 5000, 1 + random() % 3);
        }
    }
}


static void
test_killed_at_any_instruction(void **state)
{
    int         n, status;
    pid_t       pid;
    uint64_t    i, name, at, max, seen[5001];
    fixture_t  *f = *state;

    max = ngx_commerce_refusals_max(&f->refusals);

    for (n = 0; n < 200; n++) {
        pid = fork();

        if (pid == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            writer(f);
        }

        usleep(500 + n * 10);
        kill(pid, SIGKILL);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status));

        /* a name has one place */

        memset(seen, 0, sizeof(seen));

        for (at = 0; (at = ngx_commerce_refusals_next(&f->refusals, at, &name)) != 0; ) {
            assert_true(name <= 5000);
            assert_int_equal(seen[name]++, 0);
        }
    }

    for (i = 1; i <= 5000; i++) {
        ngx_commerce_refusals_forget(&f->refusals, i);
    }

    assert_int_equal(refused(f), 0);

    for (i = 6000; i < 6000 + max * 3 / 4; i++) {
        assert_int_equal(refuse(f, i, 1), NGX_COMMERCE_REFUSALS_NEW);
    }
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test_setup_teardown(test_a_file_is_told_about_once, setup, teardown),
        cmocka_unit_test_setup_teardown(test_it_is_bounded_and_used_again, setup, teardown),
        cmocka_unit_test_setup_teardown(test_killed_at_any_instruction, setup, teardown)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
