/*
 * Interactions in memory: who did what with which product, and when.
 *
 * Users and products are numbered densely; products in the order of their
 * keys, as in the table.  A key is the number in the file, or a hash with its
 * highest bit set when the file has a name there.
 */

#ifndef TRAIN_DATA_H
#define TRAIN_DATA_H


#include "train.h"
#include "ngx_commerce_recommend.h"


#define TRAIN_NONE       UINT32_MAX
#define TRAIN_NAMED      (1ULL << 63)


typedef struct {
    uint32_t   user;
    uint32_t   item;
    uint32_t   event;                   /* ngx_commerce_event_t */
    int64_t    time;                    /* s; the line's number when the file's order is the time's */
} train_event_t;


/* Words about a product. */

typedef struct {
    uint64_t     key;
    const char  *text;
    const char  *category;
    const char  *brand;
    uint32_t     text_len;
    uint32_t     category_len;
    uint32_t     brand_len;
    uint64_t     category_id;           /* 0: none */
} train_text_t;


typedef struct train_embeddings_s  train_embeddings_t;

typedef struct {
    uint32_t         users;
    uint32_t         items;
    uint64_t         nevents;
    train_event_t   *events;
    uint64_t        *user_keys;         /* ascending */
    uint64_t        *item_keys;         /* ascending */
    bool             timed;             /* times are seconds since 1970 */
    bool             ordered;           /* the file's order is the time's */
    bool             named;             /* products have names, not numbers */
    int64_t          last;              /* time of the last event */
    train_text_t    *texts;             /* by item, NULL: no text at all */
    const train_embeddings_t  *embeddings;      /* of texts, NULL: none */
} train_data_t;


/* Events while they are read, from a file or the database. */

typedef struct train_reader_s  train_reader_t;

train_reader_t *train_reader(void);
void train_reader_event(train_reader_t *reader, uint64_t user, uint64_t item,
    uint32_t event, int64_t time);
void train_reader_text(train_reader_t *reader, const train_text_t *text);
void train_reader_finish(train_reader_t *reader, train_data_t *data);

/* The number of a key, or TRAIN_NONE. */

uint32_t train_find(const uint64_t *keys, uint32_t n, uint64_t key);

uint64_t train_key(const char *name, size_t len);


/* TSV: user, item, optionally time and event.  "order": the lines' order is the time's. */

void train_read_events(train_reader_t *reader, train_file_t *file, bool order);

/* TSV: item, text, optionally category and brand. */

void train_read_texts(train_reader_t *reader, train_file_t *file);


/*
 * What each user did, one entry a product (its strongest event, its last
 * time), newest first, the last "cap" of them.
 */

typedef struct {
    uint32_t                         users;
    uint32_t                         items;
    uint64_t                        *first;     /* of a user, users + 1 of them */
    ngx_commerce_recommend_event_t  *entry;
} train_history_t;

void train_history(const train_data_t *data, const train_event_t *events,
    uint64_t n, uint32_t cap, train_history_t *history);
void train_history_free(train_history_t *history);


/* Divides events into earlier ones and those to be predicted; both are newly allocated. */

typedef struct {
    train_event_t  *train;
    train_event_t  *test;
    uint64_t        ntrain;
    uint64_t        ntest;
} train_split_t;

void train_split(const train_data_t *data, double part, train_split_t *split);
void train_split_free(train_split_t *split);


#endif /* TRAIN_DATA_H */
