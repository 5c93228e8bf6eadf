/*
 * Scoring in a small hash table: a history of 20 products touches 20 rows and
 * at most 1,000 candidates, whatever the size of the shop.
 */

#include "ngx_commerce_recommend.h"

#include <math.h>
#include <string.h>


#define NGX_COMMERCE_RECOMMEND_FREE     UINT32_MAX
#define NGX_COMMERCE_RECOMMEND_POPULAR  100     /* of the list, beside the neighbours */
#define NGX_COMMERCE_RECOMMEND_PARTS    256     /* of the range of scores */
#define NGX_COMMERCE_RECOMMEND_AHEAD    4       /* rows fetched in advance */
#define NGX_COMMERCE_DAY                86400000.0f


typedef struct {
    uint32_t                          item;
    float                             score;
} ngx_commerce_recommend_candidate_t;

struct ngx_commerce_recommend_scratch_s {
    uint32_t                             events;    /* of the longest history */
    uint32_t                             shift;     /* of this query: 32 - log2 of the slots */
    uint32_t                             mask;
    uint32_t                             used;      /* slots in use */
    uint32_t                            *slots;     /* in use */
    ngx_commerce_recommend_candidate_t  *slot;      /* all; the item of an empty one is FREE */
    ngx_commerce_recommend_candidate_t  *heap;
};


static uint32_t ngx_commerce_recommend_bits(uint32_t events);
static uint32_t ngx_commerce_recommend_slot(
    ngx_commerce_recommend_scratch_t *scratch, uint32_t item);
static void ngx_commerce_recommend_neighbours(
    const ngx_commerce_similarity_t *table,
    ngx_commerce_recommend_scratch_t *scratch,
    const ngx_commerce_recommend_query_t *query, uint32_t n);
static float ngx_commerce_recommend_weight(
    const ngx_commerce_similarity_t *table,
    const ngx_commerce_recommend_query_t *query, uint32_t i, float *decay);
static float ngx_commerce_recommend_popularity(
    const ngx_commerce_recommend_query_t *query);
static uint32_t ngx_commerce_recommend_candidates(
    const ngx_commerce_similarity_t *table,
    ngx_commerce_recommend_scratch_t *scratch,
    const ngx_commerce_recommend_query_t *query, float *top);
static uint32_t ngx_commerce_recommend_front(
    ngx_commerce_recommend_candidate_t *heap, uint32_t n, float top,
    uint32_t wanted, uint32_t *high);
static void ngx_commerce_recommend_sift(
    ngx_commerce_recommend_candidate_t *heap, uint32_t n, uint32_t i);
static uint32_t ngx_commerce_recommend_rest(
    const ngx_commerce_similarity_t *table,
    const ngx_commerce_recommend_query_t *query,
    ngx_commerce_recommend_answer_t *pool, uint32_t found, uint32_t wanted);
static uint32_t ngx_commerce_recommend_pool(uint32_t limit);
static void ngx_commerce_recommend_mmr(const ngx_commerce_similarity_t *table,
    float diversity, ngx_commerce_recommend_answer_t *pool, uint32_t n,
    uint32_t limit);
static uint32_t ngx_commerce_recommend_choose(
    const ngx_commerce_similarity_t *table,
    const ngx_commerce_recommend_query_t *query,
    ngx_commerce_recommend_answer_t *pool, uint32_t n,
    ngx_commerce_recommend_answer_t *answers);


ngx_commerce_recommend_scratch_t *
ngx_commerce_recommend_scratch(const ngx_commerce_alloc_t *alloc,
    uint32_t events)
{
    size_t                             size;
    uint32_t                           slots, i;
    ngx_commerce_recommend_scratch_t  *s;

    slots = 1U << ngx_commerce_recommend_bits(events);
    size = sizeof(ngx_commerce_recommend_scratch_t)
           + (slots + slots / 2) * sizeof(ngx_commerce_recommend_candidate_t)
           + slots / 2 * sizeof(uint32_t);

    s = alloc->alloc(alloc->ctx, size);

    if (s == NULL) {
        return NULL;
    }

    s->events = events;
    s->used = 0;
    s->slot = (ngx_commerce_recommend_candidate_t *) (s + 1);
    s->heap = s->slot + slots;
    s->slots = (uint32_t *) (s->heap + slots / 2);

    for (i = 0; i < slots; i++) {
        s->slot[i].item = NGX_COMMERCE_RECOMMEND_FREE;
    }

    return s;
}


