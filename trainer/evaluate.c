/*
 * How good lists are: every product is a candidate, nothing is sampled.
 * Precision, recall, NDCG and hit rate at 10 and 20, means over users.
 */

#include "table.h"

#include <cblas.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>


#define TRAIN_AT      20
#define TRAIN_COLD    5                 /* a product with fewer events is cold */


/* What is kept of one user, to be added up in order afterwards. */

typedef struct {
    float     hits10, hits20;
    float     recall10, recall20;
    float     ndcg10, ndcg20;
    float     similarity;
    float     cold_recall;
    bool      pairs;                    /* similarity is known */
    bool      cold;
} train_result_t;

typedef struct {
    uint32_t  user;                     /* TRAIN_NONE: unknown, as the product may be */
    uint32_t  item;
    uint64_t  user_key;                 /* tells the unknown ones apart */
    uint64_t  item_key;
} train_wanted_t;

typedef struct train_ranking_s  train_ranking_t;

/* Fills "items" with up to TRAIN_AT products, best first; returns how many. */

typedef uint32_t (*train_rank_pt)(train_ranking_t *ranking, unsigned worker,
    const ngx_commerce_recommend_event_t *events, uint32_t n, uint32_t *items);

struct train_ranking_s {
    train_rank_pt                       rank;
    const train_table_t                *table;
    const train_history_t              *history;
    const train_truth_t                *truth;
    bool                                again;
    bool                                alone;
    train_result_t                     *result;
    uint8_t                           **seen;       /* by worker: products in any list */
    ngx_commerce_recommend_scratch_t  **scratch;
    train_pair_t                      **pair;
    float                             **score;
    const float                        *factors;
    uint32_t                            factor_rank;
    const uint32_t                     *order;      /* popular products */
};


static void train_ranking_run(train_ranking_t *ranking,
    train_metrics_t *metrics);
static void train_ranking_users(void *ctx, unsigned worker, uint64_t first,
    uint64_t last);
static void train_ranking_judge(train_ranking_t *ranking, uint64_t u,
    const uint32_t *items, uint32_t n);
static uint32_t train_rank_table(train_ranking_t *ranking, unsigned worker,
    const ngx_commerce_recommend_event_t *events, uint32_t n, uint32_t *items);
static uint32_t train_rank_order(train_ranking_t *ranking, unsigned worker,
    const ngx_commerce_recommend_event_t *events, uint32_t n, uint32_t *items);
static uint32_t train_rank_svd(train_ranking_t *ranking, unsigned worker,
    const ngx_commerce_recommend_event_t *events, uint32_t n, uint32_t *items);
static void train_metrics_sum(train_ranking_t *ranking,
    train_metrics_t *metrics);
static void train_truth_fill(const train_data_t *data,
    const train_history_t *history, train_wanted_t *wanted, uint64_t n,
    bool again, train_truth_t *truth);
static void *train_scratch_alloc(void *ctx, size_t size);
static int train_wanted_cmp(const void *a, const void *b);
static int train_score_cmp(const void *a, const void *b);


void
train_truth(const train_data_t *data, const train_history_t *history,
    const train_event_t *test, uint64_t n, bool again, train_truth_t *truth)
{
    uint64_t         i, m;
    train_wanted_t  *wanted;

    wanted = train_alloc(n * sizeof(train_wanted_t));

    for (i = 0, m = 0; i < n; i++) {

        if (test[i].event == NGX_COMMERCE_EVENT_DISMISS) {
            continue;
        }

        wanted[m].user = test[i].user;
        wanted[m].user_key = test[i].user;
        wanted[m].item = test[i].item;
        wanted[m++].item_key = test[i].item;
    }

    train_truth_fill(data, history, wanted, m, again, truth);
}


void
train_truth_data(const train_data_t *data, const train_history_t *history,
    const train_data_t *test, bool again, train_truth_t *truth)
{
    uint32_t        *users, *items, i;
    uint64_t         k, m;
    train_wanted_t  *wanted;

    users = train_alloc(test->users * sizeof(uint32_t));
    items = train_alloc(test->items * sizeof(uint32_t));
    wanted = train_alloc(test->nevents * sizeof(train_wanted_t));

    for (i = 0; i < test->users; i++) {
        users[i] = train_find(data->user_keys, data->users,
                              test->user_keys[i]);
    }

    for (i = 0; i < test->items; i++) {
        items[i] = train_find(data->item_keys, data->items,
                              test->item_keys[i]);
    }

    for (k = 0, m = 0; k < test->nevents; k++) {

        if (test->events[k].event == NGX_COMMERCE_EVENT_DISMISS) {
            continue;
        }

        wanted[m].user = users[test->events[k].user];
        wanted[m].user_key = test->events[k].user;
        wanted[m].item = items[test->events[k].item];
        wanted[m++].item_key = test->events[k].item;
    }

    free(users);
    free(items);
    train_truth_fill(data, history, wanted, m, again, truth);
}


