/* commerce-train evaluate: the blend beside its components and baselines. */

#include "settings.h"

#include <stdlib.h>
#include <string.h>


static const char           *train_test;


static const train_option_t  train_evaluate_options[] = {
    { "test", TRAIN_TEXT, &train_test, "FILE",
      "what happened afterwards, in the same form", 0, 0, NULL },
    { "no-tune", TRAIN_FLAG, &train_settings.no_tune, NULL,
      "take the weights as given", 0, 0, NULL },
    { "tune", TRAIN_FLAG, &train_settings.tune, NULL,
      "choose the weights on the last part of --train (default)", 0, 0, NULL },
    TRAIN_SETTINGS_OPTIONS,
    { NULL, 0, NULL, NULL, NULL, 0, 0, NULL }
};


static const train_command_t  train_evaluate_command = {
    "evaluate", "",
    "Trains on one file, predicts the other, and compares: all products are\n"
    "ranked, those that a user has already are left out.  The blend is the\n"
    "table that would be served, with its 50 neighbours of 8 bits each.",
    "  commerce-train evaluate --train past.tsv --test next-month.tsv\n"
    "  commerce-train evaluate --train a.tsv --test b.tsv --items text.tsv "
    "--json\n"
    "  commerce-train evaluate --train a.tsv --test next.tsv --order",
    train_evaluate_options
};


int
train_evaluate_main(int argc, char **argv)
{
    train_data_t         data, test;
    train_file_t         file;
    train_parts_t        parts;
    train_truth_t        truth;
    train_tuned_t        tuned;
    train_reader_t      *reader;
    train_options_t     *options = &train_settings.options;
    train_comparison_t   comparison;

    train_settings_init();
    train_cli(&train_evaluate_command, argc, argv, NULL, 0);
    train_settings_apply();

    if (train_test == NULL) {
        train_fail(TRAIN_USAGE, "what is to be predicted? --test FILE");
    }

    train_settings_read(&data);

    if (data.nevents == 0) {
        train_fail(TRAIN_INPUT, "%s holds no interaction to predict others "
                   "from", train_settings.train);
    }

    reader = train_reader();
    train_file_open(&file, train_test);
    train_read_events(reader, &file, train_settings.order);
    train_file_close(&file);
    train_reader_finish(reader, &test);

    if (test.nevents == 0) {
        train_fail(TRAIN_INPUT, "%s holds no interaction", train_test);
    }

    memset(&tuned, 0, sizeof(train_tuned_t));

    if (!train_settings.no_tune) {
        train_tune(&data, options, &tuned);
    }

    train_parts_events(&data, data.events, data.nevents, options, &parts);
    train_truth_data(&data, &parts.history, &test, train_settings.again,
                     &truth);
    train_compare(&data, options, &truth, train_settings.again, &parts,
                  &comparison);

    if (!train_settings.json) {
        train_comparison_print(stdout, &comparison, false);
        return TRAIN_OK;
    }

    printf("{\"metrics\":");
    train_comparison_json(stdout, &comparison);
    printf(",\"options\":");
    train_options_json(stdout, options);
    printf(",\"tuned\":%s,\"tried\":%u,\"users\":%u,\"items\":%u,"
           "\"events\":%lu,\"seconds\":%.1f}\n",
           tuned.tried ? "true" : "false", tuned.tried, data.users,
           data.items, (unsigned long) data.nevents, train_seconds());

    return TRAIN_OK;
}
