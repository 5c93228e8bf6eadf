/* See compare.h. */

#include "compare.h"

#include <stdlib.h>
#include <string.h>


static void train_compare_table(const char *name, const train_data_t *data,
    const train_parts_t *parts, const train_options_t *options,
    const train_truth_t *truth, bool again, bool alone,
    train_comparison_t *comparison);
static void train_compare_popularity(const char *name, double days,
    const train_data_t *data, const train_parts_t *parts,
    const train_options_t *options, const train_table_t *table,
    const train_truth_t *truth, bool again, train_comparison_t *comparison);
static void train_compare_words(const train_data_t *data,
    const train_options_t *options, const train_options_t *alone,
    const train_truth_t *truth, bool again, train_parts_t *parts,
    train_comparison_t *comparison);
static void train_metrics_json(FILE *out, const train_metrics_t *metrics);


void
train_compare(const train_data_t *data, const train_options_t *options,
    const train_truth_t *truth, bool again, train_parts_t *parts,
    train_comparison_t *comparison)
{
    float               *factors;
    train_table_t        table;
    train_options_t      alone;
    train_identity_t     identity;
    train_compared_t    *svd;
    train_neighbours_t   blend;

    memset(&identity, 0, sizeof(train_identity_t));
    comparison->n = 0;

    if (parts->vectors == NULL) {
        train_parts_content(data, parts);
    }

    train_parts_collaborative(options, parts);
    train_compare_table("blend", data, parts, options, truth, again, false,
                        comparison);

    train_table_build(data, parts, options, &identity, &table);
    train_compare_popularity("popularity", options->popularity_days, data,
                             parts, options, &table, truth, again, comparison);

    if (data->timed) {
        train_compare_popularity("popularity_7d", 7, data, parts, options,
                                 &table, truth, again, comparison);
    }

    /* each component by itself: nothing of the others, read as the blend reads it */

    blend = parts->collaborative;
    memset(&parts->collaborative, 0, sizeof(train_neighbours_t));

    alone = *options;
    alone.popularity = 0;
    alone.diversity = 0;
    alone.content = 0;
    alone.freshness = 0;
    alone.algorithm = TRAIN_COSINE;
    train_parts_collaborative(&alone, parts);
    train_compare_table("cosine", data, parts, &alone, truth, again, true,
                        comparison);

    train_svd(&parts->matrix, options->rank, &factors);
    svd = &comparison->one[comparison->n++];
    svd->name = "svd";
    train_evaluate_svd(factors, options->rank, &table, &parts->history, truth,
                       again, &svd->metrics);
    free(factors);

    if (options->algorithm == TRAIN_RIDGE) {
        train_neighbours_free(&parts->collaborative);
        parts->collaborative = blend;
        memset(&blend, 0, sizeof(train_neighbours_t));

    } else {
        alone.algorithm = TRAIN_RIDGE;
        train_parts_collaborative(&alone, parts);
    }

    train_compare_table("ridge", data, parts, &alone, truth, again, true,
                        comparison);

    if (parts->has_content) {
        alone.content = 1;
        alone.collaborative = 0;
        train_compare_table("content", data, parts, &alone, truth, again, true,
                            comparison);
    }

    if (options->algorithm != TRAIN_RIDGE) {
        train_neighbours_free(&parts->collaborative);
        parts->collaborative = blend;
    }

    if (data->embeddings != NULL) {
        train_compare_words(data, options, &alone, truth, again, parts,
                            comparison);
    }

    train_table_free(&table);
}


/* What the vectors bring: the same with the words that they replace. */

static void
train_compare_words(const train_data_t *data, const train_options_t *options,
    const train_options_t *alone, const train_truth_t *truth, bool again,
    train_parts_t *parts, train_comparison_t *comparison)
{
    train_content_t      words;
    train_neighbours_t   vectors;

    if (!train_content(data, &words)) {
        return;
    }

    vectors = parts->content;
    train_neighbours(&parts->content, data->items, vectors.width);
    train_content_neighbours(&words, &parts->content);
    train_content_free(&words);

    train_compare_table("content_words", data, parts, alone, truth, again,
                        true, comparison);
    train_compare_table("blend_words", data, parts, options, truth, again,
                        false, comparison);

    train_neighbours_free(&parts->content);
    parts->content = vectors;
}


