/*
 * Content by vectors: the nearest of each product, and what MMR needs of them.
 *
 * Every product is compared with every other one up to TRAIN_EXACT of them.
 * Beyond that they are divided into clusters, and a product is compared with
 * those of the clusters around its own: a million in minutes, not hours.
 */

#include "model.h"
#include "embeddings.h"

#include <cblas.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>


#define TRAIN_EXACT     131072          /* products that are all compared */
#define TRAIN_CLUSTER   1000            /* products of one, about */
#define TRAIN_AROUND    32              /* clusters looked at */
#define TRAIN_SAMPLE    64              /* products of a cluster that place its centre */
#define TRAIN_ROUNDS    8
#define TRAIN_ROWS      128             /* products compared at once */
#define TRAIN_COLUMNS   1024            /* with so many others */
#define TRAIN_NEAR      0.2f            /* cosine, of what is left of the mean */


typedef struct {
    const train_embeddings_t  *embeddings;
    const uint32_t            *of;              /* product → vector, or TRAIN_NONE */
    uint32_t                   items;
    uint32_t                   width;
    float                     *mean;

    uint32_t                   clusters;
    float                     *centre;          /* clusters × width */
    uint32_t                  *cluster;         /* by product */
    uint32_t                  *first;           /* of a cluster, clusters + 1 */
    uint32_t                  *member;          /* products by cluster */
    uint32_t                  *around;          /* clusters × TRAIN_AROUND */
    uint32_t                   naround;

    float                    **rows;            /* by worker */
    float                    **columns;
    float                    **score;
    train_neighbours_t        *out;
    ngx_commerce_similarity_vector_t  *vectors;
    const float               *axes;            /* width × dimensions */
} train_dense_job_t;


static void train_dense_init(train_dense_job_t *job, const train_data_t *data,
    uint32_t *of);
static void train_dense_done(train_dense_job_t *job);
static uint32_t train_dense_find(const train_data_t *data, uint32_t *of);
static void train_dense_mean(train_dense_job_t *job);
static bool train_dense_vector(const train_dense_job_t *job, uint32_t item,
    float *out);
static void train_dense_cluster(train_dense_job_t *job);
static void train_dense_centres(train_dense_job_t *job);
static void train_dense_assign(void *ctx, unsigned worker, uint64_t first,
    uint64_t last);
static void train_dense_members(train_dense_job_t *job);
static void train_dense_near(train_dense_job_t *job);
static void train_dense_rows(void *ctx, unsigned worker, uint64_t first,
    uint64_t last);
static void train_dense_block(train_dense_job_t *job, unsigned worker,
    const uint32_t *item, uint32_t n);
static void train_dense_keep(train_neighbours_t *out, uint32_t item,
    const uint32_t *other, const float *score, uint32_t n);
static void train_dense_sharpen(train_neighbours_t *out, uint32_t item);
static void train_dense_project(void *ctx, unsigned worker, uint64_t first,
    uint64_t last);


/* Neighbours of those that have a vector; the rows of the others stay as they are. */

void
train_dense_neighbours(const train_data_t *data, train_neighbours_t *out)
{
    uint32_t           i, *of;
    train_dense_job_t  job;

    of = train_alloc(data->items * sizeof(uint32_t));
    (void) train_dense_find(data, of);
    train_dense_init(&job, data, of);
    job.out = out;

    for (i = 0; i < data->items; i++) {
        if (of[i] != TRAIN_NONE) {
            out->count[i] = 0;
        }
    }

    train_dense_cluster(&job);
    train_parallel("content", data->items, TRAIN_ROWS, train_dense_rows, &job);

    train_dense_done(&job);
    free(of);
}


uint32_t
train_dense_known(const train_data_t *data)
{
    uint32_t  n, *of;

    if (data->embeddings == NULL) {
        return 0;
    }

    of = train_alloc(data->items * sizeof(uint32_t));
    n = train_dense_find(data, of);
    free(of);

    return n;
}


/* The directions in which the vectors differ most, each product's scaled to length 127. */

