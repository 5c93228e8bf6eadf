/* The table of recommendations, see ngx_commerce_similarity.h. */

#include "ngx_commerce_similarity.h"

#include <math.h>
#include <string.h>


#define NGX_COMMERCE_SIMILARITY_ITEMS_MAX  (1U << 30)
#define NGX_COMMERCE_SIMILARITY_TIME_MAX   INT64_C(253402300799999)  /* 9999-12-31 */


_Static_assert(sizeof(ngx_commerce_similarity_row_t) == 256, "a row");
_Static_assert(sizeof(ngx_commerce_similarity_shares_t) == 50, "shares");
_Static_assert(sizeof(ngx_commerce_similarity_about_t) == 200, "about");


static const char *ngx_commerce_similarity_map(ngx_commerce_similarity_t *table,
    const ngx_commerce_pack_t *pack);
static const char *ngx_commerce_similarity_about(
    const ngx_commerce_similarity_about_t *about);
static const char *ngx_commerce_similarity_check(
    const ngx_commerce_similarity_t *table);
static const char *ngx_commerce_similarity_rows(
    const ngx_commerce_similarity_row_t *row, uint32_t n, uint32_t items);
static bool ngx_commerce_similarity_twice(
    const ngx_commerce_similarity_row_t *row);
static const char *ngx_commerce_similarity_lists(
    const ngx_commerce_similarity_t *table);
static bool ngx_commerce_similarity_name(const char name[32]);
static bool ngx_commerce_similarity_within(float x, float max);


static const struct {
    const char            *name;
    ngx_commerce_event_t   event;
} ngx_commerce_event_names[] = {
    { "view",            NGX_COMMERCE_EVENT_VIEW },
    { "click",           NGX_COMMERCE_EVENT_CLICK },
    { "wishlist",        NGX_COMMERCE_EVENT_WISHLIST },
    { "add_to_wishlist", NGX_COMMERCE_EVENT_WISHLIST },
    { "share",           NGX_COMMERCE_EVENT_SHARE },
    { "cart",            NGX_COMMERCE_EVENT_CART },
    { "add_to_cart",     NGX_COMMERCE_EVENT_CART },
    { "purchase",        NGX_COMMERCE_EVENT_PURCHASE },
    { "dismiss",         NGX_COMMERCE_EVENT_DISMISS },
    { "other",           NGX_COMMERCE_EVENT_OTHER }
};


ngx_commerce_rc_t
ngx_commerce_similarity_open(ngx_commerce_similarity_t *table, const void *data,
    size_t size, const char **why)
{
    ngx_commerce_pack_t  pack;

    if (ngx_commerce_pack_open(&pack, data, size, NGX_COMMERCE_SIMILARITY_KIND,
                               NGX_COMMERCE_SIMILARITY_VERSION, true, why)
        != NGX_COMMERCE_OK)
    {
        return NGX_COMMERCE_INVALID;
    }

    *why = ngx_commerce_similarity_map(table, &pack);

    if (*why == NULL) {
        *why = ngx_commerce_similarity_check(table);
    }

    return (*why == NULL) ? NGX_COMMERCE_OK : NGX_COMMERCE_INVALID;
}


ngx_commerce_rc_t
ngx_commerce_similarity_attach(ngx_commerce_similarity_t *table,
    const void *data, size_t size, const char **why)
{
    ngx_commerce_pack_t  pack;

    if (ngx_commerce_pack_open(&pack, data, size, NGX_COMMERCE_SIMILARITY_KIND,
                               NGX_COMMERCE_SIMILARITY_VERSION, false, why)
        != NGX_COMMERCE_OK)
    {
        return NGX_COMMERCE_INVALID;
    }

    *why = ngx_commerce_similarity_map(table, &pack);

    return (*why == NULL) ? NGX_COMMERCE_OK : NGX_COMMERCE_INVALID;
}


/* Pointers and counts; what the sections hold is not looked at. */

