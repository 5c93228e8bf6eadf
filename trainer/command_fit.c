/* commerce-train fit: from interactions to a table, with a report on itself. */

#include "settings.h"
#include "database.h"
#include "stage.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>


#define TRAIN_VALIDATE  0.1             /* of the events, the last ones */
#define TRAIN_HOLDOUT   0.2             /* of events without times */


static void train_validate(const train_data_t *data,
    train_comparison_t *comparison);
static void train_identify(train_identity_t *identity);
static void train_report(const train_data_t *data,
    const train_identity_t *identity, const train_tuned_t *tuned,
    const train_comparison_t *comparison, size_t size);
static FILE *train_report_open(char **text, size_t *len);
static void train_report_json(FILE *out, const train_data_t *data,
    const train_identity_t *identity, const train_tuned_t *tuned,
    const train_comparison_t *comparison, size_t size);
static void train_report_markdown(FILE *out, const train_data_t *data,
    const train_identity_t *identity, const train_tuned_t *tuned,
    const train_comparison_t *comparison);
static void train_report_file(const char *ending, const char *text,
    size_t size);


static const char           *train_out;
static const char           *train_report_name;
static const char           *train_resume;
static bool                  train_blind;
static uint64_t              train_generation;


static const train_option_t  train_fit_options[] = {
    { "out", TRAIN_TEXT, &train_out, "FILE", "the table", 0, 0, NULL },
    { "report", TRAIN_TEXT, &train_report_name, "NAME",
      "writes NAME.json and NAME.md", 0, 0, NULL },
    { "db", TRAIN_TEXT, &train_settings.db, "URL",
      "a shop's PostgreSQL instead of --train; keeps the report", 0, 0, NULL },
    { "tenant", TRAIN_COUNT, &train_settings.tenant, "ID",
      "whose table it is (1)", 1, 9e15, NULL },
    { "generation", TRAIN_COUNT, &train_generation, "N",
      "of the table (one more than that of --out)", 1, 9e15, NULL },
    { "tune", TRAIN_FLAG, &train_settings.tune, NULL,
      "choose weights and decays on the last part of the data", 0, 0, NULL },
    { "resume", TRAIN_TEXT, &train_resume, "FILE",
      "keeps what was tuned and measured, until the table is written", 0, 0,
      NULL },
    { "no-evaluate", TRAIN_FLAG, &train_blind, NULL,
      "do not measure: publish puts it over a measured one by --force only", 0, 0, NULL },
    TRAIN_SETTINGS_OPTIONS,
    { NULL, 0, NULL, NULL, NULL, 0, 0, NULL }
};


static const train_command_t  train_fit_command = {
    "fit", "",
    "Trains on all interactions and writes the table that the edge serves.\n"
    "Before, it trains on the earlier ones and predicts the last tenth: that\n"
    "is the report, and what the publish gate compares.  Products without any\n"
    "interaction are alike by their texts, and nothing is measured.  The file\n"
    "is there whole or not at all.",
    "  commerce-train fit --train events.tsv --items texts.tsv --out shop.sim\n"
    "  commerce-train fit --train events.tsv --out shop.sim --tune --report "
    "run\n"
    "  commerce-train fit --train big.tsv --out shop.sim --tune --resume "
    "shop.stage\n"
    "  PGPASSFILE=~/.pgpass commerce-train fit --db "
    "postgresql://commerce_train@localhost/shop \\\n"
    "      --tenant 1 --tune --out 1.sim",
    train_fit_options
};


