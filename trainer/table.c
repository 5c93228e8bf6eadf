/* Blending the components into rows, and the file around them.  See table.h. */

#include "table.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>


#define TRAIN_WIDTH       NGX_COMMERCE_SIMILARITY_NEIGHBOURS
#define TRAIN_POPULAR     500           /* entries of the shop's list */
#define TRAIN_TRENDING    100
#define TRAIN_CATEGORY    50            /* entries of a category's list */
#define TRAIN_SECTIONS    10
#define TRAIN_NEW         0.2           /* of the share that a new product would have in its own row */


typedef struct {
    const train_parts_t               *parts;
    const train_options_t             *options;
    float                              level;   /* mean sum of a collaborative row */
    float                             *fresh;   /* factor of a target */
    ngx_commerce_similarity_row_t     *rows;
    ngx_commerce_similarity_shares_t  *shares;
} train_blend_t;

typedef struct {
    uint32_t                           item;
    float                              weight;
    float                              content;
} train_mixed_t;

typedef struct {
    ngx_commerce_similarity_list_t    *list;
    ngx_commerce_similarity_entry_t   *entry;
    uint32_t                           lists;
    uint32_t                           entries;
    uint32_t                           list_room;
    uint32_t                           entry_room;
} train_lists_t;

typedef struct {
    uint64_t                           category;
    uint32_t                           item;
    double                             score;
} train_listed_t;


static void train_blend_rows(void *ctx, unsigned worker, uint64_t first,
    uint64_t last);
static double train_share(const train_options_t *options, double events);
static uint32_t train_blend_row(const train_blend_t *blend, uint64_t i,
    train_mixed_t *mixed);
static void train_quantise(const train_mixed_t *mixed, uint32_t n,
    ngx_commerce_similarity_row_t *row,
    ngx_commerce_similarity_shares_t *shares);
static float train_level(const train_neighbours_t *neighbours);
static uint32_t train_cold(const train_parts_t *parts,
    const train_options_t *options, uint32_t **items,
    ngx_commerce_similarity_row_t **rows);
static void train_list(train_lists_t *lists, const train_data_t *data,
    const double *score, ngx_commerce_list_kind_t kind, uint32_t limit);
static void train_list_end(train_lists_t *lists, uint32_t kind,
    const train_listed_t *listed, uint32_t n, uint64_t category);
static double train_popularity_weight(const train_options_t *options);
static void train_about(const train_data_t *data, const train_parts_t *parts,
    const train_options_t *options, const train_identity_t *identity,
    ngx_commerce_similarity_about_t *about);
static int train_mixed_by_item(const void *a, const void *b);
static int train_mixed_by_weight(const void *a, const void *b);
static int train_listed_cmp(const void *a, const void *b);


static const char  *train_algorithms[] = { "ridge", "cosine", "svd" };


void
train_options_init(train_options_t *options)
{
    memset(options, 0, sizeof(train_options_t));

    options->lambda = 16;
    options->degree = 0.5;
    options->nearest = 200;
    options->rank = 20;
    options->history = 500;
    options->memory = 1500000000;
    options->content = 0.35;
    options->collaborative = 0.40;
    options->popularity = 0.15;
    options->diversity = 0.10;
    options->evidence = 10;
    options->popularity_days = 30;
    options->position_decay = 0.8;
    options->freshness_days = 14;

    options->event_weight[NGX_COMMERCE_EVENT_VIEW] = 1;
    options->event_weight[NGX_COMMERCE_EVENT_CLICK] = 1;
    options->event_weight[NGX_COMMERCE_EVENT_OTHER] = 1;
    options->event_weight[NGX_COMMERCE_EVENT_SHARE] = 2;
    options->event_weight[NGX_COMMERCE_EVENT_WISHLIST] = 2;
    options->event_weight[NGX_COMMERCE_EVENT_CART] = 3;
    options->event_weight[NGX_COMMERCE_EVENT_PURCHASE] = 5;
    options->event_weight[NGX_COMMERCE_EVENT_DISMISS] = -2;
}


void
train_parts_events(const train_data_t *data, const train_event_t *events,
    uint64_t n, const train_options_t *options, train_parts_t *parts)
{
    memset(parts, 0, sizeof(train_parts_t));

    parts->events = events;
    parts->nevents = n;
    train_history(data, events, n, options->history, &parts->history);
    train_matrix(&parts->history, options->event_weight, &parts->matrix);
}


