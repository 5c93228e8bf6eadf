/*
 * Content: hashed TF-IDF over a product's words and pairs of words, with its
 * category and brand as words of their own.
 */

#include "model.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>


#define TRAIN_FEATURES   (1U << 20)     /* buckets */
#define TRAIN_WORDS      512            /* of a product, at most */
#define TRAIN_COMMON     0.2            /* a feature in more products than that tells nothing */
#define TRAIN_POSTINGS   20000          /* and one in more than that costs too much */
#define TRAIN_LEAST      0.05f          /* cosine */


typedef struct {
    const train_content_t  *content;
    const uint64_t         *first;      /* of a feature: its products */
    const uint32_t         *item;
    const float            *value;
    float                 **sum;
    train_pair_t          **pair;
    train_neighbours_t     *out;
} train_content_job_t;


static uint32_t train_words(const train_text_t *text, uint32_t *features);
static uint32_t train_word_hash(const char *word, size_t len, uint64_t seed);
static int train_by_feature(const void *a, const void *b);
static void train_content_weigh(train_content_t *content,
    const uint32_t *products, uint32_t items);
static void train_content_number(train_content_t *content);
static void train_content_columns(const train_content_t *content,
    uint64_t **first, uint32_t **item, float **value);
static void train_content_rows(void *ctx, unsigned worker, uint64_t first,
    uint64_t last);


bool
train_content(const train_data_t *data, train_content_t *content)
{
    uint32_t   i, k, n, texts, words[2 * TRAIN_WORDS + 2], *products;
    uint64_t   room, out;

    memset(content, 0, sizeof(train_content_t));

    if (data->texts == NULL) {
        return false;
    }

    products = train_zalloc(TRAIN_FEATURES * sizeof(uint32_t));
    content->items = data->items;
    content->first = train_zalloc((data->items + 1) * sizeof(uint64_t));
    room = 0;
    out = 0;
    texts = 0;

    for (i = 0; i < data->items; i++) {
        content->first[i] = out;
        n = train_words(&data->texts[i], words);
        texts += (n != 0);

        if (out + n > room) {
            room = (out + n) * 2;
            content->feature = train_realloc(content->feature,
                                             room * sizeof(uint32_t));
            content->value = train_realloc(content->value,
                                           room * sizeof(float));
        }

        /* sorted: equal ones stand together */

        for (k = 0; k < n; k++) {
            if (k != 0 && words[k] == words[k - 1]) {
                content->value[out - 1] += 1;
                continue;
            }

            content->feature[out] = words[k];
            content->value[out++] = 1;
            products[words[k]]++;
        }
    }

    content->first[data->items] = out;

    train_content_weigh(content, products, texts);
    free(products);

    return true;
}


void
train_content_free(train_content_t *content)
{
    free(content->first);
    free(content->feature);
    free(content->value);
    memset(content, 0, sizeof(train_content_t));
}


/* Sorted hashes of words, pairs, category and brand. */

static uint32_t
train_words(const train_text_t *text, uint32_t *features)
{
    char      word[64];
    size_t    len, i;
    uint8_t   c;
    uint32_t  n, hash, previous, words;

    n = 0;
    len = 0;
    words = 0;
    previous = 0;

    for (i = 0; i <= text->text_len && words < TRAIN_WORDS; i++) {
        c = (i < text->text_len) ? text->text[i] : ' ';

        if (isalnum(c) || c >= 0x80) {
            if (len < sizeof(word)) {
                word[len++] = tolower(c);
            }

            continue;
        }

        if (len == 0 || c == '\'') {
            continue;
        }

        /* plural and singular are one word */

        if (len > 3 && word[len - 1] == 's' && word[len - 2] != 's') {
            len--;
        }

        hash = train_word_hash(word, len, 1);
        features[n++] = hash;

        if (words++ != 0) {
            features[n++] = train_mix(((uint64_t) previous << 32) | hash)
                            % TRAIN_FEATURES;
        }

        previous = hash;
        len = 0;
    }

    if (text->category_len != 0) {
        features[n++] = train_word_hash(text->category, text->category_len, 2);
    }

    if (text->brand_len != 0) {
        features[n++] = train_word_hash(text->brand, text->brand_len, 3);
    }

    qsort(features, n, sizeof(uint32_t), train_by_feature);

    return n;
}


