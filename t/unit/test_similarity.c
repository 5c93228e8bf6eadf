/*
 * The table of recommendations: the container, the reader, what is made of it.
 */

#include "unit.h"

#include <math.h>

#include "ngx_commerce_recommend.h"


#define ITEMS  300


/* A table that can be calculated by heart: product i has ids 10 × i + 7. */

typedef struct {
    ngx_commerce_similarity_about_t    about;
    uint64_t                           ids[ITEMS];
    ngx_commerce_similarity_row_t      rows[ITEMS];
    ngx_commerce_similarity_shares_t   shares[ITEMS];
    uint32_t                           cold[2];
    ngx_commerce_similarity_row_t      cold_rows[2];
    float                              popularity[ITEMS];
    ngx_commerce_similarity_list_t     lists[3];
    ngx_commerce_similarity_entry_t    entries[ITEMS + 4];
    ngx_commerce_similarity_vector_t   vectors[ITEMS];
} parts_t;


static void
fill(parts_t *p)
{
    uint32_t  i, k;

    memset(p, 0, sizeof(parts_t));

    p->about.tenant_id = 1;
    p->about.items = ITEMS;
    p->about.cold = 2;
    p->about.position_decay = 0.5;
    p->about.popularity_weight = 0.2;
    strcpy(p->about.collaborative, "ridge");
    strcpy(p->about.content, "tfidf");

    for (i = 0; i < NGX_COMMERCE_EVENTS; i++) {
        p->about.event_weight[i] = 1;
    }

    p->about.event_weight[NGX_COMMERCE_EVENT_DISMISS] = -1;

    for (i = 0; i < ITEMS; i++) {
        p->ids[i] = 10 * i + 7;
        p->popularity[i] = (ITEMS - i) / (float) ITEMS;
        p->entries[i].item = i;
        p->entries[i].score = ITEMS - i;
        p->vectors[i].x[i % NGX_COMMERCE_SIMILARITY_DIMENSIONS] = 127;

        /* the last ones have no neighbours */

        if (i < ITEMS - 2) {
            p->rows[i].count = 3;
            p->rows[i].scale = 1 / 255.0f;

            for (k = 0; k < 3; k++) {
                p->rows[i].item[k] = (i + k + 1) % ITEMS;
                p->rows[i].weight[k] = 255 - 100 * k;
            }

            p->shares[i].content[1] = 255;
        }
    }

    for (i = 0; i < 2; i++) {
        p->cold[i] = ITEMS - 2 + i;
        p->cold_rows[i].count = 1;
        p->cold_rows[i].scale = 1;
        p->cold_rows[i].weight[0] = 255;
        p->cold_rows[i].item[0] = i;
    }

    p->lists[0].count = ITEMS;

    for (i = 1; i < 3; i++) {
        p->lists[i].kind = NGX_COMMERCE_LIST_TRENDING;
        p->lists[i].category = (i == 1) ? 0 : 42;
        p->lists[i].first = ITEMS + 2 * (i - 1);
        p->lists[i].count = 2;

        for (k = 0; k < 2; k++) {
            p->entries[p->lists[i].first + k].item = 100 * i + k;
            p->entries[p->lists[i].first + k].score = 3 - k;
        }
    }
}


