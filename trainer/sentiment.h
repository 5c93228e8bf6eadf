/* Training the model of reviews that core/ngx_commerce_sentiment.h reads. */

#ifndef TRAIN_SENTIMENT_H
#define TRAIN_SENTIMENT_H


#include "train.h"
#include "ngx_commerce_sentiment.h"


/* Reviews as features; label 1 positive, -1 negative, 0 neither (for the neutral band only). */

typedef struct {
    uint32_t     n;
    int8_t      *label;
    uint64_t    *first;                 /* n + 1 */
    uint32_t    *feature;               /* as read; numbers after train_corpus_number() */
    uint32_t     features;
    uint32_t    *hash;                  /* of a number */
} train_corpus_t;

/* TSV: label, text. */

void train_corpus_read(const char *name, train_corpus_t *corpus);
void train_corpus_free(train_corpus_t *corpus);


typedef struct {
    uint32_t     bits;                  /* log2 of the buckets */
    uint32_t     least;                 /* reviews that a feature must be in */
    double       c;                     /* of the SVM: what an error costs */
    double       beta;                  /* 0: naive Bayes, 1: SVM */
    uint32_t     folds;                 /* for the calibration */
} train_sentiment_options_t;

typedef struct {
    double       accuracy;              /* out of fold */
    double       error;                 /* of the calibration, out of fold */
    double       neutral;
    uint32_t     features;
    uint32_t     known;                 /* that found a bucket */
} train_sentiment_fit_t;

/* The file's bytes, to be freed. */

void *train_sentiment_fit(train_corpus_t *corpus,
    const train_sentiment_options_t *options, int64_t created, size_t *size,
    train_sentiment_fit_t *fit);

/* Mean distance of probability and frequency over ten bins, weighted by their size. */

double train_calibration_error(const double *probability, const int8_t *label,
    uint32_t n);


#endif /* TRAIN_SENTIMENT_H */