int
train_fit_main(int argc, char **argv)
{
    uint64_t             key;
    train_data_t         data;
    train_parts_t        parts;
    train_table_t        table;
    train_tuned_t        tuned;
    train_options_t     *options = &train_settings.options;
    train_identity_t     identity;
    train_comparison_t   comparison;

    train_settings_init();
    train_settings.tenant = 1;
    train_cli(&train_fit_command, argc, argv, NULL, 0);
    train_settings_apply();

    if (train_out == NULL) {
        train_fail(TRAIN_USAGE, "where shall the table go? --out FILE");
    }

    train_settings_read(&data);

    if (data.named) {
        train_say("products have names, not numbers: the table holds hashes "
                  "of them, which the edge cannot serve");
    }

    memset(&tuned, 0, sizeof(train_tuned_t));
    memset(&comparison, 0, sizeof(train_comparison_t));
    train_identify(&identity);

    key = train_stage_key(&data, options, train_settings.tune, train_blind,
                          train_settings.again);

    if (data.nevents == 0) {
        train_say("no interaction yet: products are alike by their texts, and "
                  "there is nothing to tune or to measure");

    } else if (!train_stage_load(train_resume, key, options, &tuned,
                                 &comparison))
    {

        if (train_settings.tune) {
            train_tune(&data, options, &tuned);
        }

        if (!train_blind) {
            train_validate(&data, &comparison);
        }

        train_stage_save(train_resume, key, options, &tuned, &comparison);
    }

    if (comparison.n != 0) {
        /* 0 is "not measured" */
        identity.ndcg = comparison.one[0].metrics.ndcg20 > 0
                        ? comparison.one[0].metrics.ndcg20 : 1e-6;
        identity.coverage = comparison.one[0].metrics.coverage;
    }

    train_parts_events(&data, data.events, data.nevents, options, &parts);
    train_parts_content(&data, &parts);
    train_parts_collaborative(options, &parts);
    train_table_build(&data, &parts, options, &identity, &table);

    train_file_replace(train_out, table.data, table.size);

    if (train_resume != NULL) {
        (void) unlink(train_resume);
    }

    train_report(&data, &identity, &tuned, &comparison, table.size);

    return TRAIN_OK;
}


/* What the same options would have predicted of the last events. */

static void
train_validate(const train_data_t *data, train_comparison_t *comparison)
{
    train_parts_t   parts;
    train_split_t   split;
    train_truth_t   truth;

    train_split(data, data->timed ? TRAIN_VALIDATE : TRAIN_HOLDOUT, &split);
    train_parts_events(data, split.train, split.ntrain,
                       &train_settings.options, &parts);
    train_truth(data, &parts.history, split.test, split.ntest,
                train_settings.again, &truth);

    if (truth.users != 0) {
        train_compare(data, &train_settings.options, &truth,
                      train_settings.again, &parts, comparison);

    } else {
        train_say("nothing to measure on: the last events name nothing new");
    }

    train_truth_free(&truth);
    train_parts_free(&parts);
    train_split_free(&split);
}


static void
train_identify(train_identity_t *identity)
{
    const char     *epoch;
    train_table_t   last;

    memset(identity, 0, sizeof(train_identity_t));
    identity->tenant = train_settings.tenant;
    identity->generation = train_generation;
    epoch = getenv("SOURCE_DATE_EPOCH");
    identity->created = (epoch != NULL) ? atoll(epoch) * 1000
                                        : (int64_t) time(NULL) * 1000;

    if (train_generation != 0) {
        return;
    }

    identity->generation = 1;

    if (access(train_out, F_OK) == 0) {
        train_table_load(train_out, &last);
        identity->generation = last.table.about->generation + 1;
        train_table_free(&last);
    }
}


static void
train_report(const train_data_t *data, const train_identity_t *identity,
    const train_tuned_t *tuned, const train_comparison_t *comparison,
    size_t size)
{
    char    *json, *text;
    FILE    *out;
    size_t   json_len, len;

    out = train_report_open(&json, &json_len);
    train_report_json(out, data, identity, tuned, comparison, size);
    fclose(out);

    out = train_report_open(&text, &len);
    train_report_markdown(out, data, identity, tuned, comparison);
    fclose(out);

    if (train_settings.json) {
        fwrite(json, 1, json_len, stdout);

    } else if (!train_settings.quiet) {
        printf("%s: generation %lu, %u products, %.1f MB, %.1f s\n", train_out,
               (unsigned long) identity->generation, data->items, size / 1e6,
               train_seconds());

        if (comparison->n != 0) {
            train_comparison_print(stdout, comparison, false);
        }
    }

    if (train_report_name != NULL) {
        train_report_file(".json", json, json_len);
        train_report_file(".md", text, len);
    }

    if (train_settings.db != NULL) {
        train_database_report(train_settings.db, train_settings.tenant,
                              identity->generation,
                              data->timed ? data->last * 1000 : 0, json,
                              text);
    }

    free(json);
    free(text);
}