/* log2 of the slots: neighbours of each event, the events themselves, the list; half full at most. */

static uint32_t
ngx_commerce_recommend_bits(uint32_t events)
{
    uint32_t  bits;

    for (bits = 10; bits < 30; bits++) {
        if ((1U << bits) / 2 >= events
                                * (NGX_COMMERCE_SIMILARITY_NEIGHBOURS + 1ULL)
                                + NGX_COMMERCE_RECOMMEND_POPULAR)
        {
            break;
        }
    }

    return bits;
}


void
ngx_commerce_recommend_query(const ngx_commerce_similarity_t *table,
    ngx_commerce_recommend_query_t *query)
{
    memset(query, 0, sizeof(ngx_commerce_recommend_query_t));

    query->limit = 10;
    query->popularity = table->about->popularity_weight;
    query->diversity = table->about->diversity;
    query->now = table->about->watermark;
}


uint32_t
ngx_commerce_recommend(const ngx_commerce_similarity_t *table,
    ngx_commerce_recommend_scratch_t *scratch,
    const ngx_commerce_recommend_query_t *query,
    ngx_commerce_recommend_answer_t *answers)
{
    float                                top, popularity;
    uint32_t                             i, n, found, wanted, high, front;
    ngx_commerce_recommend_answer_t      pool[NGX_COMMERCE_RECOMMEND_POOL];
    ngx_commerce_recommend_candidate_t  *heap = scratch->heap;

    n = query->nevents < scratch->events ? query->nevents : scratch->events;

    /* no more slots than this history needs: they stay in the cache */

    scratch->shift = 32 - ngx_commerce_recommend_bits(n);
    scratch->mask = UINT32_MAX >> scratch->shift;

    ngx_commerce_recommend_neighbours(table, scratch, query, n);

    n = ngx_commerce_recommend_candidates(table, scratch, query, &top);

    popularity = ngx_commerce_recommend_popularity(query);
    wanted = ngx_commerce_recommend_pool(query->limit);
    found = 0;
    high = NGX_COMMERCE_RECOMMEND_PARTS;

    /* the best first, until enough of them may be shown */

    while (n != 0 && high != 0 && found < wanted) {
        front = ngx_commerce_recommend_front(heap, n, top, wanted, &high);

        for (i = front / 2; i > 0; i--) {
            ngx_commerce_recommend_sift(heap, front, i - 1);
        }

        for ( /* void */ ; front != 0 && found < wanted; front--) {

            if (query->excluded == NULL
                || !query->excluded(query->ctx, heap[0].item))
            {
                pool[found].item = heap[0].item;
                pool[found].score = heap[0].score;
                pool[found].popularity = popularity
                                         * table->popularity[heap[0].item];
                pool[found].neighbours = heap[0].score
                                         - pool[found].popularity;

                if (pool[found].neighbours < 0) {
                    pool[found].neighbours = 0;
                }

                found++;
            }

            heap[0] = heap[front - 1];
            ngx_commerce_recommend_sift(heap, front - 1, 0);
        }
    }

    if (found < wanted && query->popularity >= 0) {
        found = ngx_commerce_recommend_rest(table, query, pool, found, wanted);
    }

    return ngx_commerce_recommend_choose(table, query, pool, found, answers);
}


/* The slot of an item, a new one when it has none. */

