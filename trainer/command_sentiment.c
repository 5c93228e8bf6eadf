/* commerce-train sentiment: fit and evaluate. */

#include "cli.h"
#include "sentiment.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>


#define TRAIN_REPEAT  5                 /* times that the clock sees every review */


static int train_sentiment_fit_main(int argc, char **argv);
static int train_sentiment_evaluate_main(int argc, char **argv);
static int train_sentiment_score_main(int argc, char **argv);


static const char  *train_file;
static const char  *train_out;
static const char  *train_model;
static const char  *train_test;
static bool         train_json;
static uint64_t     train_bits = 20;
static uint64_t     train_least = 2;
static uint64_t     train_folds = 5;
static double       train_c = 1;
static double       train_beta = 0.5;


static const train_option_t  train_fit_options[] = {
    { "train", TRAIN_TEXT, &train_file, "FILE", "reviews: label<TAB>text", 0, 0,
      NULL },
    { "out", TRAIN_TEXT, &train_out, "FILE", "the model", 0, 0, NULL },
    { "bits", TRAIN_COUNT, &train_bits, "N",
      "log2 of the buckets (20: 2 MB)", 8, 26, NULL },
    { "least", TRAIN_COUNT, &train_least, "N",
      "reviews that a word must be in (2)", 1, 1000, NULL },
    { "folds", TRAIN_COUNT, &train_folds, "N",
      "of the calibration (5)", 2, 20, NULL },
    { "cost", TRAIN_NUMBER, &train_c, "N",
      "of an error in training (1)", 1e-4, 1e4, NULL },
    { "beta", TRAIN_NUMBER, &train_beta, "N",
      "0: naive Bayes, 1: SVM (0.5)", 0, 1, NULL },
    { "json", TRAIN_FLAG, &train_json, NULL, "the result as JSON", 0, 0, NULL },
    { NULL, 0, NULL, NULL, NULL, 0, 0, NULL }
};

static const train_command_t  train_fit_command = {
    "sentiment fit", "",
    "Trains a model of reviews.  Labels: 1 or positive, 0 or negative; neutral\n"
    "ones only widen or narrow the neutral band.",
    "  commerce-train sentiment fit --train reviews.tsv --out reviews.model",
    train_fit_options
};

static const train_option_t  train_evaluate_options[] = {
    { "model", TRAIN_TEXT, &train_model, "FILE", "the model", 0, 0, NULL },
    { "test", TRAIN_TEXT, &train_test, "FILE", "reviews: label<TAB>text", 0, 0,
      NULL },
    { "json", TRAIN_FLAG, &train_json, NULL, "the result as JSON", 0, 0, NULL },
    { NULL, 0, NULL, NULL, NULL, 0, 0, NULL }
};

static const train_command_t  train_evaluate_command = {
    "sentiment evaluate", "",
    "Accuracy, calibration error and time of a model, by the code that the\n"
    "edge runs.  A review without an answer counts as wrong.",
    "  commerce-train sentiment evaluate --model reviews.model --test "
    "others.tsv --json",
    train_evaluate_options
};

static const train_option_t  train_score_options[] = {
    { "model", TRAIN_TEXT, &train_model, "FILE", "the model", 0, 0, NULL },
    { NULL, 0, NULL, NULL, NULL, 0, 0, NULL }
};

static const train_command_t  train_score_command = {
    "sentiment score", "",
    "Reads texts, one a line, from the standard input; writes one JSON object\n"
    "for each.",
    "  echo 'It broke after a week.' | commerce-train sentiment score --model "
    "reviews.model",
    train_score_options
};


static const char  train_usage[] =
    "usage: commerce-train sentiment fit | evaluate | score [options]\n"
    "\n"
    "  fit        trains a model of reviews\n"
    "  evaluate   how good it is on others, and how fast\n"
    "  score      what it says of texts\n"
    "\n"
    "examples:\n"
    "  commerce-train sentiment fit --train reviews.tsv --out reviews.model\n"
    "  commerce-train sentiment evaluate --model reviews.model --test "
    "others.tsv\n";


int
train_sentiment_main(int argc, char **argv)
{
    if (argc > 0 && strcmp(argv[0], "fit") == 0) {
        return train_sentiment_fit_main(argc - 1, argv + 1);
    }

    if (argc > 0 && strcmp(argv[0], "evaluate") == 0) {
        return train_sentiment_evaluate_main(argc - 1, argv + 1);
    }

    if (argc > 0 && strcmp(argv[0], "score") == 0) {
        return train_sentiment_score_main(argc - 1, argv + 1);
    }

    if (argc > 0 && (strcmp(argv[0], "--help") == 0
                     || strcmp(argv[0], "-h") == 0))
    {
        fputs(train_usage, stdout);
        return TRAIN_OK;
    }

    train_fail(TRAIN_USAGE, "sentiment is followed by fit, evaluate or score");
}


