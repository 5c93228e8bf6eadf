/* What the commands that train have in common: sources and options. */

#ifndef TRAIN_SETTINGS_H
#define TRAIN_SETTINGS_H


#include "cli.h"
#include "compare.h"


typedef struct {
    const char       *train;            /* file of interactions */
    const char       *items;            /* file of texts */
    const char       *embeddings;       /* file of vectors */
    const char       *db;
    uint64_t          tenant;
    bool              order;
    bool              tune;
    bool              no_tune;
    bool              again;
    bool              quiet;
    bool              json;
    const char       *algorithm;
    uint64_t          threads;
    uint64_t          nearest;
    uint64_t          rank;
    uint64_t          history;
    train_options_t   options;
} train_settings_t;

extern train_settings_t  train_settings;

/* The rows of an option table for all of them. */

#define TRAIN_SETTINGS_OPTIONS                                                \
    { "train", TRAIN_TEXT, &train_settings.train, "FILE",                     \
      "interactions: user<TAB>item[<TAB>unix_time[<TAB>event]]", 0, 0, NULL },\
    { "items", TRAIN_TEXT, &train_settings.items, "FILE",                     \
      "texts: item<TAB>text[<TAB>category[<TAB>brand]]", 0, 0, NULL },        \
    { "embeddings", TRAIN_TEXT, &train_settings.embeddings, "FILE",           \
      "vectors of the texts, by commerce-train embed", 0, 0, NULL },          \
    { "order", TRAIN_FLAG, &train_settings.order, NULL,                       \
      "the lines' order is the time's", 0, 0, NULL },                         \
    { "algorithm", TRAIN_TEXT, &train_settings.algorithm, "NAME",             \
      "collaborative part: ridge (default), cosine, svd", 0, 0, NULL },       \
    { "content", TRAIN_NUMBER, &train_settings.options.content, "N",          \
      "weight of the content (0.35)", 0, 100, NULL },                         \
    { "collaborative", TRAIN_NUMBER, &train_settings.options.collaborative,   \
      "N", "weight of the collaborative part (0.40)", 0, 100, NULL },         \
    { "popularity", TRAIN_NUMBER, &train_settings.options.popularity, "N",    \
      "weight of popularity (0.15)", 0, 100, NULL },                          \
    { "diversity", TRAIN_NUMBER, &train_settings.options.diversity, "N",      \
      "diversity of a list, 0 to 1 (0.10)", 0, 1, NULL },                     \
    { "popularity-days", TRAIN_NUMBER,                                        \
      &train_settings.options.popularity_days, "N",                           \
      "decay of popularity (30)", 0.01, 100000, NULL },                       \
    { "position-decay", TRAIN_NUMBER,                                         \
      &train_settings.options.position_decay, "N",                            \
      "what the next older event counts (0.8; 1 without times)", 0, 1,        \
      &train_settings_decay },                                                \
    { "age-days", TRAIN_NUMBER, &train_settings.options.age_days, "N",        \
      "decay of an event by its age (0: none)", 0, 100000, NULL },            \
    { "freshness", TRAIN_NUMBER, &train_settings.options.freshness, "N",      \
      "exponent of a product's sales now over those before (0)", 0, 4, NULL },\
    { "freshness-days", TRAIN_NUMBER,                                         \
      &train_settings.options.freshness_days, "N",                            \
      "how long now is (14)", 0.1, 10000, NULL },                             \
    { "evidence", TRAIN_NUMBER, &train_settings.options.evidence, "N",        \
      "events at which content and the rest are equal (10)", 0, 1e6, NULL },  \
    { "lambda", TRAIN_NUMBER, &train_settings.options.lambda, "N",            \
      "of the ridge (16)", 0.001, 1e6, NULL },                                \
    { "degree", TRAIN_NUMBER, &train_settings.options.degree, "N",            \
      "a user weighs degree^-N (0.5)", 0, 2, NULL },                          \
    { "nearest", TRAIN_COUNT, &train_settings.nearest, "N",                   \
      "products in a ridge system (200)", 1, 1000, NULL },                    \
    { "rank", TRAIN_COUNT, &train_settings.rank, "N",                         \
      "factors of the SVD (20)", 1, 20, NULL },                               \
    { "history", TRAIN_COUNT, &train_settings.history, "N",                   \
      "a user's last products, at most (500)", 1, 500, NULL },                \
    { "memory", TRAIN_COUNT, &train_settings.options.memory, "BYTES",         \
      "of the co-occurrences, about (1.5G)", 1e6, 1e12, NULL },               \
    { "threads", TRAIN_COUNT, &train_settings.threads, "N",                   \
      "cores to use; the result is the same (2)", 1, 64, NULL },              \
    { "again", TRAIN_FLAG, &train_settings.again, NULL,                       \
      "products that a user has may be named again", 0, 0, NULL },            \
    { "quiet", TRAIN_FLAG, &train_settings.quiet, NULL,                       \
      "only results and errors", 0, 0, NULL },                                \
    { "json", TRAIN_FLAG, &train_settings.json, NULL,                         \
      "the result as JSON", 0, 0, NULL }

extern bool  train_settings_decay;

/* Defaults; before the options are read. */

void train_settings_init(void);

/* Checks what was read and starts what the program needs; then the data of --train or --db. */

void train_settings_apply(void);
void train_settings_read(train_data_t *data);


#endif /* TRAIN_SETTINGS_H */