void
train_dense_vectors(const train_data_t *data,
    ngx_commerce_similarity_vector_t *vectors)
{
    float              *gram, *row, *axes;
    uint32_t            i, k, w, n, *of, *column;
    uint64_t           *first;
    train_sparse_t      sparse;
    train_dense_job_t   job;

    of = train_alloc(data->items * sizeof(uint32_t));
    (void) train_dense_find(data, of);
    train_dense_init(&job, data, of);
    job.vectors = vectors;
    w = job.width;

    /* blocks are added in their order: the threads change nothing */

    gram = train_zalloc((uint64_t) w * w * sizeof(float));
    row = job.rows[0];

    for (i = 0, n = 0; i < data->items; i++) {
        n += train_dense_vector(&job, i, row + (uint64_t) n * w);

        if (n == TRAIN_ROWS || (n != 0 && i + 1 == data->items)) {
            cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, w, w, n, 1,
                        row, w, row, w, 1, gram, w);
            n = 0;
        }
    }

    first = train_alloc((w + 1) * sizeof(uint64_t));
    column = train_alloc((uint64_t) w * w * sizeof(uint32_t));

    for (i = 0; i <= w; i++) {
        first[i] = (uint64_t) i * w;

        for (k = 0; i < w && k < w; k++) {
            column[(uint64_t) i * w + k] = k;
        }
    }

    memset(&sparse, 0, sizeof(train_sparse_t));
    sparse.rows = w;
    sparse.columns = w;
    sparse.row_first = first;
    sparse.row_column = column;
    sparse.row_value = gram;
    sparse.column_first = first;
    sparse.column_row = column;
    sparse.column_value = gram;

    train_subspace(NULL, &sparse, NGX_COMMERCE_SIMILARITY_DIMENSIONS, 8, &axes,
                   NULL);
    job.axes = axes;
    train_parallel("vectors", data->items, TRAIN_ROWS, train_dense_project,
                   &job);

    free(axes);
    free(first);
    free(column);
    free(gram);
    train_dense_done(&job);
    free(of);
}


static void
train_dense_init(train_dense_job_t *job, const train_data_t *data, uint32_t *of)
{
    unsigned  i;
    uint64_t  columns;

    memset(job, 0, sizeof(train_dense_job_t));
    job->embeddings = data->embeddings;
    job->of = of;
    job->items = data->items;
    job->width = data->embeddings->about->width;
    job->rows = train_alloc(train_threads * sizeof(float *));
    job->columns = train_alloc(train_threads * sizeof(float *));
    job->score = train_alloc(train_threads * sizeof(float *));
    columns = TRAIN_COLUMNS;

    for (i = 0; i < train_threads; i++) {
        job->rows[i] = train_alloc((uint64_t) TRAIN_ROWS * job->width
                                   * sizeof(float));
        job->columns[i] = train_alloc(columns * job->width * sizeof(float));
        job->score[i] = train_alloc(columns * TRAIN_ROWS * sizeof(float));
    }

    train_dense_mean(job);
}


static void
train_dense_done(train_dense_job_t *job)
{
    unsigned  i;

    for (i = 0; i < train_threads; i++) {
        free(job->rows[i]);
        free(job->columns[i]);
        free(job->score[i]);
    }

    free(job->rows);
    free(job->columns);
    free(job->score);
    free(job->mean);
    free(job->centre);
    free(job->cluster);
    free(job->first);
    free(job->member);
    free(job->around);
}


static uint32_t
train_dense_find(const train_data_t *data, uint32_t *of)
{
    uint32_t                   i, n;
    const train_embeddings_t  *e = data->embeddings;

    for (i = 0, n = 0; i < data->items; i++) {
        of[i] = train_find(e->keys, e->about->n, data->item_keys[i]);

        /* a product without a text has the vector of nothing */

        if (data->texts == NULL || data->texts[i].text_len == 0) {
            of[i] = TRAIN_NONE;
        }

        n += (of[i] != TRAIN_NONE);
    }

    return n;
}


