/* Users × products, and how often products meet.  See model.h. */

#include "model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>


#define TRAIN_LIMIT_MIN  256
#define TRAIN_LIMIT_MAX  8192


typedef struct {
    const train_matrix_t  *matrix;
    const float           *scale;       /* of a user */
    train_gram_t          *gram;
    float                **sum;         /* by worker: products × float */
    train_pair_t         **pair;
} train_gram_job_t;


static void train_gram_diagonal(void *ctx, unsigned worker, uint64_t first,
    uint64_t last);
static void train_gram_rows(void *ctx, unsigned worker, uint64_t first,
    uint64_t last);
static int train_pair_before(const train_pair_t *a, const train_pair_t *b);
static int train_pair_cmp(const void *a, const void *b);
static int train_pair_by_item(const void *a, const void *b);


void
train_matrix(const train_history_t *history, const float *weights,
    train_matrix_t *matrix)
{
    float                                  top;
    uint32_t                               u, i;
    uint64_t                               k, n, *next;
    const ngx_commerce_recommend_event_t  *entry;

    n = history->first[history->users];
    matrix->users = history->users;
    matrix->items = history->items;
    matrix->user_first = train_alloc((history->users + 1) * sizeof(uint64_t));
    matrix->user_item = train_alloc(n * sizeof(uint32_t));
    matrix->user_value = train_alloc(n * sizeof(float));
    matrix->item_first = train_zalloc((history->items + 2) * sizeof(uint64_t));
    matrix->item_user = train_alloc(n * sizeof(uint32_t));
    matrix->item_value = train_alloc(n * sizeof(float));

    top = 0;

    for (k = 0; k < n; k++) {
        entry = &history->entry[k];
        top = (weights[entry->event] > top) ? weights[entry->event] : top;

        if (weights[entry->event] > 0) {
            matrix->item_first[entry->item + 2]++;
        }
    }

    next = matrix->item_first + 1;

    for (i = 0; i < history->items; i++) {
        next[i + 1] += next[i];
    }

    /* users ascend, so that each product's users do */

    for (n = 0, u = 0; u < history->users; u++) {
        matrix->user_first[u] = n;

        for (k = history->first[u]; k < history->first[u + 1]; k++) {
            entry = &history->entry[k];

            if (weights[entry->event] > 0) {
                matrix->item_user[next[entry->item]] = u;
                matrix->item_value[next[entry->item]++]
                    = weights[entry->event] / top;
                n++;
            }
        }
    }

    matrix->user_first[history->users] = n;
    matrix->n = n;

    /* and back: products ascend in each user's row */

    next = train_alloc((history->users + 1) * sizeof(uint64_t));
    memcpy(next, matrix->user_first, (history->users + 1) * sizeof(uint64_t));

    for (i = 0; i < history->items; i++) {
        for (k = matrix->item_first[i]; k < matrix->item_first[i + 1]; k++) {
            u = matrix->item_user[k];
            matrix->user_item[next[u]] = i;
            matrix->user_value[next[u]++] = matrix->item_value[k];
        }
    }

    free(next);
}


void
train_matrix_free(train_matrix_t *matrix)
{
    free(matrix->user_first);
    free(matrix->user_item);
    free(matrix->user_value);
    free(matrix->item_first);
    free(matrix->item_user);
    free(matrix->item_value);
}


void
train_neighbours(train_neighbours_t *neighbours, uint32_t items, uint32_t width)
{
    neighbours->items = items;
    neighbours->width = width;
    neighbours->count = train_zalloc(items * sizeof(uint32_t));
    neighbours->item = train_alloc((uint64_t) items * width
                                   * sizeof(uint32_t));
    neighbours->weight = train_alloc((uint64_t) items * width * sizeof(float));
}


void
train_neighbours_free(train_neighbours_t *neighbours)
{
    free(neighbours->count);
    free(neighbours->item);
    free(neighbours->weight);
    memset(neighbours, 0, sizeof(train_neighbours_t));
}


static int
train_pair_before(const train_pair_t *a, const train_pair_t *b)
{
    return a->weight > b->weight
           || (a->weight == b->weight && a->item < b->item);
}


static int
train_pair_cmp(const void *a, const void *b)
{
    return train_pair_before(b, a) - train_pair_before(a, b);
}


static int
train_pair_by_item(const void *a, const void *b)
{
    const train_pair_t  *x = a, *y = b;

    return (x->item > y->item) - (x->item < y->item);
}


/* A quickselect whose pivot is the middle of three, then a sort of what was selected. */

uint32_t
train_best(train_pair_t *pairs, uint32_t n, uint32_t width)
{
    int64_t       low, high, i, k;
    train_pair_t  pivot, swap;

    low = 0;
    high = (int64_t) n - 1;

    while (n > width && low < high) {
        pivot = pairs[low + (high - low) / 2];

        if (train_pair_before(&pairs[low], &pairs[high])
            ? train_pair_before(&pairs[high], &pivot)
            : train_pair_before(&pivot, &pairs[high]))
        {
            pivot = pairs[high];
        }

        i = low;
        k = high;

        while (i <= k) {
            while (train_pair_before(&pairs[i], &pivot)) {
                i++;
            }

            while (train_pair_before(&pivot, &pairs[k])) {
                k--;
            }

            if (i <= k) {
                swap = pairs[i];
                pairs[i++] = pairs[k];
                pairs[k--] = swap;
            }
        }

        if ((int64_t) width <= k) {
            high = k;

        } else if ((int64_t) width > i) {
            low = i;

        } else {
            break;
        }
    }

    n = (n < width) ? n : width;
    qsort(pairs, n, sizeof(train_pair_t), train_pair_cmp);

    return n;
}


