/* commerce-train: what the edge's recommendations and sentiment are made with. */

#include "cli.h"

#include <string.h>


static const struct {
    const char   *name;
    int         (*main)(int argc, char **argv);
} train_commands[] = {
    { "fit", train_fit_main },
    { "evaluate", train_evaluate_main },
    { "embed", train_embed_main },
    { "inspect", train_inspect_main },
    { "publish", train_publish_main },
    { "sentiment", train_sentiment_main },
};


static const char  train_usage[] =
    "usage: commerce-train COMMAND [options]\n"
    "\n"
    "  fit         trains on interactions and writes a table\n"
    "  evaluate    trains on one file, predicts another, compares\n"
    "  embed       vectors of products' texts by all-MiniLM-L6-v2\n"
    "  inspect     what a table holds\n"
    "  publish     puts a table where the edge reads it, unless it is worse\n"
    "  sentiment   fit and evaluate a model of reviews\n"
    "\n"
    "commerce-train COMMAND --help tells more, with examples.\n"
    "\n"
    "exit codes: 0 good; 1 a file, the database or memory failed; 2 wrong "
    "usage;\n"
    "3 the data cannot be used; 4 refused to publish a worse table\n";


int
main(int argc, char **argv)
{
    unsigned  i;

    (void) train_seconds();

    if (argc < 2 || strcmp(argv[1], "--help") == 0
        || strcmp(argv[1], "-h") == 0)
    {
        fputs(train_usage, argc < 2 ? stderr : stdout);
        return argc < 2 ? TRAIN_USAGE : TRAIN_OK;
    }

    for (i = 0; i < sizeof(train_commands) / sizeof(train_commands[0]); i++) {
        if (strcmp(argv[1], train_commands[i].name) == 0) {
            return train_commands[i].main(argc - 2, argv + 2);
        }
    }

    train_fail(TRAIN_USAGE, "there is no command \"%s\": see commerce-train "
               "--help", argv[1]);
}
