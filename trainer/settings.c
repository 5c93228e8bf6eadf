/* See settings.h. */

#include "settings.h"
#include "database.h"
#include "embeddings.h"

#include <cblas.h>
#include <string.h>


train_settings_t  train_settings;
bool              train_settings_decay;


void
train_settings_init(void)
{
    memset(&train_settings, 0, sizeof(train_settings_t));
    train_options_init(&train_settings.options);

    train_settings.algorithm = "ridge";
    train_settings.threads = 2;
    train_settings.nearest = train_settings.options.nearest;
    train_settings.rank = train_settings.options.rank;
    train_settings.history = train_settings.options.history;
}


void
train_settings_apply(void)
{
    train_options_t  *options = &train_settings.options;

    options->nearest = train_settings.nearest;
    options->rank = train_settings.rank;
    options->history = train_settings.history;

    if (strcmp(train_settings.algorithm, "ridge") == 0) {
        options->algorithm = TRAIN_RIDGE;

    } else if (strcmp(train_settings.algorithm, "cosine") == 0) {
        options->algorithm = TRAIN_COSINE;

    } else if (strcmp(train_settings.algorithm, "svd") == 0) {
        options->algorithm = TRAIN_SVD;

    } else {
        train_fail(TRAIN_USAGE, "--algorithm is ridge, cosine or svd, not "
                   "\"%s\"", train_settings.algorithm);
    }

    train_threads = train_settings.threads;
    train_quiet = train_settings.quiet;

    /* the threads are ours: a sum must not depend on how many the library takes */

    openblas_set_num_threads(1);
}


void
train_settings_read(train_data_t *data)
{
    train_file_t                events, items;
    train_reader_t             *reader;
    static train_embeddings_t   vectors;

    if ((train_settings.train == NULL) == (train_settings.db == NULL)) {
        train_fail(TRAIN_USAGE, "where are the interactions? --train FILE, "
                   "or for fit --db URL, not both");
    }

    reader = train_reader();

    if (train_settings.db != NULL) {
        train_database_read(train_settings.db, train_settings.tenant, reader);

    } else {
        train_file_open(&events, train_settings.train);
        train_read_events(reader, &events, train_settings.order);
        train_file_close(&events);
    }

    if (train_settings.items != NULL) {
        train_file_open(&items, train_settings.items);
        train_read_texts(reader, &items);
    }

    train_reader_finish(reader, data);

    if (train_settings.embeddings != NULL) {
        train_embeddings_open(&vectors, train_settings.embeddings);
        data->embeddings = &vectors;
        train_say("%s: vectors of %u of %u products, by %s",
                  train_settings.embeddings, train_dense_known(data),
                  data->items, vectors.about->name);
    }

    if (data->nevents == 0 && data->texts == NULL) {
        train_fail(TRAIN_INPUT, "%s holds no interaction%s",
                   train_settings.db ? "the tenant" : train_settings.train,
                   train_settings.db ? " with a product that is for sale, and "
                                       "no such product"
                                     : ": a line is user<TAB>item[<TAB>"
                                       "unix_time[<TAB>event]]");
    }

    if (data->nevents != 0 && !data->timed && !data->ordered
        && !train_settings_decay)
    {
        train_settings.options.position_decay = 1;
    }

    train_say("%lu interactions of %u users with %u products, %.1f s",
              (unsigned long) data->nevents, data->users, data->items,
              train_seconds());
}