static uint8_t *
build(parts_t *p, size_t *size)
{
    uint8_t                      *out;
    ngx_commerce_pack_section_t   s[] = {
        { NGX_COMMERCE_SIMILARITY_ABOUT, 0, sizeof(p->about), &p->about },
        { NGX_COMMERCE_SIMILARITY_ITEMS, 0, sizeof(p->ids), p->ids },
        { NGX_COMMERCE_SIMILARITY_ROWS, 0, sizeof(p->rows), p->rows },
        { NGX_COMMERCE_SIMILARITY_SHARES, 0, sizeof(p->shares), p->shares },
        { NGX_COMMERCE_SIMILARITY_COLD, 0, sizeof(p->cold), p->cold },
        { NGX_COMMERCE_SIMILARITY_COLD_ROWS, 0, sizeof(p->cold_rows),
          p->cold_rows },
        { NGX_COMMERCE_SIMILARITY_POPULARITY, 0, sizeof(p->popularity),
          p->popularity },
        { NGX_COMMERCE_SIMILARITY_LIST, 0, sizeof(p->lists), p->lists },
        { NGX_COMMERCE_SIMILARITY_ENTRIES, 0, sizeof(p->entries), p->entries },
        { NGX_COMMERCE_SIMILARITY_VECTORS, 0, sizeof(p->vectors), p->vectors }
    };

    *size = ngx_commerce_pack_size(s, 10);
    out = aligned_alloc(64, *size);
    assert_non_null(out);
    ngx_commerce_pack_write(out, NGX_COMMERCE_SIMILARITY_KIND,
                            NGX_COMMERCE_SIMILARITY_VERSION, s, 10);

    return out;
}


static parts_t                    parts;
static ngx_commerce_similarity_t  table;
static uint8_t                   *file;
static size_t                     file_size;


static int
setup(void **state)
{
    const char  *why;

    fill(&parts);
    file = build(&parts, &file_size);

    if (ngx_commerce_similarity_open(&table, file, file_size, &why)
        != NGX_COMMERCE_OK)
    {
        fail_msg("%s", why);
    }

    return 0;
}


static int
teardown(void **state)
{
    free(file);

    return 0;
}


static void
crc(void **state)
{
    uint32_t  sum;
    uint8_t   zeros[32] = { 0 };

    /* RFC 3720, B.4 */

    assert_int_equal(ngx_commerce_crc32c(0, zeros, 32), 0x8a9136aa);
    assert_int_equal(ngx_commerce_crc32c(0, "123456789", 9), 0xe3069283);

    sum = ngx_commerce_crc32c(0, "1234", 4);
    assert_int_equal(ngx_commerce_crc32c(sum, "56789", 5), 0xe3069283);
}


static void
reads(void **state)
{
    uint32_t                                i;
    const ngx_commerce_similarity_entry_t  *entries;

    assert_int_equal(table.items, ITEMS);

    for (i = 0; i < ITEMS; i++) {
        assert_int_equal(ngx_commerce_similarity_find(&table, 10 * i + 7), i);
        assert_int_equal(ngx_commerce_similarity_find(&table, 10 * i + 8),
                         NGX_COMMERCE_SIMILARITY_NONE);
    }

    assert_int_equal(ngx_commerce_similarity_find(&table, 0),
                     NGX_COMMERCE_SIMILARITY_NONE);
    assert_int_equal(ngx_commerce_similarity_find(&table, UINT64_MAX),
                     NGX_COMMERCE_SIMILARITY_NONE);

    assert_null(ngx_commerce_similarity_cold(&table, 0));
    assert_int_equal(ngx_commerce_similarity_cold(&table, ITEMS - 1)->item[0],
                     1);

    assert_int_equal(ngx_commerce_similarity_list(&table,
                         NGX_COMMERCE_LIST_TRENDING, 42, &entries), 2);
    assert_int_equal(entries[0].item, 200);
    assert_int_equal(ngx_commerce_similarity_list(&table,
                         NGX_COMMERCE_LIST_POPULAR, 42, &entries), 0);
    assert_null(entries);

    assert_float_equal(ngx_commerce_similarity_cosine(&table, 1, 65), 1, 1e-6);
    assert_float_equal(ngx_commerce_similarity_cosine(&table, 1, 2), 0, 1e-6);
}


/* No cut of the file is a file, nor anything with one bit changed. */