/* What all texts of a shop have in common tells nothing about one of them. */

static void
train_dense_mean(train_dense_job_t *job)
{
    float     *row;
    double    *sum;
    uint32_t   i, k, n;

    job->mean = train_zalloc(job->width * sizeof(float));
    sum = train_zalloc(job->width * sizeof(double));
    row = job->rows[0];

    for (i = 0, n = 0; i < job->items; i++) {
        if (train_dense_vector(job, i, row)) {
            for (k = 0; k < job->width; k++) {
                sum[k] += row[k];
            }

            n++;
        }
    }

    /* few products have no mean that could be told from what they are about */

    for (k = 0; k < job->width && n >= 50; k++) {
        job->mean[k] = sum[k] / n;
    }

    free(sum);
}


/* A product's vector without the mean, of length 1; false, and zeros: it has none. */

static bool
train_dense_vector(const train_dense_job_t *job, uint32_t item, float *out)
{
    float          scale;
    double         length;
    uint32_t       k;
    const int8_t  *x;

    if (job->of[item] == TRAIN_NONE) {
        memset(out, 0, job->width * sizeof(float));
        return false;
    }

    x = job->embeddings->vectors + (uint64_t) job->of[item] * job->width;
    scale = job->embeddings->scales[job->of[item]];

    for (k = 0, length = 0; k < job->width; k++) {
        out[k] = x[k] * scale - job->mean[k];
        length += (double) out[k] * out[k];
    }

    scale = (length > 1e-12) ? 1 / sqrt(length) : 0;

    for (k = 0; k < job->width; k++) {
        out[k] *= scale;
    }

    return true;
}


static void
train_dense_cluster(train_dense_job_t *job)
{
    unsigned  round;

    job->clusters = (job->items > TRAIN_EXACT) ? job->items / TRAIN_CLUSTER : 1;
    job->cluster = train_zalloc(job->items * sizeof(uint32_t));

    if (job->clusters > 1) {
        job->centre = train_zalloc((uint64_t) job->clusters * job->width
                                   * sizeof(float));

        for (round = 0; round < TRAIN_ROUNDS; round++) {
            train_dense_centres(job);
            train_parallel("clusters", job->items, TRAIN_ROWS,
                           train_dense_assign, job);
        }
    }

    train_dense_members(job);
    train_dense_near(job);
}


/* In the first round products evenly over the shop, then the means of a sample. */

static void
train_dense_centres(train_dense_job_t *job)
{
    float     *row, *centre;
    double     length;
    uint32_t   i, k, c, *count;

    row = job->rows[0];
    count = train_zalloc(job->clusters * sizeof(uint32_t));

    if (job->first != NULL) {
        memset(job->centre, 0, (uint64_t) job->clusters * job->width
                               * sizeof(float));
    }

    for (i = 0; i < job->items; i++) {
        c = (job->first != NULL) ? job->cluster[i]
                                 : (uint64_t) i * job->clusters / job->items;

        if (count[c] == TRAIN_SAMPLE || !train_dense_vector(job, i, row)) {
            continue;
        }

        centre = job->centre + (uint64_t) c * job->width;

        for (k = 0; k < job->width; k++) {
            centre[k] += row[k];
        }

        /* the first one of a part is its first centre */

        count[c] = (job->first != NULL) ? count[c] + 1 : TRAIN_SAMPLE;
    }

    for (c = 0; c < job->clusters; c++) {
        centre = job->centre + (uint64_t) c * job->width;

        for (k = 0, length = 0; k < job->width; k++) {
            length += (double) centre[k] * centre[k];
        }

        length = (length > 0) ? 1 / sqrt(length) : 0;

        for (k = 0; k < job->width; k++) {
            centre[k] *= length;
        }
    }

    if (job->first == NULL) {
        job->first = train_zalloc((job->clusters + 1) * sizeof(uint32_t));
    }

    free(count);
}