static const char *
ngx_commerce_similarity_map(ngx_commerce_similarity_t *table,
    const ngx_commerce_pack_t *pack)
{
    uint64_t  n, items, cold, lists, entries;

    memset(table, 0, sizeof(ngx_commerce_similarity_t));

#define section(field, id, count)                                             \
    table->field = ngx_commerce_pack_array(pack,                              \
                                           NGX_COMMERCE_SIMILARITY_##id,      \
                                           sizeof(*table->field), &count);    \
                                                                              \
    if (table->field == NULL) {                                               \
        return "a section is missing or not of whole entries";                \
    }

    section(about, ABOUT, n);

    if (n != 1) {
        return "the description is not of one entry";
    }

    section(ids, ITEMS, items);

    if (items == 0 || items > NGX_COMMERCE_SIMILARITY_ITEMS_MAX
        || items != table->about->items)
    {
        return "the number of products is impossible";
    }

#define same(field, id, wanted)                                               \
    section(field, id, n);                                                    \
                                                                              \
    if (n != wanted) {                                                        \
        return "two sections are of different length";                        \
    }

    same(rows, ROWS, items);
    same(shares, SHARES, items);
    same(popularity, POPULARITY, items);

    section(cold, COLD, cold);
    same(cold_rows, COLD_ROWS, cold);

    if (cold > items || cold != table->about->cold) {
        return "the number of cold products is impossible";
    }

    section(lists, LIST, lists);
    section(entries, ENTRIES, entries);

    if (lists > NGX_COMMERCE_SIMILARITY_ITEMS_MAX
        || entries > NGX_COMMERCE_SIMILARITY_ITEMS_MAX)
    {
        return "the number of lists is impossible";
    }

    if (pack->section[NGX_COMMERCE_SIMILARITY_VECTORS].data != NULL) {
        same(vectors, VECTORS, items);
    }

#undef same
#undef section

    table->items = items;
    table->ncold = cold;
    table->nlists = lists;
    table->nentries = entries;

    return NULL;
}


static const char *
ngx_commerce_similarity_check(const ngx_commerce_similarity_t *table)
{
    uint32_t     i;
    const char  *why;

    why = ngx_commerce_similarity_about(table->about);

    if (why != NULL) {
        return why;
    }

    for (i = 0; i < table->items; i++) {

        if (i != 0 && table->ids[i] <= table->ids[i - 1]) {
            return "the products' ids do not ascend";
        }

        if (!ngx_commerce_similarity_within(table->popularity[i], 1)) {
            return "a popularity is outside 0 to 1";
        }
    }

    for (i = 0; i < table->ncold; i++) {

        if (table->cold[i] >= table->items
            || (i != 0 && table->cold[i] <= table->cold[i - 1]))
        {
            return "the cold products are out of order";
        }
    }

    why = ngx_commerce_similarity_rows(table->rows, table->items, table->items);

    if (why == NULL) {
        why = ngx_commerce_similarity_rows(table->cold_rows, table->ncold,
                                           table->items);
    }

    return (why == NULL) ? ngx_commerce_similarity_lists(table) : why;
}


static const char *
ngx_commerce_similarity_about(const ngx_commerce_similarity_about_t *about)
{
    unsigned  i;

    if (!ngx_commerce_similarity_name(about->collaborative)
        || !ngx_commerce_similarity_name(about->content))
    {
        return "a model's name does not end or is none";
    }

    if (about->created < 0
        || about->created > NGX_COMMERCE_SIMILARITY_TIME_MAX)
    {
        return "the time when it was made is impossible";
    }

    if (!ngx_commerce_similarity_within(about->content_weight, 1000)
        || !ngx_commerce_similarity_within(about->collaborative_weight, 1000)
        || !ngx_commerce_similarity_within(about->popularity_weight, 1000)
        || !ngx_commerce_similarity_within(about->diversity, 1)
        || !ngx_commerce_similarity_within(about->popularity_days, 1e6)
        || !ngx_commerce_similarity_within(about->position_decay, 1)
        || !ngx_commerce_similarity_within(about->age_days, 1e6)
        || !ngx_commerce_similarity_within(about->ndcg, 1)
        || !ngx_commerce_similarity_within(about->coverage, 1))
    {
        return "a weight is impossible";
    }

    for (i = 0; i < NGX_COMMERCE_EVENTS; i++) {
        if (!ngx_commerce_similarity_within(fabsf(about->event_weight[i]),
                                            1000))
        {
            return "an event's weight is impossible";
        }
    }

    return NULL;
}


static const char *
ngx_commerce_similarity_rows(const ngx_commerce_similarity_row_t *row,
    uint32_t n, uint32_t items)
{
    uint32_t  i, k;

    for (i = 0; i < n; i++, row++) {

        if (row->count > NGX_COMMERCE_SIMILARITY_NEIGHBOURS) {
            return "a row has too many neighbours";
        }

        if (!ngx_commerce_similarity_within(row->scale, 1e6)) {
            return "a row's scale is impossible";
        }

        for (k = 0; k < NGX_COMMERCE_SIMILARITY_NEIGHBOURS; k++) {

            if (row->item[k] >= items) {
                return "a row names a product that is not there";
            }

            if (k != 0 && row->weight[k] > row->weight[k - 1]) {
                return "a row's weights do not descend";
            }
        }

        if (ngx_commerce_similarity_twice(row)) {
            return "a row names a product twice";
        }
    }

    return NULL;
}


/* Only products that share a bit are compared: a row of 50 has a few of those. */

