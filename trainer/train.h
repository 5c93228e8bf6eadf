/* What all parts of commerce-train share: failing, memory, work on several cores, progress. */

#ifndef TRAIN_H
#define TRAIN_H


#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>


/* Exit codes, documented in --help. */

typedef enum {
    TRAIN_OK = 0,
    TRAIN_FAILED,                       /* a file, the database, memory */
    TRAIN_USAGE,
    TRAIN_INPUT,                        /* data that cannot be used */
    TRAIN_REFUSED                       /* the publish gate */
} train_code_t;


/* Says what is wrong and how to cure it, and ends the program. */

void train_fail(train_code_t code, const char *fmt, ...)
    __attribute__((noreturn, format(printf, 2, 3)));

/* A line for the person at the terminal; nothing with --quiet. */

void train_say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));


/* Memory or the end of the program. */

void *train_alloc(size_t size);
void *train_zalloc(size_t size);
void *train_realloc(void *p, size_t size);


/*
 * Calls work(ctx, worker, first, last) until all of [0, n) is done, "chunk"
 * at a time.  What is computed for one index must not depend on the others:
 * then the result does not depend on the number of threads.
 */

typedef void (*train_work_pt)(void *ctx, unsigned worker, uint64_t first,
    uint64_t last);

void train_parallel(const char *what, uint64_t n, uint64_t chunk,
    train_work_pt work, void *ctx);

extern unsigned  train_threads;
extern bool      train_quiet;

double train_seconds(void);             /* since the program began */


/* SplitMix64, for what has to look random and be the same each time. */

static inline uint64_t
train_mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15ULL;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;

    return x ^ (x >> 31);
}


/* A file in memory; "-" is not one. */

typedef struct {
    const char  *name;
    const char  *data;
    size_t       size;
} train_file_t;

void train_file_open(train_file_t *file, const char *name);
void train_file_close(train_file_t *file);

/* Writes beside the file, then fsync, rename, fsync of the folder. */

void train_file_replace(const char *name, const void *data, size_t size);


#endif /* TRAIN_H */