void
train_gram(const train_matrix_t *matrix, double a, uint64_t memory,
    train_gram_t *gram)
{
    float             *scale;
    uint32_t           u, degree;
    unsigned           i;
    train_gram_job_t   job;

    memset(gram, 0, sizeof(train_gram_t));
    gram->items = matrix->items;
    gram->limit = memory / ((uint64_t) matrix->items * 8 + 1);

    if (gram->limit < TRAIN_LIMIT_MIN) {
        gram->limit = TRAIN_LIMIT_MIN;
    }

    if (gram->limit > TRAIN_LIMIT_MAX) {
        gram->limit = TRAIN_LIMIT_MAX;
    }

    gram->diagonal = train_zalloc(matrix->items * sizeof(float));
    gram->count = train_zalloc(matrix->items * sizeof(uint32_t));
    gram->column = train_zalloc(matrix->items * sizeof(uint32_t *));
    gram->value = train_zalloc(matrix->items * sizeof(float *));

    scale = train_alloc(matrix->users * sizeof(float));

    for (u = 0; u < matrix->users; u++) {
        degree = matrix->user_first[u + 1] - matrix->user_first[u];
        scale[u] = (degree != 0) ? pow(degree, -a) : 0;
    }

    job.matrix = matrix;
    job.scale = scale;
    job.gram = gram;
    job.sum = train_alloc(train_threads * sizeof(float *));
    job.pair = train_alloc(train_threads * sizeof(train_pair_t *));

    for (i = 0; i < train_threads; i++) {
        job.sum[i] = train_zalloc(matrix->items * sizeof(float));
        job.pair[i] = train_alloc(matrix->items * sizeof(train_pair_t));
    }

    train_parallel(NULL, matrix->items, 256, train_gram_diagonal, &job);
    train_parallel("co-occurrence", matrix->items, 64, train_gram_rows, &job);

    for (i = 0; i < train_threads; i++) {
        free(job.sum[i]);
        free(job.pair[i]);
    }

    free(job.sum);
    free(job.pair);
    free(scale);
}


static void
train_gram_diagonal(void *ctx, unsigned worker, uint64_t first, uint64_t last)
{
    double                 sum;
    uint64_t               i, k;
    train_gram_job_t      *job = ctx;
    const train_matrix_t  *matrix = job->matrix;

    for (i = first; i < last; i++) {
        sum = 0;

        for (k = matrix->item_first[i]; k < matrix->item_first[i + 1]; k++) {
            sum += job->scale[matrix->item_user[k]]
                   * matrix->item_value[k] * matrix->item_value[k];
        }

        job->gram->diagonal[i] = sum;
    }
}


/* When a row is too long, its strongest by cosine stay. */

static void
train_gram_rows(void *ctx, unsigned worker, uint64_t first, uint64_t last)
{
    float                  value, *sum;
    uint32_t               u, j, n;
    uint64_t               i, k, m;
    train_pair_t          *pair;
    train_gram_job_t      *job = ctx;
    train_gram_t          *gram = job->gram;
    const train_matrix_t  *matrix = job->matrix;

    sum = job->sum[worker];
    pair = job->pair[worker];

    for (i = first; i < last; i++) {
        n = 0;

        for (k = matrix->item_first[i]; k < matrix->item_first[i + 1]; k++) {
            u = matrix->item_user[k];
            value = job->scale[u] * matrix->item_value[k];

            for (m = matrix->user_first[u]; m < matrix->user_first[u + 1]; m++)
            {
                j = matrix->user_item[m];

                if (sum[j] == 0) {
                    pair[n++].item = j;
                }

                sum[j] += value * matrix->user_value[m];
            }
        }

        for (k = 0, m = 0; k < n; k++) {
            j = pair[k].item;

            if (j != i) {
                pair[m].item = j;
                pair[m++].weight = sum[j] / sqrtf(gram->diagonal[j]);
            }
        }

        n = m;

        if (n > gram->limit) {
            n = train_best(pair, n, gram->limit);
        }

        qsort(pair, n, sizeof(train_pair_t), train_pair_by_item);

        gram->count[i] = n;
        gram->column[i] = train_alloc(n * sizeof(uint32_t));
        gram->value[i] = train_alloc(n * sizeof(float));

        for (k = 0; k < n; k++) {
            gram->column[i][k] = pair[k].item;
            gram->value[i][k] = sum[pair[k].item];
        }

        for (k = matrix->item_first[i]; k < matrix->item_first[i + 1]; k++) {
            u = matrix->item_user[k];

            for (m = matrix->user_first[u]; m < matrix->user_first[u + 1]; m++)
            {
                sum[matrix->user_item[m]] = 0;
            }
        }
    }
}


void
train_gram_free(train_gram_t *gram)
{
    uint32_t  i;

    for (i = 0; i < gram->items; i++) {
        free(gram->column[i]);
        free(gram->value[i]);
    }

    free(gram->diagonal);
    free(gram->count);
    free(gram->column);
    free(gram->value);
}