static void
train_truth_fill(const train_data_t *data, const train_history_t *history,
    train_wanted_t *wanted, uint64_t n, bool again, train_truth_t *truth)
{
    uint32_t  user, *owner;
    uint64_t  i, k, out, last;

    memset(truth, 0, sizeof(train_truth_t));
    truth->user = train_alloc(n * sizeof(uint32_t));
    truth->first = train_alloc((n + 1) * sizeof(uint64_t));
    truth->item = train_alloc(n * sizeof(uint32_t));
    truth->support = train_zalloc(data->items * sizeof(uint32_t));

    for (i = 0; i < history->first[history->users]; i++) {
        truth->support[history->entry[i].item]++;
    }

    qsort(wanted, n, sizeof(train_wanted_t), train_wanted_cmp);

    /* who of the current user's products is whose */

    owner = train_alloc(data->items * sizeof(uint32_t));
    memset(owner, 0xff, data->items * sizeof(uint32_t));
    out = 0;
    last = UINT64_MAX;

    for (i = 0; i < n; i++) {
        user = wanted[i].user;

        if (i == 0 || wanted[i].user_key != wanted[i - 1].user_key) {

            for (k = (user != TRAIN_NONE) ? history->first[user] : 1;
                 user != TRAIN_NONE && k < history->first[user + 1]; k++)
            {
                owner[history->entry[k].item] = user;
            }

        } else if (wanted[i].item_key == wanted[i - 1].item_key) {
            continue;
        }

        if (!again && user != TRAIN_NONE && wanted[i].item != TRAIN_NONE
            && owner[wanted[i].item] == user)
        {
            continue;
        }

        if (wanted[i].user_key != last) {
            last = wanted[i].user_key;
            truth->user[truth->users] = user;
            truth->first[truth->users++] = out;
        }

        truth->item[out++] = wanted[i].item;
    }

    truth->first[truth->users] = out;
    free(owner);
    free(wanted);
}


static int
train_wanted_cmp(const void *a, const void *b)
{
    const train_wanted_t  *x = a, *y = b;

    if (x->user_key != y->user_key) {
        return (x->user_key > y->user_key) - (x->user_key < y->user_key);
    }

    return (x->item_key > y->item_key) - (x->item_key < y->item_key);
}


void
train_truth_free(train_truth_t *truth)
{
    free(truth->user);
    free(truth->first);
    free(truth->item);
    free(truth->support);
}


void
train_evaluate_table(const train_table_t *table, const train_history_t *history,
    const train_truth_t *truth, bool again, bool alone,
    train_metrics_t *metrics)
{
    train_ranking_t  ranking;

    memset(&ranking, 0, sizeof(train_ranking_t));
    ranking.alone = alone;
    ranking.rank = train_rank_table;
    ranking.table = table;
    ranking.history = history;
    ranking.truth = truth;
    ranking.again = again;

    train_ranking_run(&ranking, metrics);
}


void
train_evaluate_scores(const double *score, const train_table_t *table,
    const train_history_t *history, const train_truth_t *truth, bool again,
    train_metrics_t *metrics)
{
    uint32_t         i, *order;
    train_pair_t    *pairs;
    train_ranking_t  ranking;

    pairs = train_alloc(table->table.items * sizeof(train_pair_t));
    order = train_alloc(table->table.items * sizeof(uint32_t));

    for (i = 0; i < table->table.items; i++) {
        pairs[i].item = i;
        pairs[i].weight = score[i];
    }

    qsort(pairs, table->table.items, sizeof(train_pair_t), train_score_cmp);

    for (i = 0; i < table->table.items; i++) {
        order[i] = pairs[i].item;
    }

    memset(&ranking, 0, sizeof(train_ranking_t));
    ranking.rank = train_rank_order;
    ranking.table = table;
    ranking.history = history;
    ranking.truth = truth;
    ranking.again = again;
    ranking.order = order;

    train_ranking_run(&ranking, metrics);

    free(pairs);
    free(order);
}


static int
train_score_cmp(const void *a, const void *b)
{
    const train_pair_t  *x = a, *y = b;

    if (x->weight != y->weight) {
        return (x->weight < y->weight) - (x->weight > y->weight);
    }

    return (x->item > y->item) - (x->item < y->item);
}


void
train_evaluate_svd(const float *factors, uint32_t rank,
    const train_table_t *table, const train_history_t *history,
    const train_truth_t *truth, bool again, train_metrics_t *metrics)
{
    train_ranking_t  ranking;

    memset(&ranking, 0, sizeof(train_ranking_t));
    ranking.rank = train_rank_svd;
    ranking.table = table;
    ranking.history = history;
    ranking.truth = truth;
    ranking.again = again;
    ranking.factors = factors;
    ranking.factor_rank = rank;

    train_ranking_run(&ranking, metrics);
}