static uint32_t
train_word_hash(const char *word, size_t len, uint64_t seed)
{
    size_t    i;
    uint64_t  hash;

    hash = seed * 0x9e3779b97f4a7c15ULL;

    for (i = 0; i < len; i++) {
        hash = (hash ^ (uint8_t) word[i]) * 0x100000001b3ULL;
    }

    return train_mix(hash) % TRAIN_FEATURES;
}


static int
train_by_feature(const void *a, const void *b)
{
    uint32_t  x = *(const uint32_t *) a, y = *(const uint32_t *) b;

    return (x > y) - (x < y);
}


/* (1 + log tf) × log(N / df), without what only one product has or too many; length 1. */

static void
train_content_weigh(train_content_t *content, const uint32_t *products,
    uint32_t texts)
{
    float      value;
    double     length;
    uint32_t   i, df;
    uint64_t   k, out, begin;

    out = 0;

    for (i = 0; i < content->items; i++) {
        begin = out;
        length = 0;
        k = content->first[i];
        content->first[i] = begin;

        for ( /* void */ ; k < content->first[i + 1]; k++) {
            df = products[content->feature[k]];

            if (df < 2 || df > TRAIN_POSTINGS
                || (df > TRAIN_COMMON * texts && texts > 50))
            {
                continue;
            }

            value = (1 + logf(content->value[k])) * logf((texts + 1.0f) / df);
            content->feature[out] = content->feature[k];
            content->value[out++] = value;
            length += (double) value * value;
        }

        for (k = begin; k < out; k++) {
            content->value[k] /= sqrt(length);
        }
    }

    content->first[content->items] = out;
    train_content_number(content);
}


/* Features are numbered as they appear: most buckets have none. */

static void
train_content_number(train_content_t *content)
{
    uint32_t  *number;
    uint64_t   k;

    number = train_alloc(TRAIN_FEATURES * sizeof(uint32_t));
    memset(number, 0xff, TRAIN_FEATURES * sizeof(uint32_t));
    content->features = 0;

    for (k = 0; k < content->first[content->items]; k++) {

        if (number[content->feature[k]] == TRAIN_NONE) {
            number[content->feature[k]] = content->features++;
        }

        content->feature[k] = number[content->feature[k]];
    }

    free(number);
}


/* The transpose; products ascend in each feature. */

static void
train_content_columns(const train_content_t *content, uint64_t **first,
    uint32_t **item, float **value)
{
    uint32_t   i, f;
    uint64_t   k, n, *next;

    n = content->first[content->items];
    *first = train_zalloc((content->features + 2) * sizeof(uint64_t));
    *item = train_alloc(n * sizeof(uint32_t));
    *value = train_alloc(n * sizeof(float));

    next = *first + 1;

    for (k = 0; k < n; k++) {
        next[content->feature[k] + 1]++;
    }

    for (f = 0; f < content->features; f++) {
        next[f + 1] += next[f];
    }

    for (i = 0; i < content->items; i++) {
        for (k = content->first[i]; k < content->first[i + 1]; k++) {
            f = content->feature[k];
            (*item)[next[f]] = i;
            (*value)[next[f]++] = content->value[k];
        }
    }
}


