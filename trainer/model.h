/*
 * The components: what each of them says about pairs of products.
 */

#ifndef TRAIN_MODEL_H
#define TRAIN_MODEL_H


#include "data.h"


/* Users × products, positive events only, by both sides; in order of the other side's number. */

typedef struct {
    uint32_t    users;
    uint32_t    items;
    uint64_t    n;
    uint64_t   *user_first;             /* users + 1 */
    uint32_t   *user_item;
    float      *user_value;
    uint64_t   *item_first;             /* items + 1 */
    uint32_t   *item_user;
    float      *item_value;
} train_matrix_t;

/* Values are the events' weights over the greatest of them; "weights" by event. */

void train_matrix(const train_history_t *history, const float *weights,
    train_matrix_t *matrix);
void train_matrix_free(train_matrix_t *matrix);


/* For each product up to "width" others, best first; weights are positive. */

typedef struct {
    uint32_t    items;
    uint32_t    width;
    uint32_t   *count;                  /* items */
    uint32_t   *item;                   /* items × width */
    float      *weight;
} train_neighbours_t;

void train_neighbours(train_neighbours_t *neighbours, uint32_t items,
    uint32_t width);
void train_neighbours_free(train_neighbours_t *neighbours);

/* A pair that competes for a place in a row. */

typedef struct {
    uint32_t    item;
    float       weight;
} train_pair_t;

/* The "width" best of n pairs come first, in order: greater weight, then lower number. Returns how many. */

uint32_t train_best(train_pair_t *pairs, uint32_t n, uint32_t width);


/* XᵀWX with W = degree^-a of the user: rows sorted by column, the strongest "limit" of each. */

typedef struct {
    uint32_t    items;
    uint32_t    limit;
    float      *diagonal;
    uint32_t   *count;
    uint32_t  **column;
    float     **value;
} train_gram_t;

void train_gram(const train_matrix_t *matrix, double a, uint64_t memory,
    train_gram_t *gram);
void train_gram_free(train_gram_t *gram);


/* Local ridge: weights of the "m" nearest products, solved for each target. */

void train_ridge(const train_gram_t *gram, uint32_t m, double lambda,
    train_neighbours_t *out);

void train_cosine(const train_gram_t *gram, train_neighbours_t *out);


/* Truncated SVD of the normalised matrix by subspace iteration: products × rank, columns orthonormal. */

void train_svd(const train_matrix_t *matrix, uint32_t rank, float **factors);

/* Products whose factors have the greatest product. */

void train_svd_neighbours(const float *factors, uint32_t items, uint32_t rank,
    train_neighbours_t *out);


/* Words of products as sparse unit vectors; products without a text have none. */

typedef struct {
    uint32_t    items;
    uint32_t    features;
    uint64_t   *first;                  /* items + 1 */
    uint32_t   *feature;
    float      *value;
} train_content_t;

bool train_content(const train_data_t *data, train_content_t *content);
void train_content_free(train_content_t *content);
void train_content_neighbours(const train_content_t *content,
    train_neighbours_t *out);

/* The same by data->embeddings: rows of products that have a vector are replaced, the others stay. */

void train_dense_neighbours(const train_data_t *data, train_neighbours_t *out);
void train_dense_vectors(const train_data_t *data,
    ngx_commerce_similarity_vector_t *vectors);

/* How many products have a vector. */

uint32_t train_dense_known(const train_data_t *data);

/* Vectors for MMR: of the content, else of the matrix. */

void train_vectors(const train_content_t *content, const train_matrix_t *matrix,
    ngx_commerce_similarity_vector_t *vectors);

/* Subspace iteration over a sparse matrix given by rows and by columns. */

typedef struct {
    uint32_t         rows;
    uint32_t         columns;
    const uint64_t  *row_first;
    const uint32_t  *row_column;
    const float     *row_value;
    const uint64_t  *column_first;
    const uint32_t  *column_row;
    const float     *column_value;
} train_sparse_t;

/* The first "rank" right singular vectors (columns × rank) and, when wanted, values. */

void train_subspace(const char *what, const train_sparse_t *sparse,
    uint32_t rank, unsigned iterations, float **vectors, double *values);


/* Sum of the events' weights, each decayed by its age; without times the plain sum. */

void train_popularity(const train_data_t *data, const train_event_t *events,
    uint64_t n, double days, const float *weights, double *score);

/* What a product sells now over what it sold before, about 1 on the mean; 1 without times. */

void train_freshness(const train_data_t *data, const train_event_t *events,
    uint64_t n, double days, double *ratio);

/* (this week + m) / (the week before + m) of each product; 0 below the minimum support. */

void train_trending(const train_data_t *data, const train_event_t *events,
    uint64_t n, double *score);


#endif /* TRAIN_MODEL_H */
