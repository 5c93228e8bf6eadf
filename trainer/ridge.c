/*
 * Local ridge regression and plain cosine over the same co-occurrences.
 *
 * EASE predicts a product from all others, which needs the inverse of a
 * matrix as wide as the shop.  Here each product is predicted from its nearest
 * alone: one small system each, linear in products, parallel.
 */

#include "model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>


/* LAPACK: solves a symmetric positive definite system; destroys both arguments. */

extern void sposv_(const char *uplo, const int *n, const int *nrhs, float *a,
    const int *lda, float *b, const int *ldb, int *info);


typedef struct {
    const train_gram_t   *gram;
    uint32_t              m;
    float                 lambda;
    train_neighbours_t   *columns;      /* of a target: its sources */
    float               **system;       /* by worker */
    float               **right;
    int32_t             **place;
    train_pair_t        **pair;
} train_ridge_job_t;

typedef struct {
    train_neighbours_t   *out;
    const uint64_t       *first;
    train_pair_t         *pairs;
} train_rows_job_t;


static void train_ridge_solve(void *ctx, unsigned worker, uint64_t first,
    uint64_t last);
static void train_ridge_fill(train_ridge_job_t *job, unsigned worker,
    uint32_t n);
static void train_ridge_rows(const train_neighbours_t *columns,
    train_neighbours_t *out);
static void train_rows_best(void *ctx, unsigned worker, uint64_t first,
    uint64_t last);
static void train_cosine_rows(void *ctx, unsigned worker, uint64_t first,
    uint64_t last);


void
train_ridge(const train_gram_t *gram, uint32_t m, double lambda,
    train_neighbours_t *out)
{
    unsigned             i;
    train_neighbours_t   columns;
    train_ridge_job_t    job;

    train_neighbours(&columns, gram->items, m);

    job.gram = gram;
    job.m = m;
    job.lambda = lambda;
    job.columns = &columns;
    job.system = train_alloc(train_threads * sizeof(float *));
    job.right = train_alloc(train_threads * sizeof(float *));
    job.place = train_alloc(train_threads * sizeof(int32_t *));
    job.pair = train_alloc(train_threads * sizeof(train_pair_t *));

    for (i = 0; i < train_threads; i++) {
        job.system[i] = train_alloc(m * m * sizeof(float));
        job.right[i] = train_alloc(m * sizeof(float));
        job.place[i] = train_alloc(gram->items * sizeof(int32_t));
        job.pair[i] = train_alloc(gram->limit * sizeof(train_pair_t));
        memset(job.place[i], 0xff, gram->items * sizeof(int32_t));
    }

    train_parallel("ridge", gram->items, 32, train_ridge_solve, &job);

    for (i = 0; i < train_threads; i++) {
        free(job.system[i]);
        free(job.right[i]);
        free(job.place[i]);
        free(job.pair[i]);
    }

    free(job.system);
    free(job.right);
    free(job.place);
    free(job.pair);

    train_ridge_rows(&columns, out);
    train_neighbours_free(&columns);
}


static void
train_ridge_solve(void *ctx, unsigned worker, uint64_t first, uint64_t last)
{
    int                  n, one, info;
    float               *right;
    uint32_t             k, kept;
    uint64_t             j;
    train_pair_t        *pair;
    train_ridge_job_t   *job = ctx;
    const train_gram_t  *gram = job->gram;

    one = 1;
    right = job->right[worker];
    pair = job->pair[worker];

    for (j = first; j < last; j++) {

        for (k = 0; k < gram->count[j]; k++) {
            pair[k].item = gram->column[j][k];
            pair[k].weight = gram->value[j][k]
                             / sqrtf(gram->diagonal[gram->column[j][k]]);
        }

        n = train_best(pair, gram->count[j], job->m);

        if (n == 0) {
            continue;
        }

        for (k = 0; k < (uint32_t) n; k++) {
            right[k] = pair[k].weight * sqrtf(gram->diagonal[pair[k].item]);
        }

        train_ridge_fill(job, worker, n);
        sposv_("L", &n, &one, job->system[worker], &n, right, &n, &info);

        if (info != 0) {

            /* cut rows made it indefinite: what remains is each one's own weight */

            for (k = 0; k < (uint32_t) n; k++) {
                right[k] = pair[k].weight
                           * sqrtf(gram->diagonal[pair[k].item])
                           / (gram->diagonal[pair[k].item] + job->lambda)
                           / n;
            }
        }

        kept = 0;

        for (k = 0; k < (uint32_t) n; k++) {
            if (right[k] > 0) {
                job->columns->item[j * job->m + kept] = pair[k].item;
                job->columns->weight[j * job->m + kept] = right[k];
                kept++;
            }
        }

        job->columns->count[j] = kept;
    }
}