void
train_content_neighbours(const train_content_t *content,
    train_neighbours_t *out)
{
    float                *value;
    unsigned              i;
    uint32_t             *item;
    uint64_t             *first;
    train_content_job_t   job;

    train_content_columns(content, &first, &item, &value);

    job.content = content;
    job.first = first;
    job.item = item;
    job.value = value;
    job.out = out;
    job.sum = train_alloc(train_threads * sizeof(float *));
    job.pair = train_alloc(train_threads * sizeof(train_pair_t *));

    for (i = 0; i < train_threads; i++) {
        job.sum[i] = train_zalloc(content->items * sizeof(float));
        job.pair[i] = train_alloc(content->items * sizeof(train_pair_t));
    }

    train_parallel("content", content->items, 64, train_content_rows, &job);

    for (i = 0; i < train_threads; i++) {
        free(job.sum[i]);
        free(job.pair[i]);
    }

    free(job.sum);
    free(job.pair);
    free(first);
    free(item);
    free(value);
}


static void
train_content_rows(void *ctx, unsigned worker, uint64_t first, uint64_t last)
{
    float                  *sum, value;
    uint32_t                f, j, n, m;
    uint64_t                i, k, at;
    train_pair_t           *pair;
    train_content_job_t    *job = ctx;
    train_neighbours_t     *out = job->out;
    const train_content_t  *content = job->content;

    sum = job->sum[worker];
    pair = job->pair[worker];

    for (i = first; i < last; i++) {
        n = 0;

        for (k = content->first[i]; k < content->first[i + 1]; k++) {
            f = content->feature[k];
            value = content->value[k];

            for (at = job->first[f]; at < job->first[f + 1]; at++) {
                j = job->item[at];

                if (sum[j] == 0) {
                    pair[n++].item = j;
                }

                sum[j] += value * job->value[at];
            }
        }

        for (k = 0, m = 0; k < n; k++) {
            j = pair[k].item;
            value = sum[j];
            sum[j] = 0;

            if (j != i && value >= TRAIN_LEAST) {
                pair[m].item = j;
                pair[m++].weight = value;
            }
        }

        m = train_best(pair, m, out->width);
        out->count[i] = m;

        for (k = 0; k < m; k++) {
            out->item[i * out->width + k] = pair[k].item;
            out->weight[i * out->width + k] = pair[k].weight;
        }
    }
}


/* The first singular vectors, each product's scaled to length 127. */

void
train_vectors(const train_content_t *content, const train_matrix_t *matrix,
    ngx_commerce_similarity_vector_t *vectors)
{
    float           *factors, *row, *value;
    double           values[NGX_COMMERCE_SIMILARITY_DIMENSIONS], length, x;
    uint32_t         i, k, items, *item;
    uint64_t        *first;
    train_sparse_t   sparse;

    first = NULL;
    item = NULL;
    value = NULL;

    if (content->first != NULL) {
        train_content_columns(content, &first, &item, &value);
        items = content->items;

        sparse.rows = content->features;
        sparse.row_first = first;
        sparse.row_column = item;
        sparse.row_value = value;
        sparse.columns = content->items;
        sparse.column_first = content->first;
        sparse.column_row = content->feature;
        sparse.column_value = content->value;

    } else {
        items = matrix->items;

        sparse.rows = matrix->users;
        sparse.row_first = matrix->user_first;
        sparse.row_column = matrix->user_item;
        sparse.row_value = matrix->user_value;
        sparse.columns = matrix->items;
        sparse.column_first = matrix->item_first;
        sparse.column_row = matrix->item_user;
        sparse.column_value = matrix->item_value;
    }

    train_subspace("vectors", &sparse, NGX_COMMERCE_SIMILARITY_DIMENSIONS, 3,
                   &factors, values);

    for (i = 0; i < items; i++) {
        row = &factors[(uint64_t) i * NGX_COMMERCE_SIMILARITY_DIMENSIONS];
        length = 0;

        for (k = 0; k < NGX_COMMERCE_SIMILARITY_DIMENSIONS; k++) {
            row[k] *= values[k];
            length += (double) row[k] * row[k];
        }

        for (k = 0; k < NGX_COMMERCE_SIMILARITY_DIMENSIONS; k++) {
            x = (length > 0) ? row[k] / sqrt(length) * 127 : 0;
            vectors[i].x[k] = (int8_t) lrint(x);
        }
    }

    free(factors);
    free(first);
    free(item);
    free(value);
}
