/*
 * ngx_commerce_near: what a process keeps of a store counts exactly as long as
 * it would in the store, lives as long as somebody holds it, and stays within
 * its room.
 */

#include "unit.h"
#include "ngx_commerce_near.h"
#include "ngx_commerce_store_internal.h"


#define SIZE   (2 * 1024 * 1024)
#define ROOM   (64 * 1024)
#define TRIES  16                       /* one in a few is kept */


static const uint8_t  secret[16] = "0123456789abcdef";

typedef struct {
    ngx_commerce_store_t  store;
    ngx_commerce_near_t   near;
    void                 *memory;
} fixture_t;


static int
setup(void **state)
{
    fixture_t  *f;

    f = calloc(1, sizeof(*f));
    f->memory = aligned_alloc(64, SIZE);
    assert_int_equal(ngx_commerce_store_create(&f->store, f->memory, SIZE,
                                               secret),
                     NGX_COMMERCE_OK);
    ngx_commerce_near_init(&f->near, &f->store, ROOM);
    *state = f;

    return 0;
}


static int
teardown(void **state)
{
    fixture_t  *f;

    f = *state;
    ngx_commerce_near_free(&f->near);
    free(f->memory);
    free(f);

    return 0;
}


static void
put(fixture_t *f, const char *key, const char *body, uint64_t now,
    uint64_t ttl)
{
    ngx_commerce_str_t           parts[3], tag;
    ngx_commerce_store_ticket_t  ticket;

    tag = unit_str("tag");
    parts[0] = parts[2] = unit_str("");
    parts[1] = unit_str(body);

    ngx_commerce_store_key(&f->store, unit_str(key), &ticket);
    ngx_commerce_store_tags(&f->store, &tag, 1, &ticket);
    assert_true(ngx_commerce_store_put(&f->store, &ticket, 200, parts, now,
                                       ttl));
}


/* As a worker asks; *kept: it was not read from the store. */

static ngx_commerce_near_entry_t *
get(fixture_t *f, const char *key, uint64_t now, bool *kept)
{
    ngx_commerce_near_entry_t    *entry;
    ngx_commerce_store_found_t    found;
    ngx_commerce_store_ticket_t   ticket;

    ngx_commerce_store_key(&f->store, unit_str(key), &ticket);

    entry = ngx_commerce_near_find(&f->near, &ticket, now);
    *kept = (entry != NULL);

    if (entry == NULL
        && ngx_commerce_store_find(&f->store, &ticket, now, &found))
    {
        entry = ngx_commerce_near_read(&f->near, &found);
    }

    return entry;
}


static bool
is(ngx_commerce_near_entry_t *entry, const char *body)
{
    return entry->found.len[1] == strlen(body)
           && memcmp((char *) entry->data
                     + ngx_commerce_store_offset(&entry->found, 1), body,
                     strlen(body))
              == 0;
}


/* Asks until it is kept; held once. */

static ngx_commerce_near_entry_t *
warm(fixture_t *f, const char *key, uint64_t now)
{
    bool                        kept;
    unsigned                    i;
    ngx_commerce_near_entry_t  *entry;

    for (i = 0; i < TRIES; i++) {
        entry = get(f, key, now, &kept);
        assert_non_null(entry);

        if (kept) {
            return entry;
        }

        ngx_commerce_near_release(entry);
    }

    fail_msg("\"%s\" was not kept", key);

    return NULL;
}


static void
test_kept_and_counted(void **state)
{
    fixture_t                   *f = *state;
    ngx_commerce_near_entry_t   *entry;
    ngx_commerce_store_stats_t   before, after;

    put(f, "a", "body of a", 1000, 500);

    entry = warm(f, "a", 1200);
    assert_true(is(entry, "body of a"));
    assert_int_equal(entry->found.status, 200);
    assert_int_equal(entry->found.age, 200);
    ngx_commerce_near_release(entry);

    ngx_commerce_store_stats(&f->store, &before);
    ngx_commerce_near_release(warm(f, "a", 1300));
    ngx_commerce_store_stats(&f->store, &after);
    assert_int_equal(after.hits, before.hits + 1);
}


static void
test_time_is_over(void **state)
{
    bool        kept;
    fixture_t  *f = *state;

    put(f, "a", "body", 1000, 500);
    ngx_commerce_near_release(warm(f, "a", 1499));

    /* the store lets one refill it */
    assert_null(get(f, "a", 1500, &kept));
    ngx_commerce_near_release(get(f, "a", 1500, &kept));
    assert_false(kept);
}


static void
test_void(void **state)
{
    bool                        kept;
    unsigned                    i;
    fixture_t                  *f = *state;
    ngx_commerce_near_entry_t  *held;

    for (i = 0; i < 2; i++) {
        put(f, "a", "old", 0, 1000);
        held = warm(f, "a", 1);

        if (i) {
            ngx_commerce_store_invalidate_all(&f->store);
        } else {
            ngx_commerce_store_invalidate(&f->store, unit_str("tag"));
        }

        assert_null(get(f, "a", 1, &kept));

        /* who is sending it goes on */
        assert_true(is(held, "old"));
        ngx_commerce_near_release(held);
    }
}


