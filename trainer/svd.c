/*
 * Truncated SVD of a sparse matrix by subspace iteration, and what is built
 * on it: the SVD component, and the vectors for MMR.
 *
 * Sums over many rows are made in blocks of fixed size that are added in
 * order, so that the number of threads does not change a bit.
 */

#include "model.h"

#include <cblas.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>


#define TRAIN_BLOCK   1024
#define TRAIN_EXTRA   8                 /* vectors beside those wanted */
#define TRAIN_BATCH   64                /* products scored at once */


typedef struct {
    const uint64_t  *first;
    const uint32_t  *other;
    const float     *value;
    const float     *in;
    float           *out;
    uint32_t         rank;
} train_product_t;

typedef struct {
    float           *matrix;            /* n × rank */
    uint64_t         n;
    uint32_t         rank;
    double          *partial;           /* by block: rank × rank */
    const double    *factor;
    float           *out;
    uint32_t         width;             /* of out */
} train_dense_t;

typedef struct {
    const float         *factors;
    uint32_t             items;
    uint32_t             rank;
    train_neighbours_t  *out;
    float              **score;
    train_pair_t       **pair;
} train_svd_job_t;


static void train_product(void *ctx, unsigned worker, uint64_t first,
    uint64_t last);
static void train_multiply(const char *what, uint64_t n, const uint64_t *first,
    const uint32_t *other, const float *value, const float *in, float *out,
    uint32_t rank);
static void train_inner(float *matrix, uint64_t n, uint32_t rank, double *sum);
static void train_inner_block(void *ctx, unsigned worker, uint64_t first,
    uint64_t last);
static void train_rotate(float *matrix, uint64_t n, uint32_t rank,
    const double *factor, float *out, uint32_t width);
static void train_rotate_rows(void *ctx, unsigned worker, uint64_t first,
    uint64_t last);
static void train_orthonormal(float *matrix, uint64_t n, uint32_t rank);
static void train_eigen(double *a, double *vectors, uint32_t n);
static void train_svd_rows(void *ctx, unsigned worker, uint64_t first,
    uint64_t last);


void
train_subspace(const char *what, const train_sparse_t *sparse, uint32_t rank,
    unsigned iterations, float **vectors, double *values)
{
    float     *v, *y;
    double    *inner, *rotation, *chosen, best;
    uint32_t   r, i, k, from;
    uint64_t   n, at;

    r = rank + TRAIN_EXTRA;
    n = (uint64_t) sparse->columns * r;
    v = train_alloc(n * sizeof(float));
    y = train_alloc((uint64_t) sparse->rows * r * sizeof(float));
    inner = train_alloc(r * r * sizeof(double));
    rotation = train_alloc(r * r * sizeof(double));
    chosen = train_zalloc(r * rank * sizeof(double));

    for (at = 0; at < n; at++) {
        v[at] = (float) ((double) train_mix(at) * 0x1p-64 - 0.5);
    }

    train_orthonormal(v, sparse->columns, r);

    for (i = 0; i < iterations; i++) {
        train_multiply(what, sparse->rows, sparse->row_first,
                       sparse->row_column, sparse->row_value, v, y, r);
        train_multiply(what, sparse->columns, sparse->column_first,
                       sparse->column_row, sparse->column_value, y, v, r);
        train_orthonormal(v, sparse->columns, r);
    }

    train_multiply(what, sparse->rows, sparse->row_first, sparse->row_column,
                   sparse->row_value, v, y, r);
    train_inner(y, sparse->rows, r, inner);
    train_eigen(inner, rotation, r);

    for (i = 0; i < rank; i++) {
        from = 0;
        best = -1;

        for (k = 0; k < r; k++) {
            if (inner[k * r + k] > best) {
                best = inner[k * r + k];
                from = k;
            }
        }

        inner[from * r + from] = -1;

        if (values != NULL) {
            values[i] = sqrt(best > 0 ? best : 0);
        }

        for (k = 0; k < r; k++) {
            chosen[k * rank + i] = rotation[k * r + from];
        }
    }

    *vectors = train_alloc((uint64_t) sparse->columns * rank * sizeof(float));
    train_rotate(v, sparse->columns, r, chosen, *vectors, rank);

    free(v);
    free(y);
    free(inner);
    free(rotation);
    free(chosen);
}