void
train_parts_collaborative(const train_options_t *options, train_parts_t *parts)
{
    float         *factors;
    train_gram_t   gram;

    train_neighbours_free(&parts->collaborative);
    train_neighbours(&parts->collaborative, parts->matrix.items, TRAIN_WIDTH);

    if (options->algorithm == TRAIN_SVD) {
        train_svd(&parts->matrix, options->rank, &factors);
        train_svd_neighbours(factors, parts->matrix.items, options->rank,
                             &parts->collaborative);
        free(factors);
        return;
    }

    train_gram(&parts->matrix,
               options->algorithm == TRAIN_RIDGE ? options->degree : 0,
               options->memory, &gram);

    if (options->algorithm == TRAIN_RIDGE) {
        train_ridge(&gram, options->nearest, options->lambda,
                    &parts->collaborative);

    } else {
        train_cosine(&gram, &parts->collaborative);
    }

    train_gram_free(&gram);
}


void
train_parts_content(const train_data_t *data, train_parts_t *parts)
{
    train_content_t  content;

    parts->has_content = train_content(data, &content);
    parts->content_model = "none";

    if (parts->has_content) {
        parts->content_model = "tfidf";
        train_neighbours(&parts->content, data->items, TRAIN_WIDTH);
        train_content_neighbours(&content, &parts->content);
    }

    parts->vectors = train_zalloc(data->items
                                  * sizeof(ngx_commerce_similarity_vector_t));

    if (parts->has_content && train_dense_known(data) != 0) {

        /* what has no vector yet keeps what its words say */

        parts->content_model = "minilm";
        train_dense_neighbours(data, &parts->content);
        train_dense_vectors(data, parts->vectors);

    } else {
        train_vectors(&content, &parts->matrix, parts->vectors);
    }

    if (parts->has_content) {
        train_content_free(&content);
    }
}


void
train_parts_free(train_parts_t *parts)
{
    train_history_free(&parts->history);
    train_matrix_free(&parts->matrix);
    train_neighbours_free(&parts->collaborative);
    train_neighbours_free(&parts->content);
    free(parts->vectors);
}


void
train_table_build(const train_data_t *data, const train_parts_t *parts,
    const train_options_t *options, const train_identity_t *identity,
    train_table_t *out)
{
    float                             *popularity;
    double                            *score, top;
    unsigned                           n;
    uint32_t                           i, ncold, *cold;
    const char                        *why;
    train_blend_t                      blend;
    train_lists_t                      lists;
    ngx_commerce_similarity_row_t     *cold_rows;
    ngx_commerce_similarity_about_t    about;
    ngx_commerce_pack_section_t        section[TRAIN_SECTIONS];

    blend.parts = parts;
    blend.options = options;
    blend.level = train_level(&parts->collaborative);
    blend.rows = train_zalloc(data->items
                              * sizeof(ngx_commerce_similarity_row_t));
    blend.shares = train_zalloc(data->items
                                * sizeof(ngx_commerce_similarity_shares_t));

    score = train_alloc(data->items * sizeof(double));
    blend.fresh = train_alloc(data->items * sizeof(float));
    train_freshness(data, parts->events, parts->nevents, options->freshness_days,
                    score);

    for (i = 0; i < data->items; i++) {
        blend.fresh[i] = pow(score[i], options->freshness);
    }

    train_parallel(NULL, data->items, 512, train_blend_rows, &blend);

    ncold = train_cold(parts, options, &cold, &cold_rows);

    memset(&lists, 0, sizeof(train_lists_t));
    popularity = train_alloc(data->items * sizeof(float));

    train_popularity(data, parts->events, parts->nevents,
                     options->popularity_days, options->event_weight, score);
    train_list(&lists, data, score, NGX_COMMERCE_LIST_POPULAR, TRAIN_POPULAR);

    for (i = 0, top = 0; i < data->items; i++) {
        top = (score[i] > top) ? score[i] : top;
    }

    for (i = 0; i < data->items; i++) {
        popularity[i] = (top > 0) ? score[i] / top : 0;
    }

    train_trending(data, parts->events, parts->nevents, score);
    train_list(&lists, data, score, NGX_COMMERCE_LIST_TRENDING,
               TRAIN_TRENDING);

    train_about(data, parts, options, identity, &about);
    about.cold = ncold;

    n = 0;

#define section(name, bytes, size)                                            \
    section[n].id = NGX_COMMERCE_SIMILARITY_##name;                           \
    section[n].data = bytes;                                                  \
    section[n++].len = size;

    section(ABOUT, &about, sizeof(about));
    section(ITEMS, data->item_keys, data->items * sizeof(uint64_t));
    section(ROWS, blend.rows, data->items * sizeof(*blend.rows));
    section(SHARES, blend.shares, data->items * sizeof(*blend.shares));
    section(COLD, cold, ncold * sizeof(uint32_t));
    section(COLD_ROWS, cold_rows, ncold * sizeof(*cold_rows));
    section(POPULARITY, popularity, data->items * sizeof(float));
    section(LIST, lists.list, lists.lists * sizeof(*lists.list));
    section(ENTRIES, lists.entry, lists.entries * sizeof(*lists.entry));

    if (parts->vectors != NULL) {
        section(VECTORS, parts->vectors, data->items * sizeof(*parts->vectors));
    }

#undef section

    out->size = ngx_commerce_pack_size(section, n);
    out->data = mmap(NULL, out->size, PROT_READ|PROT_WRITE,
                     MAP_PRIVATE|MAP_ANONYMOUS, -1, 0);

    if (out->data == MAP_FAILED) {
        train_fail(TRAIN_FAILED, "no memory for a table of %zu bytes",
                   out->size);
    }

    ngx_commerce_pack_write(out->data, NGX_COMMERCE_SIMILARITY_KIND,
                            NGX_COMMERCE_SIMILARITY_VERSION, section, n);

    free(blend.rows);
    free(blend.shares);
    free(blend.fresh);
    free(cold);
    free(cold_rows);
    free(lists.list);
    free(lists.entry);
    free(score);
    free(popularity);

    if (ngx_commerce_similarity_open(&out->table, out->data, out->size, &why)
        != NGX_COMMERCE_OK)
    {
        train_fail(TRAIN_FAILED, "the table that was just made cannot be read "
                   "back: %s", why);
    }
}