static uint32_t
ngx_commerce_recommend_slot(ngx_commerce_recommend_scratch_t *scratch,
    uint32_t item)
{
    uint32_t  slot;

    slot = (item * 2654435769U) >> scratch->shift;

    while (scratch->slot[slot].item != item) {

        if (scratch->slot[slot].item == NGX_COMMERCE_RECOMMEND_FREE) {
            scratch->slot[slot].item = item;
            scratch->slot[slot].score = 0;
            scratch->slots[scratch->used++] = slot;
            break;
        }

        slot = (slot + 1) & scratch->mask;
    }

    return slot;
}


static void
ngx_commerce_recommend_neighbours(const ngx_commerce_similarity_t *table,
    ngx_commerce_recommend_scratch_t *scratch,
    const ngx_commerce_recommend_query_t *query, uint32_t n)
{
    float                                 decay, weight;
    uint32_t                              i, k, slot, count, ahead;
    const char                           *row_bytes;
    const ngx_commerce_similarity_row_t  *row;

    decay = 1;

    for (i = 0; i < n; i++) {

        ahead = i + NGX_COMMERCE_RECOMMEND_AHEAD;

        if (ahead < n && query->events[ahead].item < table->items) {
            row_bytes = (const char *) &table->rows[query->events[ahead].item];

            for (k = 0; k < sizeof(ngx_commerce_similarity_row_t); k += 64) {
                __builtin_prefetch(row_bytes + k);
            }
        }

        if (query->events[i].item >= table->items) {
            continue;
        }

        weight = ngx_commerce_recommend_weight(table, query, i, &decay);

        if (weight == 0) {
            continue;
        }

        row = &table->rows[query->events[i].item];
        weight *= row->scale;
        count = row->count;

        for (k = 0; k < count; k++) {
            slot = ngx_commerce_recommend_slot(scratch, row->item[k]);
            scratch->slot[slot].score += weight * row->weight[k];
        }
    }

    /* what the customer has is no candidate */

    for (i = 0; i < n && !query->again; i++) {
        if (query->events[i].item < table->items) {
            slot = ngx_commerce_recommend_slot(scratch, query->events[i].item);
            scratch->slot[slot].score = -INFINITY;
        }
    }
}


/* What was done at one time, a basket above all, has one position. */

static float
ngx_commerce_recommend_weight(const ngx_commerce_similarity_t *table,
    const ngx_commerce_recommend_query_t *query, uint32_t i, float *decay)
{
    float                                  weight;
    const ngx_commerce_recommend_event_t  *event = &query->events[i];

    if (i != 0 && (event->time == 0 || event->time != event[-1].time)) {
        *decay *= table->about->position_decay;
    }

    weight = table->about->event_weight[event->event < NGX_COMMERCE_EVENTS
                                        ? event->event
                                        : NGX_COMMERCE_EVENT_OTHER]
             * *decay;

    if (table->about->age_days > 0 && event->time != 0
        && event->time < query->now)
    {
        weight *= expf(-(query->now - event->time)
                       / (table->about->age_days * NGX_COMMERCE_DAY));
    }

    return weight;
}


static float
ngx_commerce_recommend_popularity(const ngx_commerce_recommend_query_t *query)
{
    if (query->popularity > 0) {
        return query->popularity;
    }

    return (query->popularity < 0) ? 0 : 1e-6f;
}


/*
 * From the slots to the heap's array, with popularity; the slots are free
 * again.  A product that the history speaks against (dismissed) is left out.
 */

