/*
 * NB-SVM: naive Bayes' log ratios scale the features of a linear SVM, whose
 * weights are drawn towards their mean.  Probabilities by Platt's sigmoid on
 * scores that the SVM had not seen.
 */

#include "sentiment.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>


#define TRAIN_EPOCHS     30
#define TRAIN_ENOUGH     1e-3           /* change of a dual variable that ends the training */
#define TRAIN_WEIGHTS    127
#define TRAIN_CERTAIN    0.62           /* accuracy below which a score says nothing */


typedef struct {
    double    *weight;                  /* of a number */
    double     bias;
} train_linear_t;


static void train_corpus_number(train_corpus_t *corpus, uint32_t least);
static void train_folds(const train_corpus_t *corpus, uint32_t folds,
    uint8_t *fold);
static void train_linear_fit(const train_corpus_t *corpus,
    const train_sentiment_options_t *options, const uint8_t *fold, int skipped,
    train_linear_t *out);
static void train_ratios(const train_corpus_t *corpus, const uint8_t *fold,
    int skipped, double *ratio);
static void train_svm(const train_corpus_t *corpus, double c,
    const uint8_t *fold, int skipped, const double *ratio, double *w);
static double train_margin(const train_corpus_t *corpus,
    const train_linear_t *linear, uint32_t i);
static void train_platt(const double *margin, const int8_t *label, uint32_t n,
    double *slope, double *offset);
static double train_neutral(const double *probability, const int8_t *label,
    uint32_t n);
static void train_buckets(const train_corpus_t *corpus,
    const train_linear_t *linear, uint32_t bits,
    ngx_commerce_sentiment_about_t *about,
    ngx_commerce_sentiment_bucket_t *buckets);
static int train_u32_cmp(const void *a, const void *b);
static int train_double_cmp(const void *a, const void *b);


void
train_corpus_read(const char *name, train_corpus_t *corpus)
{
    uint64_t                        line, room, used, reviews;
    const char                     *p, *end, *eol, *tab;
    train_file_t                    file;
    ngx_commerce_sentiment_text_t   text;

    static const struct {
        const char  *name;
        int8_t       label;
    } labels[] = {
        { "1", 1 }, { "0", -1 }, { "positive", 1 }, { "negative", -1 },
        { "neutral", 0 }
    };

    unsigned  i;

    memset(corpus, 0, sizeof(train_corpus_t));
    train_file_open(&file, name);

    p = file.data;
    end = p + file.size;
    room = 0;
    used = 0;
    reviews = 0;

    for (line = 1; p < end; line++, p = eol + 1) {
        eol = memchr(p, '\n', end - p);
        eol = (eol != NULL) ? eol : end;

        if (eol == p) {
            continue;
        }

        tab = memchr(p, '\t', eol - p);

        for (i = 0; tab != NULL && i < 5; i++) {
            if (strlen(labels[i].name) == (size_t) (tab - p)
                && memcmp(labels[i].name, p, tab - p) == 0)
            {
                break;
            }
        }

        if (tab == NULL || i == 5) {
            train_fail(TRAIN_INPUT, "%s:%lu: a line is label<TAB>text, where "
                       "the label is 1 or positive, 0 or negative, or neutral",
                       name, (unsigned long) line);
        }

        ngx_commerce_sentiment_read((const uint8_t *) tab + 1, eol - tab - 1,
                                    &text);

        if (corpus->n + 1 >= reviews) {
            reviews = reviews * 2 + 1024;
            corpus->label = train_realloc(corpus->label, reviews);
            corpus->first = train_realloc(corpus->first,
                                          reviews * sizeof(uint64_t));
        }

        if (used + text.n > room) {
            room = (used + text.n) * 2;
            corpus->feature = train_realloc(corpus->feature,
                                            room * sizeof(uint32_t));
        }

        corpus->label[corpus->n] = labels[i].label;
        corpus->first[corpus->n++] = used;
        memcpy(&corpus->feature[used], text.feature,
               text.n * sizeof(uint32_t));
        used += text.n;
        corpus->first[corpus->n] = used;
    }

    train_file_close(&file);
}