static void
damaged(void **state)
{
    size_t                      i;
    uint8_t                    *copy;
    const char                 *why;
    ngx_commerce_similarity_t   t;

    copy = aligned_alloc(64, file_size);
    memcpy(copy, file, file_size);

    for (i = 0; i < file_size; i += (i < 1024) ? 1 : 64) {
        assert_int_equal(ngx_commerce_similarity_open(&t, copy, i, &why),
                         NGX_COMMERCE_INVALID);
        assert_non_null(why);
    }

    for (i = 0; i < file_size; i += (i < 1024) ? 1 : 997) {
        copy[i] ^= 1 << (i % 8);

        /* only the bytes between sections are nobody's */

        if (ngx_commerce_similarity_open(&t, copy, file_size, &why)
            == NGX_COMMERCE_OK)
        {
            assert_true(copy[i] == (1 << (i % 8)));
        }

        copy[i] ^= 1 << (i % 8);
    }

    assert_int_equal(ngx_commerce_similarity_open(&t, copy + 8, file_size - 8,
                                                  &why),
                     NGX_COMMERCE_INVALID);
    free(copy);
}


/* Files whose sums are right and whose contents are not. */

static void
hostile(void **state)
{
    unsigned                    i;
    size_t                      size;
    uint8_t                    *bytes;
    const char                 *why;
    static parts_t              bad;
    ngx_commerce_similarity_t   t;

    for (i = 0; i < 25; i++) {
        fill(&bad);

        switch (i) {
        case 0: bad.rows[5].item[2] = ITEMS; break;
        case 1: bad.rows[5].item[49] = UINT32_MAX; break;
        case 2: bad.rows[5].count = 51; break;
        case 3: bad.rows[5].scale = NAN; break;
        case 4: bad.rows[5].weight[2] = 255; break;
        case 5: bad.cold[1] = ITEMS; break;
        case 6: bad.cold[1] = bad.cold[0]; break;
        case 7: bad.cold_rows[0].item[0] = ITEMS; break;
        case 8: bad.lists[2].count = ITEMS + 5; break;
        case 9: bad.lists[2].first = UINT32_MAX; break;
        case 10: bad.lists[2].category = 0; break;
        case 11: bad.lists[2].kind = NGX_COMMERCE_LISTS; break;
        case 12: bad.entries[ITEMS + 3].item = ITEMS; break;
        case 13: bad.ids[7] = bad.ids[6]; break;
        case 14: bad.popularity[ITEMS - 1] = INFINITY; break;
        case 15: bad.about.items = ITEMS + 1; break;
        case 16: bad.about.cold = 1; break;
        case 17: memset(bad.about.content, 'x', 32); break;
        case 18: bad.about.diversity = -1; break;
        case 19: bad.about.event_weight[2] = NAN; break;
        case 20: bad.rows[5].item[2] = bad.rows[5].item[0]; break;
        case 21:
            bad.cold_rows[1].count = 2;
            bad.cold_rows[1].item[1] = bad.cold_rows[1].item[0];
            break;
        case 22: strcpy(bad.about.content, "a\"b"); break;
        case 23: strcpy(bad.about.collaborative, "\xff"); break;
        case 24: bad.about.created = INT64_MAX; break;
        }

        bytes = build(&bad, &size);

        if (ngx_commerce_similarity_open(&t, bytes, size, &why)
            != NGX_COMMERCE_INVALID)
        {
            fail_msg("case %u was accepted", i);
        }

        free(bytes);
    }
}


static bool
odd(void *ctx, uint32_t item)
{
    (*(uint32_t *) ctx)++;

    return item % 2 == 1;
}


static bool
all_but_last(void *ctx, uint32_t item)
{
    return item != ITEMS - 1;
}


static ngx_commerce_recommend_scratch_t *
scratch(unit_arena_t *arena, uint32_t events)
{
    ngx_commerce_recommend_scratch_t  *s;

    unit_arena(arena);
    s = ngx_commerce_recommend_scratch(&arena->alloc, events);
    assert_non_null(s);

    return s;
}


