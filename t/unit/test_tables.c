/*
 * ngx_commerce_tables: semantics, then readers that hammer tables while
 * loaders replace them and are killed.
 */

#define _GNU_SOURCE

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "ngx_commerce_tables.h"


#define SIZE     (4 * 1024 * 1024)
#define SHOPS    5
#define MANY     40
#define READERS  3


typedef struct {
    ngx_commerce_tables_t  tables;
    void                  *memory;
    uint64_t              *shared;      /* counters of the children */
    uint64_t               shops[MANY];
    uint64_t               many;        /* of these, SHOPS at most have a table at a time */
    uint64_t               words;       /* of a table, at most */
} fixture_t;


static int
setup(void **state)
{
    fixture_t  *f;

    f = calloc(1, sizeof(*f));
    f->memory = mmap(NULL, SIZE, PROT_READ|PROT_WRITE, MAP_SHARED|MAP_ANONYMOUS, -1, 0);
    f->shared = mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_SHARED|MAP_ANONYMOUS, -1, 0);
    assert_int_equal(ngx_commerce_tables_create(&f->tables, f->memory, SIZE), NGX_COMMERCE_OK);
    ngx_commerce_tables_join(&f->tables, 0);
    *state = f;

    return 0;
}


static int
teardown(void **state)
{
    fixture_t  *f = *state;

    munmap(f->memory, SIZE);
    munmap(f->shared, 4096);
    free(f);

    return 0;
}


/* Every word of a table is made of its shop and serial number: a mixture shows. */

static void
fill(void *data, size_t size, uint64_t shop, uint64_t serial)
{
    size_t     i;
    uint64_t  *word = data;

    for (i = 0; i < size / 8; i++) {
        word[i] = shop << 48 | serial << 8 | (i & 255);
    }
}


static bool
whole(const ngx_commerce_tables_found_t *found, uint64_t shop)
{
    size_t           i;
    const uint64_t  *word = found->data;

    for (i = 0; i < found->size / 8; i++) {
        if (word[i] != ((word[0] & ~UINT64_C(255)) | (i & 255))
            || word[i] >> 48 != shop)
        {
            return false;
        }
    }

    return true;
}


static ngx_commerce_tables_rc_t
put(fixture_t *f, uint64_t shop, size_t size, uint64_t serial)
{
    void                        *data;
    ngx_commerce_tables_rc_t     rc;
    ngx_commerce_file_t          file = { serial, serial, size, serial };

    rc = ngx_commerce_tables_reserve(&f->tables, size, &data);

    if (rc != NGX_COMMERCE_TABLES_OK) {
        return rc;
    }

    assert_int_equal((uintptr_t) data % 64, 0);
    fill(data, size, shop, serial);

    return ngx_commerce_tables_publish(&f->tables, shop, data, size, &file, 1000 + serial);
}


static void
test_what_is_published_is_found(void **state)
{
    fixture_t                    *f = *state;
    ngx_commerce_tables_found_t   found, next;

    assert_false(ngx_commerce_tables_find(&f->tables, 7, &found));
    assert_false(ngx_commerce_tables_find(&f->tables, 0, &found));

    assert_int_equal(put(f, 7, 10000, 1), NGX_COMMERCE_TABLES_OK);
    assert_int_equal(put(f, 8, 5000, 1), NGX_COMMERCE_TABLES_OK);

    ngx_commerce_tables_enter(&f->tables);
    assert_true(ngx_commerce_tables_find(&f->tables, 7, &found));
    assert_int_equal(found.size, 10000);
    assert_true(whole(&found, 7));
    ngx_commerce_tables_leave(&f->tables);

    assert_int_equal(put(f, 7, 20000, 2), NGX_COMMERCE_TABLES_OK);
    assert_true(ngx_commerce_tables_find(&f->tables, 7, &next));
    assert_int_not_equal(next.serial, found.serial);
    assert_int_equal(next.size, 20000);
    assert_true(whole(&next, 7));
    assert_int_equal(next.file->size, 20000);
    assert_int_equal(next.file->inode, 2);
    assert_int_equal(next.loaded, 1002);

    ngx_commerce_tables_withdraw(&f->tables, 7);
    assert_false(ngx_commerce_tables_find(&f->tables, 7, &found));
    assert_true(ngx_commerce_tables_find(&f->tables, 8, &found));
}


