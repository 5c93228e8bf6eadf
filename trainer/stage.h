/*
 * What tuning and measuring found, kept in a file until the table is written:
 * a run that was broken off begins behind them.
 */

#ifndef TRAIN_STAGE_H
#define TRAIN_STAGE_H


#include "compare.h"


/* Of the data and of what was asked for: another key, another run. */

uint64_t train_stage_key(const train_data_t *data,
    const train_options_t *options, bool tune, bool blind, bool again);

/* false: there is no file, or it is of another run or broken.  Without a name nothing is kept. */

bool train_stage_load(const char *name, uint64_t key, train_options_t *options,
    train_tuned_t *tuned, train_comparison_t *comparison);
void train_stage_save(const char *name, uint64_t key,
    const train_options_t *options, const train_tuned_t *tuned,
    const train_comparison_t *comparison);


#endif /* TRAIN_STAGE_H */
