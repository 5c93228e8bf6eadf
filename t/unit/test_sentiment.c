/*
 * Reviews: what is read of a text, and a model of a few words.
 */

#include "unit.h"

#include <math.h>

#include "ngx_commerce_sentiment.h"


#define BITS  10


static ngx_commerce_sentiment_about_t   about;
static ngx_commerce_sentiment_bucket_t  buckets[1 << BITS];
static ngx_commerce_sentiment_t         model;
static uint8_t                         *file;


static uint32_t
word_of(const char *word)
{
    ngx_commerce_sentiment_text_t  text;

    ngx_commerce_sentiment_read((const uint8_t *) word, strlen(word), &text);
    assert_int_equal(text.words, 1);

    return text.word[0];
}


static void
learn(uint32_t feature, int weight)
{
    ngx_commerce_sentiment_bucket_t  *b;

    b = &buckets[ngx_commerce_sentiment_bucket(feature, BITS)];
    assert_int_equal(b->tag, 0);
    b->weight = weight;
    b->tag = ngx_commerce_sentiment_tag(feature);
}


static uint8_t *
build(size_t *size)
{
    uint8_t                      *out;
    ngx_commerce_pack_section_t   s[] = {
        { NGX_COMMERCE_SENTIMENT_ABOUT, 0, sizeof(about), &about },
        { NGX_COMMERCE_SENTIMENT_BUCKETS, 0, sizeof(buckets), buckets }
    };

    *size = ngx_commerce_pack_size(s, 2);
    out = aligned_alloc(64, *size);
    ngx_commerce_pack_write(out, NGX_COMMERCE_SENTIMENT_KIND,
                            NGX_COMMERCE_SENTIMENT_VERSION, s, 2);

    return out;
}


