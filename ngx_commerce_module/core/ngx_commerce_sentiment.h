/*
 * How a review sounds: words and pairs of words, hashed, with a weight of
 * 8 bits each, in a file that commerce-train makes.
 *
 * English only.  A text in another language has no answer, which is not the
 * same as a neutral one.  Scoring allocates nothing; open() accepts no file
 * that could lead it out of its memory.
 */

#ifndef NGX_COMMERCE_SENTIMENT_H
#define NGX_COMMERCE_SENTIMENT_H


#include "ngx_commerce_pack.h"


#define NGX_COMMERCE_SENTIMENT_KIND      0x544e5343     /* "CSNT" */
#define NGX_COMMERCE_SENTIMENT_VERSION   1
#define NGX_COMMERCE_SENTIMENT_FEATURES  2048           /* of a text, at most */
#define NGX_COMMERCE_SENTIMENT_WORDS     1024


enum {
    NGX_COMMERCE_SENTIMENT_ABOUT = 1,
    NGX_COMMERCE_SENTIMENT_BUCKETS
};


typedef struct {
    uint32_t  bits;                     /* log2 of the buckets, 8 to 26 */
    uint32_t  known;                    /* buckets in use */
    uint64_t  reviews;                  /* it was trained on */
    int64_t   created;                  /* ms since 1970 */
    float     scale;                    /* of a weight */
    float     bias;
    float     slope;                    /* probability = 1 / (1 + e^-(slope × margin + offset)) */
    float     offset;
    float     neutral;                  /* |score| below this is neutral, 0 to 1 */
    uint32_t  unused[3];                /* zero */
} ngx_commerce_sentiment_about_t;


/* The tag tells whose weight it is: a word that was never seen has none. */

typedef struct {
    int8_t    weight;
    uint8_t   tag;                      /* 0: nobody's */
} ngx_commerce_sentiment_bucket_t;


typedef struct {
    const ngx_commerce_sentiment_about_t   *about;
    const ngx_commerce_sentiment_bucket_t  *buckets;
} ngx_commerce_sentiment_t;


typedef enum {
    NGX_COMMERCE_SENTIMENT_NEGATIVE = -1,
    NGX_COMMERCE_SENTIMENT_NEUTRAL = 0,
    NGX_COMMERCE_SENTIMENT_POSITIVE = 1
} ngx_commerce_sentiment_label_t;


typedef struct {
    bool                            answered;   /* false: not English, or no words */
    ngx_commerce_sentiment_label_t  label;
    float                           score;      /* -1 to 1: 2 × probability - 1 */
    float                           probability;  /* of being positive, calibrated */
    float                           confidence; /* of the label: of the likelier side, low for unknown words */
} ngx_commerce_sentiment_answer_t;


/* Reads a model of "size" bytes at "data" (aligned to 64) and checks all of it. */

ngx_commerce_rc_t ngx_commerce_sentiment_open(ngx_commerce_sentiment_t *model,
    const void *data, size_t size, const char **why);

void ngx_commerce_sentiment(const ngx_commerce_sentiment_t *model,
    const uint8_t *text, size_t len, ngx_commerce_sentiment_answer_t *answer);


/* What training and scoring see of a text; no feature twice. */

typedef struct {
    uint32_t  n;
    uint32_t  words;
    uint32_t  english;                  /* words that only hold sentences together */
    uint32_t  foreign;                  /* the same of other languages */
    uint32_t  letters;
    uint32_t  strange;                  /* letters beyond ASCII */
    uint32_t  feature[NGX_COMMERCE_SENTIMENT_FEATURES];
    uint32_t  word[NGX_COMMERCE_SENTIMENT_WORDS];   /* without what negation did to it */
} ngx_commerce_sentiment_text_t;

void ngx_commerce_sentiment_read(const uint8_t *text, size_t len,
    ngx_commerce_sentiment_text_t *out);

static inline uint32_t
ngx_commerce_sentiment_bucket(uint32_t feature, uint32_t bits)
{
    return feature >> (32 - bits);
}

static inline uint8_t
ngx_commerce_sentiment_tag(uint32_t feature)
{
    return (feature * 0x9e3779b1U >> 24) % 255 + 1;
}


#endif /* NGX_COMMERCE_SENTIMENT_H */
