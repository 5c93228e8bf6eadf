/*
 * The directory: names to records, images made of images, and readers while a
 * publisher writes and is killed.
 */

#include "unit.h"
#include "ngx_commerce_directory.h"

#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>


#define SIZE  (8 * 1024 * 1024)


static ngx_commerce_directory_t *
make(size_t size)
{
    void  *memory;

    memory = mmap(NULL, size, PROT_READ|PROT_WRITE, MAP_SHARED|MAP_ANONYMOUS,
                  -1, 0);
    assert_ptr_not_equal(memory, MAP_FAILED);
    assert_true(ngx_commerce_directory_create(memory, size));
    assert_true(ngx_commerce_directory_open(memory));

    return memory;
}


/* One tenant: record "<id>:<version>:<filler>", its id and host as names, a key with a target of its own. */

static void
block(ngx_commerce_directory_image_t *image, uint64_t id, int version)
{
    char                record[256], name[64], target[64];
    ngx_commerce_str_t  none = { 0, NULL };

    ngx_commerce_image_begin(image, id);

    snprintf(name, sizeof(name), "%llu", (unsigned long long) id);
    ngx_commerce_image_name(image, 'i', unit_str(name), none);

    snprintf(name, sizeof(name), "shop-%llu.example", (unsigned long long) id);
    ngx_commerce_image_name(image, 'h', unit_str(name), none);

    snprintf(name, sizeof(name), "key-%llu", (unsigned long long) id);
    snprintf(target, sizeof(target), "target-%d", version);
    ngx_commerce_image_name(image, 'k', unit_str(name), unit_str(target));

    snprintf(record, sizeof(record), "%llu:%d:%0*d", (unsigned long long) id,
             version, 20 + (int) (id % 50), 0);
    ngx_commerce_image_record(image, unit_str(record));

    ngx_commerce_image_end(image);
}


static ngx_commerce_directory_rc_t
publish(ngx_commerce_directory_t *d, ngx_commerce_directory_image_t *image,
    int64_t as_of, uint64_t generation)
{
    ngx_commerce_directory_rc_t  rc;

    while ((rc = ngx_commerce_image_index(image, 100))
           == NGX_COMMERCE_DIRECTORY_AGAIN)
    { /* void */ }

    assert_int_equal(rc, NGX_COMMERCE_DIRECTORY_OK);

    rc = ngx_commerce_directory_publish(d, image, as_of, generation);
    ngx_commerce_image_free(image);

    return rc;
}


static ngx_commerce_directory_rc_t
fill(ngx_commerce_directory_t *d, uint64_t count, int version, int64_t as_of)
{
    uint64_t                        id;
    ngx_commerce_directory_image_t  image;

    ngx_commerce_image_init(&image);

    for (id = 1; id <= count; id++) {
        block(&image, id * 2, version);         /* even ids */
    }

    return publish(d, &image, as_of, 0);
}


/* The version that a look-up finds; -1: none. */

static int
look(ngx_commerce_directory_t *d, uint8_t kind, const char *format,
    uint64_t id)
{
    int                             version;
    char                            name[64], record[256], wanted[64];
    unit_arena_t                    arena;
    unsigned long long              found;
    ngx_commerce_directory_rc_t     rc;
    ngx_commerce_directory_entry_t  entry;

    unit_arena(&arena);
    snprintf(name, sizeof(name), format, (unsigned long long) id);

    rc = ngx_commerce_directory_find(d, kind, unit_str(name), &arena.alloc, &entry);
    version = -1;

    if (rc == NGX_COMMERCE_DIRECTORY_OK) {
        assert_true(entry.record.len < sizeof(record));
        memcpy(record, entry.record.data, entry.record.len);
        record[entry.record.len] = '\0';
        assert_int_equal(sscanf(record, "%llu:%d:", &found, &version), 2);
        assert_int_equal(found, id);

        if (kind == 'k') {
            snprintf(wanted, sizeof(wanted), "target-%d", version);
            assert_int_equal(entry.target.len, strlen(wanted));
            assert_memory_equal(entry.target.data, wanted, entry.target.len);

        } else {
            assert_int_equal(entry.target.len, 0);
        }
    }

    unit_free(&arena);

    return version;
}