static void
train_multiply(const char *what, uint64_t n, const uint64_t *first,
    const uint32_t *other, const float *value, const float *in, float *out,
    uint32_t rank)
{
    train_product_t  job = { first, other, value, in, out, rank };

    train_parallel(what, n, 256, train_product, &job);
}


static void
train_product(void *ctx, unsigned worker, uint64_t first, uint64_t last)
{
    float            *out, value;
    uint32_t          r;
    uint64_t          i, k;
    const float      *in;
    train_product_t  *job = ctx;

    for (i = first; i < last; i++) {
        out = &job->out[i * job->rank];
        memset(out, 0, job->rank * sizeof(float));

        for (k = job->first[i]; k < job->first[i + 1]; k++) {
            in = &job->in[(uint64_t) job->other[k] * job->rank];
            value = job->value[k];

            for (r = 0; r < job->rank; r++) {
                out[r] += value * in[r];
            }
        }
    }
}


static void
train_inner(float *matrix, uint64_t n, uint32_t rank, double *sum)
{
    uint32_t        i, size;
    uint64_t        b, blocks;
    train_dense_t   job;

    blocks = (n + TRAIN_BLOCK - 1) / TRAIN_BLOCK;
    size = rank * rank;

    memset(&job, 0, sizeof(train_dense_t));
    job.matrix = matrix;
    job.n = n;
    job.rank = rank;
    job.partial = train_zalloc(blocks * size * sizeof(double));

    train_parallel(NULL, blocks, 1, train_inner_block, &job);

    memset(sum, 0, size * sizeof(double));

    for (b = 0; b < blocks; b++) {
        for (i = 0; i < size; i++) {
            sum[i] += job.partial[b * size + i];
        }
    }

    free(job.partial);
}


static void
train_inner_block(void *ctx, unsigned worker, uint64_t first, uint64_t last)
{
    float          *row;
    double         *sum;
    uint32_t        a, b;
    uint64_t        block, i, end;
    train_dense_t  *job = ctx;

    for (block = first; block < last; block++) {
        sum = &job->partial[block * job->rank * job->rank];
        end = (block + 1) * TRAIN_BLOCK;
        end = (end < job->n) ? end : job->n;

        for (i = block * TRAIN_BLOCK; i < end; i++) {
            row = &job->matrix[i * job->rank];

            for (a = 0; a < job->rank; a++) {
                for (b = 0; b < job->rank; b++) {
                    sum[a * job->rank + b] += (double) row[a] * row[b];
                }
            }
        }
    }
}


/* out = matrix × factor; factor is rank × width */

static void
train_rotate(float *matrix, uint64_t n, uint32_t rank, const double *factor,
    float *out, uint32_t width)
{
    train_dense_t  job = { matrix, n, rank, NULL, factor, out, width };

    train_parallel(NULL, n, TRAIN_BLOCK, train_rotate_rows, &job);
}


static void
train_rotate_rows(void *ctx, unsigned worker, uint64_t first, uint64_t last)
{
    float          *row;
    double         *sum;
    uint32_t        a, b;
    uint64_t        i;
    train_dense_t  *job = ctx;

    sum = train_alloc(job->width * sizeof(double));

    for (i = first; i < last; i++) {
        row = &job->matrix[i * job->rank];
        memset(sum, 0, job->width * sizeof(double));

        for (a = 0; a < job->rank; a++) {
            for (b = 0; b < job->width; b++) {
                sum[b] += row[a] * job->factor[a * job->width + b];
            }
        }

        for (b = 0; b < job->width; b++) {
            job->out[i * job->width + b] = sum[b];
        }
    }

    free(sum);
}