static void
test_memory_is_bounded_and_comes_back(void **state)
{
    int                           i;
    fixture_t                    *f = *state;
    ngx_commerce_tables_stats_t   stats;

    ngx_commerce_tables_stats(&f->tables, &stats);
    assert_int_equal(stats.used, 0);
    assert_true(stats.largest > SIZE / 2);

    assert_int_equal(put(f, 1, SIZE, 1), NGX_COMMERCE_TABLES_FULL);
    assert_int_equal(put(f, 1, stats.largest + 1, 1), NGX_COMMERCE_TABLES_FULL);
    assert_int_equal(put(f, 1, stats.largest, 1), NGX_COMMERCE_TABLES_OK);
    assert_int_equal(put(f, 2, 64, 1), NGX_COMMERCE_TABLES_FULL);

    ngx_commerce_tables_withdraw(&f->tables, 1);

    /* thousands of replacements fit where two tables fit */

    for (i = 0; i < 3000; i++) {
        assert_int_equal(put(f, 1 + i % SHOPS, 100000 + i * 7 % 150000, i), NGX_COMMERCE_TABLES_OK);
    }

    ngx_commerce_tables_stats(&f->tables, &stats);
    assert_int_equal(stats.tables, SHOPS);
}


static void
test_a_reader_keeps_what_it_holds(void **state)
{
    fixture_t                    *f = *state;
    ngx_commerce_tables_t         other = f->tables;
    ngx_commerce_tables_found_t   found;
    ngx_commerce_tables_stats_t   stats;

    ngx_commerce_tables_stats(&f->tables, &stats);
    assert_int_equal(put(f, 1, stats.largest / 2 - 8192, 1), NGX_COMMERCE_TABLES_OK);

    ngx_commerce_tables_join(&other, 1);
    ngx_commerce_tables_enter(&other);
    assert_true(ngx_commerce_tables_find(&other, 1, &found));

    /* one more fits beside it; a third must wait for the reader */

    assert_int_equal(put(f, 1, stats.largest / 2 - 8192, 2), NGX_COMMERCE_TABLES_OK);
    assert_int_equal(put(f, 1, stats.largest / 2 - 8192, 3), NGX_COMMERCE_TABLES_BUSY);
    assert_true(whole(&found, 1));

    ngx_commerce_tables_leave(&other);
    assert_int_equal(put(f, 1, stats.largest / 2 - 8192, 3), NGX_COMMERCE_TABLES_OK);
}


static void
test_a_dead_reader_holds_nothing(void **state)
{
    pid_t                         pid;
    fixture_t                    *f = *state;
    ngx_commerce_tables_found_t   found;
    ngx_commerce_tables_stats_t   stats;

    ngx_commerce_tables_stats(&f->tables, &stats);
    assert_int_equal(put(f, 1, stats.largest / 2 - 8192, 1), NGX_COMMERCE_TABLES_OK);

    pid = fork();

    if (pid == 0) {
        ngx_commerce_tables_join(&f->tables, 1);
        ngx_commerce_tables_enter(&f->tables);
        (void) ngx_commerce_tables_find(&f->tables, 1, &found);
        raise(SIGKILL);
    }

    assert_int_equal(waitpid(pid, NULL, 0), pid);

    assert_int_equal(put(f, 1, stats.largest / 2 - 8192, 2), NGX_COMMERCE_TABLES_OK);
    assert_int_equal(put(f, 1, stats.largest / 2 - 8192, 3), NGX_COMMERCE_TABLES_OK);
}