static uint32_t
ngx_commerce_recommend_candidates(const ngx_commerce_similarity_t *table,
    ngx_commerce_recommend_scratch_t *scratch,
    const ngx_commerce_recommend_query_t *query, float *top)
{
    float                                   best, score, popularity;
    uint32_t                                i, n, slot, count;
    const ngx_commerce_similarity_entry_t  *popular;
    ngx_commerce_recommend_candidate_t     *candidate;

    best = 0;

    for (i = 0; i < scratch->used; i++) {
        candidate = &scratch->slot[scratch->slots[i]];
        best = (candidate->score > best) ? candidate->score : best;
        __builtin_prefetch(&table->popularity[candidate->item]);
    }

    count = ngx_commerce_similarity_list(table, NGX_COMMERCE_LIST_POPULAR, 0,
                                         &popular);

    if (count > NGX_COMMERCE_RECOMMEND_POPULAR) {
        count = NGX_COMMERCE_RECOMMEND_POPULAR;
    }

    if (query->popularity < 0) {
        count = 0;
    }

    for (i = 0; i < count; i++) {
        (void) ngx_commerce_recommend_slot(scratch, popular[i].item);
    }

    popularity = ngx_commerce_recommend_popularity(query);
    *top = 0;
    n = 0;

    for (i = 0; i < scratch->used; i++) {
        slot = scratch->slots[i];
        candidate = &scratch->slot[slot];
        score = candidate->score;

        if (score > 0 || (score == 0 && query->popularity >= 0)) {
            score = (best > 0) ? score / best : 0;
            score += popularity * table->popularity[candidate->item];
            *top = (score > *top) ? score : *top;

            scratch->heap[n].item = candidate->item;
            scratch->heap[n].score = score;
            n++;
        }

        candidate->item = NGX_COMMERCE_RECOMMEND_FREE;
    }

    scratch->used = 0;

    return n;
}


/*
 * The next best ones to the front of the heap, at least "wanted" while there
 * are so many: by counting how many scores fall into each part of the range,
 * which is cheaper than ordering them all.  "high" is where the last call ended.
 */

static uint32_t
ngx_commerce_recommend_front(ngx_commerce_recommend_candidate_t *heap,
    uint32_t n, float top, uint32_t wanted, uint32_t *high)
{
    float                               scale;
    uint32_t                            i, front, low, taken, part;
    uint32_t                            count[NGX_COMMERCE_RECOMMEND_PARTS];
    ngx_commerce_recommend_candidate_t  swap;

    memset(count, 0, sizeof(count));
    /* a top that cannot be divided by leaves one part */

    scale = (top > 1e-30f) ? (NGX_COMMERCE_RECOMMEND_PARTS - 1) / top : 0;

    for (i = 0; i < n; i++) {
        count[(uint32_t) (heap[i].score * scale)]++;
    }

    low = *high;
    taken = 0;

    while (low > 0 && taken < wanted) {
        taken += count[--low];
    }

    front = 0;

    for (i = 0; i < n && front < taken; i++) {
        part = (uint32_t) (heap[i].score * scale);

        if (part >= low && part < *high) {
            swap = heap[front];
            heap[front++] = heap[i];
            heap[i] = swap;
        }
    }

    *high = low;

    return front;
}


/* Highest score first; of equal ones the lower number, so that an answer does not depend on the order of the slots. */

static void
ngx_commerce_recommend_sift(ngx_commerce_recommend_candidate_t *heap,
    uint32_t n, uint32_t i)
{
    uint32_t                            child;
    ngx_commerce_recommend_candidate_t  moved;

    if (i >= n) {
        return;
    }

#define before(a, b)                                                          \
    ((a).score > (b).score || ((a).score == (b).score && (a).item < (b).item))

    moved = heap[i];

    while ((child = 2 * i + 1) < n) {

        if (child + 1 < n && before(heap[child + 1], heap[child])) {
            child++;
        }

        if (!before(heap[child], moved)) {
            break;
        }

        heap[i] = heap[child];
        i = child;
    }

    heap[i] = moved;

#undef before
}


/* So much was excluded that the rest of the popular products is needed. */

