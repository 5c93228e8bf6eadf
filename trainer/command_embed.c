/* commerce-train embed: vectors of the texts that have changed. */

#include "settings.h"
#include "database.h"
#include "embeddings.h"
#include "minilm.h"

#include <cblas.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>


#define TRAIN_TOGETHER  32              /* texts that a worker takes at once */


typedef struct {
    const train_data_t        *data;
    train_encoder_t          **encoder;         /* by worker */
    uint32_t                  *todo;            /* products */
    uint32_t                   n;
    uint64_t                  *sums;
    float                     *scales;
    int8_t                    *vectors;
    uint8_t                   *done;            /* set last: a checkpoint may read it */
    train_embeddings_about_t   about;
    _Atomic uint64_t           tokens;
    _Atomic uint32_t           made;
    double                     saved;           /* when, s */
} train_embedding_t;


static void train_embed_products(const train_minilm_t *model);
static void train_embed_kept(train_embedding_t *job);
static void train_embed_texts(void *ctx, unsigned worker, uint64_t first,
    uint64_t last);
static void train_embed_save(train_embedding_t *job);
static void train_embed_lines(const train_minilm_t *model);
static void train_embed_stop(int signo);


static const char             *train_embed_model;
static const char             *train_embed_out;
static bool                    train_embed_stdin;
static double                  train_embed_every = 30;
static volatile sig_atomic_t   train_embed_stopped;


static const train_option_t  train_embed_options[] = {
    { "model", TRAIN_TEXT, &train_embed_model, "FILE",
      "made by scripts/minilm", 0, 0, NULL },
    { "out", TRAIN_TEXT, &train_embed_out, "FILE",
      "the vectors; what is there and has not changed is kept", 0, 0, NULL },
    { "items", TRAIN_TEXT, &train_settings.items, "FILE",
      "texts: item<TAB>text[<TAB>category[<TAB>brand]]", 0, 0, NULL },
    { "db", TRAIN_TEXT, &train_settings.db, "URL",
      "a shop's PostgreSQL instead of --items", 0, 0, NULL },
    { "tenant", TRAIN_COUNT, &train_settings.tenant, "ID",
      "whose products (1)", 1, 9e15, NULL },
    { "lines", TRAIN_FLAG, &train_embed_stdin, NULL,
      "texts from the standard input, one a line; prints their vectors", 0, 0,
      NULL },
    { "checkpoint", TRAIN_NUMBER, &train_embed_every, "S",
      "saves what is done that often, s (30)", 0, 1e6, NULL },
    { "threads", TRAIN_COUNT, &train_settings.threads, "N",
      "cores to use (2)", 1, 64, NULL },
    { "quiet", TRAIN_FLAG, &train_settings.quiet, NULL,
      "only results and errors", 0, 0, NULL },
    { "json", TRAIN_FLAG, &train_settings.json, NULL, "the result as JSON", 0,
      0, NULL },
    { NULL, 0, NULL, NULL, NULL, 0, 0, NULL }
};


static const train_command_t  train_embed_command = {
    "embed", "",
    "Computes vectors of products' texts with all-MiniLM-L6-v2: fit and\n"
    "evaluate take them by --embeddings instead of counting words.  Only texts\n"
    "that are new or have changed are computed; a run that was broken off goes\n"
    "on where its last checkpoint was.",
    "  scripts/minilm --out minilm.model\n"
    "  commerce-train embed --model minilm.model --items texts.tsv --out "
    "shop.vec\n"
    "  commerce-train embed --model minilm.model --out 1.vec --tenant 1 \\\n"
    "      --db postgresql://commerce_train@localhost/shop\n"
    "  commerce-train fit --train events.tsv --items texts.tsv --embeddings "
    "shop.vec --out shop.sim",
    train_embed_options
};


