/* Interactions: reading, numbering, histories, splits.  See data.h. */

#include "data.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>


typedef struct {
    uint64_t        user;
    uint64_t        item;
    int64_t         time;
    uint32_t        event;
} train_raw_t;

struct train_reader_s {
    train_raw_t    *raw;
    uint64_t        n;
    uint64_t        room;
    train_text_t   *texts;
    uint64_t        ntexts;
    uint64_t        text_room;
    bool            untimed;
    bool            timed;
    bool            ordered;
};

/* keys → numbers, open addressing */

typedef struct {
    uint64_t       *key;
    uint32_t       *value;
    uint64_t        mask;
    uint32_t        n;
} train_map_t;


static void train_map_init(train_map_t *map);
static uint32_t train_map_add(train_map_t *map, uint64_t key);
static void train_map_grow(train_map_t *map);
static uint64_t *train_map_sort(train_map_t *map, uint32_t **order);
static const char *train_field(const char **p, const char *end, size_t *len);
static int64_t train_number(const char *s, size_t len, bool *good);
static int train_by_key(const void *a, const void *b);
static int train_by_item(const void *a, const void *b);
static int train_newest(const void *a, const void *b);
static int train_by_time(const void *a, const void *b);


train_reader_t *
train_reader(void)
{
    return train_zalloc(sizeof(train_reader_t));
}


void
train_reader_event(train_reader_t *reader, uint64_t user, uint64_t item,
    uint32_t event, int64_t time)
{
    train_raw_t  *raw;

    if (reader->n == reader->room) {
        reader->room = reader->room ? reader->room * 2 : 65536;
        reader->raw = train_realloc(reader->raw,
                                    reader->room * sizeof(train_raw_t));
    }

    raw = &reader->raw[reader->n++];
    raw->user = user;
    raw->item = item;
    raw->event = event;
    raw->time = time;

    reader->timed |= (time != 0);
    reader->untimed |= (time == 0);
}


void
train_reader_text(train_reader_t *reader, const train_text_t *text)
{
    if (reader->ntexts == reader->text_room) {
        reader->text_room = reader->text_room ? reader->text_room * 2 : 4096;
        reader->texts = train_realloc(reader->texts, reader->text_room
                                                     * sizeof(train_text_t));
    }

    reader->texts[reader->ntexts++] = *text;
}


void
train_reader_finish(train_reader_t *reader, train_data_t *data)
{
    uint32_t     *user_order, *item_order;
    uint64_t      i;
    train_map_t   users, items;

    memset(data, 0, sizeof(train_data_t));
    train_map_init(&users);
    train_map_init(&items);

    if (reader->timed && reader->untimed) {
        train_fail(TRAIN_INPUT, "some interactions have a time and some have "
                   "none: give all of them one, or none");
    }

    data->events = train_alloc(reader->n * sizeof(train_event_t));
    data->nevents = reader->n;
    data->ordered = reader->ordered;
    data->timed = reader->timed && !reader->ordered;

    for (i = 0; i < reader->n; i++) {
        data->events[i].user = train_map_add(&users, reader->raw[i].user);
        data->events[i].item = train_map_add(&items, reader->raw[i].item);
        data->events[i].event = reader->raw[i].event;
        data->events[i].time = reader->raw[i].time;

        if (data->events[i].time > data->last) {
            data->last = data->events[i].time;
        }
    }

    for (i = 0; i < reader->ntexts; i++) {
        (void) train_map_add(&items, reader->texts[i].key);
    }

    data->users = users.n;
    data->items = items.n;
    data->user_keys = train_map_sort(&users, &user_order);
    data->item_keys = train_map_sort(&items, &item_order);
    data->named = items.n != 0
                  && (data->item_keys[items.n - 1] & TRAIN_NAMED) != 0;

    for (i = 0; i < data->nevents; i++) {
        data->events[i].user = user_order[data->events[i].user];
        data->events[i].item = item_order[data->events[i].item];
    }

    if (reader->ntexts != 0) {
        data->texts = train_zalloc(data->items * sizeof(train_text_t));

        for (i = 0; i < reader->ntexts; i++) {
            data->texts[train_find(data->item_keys, data->items,
                                   reader->texts[i].key)]
                = reader->texts[i];
        }
    }

    free(user_order);
    free(item_order);
    free(reader->raw);
    free(reader->texts);
    free(reader);
}


