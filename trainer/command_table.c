/* commerce-train inspect and publish: tables that are there. */

#include "settings.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>


#define TRAIN_LISTS     20000          /* that are timed */
#define TRAIN_WORSE     0.95            /* of the last table's NDCG@20 */
#define TRAIN_NARROWER  0.80            /* of its coverage */


static void train_inspect(const train_table_t *table);
static void train_inspect_product(const train_table_t *table, uint64_t id);
static void train_inspect_time(const train_table_t *table);
static void *train_inspect_alloc(void *ctx, size_t size);
static int train_double_cmp(const void *a, const void *b);
static void train_gate(const char *name, const train_table_t *table,
    const train_table_t *last);
static void train_publish(const train_table_t *table, uint64_t generation);


static bool         train_json;
static bool         train_time;
static bool         train_force;
static uint64_t     train_product;
static bool         train_product_given;
static const char  *train_to;


static const train_option_t  train_inspect_options[] = {
    { "product", TRAIN_COUNT, &train_product, "ID",
      "the neighbours of one product", 0, 9e15, &train_product_given },
    { "time", TRAIN_FLAG, &train_time, NULL,
      "how long a list of 10 takes after 20 events", 0, 0, NULL },
    { "json", TRAIN_FLAG, &train_json, NULL, "as JSON", 0, 0, NULL },
    { NULL, 0, NULL, NULL, NULL, 0, 0, NULL }
};

static const train_command_t  train_inspect_command = {
    "inspect", "TABLE ",
    "Checks a table as the edge does, every byte, and tells what it holds.",
    "  commerce-train inspect shop.sim\n"
    "  commerce-train inspect shop.sim --product 42 --json",
    train_inspect_options
};

static const train_option_t  train_publish_options[] = {
    { "to", TRAIN_TEXT, &train_to, "FILE", "where the edge reads it", 0, 0,
      NULL },
    { "force", TRAIN_FLAG, &train_force, NULL, "even if it is worse", 0, 0,
      NULL },
    { NULL, 0, NULL, NULL, NULL, 0, 0, NULL }
};

static const train_command_t  train_publish_command = {
    "publish", "TABLE ",
    "Puts a table in the place of the last one, whole or not at all.  One\n"
    "whose NDCG@20 on the events held back is 5 % below the last one's, or\n"
    "whose coverage is below 80 % of it, is refused (exit code 4).",
    "  commerce-train publish new.sim --to /var/lib/commerce/1.sim",
    train_publish_options
};


int
train_inspect_main(int argc, char **argv)
{
    const char     *name;
    train_table_t   table;

    train_cli(&train_inspect_command, argc, argv, &name, 1);
    train_table_load(name, &table);

    if (train_time) {
        train_inspect_time(&table);

    } else if (train_product_given) {
        train_inspect_product(&table, train_product);

    } else {
        train_inspect(&table);
    }

    return TRAIN_OK;
}