static void
train_dense_assign(void *ctx, unsigned worker, uint64_t first, uint64_t last)
{
    float              *row, *score;
    uint32_t            i, c, m, n, k, best[TRAIN_ROWS];
    float               top[TRAIN_ROWS];
    train_dense_job_t  *job = ctx;

    n = last - first;
    row = job->rows[worker];
    score = job->score[worker];

    for (i = 0; i < n; i++) {
        (void) train_dense_vector(job, first + i,
                                  row + (uint64_t) i * job->width);
        top[i] = -2;
        best[i] = 0;
    }

    for (c = 0; c < job->clusters; c += TRAIN_COLUMNS) {
        m = (job->clusters - c < TRAIN_COLUMNS) ? job->clusters - c
                                                : TRAIN_COLUMNS;
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, n, m, job->width,
                    1, row, job->width, job->centre + (uint64_t) c * job->width,
                    job->width, 0, score, TRAIN_COLUMNS);

        for (i = 0; i < n; i++) {
            for (k = 0; k < m; k++) {
                if (score[(uint64_t) i * TRAIN_COLUMNS + k] > top[i]) {
                    top[i] = score[(uint64_t) i * TRAIN_COLUMNS + k];
                    best[i] = c + k;
                }
            }
        }
    }

    for (i = 0; i < n; i++) {
        job->cluster[first + i] = best[i];
    }
}


static void
train_dense_members(train_dense_job_t *job)
{
    uint32_t  i, c, *next;

    free(job->first);
    job->first = train_zalloc((job->clusters + 2) * sizeof(uint32_t));
    job->member = train_alloc(job->items * sizeof(uint32_t));
    next = job->first + 1;

    for (i = 0; i < job->items; i++) {
        next[job->cluster[i] + 1]++;
    }

    for (c = 0; c < job->clusters; c++) {
        next[c + 1] += next[c];
    }

    for (i = 0; i < job->items; i++) {
        job->member[next[job->cluster[i]]++] = i;
    }
}


/* The clusters whose centres are nearest to each one's, itself among them. */

static void
train_dense_near(train_dense_job_t *job)
{
    uint32_t       c, k;
    const float   *a;
    train_pair_t  *pair;

    job->naround = (job->clusters < TRAIN_AROUND) ? job->clusters
                                                  : TRAIN_AROUND;
    job->around = train_zalloc((uint64_t) job->clusters * TRAIN_AROUND
                               * sizeof(uint32_t));

    if (job->clusters == 1) {
        return;
    }

    pair = train_alloc(job->clusters * sizeof(train_pair_t));

    for (c = 0; c < job->clusters; c++) {
        a = job->centre + (uint64_t) c * job->width;

        for (k = 0; k < job->clusters; k++) {
            pair[k].item = k;
            pair[k].weight = (k == c) ? 2
                             : cblas_sdot(job->width, a, 1, job->centre
                                          + (uint64_t) k * job->width, 1);
        }

        (void) train_best(pair, job->clusters, job->naround);

        for (k = 0; k < job->naround; k++) {
            job->around[(uint64_t) c * TRAIN_AROUND + k] = pair[k].item;
        }
    }

    free(pair);
}


/* Places of "member"; those of one cluster together. */

static void
train_dense_rows(void *ctx, unsigned worker, uint64_t first, uint64_t last)
{
    uint64_t            i, from;
    train_dense_job_t  *job = ctx;

    for (i = first + 1, from = first; i <= last; i++) {
        if (i == last
            || job->cluster[job->member[i]] != job->cluster[job->member[from]])
        {
            train_dense_block(job, worker, job->member + from, i - from);
            from = i;
        }
    }
}


