/* The blend beside its components and the baselines, and the report of it. */

#ifndef TRAIN_COMPARE_H
#define TRAIN_COMPARE_H


#include "table.h"


#define TRAIN_COMPARED  10


typedef struct {
    const char        *name;
    train_metrics_t    metrics;
} train_compared_t;

typedef struct {
    train_compared_t   one[TRAIN_COMPARED];     /* the first is the blend */
    unsigned           n;
} train_comparison_t;

/* Trains everything on parts->events and asks for the truth.  Leaves the blend's components in parts. */

void train_compare(const train_data_t *data, const train_options_t *options,
    const train_truth_t *truth, bool again, train_parts_t *parts,
    train_comparison_t *comparison);

/* {"blend":{"precision@10":…},…}; options as an object; a table for people. */

void train_comparison_json(FILE *out, const train_comparison_t *comparison);
void train_options_json(FILE *out, const train_options_t *options);
void train_comparison_print(FILE *out, const train_comparison_t *comparison,
    bool markdown);


#endif /* TRAIN_COMPARE_H */