static void
train_map_init(train_map_t *map)
{
    map->mask = (1 << 16) - 1;
    map->n = 0;
    map->key = train_alloc((map->mask + 1) * sizeof(uint64_t));
    map->value = train_alloc((map->mask + 1) * sizeof(uint32_t));
    memset(map->value, 0xff, (map->mask + 1) * sizeof(uint32_t));
}


static uint32_t
train_map_add(train_map_t *map, uint64_t key)
{
    uint64_t  i;

    for (i = train_mix(key) & map->mask; map->value[i] != TRAIN_NONE;
         i = (i + 1) & map->mask)
    {
        if (map->key[i] == key) {
            return map->value[i];
        }
    }

    map->key[i] = key;
    map->value[i] = map->n++;

    if (map->n * 2ULL > map->mask) {
        train_map_grow(map);
    }

    return map->n - 1;
}


static void
train_map_grow(train_map_t *map)
{
    uint64_t     i, k, mask;
    train_map_t  old = *map;

    mask = old.mask * 2 + 1;
    map->mask = mask;
    map->key = train_alloc((mask + 1) * sizeof(uint64_t));
    map->value = train_alloc((mask + 1) * sizeof(uint32_t));
    memset(map->value, 0xff, (mask + 1) * sizeof(uint32_t));

    for (i = 0; i <= old.mask; i++) {
        if (old.value[i] == TRAIN_NONE) {
            continue;
        }

        for (k = train_mix(old.key[i]) & mask; map->value[k] != TRAIN_NONE;
             k = (k + 1) & mask) { /* void */ }

        map->key[k] = old.key[i];
        map->value[k] = old.value[i];
    }

    free(old.key);
    free(old.value);
}


/* The keys in order, and for each number that was given the place of its key. Frees the map. */

static uint64_t *
train_map_sort(train_map_t *map, uint32_t **order)
{
    uint32_t   n;
    uint64_t   i, *keys;

    keys = train_alloc(map->n * sizeof(uint64_t));
    *order = train_alloc(map->n * sizeof(uint32_t));
    n = 0;

    for (i = 0; i <= map->mask; i++) {
        if (map->value[i] != TRAIN_NONE) {
            keys[n++] = map->key[i];
        }
    }

    qsort(keys, n, sizeof(uint64_t), train_by_key);

    for (i = 0; i <= map->mask; i++) {
        if (map->value[i] != TRAIN_NONE) {
            (*order)[map->value[i]] = train_find(keys, n, map->key[i]);
        }
    }

    free(map->key);
    free(map->value);

    return keys;
}


static int
train_by_key(const void *a, const void *b)
{
    uint64_t  x = *(const uint64_t *) a, y = *(const uint64_t *) b;

    return (x > y) - (x < y);
}


uint32_t
train_find(const uint64_t *keys, uint32_t n, uint64_t key)
{
    uint32_t  low, high, middle;

    low = 0;
    high = n;

    while (low < high) {
        middle = low + (high - low) / 2;

        if (keys[middle] < key) {
            low = middle + 1;

        } else {
            high = middle;
        }
    }

    return (low < n && keys[low] == key) ? low : TRAIN_NONE;
}


uint64_t
train_key(const char *name, size_t len)
{
    bool      good;
    size_t    i;
    uint64_t  hash;

    if (len <= 18 && (len == 1 || name[0] != '0')) {
        hash = train_number(name, len, &good);

        if (good && name[0] != '-') {
            return hash;
        }
    }

    hash = 0xcbf29ce484222325ULL;

    for (i = 0; i < len; i++) {
        hash = (hash ^ (uint8_t) name[i]) * 0x100000001b3ULL;
    }

    return train_mix(hash) | TRAIN_NAMED;
}