/* Others' tags: it is looked at again, and still counts; then its own, after many that were not. */

static void
test_void_others(void **state)
{
    bool        kept;
    unsigned    i;
    fixture_t  *f = *state;

    put(f, "a", "body", 0, 1000);
    ngx_commerce_near_release(warm(f, "a", 1));

    for (i = 0; i < 100; i++) {
        ngx_commerce_store_invalidate(&f->store, unit_str("another"));

        ngx_commerce_near_release(get(f, "a", 1, &kept));
        assert_true(kept);
        ngx_commerce_near_release(get(f, "a", 1, &kept));
        assert_true(kept);
    }

    ngx_commerce_store_invalidate(&f->store, unit_str("tag"));
    assert_null(get(f, "a", 1, &kept));
}


/* An invalidation that never ended: everybody looks at the tags themselves. */

static void
test_void_killed(void **state)
{
    bool        kept;
    fixture_t  *f = *state;

    put(f, "a", "body", 0, 1000);
    ngx_commerce_near_release(warm(f, "a", 1));

    atomic_fetch_add(&f->store.shm->started, 1);

    ngx_commerce_near_release(get(f, "a", 1, &kept));
    assert_true(kept);

    ngx_commerce_store_invalidate(&f->store, unit_str("another"));
    ngx_commerce_near_release(get(f, "a", 1, &kept));
    assert_true(kept);

    ngx_commerce_store_invalidate(&f->store, unit_str("tag"));
    assert_null(get(f, "a", 1, &kept));
}


static void
test_other_content(void **state)
{
    fixture_t                    *f = *state;
    ngx_commerce_near_entry_t    *old, *new;
    ngx_commerce_store_ticket_t   ticket;

    put(f, "a", "old", 0, 1000);
    old = warm(f, "a", 1);

    put(f, "a", "new", 0, 1000);
    ngx_commerce_store_key(&f->store, unit_str("a"), &ticket);
    ngx_commerce_near_forget(&f->near, &ticket);

    new = warm(f, "a", 1);
    assert_true(is(new, "new"));
    assert_true(is(old, "old"));

    ngx_commerce_near_release(old);
    ngx_commerce_near_release(new);
}


static void
test_stays_within_its_room(void **state)
{
    bool                        kept;
    char                        key[32], body[2000];
    unsigned                    i, n, hits;
    fixture_t                  *f = *state;
    ngx_commerce_near_entry_t  *entry;

    memset(body, 'b', sizeof(body) - 1);
    body[sizeof(body) - 1] = '\0';

    for (i = 0; i < 200; i++) {
        snprintf(key, sizeof(key), "key %u", i);
        memcpy(body, key, strlen(key));
        put(f, key, body, 0, 1000);
    }

    for (n = 0, hits = 0; n < 20; n++) {
        for (i = 0; i < 200; i++) {
            snprintf(key, sizeof(key), "key %u", i);
            entry = get(f, key, 1, &kept);
            assert_non_null(entry);
            assert_int_equal(memcmp((char *) entry->data, key, strlen(key)),
                             0);
            assert_true(f->near.used <= ROOM);
            ngx_commerce_near_release(entry);
            hits += kept;
        }
    }

    assert_true(hits > 0);
    assert_true(f->near.used > ROOM / 2);
}


static void
test_what_is_not_kept(void **state)
{
    bool                  kept;
    char                  body[ROOM / 8];
    unsigned              i;
    fixture_t            *f = *state;
    ngx_commerce_near_t   none;

    memset(body, 'l', sizeof(body) - 1);
    body[sizeof(body) - 1] = '\0';
    put(f, "large", body, 0, 1000);

    for (i = 0; i < TRIES; i++) {
        ngx_commerce_near_release(get(f, "large", 1, &kept));
        assert_false(kept);
    }

    assert_int_equal(f->near.used, 0);

    /* without room everything comes from the store */

    ngx_commerce_near_init(&none, &f->store, 0);
    ngx_commerce_near_free(&f->near);
    f->near = none;
    put(f, "a", "a", 0, 1000);

    for (i = 0; i < TRIES; i++) {
        ngx_commerce_near_release(get(f, "a", 1, &kept));
        assert_false(kept);
    }
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test_setup_teardown(test_kept_and_counted, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_time_is_over, setup, teardown),
        cmocka_unit_test_setup_teardown(test_void, setup, teardown),
        cmocka_unit_test_setup_teardown(test_void_others, setup, teardown),
        cmocka_unit_test_setup_teardown(test_void_killed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_other_content, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stays_within_its_room, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_what_is_not_kept, setup,
                                        teardown),
    };

    return cmocka_run_group_tests_name("near", tests, NULL, NULL);
}