static void
test_find(void **state)
{
    uint64_t                         id;
    unit_arena_t                     arena;
    ngx_commerce_directory_t        *d;
    ngx_commerce_directory_entry_t   entry;
    ngx_commerce_directory_stats_t   stats;

    d = make(SIZE);

    unit_arena(&arena);
    assert_int_equal(ngx_commerce_directory_find(d, 'i', unit_str("2"), &arena.alloc,
                                                 &entry),
                     NGX_COMMERCE_DIRECTORY_EMPTY);

    assert_int_equal(fill(d, 1000, 1, 100), NGX_COMMERCE_DIRECTORY_OK);

    for (id = 2; id <= 2000; id += 2) {
        assert_int_equal(look(d, 'i', "%llu", id), 1);
        assert_int_equal(look(d, 'h', "shop-%llu.example", id), 1);
        assert_int_equal(look(d, 'k', "key-%llu", id), 1);
        assert_int_equal(look(d, 'i', "%llu", id + 1), -1);
    }

    /* a name of another kind is another name */
    assert_int_equal(look(d, 'h', "%llu", 2), -1);
    assert_int_equal(ngx_commerce_directory_find(d, 'i', unit_str(""), &arena.alloc,
                                                 &entry),
                     NGX_COMMERCE_DIRECTORY_MISSING);

    arena.left = 0;
    assert_int_equal(ngx_commerce_directory_find(d, 'i', unit_str("2"), &arena.alloc,
                                                 &entry),
                     NGX_COMMERCE_DIRECTORY_NOMEM);
    unit_free(&arena);

    ngx_commerce_directory_stats(d, &stats);
    assert_int_equal(stats.blocks, 1000);
    assert_int_equal(stats.names, 3000);
    assert_true(stats.used < 1000 * 500);
    munmap(d, SIZE);
}


static void
test_order(void **state)
{
    ngx_commerce_directory_t        *d;
    ngx_commerce_directory_stats_t   stats;

    d = make(SIZE);

    assert_int_equal(fill(d, 10, 1, 1000), NGX_COMMERCE_DIRECTORY_OK);
    assert_int_equal(fill(d, 10, 2, 999), NGX_COMMERCE_DIRECTORY_AGAIN);
    assert_int_equal(look(d, 'i', "%llu", 2), 1);
    assert_int_equal(fill(d, 10, 2, 1001), NGX_COMMERCE_DIRECTORY_OK);
    assert_int_equal(look(d, 'i', "%llu", 2), 2);

    ngx_commerce_directory_stats(d, &stats);
    assert_int_equal(stats.generation, 2);

    /* nothing new: no generation; a clock that was set back by an hour is believed */
    assert_int_equal(fill(d, 10, 2, 1002), NGX_COMMERCE_DIRECTORY_OK);
    assert_int_equal(fill(d, 10, 3, 1002 - 3600000000LL),
                     NGX_COMMERCE_DIRECTORY_OK);
    ngx_commerce_directory_stats(d, &stats);
    assert_int_equal(stats.generation, 3);
    munmap(d, SIZE);

    d = make(100000);
    assert_int_equal(fill(d, 10, 1, 1), NGX_COMMERCE_DIRECTORY_OK);
    assert_int_equal(fill(d, 1000, 2, 2), NGX_COMMERCE_DIRECTORY_TOO_LARGE);
    assert_int_equal(look(d, 'i', "%llu", 2), 1);
    munmap(d, 100000);
}


/* Ids that are changed, new in the middle, new at the end, and gone. */