static void
train_ranking_run(train_ranking_t *ranking, train_metrics_t *metrics)
{
    unsigned              i;
    uint32_t              items;
    ngx_commerce_alloc_t  alloc = { train_scratch_alloc, NULL };

    items = ranking->table->table.items;
    ranking->result = train_zalloc(ranking->truth->users
                                   * sizeof(train_result_t));
    ranking->seen = train_alloc(train_threads * sizeof(uint8_t *));
    ranking->scratch = train_alloc(train_threads * sizeof(void *));
    ranking->pair = train_alloc(train_threads * sizeof(train_pair_t *));
    ranking->score = train_alloc(train_threads * sizeof(float *));

    for (i = 0; i < train_threads; i++) {
        ranking->seen[i] = train_zalloc(items);
        ranking->scratch[i] = ngx_commerce_recommend_scratch(&alloc, 500);
        ranking->pair[i] = train_alloc(items * sizeof(train_pair_t));
        ranking->score[i] = train_alloc(items * sizeof(float));
    }

    train_parallel("evaluate", ranking->truth->users, 64, train_ranking_users,
                   ranking);
    train_metrics_sum(ranking, metrics);

    for (i = 0; i < train_threads; i++) {
        free(ranking->seen[i]);
        free(ranking->scratch[i]);
        free(ranking->pair[i]);
        free(ranking->score[i]);
    }

    free(ranking->result);
    free(ranking->seen);
    free(ranking->scratch);
    free(ranking->pair);
    free(ranking->score);
}


static void *
train_scratch_alloc(void *ctx, size_t size)
{
    return train_alloc(size);
}


static void
train_ranking_users(void *ctx, unsigned worker, uint64_t first, uint64_t last)
{
    uint32_t                               user, n, k, items[TRAIN_AT];
    uint64_t                               u;
    train_ranking_t                       *ranking = ctx;
    const train_history_t                 *history = ranking->history;
    const ngx_commerce_recommend_event_t  *events;

    for (u = first; u < last; u++) {
        user = ranking->truth->user[u];
        events = NULL;
        n = 0;

        if (user != TRAIN_NONE) {
            events = &history->entry[history->first[user]];
            n = history->first[user + 1] - history->first[user];
        }

        n = ranking->rank(ranking, worker, events, n, items);

        for (k = 0; k < n; k++) {
            ranking->seen[worker][items[k]] = 1;
        }

        train_ranking_judge(ranking, u, items, n);
    }
}


static void
train_ranking_judge(train_ranking_t *ranking, uint64_t u, const uint32_t *items,
    uint32_t n)
{
    bool                  hit;
    float                 gain, ideal10, ideal20, sum;
    uint32_t              k, i, wanted, cold, cold_hits, pairs;
    const uint32_t       *truth;
    train_result_t       *result = &ranking->result[u];
    const train_truth_t  *all = ranking->truth;

    truth = &all->item[all->first[u]];
    wanted = all->first[u + 1] - all->first[u];
    ideal10 = 0;
    ideal20 = 0;
    cold = 0;
    cold_hits = 0;

    for (i = 0; i < wanted; i++) {
        gain = 1 / log2f(i + 2);
        ideal10 += (i < 10) ? gain : 0;
        ideal20 += (i < 20) ? gain : 0;
        cold += (truth[i] != TRAIN_NONE
                 && all->support[truth[i]] < TRAIN_COLD);
    }

    for (k = 0; k < n; k++) {
        hit = false;

        for (i = 0; i < wanted && !hit; i++) {
            hit = (truth[i] == items[k]);
        }

        if (!hit) {
            continue;
        }

        gain = 1 / log2f(k + 2);
        cold_hits += (all->support[items[k]] < TRAIN_COLD);
        result->hits20 += 1;
        result->ndcg20 += gain;

        if (k < 10) {
            result->hits10 += 1;
            result->ndcg10 += gain;
        }
    }

    result->recall10 = result->hits10 / wanted;
    result->recall20 = result->hits20 / wanted;
    result->ndcg10 /= ideal10;
    result->ndcg20 /= ideal20;
    result->cold = (cold != 0);
    result->cold_recall = (cold != 0) ? (float) cold_hits / cold : 0;

    sum = 0;
    pairs = 0;

    for (k = 0; k < n && k < 10; k++) {
        for (i = 0; i < k; i++, pairs++) {
            sum += ngx_commerce_similarity_cosine(&ranking->table->table,
                                                  items[k], items[i]);
        }
    }

    result->pairs = (pairs != 0);
    result->similarity = (pairs != 0) ? sum / pairs : 0;
}