void
train_corpus_free(train_corpus_t *corpus)
{
    free(corpus->label);
    free(corpus->first);
    free(corpus->feature);
    free(corpus->hash);
}


/* Numbers for the features that enough reviews have; the others go, but a review keeps its length. */

static void
train_corpus_number(train_corpus_t *corpus, uint32_t least)
{
    uint32_t   i, low, high, middle, n, *sorted;
    uint64_t   k, total, from;

    total = corpus->first[corpus->n];
    sorted = train_alloc(total * sizeof(uint32_t));
    memcpy(sorted, corpus->feature, total * sizeof(uint32_t));
    qsort(sorted, total, sizeof(uint32_t), train_u32_cmp);

    corpus->hash = train_alloc(total * sizeof(uint32_t));
    n = 0;

    for (k = 0; k < total; k = from) {
        for (from = k; from < total && sorted[from] == sorted[k]; from++) {
            /* void */
        }

        if (from - k >= least) {
            corpus->hash[n++] = sorted[k];
        }
    }

    free(sorted);
    corpus->features = n;

    for (i = 0; i < corpus->n; i++) {
        for (k = corpus->first[i]; k < corpus->first[i + 1]; k++) {
            low = 0;
            high = n;

            while (low < high) {
                middle = low + (high - low) / 2;

                if (corpus->hash[middle] < corpus->feature[k]) {
                    low = middle + 1;

                } else {
                    high = middle;
                }
            }

            corpus->feature[k] = (low < n
                                  && corpus->hash[low] == corpus->feature[k])
                                 ? low : UINT32_MAX;
        }
    }
}


void *
train_sentiment_fit(train_corpus_t *corpus,
    const train_sentiment_options_t *options, int64_t created, size_t *size,
    train_sentiment_fit_t *fit)
{
    void                             *out;
    double                           *margin, *probability;
    double                            slope, offset;
    uint8_t                          *fold;
    uint32_t                          i, f, n, right;
    train_linear_t                    linear;
    ngx_commerce_pack_section_t       section[2];
    ngx_commerce_sentiment_about_t    about;
    ngx_commerce_sentiment_bucket_t  *buckets;

    n = corpus->n;
    train_corpus_number(corpus, options->least);
    linear.weight = train_alloc(corpus->features * sizeof(double));
    margin = train_alloc(n * sizeof(double));
    probability = train_alloc(n * sizeof(double));
    fold = train_alloc(n);

    train_folds(corpus, options->folds, fold);

    /* margins of reviews that were not trained on */

    for (f = 0; f < options->folds; f++) {
        train_linear_fit(corpus, options, fold, f, &linear);

        for (i = 0; i < n; i++) {
            if (fold[i] == f) {
                margin[i] = train_margin(corpus, &linear, i);
            }
        }
    }

    train_platt(margin, corpus->label, n, &slope, &offset);

    for (i = 0, right = 0, f = 0; i < n; i++) {
        probability[i] = 1 / (1 + exp(-(slope * margin[i] + offset)));
        f += corpus->label[i] != 0;
        right += (corpus->label[i] != 0
                  && (probability[i] >= 0.5) == (corpus->label[i] > 0));
    }

    fit->accuracy = f != 0 ? (double) right / f : 0;
    fit->error = train_calibration_error(probability, corpus->label, n);
    fit->neutral = train_neutral(probability, corpus->label, n);
    fit->features = corpus->features;

    train_linear_fit(corpus, options, fold, -1, &linear);

    memset(&about, 0, sizeof(about));
    about.bits = options->bits;
    about.reviews = n;
    about.created = created;
    about.slope = slope;
    about.offset = offset;
    about.neutral = fit->neutral;

    buckets = train_zalloc(sizeof(*buckets) << options->bits);
    train_buckets(corpus, &linear, options->bits, &about, buckets);
    fit->known = about.known;

    section[0].id = NGX_COMMERCE_SENTIMENT_ABOUT;
    section[0].data = &about;
    section[0].len = sizeof(about);
    section[1].id = NGX_COMMERCE_SENTIMENT_BUCKETS;
    section[1].data = buckets;
    section[1].len = sizeof(*buckets) << options->bits;

    *size = ngx_commerce_pack_size(section, 2);
    out = train_alloc(*size);
    ngx_commerce_pack_write(out, NGX_COMMERCE_SENTIMENT_KIND,
                            NGX_COMMERCE_SENTIMENT_VERSION, section, 2);

    free(buckets);
    free(linear.weight);
    free(margin);
    free(probability);
    free(fold);

    return out;
}