void
train_table_load(const char *name, train_table_t *out)
{
    const char    *why;
    train_file_t   file;

    train_file_open(&file, name);
    out->data = (void *) file.data;
    out->size = file.size;

    if (ngx_commerce_similarity_open(&out->table, out->data, out->size, &why)
        != NGX_COMMERCE_OK)
    {
        train_fail(TRAIN_INPUT, "%s: %s", name, why);
    }
}


void
train_table_free(train_table_t *table)
{
    munmap(table->data, table->size);
}


/* The mean sum of the rows that have one: content's rows get the same. */

static float
train_level(const train_neighbours_t *neighbours)
{
    double    sum;
    uint32_t  i, k, rows;

    sum = 0;
    rows = 0;

    for (i = 0; i < neighbours->items; i++) {
        rows += (neighbours->count[i] != 0);

        for (k = 0; k < neighbours->count[i]; k++) {
            sum += neighbours->weight[(uint64_t) i * neighbours->width + k];
        }
    }

    return (rows != 0 && sum > 0) ? sum / rows : 1;
}


static void
train_blend_rows(void *ctx, unsigned worker, uint64_t first, uint64_t last)
{
    uint32_t        n;
    uint64_t        i;
    train_blend_t  *blend = ctx;
    train_mixed_t   mixed[2 * TRAIN_WIDTH];

    for (i = first; i < last; i++) {
        n = train_blend_row(blend, i, mixed);
        train_quantise(mixed, n, &blend->rows[i], &blend->shares[i]);
    }
}


/*
 * Content counts as much as there is no evidence: with n events of a product
 * its share is w·k / (w·k + c·n), near 1 for a new one.
 */

static double
train_share(const train_options_t *options, double events)
{
    double  content, sum;

    content = options->content * options->evidence;
    sum = content + options->collaborative * events;

    return (sum > 0) ? content / sum : 0;
}


/* A new product enters the rows of known ones a little: more costs NDCG. */