static void
train_inspect(const train_table_t *table)
{
    uint32_t                                i, rows, neighbours, content;
    const ngx_commerce_similarity_row_t    *row;
    const ngx_commerce_similarity_about_t  *about = table->table.about;

    rows = 0;
    neighbours = 0;
    content = 0;

    for (i = 0; i < table->table.items; i++) {
        row = &table->table.rows[i];
        rows += (row->count != 0);
        neighbours += row->count;
        content += ((row->components & NGX_COMMERCE_SIMILARITY_CONTENT) != 0);
    }

    if (train_json) {
        printf("{\"tenant\":%lu,\"generation\":%lu,\"created\":%ld,"
               "\"watermark\":%ld,\"items\":%u,\"users\":%lu,\"events\":%lu,"
               "\"bytes\":%zu,\"collaborative\":\"%s\",\"content\":\"%s\","
               "\"rows\":%u,\"neighbours\":%.2f,\"content_rows\":%u,"
               "\"cold\":%u,\"lists\":%u,\"vectors\":%s,"
               "\"weights\":{\"content\":%g,\"collaborative\":%g,"
               "\"popularity\":%g,\"diversity\":%g},\"position_decay\":%g,"
               "\"age_days\":%g,\"popularity_days\":%g,\"ndcg@20\":%.5f,"
               "\"coverage\":%.5f}\n",
               (unsigned long) about->tenant_id,
               (unsigned long) about->generation, (long) about->created,
               (long) about->watermark, table->table.items,
               (unsigned long) about->users, (unsigned long) about->events,
               table->size, about->collaborative, about->content, rows,
               (double) neighbours / table->table.items, content,
               table->table.ncold, table->table.nlists,
               table->table.vectors ? "true" : "false", about->content_weight,
               about->collaborative_weight, about->popularity_weight,
               about->diversity, about->position_decay, about->age_days,
               about->popularity_days, about->ndcg, about->coverage);
        return;
    }

    printf("tenant %lu, generation %lu\n"
           "%u products, %lu events of %lu users, %zu bytes\n"
           "%s and %s: %u rows of %.1f neighbours, %u with content, %u cold "
           "products\n"
           "%u lists, %s vectors\n"
           "content %g, collaborative %g, popularity %g, diversity %g\n",
           (unsigned long) about->tenant_id,
           (unsigned long) about->generation, table->table.items,
           (unsigned long) about->events, (unsigned long) about->users,
           table->size, about->collaborative, about->content, rows,
           (double) neighbours / table->table.items, content,
           table->table.ncold, table->table.nlists,
           table->table.vectors ? "with" : "without", about->content_weight,
           about->collaborative_weight, about->popularity_weight,
           about->diversity);

    if (about->ndcg == 0) {
        puts("not measured");
        return;
    }

    printf("NDCG@20 %.4f, coverage %.3f on the events held back\n",
           about->ndcg, about->coverage);
}


static void
train_inspect_product(const train_table_t *table, uint64_t id)
{
    uint32_t                              i, k;
    const ngx_commerce_similarity_row_t  *row;

    i = ngx_commerce_similarity_find(&table->table, id);

    if (i == NGX_COMMERCE_SIMILARITY_NONE) {
        train_fail(TRAIN_INPUT, "the table does not know product %lu",
                   (unsigned long) id);
    }

    row = &table->table.rows[i];

    if (train_json) {
        printf("{\"product\":%lu,\"popularity\":%g,\"neighbours\":[",
               (unsigned long) id, table->table.popularity[i]);
    }

    for (k = 0; k < row->count; k++) {
        printf(train_json ? "%s{\"product\":%lu,\"weight\":%.5f,"
                            "\"content\":%.3f}"
                          : "%s%-20lu %.5f  content %.2f\n",
               (train_json && k != 0) ? "," : "",
               (unsigned long) table->table.ids[row->item[k]],
               row->weight[k] * row->scale,
               table->table.shares[i].content[k] / 255.0);
    }

    if (train_json) {
        puts("]}");
    }
}


/* Random histories: the rows come from memory, not from a cache that knows them. */

static void
train_inspect_time(const train_table_t *table)
{
    double                              micros[TRAIN_LISTS];
    uint32_t                            i, k;
    uint64_t                            random;
    struct timespec                     before, after;
    ngx_commerce_alloc_t                alloc = { train_inspect_alloc, NULL };
    ngx_commerce_recommend_event_t      events[20];
    ngx_commerce_recommend_query_t      query;
    ngx_commerce_recommend_answer_t     answers[10];
    ngx_commerce_recommend_scratch_t   *scratch;

    scratch = ngx_commerce_recommend_scratch(&alloc, 50);
    random = 1;

    for (i = 0; i < TRAIN_LISTS; i++) {

        for (k = 0; k < 20; k++) {
            random = train_mix(random);
            events[k].item = random % table->table.items;
            events[k].event = NGX_COMMERCE_EVENT_VIEW;
            events[k].time = 0;
        }

        ngx_commerce_recommend_query(&table->table, &query);
        query.events = events;
        query.nevents = 20;

        clock_gettime(CLOCK_MONOTONIC, &before);
        (void) ngx_commerce_recommend(&table->table, scratch, &query, answers);
        clock_gettime(CLOCK_MONOTONIC, &after);

        micros[i] = (after.tv_sec - before.tv_sec) * 1e6
                    + (after.tv_nsec - before.tv_nsec) / 1e3;
    }

    qsort(micros, TRAIN_LISTS, sizeof(double), train_double_cmp);
    printf(train_json ? "{\"p50_us\":%.1f,\"p99_us\":%.1f}\n"
                      : "10 of 20 events: %.1f us p50, %.1f us p99\n",
           micros[TRAIN_LISTS / 2], micros[TRAIN_LISTS * 99 / 100]);
    free(scratch);
}