static void
train_dense_block(train_dense_job_t *job, unsigned worker, const uint32_t *item,
    uint32_t n)
{
    float           *row, *column, *score;
    uint32_t         i, k, c, m, at, end;
    const uint32_t  *around;

    row = job->rows[worker];
    column = job->columns[worker];
    score = job->score[worker];
    around = job->around + (uint64_t) job->cluster[item[0]] * TRAIN_AROUND;

    for (i = 0; i < n; i++) {
        (void) train_dense_vector(job, item[i], row + (uint64_t) i * job->width);
    }

    for (c = 0; c < job->naround; c++) {
        end = job->first[around[c] + 1];

        for (at = job->first[around[c]]; at < end; at += m) {
            m = (end - at < TRAIN_COLUMNS) ? end - at : TRAIN_COLUMNS;

            for (k = 0; k < m; k++) {
                (void) train_dense_vector(job, job->member[at + k],
                                          column + (uint64_t) k * job->width);
            }

            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, n, m,
                        job->width, 1, row, job->width, column, job->width, 0,
                        score, TRAIN_COLUMNS);

            for (i = 0; i < n; i++) {
                if (job->of[item[i]] != TRAIN_NONE) {
                    train_dense_keep(job->out, item[i], job->member + at,
                                     score + (uint64_t) i * TRAIN_COLUMNS, m);
                }
            }
        }
    }

    for (i = 0; i < n; i++) {
        if (job->of[item[i]] != TRAIN_NONE) {
            train_dense_sharpen(job->out, item[i]);
        }
    }
}


/* Cosines of sentences lie close together: squared, the nearest ones count. */

static void
train_dense_sharpen(train_neighbours_t *out, uint32_t item)
{
    float     *weight;
    uint32_t   k;

    weight = out->weight + (uint64_t) item * out->width;

    for (k = 0; k < out->count[item]; k++) {
        weight[k] *= weight[k];
    }
}


/* Puts what is near enough into the product's row, best first; equals by number. */

static void
train_dense_keep(train_neighbours_t *out, uint32_t item, const uint32_t *other,
    const float *score, uint32_t n)
{
    float     *weight, least;
    uint32_t   i, k, *near, count;

    near = out->item + (uint64_t) item * out->width;
    weight = out->weight + (uint64_t) item * out->width;
    count = out->count[item];
    least = (count == out->width) ? weight[count - 1] : TRAIN_NEAR;

    for (i = 0; i < n; i++) {

        if (score[i] < least || other[i] == item) {
            continue;
        }

        for (k = count; k != 0; k--) {
            if (weight[k - 1] > score[i]
                || (weight[k - 1] == score[i] && near[k - 1] < other[i]))
            {
                break;
            }
        }

        if (k == out->width) {
            continue;
        }

        count += (count < out->width);
        memmove(near + k + 1, near + k, (count - k - 1) * sizeof(uint32_t));
        memmove(weight + k + 1, weight + k, (count - k - 1) * sizeof(float));
        near[k] = other[i];
        weight[k] = score[i];
        least = (count == out->width) ? weight[count - 1] : TRAIN_NEAR;
    }

    out->count[item] = count;
}


static void
train_dense_project(void *ctx, unsigned worker, uint64_t first, uint64_t last)
{
    float              *row, *out;
    double              length;
    uint32_t            i, k, n;
    train_dense_job_t  *job = ctx;

    n = last - first;
    row = job->rows[worker];
    out = job->score[worker];

    for (i = 0; i < n; i++) {
        (void) train_dense_vector(job, first + i,
                                  row + (uint64_t) i * job->width);
    }

    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, n,
                NGX_COMMERCE_SIMILARITY_DIMENSIONS, job->width, 1, row,
                job->width, job->axes, NGX_COMMERCE_SIMILARITY_DIMENSIONS, 0,
                out, NGX_COMMERCE_SIMILARITY_DIMENSIONS);

    for (i = 0; i < n; i++) {
        for (k = 0, length = 0; k < NGX_COMMERCE_SIMILARITY_DIMENSIONS; k++) {
            length += (double) out[k] * out[k];
        }

        length = (length > 0) ? 127 / sqrt(length) : 0;

        for (k = 0; k < NGX_COMMERCE_SIMILARITY_DIMENSIONS; k++) {
            job->vectors[first + i].x[k] = lrint(out[k] * length);
        }

        out += NGX_COMMERCE_SIMILARITY_DIMENSIONS;
    }
}