static uint32_t
train_blend_row(const train_blend_t *blend, uint64_t i, train_mixed_t *mixed)
{
    double                    events, others, sum, share, pair;
    uint32_t                  n, m, k;
    const train_options_t    *options = blend->options;
    const train_matrix_t     *matrix = &blend->parts->matrix;
    const train_neighbours_t *near, *alike;

    near = &blend->parts->collaborative;
    alike = &blend->parts->content;
    events = matrix->item_first[i + 1] - matrix->item_first[i];

    share = train_share(options, events);

    if (alike->items == 0 || options->content == 0 || alike->count[i] == 0) {
        share = 0;

    } else if (near->items == 0 || near->count[i] == 0) {
        share = 1;
    }

    n = 0;

    if (share < 1 && near->items != 0) {
        for (k = 0; k < near->count[i]; k++, n++) {
            mixed[n].item = near->item[i * near->width + k];
            mixed[n].weight = (1 - share) * near->weight[i * near->width + k]
                              * blend->fresh[mixed[n].item];
            mixed[n].content = 0;
        }
    }

    if (share > 0) {
        for (k = 0, sum = 0; k < alike->count[i]; k++) {
            sum += alike->weight[i * alike->width + k];
        }

        for (k = 0; k < alike->count[i]; k++, n++) {
            mixed[n].item = alike->item[i * alike->width + k];
            others = matrix->item_first[mixed[n].item + 1]
                     - matrix->item_first[mixed[n].item];
            pair = train_share(options, others < events ? others : events);
            pair = share + TRAIN_NEW * (pair - share) * (share < 1);
            mixed[n].weight = pair * blend->level / sum
                              * alike->weight[i * alike->width + k]
                              * blend->fresh[mixed[n].item];
            mixed[n].content = mixed[n].weight;
        }
    }

    qsort(mixed, n, sizeof(train_mixed_t), train_mixed_by_item);

    for (k = 0, m = 0; k < n; k++) {

        if (m != 0 && mixed[m - 1].item == mixed[k].item) {
            mixed[m - 1].weight += mixed[k].weight;
            mixed[m - 1].content += mixed[k].content;
            continue;
        }

        mixed[m++] = mixed[k];
    }

    qsort(mixed, m, sizeof(train_mixed_t), train_mixed_by_weight);

    return (m < TRAIN_WIDTH) ? m : TRAIN_WIDTH;
}


static void
train_quantise(const train_mixed_t *mixed, uint32_t n,
    ngx_commerce_similarity_row_t *row,
    ngx_commerce_similarity_shares_t *shares)
{
    long      weight;
    uint32_t  k;

    for (k = 0; k < n && mixed[0].weight > 0; k++) {
        weight = lrintf(mixed[k].weight / mixed[0].weight * 255);

        if (weight <= 0) {
            break;
        }

        row->item[k] = mixed[k].item;
        row->weight[k] = weight;
        row->count++;

        if (mixed[k].content > 0) {
            row->components |= NGX_COMMERCE_SIMILARITY_CONTENT;
        }

        if (mixed[k].content < mixed[k].weight) {
            row->components |= NGX_COMMERCE_SIMILARITY_COLLABORATIVE;
        }

        if (shares != NULL) {
            shares->content[k] = lrintf(mixed[k].content / mixed[k].weight
                                        * 255);
        }
    }

    row->scale = (row->count != 0) ? mixed[0].weight / 255 : 0;
}


static int
train_mixed_by_item(const void *a, const void *b)
{
    const train_mixed_t  *x = a, *y = b;

    if (x->item != y->item) {
        return (x->item > y->item) - (x->item < y->item);
    }

    return (x->content > y->content) - (x->content < y->content);
}


static int
train_mixed_by_weight(const void *a, const void *b)
{
    const train_mixed_t  *x = a, *y = b;

    if (x->weight != y->weight) {
        return (x->weight < y->weight) - (x->weight > y->weight);
    }

    return (x->item > y->item) - (x->item < y->item);
}


/* Rows by content alone for products with less evidence than k. */

static uint32_t
train_cold(const train_parts_t *parts, const train_options_t *options,
    uint32_t **items, ngx_commerce_similarity_row_t **rows)
{
    uint32_t                   i, k, n;
    train_mixed_t              mixed[TRAIN_WIDTH];
    const train_matrix_t      *matrix = &parts->matrix;
    const train_neighbours_t  *alike = &parts->content;

    *items = train_alloc(alike->items * sizeof(uint32_t));
    *rows = train_zalloc(alike->items * sizeof(ngx_commerce_similarity_row_t));
    n = 0;

    for (i = 0; i < alike->items; i++) {

        if (matrix->item_first[i + 1] - matrix->item_first[i]
            >= options->evidence || alike->count[i] == 0)
        {
            continue;
        }

        for (k = 0; k < alike->count[i]; k++) {
            mixed[k].item = alike->item[(uint64_t) i * alike->width + k];
            mixed[k].weight = alike->weight[(uint64_t) i * alike->width + k];
            mixed[k].content = mixed[k].weight;
        }

        train_quantise(mixed, alike->count[i], &(*rows)[n], NULL);
        (*items)[n++] = i;
    }

    return n;
}