/* The co-occurrences of the n chosen ones among each other, and lambda. */

static void
train_ridge_fill(train_ridge_job_t *job, unsigned worker, uint32_t n)
{
    float               *system, *value;
    int32_t              at, *place;
    uint32_t             k, i, count, *column;
    train_pair_t        *pair;
    const train_gram_t  *gram = job->gram;

    system = job->system[worker];
    place = job->place[worker];
    pair = job->pair[worker];

    memset(system, 0, n * n * sizeof(float));

    for (k = 0; k < n; k++) {
        place[pair[k].item] = k;
    }

    for (k = 0; k < n; k++) {
        count = gram->count[pair[k].item];
        column = gram->column[pair[k].item];
        value = gram->value[pair[k].item];

        for (i = 0; i < count; i++) {
            at = place[column[i]];

            if (at >= 0) {
                system[at * n + k] = value[i];
                system[k * n + at] = value[i];
            }
        }

        system[k * n + k] = gram->diagonal[pair[k].item] + job->lambda;
    }

    for (k = 0; k < n; k++) {
        place[pair[k].item] = -1;
    }
}


/* Weights were solved for each target; a row holds those of a source. */

static void
train_ridge_rows(const train_neighbours_t *columns, train_neighbours_t *out)
{
    uint32_t           j, k, i;
    uint64_t           at, *first, *next;
    train_rows_job_t   job;

    first = train_zalloc((columns->items + 2) * sizeof(uint64_t));

    for (j = 0; j < columns->items; j++) {
        for (k = 0; k < columns->count[j]; k++) {
            first[columns->item[(uint64_t) j * columns->width + k] + 2]++;
        }
    }

    next = first + 1;

    for (i = 0; i < columns->items; i++) {
        next[i + 1] += next[i];
    }

    job.out = out;
    job.first = first;
    job.pairs = train_alloc(next[columns->items] * sizeof(train_pair_t));

    for (j = 0; j < columns->items; j++) {
        for (k = 0; k < columns->count[j]; k++) {
            at = (uint64_t) j * columns->width + k;
            i = columns->item[at];
            job.pairs[next[i]].item = j;
            job.pairs[next[i]++].weight = columns->weight[at];
        }
    }

    train_parallel(NULL, columns->items, 256, train_rows_best, &job);

    free(job.pairs);
    free(first);
}


static void
train_rows_best(void *ctx, unsigned worker, uint64_t first, uint64_t last)
{
    uint32_t             k, n;
    uint64_t             i;
    train_pair_t        *pair;
    train_rows_job_t    *job = ctx;
    train_neighbours_t  *out = job->out;

    for (i = first; i < last; i++) {
        pair = &job->pairs[job->first[i]];
        n = train_best(pair, job->first[i + 1] - job->first[i], out->width);
        out->count[i] = n;

        for (k = 0; k < n; k++) {
            out->item[i * out->width + k] = pair[k].item;
            out->weight[i * out->width + k] = pair[k].weight;
        }
    }
}


typedef struct {
    const train_gram_t   *gram;
    train_neighbours_t   *out;
    train_pair_t        **pair;
} train_cosine_job_t;


void
train_cosine(const train_gram_t *gram, train_neighbours_t *out)
{
    unsigned            i;
    train_cosine_job_t  job;

    job.gram = gram;
    job.out = out;
    job.pair = train_alloc(train_threads * sizeof(train_pair_t *));

    for (i = 0; i < train_threads; i++) {
        job.pair[i] = train_alloc(gram->limit * sizeof(train_pair_t));
    }

    train_parallel("cosine", gram->items, 256, train_cosine_rows, &job);

    for (i = 0; i < train_threads; i++) {
        free(job.pair[i]);
    }

    free(job.pair);
}


static void
train_cosine_rows(void *ctx, unsigned worker, uint64_t first, uint64_t last)
{
    uint32_t             k, j, n;
    uint64_t             i;
    train_pair_t        *pair;
    train_cosine_job_t  *job = ctx;
    const train_gram_t  *gram = job->gram;
    train_neighbours_t  *out = job->out;

    pair = job->pair[worker];

    for (i = first; i < last; i++) {

        for (k = 0; k < gram->count[i]; k++) {
            j = gram->column[i][k];
            pair[k].item = j;
            pair[k].weight = gram->value[i][k]
                             / sqrtf(gram->diagonal[i] * gram->diagonal[j]);
        }

        n = train_best(pair, gram->count[i], out->width);
        out->count[i] = n;

        for (k = 0; k < n; k++) {
            out->item[i * out->width + k] = pair[k].item;
            out->weight[i * out->width + k] = pair[k].weight;
        }
    }
}