int
train_embed_main(int argc, char **argv)
{
    train_minilm_t  model;

    train_settings_init();
    train_settings.tenant = 1;
    train_cli(&train_embed_command, argc, argv, NULL, 0);
    train_settings_apply();

    if (train_embed_model == NULL) {
        train_fail(TRAIN_USAGE, "which model? --model FILE, made by "
                   "scripts/minilm");
    }

    if (!train_embed_stdin) {

        if (train_embed_out == NULL) {
            train_fail(TRAIN_USAGE, "where shall the vectors go? --out FILE");
        }

        if ((train_settings.items == NULL) == (train_settings.db == NULL)) {
            train_fail(TRAIN_USAGE, "where are the texts? --items FILE or "
                       "--db URL, not both");
        }
    }

    train_minilm_open(&model, train_embed_model);

    if (train_embed_stdin) {
        train_embed_lines(&model);

    } else {
        train_embed_products(&model);
    }

    train_minilm_close(&model);

    return train_embed_stopped ? TRAIN_FAILED : TRAIN_OK;
}


static void
train_embed_products(const train_minilm_t *model)
{
    unsigned            i;
    uint32_t            kept;
    train_data_t        data;
    train_file_t        items;
    train_reader_t     *reader;
    struct sigaction    stop;
    train_embedding_t   job;

    reader = train_reader();

    if (train_settings.db != NULL) {
        train_database_texts(train_settings.db, train_settings.tenant, reader);

    } else {
        train_file_open(&items, train_settings.items);
        train_read_texts(reader, &items);
    }

    train_reader_finish(reader, &data);

    memset(&job, 0, sizeof(train_embedding_t));
    job.data = &data;
    job.about.model = model->sum;
    job.about.width = model->config->width;
    memcpy(job.about.name, model->config->name, sizeof(job.about.name));
    job.todo = train_alloc(data.items * sizeof(uint32_t));
    job.sums = train_zalloc(data.items * sizeof(uint64_t));
    job.scales = train_zalloc(data.items * sizeof(float));
    job.vectors = train_zalloc((uint64_t) data.items * job.about.width);
    job.done = train_zalloc(data.items);
    train_embed_kept(&job);
    kept = data.items - job.n;

    job.encoder = train_alloc(train_threads * sizeof(train_encoder_t *));

    for (i = 0; i < train_threads; i++) {
        job.encoder[i] = train_encoder(model);
    }

    memset(&stop, 0, sizeof(struct sigaction));
    stop.sa_handler = train_embed_stop;
    sigaction(SIGINT, &stop, NULL);
    sigaction(SIGTERM, &stop, NULL);

    job.saved = train_seconds();
    train_parallel("texts", job.n, TRAIN_TOGETHER, train_embed_texts, &job);
    train_embed_save(&job);

    if (train_embed_stopped) {
        train_say("broken off: %u of %u texts are done; the same command goes "
                  "on with the rest", job.made, job.n);
    }

    if (train_settings.json) {
        printf("{\"model\":\"%s\",\"products\":%u,\"embedded\":%u,"
               "\"kept\":%u,\"left\":%u,\"tokens\":%lu,\"seconds\":%.1f}\n",
               job.about.name, data.items, job.made, kept, job.n - job.made,
               (unsigned long) job.tokens, train_seconds());

    } else if (!train_settings.quiet) {
        printf("%s: %u products, %u texts embedded (%lu tokens), %u kept, "
               "%.1f s\n", train_embed_out, data.items, job.made,
               (unsigned long) job.tokens, kept, train_seconds());
    }

    for (i = 0; i < train_threads; i++) {
        train_encoder_free(job.encoder[i]);
    }

    free(job.encoder);
    free(job.todo);
    free(job.sums);
    free(job.scales);
    free(job.vectors);
    free(job.done);
}


/* Sums of all texts; vectors that are there already are copied, the others are to be made. */