static void
train_compare_table(const char *name, const train_data_t *data,
    const train_parts_t *parts, const train_options_t *options,
    const train_truth_t *truth, bool again, bool alone,
    train_comparison_t *comparison)
{
    train_table_t      table;
    train_identity_t   identity;
    train_compared_t  *one = &comparison->one[comparison->n++];

    memset(&identity, 0, sizeof(train_identity_t));
    train_table_build(data, parts, options, &identity, &table);

    one->name = name;
    train_evaluate_table(&table, &parts->history, truth, again, alone,
                         &one->metrics);
    train_table_free(&table);
}


static void
train_compare_popularity(const char *name, double days,
    const train_data_t *data, const train_parts_t *parts,
    const train_options_t *options, const train_table_t *table,
    const train_truth_t *truth, bool again, train_comparison_t *comparison)
{
    double            *score;
    train_compared_t  *one = &comparison->one[comparison->n++];

    score = train_alloc(data->items * sizeof(double));
    train_popularity(data, parts->events, parts->nevents, days,
                     options->event_weight, score);

    one->name = name;
    train_evaluate_scores(score, table, &parts->history, truth, again,
                          &one->metrics);
    free(score);
}


void
train_comparison_json(FILE *out, const train_comparison_t *comparison)
{
    unsigned  i;

    for (i = 0; i < comparison->n; i++) {
        fprintf(out, "%s\"%s\":", (i != 0) ? "," : "{",
                comparison->one[i].name);
        train_metrics_json(out, &comparison->one[i].metrics);
    }

    fputc('}', out);
}


void
train_comparison_print(FILE *out, const train_comparison_t *comparison,
    bool markdown)
{
    unsigned                i;
    const char             *bar;
    const train_metrics_t  *m;

    bar = markdown ? " |" : "";
    fprintf(out, "%s%-14s%s %8s%s %9s%s %8s%s %8s%s %8s%s %8s%s %8s%s\n",
            markdown ? "| " : "", "", bar, "P@10", bar, "recall@20", bar,
            "NDCG@10", bar, "NDCG@20", bar, "HR@10", bar, "coverage", bar,
            "cold", bar);

    if (markdown) {
        fputs("| --- | --- | --- | --- | --- | --- | --- | --- |\n", out);
    }

    for (i = 0; i < comparison->n; i++) {
        m = &comparison->one[i].metrics;
        fprintf(out, "%s%-14s%s %8.4f%s %9.4f%s %8.4f%s %8.4f%s %8.4f%s "
                "%8.3f%s %8.4f%s\n", markdown ? "| " : "",
                comparison->one[i].name, bar, m->precision10, bar,
                m->recall20, bar, m->ndcg10, bar, m->ndcg20, bar, m->hit10,
                bar, m->coverage, bar, m->cold_recall20, bar);
    }
}


static void
train_metrics_json(FILE *out, const train_metrics_t *metrics)
{
    fprintf(out, "{\"precision@10\":%.5f,\"precision@20\":%.5f,"
            "\"recall@10\":%.5f,\"recall@20\":%.5f,"
            "\"ndcg@10\":%.5f,\"ndcg@20\":%.5f,"
            "\"hr@10\":%.5f,\"hr@20\":%.5f,"
            "\"coverage\":%.5f,\"intra_list_similarity\":%.5f,"
            "\"cold_recall@20\":%.5f,\"cold_users\":%lu,\"users\":%lu}",
            metrics->precision10, metrics->precision20, metrics->recall10,
            metrics->recall20, metrics->ndcg10, metrics->ndcg20,
            metrics->hit10, metrics->hit20, metrics->coverage,
            metrics->similarity, metrics->cold_recall20,
            (unsigned long) metrics->cold_users,
            (unsigned long) metrics->users);
}


void
train_options_json(FILE *out, const train_options_t *options)
{
    static const char  *algorithms[] = { "ridge", "cosine", "svd" };

    fprintf(out, "{\"algorithm\":\"%s\",\"lambda\":%g,\"degree\":%g,"
            "\"nearest\":%u,\"rank\":%u,\"history\":%u,\"content\":%g,"
            "\"collaborative\":%g,\"popularity\":%g,\"diversity\":%g,"
            "\"evidence\":%g,\"popularity_days\":%g,\"position_decay\":%g,"
            "\"age_days\":%g,\"freshness\":%g,\"freshness_days\":%g}",
            algorithms[options->algorithm], options->lambda, options->degree,
            options->nearest, options->rank, options->history, options->content,
            options->collaborative, options->popularity, options->diversity,
            options->evidence, options->popularity_days,
            options->position_decay, options->age_days,
            options->freshness, options->freshness_days);
}