static void
personal(void **state)
{
    uint32_t                           n, asked;
    unit_arena_t                       arena;
    ngx_commerce_recommend_query_t     query;
    ngx_commerce_recommend_answer_t    a[NGX_COMMERCE_RECOMMEND_LIMIT];
    ngx_commerce_recommend_reason_t    reason;
    ngx_commerce_recommend_scratch_t  *s = scratch(&arena, 20);
    ngx_commerce_recommend_event_t     events[] = {
        { 200, NGX_COMMERCE_EVENT_VIEW, 0 },
        { 202, NGX_COMMERCE_EVENT_CART, 0 },
        { ITEMS + 9, NGX_COMMERCE_EVENT_CART, 0 }
    };

    ngx_commerce_recommend_query(&table, &query);
    query.events = events;
    query.nevents = 3;
    query.popularity = 0;

    /* 201: 1; 203: 55/255 + 1/2; 204: 1/2 × 155/255; 205: 1/2 × 55/255 */

    n = ngx_commerce_recommend(&table, s, &query, a);
    assert_int_equal(n, 10);
    assert_int_equal(a[0].item, 201);
    assert_int_equal(a[1].item, 203);
    assert_int_equal(a[2].item, 204);
    assert_int_equal(a[3].item, 205);
    assert_float_equal(a[0].score, 1, 1e-4);
    assert_float_equal(a[1].score, 55 / 255.0 + 0.5, 1e-4);

    /* the rest is popular */

    assert_int_equal(a[4].item, 0);

    ngx_commerce_recommend_explain(&table, &query, &a[1], &reason);
    assert_int_equal(reason.source, 202);
    assert_int_equal(reason.event, NGX_COMMERCE_EVENT_CART);
    assert_float_equal(reason.collaborative, 1, 1e-3);

    ngx_commerce_recommend_explain(&table, &query, &a[2], &reason);
    assert_float_equal(reason.content, 1, 1e-3);

    ngx_commerce_recommend_explain(&table, &query, &a[4], &reason);
    assert_int_equal(reason.source, NGX_COMMERCE_SIMILARITY_NONE);
    assert_float_equal(reason.popularity, 1, 1e-3);

    /* neighbours only */

    query.popularity = -1;
    assert_int_equal(ngx_commerce_recommend(&table, s, &query, a), 4);

    /* popularity can win */

    query.popularity = 100;
    ngx_commerce_recommend(&table, s, &query, a);
    assert_int_equal(a[0].item, 0);

    /* what is excluded is not there, and not asked more than needed */

    query.popularity = 0;
    query.excluded = odd;
    query.ctx = &asked;
    asked = 0;
    n = ngx_commerce_recommend(&table, s, &query, a);
    assert_int_equal(n, 10);
    assert_int_equal(a[0].item, 204);
    assert_in_range(asked, 30, 70);

    /* dismissed ones speak against their neighbours */

    events[0].event = NGX_COMMERCE_EVENT_DISMISS;
    query.excluded = NULL;
    n = ngx_commerce_recommend(&table, s, &query, a);
    assert_int_equal(a[0].item, 204);

    while (n-- != 0) {
        assert_true(a[n].item != 200 && a[n].item != 201 && a[n].item != 202);
    }

    /* something to show is found at the end of the list */

    query.excluded = all_but_last;
    assert_int_equal(ngx_commerce_recommend(&table, s, &query, a), 1);
    assert_int_equal(a[0].item, ITEMS - 1);

    /* the history's own products, when they may */

    events[0].event = NGX_COMMERCE_EVENT_VIEW;
    query.excluded = NULL;
    query.again = true;
    ngx_commerce_recommend(&table, s, &query, a);
    assert_int_equal(a[0].item, 201);
    assert_int_equal(a[1].item, 203);
    assert_int_equal(a[2].item, 202);

    unit_free(&arena);
}


/* One basket has one position; an old event counts less when the table says so. */

