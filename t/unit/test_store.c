/*
 * ngx_commerce_store: semantics, then several processes that hammer one store
 * while they are killed and stopped.
 *
 * A body is generated from its key and a serial number, so that a reader can
 * tell any mixture of two entries from an entry.
 */

#define _GNU_SOURCE

#include "unit.h"
#include "ngx_commerce_store.h"

#include <signal.h>
#include <time.h>
#include <unistd.h>
#include <sys/mman.h>
#include <sys/wait.h>


#define SIZE     (2 * 1024 * 1024)
#define WRITERS  3
#define KEYS     96


static const uint8_t  secret[16] = "0123456789abcdef";


typedef struct {
    ngx_commerce_store_t  store;
    void                 *memory;
    size_t                size;
} fixture_t;


static void
fixture_make(fixture_t *f, size_t size)
{
    f->size = size;
    f->memory = mmap(NULL, size, PROT_READ|PROT_WRITE,
                     MAP_SHARED|MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(f->memory, MAP_FAILED);
    assert_int_equal(ngx_commerce_store_create(&f->store, f->memory, size,
                                               secret),
                     NGX_COMMERCE_OK);
}


static int
setup(void **state)
{
    fixture_t  *f;

    f = malloc(sizeof(*f));
    fixture_make(f, SIZE);
    *state = f;

    return 0;
}


static int
teardown(void **state)
{
    fixture_t  *f;

    f = *state;
    munmap(f->memory, f->size);
    free(f);

    return 0;
}


static void
ticket_of(fixture_t *f, const char *key, const char *tag,
    ngx_commerce_store_ticket_t *ticket)
{
    ngx_commerce_str_t  tags[1];

    tags[0] = unit_str(tag);
    ngx_commerce_store_key(&f->store, unit_str(key), ticket);
    ngx_commerce_store_tags(&f->store, tags, 1, ticket);
}


static bool
put(fixture_t *f, ngx_commerce_store_ticket_t *ticket, const char *body,
    uint64_t now, uint64_t ttl)
{
    ngx_commerce_str_t  parts[3];

    parts[0] = unit_str("{\"ETag\":\"1\"}");
    parts[1] = unit_str(body);
    parts[2] = unit_str("");

    return ngx_commerce_store_put(&f->store, ticket, 200, parts, now, ttl);
}


/* The body under "key", or NULL; static. */

static const char *
get(fixture_t *f, const char *key, const char *tag, uint64_t now)
{
    static uint64_t              data[NGX_COMMERCE_STORE_MAX / 8];
    static char                  body[NGX_COMMERCE_STORE_MAX];
    ngx_commerce_store_found_t   found;
    ngx_commerce_store_ticket_t  ticket;

    ticket_of(f, key, tag, &ticket);

    if (!ngx_commerce_store_find(&f->store, &ticket, now, &found)) {
        return NULL;
    }

    assert_true(found.size <= sizeof(data));

    if (!ngx_commerce_store_read(&f->store, &found, (uint8_t *) data)) {
        return NULL;
    }

    assert_int_equal(found.status, 200);
    assert_memory_equal(data, "{\"ETag\":\"1\"}", found.len[0]);

    memcpy(body, (char *) data + ngx_commerce_store_offset(&found, 1),
           found.len[1]);
    body[found.len[1]] = '\0';

    return body;
}


static void
test_hit_and_miss(void **state)
{
    fixture_t                   *f = *state;
    ngx_commerce_store_ticket_t  t;

    assert_null(get(f, "a", "x", 1000));

    ticket_of(f, "a", "x", &t);
    assert_true(put(f, &t, "body of a", 1000, 500));

    assert_string_equal(get(f, "a", "x", 1000), "body of a");
    assert_string_equal(get(f, "a", "x", 1499), "body of a");
    assert_null(get(f, "b", "x", 1000));

    assert_true(put(f, &t, "second body of a", 1100, 500));
    assert_string_equal(get(f, "a", "x", 1200), "second body of a");
}


static void
test_all_lengths(void **state)
{
    char                         body[700];
    size_t                       n;
    fixture_t                   *f = *state;
    ngx_commerce_store_ticket_t  t;

    ticket_of(f, "length", "x", &t);

    for (n = 0; n < sizeof(body); n++) {
        memset(body, 'a' + (int) (n % 26), n);
        body[n] = '\0';
        assert_true(put(f, &t, body, 1000, 500));
        assert_string_equal(get(f, "length", "x", 1000), body);
    }
}


static void
test_invalidation(void **state)
{
    fixture_t                   *f = *state;
    ngx_commerce_store_ticket_t  a, b;

    ticket_of(f, "a", "1:product:1", &a);
    ticket_of(f, "b", "1:product:2", &b);
    assert_true(put(f, &a, "a", 0, 1000));
    assert_true(put(f, &b, "b", 0, 1000));

    ngx_commerce_store_invalidate(&f->store, unit_str("1:product:1"));
    assert_null(get(f, "a", "1:product:1", 1));
    assert_string_equal(get(f, "b", "1:product:2", 1), "b");

    /* content asked for before the invalidation comes back after it */
    assert_false(put(f, &a, "old a", 1, 1000));
    assert_null(get(f, "a", "1:product:1", 1));

    ticket_of(f, "a", "1:product:1", &a);
    assert_true(put(f, &a, "new a", 1, 1000));
    assert_string_equal(get(f, "a", "1:product:1", 1), "new a");

    ngx_commerce_store_invalidate_all(&f->store);
    assert_null(get(f, "a", "1:product:1", 1));
    assert_null(get(f, "b", "1:product:2", 1));
}


static void
test_one_refills(void **state)
{
    fixture_t                   *f = *state;
    ngx_commerce_store_ticket_t  t;

    ticket_of(f, "hot", "x", &t);
    assert_true(put(f, &t, "first", 0, 1000));

    /* past its time: one asker refills, the others are served */
    assert_null(get(f, "hot", "x", 1000));
    assert_string_equal(get(f, "hot", "x", 1000), "first");
    assert_string_equal(get(f, "hot", "x", 1900), "first");

    /* it did not come back within its lease: the next asker refills */
    assert_null(get(f, "hot", "x", 2001));
    assert_string_equal(get(f, "hot", "x", 2002), "first");

    assert_true(put(f, &t, "second", 2100, 1000));
    assert_string_equal(get(f, "hot", "x", 2100), "second");

    /* never past the grace, and never after an invalidation */
    assert_null(get(f, "hot", "x", 3100 + NGX_COMMERCE_STORE_GRACE));

    assert_null(get(f, "hot", "x", 3101));
    assert_string_equal(get(f, "hot", "x", 3102), "second");
    ngx_commerce_store_invalidate(&f->store, unit_str("x"));
    assert_null(get(f, "hot", "x", 3103));
    assert_null(get(f, "hot", "x", 3103));
}


static void
test_limits(void **state)
{
    void                         *odd;
    uint32_t                      i;
    fixture_t                    *f = *state, big;
    ngx_commerce_str_t            tags[NGX_COMMERCE_STORE_TAGS + 1], parts[3];
    ngx_commerce_store_t          other;
    ngx_commerce_store_ticket_t   t;

    for (i = 0; i <= NGX_COMMERCE_STORE_TAGS; i++) {
        tags[i] = unit_str("tag");
    }

    ngx_commerce_store_key(&f->store, unit_str("k"), &t);
    assert_false(put(f, &t, "without tags", 0, 10));

    ngx_commerce_store_tags(&f->store, tags, NGX_COMMERCE_STORE_TAGS, &t);
    assert_true(put(f, &t, "kept", 0, 10));

    ngx_commerce_store_tags(&f->store, tags, NGX_COMMERCE_STORE_TAGS + 1, &t);
    assert_false(put(f, &t, "not kept", 0, 10));

    fixture_make(&big, 16 * 1024 * 1024);
    ticket_of(&big, "k", "x", &t);

    odd = calloc(1, NGX_COMMERCE_STORE_MAX);
    parts[0] = parts[2] = unit_str("");
    parts[1].data = odd;
    parts[1].len = NGX_COMMERCE_STORE_MAX - NGX_COMMERCE_STORE_WORDS * 8;
    assert_true(ngx_commerce_store_put(&big.store, &t, 200, parts, 0, 10));
    parts[1].len++;
    assert_false(ngx_commerce_store_put(&big.store, &t, 200, parts, 0, 10));
    parts[1].len = SIZE_MAX;
    assert_false(ngx_commerce_store_put(&big.store, &t, 200, parts, 0, 10));
    free(odd);

    assert_int_equal(ngx_commerce_store_open(&other, big.memory, big.size),
                     NGX_COMMERCE_OK);
    assert_int_equal(ngx_commerce_store_open(&other, big.memory,
                                             big.size - 4096),
                     NGX_COMMERCE_INVALID);
    munmap(big.memory, big.size);

    assert_int_equal(ngx_commerce_store_create(&other, f->memory,
                                               NGX_COMMERCE_STORE_MIN - 1,
                                               secret),
                     NGX_COMMERCE_INVALID);
}


/* What is asked for stays while ten times the memory goes through it. */

static void
test_hot_entries_stay(void **state)
{
    char                          key[32], body[4096];
    uint32_t                      i;
    fixture_t                    *f = *state;
    ngx_commerce_store_stats_t    stats;
    ngx_commerce_store_ticket_t   t;

    memset(body, 'x', sizeof(body) - 1);
    body[sizeof(body) - 1] = '\0';

    ticket_of(f, "hot", "x", &t);
    assert_true(put(f, &t, "hot", 0, 1000));
    ticket_of(f, "cold", "x", &t);
    assert_true(put(f, &t, "cold", 0, 1000));

    for (i = 0; i < 10 * SIZE / sizeof(body); i++) {
        snprintf(key, sizeof(key), "filler %u", i);
        ticket_of(f, key, "x", &t);
        assert_true(put(f, &t, body, 0, 1000));
        assert_string_equal(get(f, key, "x", 1), body);
        assert_string_equal(get(f, "hot", "x", 1), "hot");
    }

    assert_null(get(f, "cold", "x", 1));

    ngx_commerce_store_stats(&f->store, &stats);
    assert_true(stats.moved >= 5);
    assert_true(stats.moved < 100);
    assert_int_equal(stats.torn, 0);
}


/* An entry of which any byte was overwritten is a miss, and can be put again. */

static void
test_damage_is_a_miss(void **state)
{
    char                          body[512];
    size_t                        i;
    uint8_t                      *p;
    fixture_t                     f;
    ngx_commerce_store_stats_t    stats;
    ngx_commerce_store_ticket_t   t;

    (void) state;

    memset(body, 'b', sizeof(body) - 1);
    body[sizeof(body) - 1] = '\0';

    for (i = 0; i < sizeof(body) - 1; i += 7) {
        fixture_make(&f, NGX_COMMERCE_STORE_MIN);
        ticket_of(&f, "d", "x", &t);
        assert_true(put(&f, &t, body, 0, 1000));
        assert_string_equal(get(&f, "d", "x", 1), body);

        p = memmem(f.memory, f.size, body, sizeof(body) - 1);
        assert_non_null(p);
        p[i] ^= 0x40;

        assert_null(get(&f, "d", "x", 1));
        ngx_commerce_store_stats(&f.store, &stats);
        assert_int_equal(stats.torn, 1);

        assert_true(put(&f, &t, body, 0, 1000));
        assert_string_equal(get(&f, "d", "x", 1), body);

        munmap(f.memory, f.size);
    }
}


/* --- processes --- */

static uint64_t
mix(uint64_t x)
{
    x ^= x >> 31;
    x *= UINT64_C(0x7fb5d329728ea185);
    x ^= x >> 27;
    x *= UINT64_C(0x81dadef4bc2dd44d);
    return x ^ x >> 33;
}


static size_t
body_make(uint64_t *body, uint32_t key, uint64_t serial)
{
    size_t    i, n;
    uint64_t  seed;

    seed = mix(key * UINT64_C(0x9e3779b97f4a7c15) + serial);
    n = 2 + seed % (seed & 0x700 ? 256 : 24000);

    body[0] = key;
    body[1] = serial;

    for (i = 2; i < n; i++) {
        body[i] = mix(seed + i);
    }

    return n * 8;
}


static void
writer(fixture_t *f, uint64_t seed)
{
    char                          name[32];
    uint32_t                      key;
    uint64_t                      serial;
    ngx_commerce_str_t            parts[3];
    static uint64_t               body[NGX_COMMERCE_STORE_MAX / 8];
    ngx_commerce_store_ticket_t   t;

    for (serial = seed; ; serial++) {
        key = mix(serial) % KEYS;
        snprintf(name, sizeof(name), "key %u", key);

        ticket_of(f, name, "x", &t);
        parts[0] = parts[2] = unit_str("");
        parts[1].data = (uint8_t *) body;
        parts[1].len = body_make(body, key, serial);
        ngx_commerce_store_put(&f->store, &t, 200, parts, 0, 1000000);

        if (serial % 4096 == 0) {
            ngx_commerce_store_invalidate(&f->store, unit_str("x"));
        }
    }
}


/* Returns the hits, or -1 - key when a body was no body that anybody wrote. */

static long
reader(fixture_t *f, uint64_t rounds)
{
    char                          name[32];
    long                          hits;
    size_t                        len;
    uint32_t                      key;
    uint64_t                      i;
    static uint64_t               data[NGX_COMMERCE_STORE_MAX / 8],
                                  body[NGX_COMMERCE_STORE_MAX / 8];
    ngx_commerce_store_found_t    found;
    ngx_commerce_store_ticket_t   t;

    hits = 0;

    for (i = 0; i < rounds; i++) {
        key = mix(i) % KEYS;
        snprintf(name, sizeof(name), "key %u", key);
        ticket_of(f, name, "x", &t);

        if (!ngx_commerce_store_find(&f->store, &t, 1, &found)
            || !ngx_commerce_store_read(&f->store, &found, (uint8_t *) data))
        {
            continue;
        }

        len = body_make(body, (uint32_t) data[0], data[1]);

        if (data[0] != key || found.len[1] != len
            || memcmp(data, body, len) != 0)
        {
            return -1 - (long) key;
        }

        hits++;
    }

    return hits;
}


static pid_t
writer_start(fixture_t *f, uint64_t seed)
{
    pid_t  pid;

    pid = fork();
    assert_int_not_equal(pid, -1);

    if (pid == 0) {
        writer(f, seed);
        _exit(0);
    }

    return pid;
}


static void
test_killed_writers(void **state)
{
    long                          hits, got;
    pid_t                         pids[WRITERS];
    uint32_t                      i, n, round;
    struct timespec               moment;
    fixture_t                     small, *f;
    ngx_commerce_store_stats_t    stats;

    (void) state;

    /* so small that the ring comes round all the time */
    f = &small;
    fixture_make(f, NGX_COMMERCE_STORE_MIN);

    for (i = 0; i < WRITERS; i++) {
        pids[i] = writer_start(f, (uint64_t) i << 40);
    }

    hits = 0;

    for (round = 0; round < 150; round++) {
        n = round % WRITERS;

        /* stopped anywhere, lapped by the others, goes on */
        kill(pids[(round + 1) % WRITERS], SIGSTOP);

        got = reader(f, 400);
        assert_true(got >= 0);
        hits += got;

        moment.tv_sec = 0;
        moment.tv_nsec = (long) (mix(round) % 2000000);
        nanosleep(&moment, NULL);

        kill(pids[(round + 1) % WRITERS], SIGCONT);

        /* killed anywhere */
        kill(pids[n], SIGKILL);
        assert_int_equal(waitpid(pids[n], NULL, 0), pids[n]);

        got = reader(f, 100);
        assert_true(got >= 0);
        hits += got;

        pids[n] = writer_start(f, ((uint64_t) round + 10) << 40);
    }

    for (i = 0; i < WRITERS; i++) {
        kill(pids[i], SIGKILL);
        waitpid(pids[i], NULL, 0);
    }

    assert_true(hits > 1000);

    ngx_commerce_store_stats(&f->store, &stats);
    assert_true(stats.puts > 1000);

    print_message("%ld hits, %lu puts, %lu torn entries detected\n", hits,
                  (unsigned long) stats.puts, (unsigned long) stats.torn);

    /* nothing is left unusable: every key can be put and read */
    for (i = 0; i < KEYS; i++) {
        char                         name[32];
        ngx_commerce_store_ticket_t  t;

        snprintf(name, sizeof(name), "key %u", i);
        ticket_of(f, name, "x", &t);
        assert_true(put(f, &t, name, 1, 1000));
        assert_string_equal(get(f, name, "x", 1), name);
    }

    munmap(small.memory, small.size);
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test_setup_teardown(test_hit_and_miss, setup, teardown),
        cmocka_unit_test_setup_teardown(test_all_lengths, setup, teardown),
        cmocka_unit_test_setup_teardown(test_invalidation, setup, teardown),
        cmocka_unit_test_setup_teardown(test_one_refills, setup, teardown),
        cmocka_unit_test_setup_teardown(test_limits, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hot_entries_stay, setup,
                                        teardown),
        cmocka_unit_test(test_damage_is_a_miss),
        cmocka_unit_test(test_killed_writers),
    };

    return cmocka_run_group_tests_name("store", tests, NULL, NULL);
}