static int
setup(void **state)
{
    size_t                          size;
    unsigned                        i;
    const char                     *why;
    ngx_commerce_sentiment_text_t   text;

    static const char  *neutral[] = { "it", "is", "was", "the", "lamp", "a" };

    memset(&about, 0, sizeof(about));
    memset(buckets, 0, sizeof(buckets));
    about.bits = BITS;
    about.scale = 0.1;
    about.slope = 1;
    about.neutral = 0.2;

    learn(word_of("good"), 100);
    learn(word_of("awful"), -100);

    for (i = 0; i < 6; i++) {
        learn(word_of(neutral[i]), 0);
    }

    /* "not good" as a negated word */

    ngx_commerce_sentiment_read((const uint8_t *) "not good", 8, &text);
    assert_int_equal(text.n, 3);
    learn(text.feature[1], -100);

    file = build(&size);

    if (ngx_commerce_sentiment_open(&model, file, size, &why)
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


static ngx_commerce_sentiment_answer_t
ask(const char *text)
{
    unit_arena_t                      arena;
    ngx_commerce_sentiment_answer_t   answer;

    unit_arena(&arena);
    ngx_commerce_sentiment(&model, unit_tight(&arena, text, strlen(text)),
                           strlen(text), &answer);
    unit_free(&arena);

    return answer;
}


static void
reading(void **state)
{
    unsigned                        i;
    ngx_commerce_sentiment_text_t   a, b;

    static const char  *same[][2] = {
        { "I don't like it.", "i do n't like it ." },
        { "It\xe2\x80\x99s GOOD", "it 's good" },
        { "can't", "ca n't" },
        { "'quoted'", "quoted" },
        { "a  b\n\tc", "a b c" }
    };

    for (i = 0; i < 5; i++) {
        ngx_commerce_sentiment_read((const uint8_t *) same[i][0],
                                    strlen(same[i][0]), &a);
        ngx_commerce_sentiment_read((const uint8_t *) same[i][1],
                                    strlen(same[i][1]), &b);
        assert_int_equal(a.n, b.n);
        assert_memory_equal(a.feature, b.feature, a.n * sizeof(uint32_t));
    }

    /* nothing twice */

    ngx_commerce_sentiment_read((const uint8_t *) "so so so so", 11, &a);
    assert_int_equal(a.words, 4);
    assert_int_equal(a.n, 2);

    /* a comma ends what a negation reaches */

    ngx_commerce_sentiment_read((const uint8_t *) "not, good", 9, &a);
    assert_int_equal(a.feature[1], word_of("good"));
    ngx_commerce_sentiment_read((const uint8_t *) "not good", 8, &a);
    assert_int_not_equal(a.feature[1], word_of("good"));
    assert_int_equal(a.word[1], word_of("good"));

    ngx_commerce_sentiment_read((const uint8_t *) "", 0, &a);
    assert_int_equal(a.n, 0);
}


static void
labels(void **state)
{
    ngx_commerce_sentiment_answer_t  a;

    a = ask("It is a good lamp");
    assert_true(a.answered);
    assert_int_equal(a.label, NGX_COMMERCE_SENTIMENT_POSITIVE);
    assert_float_equal(a.score, 2 * a.probability - 1, 1e-6);
    assert_true(a.confidence > 0.9);

    a = ask("The lamp was awful");
    assert_int_equal(a.label, NGX_COMMERCE_SENTIMENT_NEGATIVE);
    assert_true(a.score < -0.9);

    a = ask("It was not good");
    assert_int_equal(a.label, NGX_COMMERCE_SENTIMENT_NEGATIVE);

    a = ask("It is a lamp");
    assert_true(a.answered);
    assert_int_equal(a.label, NGX_COMMERCE_SENTIMENT_NEUTRAL);
    assert_float_equal(a.score, 0, 1e-6);

    /* few known words: nearer to the middle */

    assert_true(ask("good it is was the lamp").score
                > ask("good it frobs glubs snarfs vex").score);
}


static void
languages(void **state)
{
    assert_false(ask("").answered);
    assert_false(ask(" ... !").answered);
    assert_false(ask("Das ist eine sehr good Lampe und ich bin froh").answered);
    assert_false(ask("La lampara es muy good para el lo").answered);
    assert_false(ask("\xd0\x9e\xd1\x82\xd0\xbb\xd0\xb8\xd1\x87\xd0\xbd\xd0\xbe"
                     " good \xd0\xbb\xd0\xb0\xd0\xbc\xd0\xbf\xd0\xb0").answered);
    assert_false(ask("xyzzy").answered);
    assert_true(ask("good").answered);
}


static void
bounds(void **state)
{
    char                            *text;
    size_t                           i, len;
    uint32_t                         random;
    ngx_commerce_sentiment_text_t    read;
    ngx_commerce_sentiment_answer_t  a;

    len = 1 << 20;
    text = malloc(len);
    random = 1;

    for (i = 0; i < len; i++) {
        random = random * 1664525 + 1013904223;
        text[i] = (i % 5 == 4) ? ' ' : 'a' + (random >> 16) % 26;
    }

    ngx_commerce_sentiment_read((uint8_t *) text, len, &read);
    assert_int_equal(read.words, NGX_COMMERCE_SENTIMENT_WORDS);
    assert_int_equal(read.n, NGX_COMMERCE_SENTIMENT_FEATURES);

    memset(text, 'x', len);
    ngx_commerce_sentiment(&model, (uint8_t *) text, len, &a);
    assert_false(a.answered);
    memset(text, 0xff, len);
    ngx_commerce_sentiment(&model, (uint8_t *) text, len, &a);
    assert_false(a.answered);
    free(text);
}


static void
hostile(void **state)
{
    size_t                           size, i;
    unsigned                         k;
    uint8_t                         *bytes;
    const char                      *why;
    ngx_commerce_sentiment_t         m;
    ngx_commerce_sentiment_about_t   kept = about;

    for (k = 0; k < 6; k++) {
        about = kept;

        switch (k) {
        case 0: about.bits = BITS + 1; break;
        case 1: about.bits = 40; break;
        case 2: about.scale = NAN; break;
        case 3: about.slope = INFINITY; break;
        case 4: about.neutral = 2; break;
        case 5: about.bias = -NAN; break;
        }

        bytes = build(&size);
        assert_int_equal(ngx_commerce_sentiment_open(&m, bytes, size, &why),
                         NGX_COMMERCE_INVALID);
        assert_non_null(why);
        free(bytes);
    }

    about = kept;
    bytes = build(&size);

    for (i = 0; i < size; i += (i < 256) ? 1 : 64) {
        assert_int_equal(ngx_commerce_sentiment_open(&m, bytes, i, &why),
                         NGX_COMMERCE_INVALID);
    }

    free(bytes);
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(reading),
        cmocka_unit_test_setup_teardown(labels, setup, teardown),
        cmocka_unit_test_setup_teardown(languages, setup, teardown),
        cmocka_unit_test_setup_teardown(bounds, setup, teardown),
        cmocka_unit_test_setup_teardown(hostile, setup, teardown)
    };

    return cmocka_run_group_tests_name("sentiment", tests, NULL, NULL);
}