/* Cholesky QR, twice for precision; directions that are not there become zero. */

static void
train_orthonormal(float *matrix, uint64_t n, uint32_t rank)
{
    double    *inner, *inverse, sum, top;
    uint32_t   i, j, k, pass;

    inner = train_alloc(rank * rank * sizeof(double));
    inverse = train_alloc(rank * rank * sizeof(double));

    for (pass = 0; pass < 2; pass++) {
        train_inner(matrix, n, rank, inner);
        top = 0;

        for (i = 0; i < rank; i++) {
            top = (inner[i * rank + i] > top) ? inner[i * rank + i] : top;
        }

        /* inner = L Lᵀ, in its lower half */

        for (j = 0; j < rank; j++) {
            for (i = j; i < rank; i++) {
                sum = inner[i * rank + j];

                for (k = 0; k < j; k++) {
                    sum -= inner[i * rank + k] * inner[j * rank + k];
                }

                if (i == j) {
                    inner[j * rank + j] = (sum > 1e-14 * top) ? sqrt(sum) : 0;

                } else {
                    inner[i * rank + j] = (inner[j * rank + j] > 0)
                                          ? sum / inner[j * rank + j] : 0;
                }
            }
        }

        /* the matrix times the inverse of Lᵀ */

        memset(inverse, 0, rank * rank * sizeof(double));

        for (j = 0; j < rank; j++) {
            if (inner[j * rank + j] == 0) {
                continue;
            }

            inverse[j * rank + j] = 1 / inner[j * rank + j];

            for (i = j; i-- > 0; ) {
                if (inner[i * rank + i] == 0) {
                    continue;
                }

                sum = 0;

                for (k = i + 1; k <= j; k++) {
                    sum += inner[k * rank + i] * inverse[k * rank + j];
                }

                inverse[i * rank + j] = -sum / inner[i * rank + i];
            }
        }

        train_rotate(matrix, n, rank, inverse, matrix, rank);
    }

    free(inner);
    free(inverse);
}


/* Jacobi's rotations: the eigenvalues stand on the diagonal of "a" afterwards. */

static void
train_eigen(double *a, double *vectors, uint32_t n)
{
    double    off, theta, t, c, s, x, y;
    uint32_t  i, j, k, sweep;

    for (i = 0; i < n * n; i++) {
        vectors[i] = (i % (n + 1) == 0);
    }

    for (sweep = 0; sweep < 60; sweep++) {
        off = 0;

        for (i = 0; i < n; i++) {
            for (j = i + 1; j < n; j++) {
                off += fabs(a[i * n + j]);

                if (a[i * n + j] == 0) {
                    continue;
                }

                theta = (a[j * n + j] - a[i * n + i]) / (2 * a[i * n + j]);
                t = ((theta >= 0) ? 1 : -1)
                    / (fabs(theta) + sqrt(theta * theta + 1));
                c = 1 / sqrt(t * t + 1);
                s = t * c;

                for (k = 0; k < n; k++) {
                    x = a[k * n + i];
                    y = a[k * n + j];
                    a[k * n + i] = c * x - s * y;
                    a[k * n + j] = s * x + c * y;
                }

                for (k = 0; k < n; k++) {
                    x = a[i * n + k];
                    y = a[j * n + k];
                    a[i * n + k] = c * x - s * y;
                    a[j * n + k] = s * x + c * y;
                }

                for (k = 0; k < n; k++) {
                    x = vectors[k * n + i];
                    y = vectors[k * n + j];
                    vectors[k * n + i] = c * x - s * y;
                    vectors[k * n + j] = s * x + c * y;
                }
            }
        }

        if (off < 1e-12) {
            return;
        }
    }
}


/* Rows and columns are divided by the root of their sums, so that the popular do not take all factors. */