static void
times(void **state)
{
    unit_arena_t                       arena;
    ngx_commerce_recommend_query_t     query;
    ngx_commerce_recommend_answer_t    a[10];
    ngx_commerce_recommend_scratch_t  *s = scratch(&arena, 20);
    ngx_commerce_recommend_event_t     events[] = {
        { 10, NGX_COMMERCE_EVENT_PURCHASE, 86400000 },
        { 20, NGX_COMMERCE_EVENT_PURCHASE, 86400000 },
        { 30, NGX_COMMERCE_EVENT_PURCHASE, 86300000 }
    };

    ngx_commerce_recommend_query(&table, &query);
    query.events = events;
    query.nevents = 3;
    query.popularity = -1;
    ngx_commerce_recommend(&table, s, &query, a);

    assert_int_equal(a[0].item, 11);
    assert_int_equal(a[1].item, 21);
    assert_float_equal(a[1].score, 1, 1e-4);
    assert_int_equal(a[4].item, 31);
    assert_float_equal(a[4].score, 0.5, 1e-4);

    parts.about.age_days = 1;
    table.about = &parts.about;
    query.now = 2 * 86400000LL;
    events[2].time = 0;
    ngx_commerce_recommend(&table, s, &query, a);

    /* without a time an event has no age: e⁻¹ against a half */

    assert_int_equal(a[0].item, 31);
    assert_float_equal(a[0].score, 1, 1e-4);

    unit_free(&arena);
}


static void
without_history(void **state)
{
    uint32_t                           i, n;
    unit_arena_t                       arena;
    ngx_commerce_recommend_query_t     query;
    ngx_commerce_recommend_answer_t    a[NGX_COMMERCE_RECOMMEND_LIMIT];
    ngx_commerce_recommend_scratch_t  *s = scratch(&arena, 20);

    ngx_commerce_recommend_query(&table, &query);
    query.limit = 1000;
    n = ngx_commerce_recommend(&table, s, &query, a);
    assert_int_equal(n, NGX_COMMERCE_RECOMMEND_LIMIT);

    for (i = 0; i < n; i++) {
        assert_int_equal(a[i].item, i);
    }

    query.limit = 2;
    assert_int_equal(ngx_commerce_recommend_list(&table,
                         NGX_COMMERCE_LIST_TRENDING, 0, &query, a), 2);
    assert_int_equal(a[0].item, 100);
    assert_int_equal(ngx_commerce_recommend_list(&table,
                         NGX_COMMERCE_LIST_TRENDING, 7, &query, a), 0);

    unit_free(&arena);
}


/* open() does not look for it in the lists: an answer has each product once all the same. */

static void
list_of_one_thing(void **state)
{
    size_t                           size;
    uint8_t                         *bytes;
    const char                      *why;
    static parts_t                   p;
    ngx_commerce_similarity_t        t;
    ngx_commerce_recommend_query_t   query;
    ngx_commerce_recommend_answer_t  a[10];

    fill(&p);
    p.entries[ITEMS + 1].item = p.entries[ITEMS].item;
    bytes = build(&p, &size);
    assert_int_equal(ngx_commerce_similarity_open(&t, bytes, size, &why),
                     NGX_COMMERCE_OK);

    ngx_commerce_recommend_query(&t, &query);
    assert_int_equal(ngx_commerce_recommend_list(&t,
                         NGX_COMMERCE_LIST_TRENDING, 0, &query, a), 1);
    assert_int_equal(a[0].item, p.entries[ITEMS].item);

    free(bytes);
}


static void
similar(void **state)
{
    ngx_commerce_recommend_query_t   query;
    ngx_commerce_recommend_answer_t  a[10];

    ngx_commerce_recommend_query(&table, &query);
    assert_int_equal(ngx_commerce_recommend_similar(&table, 3, &query, a), 3);
    assert_int_equal(a[0].item, 4);
    assert_float_equal(a[0].score, 1, 1e-6);

    /* a new product has its words */

    assert_int_equal(ngx_commerce_recommend_similar(&table, ITEMS - 1, &query,
                                                    a), 1);
    assert_int_equal(a[0].item, 1);
    assert_int_equal(ngx_commerce_recommend_similar(&table, ITEMS, &query, a),
                     0);
}