static int
train_sentiment_fit_main(int argc, char **argv)
{
    void                       *model;
    size_t                      size;
    int64_t                     created;
    const char                 *epoch;
    train_corpus_t              corpus;
    train_sentiment_fit_t       fit;
    train_sentiment_options_t   options;

    train_cli(&train_fit_command, argc, argv, NULL, 0);

    if (train_file == NULL || train_out == NULL) {
        train_fail(TRAIN_USAGE, "--train FILE and --out FILE are needed");
    }

    train_corpus_read(train_file, &corpus);

    if (corpus.n < 100) {
        train_fail(TRAIN_INPUT, "%s holds %u reviews: 100 are the least, "
                   "thousands are good", train_file, corpus.n);
    }

    options.bits = train_bits;
    options.least = train_least;
    options.folds = train_folds;
    options.c = train_c;
    options.beta = train_beta;

    epoch = getenv("SOURCE_DATE_EPOCH");
    created = (epoch != NULL) ? atoll(epoch) : (int64_t) time(NULL);

    model = train_sentiment_fit(&corpus, &options, created * 1000, &size,
                                &fit);
    train_file_replace(train_out, model, size);

    printf(train_json
           ? "{\"reviews\":%u,\"features\":%u,\"known\":%u,\"bytes\":%zu,"
             "\"accuracy\":%.5f,\"calibration_error\":%.5f,\"neutral\":%.2f,"
             "\"seconds\":%.1f}\n"
           : "%u reviews, %u words and pairs, %u of them in %zu bytes\n"
             "out of fold: accuracy %.4f, calibration error %.4f; neutral "
             "below %.2f; %.1f s\n",
           corpus.n, fit.features, fit.known, size, fit.accuracy, fit.error,
           fit.neutral, train_seconds());

    free(model);
    train_corpus_free(&corpus);

    return TRAIN_OK;
}


static void
train_model_open(ngx_commerce_sentiment_t *model)
{
    const char    *why;
    train_file_t   file;

    if (train_model == NULL) {
        train_fail(TRAIN_USAGE, "which model? --model FILE");
    }

    train_file_open(&file, train_model);

    if (ngx_commerce_sentiment_open(model, file.data, file.size, &why)
        != NGX_COMMERCE_OK)
    {
        train_fail(TRAIN_INPUT, "%s: %s", train_model, why);
    }
}


static int
train_sentiment_evaluate_main(int argc, char **argv)
{
    int8_t                            *label;
    double                            *probability, micros;
    uint32_t                           n, i, judged, right, none, neutral, pass;
    uint64_t                           bytes;
    const char                        *p, *end, *eol, *tab;
    train_file_t                       file;
    train_corpus_t                     corpus;
    struct timespec                    before, after;
    ngx_commerce_sentiment_t           model;
    ngx_commerce_sentiment_answer_t    answer;

    train_cli(&train_evaluate_command, argc, argv, NULL, 0);
    train_model_open(&model);

    if (train_test == NULL) {
        train_fail(TRAIN_USAGE, "on which reviews? --test FILE");
    }

    /* checks the file, and gives the labels */

    train_corpus_read(train_test, &corpus);
    n = corpus.n;
    label = corpus.label;
    probability = train_alloc((n + 1) * sizeof(double));
    train_file_open(&file, train_test);

    right = 0;
    judged = 0;
    none = 0;
    neutral = 0;
    bytes = 0;
    end = file.data + file.size;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);

    for (pass = 0; pass < TRAIN_REPEAT; pass++) {

        for (i = 0, p = file.data; p < end; p = eol + 1) {
            eol = memchr(p, '\n', end - p);
            eol = (eol != NULL) ? eol : end;

            if (eol == p) {
                continue;
            }

            tab = memchr(p, '\t', eol - p);
            ngx_commerce_sentiment(&model, (const uint8_t *) tab + 1,
                                   eol - tab - 1, &answer);

            if (pass == 0) {
                bytes += eol - tab - 1;
                none += !answer.answered;
                neutral += answer.answered && answer.label == 0;
                judged += label[i] != 0;
                right += answer.answered && label[i] != 0
                         && (answer.probability >= 0.5f) == (label[i] > 0);
                probability[i] = answer.answered ? answer.probability : 0.5;
            }

            i++;
        }
    }

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);

    micros = ((after.tv_sec - before.tv_sec) * 1e6
              + (after.tv_nsec - before.tv_nsec) / 1e3)
             / ((double) n * TRAIN_REPEAT);

    printf(train_json
           ? "{\"reviews\":%u,\"accuracy\":%.5f,\"calibration_error\":%.5f,"
             "\"unanswered\":%u,\"neutral\":%u,\"us_per_review\":%.2f,"
             "\"bytes_per_review\":%.0f,\"us_per_600_bytes\":%.2f}\n"
           : "%u reviews: accuracy %.4f, calibration error %.4f\n"
             "%u without an answer, %u neutral; %.2f us a review of %.0f "
             "bytes, %.2f us for 600\n",
           n, judged ? (double) right / judged : 0,
           train_calibration_error(probability, label, n), none, neutral,
           micros, n ? (double) bytes / n : 0,
           bytes ? micros * n / bytes * 600 : 0);

    free(probability);
    train_corpus_free(&corpus);
    train_file_close(&file);

    return TRAIN_OK;
}


static int
train_sentiment_score_main(int argc, char **argv)
{
    char                             *line;
    size_t                            room;
    ssize_t                           len;
    ngx_commerce_sentiment_t          model;
    ngx_commerce_sentiment_answer_t   a;

    train_cli(&train_score_command, argc, argv, NULL, 0);
    train_model_open(&model);

    line = NULL;
    room = 0;

    while ((len = getline(&line, &room, stdin)) != -1) {
        ngx_commerce_sentiment(&model, (uint8_t *) line, len, &a);

        if (!a.answered) {
            puts("{\"score\":null,\"label\":null,\"confidence\":null}");
            continue;
        }

        printf("{\"score\":%.4f,\"label\":\"%s\",\"confidence\":%.4f}\n",
               a.score, a.label > 0 ? "positive"
                                    : a.label < 0 ? "negative" : "neutral",
               a.confidence);
    }

    free(line);

    return TRAIN_OK;
}
