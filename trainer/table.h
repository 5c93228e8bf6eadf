/* From components to the table that is served, and how good a table is. */

#ifndef TRAIN_TABLE_H
#define TRAIN_TABLE_H


#include "model.h"


typedef enum {
    TRAIN_RIDGE = 0,
    TRAIN_COSINE,
    TRAIN_SVD
} train_algorithm_t;


/* What can be configured or tuned. */

typedef struct {
    train_algorithm_t   algorithm;
    double              lambda;         /* ridge */
    double              degree;         /* user weights: degree^-this */
    uint32_t            nearest;        /* products a ridge system is made of */
    uint32_t            rank;           /* SVD */
    uint32_t            history;        /* a user's last products, at most */
    uint64_t            memory;         /* of the co-occurrences */

    double              content;
    double              collaborative;
    double              popularity;
    double              diversity;

    double              evidence;       /* events that make content and collaborative equal */
    double              popularity_days;
    double              position_decay;
    double              age_days;
    double              freshness;      /* exponent of what a product sells now to what it did */
    double              freshness_days; /* how long "now" is */
    float               event_weight[NGX_COMMERCE_EVENTS];
} train_options_t;

void train_options_init(train_options_t *options);


/* Everything that a table is made of. Empty parts are zero. */

typedef struct {
    train_history_t                    history;
    train_matrix_t                     matrix;
    train_neighbours_t                 collaborative;
    train_neighbours_t                 content;
    bool                               has_content;
    const char                        *content_model;
    ngx_commerce_similarity_vector_t  *vectors;
    const train_event_t               *events;
    uint64_t                           nevents;
} train_parts_t;

/* History and matrix of the events; content and vectors are left to the caller. */

void train_parts_events(const train_data_t *data, const train_event_t *events,
    uint64_t n, const train_options_t *options, train_parts_t *parts);
void train_parts_collaborative(const train_options_t *options,
    train_parts_t *parts);
void train_parts_content(const train_data_t *data, train_parts_t *parts);
void train_parts_free(train_parts_t *parts);


typedef struct {
    void                       *data;
    size_t                      size;
    ngx_commerce_similarity_t   table;
} train_table_t;

/* What only the finished table knows of itself. */

typedef struct {
    uint64_t   tenant;
    uint64_t   generation;
    int64_t    created;                 /* ms */
    double     ndcg;
    double     coverage;
} train_identity_t;

void train_table_build(const train_data_t *data, const train_parts_t *parts,
    const train_options_t *options, const train_identity_t *identity,
    train_table_t *out);
void train_table_load(const char *name, train_table_t *out);
void train_table_free(train_table_t *table);


/* Means over the users of the test set. */

typedef struct {
    double     precision10, precision20;
    double     recall10, recall20;
    double     ndcg10, ndcg20;
    double     hit10, hit20;
    double     coverage;                /* products in any list of 20, of those with events */
    double     similarity;              /* mean cosine inside a list of 10 */
    double     cold_recall20;           /* of test products with under 5 events */
    uint64_t   users;
    uint64_t   cold_users;              /* who have such products */
} train_metrics_t;

/* What is to be predicted: products by user, without those that the user has already. */

typedef struct {
    uint32_t    users;                  /* who have something to predict */
    uint32_t   *user;                   /* TRAIN_NONE: no history */
    uint64_t   *first;                  /* users + 1 */
    uint32_t   *item;                   /* TRAIN_NONE: unknown */
    uint32_t   *support;                /* events of each product before */
    int64_t     now;                    /* ms: when the lists are asked for */
} train_truth_t;

void train_truth(const train_data_t *data, const train_history_t *history,
    const train_event_t *test, uint64_t n, bool again, train_truth_t *truth);

/* The same from another file, whose users and products have other numbers. */

void train_truth_data(const train_data_t *data, const train_history_t *history,
    const train_data_t *test, bool again, train_truth_t *truth);
void train_truth_free(train_truth_t *truth);

/* "alone": without what popularity adds; a user whom the table knows nothing for gets an empty list. */

void train_evaluate_table(const train_table_t *table,
    const train_history_t *history, const train_truth_t *truth, bool again,
    bool alone, train_metrics_t *metrics);
void train_evaluate_scores(const double *score, const train_table_t *table,
    const train_history_t *history, const train_truth_t *truth, bool again,
    train_metrics_t *metrics);
void train_evaluate_svd(const float *factors, uint32_t rank,
    const train_table_t *table, const train_history_t *history,
    const train_truth_t *truth, bool again, train_metrics_t *metrics);


/*
 * Chooses options on the last events of the data. Returns the metrics of what was chosen and of popularity; with too few users to tell by,
 * options and "tuned" stay as they are.
 */

typedef struct {
    train_metrics_t   chosen;
    train_metrics_t   popularity;
    uint32_t          tried;
    bool              guarded;          /* popularity was better: it decides now */
} train_tuned_t;

void train_tune(const train_data_t *data, train_options_t *options,
    train_tuned_t *tuned);


#endif /* TRAIN_TABLE_H */