static FILE *
train_report_open(char **text, size_t *len)
{
    FILE  *out;

    out = open_memstream(text, len);

    if (out == NULL) {
        train_fail(TRAIN_FAILED, "no memory for the report");
    }

    return out;
}


static void
train_report_json(FILE *out, const train_data_t *data,
    const train_identity_t *identity, const train_tuned_t *tuned,
    const train_comparison_t *comparison, size_t size)
{
    fprintf(out, "{\"tenant\":%lu,\"generation\":%lu,\"created\":%ld,"
            "\"watermark\":%ld,\"users\":%u,\"items\":%u,\"events\":%lu,"
            "\"bytes\":%zu,\"seconds\":%.1f,\"tuned\":%s,\"tried\":%u,"
            "\"guarded\":%s,\"options\":",
            (unsigned long) identity->tenant,
            (unsigned long) identity->generation, (long) identity->created,
            data->timed ? (long) data->last * 1000 : 0L, data->users,
            data->items, (unsigned long) data->nevents, size, train_seconds(),
            tuned->tried ? "true" : "false", tuned->tried,
            tuned->guarded ? "true" : "false");
    train_options_json(out, &train_settings.options);

    if (comparison->n != 0) {
        fputs(",\"metrics\":", out);
        train_comparison_json(out, comparison);
    }

    fputs("}\n", out);
}


static void
train_report_markdown(FILE *out, const train_data_t *data,
    const train_identity_t *identity, const train_tuned_t *tuned,
    const train_comparison_t *comparison)
{
    char                    created[32];
    time_t                  when;
    struct tm               tm;
    const train_options_t  *o = &train_settings.options;

    when = identity->created / 1000;
    gmtime_r(&when, &tm);
    strftime(created, sizeof(created), "%Y-%m-%d %H:%M UTC", &tm);

    fprintf(out, "# Recommendations: generation %lu\n\n"
            "Tenant %lu, %s, %.0f s. %lu events of %u users with %u "
            "products.\n\n",
            (unsigned long) identity->generation,
            (unsigned long) identity->tenant, created, train_seconds(),
            (unsigned long) data->nevents, data->users, data->items);

    if (data->nevents == 0) {
        fputs("Nobody has done anything yet: products are alike by their "
              "texts, and nothing is measured.\n", out);
    }

    if (comparison->n != 0) {
        fputs("What a table trained on the earlier events predicts of the last "
              "ones, all products ranked:\n\n", out);
        train_comparison_print(out, comparison, true);
    }

    fprintf(out, "\nWeights%s: content %g, collaborative %g, popularity %g, "
            "diversity %g. Popularity decays over %g days, positions by %g, "
            "ages over %g days; freshness %g. Ridge: lambda %g, degree %g, %u "
            "nearest.\n", tuned->tried ? " (tuned)" : "", o->content,
            o->collaborative, o->popularity, o->diversity, o->popularity_days,
            o->position_decay, o->age_days, o->freshness, o->lambda, o->degree,
            o->nearest);

    if (tuned->guarded) {
        fputs("\nNo blend was better than popularity alone: popularity decides "
              "until there is more data.\n", out);
    }
}


static void
train_report_file(const char *ending, const char *text, size_t size)
{
    char  *name;

    name = train_alloc(strlen(train_report_name) + strlen(ending) + 1);
    strcpy(name, train_report_name);
    strcat(name, ending);
    train_file_replace(name, text, size);
    free(name);
}