/* 4, 68 and 132 have the same vector: with diversity they do not stand together. */

static void
diverse(void **state)
{
    uint32_t                           i;
    unit_arena_t                       arena;
    ngx_commerce_recommend_query_t     query;
    ngx_commerce_recommend_answer_t    a[10];
    ngx_commerce_recommend_scratch_t  *s = scratch(&arena, 20);
    ngx_commerce_recommend_event_t     event = { 3, NGX_COMMERCE_EVENT_VIEW,
                                                 0 };

    for (i = 0; i < 2; i++) {
        parts.rows[3].item[1] = 68;
        parts.rows[3].item[2] = 132;
        table.rows = parts.rows;

        ngx_commerce_recommend_query(&table, &query);
        query.events = &event;
        query.nevents = 1;
        query.popularity = 0.01;
        query.diversity = i ? 0.6 : 0;
        ngx_commerce_recommend(&table, s, &query, a);

        assert_int_equal(a[0].item, 4);
        assert_int_equal(a[1].item == 68, i == 0);
        assert_int_equal(a[2].item == 132, i == 0);
    }

    unit_free(&arena);
}


/* More events than the scratch was made for, of all products, twice: the slots are free again each time. */

static void
bounds(void **state)
{
    uint32_t                           i, pass;
    unit_arena_t                       arena;
    ngx_commerce_recommend_query_t     query;
    ngx_commerce_recommend_answer_t    a[10], b[10];
    ngx_commerce_recommend_event_t     events[ITEMS];
    ngx_commerce_recommend_scratch_t  *s = scratch(&arena, 5);

    for (i = 0; i < ITEMS; i++) {
        events[i].item = i;
        events[i].event = 99;
        events[i].time = 0;
    }

    ngx_commerce_recommend_query(&table, &query);
    query.events = events;
    query.nevents = ITEMS;
    ngx_commerce_recommend(&table, s, &query, a);

    for (pass = 0; pass < 100; pass++) {
        assert_int_equal(ngx_commerce_recommend(&table, s, &query, b), 10);
        assert_memory_equal(a, b, sizeof(a));
    }

    unit_free(&arena);

    for (i = 0; i < 1; i++) {
        unit_arena(&arena);
        arena.left = i;
        assert_null(ngx_commerce_recommend_scratch(&arena.alloc, 5));
        unit_free(&arena);
    }
}


static void
events(void **state)
{
    assert_int_equal(ngx_commerce_event("purchase", 8),
                     NGX_COMMERCE_EVENT_PURCHASE);
    assert_int_equal(ngx_commerce_event("add_to_wishlist", 15),
                     NGX_COMMERCE_EVENT_WISHLIST);
    assert_int_equal(ngx_commerce_event("view", 3), NGX_COMMERCE_EVENTS);
    assert_int_equal(ngx_commerce_event("", 0), NGX_COMMERCE_EVENTS);
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(crc),
        cmocka_unit_test_setup_teardown(reads, setup, teardown),
        cmocka_unit_test_setup_teardown(damaged, setup, teardown),
        cmocka_unit_test(hostile),
        cmocka_unit_test(list_of_one_thing),
        cmocka_unit_test_setup_teardown(personal, setup, teardown),
        cmocka_unit_test_setup_teardown(times, setup, teardown),
        cmocka_unit_test_setup_teardown(without_history, setup, teardown),
        cmocka_unit_test_setup_teardown(similar, setup, teardown),
        cmocka_unit_test_setup_teardown(diverse, setup, teardown),
        cmocka_unit_test_setup_teardown(bounds, setup, teardown),
        cmocka_unit_test(events)
    };

    return cmocka_run_group_tests_name("similarity", tests, NULL, NULL);
}