static void
train_list(train_lists_t *lists, const train_data_t *data, const double *score,
    ngx_commerce_list_kind_t kind, uint32_t limit)
{
    uint32_t         i, n, from;
    train_listed_t  *listed;

    listed = train_alloc(data->items * sizeof(train_listed_t));
    n = 0;

    for (i = 0; i < data->items; i++) {
        if (score[i] > 0) {
            listed[n].category = 0;
            listed[n].item = i;
            listed[n++].score = score[i];
        }
    }

    qsort(listed, n, sizeof(train_listed_t), train_listed_cmp);
    train_list_end(lists, kind, listed, n < limit ? n : limit, 0);

    for (i = 0; i < n && data->texts != NULL; i++) {
        listed[i].category = data->texts[listed[i].item].category_id;
    }

    qsort(listed, n, sizeof(train_listed_t), train_listed_cmp);

    for (i = 0, from = 0; i <= n && data->texts != NULL; i++) {

        if (i != n && listed[i].category == listed[from].category) {
            continue;
        }

        if (i != from && listed[from].category != 0) {
            train_list_end(lists, kind, &listed[from],
                           i - from < TRAIN_CATEGORY ? i - from
                                                     : TRAIN_CATEGORY,
                           listed[from].category);
        }

        from = i;
    }

    free(listed);
}


static void
train_list_end(train_lists_t *lists, uint32_t kind,
    const train_listed_t *listed, uint32_t n, uint64_t category)
{
    uint32_t                         i;
    ngx_commerce_similarity_list_t  *list;

    if (lists->lists == lists->list_room) {
        lists->list_room = lists->list_room * 2 + 16;
        lists->list = train_realloc(lists->list, lists->list_room
                                                 * sizeof(*lists->list));
    }

    if (lists->entries + n > lists->entry_room) {
        lists->entry_room = (lists->entries + n) * 2;
        lists->entry = train_realloc(lists->entry, lists->entry_room
                                                   * sizeof(*lists->entry));
    }

    list = &lists->list[lists->lists++];
    memset(list, 0, sizeof(*list));
    list->kind = kind;
    list->category = category;
    list->first = lists->entries;
    list->count = n;

    for (i = 0; i < n; i++) {
        lists->entry[lists->entries].item = listed[i].item;
        lists->entry[lists->entries++].score = listed[i].score;
    }
}


static int
train_listed_cmp(const void *a, const void *b)
{
    const train_listed_t  *x = a, *y = b;

    if (x->category != y->category) {
        return (x->category > y->category) - (x->category < y->category);
    }

    if (x->score != y->score) {
        return (x->score < y->score) - (x->score > y->score);
    }

    return (x->item > y->item) - (x->item < y->item);
}


/* Weights are shares of one sum; the edge adds popularity to neighbours that have 1. */

static double
train_popularity_weight(const train_options_t *options)
{
    double  rest;

    rest = options->content + options->collaborative;

    return (rest > 0.001 * options->popularity) ? options->popularity / rest
                                                : 1000;
}


static void
train_about(const train_data_t *data, const train_parts_t *parts,
    const train_options_t *options, const train_identity_t *identity,
    ngx_commerce_similarity_about_t *about)
{
    memset(about, 0, sizeof(ngx_commerce_similarity_about_t));

    about->tenant_id = identity->tenant;
    about->generation = identity->generation;
    about->created = identity->created;
    about->watermark = data->timed ? data->last * 1000 : 0;
    about->users = data->users;
    about->events = parts->nevents;
    about->items = data->items;

    strcpy(about->collaborative, train_algorithms[options->algorithm]);
    strcpy(about->content, parts->content_model ? parts->content_model
                                                : "none");

    about->content_weight = options->content;
    about->collaborative_weight = options->collaborative;
    about->popularity_weight = train_popularity_weight(options);
    about->diversity = options->diversity;
    about->popularity_days = options->popularity_days;
    about->position_decay = options->position_decay;
    about->age_days = options->age_days;
    about->ndcg = identity->ndcg;
    about->coverage = identity->coverage;
    memcpy(about->event_weight, options->event_weight,
           sizeof(about->event_weight));
}