static void
test_shops_are_bounded(void **state)
{
    uint64_t                      shop;
    fixture_t                    *f = *state;
    ngx_commerce_tables_stats_t   stats;

    ngx_commerce_tables_stats(&f->tables, &stats);

    for (shop = 1; shop <= stats.tables_max; shop++) {
        assert_int_equal(put(f, shop * 1000, 64, 1), NGX_COMMERCE_TABLES_OK);
    }

    assert_int_equal(put(f, 5, 64, 1), NGX_COMMERCE_TABLES_FULL);
    assert_int_equal(put(f, 1000, 64, 2), NGX_COMMERCE_TABLES_OK);

    /* a place that is given up is anybody's */

    ngx_commerce_tables_withdraw(&f->tables, 7000);
    assert_int_equal(put(f, 5, 64, 1), NGX_COMMERCE_TABLES_OK);
    assert_int_equal(put(f, 7000, 64, 1), NGX_COMMERCE_TABLES_FULL);
}


/* Shops come and go for years: all that have a table are found, no others, and there is always a place. */

static void
test_places_are_used_again(void **state)
{
    int                           i;
    uint64_t                      shop, at, live[100] = { 0 };
    fixture_t                    *f = *state;
    ngx_commerce_tables_found_t   found;
    ngx_commerce_tables_stats_t   stats;

    srandom(2);

    for (i = 0; i < 40000; i++) {
        at = random() % 100;

        if (live[at]) {
            ngx_commerce_tables_withdraw(&f->tables, live[at]);
            assert_false(ngx_commerce_tables_find(&f->tables, live[at], &found));
        }

        /* 100 of one residue: no shop twice */

        live[at] = 1 + at + 100 * (random() % 500);
        assert_int_equal(put(f, live[at], 64, i), NGX_COMMERCE_TABLES_OK);

        shop = live[random() % 100];
        assert_int_equal(ngx_commerce_tables_find(&f->tables, shop, &found), shop != 0);
        assert_true(shop == 0 || whole(&found, shop));
    }

    ngx_commerce_tables_stats(&f->tables, &stats);
    assert_int_equal(stats.tables, 100);

    for (i = 0, at = 0; (at = ngx_commerce_tables_next(&f->tables, at, &shop)) != 0; i++) {
        assert_int_equal(live[(shop - 1) % 100], shop);
    }

    assert_int_equal(i, 100);
}


static void
test_one_loader_at_a_time(void **state)
{
    pid_t       pid;
    fixture_t  *f = *state;

    pid = fork();

    if (pid == 0) {
        if (!ngx_commerce_tables_lock(&f->tables)) {
            _exit(1);
        }
        f->shared[0] = 1;
        pause();
    }

    while (((volatile uint64_t *) f->shared)[0] == 0) {
        usleep(1000);
    }

    assert_false(ngx_commerce_tables_lock(&f->tables));

    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, NULL, 0), pid);

    assert_true(ngx_commerce_tables_lock(&f->tables));
    ngx_commerce_tables_unlock(&f->tables);
}


static void
reader(fixture_t *f, unsigned n)
{
    uint64_t                      shop;
    ngx_commerce_tables_found_t   found;

    ngx_commerce_tables_join(&f->tables, 1 + n);
    srandom(n + getpid());

    for ( ;; ) {
        shop = f->shops[random() % f->many];

        ngx_commerce_tables_enter(&f->tables);

        if (ngx_commerce_tables_find(&f->tables, shop, &found)) {
            if (!whole(&found, shop)) {
                _exit(9);
            }

            __atomic_add_fetch(&f->shared[1 + n], 1, __ATOMIC_RELAXED);
        }

        ngx_commerce_tables_leave(&f->tables);
    }
}