static bool
ngx_commerce_similarity_twice(const ngx_commerce_similarity_row_t *row)
{
    uint32_t  i, k;
    uint64_t  bit, seen[16];

    memset(seen, 0, sizeof(seen));

    for (i = 0; i < row->count; i++) {
        bit = UINT64_C(1) << row->item[i] % 64;

        if (seen[row->item[i] / 64 % 16] & bit) {

            for (k = 0; k < i; k++) {
                if (row->item[k] == row->item[i]) {
                    return true;
                }
            }
        }

        seen[row->item[i] / 64 % 16] |= bit;
    }

    return false;
}


static const char *
ngx_commerce_similarity_lists(const ngx_commerce_similarity_t *table)
{
    uint32_t                               i;
    const ngx_commerce_similarity_list_t  *list;

    for (i = 0; i < table->nlists; i++) {
        list = &table->lists[i];

        if (list->kind >= NGX_COMMERCE_LISTS
            || list->first > table->nentries
            || list->count > table->nentries - list->first)
        {
            return "a list is outside the entries";
        }

        if (i != 0
            && (list->kind < list[-1].kind
                || (list->kind == list[-1].kind
                    && list->category <= list[-1].category)))
        {
            return "the lists are out of order";
        }
    }

    for (i = 0; i < table->nentries; i++) {
        if (table->entries[i].item >= table->items
            || !ngx_commerce_similarity_within(table->entries[i].score, 1e9))
        {
            return "a list's entry is impossible";
        }
    }

    return NULL;
}


/* As it is told in JSON: of letters, digits and the like. */

static bool
ngx_commerce_similarity_name(const char name[32])
{
    unsigned  i;

    for (i = 0; i < 32 && name[i] != '\0'; i++) {
        if (name[i] <= ' ' || name[i] > '~' || name[i] == '"'
            || name[i] == '\\')
        {
            return false;
        }
    }

    return i < 32;
}


/* false for what is not a number, too */

static bool
ngx_commerce_similarity_within(float x, float max)
{
    return x >= 0 && x <= max;
}


uint32_t
ngx_commerce_similarity_find(const ngx_commerce_similarity_t *table,
    uint64_t id)
{
    uint32_t         n, half;
    const uint64_t  *base;

    base = table->ids;

    for (n = table->items; n > 1; n -= half) {
        half = n / 2;
        base = (base[half] <= id) ? base + half : base;
    }

    return (*base == id) ? (uint32_t) (base - table->ids)
                         : NGX_COMMERCE_SIMILARITY_NONE;
}


const ngx_commerce_similarity_row_t *
ngx_commerce_similarity_cold(const ngx_commerce_similarity_t *table,
    uint32_t item)
{
    uint32_t  low, high, middle;

    low = 0;
    high = table->ncold;

    while (low < high) {
        middle = low + (high - low) / 2;

        if (table->cold[middle] < item) {
            low = middle + 1;

        } else {
            high = middle;
        }
    }

    return (low < table->ncold && table->cold[low] == item)
           ? &table->cold_rows[low] : NULL;
}


uint32_t
ngx_commerce_similarity_list(const ngx_commerce_similarity_t *table,
    ngx_commerce_list_kind_t kind, uint64_t category,
    const ngx_commerce_similarity_entry_t **entries)
{
    uint32_t                               low, high, middle;
    const ngx_commerce_similarity_list_t  *list;

    low = 0;
    high = table->nlists;

    while (low < high) {
        middle = low + (high - low) / 2;
        list = &table->lists[middle];

        if (list->kind < (uint32_t) kind
            || (list->kind == (uint32_t) kind && list->category < category))
        {
            low = middle + 1;

        } else {
            high = middle;
        }
    }

    list = &table->lists[low];

    if (low == table->nlists || list->kind != (uint32_t) kind
        || list->category != category)
    {
        *entries = NULL;
        return 0;
    }

    *entries = &table->entries[list->first];

    return list->count;
}


float
ngx_commerce_similarity_cosine(const ngx_commerce_similarity_t *table,
    uint32_t a, uint32_t b)
{
    int            i, sum;
    const int8_t  *x, *y;

    if (table->vectors == NULL) {
        return 0;
    }

    x = table->vectors[a].x;
    y = table->vectors[b].x;
    sum = 0;

    for (i = 0; i < NGX_COMMERCE_SIMILARITY_DIMENSIONS; i++) {
        sum += x[i] * y[i];
    }

    return sum / (127.0f * 127.0f);
}


ngx_commerce_event_t
ngx_commerce_event(const char *name, size_t len)
{
    unsigned  i, n;

    n = sizeof(ngx_commerce_event_names) / sizeof(ngx_commerce_event_names[0]);

    for (i = 0; i < n; i++) {
        if (strlen(ngx_commerce_event_names[i].name) == len
            && memcmp(ngx_commerce_event_names[i].name, name, len) == 0)
        {
            return ngx_commerce_event_names[i].event;
        }
    }

    return NGX_COMMERCE_EVENTS;
}
