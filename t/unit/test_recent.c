/* ngx_commerce_recent: what customers did last, alone and with many processes at it. */

#define _GNU_SOURCE

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "ngx_commerce_recent.h"


#define SIZE   (64 * 1024)
#define VALID  60000
#define FULL   NGX_COMMERCE_RECENT_EVENTS
#define NEVER  NGX_COMMERCE_RECENT_NEVER
#define DISMISS  6


static const uint8_t  secret[16] = "fedcba9876543210";
static const ngx_commerce_str_t  shop = { 2, (uint8_t *) "1" };

static ngx_commerce_recent_never_t  never;


typedef struct {
    ngx_commerce_recent_t  recent;
    void                  *memory;
} fixture_t;


static int
setup(void **state)
{
    fixture_t  *f;

    f = calloc(1, sizeof(*f));
    f->memory = mmap(NULL, SIZE, PROT_READ|PROT_WRITE, MAP_SHARED|MAP_ANONYMOUS, -1, 0);
    assert_int_equal(ngx_commerce_recent_create(&f->recent, f->memory, SIZE, secret), NGX_COMMERCE_OK);
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


static ngx_commerce_str_t
name(unsigned n)
{
    static char  text[8][16];
    static int   i;
    char        *p = text[i++ % 8];

    return (ngx_commerce_str_t) { sprintf(p, "u:%u", n), (uint8_t *) p };
}


static bool
add(fixture_t *f, unsigned who, uint64_t item, uint32_t event, int64_t time)
{
    ngx_commerce_recent_event_t  e = { item, time, event };

    return ngx_commerce_recent_add(&f->recent, shop, name(who), &e, event == DISMISS);
}


/* Of somebody of whom nothing is heard meanwhile. */

static void
fill(fixture_t *f, unsigned who, int64_t now, const ngx_commerce_recent_event_t *events, uint32_t n, const uint64_t *marks,
    uint32_t m)
{
    uint64_t  s, heard;

    (void) ngx_commerce_recent_look(&f->recent, ngx_commerce_recent_key(&f->recent, shop, name(who)), now, INT64_MAX, &s, &heard);
    ngx_commerce_recent_fill(&f->recent, shop, name(who), now, heard, events, n, marks, m);
}


static void
test_unknown_then_filled_then_added(void **state)
{
    uint32_t                      n;
    uint64_t                      before, after;
    fixture_t                    *f = *state;
    ngx_commerce_recent_event_t   events[FULL], old[2] = { { 9, 2000, 0 }, { 8, 1000, 5 } };

    assert_false(add(f, 1, 5, 0, 100));

    assert_int_equal(ngx_commerce_recent_read(&f->recent, shop, name(1), 5000, VALID, events, &n, &never, &before),
                     NGX_COMMERCE_RECENT_FILL_IT);
    assert_int_equal(n, 0);
    /* nobody goes on without what the database knows */

    assert_int_equal(ngx_commerce_recent_read(&f->recent, shop, name(1), 5001, VALID, events, &n, &never, &before),
                     NGX_COMMERCE_RECENT_FILL_IT);

    /* what comes while the database is asked stays, and is the newest */

    assert_true(add(f, 1, 7, 3, 5002));
    fill(f, 1, 5003, old, 2, NULL, 0);

    assert_int_equal(ngx_commerce_recent_read(&f->recent, shop, name(1), 5004, VALID, events, &n, &never, &before),
                     NGX_COMMERCE_RECENT_KNOWN);
    assert_int_equal(n, 3);
    assert_int_equal(events[0].item, 7);
    assert_int_equal(events[0].event, 3);
    assert_int_equal(events[0].time, 5002);
    assert_int_equal(events[1].item, 9);
    assert_int_equal(events[2].item, 8);
    assert_int_equal(events[2].event, 5);

    assert_true(add(f, 1, 6, 1, 6000));
    (void) ngx_commerce_recent_read(&f->recent, shop, name(1), 6001, VALID, events, &n, &never, &after);
    assert_int_equal(events[0].item, 6);
    assert_int_not_equal(before, after);
}


/* Who only wants to know whether something changed. */

static void
test_a_look_tells_what_reading_tells(void **state)
{
    uint32_t                      n;
    uint64_t                      key, seen, read, heard;
    fixture_t                    *f = *state;
    ngx_commerce_recent_event_t   events[FULL], old = { 9, 2000, 0 };

    key = ngx_commerce_recent_key(&f->recent, shop, name(1));
    assert_int_not_equal(key, 0);
    assert_int_not_equal(key, ngx_commerce_recent_key(&f->recent, shop, name(2)));

    assert_int_equal(ngx_commerce_recent_look(&f->recent, key, 5000, VALID, &seen, &heard), NGX_COMMERCE_RECENT_FILL_IT);
    assert_int_equal(ngx_commerce_recent_look(&f->recent, key, 5001, VALID, &seen, &heard), NGX_COMMERCE_RECENT_FILL_IT);

    fill(f, 1, 5003, &old, 1, NULL, 0);

    assert_int_equal(ngx_commerce_recent_look(&f->recent, key, 5004, VALID, &seen, &heard), NGX_COMMERCE_RECENT_KNOWN);
    assert_int_equal(ngx_commerce_recent_read(&f->recent, shop, name(1), 5004, VALID, events, &n, &never, &read),
                     NGX_COMMERCE_RECENT_KNOWN);
    assert_int_equal(seen, read);

    assert_true(add(f, 1, 6, 1, 6000));
    (void) ngx_commerce_recent_look(&f->recent, key, 6001, VALID, &seen, &heard);
    assert_int_not_equal(seen, read);

    assert_int_equal(ngx_commerce_recent_look(&f->recent, key, 5004 + VALID, VALID, &seen, &heard),
                     NGX_COMMERCE_RECENT_FILL_IT);
    assert_int_equal(ngx_commerce_recent_look(&f->recent, key, 5005 + VALID, VALID, &seen, &heard),
                     NGX_COMMERCE_RECENT_FILLING);
}


static void
test_a_filler_that_dies_is_replaced(void **state)
{
    uint32_t                      n;
    uint64_t                      s;
    fixture_t                    *f = *state;
    ngx_commerce_recent_event_t   events[FULL];

    (void) ngx_commerce_recent_read(&f->recent, shop, name(1), 5000, VALID, events, &n, &never, &s);
    fill(f, 1, 5000, NULL, 0, NULL, 0);

    /* who fills it again does not come back */

    (void) ngx_commerce_recent_read(&f->recent, shop, name(1), 5000 + VALID, VALID, events, &n, &never, &s);
    assert_int_equal(ngx_commerce_recent_read(&f->recent, shop, name(1), 5001 + VALID, VALID, events, &n, &never, &s),
                     NGX_COMMERCE_RECENT_FILLING);
    assert_int_equal(ngx_commerce_recent_read(&f->recent, shop, name(1), 5000 + VALID + NGX_COMMERCE_RECENT_FILL, VALID,
                                              events, &n, &never, &s),
                     NGX_COMMERCE_RECENT_FILL_IT);
}


static void
test_what_is_old_is_filled_again_without_doubles(void **state)
{
    uint32_t                      n;
    uint64_t                      s;
    fixture_t                    *f = *state;
    ngx_commerce_recent_event_t   events[FULL], rows[3] = { { 3, 9000, 0 }, { 2, 4200, 0 }, { 1, 3000, 0 } };

    (void) ngx_commerce_recent_read(&f->recent, shop, name(1), 5000, VALID, events, &n, &never, &s);
    fill(f, 1, 5000, rows + 1, 2, NULL, 0);

    /* the same event, stamped by the database a little later than by the edge */

    assert_true(add(f, 1, 3, 0, 8800));
    assert_int_equal(ngx_commerce_recent_read(&f->recent, shop, name(1), 5000 + VALID, VALID, events, &n, &never, &s),
                     NGX_COMMERCE_RECENT_FILL_IT);
    assert_int_equal(n, 3);

    fill(f, 1, 5000 + VALID, rows, 3, NULL, 0);
    assert_int_equal(ngx_commerce_recent_read(&f->recent, shop, name(1), 5001 + VALID, VALID, events, &n, &never, &s),
                     NGX_COMMERCE_RECENT_KNOWN);
    assert_int_equal(n, 3);
}


/* Two requests at once of a customer who was not here, and a dismissal while they ask. */

static void
test_two_that_fill_at_once(void **state)
{
    uint32_t                      n;
    uint64_t                      key, s, heard, gone = 77;
    fixture_t                    *f = *state;
    ngx_commerce_recent_event_t   events[FULL], rows[2] = { { 2, 4200, 0 }, { 1, 3000, 0 } };

    key = ngx_commerce_recent_key(&f->recent, shop, name(1));

    for (n = 0; n < 2; n++) {
        assert_int_equal(ngx_commerce_recent_look(&f->recent, key, 5000 + n, VALID, &s, &heard), NGX_COMMERCE_RECENT_FILL_IT);
    }

    assert_true(add(f, 1, 88, DISMISS, 5100));
    fill(f, 1, 5200, rows, 2, &gone, 1);
    assert_true(add(f, 1, 3, 0, 5300));
    fill(f, 1, 5400, rows, 2, &gone, 1);

    assert_int_equal(ngx_commerce_recent_read(&f->recent, shop, name(1), 5500, VALID, events, &n, &never, &s),
                     NGX_COMMERCE_RECENT_KNOWN);
    assert_int_equal(n, 4);
    assert_int_equal(never.n, 2);
    assert_true(ngx_commerce_recent_never(&never, 77) && ngx_commerce_recent_never(&never, 88));
}


static void
test_heard_of_from_elsewhere(void **state)
{
    uint32_t                      n;
    uint64_t                      before, after;
    fixture_t                    *f = *state;
    ngx_commerce_recent_event_t   events[FULL], rows[2] = { { 2, 1006000, 0 }, { 1, 1005000, 0 } };

    /* nobody that this node knows */

    ngx_commerce_recent_heard(&f->recent, shop, name(1), 1, 1005000);
    assert_int_equal(ngx_commerce_recent_read(&f->recent, shop, name(1), 1005001, VALID, events, &n, &never, &before),
                     NGX_COMMERCE_RECENT_FILL_IT);
    fill(f, 1, 1005002, rows + 1, 1, NULL, 0);
    (void) ngx_commerce_recent_read(&f->recent, shop, name(1), 1005003, VALID, events, &n, &never, &before);

    /* its own */

    ngx_commerce_recent_heard(&f->recent, shop, name(1), 1, 1005400);
    assert_int_equal(ngx_commerce_recent_read(&f->recent, shop, name(1), 1005500, VALID, events, &n, &never, &after),
                     NGX_COMMERCE_RECENT_KNOWN);
    assert_int_equal(before, after);

    /* another node's: a product that is not here, or that was looked at again */

    ngx_commerce_recent_heard(&f->recent, shop, name(1), 2, 1006000);
    assert_int_equal(ngx_commerce_recent_read(&f->recent, shop, name(1), 1006001, VALID, events, &n, &never, &after),
                     NGX_COMMERCE_RECENT_FILL_IT);
    assert_int_not_equal(before, after);
    assert_int_equal(n, 1);
    fill(f, 1, 1006002, rows, 2, NULL, 0);
    assert_int_equal(ngx_commerce_recent_read(&f->recent, shop, name(1), 1006003, VALID, events, &n, &never, &after),
                     NGX_COMMERCE_RECENT_KNOWN);
    assert_int_equal(n, 2);

    ngx_commerce_recent_heard(&f->recent, shop, name(1), 1, 1050000);
    assert_int_equal(ngx_commerce_recent_read(&f->recent, shop, name(1), 1050001, VALID, events, &n, &never, &after),
                     NGX_COMMERCE_RECENT_FILL_IT);
}


/* The rows are of before: whoever looks next asks again, and of two that fill at once the newer one counts. */

static void
test_heard_of_while_it_is_filled(void **state)
{
    uint32_t                      n;
    int64_t                       now;
    uint64_t                      key, s, old, new;
    fixture_t                    *f = *state;
    ngx_commerce_recent_event_t   events[FULL], rows[3] = { { 3, 1007000, 0 }, { 2, 1006000, 0 }, { 1, 1005000, 0 } };

    key = ngx_commerce_recent_key(&f->recent, shop, name(1));

    /* the first time, and later */

    for (now = 1100000, n = 0; n < 2; n++, now += 2 * VALID) {
        assert_int_equal(ngx_commerce_recent_look(&f->recent, key, now, VALID, &s, &old), NGX_COMMERCE_RECENT_FILL_IT);
        ngx_commerce_recent_heard(&f->recent, shop, name(1), rows[1 - n].item, rows[1 - n].time);
        ngx_commerce_recent_fill(&f->recent, shop, name(1), now + 1, old, rows + 2 - n, 1 + n, NULL, 0);

        assert_int_equal(ngx_commerce_recent_look(&f->recent, key, now + 2, VALID, &s, &new), NGX_COMMERCE_RECENT_FILL_IT);
        ngx_commerce_recent_fill(&f->recent, shop, name(1), now + 3, new, rows + 1 - n, 2 + n, NULL, 0);

        assert_int_equal(ngx_commerce_recent_look(&f->recent, key, now + 4, VALID, &s, &new), NGX_COMMERCE_RECENT_KNOWN);
    }

    (void) ngx_commerce_recent_read(&f->recent, shop, name(1), now, INT64_MAX, events, &n, &never, &s);
    assert_int_equal(n, 3);

    /* its own is here */

    assert_int_equal(ngx_commerce_recent_look(&f->recent, key, now + VALID, VALID, &s, &old), NGX_COMMERCE_RECENT_FILL_IT);
    assert_true(add(f, 1, 4, 0, now + VALID));
    ngx_commerce_recent_heard(&f->recent, shop, name(1), 4, now + VALID + 1);
    ngx_commerce_recent_fill(&f->recent, shop, name(1), now + VALID + 2, old, rows, 3, NULL, 0);
    assert_int_equal(ngx_commerce_recent_look(&f->recent, key, now + VALID + 3, VALID, &s, &new), NGX_COMMERCE_RECENT_KNOWN);
}


/* An order that is taken back while the database is asked: what it says is of before. */

static void
test_forgotten_while_it_is_filled(void **state)
{
    uint32_t                      n;
    uint64_t                      key, s, old, new, bought = 77;
    fixture_t                    *f = *state;
    ngx_commerce_recent_event_t   events[FULL];

    key = ngx_commerce_recent_key(&f->recent, shop, name(1));

    (void) ngx_commerce_recent_look(&f->recent, key, 1000, VALID, &s, &old);
    ngx_commerce_recent_forget(&f->recent, shop, name(1));
    ngx_commerce_recent_fill(&f->recent, shop, name(1), 1001, old, NULL, 0, &bought, 1);

    assert_int_equal(ngx_commerce_recent_look(&f->recent, key, 1002, VALID, &s, &new), NGX_COMMERCE_RECENT_FILL_IT);
    ngx_commerce_recent_fill(&f->recent, shop, name(1), 1003, old, NULL, 0, &bought, 1);
    assert_int_equal(ngx_commerce_recent_look(&f->recent, key, 1004, VALID, &s, &old), NGX_COMMERCE_RECENT_FILL_IT);

    ngx_commerce_recent_fill(&f->recent, shop, name(1), 1005, new, NULL, 0, NULL, 0);
    assert_int_equal(ngx_commerce_recent_read(&f->recent, shop, name(1), 1006, VALID, events, &n, &never, &s),
                     NGX_COMMERCE_RECENT_KNOWN);
    assert_false(ngx_commerce_recent_never(&never, 77));
}


static void
test_fifty_at_most_the_newest(void **state)
{
    uint32_t                      i, n;
    uint64_t                      s;
    fixture_t                    *f = *state;
    ngx_commerce_recent_event_t   events[FULL], rows[FULL];

    for (i = 0; i < FULL; i++) {
        rows[i] = (ngx_commerce_recent_event_t) { 100 + i, 100000 - i * 1000, 0 };
    }

    (void) ngx_commerce_recent_read(&f->recent, shop, name(1), 200000, VALID, events, &n, &never, &s);
    assert_true(add(f, 1, 1, 0, 150000));
    fill(f, 1, 200000, rows, FULL, NULL, 0);
    (void) ngx_commerce_recent_read(&f->recent, shop, name(1), 200000, VALID, events, &n, &never, &s);

    assert_int_equal(n, FULL);
    assert_int_equal(events[0].item, 1);
    assert_int_equal(events[1].item, 100);

    for (i = 0; i < 30; i++) {
        assert_true(add(f, 1, 500 + i, 2, 210000 + i));
    }

    (void) ngx_commerce_recent_read(&f->recent, shop, name(1), 220000, VALID, events, &n, &never, &s);
    assert_int_equal(n, FULL);

    for (i = 0; i < 30; i++) {
        assert_int_equal(events[i].item, 529 - i);
    }
}


/* What is not to be shown again stays so, however much is looked at. */

static void
test_never_outlives_views(void **state)
{
    uint32_t                      i, n;
    uint64_t                      before, after;
    fixture_t                    *f = *state;
    ngx_commerce_recent_event_t   events[FULL];

    (void) ngx_commerce_recent_read(&f->recent, shop, name(1), 1000, VALID, events, &n, &never, &before);
    assert_int_equal(never.n, 0);
    assert_true(add(f, 1, 77, DISMISS, 1001));
    assert_true(add(f, 1, 77, DISMISS, 1002));
    (void) ngx_commerce_recent_read(&f->recent, shop, name(1), 1003, VALID, events, &n, &never, &after);
    assert_int_not_equal(before, after);
    assert_int_equal(never.n, 1);

    for (i = 0; i < 4 * FULL; i++) {
        assert_true(add(f, 1, 1000 + i, 0, 2000 + i));
    }

    (void) ngx_commerce_recent_read(&f->recent, shop, name(1), 5000, VALID, events, &n, &never, &after);
    assert_true(ngx_commerce_recent_never(&never, 77));
    assert_false(ngx_commerce_recent_never(&never, 78));
    assert_false(ngx_commerce_recent_never(&never, 1000));

    for (i = 0; i < n; i++) {
        assert_int_not_equal(events[i].item, 77);
    }

    ngx_commerce_recent_forget(&f->recent, shop, name(1));
    (void) ngx_commerce_recent_read(&f->recent, shop, name(1), 5001, VALID, events, &n, &never, &after);
    assert_false(ngx_commerce_recent_never(&never, 77));
}


/* 250 at most, the newest: of the database, and what came while it was asked. */

static void
test_never_is_filled(void **state)
{
    uint32_t                      i, n;
    uint64_t                      s, items[NEVER];
    fixture_t                    *f = *state;
    ngx_commerce_recent_event_t   events[FULL];

    for (i = 0; i < NEVER; i++) {
        items[i] = 10000 - i;
    }

    (void) ngx_commerce_recent_read(&f->recent, shop, name(1), 1000, VALID, events, &n, &never, &s);
    assert_true(add(f, 1, 77, DISMISS, 1001));
    fill(f, 1, 1002, NULL, 0, items, NEVER);

    (void) ngx_commerce_recent_read(&f->recent, shop, name(1), 1003, VALID, events, &n, &never, &s);
    assert_int_equal(n, 1);
    assert_int_equal(never.n, NEVER);
    assert_true(ngx_commerce_recent_never(&never, 77));
    assert_true(ngx_commerce_recent_never(&never, items[0]));
    assert_true(ngx_commerce_recent_never(&never, items[NEVER - 2]));
    assert_false(ngx_commerce_recent_never(&never, items[NEVER - 1]));

    /* again, with one more: it takes the place of the oldest */

    memmove(items + 1, items, (NEVER - 1) * sizeof(items[0]));
    items[0] = 10001;
    fill(f, 1, 1004 + VALID, NULL, 0, items, 2);

    (void) ngx_commerce_recent_read(&f->recent, shop, name(1), 1005 + VALID, VALID, events, &n, &never, &s);
    assert_int_equal(never.n, NEVER);
    assert_true(ngx_commerce_recent_never(&never, 10001));
    assert_true(ngx_commerce_recent_never(&never, 10000));

    /* and one more that is done here */

    assert_true(add(f, 1, 78, DISMISS, 2000 + VALID));
    (void) ngx_commerce_recent_read(&f->recent, shop, name(1), 2001 + VALID, VALID, events, &n, &never, &s);
    assert_int_equal(never.n, NEVER);
    assert_true(ngx_commerce_recent_never(&never, 78));
    assert_true(ngx_commerce_recent_never(&never, 10000));
}


/* Nobody sees another one's, however small the memory; shops are apart. */

static void
test_customers_are_apart(void **state)
{
    unsigned                      who;
    uint32_t                      i, n;
    uint64_t                      s;
    fixture_t                    *f = *state;
    ngx_commerce_str_t            other = { 2, (uint8_t *) "2" };
    ngx_commerce_recent_event_t   events[FULL], row;

    for (who = 1; who < 2000; who++) {
        (void) ngx_commerce_recent_read(&f->recent, shop, name(who), who, VALID, events, &n, &never, &s);
        assert_int_equal(n, 0);

        row = (ngx_commerce_recent_event_t) { who, 1000, 0 };
        fill(f, who, who, &row, 1, NULL, 0);
        add(f, who / 2, who / 2, 1, who);
        add(f, who - 1, who - 1, 1, who);
    }

    for (who = 1; who < 2000; who++) {
        if (ngx_commerce_recent_read(&f->recent, shop, name(who), 2000, VALID, events, &n, &never, &s)
            != NGX_COMMERCE_RECENT_KNOWN)
        {
            assert_int_equal(n, 0);
        }

        for (i = 0; i < n; i++) {
            assert_int_equal(events[i].item, who);
        }
    }

    (void) ngx_commerce_recent_read(&f->recent, other, name(1999), 2000, VALID, events, &n, &never, &s);
    assert_int_equal(n, 0);
}


static void
test_forgotten(void **state)
{
    uint32_t                      n;
    uint64_t                      s;
    fixture_t                    *f = *state;
    ngx_commerce_recent_event_t   events[FULL], row = { 1, 1000, 0 };

    (void) ngx_commerce_recent_read(&f->recent, shop, name(1), 1000, VALID, events, &n, &never, &s);
    fill(f, 1, 1000, &row, 1, NULL, 0);
    ngx_commerce_recent_forget(&f->recent, shop, name(1));

    assert_int_equal(ngx_commerce_recent_read(&f->recent, shop, name(1), 1001, VALID, events, &n, &never, &s),
                     NGX_COMMERCE_RECENT_FILL_IT);
    assert_int_equal(n, 0);
}


/* Item, kind and time of an event belong together and to the customer, whoever writes and dies. */

static void
hammer(fixture_t *f)
{
    unsigned                      who;
    uint32_t                      i, n;
    uint64_t                      s;
    ngx_commerce_recent_event_t   events[FULL], rows[FULL];

    srandom(getpid());

    for ( ;; ) {
        who = random() % 200;

        if (ngx_commerce_recent_read(&f->recent, shop, name(who), random() % 100000, VALID, events, &n, &never, &s)
            == NGX_COMMERCE_RECENT_FILL_IT)
        {
            for (i = 0; i < FULL; i++) {
                rows[i].item = who * 1000 + i;
                rows[i].event = rows[i].item % 8;
                rows[i].time = 1000 + rows[i].item * 7;
            }

            fill(f, who, 1000, rows, FULL, NULL, 0);
        }

        for (i = 0; i < n; i++) {
            if (events[i].item / 1000 != who || events[i].event != events[i].item % 8
                || events[i].time != (int64_t) (1000 + events[i].item * 7))
            {
                _exit(9);
            }
        }

        /* of what was dismissed nobody has others than his own */

        i = random() % 1000;

        if (ngx_commerce_recent_never(&never, who * 1000 + i) && (who * 1000 + i) % 8 != DISMISS) {
            _exit(10);
        }

        (void) add(f, who, who * 1000 + i, (who * 1000 + i) % 8, 1000 + (who * 1000 + i) * 7);
    }
}


static void
test_killed_at_any_instruction(void **state)
{
    int         i, n, status;
    pid_t       pids[4];
    fixture_t  *f = *state;

    for (i = 0; i < 4; i++) {
        pids[i] = fork();
        if (pids[i] == 0) {
            hammer(f);
        }
    }

    srandom(2);

    for (n = 0; n < 200; n++) {
        usleep(random() % 5000);
        i = random() % 4;

        kill(pids[i], SIGKILL);
        assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
        assert_true(WIFSIGNALED(status));

        pids[i] = fork();
        if (pids[i] == 0) {
            hammer(f);
        }
    }

    for (i = 0; i < 4; i++) {
        kill(pids[i], SIGKILL);
        assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
        assert_true(WIFSIGNALED(status));
    }
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test_setup_teardown(test_unknown_then_filled_then_added, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_look_tells_what_reading_tells, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_filler_that_dies_is_replaced, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_is_old_is_filled_again_without_doubles, setup, teardown),
        cmocka_unit_test_setup_teardown(test_two_that_fill_at_once, setup, teardown),
        cmocka_unit_test_setup_teardown(test_heard_of_from_elsewhere, setup, teardown),
        cmocka_unit_test_setup_teardown(test_heard_of_while_it_is_filled, setup, teardown),
        cmocka_unit_test_setup_teardown(test_forgotten_while_it_is_filled, setup, teardown),
        cmocka_unit_test_setup_teardown(test_fifty_at_most_the_newest, setup, teardown),
        cmocka_unit_test_setup_teardown(test_never_outlives_views, setup, teardown),
        cmocka_unit_test_setup_teardown(test_never_is_filled, setup, teardown),
        cmocka_unit_test_setup_teardown(test_customers_are_apart, setup, teardown),
        cmocka_unit_test_setup_teardown(test_forgotten, setup, teardown),
        cmocka_unit_test_setup_teardown(test_killed_at_any_instruction, setup, teardown)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