static void
train_embed_kept(train_embedding_t *job)
{
    char                *text;
    size_t               len;
    uint32_t             i, k, width;
    train_embeddings_t   last;
    const train_data_t  *data = job->data;

    width = job->about.width;
    memset(&last, 0, sizeof(train_embeddings_t));

    if (access(train_embed_out, F_OK) == 0) {
        train_embeddings_open(&last, train_embed_out);

        if (last.about->model != job->about.model
            || last.about->width != width)
        {
            train_say("%s is of another model: all texts are embedded anew",
                      train_embed_out);
            train_embeddings_close(&last);
            memset(&last, 0, sizeof(train_embeddings_t));
        }
    }

    for (i = 0; i < data->items; i++) {
        text = train_embeddings_text(&data->texts[i], &len);
        job->sums[i] = train_embeddings_sum(text, len);
        free(text);

        k = (last.about != NULL)
            ? train_find(last.keys, last.about->n, data->item_keys[i])
            : TRAIN_NONE;

        if (k == TRAIN_NONE || last.sums[k] != job->sums[i]) {
            job->todo[job->n++] = i;
            continue;
        }

        job->scales[i] = last.scales[k];
        memcpy(job->vectors + (uint64_t) i * width,
               last.vectors + (uint64_t) k * width, width);
        job->done[i] = 1;
    }

    if (last.about != NULL) {
        train_embeddings_close(&last);
    }
}


static void
train_embed_texts(void *ctx, unsigned worker, uint64_t first, uint64_t last)
{
    float              *vectors;
    uint32_t            n, k, i, width;
    train_str_t         text[TRAIN_TOGETHER];
    train_embedding_t  *job = ctx;

    if (train_embed_stopped) {
        return;
    }

    n = last - first;
    width = job->about.width;
    vectors = train_alloc((uint64_t) n * width * sizeof(float));

    for (k = 0; k < n; k++) {
        text[k].data = train_embeddings_text(
                           &job->data->texts[job->todo[first + k]],
                           &text[k].len);
    }

    job->tokens += train_encode(job->encoder[worker], text, n, vectors);

    for (k = 0; k < n; k++) {
        i = job->todo[first + k];
        free((void *) text[k].data);
        train_embeddings_quantise(vectors + (uint64_t) k * width, width,
                                  job->vectors + (uint64_t) i * width,
                                  &job->scales[i]);
        __atomic_store_n(&job->done[i], 1, __ATOMIC_RELEASE);
    }

    job->made += n;
    free(vectors);

    if (worker == 0 && train_seconds() - job->saved >= train_embed_every) {
        train_embed_save(job);
        job->saved = train_seconds();
    }
}


/* What is done so far, and nothing of products that are gone. */

static void
train_embed_save(train_embedding_t *job)
{
    uint8_t   *done;
    uint32_t   i, n;

    n = job->data->items;
    done = train_alloc(n);

    for (i = 0; i < n; i++) {
        done[i] = __atomic_load_n(&job->done[i], __ATOMIC_ACQUIRE);
    }

    train_embeddings_save(train_embed_out, &job->about, n,
                          job->data->item_keys, job->sums, job->scales,
                          job->vectors, done);
    free(done);
}


static void
train_embed_lines(const train_minilm_t *model)
{
    char             *line;
    float            *vector;
    size_t            room;
    ssize_t           len;
    uint32_t          i, width;
    train_str_t       text;
    train_encoder_t  *encoder;

    line = NULL;
    room = 0;
    width = model->config->width;
    vector = train_alloc(width * sizeof(float));
    encoder = train_encoder(model);

    while ((len = getline(&line, &room, stdin)) != -1) {
        len -= (len != 0 && line[len - 1] == '\n');
        text.data = line;
        text.len = len;
        (void) train_encode(encoder, &text, 1, vector);

        for (i = 0; i < width; i++) {
            printf("%s%.7g", i == 0 ? "[" : ",", vector[i]);
        }

        puts("]");
    }

    free(line);
    free(vector);
    train_encoder_free(encoder);
}


static void
train_embed_stop(int signo)
{
    train_embed_stopped = 1;
}
