/*
 * libFuzzer target: tables of recommendations.  The sums of the input are put
 * right first, so that what lies behind them is reached; then whatever open()
 * accepts is read in every way there is.
 */

#include "fuzz.h"

#include "ngx_commerce_recommend.h"


static void
seal(uint8_t *data, size_t size)
{
    size_t    i;
    uint32_t  n, crc;
    uint64_t  offset, len;

    if (size < 64) {
        return;
    }

    memcpy(&n, data + 20, 4);
    n %= NGX_COMMERCE_PACK_SECTIONS;

    if (size < 64 + 24 * (size_t) n) {
        return;
    }

    for (i = 0; i < n; i++) {
        memcpy(&offset, data + 64 + 24 * i + 8, 8);
        memcpy(&len, data + 64 + 24 * i + 16, 8);

        if (offset <= size && len <= size - offset) {
            crc = ngx_commerce_crc32c(0, data + offset, len);
            memcpy(data + 64 + 24 * i + 4, &crc, 4);
        }
    }

    memset(data + 60, 0, 4);
    crc = ngx_commerce_crc32c(0, data, 64 + 24 * n);
    memcpy(data + 60, &crc, 4);
}


static bool
excluded(void *ctx, uint32_t item)
{
    return item % 3 == 0;
}


static void
use(const ngx_commerce_similarity_t *table, fuzz_block_t **list)
{
    uint32_t                                i, k, n;
    ngx_commerce_alloc_t                    alloc = { fuzz_alloc, list };
    ngx_commerce_recommend_event_t          events[40];
    ngx_commerce_recommend_query_t          query;
    ngx_commerce_recommend_answer_t         a[NGX_COMMERCE_RECOMMEND_LIMIT];
    ngx_commerce_recommend_reason_t         reason;
    ngx_commerce_recommend_scratch_t       *scratch;

    scratch = ngx_commerce_recommend_scratch(&alloc, 30);
    assert(scratch != NULL);

    for (i = 0; i < 40; i++) {
        events[i].item = i * 7 % (table->items + 2);
        events[i].event = i % (NGX_COMMERCE_EVENTS + 1);
        events[i].time = i % 5;
    }

    for (k = 0; k < 8; k++) {
        ngx_commerce_recommend_query(table, &query);
        query.events = events;
        query.nevents = 5 * k;
        query.limit = 60;
        query.again = k & 1;
        query.excluded = (k & 2) ? excluded : NULL;
        query.popularity = (k & 4) ? -1 : query.popularity;

        n = ngx_commerce_recommend(table, scratch, &query, a);
        assert(n <= NGX_COMMERCE_RECOMMEND_LIMIT);

        for (i = 0; i < n; i++) {
            assert(a[i].item < table->items);
            assert(query.excluded == NULL || a[i].item % 3 != 0);
            ngx_commerce_recommend_explain(table, &query, &a[i], &reason);
            assert(reason.source == NGX_COMMERCE_SIMILARITY_NONE
                   || reason.source < table->items);
        }
    }

    for (i = 0; i < table->items; i++) {
        assert(ngx_commerce_similarity_find(table, table->ids[i]) == i);
        n = ngx_commerce_recommend_similar(table, i, &query, a);

        while (n-- != 0) {
            assert(a[n].item < table->items && a[n].item != i);
        }
    }

    for (i = 0; i < table->nlists; i++) {
        n = ngx_commerce_recommend_list(table, table->lists[i].kind,
                                        table->lists[i].category, &query, a);

        while (n-- != 0) {
            assert(a[n].item < table->items);
        }
    }
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int                         pass;
    uint8_t                    *copy;
    const char                 *why;
    fuzz_block_t               *list = NULL;
    ngx_commerce_rc_t           rc;
    ngx_commerce_similarity_t   table, again;

    if (posix_memalign((void **) &copy, 64, size + 1) != 0) {
        return 0;
    }

    memcpy(copy, data, size);

    for (pass = 0; pass < 2; pass++) {
        rc = ngx_commerce_similarity_open(&table, copy, size, &why);
        assert((rc == NGX_COMMERCE_OK) == (why == NULL));

        if (rc == NGX_COMMERCE_OK) {
            assert(ngx_commerce_similarity_attach(&again, copy, size, &why)
                   == NGX_COMMERCE_OK);
            assert(memcmp(&table, &again, sizeof(table)) == 0);
            use(&table, &list);
        }

        seal(copy, size);
    }

    fuzz_free(list);
    free(copy);

    return 0;
}