void
train_svd(const train_matrix_t *matrix, uint32_t rank, float **factors)
{
    float           *users, *items, *row, *column;
    uint32_t         u, i;
    uint64_t         k;
    train_sparse_t   sparse;

    users = train_zalloc(matrix->users * sizeof(float));
    items = train_zalloc(matrix->items * sizeof(float));
    row = train_alloc(matrix->n * sizeof(float));
    column = train_alloc(matrix->n * sizeof(float));

    for (u = 0; u < matrix->users; u++) {
        for (k = matrix->user_first[u]; k < matrix->user_first[u + 1]; k++) {
            users[u] += matrix->user_value[k];
            items[matrix->user_item[k]] += matrix->user_value[k];
        }
    }

    for (u = 0; u < matrix->users; u++) {
        for (k = matrix->user_first[u]; k < matrix->user_first[u + 1]; k++) {
            row[k] = matrix->user_value[k]
                     / sqrtf(users[u] * items[matrix->user_item[k]]);
        }
    }

    for (i = 0; i < matrix->items; i++) {
        for (k = matrix->item_first[i]; k < matrix->item_first[i + 1]; k++) {
            column[k] = matrix->item_value[k]
                        / sqrtf(users[matrix->item_user[k]] * items[i]);
        }
    }

    sparse.rows = matrix->users;
    sparse.columns = matrix->items;
    sparse.row_first = matrix->user_first;
    sparse.row_column = matrix->user_item;
    sparse.row_value = row;
    sparse.column_first = matrix->item_first;
    sparse.column_row = matrix->item_user;
    sparse.column_value = column;

    train_subspace("svd", &sparse, rank, 10, factors, NULL);

    /* a product's factor against the popularity that normalising took away */

    for (i = 0; i < matrix->items; i++) {
        for (u = 0; u < rank; u++) {
            (*factors)[(uint64_t) i * rank + u] *= sqrtf(sqrtf(items[i]));
        }
    }

    free(users);
    free(items);
    free(row);
    free(column);
}


void
train_svd_neighbours(const float *factors, uint32_t items, uint32_t rank,
    train_neighbours_t *out)
{
    unsigned         i;
    train_svd_job_t  job;

    job.factors = factors;
    job.items = items;
    job.rank = rank;
    job.out = out;
    job.score = train_alloc(train_threads * sizeof(float *));
    job.pair = train_alloc(train_threads * sizeof(train_pair_t *));

    for (i = 0; i < train_threads; i++) {
        job.score[i] = train_alloc((uint64_t) TRAIN_BATCH * items
                                   * sizeof(float));
        job.pair[i] = train_alloc(items * sizeof(train_pair_t));
    }

    train_parallel("svd: neighbours", items, TRAIN_BATCH, train_svd_rows,
                   &job);

    for (i = 0; i < train_threads; i++) {
        free(job.score[i]);
        free(job.pair[i]);
    }

    free(job.score);
    free(job.pair);
}


static void
train_svd_rows(void *ctx, unsigned worker, uint64_t first, uint64_t last)
{
    float               *score, *own;
    uint32_t             j, n;
    uint64_t             i;
    train_pair_t        *pair;
    train_svd_job_t     *job = ctx;
    train_neighbours_t  *out = job->out;

    score = job->score[worker];
    pair = job->pair[worker];

    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, last - first,
                job->items, job->rank, 1, &job->factors[first * job->rank],
                job->rank, job->factors, job->rank, 0, score, job->items);

    for (i = first; i < last; i++) {
        own = &score[(i - first) * job->items];
        n = 0;

        for (j = 0; j < job->items; j++) {
            if (own[j] > 0 && j != i) {
                pair[n].item = j;
                pair[n++].weight = own[j];
            }
        }

        n = train_best(pair, n, out->width);
        out->count[i] = n;

        for (j = 0; j < n; j++) {
            out->item[i * out->width + j] = pair[j].item;
            out->weight[i * out->width + j] = pair[j].weight;
        }
    }
}
