/* Choosing the options on the last events of the data.  See table.h. */

#include "table.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>


#define TRAIN_PART      0.1             /* of a timed history that is predicted */
#define TRAIN_RANDOM    0.2             /* of one without times */
#define TRAIN_USERS     4000            /* who are predicted, at most */
#define TRAIN_USERS_MIN 50              /* with fewer chance would choose */
#define TRAIN_NEAREST   100             /* products in a ridge system while tuning */
#define TRAIN_LOSS      0.01            /* of NDCG that diversity may cost */


typedef struct {
    const train_data_t     *data;
    train_parts_t           parts;
    train_truth_t           truth;
    train_options_t         best;
    train_metrics_t         metrics;
    uint32_t                tried;
} train_search_t;


static void train_tune_models(train_search_t *search);
static void train_tune_ridge(train_search_t *search, const train_gram_t *gram,
    double degree, double lambda, train_neighbours_t *kept);
static void train_tune_weights(train_search_t *search);
static bool train_try(train_search_t *search, const train_options_t *options);
static void train_tune_value(train_search_t *search, double *value,
    const double *values, unsigned n);
static void train_tune_diversity(train_search_t *search, double wanted);
static void train_sample(train_truth_t *truth, uint32_t users);


void
train_tune(const train_data_t *data, train_options_t *options,
    train_tuned_t *tuned)
{
    double           *score;
    train_split_t     split;
    train_table_t     table;
    train_search_t    search;
    train_identity_t  identity;

    memset(&search, 0, sizeof(train_search_t));
    memset(&identity, 0, sizeof(train_identity_t));

    train_split(data, data->timed ? TRAIN_PART : TRAIN_RANDOM, &split);

    search.data = data;
    search.best = *options;
    search.best.diversity = 0;

    if (!data->timed && !data->ordered) {
        search.best.position_decay = 1;
    }

    train_parts_events(data, split.train, split.ntrain, options, &search.parts);
    train_truth(data, &search.parts.history, split.test, split.ntest, false,
                &search.truth);
    train_sample(&search.truth, TRAIN_USERS);

    if (search.truth.users < TRAIN_USERS_MIN) {
        train_say("not tuned: the last events name something new for %u "
                  "users, and below %u chance would choose; the weights stay "
                  "as they are", search.truth.users, TRAIN_USERS_MIN);
        train_truth_free(&search.truth);
        train_parts_free(&search.parts);
        train_split_free(&split);
        return;
    }

    train_parts_content(data, &search.parts);

    train_tune_models(&search);
    train_tune_weights(&search);

    /* popularity itself, by the same users: the floor */

    score = train_alloc(data->items * sizeof(double));
    train_popularity(data, split.train, split.ntrain,
                     search.best.popularity_days, search.best.event_weight,
                     score);
    train_table_build(data, &search.parts, &search.best, &identity, &table);
    train_evaluate_scores(score, &table, &search.parts.history, &search.truth,
                          false, &tuned->popularity);
    train_table_free(&table);
    free(score);

    tuned->guarded = tuned->popularity.ndcg20 > search.metrics.ndcg20;

    if (tuned->guarded) {
        search.best.popularity = 1000 * (search.best.content
                                         + search.best.collaborative);
    }

    train_tune_diversity(&search, options->diversity);

    *options = search.best;
    tuned->chosen = search.metrics;
    tuned->tried = search.tried;

    train_say("tuned on %u users, %u tables tried, %.1f s: NDCG@20 %.4f, "
              "popularity %.4f", search.truth.users, search.tried,
              train_seconds(), search.metrics.ndcg20,
              tuned->popularity.ndcg20);

    train_truth_free(&search.truth);
    train_parts_free(&search.parts);
    train_split_free(&split);
}


/* Users evenly over the list: the same ones each time. */

static void
train_sample(train_truth_t *truth, uint32_t users)
{
    uint32_t  i, from;
    uint64_t  k, out, first, last;

    if (truth->users <= users) {
        return;
    }

    out = 0;

    for (i = 0; i < users; i++) {
        from = (uint64_t) i * truth->users / users;
        first = truth->first[from];
        last = truth->first[from + 1];
        truth->user[i] = truth->user[from];
        truth->first[i] = out;

        for (k = first; k < last; k++) {
            truth->item[out++] = truth->item[k];
        }
    }

    truth->first[users] = out;
    truth->users = users;
}


/* The ridge's degree and lambda; smaller systems rank them alike. */

