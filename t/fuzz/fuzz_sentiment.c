/*
 * libFuzzer target: sentiment.  An input is a review, scored by a model that
 * was made here, and a model, with its sums put right, that scores a review.
 */

#include "fuzz.h"

#include <math.h>

#include "ngx_commerce_sentiment.h"


static void
judge(const ngx_commerce_sentiment_t *model, const uint8_t *text, size_t len)
{
    ngx_commerce_sentiment_answer_t  a;

    ngx_commerce_sentiment(model, text, len, &a);
    assert(a.score >= -1 && a.score <= 1);
    assert(a.probability >= 0 && a.probability <= 1);
    assert(a.confidence >= 0 && a.confidence <= 1);
    assert(a.answered || (a.score == 0 && a.label == 0));
}


static const ngx_commerce_sentiment_t *
own(void)
{
    unsigned                                i;
    static ngx_commerce_sentiment_t         model;
    static ngx_commerce_sentiment_about_t   about;
    static ngx_commerce_sentiment_bucket_t  bucket[256];

    about.bits = 8;
    about.scale = 3;
    about.slope = 1;

    for (i = 0; i < 256; i++) {
        bucket[i].weight = i;
        bucket[i].tag = i * 7;
    }

    model.about = &about;
    model.buckets = bucket;

    return &model;
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t                         *copy;
    size_t                           len;
    const char                      *why;
    ngx_commerce_sentiment_t         model;
    ngx_commerce_pack_section_t      s[2];

    judge(own(), data, size);

    if (posix_memalign((void **) &copy, 64, size + 1) != 0) {
        return 0;
    }

    memcpy(copy, data, size);

    if (ngx_commerce_sentiment_open(&model, copy, size, &why)
        == NGX_COMMERCE_OK)
    {
        judge(&model, copy, size);
    }

    free(copy);

    /* the same bytes as description and buckets */

    if (size < sizeof(ngx_commerce_sentiment_about_t)) {
        return 0;
    }

    s[0].id = NGX_COMMERCE_SENTIMENT_ABOUT;
    s[0].data = data;
    s[0].len = sizeof(ngx_commerce_sentiment_about_t);
    s[1].id = NGX_COMMERCE_SENTIMENT_BUCKETS;
    s[1].data = data + s[0].len;
    s[1].len = size - s[0].len;

    len = ngx_commerce_pack_size(s, 2);

    if (posix_memalign((void **) &copy, 64, len) != 0) {
        return 0;
    }

    ngx_commerce_pack_write(copy, NGX_COMMERCE_SENTIMENT_KIND,
                            NGX_COMMERCE_SENTIMENT_VERSION, s, 2);

    if (ngx_commerce_sentiment_open(&model, copy, len, &why)
        == NGX_COMMERCE_OK)
    {
        judge(&model, (const uint8_t *) "not a good lamp, is it?", 23);
        judge(&model, data, size);
    }

    free(copy);

    return 0;
}