/*
 * Neighbours in the file come into one fold, of each label: shops write their
 * reviews down by product, and a fold of other products is what is to come.
 */

static void
train_folds(const train_corpus_t *corpus, uint32_t folds, uint8_t *fold)
{
    uint32_t  i, label, seen[3] = { 0 }, count[3] = { 0 };

    for (i = 0; i < corpus->n; i++) {
        count[corpus->label[i] + 1]++;
    }

    for (i = 0; i < corpus->n; i++) {
        label = corpus->label[i] + 1;
        fold[i] = (uint64_t) seen[label]++ * folds / count[label];
    }
}


static void
train_linear_fit(const train_corpus_t *corpus,
    const train_sentiment_options_t *options, const uint8_t *fold, int skipped,
    train_linear_t *out)
{
    double    *ratio, *w, mean;
    uint32_t   j;

    ratio = train_alloc(corpus->features * sizeof(double));
    w = train_zalloc((corpus->features + 1) * sizeof(double));

    train_ratios(corpus, fold, skipped, ratio);
    train_svm(corpus, options->c, fold, skipped, ratio, w);

    mean = 0;

    for (j = 0; j < corpus->features; j++) {
        mean += fabs(w[j]);
    }

    mean /= corpus->features != 0 ? corpus->features : 1;

    for (j = 0; j < corpus->features; j++) {
        out->weight[j] = ratio[j] * ((1 - options->beta) * mean
                                     + options->beta * w[j]);
    }

    out->bias = w[corpus->features];

    free(ratio);
    free(w);
}


static void
train_ratios(const train_corpus_t *corpus, const uint8_t *fold, int skipped,
    double *ratio)
{
    double    *positive, *negative, all[2];
    uint32_t   i, j;
    uint64_t   k;

    positive = train_zalloc(corpus->features * sizeof(double));
    negative = train_zalloc(corpus->features * sizeof(double));
    all[0] = 1;
    all[1] = 1;

    for (i = 0; i < corpus->n; i++) {

        if (fold[i] == skipped || corpus->label[i] == 0) {
            continue;
        }

        all[corpus->label[i] > 0]++;

        for (k = corpus->first[i]; k < corpus->first[i + 1]; k++) {
            if (corpus->feature[k] != UINT32_MAX) {
                (corpus->label[i] > 0 ? positive
                                      : negative)[corpus->feature[k]]++;
            }
        }
    }

    for (j = 0; j < corpus->features; j++) {
        ratio[j] = log((positive[j] + 1) / (all[1] + 1)
                       / ((negative[j] + 1) / (all[0] + 1)));
    }

    free(positive);
    free(negative);
}


/* Dual coordinate descent for the L2 loss; features of a review have length 1 together before the ratio. */