static void
train_tune_models(train_search_t *search)
{
    unsigned              i, n;
    train_gram_t          gram;
    train_neighbours_t    kept;

    static const struct {
        double  degree;
        double  lambda;
    } pairs[] = {
        { 0, 50 }, { 0, 200 }, { 0.5, 10 }, { 0.5, 50 }
    };

    if (search->best.algorithm != TRAIN_RIDGE) {
        train_parts_collaborative(&search->best, &search->parts);
        (void) train_try(search, &search->best);
        return;
    }

    memset(&kept, 0, sizeof(train_neighbours_t));
    n = sizeof(pairs) / sizeof(pairs[0]);

    for (i = 0; i < n; i++) {

        if (i == 0 || pairs[i].degree != pairs[i - 1].degree) {
            train_gram(&search->parts.matrix, pairs[i].degree,
                       search->best.memory, &gram);
        }

        train_tune_ridge(search, &gram, pairs[i].degree, pairs[i].lambda,
                         &kept);

        if (i + 1 == n || pairs[i + 1].degree != pairs[i].degree) {
            train_gram_free(&gram);
        }
    }

    search->parts.collaborative = kept;
}


static void
train_tune_ridge(train_search_t *search, const train_gram_t *gram,
    double degree, double lambda, train_neighbours_t *kept)
{
    uint32_t         nearest;
    train_options_t  options;

    options = search->best;
    options.degree = degree;
    options.lambda = lambda;
    nearest = (options.nearest < TRAIN_NEAREST) ? options.nearest
                                                : TRAIN_NEAREST;

    train_neighbours(&search->parts.collaborative, gram->items,
                     NGX_COMMERCE_SIMILARITY_NEIGHBOURS);
    train_ridge(gram, nearest, lambda, &search->parts.collaborative);

    if (train_try(search, &options)) {
        train_neighbours_free(kept);
        *kept = search->parts.collaborative;
        memset(&search->parts.collaborative, 0, sizeof(train_neighbours_t));

    } else {
        train_neighbours_free(&search->parts.collaborative);
    }
}


/* One after the other, twice: each has an optimum of its own that moves little with the others. */

static void
train_tune_weights(train_search_t *search)
{
    unsigned             pass;
    train_options_t     *best = &search->best;
    static const double  popularity[] = { 0, 0.02, 0.05, 0.1, 0.15, 0.3, 0.6,
                                          1.2, 2.5, 5 };
    static const double  days[] = { 3, 7, 14, 30, 60 };
    static const double  position[] = { 0.6, 0.8, 0.9, 0.95, 0.98, 1 };
    static const double  age[] = { 0, 7, 14, 30, 60, 120 };
    static const double  content[] = { 0, 0.1, 0.35, 1, 3 };
    static const double  freshness[] = { 0, 0.5, 0.75, 1, 1.5, 2 };
    static const double  fresh_days[] = { 7, 14, 30 };
    static const double  evidence[] = { 3, 10, 30 };

    for (pass = 0; pass < 2; pass++) {
        train_tune_value(search, &best->popularity, popularity, 10);

        if (search->data->timed) {
            train_tune_value(search, &best->popularity_days, days, 5);
            train_tune_value(search, &best->age_days, age, 6);
            train_tune_value(search, &best->freshness, freshness, 6);
            train_tune_value(search, &best->freshness_days, fresh_days, 3);
        }

        if (search->data->timed || search->data->ordered) {
            train_tune_value(search, &best->position_decay, position, 6);
        }

        if (search->parts.has_content) {
            train_tune_value(search, &best->content, content, 5);
            train_tune_value(search, &best->evidence, evidence, 3);
        }
    }
}


/* "value" points into search->best. */

static void
train_tune_value(train_search_t *search, double *value, const double *values,
    unsigned n)
{
    double           old;
    unsigned         i;
    train_options_t  options;

    for (i = 0; i < n; i++) {
        old = *value;

        if (old == values[i]) {
            continue;
        }

        *value = values[i];
        options = search->best;
        *value = old;
        (void) train_try(search, &options);
    }
}


/* Builds the table and asks it; true when it is the best one so far. */

static bool
train_try(train_search_t *search, const train_options_t *options)
{
    train_table_t      table;
    train_metrics_t    metrics;
    train_identity_t   identity;

    memset(&identity, 0, sizeof(train_identity_t));

    train_table_build(search->data, &search->parts, options, &identity, &table);
    train_evaluate_table(&table, &search->parts.history, &search->truth, false,
                         false, &metrics);
    train_table_free(&table);
    search->tried++;

    if (search->tried > 1 && metrics.ndcg20 <= search->metrics.ndcg20) {
        return false;
    }

    search->metrics = metrics;
    search->best = *options;

    return true;
}


/* As much as is wanted while it costs next to nothing. */

static void
train_tune_diversity(train_search_t *search, double wanted)
{
    double               floor;
    unsigned             i;
    train_options_t      best;
    train_metrics_t      before;
    static const double  parts[] = { 1, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05 };

    if (wanted <= 0 || search->parts.vectors == NULL) {
        return;
    }

    before = search->metrics;
    floor = before.ndcg20 * (1 - TRAIN_LOSS);

    for (i = 0; i < 7; i++) {
        best = search->best;
        best.diversity = wanted * parts[i];
        search->metrics.ndcg20 = floor;

        if (train_try(search, &best)) {
            return;
        }
    }

    search->metrics = before;
}