static void
loader(fixture_t *f)
{
    uint64_t         shop, at, gone, tables;
    static uint64_t  serial;

    srandom(getpid());

    for ( ;; ) {
        if (!ngx_commerce_tables_lock(&f->tables)) {
            continue;
        }

        serial = __atomic_add_fetch(&f->shared[0], 1, __ATOMIC_RELAXED);

        /* some shop or other leaves, when there are more than SHOPS */

        for (at = 0, tables = 0, gone = 0; (at = ngx_commerce_tables_next(&f->tables, at, &shop)) != 0; tables++) {
            gone = (random() % (tables + 1) == 0) ? shop : gone;
        }

        if (tables >= SHOPS && f->many > SHOPS) {
            ngx_commerce_tables_withdraw(&f->tables, gone);
        }

        /* FULL would be lost memory or places: SHOPS shops of at most 300 KB, and as much again retired */

        if (put(f, f->shops[random() % f->many], 8 * (1 + random() % f->words), serial) == NGX_COMMERCE_TABLES_FULL) {
            _exit(8);
        }

        ngx_commerce_tables_unlock(&f->tables);
    }
}


static pid_t
child(fixture_t *f, int n)
{
    pid_t  pid;

    pid = fork();

    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);       /* a test that fails leaves nobody behind */

        if (n < 0) {
            loader(f);
        }

        reader(f, n);
    }

    return pid;
}


/* Readers and the loader are killed at random, hundreds of times: no torn table, no lost memory. */

static void
hammer(fixture_t *f)
{
    int    i, n, status;
    pid_t  pids[READERS + 1];

    for (i = 0; i <= READERS; i++) {
        pids[i] = child(f, i - 1);
    }

    srandom(1);

    for (n = 0; n < 400; n++) {
        usleep(random() % 4000);
        i = random() % (READERS + 1);

        kill(pids[i], SIGKILL);
        assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
        assert_true(WIFSIGNALED(status));

        pids[i] = child(f, i - 1);
    }

    for (i = 0; i <= READERS; i++) {
        kill(pids[i], SIGKILL);
        assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
        assert_true(WIFSIGNALED(status));
    }

    assert_true(f->shared[0] > 100);

    for (i = 0; i < READERS; i++) {
        assert_true(f->shared[1 + i] > 100);
    }
}


static void
test_killed_at_any_instruction(void **state)
{
    int         i;
    fixture_t  *f = *state;

    for (i = 0; i < SHOPS; i++) {
        f->shops[i] = i + 1;
    }

    f->many = SHOPS;
    f->words = 37000;
    hammer(f);

    /* all of it can still be used */

    for (i = 1; i <= SHOPS; i++) {
        ngx_commerce_tables_withdraw(&f->tables, i);
    }

    assert_int_equal(put(f, 1, SIZE / 2, 1), NGX_COMMERCE_TABLES_OK);
}


/* The same while shops come and go: a place is another shop's all the time, and nobody reads another's table. */

static void
test_places_change_hands_under_readers(void **state)
{
    uint64_t                      shop;
    fixture_t                    *f = *state;
    ngx_commerce_tables_stats_t   stats;

    /* all of one home, by the hash of ngx_commerce_tables.c */

    for (shop = 1; f->many < MANY; shop++) {
        if (shop * UINT64_C(0x9e3779b97f4a7c15) >> 56 == 0) {
            f->shops[f->many++] = shop;
        }
    }

    f->words = 64;
    hammer(f);

    ngx_commerce_tables_stats(&f->tables, &stats);
    assert_true(stats.tables <= SHOPS + 1);

    while (ngx_commerce_tables_next(&f->tables, 0, &shop) != 0) {
        ngx_commerce_tables_withdraw(&f->tables, shop);
    }

    for (shop = 1; shop <= stats.tables_max; shop++) {
        assert_int_equal(put(f, shop, 64, 1), NGX_COMMERCE_TABLES_OK);
    }
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test_setup_teardown(test_what_is_published_is_found, setup, teardown),
        cmocka_unit_test_setup_teardown(test_memory_is_bounded_and_comes_back, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_reader_keeps_what_it_holds, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_dead_reader_holds_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_shops_are_bounded, setup, teardown),
        cmocka_unit_test_setup_teardown(test_places_are_used_again, setup, teardown),
        cmocka_unit_test_setup_teardown(test_one_loader_at_a_time, setup, teardown),
        cmocka_unit_test_setup_teardown(test_killed_at_any_instruction, setup, teardown),
        cmocka_unit_test_setup_teardown(test_places_change_hands_under_readers, setup, teardown)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