static void
train_svm(const train_corpus_t *corpus, double c, const uint8_t *fold,
    int skipped, const double *ratio, double *w)
{
    double    *alpha, *square, scale, gradient, old, change, largest, x;
    uint32_t   i, j, t, n, swap, epoch, *order;
    uint64_t   k, random;

    alpha = train_zalloc(corpus->n * sizeof(double));
    square = train_zalloc(corpus->n * sizeof(double));
    order = train_alloc(corpus->n * sizeof(uint32_t));
    n = 0;

    for (i = 0; i < corpus->n; i++) {

        if (fold[i] == skipped || corpus->label[i] == 0
            || corpus->first[i] == corpus->first[i + 1])
        {
            continue;
        }

        order[n++] = i;
        scale = 1.0 / (corpus->first[i + 1] - corpus->first[i]);
        square[i] = 1;

        for (k = corpus->first[i]; k < corpus->first[i + 1]; k++) {
            if (corpus->feature[k] != UINT32_MAX) {
                x = ratio[corpus->feature[k]];
                square[i] += x * x * scale;
            }
        }
    }

    random = 1;

    for (epoch = 0; epoch < TRAIN_EPOCHS; epoch++) {
        largest = 0;

        for (t = n; t > 1; t--) {
            random = train_mix(random);
            j = random % t;
            swap = order[j];
            order[j] = order[t - 1];
            order[t - 1] = swap;
        }

        for (t = 0; t < n; t++) {
            i = order[t];
            scale = 1 / sqrt(corpus->first[i + 1] - corpus->first[i]);
            gradient = w[corpus->features];

            for (k = corpus->first[i]; k < corpus->first[i + 1]; k++) {
                j = corpus->feature[k];

                if (j != UINT32_MAX) {
                    gradient += w[j] * ratio[j] * scale;
                }
            }

            gradient = gradient * corpus->label[i] - 1 + alpha[i] / (2 * c);
            old = alpha[i];
            alpha[i] = old - gradient / (square[i] + 1 / (2 * c));
            alpha[i] = (alpha[i] > 0) ? alpha[i] : 0;
            change = (alpha[i] - old) * corpus->label[i];
            largest = (fabs(change) > largest) ? fabs(change) : largest;

            if (change == 0) {
                continue;
            }

            w[corpus->features] += change;

            for (k = corpus->first[i]; k < corpus->first[i + 1]; k++) {
                j = corpus->feature[k];

                if (j != UINT32_MAX) {
                    w[j] += change * ratio[j] * scale;
                }
            }
        }

        if (largest < TRAIN_ENOUGH) {
            break;
        }
    }

    free(alpha);
    free(square);
    free(order);
}


static double
train_margin(const train_corpus_t *corpus, const train_linear_t *linear,
    uint32_t i)
{
    double    sum;
    uint64_t  k, n;

    sum = 0;
    n = corpus->first[i + 1] - corpus->first[i];

    for (k = corpus->first[i]; k < corpus->first[i + 1]; k++) {
        if (corpus->feature[k] != UINT32_MAX) {
            sum += linear->weight[corpus->feature[k]];
        }
    }

    return linear->bias + ((n != 0) ? sum / sqrt(n) : 0);
}


/* Newton's method on the log loss with Platt's targets. */

static void
train_platt(const double *margin, const int8_t *label, uint32_t n,
    double *slope, double *offset)
{
    double    target, p, d, w, ga, gb, haa, hab, hbb, det, count[2];
    uint32_t  i, step;

    *slope = 1;
    *offset = 0;
    count[0] = 0;
    count[1] = 0;

    for (i = 0; i < n; i++) {
        if (label[i] != 0) {
            count[label[i] > 0]++;
        }
    }

    for (step = 0; step < 50; step++) {
        ga = 0;
        gb = 0;
        haa = 1e-9;
        hab = 0;
        hbb = 1e-9;

        for (i = 0; i < n; i++) {

            if (label[i] == 0) {
                continue;
            }

            target = (label[i] > 0) ? (count[1] + 1) / (count[1] + 2)
                                    : 1 / (count[0] + 2);
            p = 1 / (1 + exp(-(*slope * margin[i] + *offset)));
            d = p - target;
            w = p * (1 - p);
            ga += d * margin[i];
            gb += d;
            haa += w * margin[i] * margin[i];
            hab += w * margin[i];
            hbb += w;
        }

        det = haa * hbb - hab * hab;

        if (!(det > 1e-12)) {
            break;
        }

        *slope -= (hbb * ga - hab * gb) / det;
        *offset -= (haa * gb - hab * ga) / det;

        if (fabs(ga) + fabs(gb) < 1e-7 * n) {
            break;
        }
    }

    if (!isfinite(*slope) || !isfinite(*offset)) {
        *slope = 1;
        *offset = 0;
    }
}