static void
train_metrics_sum(train_ranking_t *ranking, train_metrics_t *metrics)
{
    double           n;
    unsigned         i;
    uint32_t         j, pairs, known, covered;
    uint64_t         u;
    train_result_t  *result;

    memset(metrics, 0, sizeof(train_metrics_t));
    metrics->users = ranking->truth->users;
    pairs = 0;

    for (u = 0; u < metrics->users; u++) {
        result = &ranking->result[u];
        metrics->precision10 += result->hits10 / 10;
        metrics->precision20 += result->hits20 / 20;
        metrics->recall10 += result->recall10;
        metrics->recall20 += result->recall20;
        metrics->ndcg10 += result->ndcg10;
        metrics->ndcg20 += result->ndcg20;
        metrics->hit10 += result->hits10 > 0;
        metrics->hit20 += result->hits20 > 0;
        metrics->similarity += result->similarity;
        pairs += result->pairs;
        metrics->cold_recall20 += result->cold_recall;
        metrics->cold_users += result->cold;
    }

    n = metrics->users != 0 ? metrics->users : 1;
    metrics->precision10 /= n;
    metrics->precision20 /= n;
    metrics->recall10 /= n;
    metrics->recall20 /= n;
    metrics->ndcg10 /= n;
    metrics->ndcg20 /= n;
    metrics->hit10 /= n;
    metrics->hit20 /= n;
    metrics->similarity /= pairs != 0 ? pairs : 1;
    metrics->cold_recall20 /= metrics->cold_users ? metrics->cold_users : 1;

    known = 0;
    covered = 0;

    for (j = 0; j < ranking->table->table.items; j++) {
        known += ranking->truth->support[j] != 0;

        for (i = 0; i < train_threads; i++) {
            if (ranking->seen[i][j]) {
                covered++;
                break;
            }
        }
    }

    metrics->coverage = known != 0 ? (double) covered / known : 0;

    if (metrics->coverage > 1) {
        metrics->coverage = 1;
    }
}


static uint32_t
train_rank_table(train_ranking_t *ranking, unsigned worker,
    const ngx_commerce_recommend_event_t *events, uint32_t n, uint32_t *items)
{
    uint32_t                          i, count;
    ngx_commerce_recommend_query_t    query;
    ngx_commerce_recommend_answer_t   answers[NGX_COMMERCE_RECOMMEND_LIMIT];

    ngx_commerce_recommend_query(&ranking->table->table, &query);
    query.events = events;
    query.nevents = n;
    query.limit = TRAIN_AT;
    query.again = ranking->again;

    if (ranking->alone) {
        query.popularity = -1;
    }

    count = ngx_commerce_recommend(&ranking->table->table,
                                   ranking->scratch[worker], &query, answers);

    for (i = 0; i < count; i++) {
        items[i] = answers[i].item;
    }

    return count;
}


static uint32_t
train_rank_order(train_ranking_t *ranking, unsigned worker,
    const ngx_commerce_recommend_event_t *events, uint32_t n, uint32_t *items)
{
    uint32_t  i, k, count;

    count = 0;

    for (i = 0; i < ranking->table->table.items && count < TRAIN_AT; i++) {

        for (k = 0; k < n && !ranking->again; k++) {
            if (events[k].item == ranking->order[i]) {
                break;
            }
        }

        if (k == n || ranking->again) {
            items[count++] = ranking->order[i];
        }
    }

    return count;
}


/* The history folded in: its factors' sum. */

static uint32_t
train_rank_svd(train_ranking_t *ranking, unsigned worker,
    const ngx_commerce_recommend_event_t *events, uint32_t n, uint32_t *items)
{
    float         user[64], *score;
    uint32_t      i, k, count, total, rank;
    train_pair_t  *pair;

    if (n == 0) {
        return 0;
    }

    rank = ranking->factor_rank;
    total = ranking->table->table.items;
    score = ranking->score[worker];
    pair = ranking->pair[worker];
    memset(user, 0, sizeof(user));

    for (i = 0; i < n; i++) {
        for (k = 0; k < rank; k++) {
            user[k] += ranking->factors[(uint64_t) events[i].item * rank + k];
        }
    }

    cblas_sgemv(CblasRowMajor, CblasNoTrans, total, rank, 1, ranking->factors,
                rank, user, 1, 0, score, 1);

    for (i = 0; i < n && !ranking->again; i++) {
        score[events[i].item] = -INFINITY;
    }

    for (i = 0, count = 0; i < total; i++) {
        if (score[i] != -INFINITY) {
            pair[count].item = i;
            pair[count++].weight = score[i];
        }
    }

    count = train_best(pair, count, TRAIN_AT);

    for (i = 0; i < count; i++) {
        items[i] = pair[i].item;
    }

    return count;
}