static uint32_t
ngx_commerce_recommend_rest(const ngx_commerce_similarity_t *table,
    const ngx_commerce_recommend_query_t *query,
    ngx_commerce_recommend_answer_t *pool, uint32_t found, uint32_t wanted)
{
    uint32_t                                i, k, n, item;
    const ngx_commerce_similarity_entry_t  *popular;

    n = ngx_commerce_similarity_list(table, NGX_COMMERCE_LIST_POPULAR, 0,
                                     &popular);

    for (i = NGX_COMMERCE_RECOMMEND_POPULAR; i < n && found < wanted; i++) {
        item = popular[i].item;

        for (k = 0; k < query->nevents && !query->again; k++) {
            if (query->events[k].item == item) {
                break;
            }
        }

        if (k < query->nevents && !query->again) {
            continue;
        }

        for (k = 0; k < found && pool[k].item != item; k++) { /* void */ }

        if (k < found
            || (query->excluded != NULL && query->excluded(query->ctx, item)))
        {
            continue;
        }

        pool[found].item = item;
        pool[found].neighbours = 0;
        pool[found].popularity = ngx_commerce_recommend_popularity(query)
                                 * table->popularity[item];
        pool[found].score = pool[found].popularity;
        found++;
    }

    return found;
}


/* Half as many again as are wanted, 30 at least: more changes little and costs much. */

static uint32_t
ngx_commerce_recommend_pool(uint32_t limit)
{
    uint32_t  pool;

    if (limit > NGX_COMMERCE_RECOMMEND_LIMIT) {
        limit = NGX_COMMERCE_RECOMMEND_LIMIT;
    }

    pool = limit + limit / 2;

    if (pool < 30) {
        pool = 30;
    }

    return (pool < NGX_COMMERCE_RECOMMEND_POOL) ? pool
                                                : NGX_COMMERCE_RECOMMEND_POOL;
}


/*
 * Maximal marginal relevance in place: the next one has the highest
 * (1 - d) × score - d × cosine to the nearest of those chosen before.
 */

static void
ngx_commerce_recommend_mmr(const ngx_commerce_similarity_t *table,
    float diversity, ngx_commerce_recommend_answer_t *pool, uint32_t n,
    uint32_t limit)
{
    float                            top, value, best, cosine;
    float                            nearest[NGX_COMMERCE_RECOMMEND_POOL];
    uint32_t                         i, k, chosen;
    ngx_commerce_recommend_answer_t  moved;

    top = (pool[0].score > 0) ? pool[0].score : 1;

    for (i = 0; i < n; i++) {
        nearest[i] = 0;
    }

    for (k = 1; k < limit && k < n; k++) {
        chosen = k;
        best = -INFINITY;

        for (i = k; i < n; i++) {
            cosine = ngx_commerce_similarity_cosine(table, pool[k - 1].item,
                                                    pool[i].item);
            nearest[i] = (cosine > nearest[i]) ? cosine : nearest[i];
            value = (1 - diversity) * pool[i].score / top
                    - diversity * nearest[i];

            if (value > best) {
                best = value;
                chosen = i;
            }
        }

        /* those passed over stay in order */

        moved = pool[chosen];
        cosine = nearest[chosen];
        memmove(&pool[k + 1], &pool[k], (chosen - k) * sizeof(moved));
        memmove(&nearest[k + 1], &nearest[k], (chosen - k) * sizeof(float));
        pool[k] = moved;
        nearest[k] = cosine;
    }
}


static uint32_t
ngx_commerce_recommend_choose(const ngx_commerce_similarity_t *table,
    const ngx_commerce_recommend_query_t *query,
    ngx_commerce_recommend_answer_t *pool, uint32_t n,
    ngx_commerce_recommend_answer_t *answers)
{
    uint32_t  limit;

    limit = (query->limit < NGX_COMMERCE_RECOMMEND_LIMIT)
            ? query->limit : NGX_COMMERCE_RECOMMEND_LIMIT;

    if (query->diversity > 0 && table->vectors != NULL && n > 1) {
        ngx_commerce_recommend_mmr(table, query->diversity, pool, n, limit);
    }

    n = (n < limit) ? n : limit;
    memcpy(answers, pool, n * sizeof(ngx_commerce_recommend_answer_t));

    return n;
}