double
train_calibration_error(const double *probability, const int8_t *label,
    uint32_t n)
{
    double    sum[10] = { 0 }, hit[10] = { 0 }, error, all;
    uint32_t  i, bin, count[10] = { 0 };

    all = 0;

    for (i = 0; i < n; i++) {

        if (label[i] == 0) {
            continue;
        }

        bin = probability[i] * 10;
        bin = (bin < 10) ? bin : 9;
        sum[bin] += probability[i];
        hit[bin] += label[i] > 0;
        count[bin]++;
        all++;
    }

    error = 0;

    for (bin = 0; bin < 10; bin++) {
        error += fabs(sum[bin] - hit[bin]);
    }

    return all != 0 ? error / all : 0;
}


/*
 * The widest band around zero in which the sign is right too rarely to be
 * told; where there are neutral reviews, the band that divides best.
 */

static double
train_neutral(const double *probability, const int8_t *label, uint32_t n)
{
    double    score, best, value, chosen;
    uint32_t  i, step, inside, right, neutral, neutral_in, others_out;

    chosen = 0;
    best = 0;

    for (step = 1; step <= 60; step++) {
        inside = 0;
        right = 0;
        neutral = 0;
        neutral_in = 0;
        others_out = 0;

        for (i = 0; i < n; i++) {
            score = 2 * probability[i] - 1;

            if (label[i] == 0) {
                neutral++;
                neutral_in += fabs(score) < step / 100.0;
                continue;
            }

            if (fabs(score) >= step / 100.0) {
                others_out++;
                continue;
            }

            inside++;
            right += (score > 0) == (label[i] > 0);
        }

        if (neutral >= 50) {
            value = (double) neutral_in / neutral
                    + (double) others_out / (n - neutral);

            if (value > best) {
                best = value;
                chosen = step / 100.0;
            }

        } else if (inside != 0 && right <= TRAIN_CERTAIN * inside) {
            chosen = step / 100.0;
        }
    }

    return chosen;
}


/* A bucket that two want is given to the greater weight. */

static void
train_buckets(const train_corpus_t *corpus, const train_linear_t *linear,
    uint32_t bits, ngx_commerce_sentiment_about_t *about,
    ngx_commerce_sentiment_bucket_t *buckets)
{
    long                              weight;
    double                           *sorted, scale;
    uint32_t                          j;
    ngx_commerce_sentiment_bucket_t  *bucket;

    /* the few greatest are cut, so that the rest keeps its precision */

    sorted = train_alloc((corpus->features + 1) * sizeof(double));

    for (j = 0; j < corpus->features; j++) {
        sorted[j] = fabs(linear->weight[j]);
    }

    qsort(sorted, corpus->features, sizeof(double), train_double_cmp);
    scale = (corpus->features != 0)
            ? sorted[(uint64_t) (corpus->features - 1) * 9998 / 10000]
              / TRAIN_WEIGHTS
            : 1;
    scale = (scale > 0) ? scale : 1;
    free(sorted);

    about->scale = scale;
    about->bias = linear->bias;

    for (j = 0; j < corpus->features; j++) {
        weight = lrint(linear->weight[j] / scale);
        weight = (weight > TRAIN_WEIGHTS) ? TRAIN_WEIGHTS : weight;
        weight = (weight < -TRAIN_WEIGHTS) ? -TRAIN_WEIGHTS : weight;

        bucket = &buckets[ngx_commerce_sentiment_bucket(corpus->hash[j],
                                                        bits)];

        if (bucket->tag != 0 && labs(bucket->weight) >= labs(weight)) {
            continue;
        }

        about->known += (bucket->tag == 0);
        bucket->weight = weight;
        bucket->tag = ngx_commerce_sentiment_tag(corpus->hash[j]);
    }
}


static int
train_u32_cmp(const void *a, const void *b)
{
    uint32_t  x = *(const uint32_t *) a, y = *(const uint32_t *) b;

    return (x > y) - (x < y);
}


static int
train_double_cmp(const void *a, const void *b)
{
    double  x = *(const double *) a, y = *(const double *) b;

    return (x > y) - (x < y);
}