static void *
train_inspect_alloc(void *ctx, size_t size)
{
    return train_alloc(size);
}


static int
train_double_cmp(const void *a, const void *b)
{
    double  x = *(const double *) a, y = *(const double *) b;

    return (x > y) - (x < y);
}


int
train_publish_main(int argc, char **argv)
{
    uint64_t        generation;
    const char     *name;
    train_table_t   table, last;

    train_cli(&train_publish_command, argc, argv, &name, 1);

    if (train_to == NULL) {
        train_fail(TRAIN_USAGE, "where does the edge read it? --to FILE");
    }

    train_table_load(name, &table);
    generation = table.table.about->generation;

    if (access(train_to, F_OK) == 0 && !train_force) {
        train_table_load(train_to, &last);
        train_gate(name, &table, &last);

        if (generation <= last.table.about->generation) {
            generation = last.table.about->generation + 1;
        }
    }

    train_publish(&table, generation);
    train_say("%s: generation %lu", train_to, (unsigned long) generation);

    return TRAIN_OK;
}


static void
train_gate(const char *name, const train_table_t *table,
    const train_table_t *last)
{
    const ngx_commerce_similarity_about_t  *now, *before;

    now = table->table.about;
    before = last->table.about;

    if (now->tenant_id != before->tenant_id) {
        train_fail(TRAIN_REFUSED, "%s is of tenant %lu, %s of %lu", name,
                   (unsigned long) now->tenant_id, train_to,
                   (unsigned long) before->tenant_id);
    }

    if (now->events == 0 && before->events != 0) {
        train_fail(TRAIN_REFUSED, "%s was made of no interaction, the last "
                   "table of %lu. Are they gone? --force puts it there all "
                   "the same", name, (unsigned long) before->events);
    }

    if (now->ndcg == 0 && before->ndcg != 0) {
        train_fail(TRAIN_REFUSED, "%s is not measured, the last table is: "
                   "NDCG@20 %.4f. Nothing says that it is no worse; --force "
                   "puts it there all the same", name, before->ndcg);
    }

    if (now->ndcg < before->ndcg * TRAIN_WORSE) {
        train_fail(TRAIN_REFUSED, "%s has NDCG@20 %.4f, the last table %.4f: "
                   "more than 5 %% worse. See its report, or --force", name,
                   now->ndcg, before->ndcg);
    }

    if (now->coverage < before->coverage * TRAIN_NARROWER) {
        train_fail(TRAIN_REFUSED, "%s shows %.1f %% of the products, the last "
                   "table %.1f %%: less than 80 %% of it. See its report, or "
                   "--force", name, now->coverage * 100,
                   before->coverage * 100);
    }
}


/* The same sections; the description with the generation. */

static void
train_publish(const train_table_t *table, uint64_t generation)
{
    void                             *out;
    unsigned                          i, n;
    uint64_t                          size;
    const char                       *why;
    ngx_commerce_pack_t               pack;
    ngx_commerce_pack_section_t       section[NGX_COMMERCE_PACK_SECTIONS];
    ngx_commerce_similarity_about_t   about = *table->table.about;

    if (ngx_commerce_pack_open(&pack, table->data, table->size,
                               NGX_COMMERCE_SIMILARITY_KIND,
                               NGX_COMMERCE_SIMILARITY_VERSION, false, &why)
        != NGX_COMMERCE_OK)
    {
        train_fail(TRAIN_INPUT, "%s", why);
    }

    about.generation = generation;
    n = 0;

    for (i = 1; i < NGX_COMMERCE_PACK_SECTIONS; i++) {

        if (pack.section[i].data == NULL) {
            continue;
        }

        section[n] = pack.section[i];

        if (i == NGX_COMMERCE_SIMILARITY_ABOUT) {
            section[n].data = &about;
        }

        n++;
    }

    size = ngx_commerce_pack_size(section, n);
    out = train_alloc(size);
    ngx_commerce_pack_write(out, NGX_COMMERCE_SIMILARITY_KIND,
                            NGX_COMMERCE_SIMILARITY_VERSION, section, n);
    train_file_replace(train_to, out, size);
    free(out);
}