uint32_t
ngx_commerce_recommend_similar(const ngx_commerce_similarity_t *table,
    uint32_t item, const ngx_commerce_recommend_query_t *query,
    ngx_commerce_recommend_answer_t *answers)
{
    uint32_t                              i, n, wanted;
    const ngx_commerce_similarity_row_t  *row;
    ngx_commerce_recommend_answer_t       pool[NGX_COMMERCE_RECOMMEND_POOL];

    if (item >= table->items) {
        return 0;
    }

    row = &table->rows[item];

    if (row->count == 0) {
        row = ngx_commerce_similarity_cold(table, item);

        if (row == NULL) {
            return 0;
        }
    }

    wanted = ngx_commerce_recommend_pool(query->limit);
    n = 0;

    for (i = 0; i < row->count && n < wanted; i++) {

        if (row->item[i] == item
            || (query->excluded != NULL
                && query->excluded(query->ctx, row->item[i])))
        {
            continue;
        }

        pool[n].item = row->item[i];
        pool[n].score = (row->weight[0] != 0)
                        ? (float) row->weight[i] / row->weight[0] : 0;
        pool[n].neighbours = pool[n].score;
        pool[n].popularity = 0;
        n++;
    }

    return ngx_commerce_recommend_choose(table, query, pool, n, answers);
}


uint32_t
ngx_commerce_recommend_list(const ngx_commerce_similarity_t *table,
    ngx_commerce_list_kind_t kind, uint64_t category,
    const ngx_commerce_recommend_query_t *query,
    ngx_commerce_recommend_answer_t *answers)
{
    uint32_t                                i, k, n, count, limit;
    const ngx_commerce_similarity_entry_t  *entries;

    limit = (query->limit < NGX_COMMERCE_RECOMMEND_LIMIT)
            ? query->limit : NGX_COMMERCE_RECOMMEND_LIMIT;
    count = ngx_commerce_similarity_list(table, kind, category, &entries);
    n = 0;

    for (i = 0; i < count && n < limit; i++) {

        /* that a list names nothing twice is too dear to check of a whole table */

        for (k = 0; k < n && answers[k].item != entries[i].item; k++) {
            /* void */
        }

        if (k < n
            || (query->excluded != NULL
                && query->excluded(query->ctx, entries[i].item)))
        {
            continue;
        }

        answers[n].item = entries[i].item;
        answers[n].score = entries[i].score;
        answers[n].neighbours = 0;
        answers[n].popularity = entries[i].score;
        n++;
    }

    return n;
}


void
ngx_commerce_recommend_explain(const ngx_commerce_similarity_t *table,
    const ngx_commerce_recommend_query_t *query,
    const ngx_commerce_recommend_answer_t *answer,
    ngx_commerce_recommend_reason_t *reason)
{
    float                                 decay, weight, part, best, sum;
    float                                 content, total;
    uint32_t                              i, k;
    const ngx_commerce_similarity_row_t  *row;

    memset(reason, 0, sizeof(ngx_commerce_recommend_reason_t));
    reason->source = NGX_COMMERCE_SIMILARITY_NONE;

    decay = 1;
    best = 0;
    sum = 0;
    content = 0;

    for (i = 0; i < query->nevents; i++) {

        if (query->events[i].item >= table->items) {
            continue;
        }

        row = &table->rows[query->events[i].item];
        weight = ngx_commerce_recommend_weight(table, query, i, &decay)
                 * row->scale;

        for (k = 0; k < row->count && k < NGX_COMMERCE_SIMILARITY_NEIGHBOURS;
             k++)
        {
            if (row->item[k] != answer->item || weight <= 0) {
                continue;
            }

            part = weight * row->weight[k];
            sum += part;
            content += part
                       * table->shares[query->events[i].item].content[k] / 255;

            if (part > best) {
                best = part;
                reason->source = query->events[i].item;
                reason->event = query->events[i].event;
            }

            break;
        }
    }

    content = (sum > 0) ? content / sum : 0;
    total = answer->neighbours + answer->popularity;

    if (total > 0 && sum > 0) {
        reason->content = answer->neighbours / total * content;
        reason->collaborative = answer->neighbours / total * (1 - content);
    }

    reason->popularity = 1 - reason->content - reason->collaborative;
}