void
train_read_events(train_reader_t *reader, train_file_t *file, bool order)
{
    bool          good;
    size_t        user_len, item_len, len;
    int64_t       time;
    uint64_t      line;
    uint32_t      event;
    const char   *p, *end, *eol, *user, *item, *field;

    p = file->data;
    end = p + file->size;
    reader->ordered |= order;

    for (line = 1; p < end; line++, p = eol + 1) {
        eol = memchr(p, '\n', end - p);
        eol = (eol != NULL) ? eol : end;

        user = train_field(&p, eol, &user_len);
        item = train_field(&p, eol, &item_len);

        if (user == NULL || item == NULL || user_len == 0 || item_len == 0) {
            if (user != NULL && user_len == 0 && item == NULL) {
                continue;
            }

            train_fail(TRAIN_INPUT, "%s:%lu: a line is user<TAB>item"
                       "[<TAB>unix_time[<TAB>event]]", file->name,
                       (unsigned long) line);
        }

        time = 0;
        event = NGX_COMMERCE_EVENT_OTHER;
        field = train_field(&p, eol, &len);

        if (field != NULL && len != 0) {
            time = train_number(field, len, &good);

            if (!good || time <= 0) {
                train_fail(TRAIN_INPUT, "%s:%lu: \"%.*s\" is not a time in "
                           "seconds since 1970", file->name,
                           (unsigned long) line, (int) len, field);
            }
        }

        field = train_field(&p, eol, &len);

        if (field != NULL && len != 0) {
            event = ngx_commerce_event(field, len);

            if (event == NGX_COMMERCE_EVENTS) {
                train_fail(TRAIN_INPUT, "%s:%lu: unknown event \"%.*s\": use "
                           "view, click, wishlist, share, cart, purchase, "
                           "dismiss or other", file->name,
                           (unsigned long) line, (int) len, field);
            }
        }

        train_reader_event(reader, train_key(user, user_len),
                           train_key(item, item_len), event,
                           order ? (int64_t) line : time);
    }
}


void
train_read_texts(train_reader_t *reader, train_file_t *file)
{
    size_t         len;
    uint64_t       line;
    const char    *p, *end, *eol, *item, *field;
    train_text_t   text;

    p = file->data;
    end = p + file->size;

    for (line = 1; p < end; line++, p = eol + 1) {
        eol = memchr(p, '\n', end - p);
        eol = (eol != NULL) ? eol : end;

        item = train_field(&p, eol, &len);

        if (item != NULL && len == 0 && p >= eol) {
            continue;
        }

        if (item == NULL || len == 0) {
            train_fail(TRAIN_INPUT, "%s:%lu: a line is item<TAB>text"
                       "[<TAB>category[<TAB>brand]]", file->name,
                       (unsigned long) line);
        }

        memset(&text, 0, sizeof(train_text_t));
        text.key = train_key(item, len);

        field = train_field(&p, eol, &len);

        if (field == NULL) {
            train_fail(TRAIN_INPUT, "%s:%lu: there is no text behind the item "
                       "(a TAB between them)", file->name,
                       (unsigned long) line);
        }

        text.text = field;
        text.text_len = len;
        text.category = train_field(&p, eol, &len);
        text.category_len = (text.category != NULL) ? len : 0;
        text.brand = train_field(&p, eol, &len);
        text.brand_len = (text.brand != NULL) ? len : 0;

        if (text.category_len != 0) {
            text.category_id = train_key(text.category, text.category_len);
        }

        train_reader_text(reader, &text);
    }
}


/* The next field of the line, without a carriage return; NULL: none is left. */

static const char *
train_field(const char **p, const char *end, size_t *len)
{
    const char  *field, *tab;

    *len = 0;

    if (*p > end) {
        return NULL;
    }

    field = *p;
    tab = memchr(field, '\t', end - field);

    if (tab == NULL) {
        tab = end;
    }

    *len = tab - field;
    *p = tab + 1;

    if (tab == end && *len != 0 && field[*len - 1] == '\r') {
        (*len)--;
    }

    return field;
}


static int64_t
train_number(const char *s, size_t len, bool *good)
{
    size_t   i;
    int64_t  n;

    n = 0;
    *good = (len != 0 && len <= 18);

    for (i = 0; i < len && *good; i++) {

        if (s[i] < '0' || s[i] > '9') {
            *good = false;
            break;
        }

        n = n * 10 + (s[i] - '0');
    }

    return n;
}


/* What may be said of one product by several events: the strongest of them. */

static const uint8_t  train_rank[NGX_COMMERCE_EVENTS] = {
    [NGX_COMMERCE_EVENT_VIEW] = 1,
    [NGX_COMMERCE_EVENT_CLICK] = 2,
    [NGX_COMMERCE_EVENT_OTHER] = 3,
    [NGX_COMMERCE_EVENT_SHARE] = 4,
    [NGX_COMMERCE_EVENT_WISHLIST] = 5,
    [NGX_COMMERCE_EVENT_CART] = 6,
    [NGX_COMMERCE_EVENT_PURCHASE] = 7,
    [NGX_COMMERCE_EVENT_DISMISS] = 8
};