static void
test_change(void **state)
{
    size_t                           position;
    uint64_t                         ids[] = { 4, 7, 20, 2002, 3000 };
    uint64_t                         generation;
    unsigned                         i;
    ngx_commerce_directory_t        *d;
    ngx_commerce_directory_rc_t      rc;
    ngx_commerce_directory_image_t   image, rows;
    ngx_commerce_directory_stats_t   stats;

    d = make(SIZE);
    assert_int_equal(fill(d, 1000, 1, 1), NGX_COMMERCE_DIRECTORY_OK);
    ngx_commerce_directory_stats(d, &stats);
    generation = stats.generation;

    ngx_commerce_image_init(&image);
    ngx_commerce_image_init(&rows);

    block(&rows, 4, 2);
    block(&rows, 7, 2);
    block(&rows, 2002, 2);          /* 20 and 3000 have none */

    position = 0;

    for (i = 0; i <= 5; i++) {
        while ((rc = ngx_commerce_image_copy(&image, d, generation, &position,
                                             i < 5 ? ids[i] : UINT64_MAX, 64))
               == NGX_COMMERCE_DIRECTORY_AGAIN)
        { /* void */ }

        assert_int_equal(rc, NGX_COMMERCE_DIRECTORY_OK);

        if (i < 5) {
            ngx_commerce_image_take(&image, &rows, ids[i]);
        }
    }

    ngx_commerce_image_free(&rows);
    assert_int_equal(publish(d, &image, 0, generation),
                     NGX_COMMERCE_DIRECTORY_OK);

    assert_int_equal(look(d, 'i', "%llu", 2), 1);
    assert_int_equal(look(d, 'k', "key-%llu", 4), 2);
    assert_int_equal(look(d, 'h', "shop-%llu.example", 7), 2);
    assert_int_equal(look(d, 'i', "%llu", 20), -1);
    assert_int_equal(look(d, 'i', "%llu", 22), 1);
    assert_int_equal(look(d, 'i', "%llu", 2000), 1);
    assert_int_equal(look(d, 'i', "%llu", 2002), 2);

    ngx_commerce_directory_stats(d, &stats);
    assert_int_equal(stats.blocks, 1001);
    assert_int_equal(stats.names, 3003);

    /* made from an image that is not shown any more */
    position = 0;
    assert_int_equal(ngx_commerce_image_copy(&image, d, generation, &position,
                                             UINT64_MAX, 10),
                     NGX_COMMERCE_DIRECTORY_MISSING);
    block(&image, 1, 9);
    assert_int_equal(publish(d, &image, 5, generation),
                     NGX_COMMERCE_DIRECTORY_AGAIN);
    munmap(d, SIZE);
}


/* A publisher writes as fast as it can and is killed anywhere; readers find a whole record of some version always. */

static void
test_killed(void **state)
{
    int                              i, version, status;
    pid_t                            pid;
    uint64_t                         id, before;
    ngx_commerce_directory_t        *d;
    ngx_commerce_directory_stats_t   stats;

    d = make(SIZE);
    assert_int_equal(fill(d, 500, 1, 1), NGX_COMMERCE_DIRECTORY_OK);
    id = 0;

    for (i = 0; i < 20; i++) {
        ngx_commerce_directory_stats(d, &stats);
        before = stats.generation;

        pid = fork();
        assert_true(pid >= 0);

        if (pid == 0) {
            for (version = i + 2; ; version++) {
                ngx_commerce_directory_stats(d, &stats);
                fill(d, 500 + version % 50, version, stats.generation + 100);
            }
        }

        for (version = 0; version < 2000; version++) {
            id = id % 1000 + 2;
            assert_true(look(d, version % 2 ? 'k' : 'i',
                             version % 2 ? "key-%llu" : "%llu", id) > 0);
        }

        /* on a busy machine the readers may have been faster than all of it */

        while (stats.generation == before) {
            assert_int_equal(waitpid(pid, &status, WNOHANG), 0);
            sched_yield();
            ngx_commerce_directory_stats(d, &stats);
        }

        kill(pid, SIGKILL);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status));

        for (id = 2; id <= 1000; id += 2) {
            assert_true(look(d, 'i', "%llu", id) > 0);
        }
    }

    ngx_commerce_directory_stats(d, &stats);
    assert_true(stats.generation > 20);
    munmap(d, SIZE);
}


/* Whatever is in shared memory, nothing is read beyond it. */

static void
test_damaged(void **state)
{
    int                              i;
    size_t                           at;
    uint8_t                         *bytes;
    uint64_t                         id;
    unit_arena_t                     arena;
    ngx_commerce_directory_t        *d;
    ngx_commerce_directory_entry_t   entry;
    ngx_commerce_directory_stats_t   stats;

    d = make(200000);
    assert_int_equal(fill(d, 100, 1, 1), NGX_COMMERCE_DIRECTORY_OK);
    ngx_commerce_directory_stats(d, &stats);
    bytes = (uint8_t *) d + 24;             /* behind magic, generation, size */
    srandom(7);

    for (i = 0; i < 3000; i++) {
        at = (size_t) random() % (i % 3 ? 150 : 190000);
        bytes[at] = (uint8_t) random();

        unit_arena(&arena);
        for (id = 1; id < 5; id++) {
            char  name[16];

            snprintf(name, sizeof(name), "%d", (int) id * 2);
            (void) ngx_commerce_directory_find(d, 'i', unit_str(name), &arena.alloc,
                                               &entry);
        }
        unit_free(&arena);
    }

    munmap(d, 200000);
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_find),
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_change),
        cmocka_unit_test(test_killed),
        cmocka_unit_test(test_damaged),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