void
train_history(const train_data_t *data, const train_event_t *events, uint64_t n,
    uint32_t cap, train_history_t *history)
{
    uint32_t                         u;
    uint64_t                         i, k, out, count, *next;
    ngx_commerce_recommend_event_t  *entry, *own;

    history->users = data->users;
    history->items = data->items;
    history->first = train_zalloc((data->users + 2) * sizeof(uint64_t));
    history->entry = train_alloc(n * sizeof(ngx_commerce_recommend_event_t));

    entry = history->entry;
    next = history->first + 1;

    for (i = 0; i < n; i++) {
        next[events[i].user + 1]++;
    }

    for (u = 0; u < data->users; u++) {
        next[u + 1] += next[u];
    }

    for (i = 0; i < n; i++) {
        k = next[events[i].user]++;
        entry[k].item = events[i].item;
        entry[k].event = events[i].event;
        entry[k].time = events[i].time;
    }

    /* now first[u] is where u begins; keep one entry a product, then the newest */

    out = 0;
    k = 0;

    for (u = 0; u < data->users; u++) {
        own = &entry[k];
        count = history->first[u + 1] - k;
        k = history->first[u + 1];
        history->first[u] = out;

        qsort(own, count, sizeof(*own), train_by_item);

        for (i = 0, n = 0; i < count; i++) {

            if (n != 0 && own[n - 1].item == own[i].item) {
                own[n - 1].time = own[i].time;

                if (train_rank[own[i].event] > train_rank[own[n - 1].event]) {
                    own[n - 1].event = own[i].event;
                }

                continue;
            }

            own[n++] = own[i];
        }

        qsort(own, n, sizeof(*own), train_newest);
        n = (n < cap) ? n : cap;
        memmove(&entry[out], own, n * sizeof(*own));
        out += n;
    }

    history->first[data->users] = out;

    /* seconds → ms; without times an entry has none */

    for (i = 0; i < out; i++) {
        entry[i].time = data->timed ? entry[i].time * 1000 : 0;
    }
}


void
train_history_free(train_history_t *history)
{
    free(history->first);
    free(history->entry);
}


static int
train_by_item(const void *a, const void *b)
{
    const ngx_commerce_recommend_event_t  *x = a, *y = b;

    if (x->item != y->item) {
        return (x->item > y->item) - (x->item < y->item);
    }

    return (x->time > y->time) - (x->time < y->time);
}


static int
train_newest(const void *a, const void *b)
{
    const ngx_commerce_recommend_event_t  *x = a, *y = b;

    if (x->time != y->time) {
        return (x->time < y->time) - (x->time > y->time);
    }

    return (x->item > y->item) - (x->item < y->item);
}


/*
 * With times the last "part" of the events is held back, with an order the
 * last of each user's, else a part of each user's products chosen by hash.
 */

void
train_split(const train_data_t *data, double part, train_split_t *split)
{
    bool       test;
    int64_t    cut, *times, *last;
    uint64_t   i, own;

    split->train = train_alloc(data->nevents * sizeof(train_event_t));
    split->test = train_alloc(data->nevents * sizeof(train_event_t));
    split->ntrain = 0;
    split->ntest = 0;

    cut = INT64_MAX;
    last = NULL;

    if (data->timed) {
        times = train_alloc(data->nevents * sizeof(int64_t));

        for (i = 0; i < data->nevents; i++) {
            times[i] = data->events[i].time;
        }

        qsort(times, data->nevents, sizeof(int64_t), train_by_time);
        cut = times[(uint64_t) ((data->nevents - 1) * (1 - part))];
        free(times);

    } else if (data->ordered) {
        last = train_zalloc(data->users * sizeof(int64_t));

        for (i = 0; i < data->nevents; i++) {
            last[data->events[i].user] = data->events[i].time;
        }
    }

    for (i = 0; i < data->nevents; i++) {
        own = train_mix(((uint64_t) data->events[i].user << 32)
                        | data->events[i].item);

        if (data->timed) {
            test = data->events[i].time > cut;

        } else if (data->ordered) {
            test = data->events[i].time == last[data->events[i].user];

        } else {
            test = (own >> 11) * 0x1p-53 < part;
        }

        if (test) {
            split->test[split->ntest++] = data->events[i];

        } else {
            split->train[split->ntrain++] = data->events[i];
        }
    }

    free(last);
}


void
train_split_free(train_split_t *split)
{
    free(split->train);
    free(split->test);
}


static int
train_by_time(const void *a, const void *b)
{
    int64_t  x = *(const int64_t *) a, y = *(const int64_t *) b;

    return (x > y) - (x < y);
}
